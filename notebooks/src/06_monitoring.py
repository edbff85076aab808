# %% [markdown]
# # 06 · Monitoring
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/dpo-tutorial/dpo-tutorial/blob/main/notebooks/06_monitoring.ipynb)
#
# You will read a DPO run's log without guessing, have a set-up checked before its first
# step and a log diagnosed after its last, and settle with measurements why chosen
# log-probabilities fall while the margin grows.
#
# **You will**
#
# - recompute the metrics of a real run by hand, and know what their names hide;
# - check a set-up before training, and see planted faults found;
# - watch a run live, with our trainer and with TRL's;
# - have histories diagnosed, and measure how far to trust the diagnosis;
# - follow the probability of chosen responses, in a world small enough to list and in a
#   language model;
# - measure what holds it, what that costs, and which cure only mends the metric.
#
# **You need** [04 · DPO from scratch](04_dpo_from_scratch.ipynb);
# [05 · DPO with TRL](05_dpo_with_trl.ipynb) helps. Measured on two CPU cores with
# `nano`: about three minutes of CPU time and 0.9 GB of memory in the largest process;
# less when the runs are already under `build/`. Allow ninety minutes for reading.
#
# Back: [05 · DPO with TRL](05_dpo_with_trl.ipynb) · Next: [07 · Beta](07_beta.ipynb)

# %%
# In Colab this installs the course and leaves torch as it is; elsewhere, nothing.
import subprocess
import sys
from importlib.metadata import version

if "google.colab" in sys.modules:
    course = "dpo-tutorial @ git+https://github.com/dpo-tutorial/dpo-tutorial@v0.1.0"
    pip = [sys.executable, "-m", "pip", "install", "-q"]
    subprocess.check_call([*pip, course, "torch==" + version("torch")])

# %% [markdown]
# ## A run to look at
#
# Twelve steps are enough to have something to read. `MetricsRecorder` takes the rows
# that a trainer logs; with `live=True` it also redraws one figure while the run goes
# on. Our trainer calls it through `on_log`.

# %%
import copy

from dpo_tutorial.models import seed_everything, step_plan
from dpo_tutorial.reviews import load_sft_model, preference_pairs

seed_everything(0)
reference, tokenizer = load_sft_model()
plan = step_plan(reference) | {"steps": 12}
plan["batch_size"] = min(16, plan["batch_size"])
pairs = preference_pairs(plan["steps"] * plan["batch_size"], seed=1)
held_out = preference_pairs(32, seed=99, split="held_out")

# %%
from dpo_tutorial.monitoring import MetricsRecorder
from dpo_tutorial.plotting import use_style
from dpo_tutorial.training import TinyDPOTrainer

use_style()
policy = copy.deepcopy(reference)
watch = {"eval_rows": held_out, "eval_every": 4, "on_log": MetricsRecorder(live=True)}
trainer = TinyDPOTrainer(policy, tokenizer, pairs, **watch, **plan)
history = trainer.train()

# %% [markdown]
# *Figure: five panels over twelve steps of training, drawn again every few steps: the
# loss with a dotted line at ln 2, the margin, the rewards of chosen and rejected
# responses, the accuracy with a dotted line at one half, and the log-probabilities of
# both sides. Dots are the same on held-out pairs.*
#
# The lines jump, since each point is another batch; the dots, always the same pairs,
# are steadier. A title gives the mean over the last fifth of the line. What exactly
# does each name mean?
#
# ## Every metric by hand
#
# All of them come from four numbers a pair: the log-probabilities of its two responses
# under policy and reference. Compute these on the held-out pairs, and from them the
# metrics; then ask the trainer for its own.

# %%
import pandas as pd
import torch
import torch.nn.functional as F

from dpo_tutorial.data import collate, tokenize_pair
from dpo_tutorial.losses import compute_log_probs

rows = [tokenize_pair(pair, tokenizer) for pair in held_out]
batch = collate(rows, tokenizer.pad_token_id)
with torch.no_grad():
    now, then = (compute_log_probs(m, **batch).cpu() for m in (policy, reference))

# %%
chosen, rejected = (trainer.beta * (now - then)).chunk(2)  # rewards, (32,) each
by_hand = {"loss": -F.logsigmoid(chosen - rejected), "rewards/chosen": chosen}
by_hand |= {"rewards/rejected": rejected, "rewards/margins": chosen - rejected}
by_hand |= {"rewards/accuracies": (chosen > rejected).float(), "logps/chosen": now[:32]}
means = {name: value.mean().item() for name, value in by_hand.items()}
metrics = pd.DataFrame({"logged": trainer.evaluate(), "by hand": means}).dropna()
assert (metrics["logged"] - metrics["by hand"]).abs().max() < 1e-3
metrics.round(4)

# %% [markdown]
# Read them with this in mind:
#
# - **`loss`** starts at ln 2 whatever beta is. It is no measure of quality: wider
#   margins with the same ranking lower it.
# - **`rewards/*`** carry beta. A reward of −0.3 at beta 0.1 is 3 nats of
#   log-probability; the same policy would show −3 at beta 1. Divide by beta before you
#   compare runs of different betas.
# - **`rewards/margins`** is the chosen reward minus the rejected one; the loss sees this
#   difference and nothing else.
# - **`rewards/accuracies`** is the share of pairs with a margin above zero. A tie is no
#   win, so that it starts near 0, not near one half.
# - **`logps/*`** are *sums* over a response, averaged over the batch. TRL's page calls
#   them averages; longer responses have lower ones. Compare them with themselves over
#   time, not chosen with rejected.
#
# Two names need a second look. `grad_norm` is the gradient's length *before* clipping,
# in both trainers: a value above `max_grad_norm` says that it was shortened. And
# an accuracy is a share of a small number. *Predict* what it looks like with one pair a
# batch. Beside it stands how far chance alone moves an accuracy of one half: the 95 %
# half-width $1.96\sqrt{0.25/n}$ for $n$ pairs.

# %%
norms = [row["grad_norm"] for row in history if "grad_norm" in row]
clipped = sum(norm > trainer.max_grad_norm for norm in norms)
print(
    f"grad_norm from {min(norms):.2g} to {max(norms):.2g}; clipped in {clipped} steps"
)
print("accuracy, one pair a batch:", by_hand["rewards/accuracies"].unique().tolist())
for n in (8, 32, 256, 1024):
    print(f"{n:5d} pairs: 50 % ± {100 * 1.96 * (0.25 / n) ** 0.5:.0f} points")

# %% [markdown]
# With one pair a batch the metric is 0 or 1 and a curve of it is noise
# ([trl#2371](https://github.com/huggingface/trl/issues/2371)). Nothing is wrong with
# such a run; average over steps, or look at held-out pairs, several hundred of them.
#
# ## Before the first step
#
# Most faults are there before training starts, and cost a run to notice. `preflight`
# looks at models, tokenizer, rows and a batch *as the trainer would get it*, changes
# nothing, and takes seconds. On our set-up:

# %%
from dpo_tutorial.monitoring import preflight

frozen = copy.deepcopy(reference).requires_grad_(False)
sound = {"model": reference, "reference": frozen, "tokenizer": tokenizer}
sound |= {"rows": pairs, "eval_rows": held_out}
preflight(**sound)

# %% [markdown]
# A warning asks you to look, an error to stop. The one about leakage is a fair catch:
# no prompt is on both sides, but in this small grammar some differ by a word. Now plant
# faults, one at a time: the EOS taken out of the labels; the prompt scored; the padding
# scored; two training rows as held-out ones; a reference that is another model; dropout
# on.

# %%
rows = [tokenize_pair(pair, tokenizer) for pair in pairs[:8]]
given = collate(rows, tokenizer.pad_token_id)
ids, labels, real = given["input_ids"], given["labels"], given["attention_mask"] == 1
no_eos = labels.masked_fill(ids == tokenizer.eos_token_id, -100)
wrong = {"eos": no_eos, "scored": ids.where(real, -100)}
wrong["pads"] = labels.where(real, ids)
faults = {check: {"batch": {**given, "labels": bad}} for check, bad in wrong.items()}
faults |= {"leakage": {"eval_rows": pairs[:2]}, "first loss": {"reference": policy}}
if reference.config.model_type == "gpt2":  # Llamas have no dropout
    faults["dropout"] = {"model": copy.deepcopy(reference).train()}

# %%
found = {}
for check, change in faults.items():
    report = preflight(**{**sound, **change})
    found[check] = {"first loss": report.find("first loss").severity}
    found[check] |= report.find(check)._asdict()
pd.set_option("display.max_colwidth", None)
found = pd.DataFrame(found).T.drop(columns="check")
assert (found["severity"] == "error").all()
found

# %% [markdown]
# Each is found by the check that names it, with what was seen and what to do. (“See
# below” means the lines that follow in the full report.) The column of the first loss
# says why one check is not enough: four of these leave it at ln 2 and would have
# trained to the end without a word.
#
# ## The same in TRL
#
# `MetricsRecorder` is also a callback of transformers' trainers. Set `logging_steps=1`,
# or the first row is a mean over ten steps. Half of the settings below are our own
# run's, the others keep TRL quiet and quick (notebook 05). The filter hides one warning
# about an old name that TRL still asks for; others stay.

# %%
import warnings

warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
options = {k: plan[k] for k in ("learning_rate", "adam_epsilon")}
options |= {"per_device_train_batch_size": plan["batch_size"], "warmup_steps": 0.1}
options |= {"max_steps": plan["steps"], "logging_steps": 1, "eval_steps": 4}
options |= {"eval_strategy": "steps", "save_strategy": "no", "report_to": "none"}
options |= {"use_cpu": reference.device.type == "cpu", "disable_tqdm": True}
options |= {"bf16": False, "gradient_checkpointing": None}

# %%
import tempfile

from datasets import Dataset
from transformers import PrinterCallback
from trl import DPOConfig, DPOTrainer

config = DPOConfig(tempfile.mkdtemp(), **options)
frames = [pd.DataFrame(rows).drop(columns="metadata") for rows in (pairs, held_out)]
data = [Dataset.from_pandas(frame) for frame in frames]  # to train on, to evaluate on
parts = {"args": config, "train_dataset": data[0], "eval_dataset": data[1]}
theirs = DPOTrainer(copy.deepcopy(reference), **parts, processing_class=tokenizer)

# %% [markdown]
# Preflight takes a batch from TRL's own data loader as it is, so that what is checked
# is TRL's tokenisation, its mask and its reference: we gave none, and TRL loaded the
# model's path again. `problems` leaves out what is in order.

# %%
trl_batch = next(iter(theirs.get_train_dataloader()))
report = preflight(theirs.model, theirs.ref_model, tokenizer, pairs, batch=trl_batch)
assert not any(finding.severity == "error" for finding in report)
report.problems

# %%
recorder = MetricsRecorder(live=True)
theirs.add_callback(recorder)
theirs.remove_callback(PrinterCallback)  # it would print each row
result = theirs.train()
names = [{n for row in log for n in row} for log in (history, recorder.history)]
assert names[0] <= names[1]
print("TRL's own:", *sorted(n for n in names[1] - names[0] if "eval" not in n))

# %% [markdown]
# *Figure: the same five panels from TRL's log, in which each step is again another
# batch. Notebook 05 shows both trainers agreeing step by step once order and schedule
# are the same.*
#
# Preflight found nothing: TRL adds EOS, masks the prompt and sets dropout to zero. And
# all of our names are TRL's. Of its own, `entropy` is the policy's uncertainty a token,
# in nats; `logits/*` are raw scores, averaged over the vocabulary, and say little;
# `mean_token_accuracy` is how often the likeliest token was the chosen response's.
# Given `path="run.jsonl"`, the recorder also writes each row when it comes, so that an
# interrupt costs none.
#
# ## What a log can tell
#
# `diagnose_training_issues` reads a history, ours or TRL's, and names what is wrong,
# with its evidence, a confidence and what to try. It knows eight causes:
#
# - *wrong reference*: at step 1 the rewards are not 0, and the loss is off ln 2;
# - *not learning*: loss and margin stay where they began;
# - *overfitting*: nearly all training pairs are ranked rightly, far fewer held-out ones;
# - *both rewards drifting*: they move the same way, by much more than their margin;
# - *displacement*: chosen log-probs fall far, while the margin grows;
# - *diverging*: the loss climbs above its start, or is no number;
# - *too early a divergence*: training loss falls and held-out loss climbs, long before
#   the training pairs are learnt by heart;
# - *reward scale exploding*: rewards, or margins, too large for any usual beta.
#
# `data/histories.json.gz` holds logs of `nano`, each with one of these planted in a
# random strength, and healthy ones; `benchmarks/diagnosis.py` made them. First our own
# two short runs, then one log of each of three kinds, read blind.

# %%
import gzip
import json

from dpo_tutorial import data_path
from dpo_tutorial.monitoring import diagnose_training_issues

stored = json.loads(gzip.decompress(data_path("histories.json.gz").read_bytes()))
for log in (history, recorder.history):
    print(diagnose_training_issues(log))

# %%
examples = {}
for run in (run for run in stored if run["split"] == "test"):
    found = diagnose_training_issues(run["history"])
    if run["cause"] in ("wrong reference", "overfitting", "displacement"):
        examples.setdefault(run["cause"], found[0]._asdict() if found else {})
pd.DataFrame(examples).T

# %% [markdown]
# The index is what was planted, `cause` what was named. Three examples prove nothing,
# so measure it on all runs. The thresholds were set on those of the calibration split,
# and the test split has other seeds. What counts is the first issue named; for a
# healthy run, that none is. Before you look: which causes will be mixed up?

# %%
from scipy.stats import binomtest

guesses = pd.DataFrame(stored)[["split", "cause", "history"]]
found = guesses.pop("history").map(diagnose_training_issues)
guesses["named"] = [issues[0].cause if issues else "healthy" for issues in found]
guesses["right"] = guesses["cause"] == guesses["named"]


def share(hits):  # with its 95 % Wilson interval
    low, high = binomtest(int(hits.sum()), len(hits)).proportion_ci(method="wilson")
    return f"{hits.sum()} of {len(hits)}, {hits.mean():.0%} [{low:.0%}, {high:.0%}]"


# %%
for split, rows in guesses.groupby("split"):
    ill = rows["cause"] != "healthy"
    print(f"{split}: right cause {share(rows['right'][ill])}", end="; ")
    print(f"false alarms {share(~rows['right'][~ill])}")
    assert rows["right"][ill].mean() >= 0.85
    assert rows["right"][~ill].mean() >= 0.9

# %%
import matplotlib.pyplot as plt

rows = guesses[guesses["split"] == "test"]
counts = pd.crosstab(rows["cause"], rows["named"])
counts = counts.reindex(columns=counts.index, fill_value=0)
figure, axis = plt.subplots(figsize=(6.5, 4.5))
axis.imshow(counts.div(counts.sum(axis=1), axis=0), cmap="Blues", vmax=1.5)
for i, j in zip(*counts.to_numpy().nonzero(), strict=True):
    axis.text(j, i, counts.iloc[i, j], ha="center", va="center")
axis.set_xticks(range(counts.shape[1]), counts.columns, rotation=35, ha="right")
axis.set_yticks(range(len(counts)), counts.index)
axis.set(xlabel="named", ylabel="planted")
axis.set_title(f"{rows['right'].sum()} of {len(rows)} test runs are named as planted")
axis.grid(False)
plt.show()

# %% [markdown]
# *Figure: a confusion matrix of the test runs, planted causes down, named causes
# across, “healthy” among them, each cell with its count and the darker the larger its
# share of the row. Most of the count lies on the diagonal.*
#
# An error stands off the diagonal. Drifting rewards and displacement are the likeliest
# to be mixed up, since both lower the chosen responses. With so few runs a cause, read
# the sum and not a single row.
#
# Know the limits of such a reading. The thresholds come from runs of one small model
# and one kind of data, thirty steps each; a larger model or a longer run has other
# noise. One cause was planted at a time, in strengths that we drew. “Not learning” is
# one name for a rate too low, for frozen weights and for labels by the coin. A log
# holds no text, and so cannot tell a policy that got better from one that found a
# loophole. And the diagnosis names displacement without knowing whether it does harm,
# which is the question of the rest of this notebook.
#
# ## Why do chosen log-probs fall while the margin grows?
#
# It is the question most often asked about DPO, of its authors
# ([#8](https://github.com/eric-mitchell/direct-preference-optimization/issues/8),
# [#32](https://github.com/eric-mitchell/direct-preference-optimization/issues/32),
# [#36](https://github.com/eric-mitchell/direct-preference-optimization/issues/36)) and
# of every trainer since. Their answer: only the margin enters the loss, and a model
# fitted to the chosen responses by SFT already gives them about as much as it can, so
# that anything else gives them less. True, and half of the story: *where does the
# probability go*? If to better responses, nothing is wrong. If to worse ones, the run
# undoes what its labels say.
#
# ### In a world small enough to list
#
# In the manner of notebook 02: one prompt, “The soup was”, seven responses, all rewards
# known. Start with the best case: all pairs compared, exact preferences, a policy that
# can take any shape. Then DPO ends at RLHF's optimum $\pi^*$, and the change of each
# response is known:
#
# $$\log\frac{\pi^*(y)}{\pi_\mathrm{ref}(y)} = \frac{r(y) - \beta\log Z}{\beta}$$
#
# Below, `wins` is a response's chance to win against one that the reference draws.
# *Predict:* which of the seven fall?

# %%
responses = ["lovely.", "good.", "fine.", "not bad.", "not good.", "bad.", "awful."]
exact, BETA = {"dtype": torch.float64}, 0.5
r = torch.tensor([1.0, 0.7, 0.3, 0.2, -0.4, -0.7, -1.0], **exact)
log_ref = torch.tensor([12, 20, 20, 12, 10, 16, 10], **exact).div(100).log()  # (7,)
log_z = (log_ref + r / BETA).logsumexp(-1)
log_star = log_ref + r / BETA - log_z  # the optimum

# %%
change = log_star - log_ref
assert torch.equal(change > 0, r > BETA * log_z)
print(f"the bar, β log Z: {BETA * log_z:.2f}; expected reward: ", end="")
print(
    f"{log_ref.exp() @ r:.2f} at the reference, {log_star.exp() @ r:.2f} at the optimum"
)
wins = (r[:, None] - r).sigmoid() @ log_ref.exp()
assert ((wins > 0.5) & (change < 0)).tolist() == [n in (2, 3) for n in range(7)]
world = {"reward": r, "wins": wins}
world |= {"reference": log_ref.exp(), "optimum": log_star.exp()}
pd.DataFrame(world | {"change, nats": change}, responses).round(2)

# %% [markdown]
# A response rises if its reward clears the bar $\beta\log Z$ and falls if not, *chosen
# or rejected*. “fine.” and “not bad.” win more comparisons than they lose and fall all
# the same, since the optimum has something better to say. That is how the mean chosen
# log-prob fell at the end of notebook 02, at a perfect fit. It need not fall: on pairs
# whose winner clears the bar, the same policy has raised every chosen response.
#
# Now real life: *one* pair, “not bad.” over “not good.”, a sound label. In a table each
# response has a logit of its own. The two move by $+\delta$ and $-\delta$, the chosen
# one's log-probability by $\delta\,(1 - \pi_w + \pi_l) > 0$ to first order: with one
# pair, a table never lowers it. A network shares features between responses. Give each
# response two: the sentiment of its adjective, halved after “not”, and whether “not”
# occurs.
#
# *Predict* who gains most when the pair is learnt.

# %%
sentiment = [1.5, 1.0, 0.4, -0.5, 0.5, -1.0, -1.5]  # “not bad.” is still about bad
shared = torch.tensor([sentiment, [0, 0, 0, 1, 1, 0, 0]], **exact).T  # (7, 2)
W, L = responses.index("not bad."), responses.index("not good.")


# %%
def descend(features, steps=80, rate=0.5):
    theta, path = torch.zeros(features.shape[1], requires_grad=True, **exact), []
    for _ in range(steps):
        log_pi = (log_ref + features @ theta).log_softmax(-1)
        path.append(log_pi.detach().exp())
        ratio = log_pi - log_ref
        loss = -F.logsigmoid(BETA * (ratio[W] - ratio[L]))
        (gradient,) = torch.autograd.grad(loss, theta)
        theta = (theta - rate * gradient).detach().requires_grad_()
    return torch.stack(path)  # (steps, 7)


# %%
paths = {"A table": descend(torch.eye(7, **exact)), "Shared features": descend(shared)}
for name, path in paths.items():
    gap = (path[:, W] / path[:, L]).log()
    print(f"{name}: log-ratio gap 0 -> {gap[-1] - gap[0]:.1f} nats", end=", ")
    print(f"expected reward {path[0] @ r:.2f} -> {path[-1] @ r:.2f}")
    assert (gap.diff() > 0).all()
assert paths["A table"][-1, W] > 0.5
end = paths["Shared features"][-1]
assert end[W] < 0.05 < 0.9 < end[5:].sum()

# %%
from dpo_tutorial.plotting import COLORS

groups = {"not bad. (chosen)": [W], "not good. (rejected)": [L]}
groups |= {"bad., awful.": [5, 6], "lovely., good.": [0, 1]}
looks = ("chosen", "-"), ("rejected", "--"), ("policy", "-."), ("gold", ":")
figure, axes = plt.subplots(1, 2, sharey=True)
for axis, (name, path) in zip(axes, paths.items(), strict=True):
    axis.set(title=name, xlabel="gradient step")
    for (label, rows), (role, style) in zip(groups.items(), looks, strict=True):
        axis.plot(path[:, rows].sum(1), style, color=COLORS[role], label=label)
axes[0].set_ylabel("probability")
axes[0].legend()
figure.suptitle("One sound label; with shared features the opposite wins")
plt.show()

# %% [markdown]
# *Figure: probabilities over gradient steps. In the table the chosen response climbs
# towards one. With shared features it rises briefly, then falls below its start, and
# “bad.” and “awful.” together take nearly everything; “lovely.” and “good.” vanish.*
#
# Winner and loser differ in one thing, away from good and towards bad, since “not” is
# common to both. That direction is what is learnt, and “awful.” lies furthest along it.
# In both runs the gap grew at every step, so that the loss fell. This is **likelihood
# displacement** with an opposite meaning as its heir ([arXiv
# 2410.08847](https://arxiv.org/abs/2410.08847), whose example is “No” preferred to
# “Never” and a rising “Yes”). The paper traces it to pairs whose two sides look alike
# to the model.
#
# ### On a language model, over seeds
#
# Now `nano`. To compare cures afterwards, the run takes beta and the weights of two
# additions to the loss:
#
# - **an SFT term** adds $-\alpha \log\pi(y_w)$. TRL has it, averaged over tokens, as
#   `loss_type=["sigmoid", "sft"]` with `loss_weights`; so does RPO
#   ([arXiv 2404.19733](https://arxiv.org/abs/2404.19733)).
# - **DPOP** ([arXiv 2402.13228](https://arxiv.org/abs/2402.13228)) takes
#   $\lambda \max(0, \log\pi_\mathrm{ref}(y_w) - \log\pi(y_w))$ off the gap inside the
#   sigmoid: nothing while the chosen response is above its start, a brake below it.
#
# By hand, for a pair whose chosen response has fallen by 1 nat and whose rejected one
# by 3: what pull does each loss put on the two log-probabilities?

# %%
from dpo_tutorial.losses import dpo_loss


def cured(chosen, rejected, *ref, beta=0.1, sft=0.0, dpop=0.0):
    _, won, lost = dpo_loss(chosen, rejected, *ref, beta)
    gap = (chosen - ref[0]) - (rejected - ref[1]) - dpop * (ref[0] - chosen).relu()
    return -F.logsigmoid(beta * gap) - sft * chosen, won, lost


# %%
cures = {"DPO": {}, "DPO + SFT": {"sft": 0.05}, "DPOP": {"dpop": 5.0}}
rho = torch.tensor([-1.0, -3.0], requires_grad=True)  # of chosen, of rejected
for name, cure in cures.items():
    (pull,) = torch.autograd.grad(-cured(*rho, *torch.zeros(2), **cure)[0], rho)
    print(f"{name:10} pulls chosen {pull[0]:+.3f}, rejected {pull[1]:+.3f}")

# %% [markdown]
# DPO pulls up and down alike, and a network turns that into whatever suits its shared
# weights. Both additions pull the chosen side harder; DPOP by $1 + \lambda$, but only
# once it has fallen.
#
# In the run, `watched` are responses whose log-probabilities we want before and after;
# for each prompt in `asked`, `measure` samples a review and gives its gold reward, its
# length and its share of the KL. `run_all` runs a list of jobs on all cores and keeps
# what they return under `build/`. Adam's floor and the clipping go with beta, which
# multiplies the gradient, so that a higher beta changes the goal and not the step
# (notebook 07).

# %%
from functools import partial

from dpo_tutorial.data import pad_rows
from dpo_tutorial.evaluation import mean_interval
from dpo_tutorial.experiments import measure, run_all
from dpo_tutorial.models import load_model
from dpo_tutorial.reviews import gold_reward, prompts


# %%
def displacement_run(pairs, watched, asked, beta=0.1, sft=0.0, dpop=0.0, **settings):
    nano, tok = load_model("nano")
    settings |= {"adam_epsilon": 0.01 * beta, "max_grad_norm": 10 * beta, "beta": beta}
    settings["loss"] = partial(cured, beta=beta, sft=sft, dpop=dpop)
    trainer = TinyDPOTrainer(copy.deepcopy(nano), tok, pairs, **settings)
    trainer.train()
    rows = [[tok(text)["input_ids"] for text in row] for row in watched]
    batch = pad_rows(rows, tok.pad_token_id)
    with torch.no_grad():
        logps = [compute_log_probs(m, **batch) for m in (nano, trainer.model)]
    result = measure(trainer.model, nano, tok, asked, trainer.seed)
    return result | {"before": logps[0], "after": logps[1]}


# %%
nano, nano_tokenizer = load_model("nano")
EOS, asked = nano_tokenizer.eos_token, prompts("held_out")[::3]
test = preference_pairs(64, seed=99, split="held_out")
sides = [(p.prompt, p.chosen + EOS) for p in test]
sides += [(p.prompt, p.rejected + EOS) for p in test]

# %%
cures["beta 0.5"], seeds = {"beta": 0.5}, (1, 2, 3)


def reviews(seed, cure):
    settings = {"steps": 30, "batch_size": 8, "learning_rate": 3e-3, "seed": seed}
    pairs = preference_pairs(240, seed=seed)
    return {"pairs": pairs, "watched": sides, "asked": asked} | settings | cure


jobs = [reviews(seed, cure) for cure in cures.values() for seed in seeds]
done = iter(run_all(displacement_run, jobs))
runs = {name: [next(done) for _ in seeds] for name in cures}

# %% [markdown]
# Plain DPO first: three runs on 240 review pairs each. The change of each held-out
# response is averaged over the seeds; the interval is over the 64 pairs. Then the rule
# of the small world: sort the chosen responses by their gold reward, quarter by
# quarter. *Predict* what the best quarter does.


# %%
def changes(name):  # (chosen, rejected), each (64,), in nats
    moved = [run["after"] - run["before"] for run in runs[name]]
    return torch.stack(moved).mean(0).chunk(2)


won, lost = changes("DPO")
print(f"chosen {mean_interval(won)} nats, rejected {mean_interval(lost)}")
assert mean_interval(won).high < 0 < mean_interval(won - lost).low

# %%
gold = torch.tensor([gold_reward(p.prompt, p.chosen) for p in test])
length = torch.tensor([len(p.chosen.split()) for p in test])  # words
quarters = gold.argsort().chunk(4)
moved = [mean_interval(won[quarter]) for quarter in quarters]
for quarter, nats in zip(quarters, moved, strict=True):
    a_word = won[quarter].sum() / length[quarter].sum()
    print(f"{nats} nats; {a_word:+.2f} a word")
assert moved[0].high < min(0, moved[-1].mean - 1)

# %% [markdown]
# Displacement, clearly, and by the rule: the worst quarter falls most, and towards the
# best one the change climbs to about zero. A longer sum has further to fall; the last
# column takes length out, and the order stays.
#
# And where did it go? Compare what the reference says, what the pairs call chosen, and
# what the policies say; each prompt's value is a mean over the seeds.


# %%
def by_prompt(runs, key):  # (prompts,), mean over seeds
    return torch.tensor([run[key] for run in runs]).double().mean(0)


start = measure(nano, nano, nano_tokenizer, asked)
before, after = (by_prompt(x, "gold") for x in ([start], runs["DPO"]))
print(
    f"gold reward: reference {mean_interval(before)}, policies {mean_interval(after)}"
)
print(f"chosen in the pairs {mean_interval(gold)}")
assert mean_interval(after).low > mean_interval(before).high

# %% [markdown]
# The probability went to good reviews: far better than the reference's, and no worse
# than those that the annotator chose. A falling curve of chosen log-probs came with a
# policy that got better: here displacement is what learning looks like. Would a cure
# help?
#
# ### What holds it, and what that costs


# %%
def row(name):
    won, lost = changes(name)
    gold_and_kl = [by_prompt(runs[name], key) for key in ("gold", "kl")]
    return [mean_interval(x) for x in (won, won - lost, *gold_and_kl)]


columns = ["chosen, nats", "margin, nats", "gold reward", "KL, nats"]
costs = pd.DataFrame({name: row(name) for name in cures}, columns).T
fall = costs["chosen, nats"].map(lambda estimate: estimate.mean)
assert (fall[1:] > fall["DPO"] + 0.5).all()
costs.astype(str)

# %% [markdown]
# Each cure lessens the fall, as it should. Read the rest of the row before you apply
# one. (Margins are here without beta, since betas differ.) The SFT term keeps most of
# the gain at a fraction of the fall. DPOP holds best, by holding everything: margin and
# gold reward stay behind. A higher beta lets go sooner of a pair that is won; in thirty
# steps that costs reward and saves no KL to speak of, and what it does in the long run
# is notebook 07's subject. None raised the gold reward: there was nothing to cure.
#
# ### A pair with two sides alike
#
# Now the pair of the small world, on `nano`: eight prompts, each with “not bad.”
# preferred to “not good.”. The label is right: the gold reward says so too.
#
# Openings of a review can be listed, so no sampling is needed: we watch the probability
# that a review of a *held-out* prompt begins with “bad”, “good”, “not bad” or “not
# good”. One more cure joins, for the data: “not bad.” preferred to “terrible.”, two
# sides that do not share “not”.

# %%
words = [" good", " bad", " not good", " not bad", " not", " not bad."]
words += [" not bad." + EOS]
starts = asked[:32]
openings = [(prompt, word) for word in words for prompt in starts]
for prompt in starts:
    assert gold_reward(prompt, " not bad.") > gold_reward(prompt, " not good.")

# %%
import random

from dpo_tutorial.data import PreferencePair


def alike(seed, rejected=" not good.", **cure):
    some = random.Random(seed).sample(prompts("train"), 8)
    twins = [PreferencePair(x, " not bad.", rejected) for x in some]
    settings = {"steps": 40, "batch_size": 8, "learning_rate": 2e-3, "seed": seed}
    return {"pairs": twins, "watched": openings, "asked": starts} | settings | cure


cures["dissimilar pair"] = {"rejected": " terrible."}
jobs = [alike(seed, **cure) for cure in cures.values() for seed in seeds]
done = iter(run_all(displacement_run, jobs))
twins = {name: [next(done) for _ in seeds] for name in cures}


# %%
def logps(runs, when="after"):  # (seeds, words, prompts)
    return torch.stack([run[when] for run in runs]).view(len(seeds), len(words), -1)


chance = {"reference": logps(twins["DPO"], "before").exp().mean(-1)}  # (seeds, words)
chance |= {name: logps(runs).exp().mean(-1) for name, runs in twins.items()}
bad = {name: seen[:, words.index(" bad")] for name, seen in chance.items()}  # (seeds,)
assert min(bad["DPO"].min(), bad["DPOP"].min()) > 5 * bad["reference"].max()
assert max(bad["DPO + SFT"].max(), bad["dissimilar pair"].max()) < bad["DPO"].min() / 2
openers = pd.DataFrame({name: seen.mean(0)[:4] for name, seen in chance.items()})
openers.set_axis(words[:4]).T.round(3)

# %%
figure, axis = plt.subplots()
looks = {" not bad": ("chosen", "o"), " bad": ("policy", "s"), " good": ("gold", "^")}
dots = torch.stack(list(chance.values()))  # (rows of the figure, seeds, words)
places = torch.arange(len(dots)).repeat_interleave(len(seeds))
for word, (role, marker) in looks.items():
    x = dots[..., words.index(word)].flatten()
    axis.plot(x, places, marker, color=COLORS[role], label=f"“{word.strip()}”")
axis.set_yticks(range(len(chance)), chance)
axis.invert_yaxis()
axis.set(xlabel="probability that a held-out review opens so", xlim=(-0.03, 1))
axis.set_title("Preferring “not bad” taught “bad”; two cures prevented it")
axis.legend(loc="upper right")
plt.show()

# %% [markdown]
# *Figure: for the reference and five ways to train, one dot a seed, the probability
# that a held-out review opens with “not bad”, “bad” or “good”. Under DPO, DPOP and the
# higher beta “bad” leads by far and “good” has vanished; under the SFT term and the
# dissimilar pair “not bad” leads.*
#
# Forty steps on a sound label, and the policy opens most of its reviews with “bad”.
# (Eight near copies of one pair are an extreme; Exercise 3 mixes them with others.)
# DPOP is the instructive failure. Its brake answers to the chosen response's
# log-probability and to nothing else, and that number it mends. What of the response
# itself? Take its change apart, token by token, beside the length and the gold reward
# of sampled reviews.

# %%
chain = [words.index(w) for w in (" not", " not bad", " not bad.", " not bad." + EOS)]
parts = {}
for name, done in twins.items():
    moved = (logps(done) - logps(done, "before"))[:, chain].mean((0, 2))  # (4,)
    parts[name] = [*moved.diff(prepend=torch.zeros(1)).tolist(), moved[-1].item()]
tokens = pd.DataFrame(parts, ["not", "bad", ".", "EOS", "sum"]).T
ahead = logps(done, "before")[0, chain[:2]].mean(-1)  # up to “not”, up to “bad”
print(f"“bad” after “not” can rise by {ahead[0] - ahead[1]:.2f} nats, to certainty")
assert (tokens["bad"] > 1).all()
assert (tokens["."].drop("DPO + SFT") < -0.3).all()

# %%
tokens.loc["reference"] = 0.0
said = twins | {"reference": [measure(nano, nano, nano_tokenizer, starts)]}
for key in ("words", "gold"):
    means = {name: mean_interval(by_prompt(done, key)) for name, done in said.items()}
    tokens[key] = {name: str(mean) for name, mean in means.items()}
best = [name for name in twins if means[name].low > means["reference"].high]
assert best == ["DPO + SFT"]
tokens.round(2)

# %% [markdown]
# Three things happen at once. “bad”, in which the two sides differ, rises everywhere
# and by nearly as much as it can. “not” before it is common to both sides; under plain
# DPO its own gradient cancels exactly, so that it moves only by what the rest does to
# it. And the full stop behind it, common too but in different company, *falls* under
# all but the SFT term: the policy has forgotten how to end, and its reviews run on.
# That is DPOP's own observation on pairs with small edits, and in DPOP's sum the rise
# of “bad” hides it. The dissimilar pair mended the opening only; the gold reward shows
# it. The SFT term scores each token of the response for its own sake, and it alone ends
# above the reference.
#
# So, in order: ask *where* the probability went, by reading samples and by any measure
# of quality that you trust. If it went to better responses, let it. If not, look for
# pairs whose sides are alike and drop or replace them (the paper's advice; it scores
# them by the likeness of their embeddings), add an SFT term, and distrust a cure that
# mends the metric.
#
# ## What you did
#
# - You recomputed every metric by hand: rewards carry beta, log-probs are sums, an
#   accuracy of few pairs is noise.
# - You had a set-up checked before its first step, and saw planted faults found.
# - You watched runs live, with our trainer and with TRL's.
# - You had histories diagnosed, and measured how far the diagnosis can be trusted.
# - You followed the probability of chosen responses: to better ones at the optimum and
#   on review pairs, to opposite ones where a pair's two sides are alike.
# - You measured what holds it and what that costs, and saw a cure that mended the
#   metric and not the policy.
#
# What a toy shows: mechanisms, with a truth to tell benign from harmful. What it does
# not: how often each occurs in your data. Sizes here come from a model of a million
# parameters, short runs, and in one case from eight copies of a pair.
#
# ## Exercises
#
# 1. *Mathematics.* For a softmax policy with logits $\phi(y)^\top\theta$, show that a
#    small gradient step on one pair changes $\log\pi(y)$ in proportion to
#    $(\phi(y) - \mathbb{E}_\pi[\phi])^\top(\phi(y_w) - \phi(y_l))$. When does the chosen
#    response fall at the very first step?
#
# <details><summary>Answer</summary>
#
# $\nabla_\theta\log\pi(y) = \phi(y) - \mathbb{E}_\pi[\phi]$, and a step goes along
# $\phi(y_w) - \phi(y_l)$, in which the expectation cancels. The inner product is the
# change. The chosen one falls at once if the policy's mean projection on the pair's
# direction exceeds its own: give “bad.” and “awful.” more of the reference's mass in
# `log_ref`, and see.
# </details>
#
# 2. *Find the bug.* Two runs log `rewards/chosen` of −0.4 and −1.5, and a colleague
#    says that the second moved further. One used beta 0.1, the other beta 0.5. Who
#    moved further?
#
# <details><summary>Answer</summary>
#
# The first: −0.4 / 0.1 is 4 nats down, −1.5 / 0.5 only 3. Margins mislead in the same
# way.
# </details>
#
# 3. *Experiment.* Put the eight pairs of “not bad.” over “not good.” among 232 review
#    pairs and train once over all of them. Predict whether “bad” still rises.
#
# <details><summary>Answer</summary>
#
# Use `job = reviews(1, {}) | {"watched": openings}`, replace the last eight entries of
# `job["pairs"]` by `alike(1)["pairs"]`, and call `done = displacement_run(**job)`.
# `logps([done] * 3, when)[0, words.index(" bad")].exp().mean()` is the chance of “bad”,
# with `when` "before" and "after". On the seeds we tried “bad” fell: other pairs teach
# what it is worth.
# </details>
#
# 4. *Implementation.* Write a callback for `DPOTrainer` that stops the run when
#    `eval_logps/chosen` has fallen by more than ten nats. When would you use it?
#
# <details><summary>Answer</summary>
#
# Subclass `transformers.TrainerCallback`; in `on_evaluate` compare
# `metrics["eval_logps/chosen"]` with the first value seen and set
# `control.should_training_stop = True`. Use it as an alarm that makes you read samples,
# not as a rule: the fall alone does not say where the probability went.
# </details>
#
# ## Further reading
#
# - Razin et al. 2024, *Unintentional Unalignment: Likelihood Displacement in Direct
#   Preference Optimization*, [arXiv 2410.08847](https://arxiv.org/abs/2410.08847): the
#   theory, and a score that finds the pairs.
# - Pal et al. 2024, *Smaug: Fixing Failure Modes of Preference Optimisation with
#   DPO-Positive*, [arXiv 2402.13228](https://arxiv.org/abs/2402.13228).
# - Pang et al. 2024, *Iterative Reasoning Preference Optimization*,
#   [arXiv 2404.19733](https://arxiv.org/abs/2404.19733): DPO with an NLL term.
# - Rafailov et al. 2023, [arXiv 2305.18290](https://arxiv.org/abs/2305.18290), and the
#   authors' answers in their repository's issues
#   [#8](https://github.com/eric-mitchell/direct-preference-optimization/issues/8),
#   [#32](https://github.com/eric-mitchell/direct-preference-optimization/issues/32) and
#   [#36](https://github.com/eric-mitchell/direct-preference-optimization/issues/36).
