# %% [markdown]
# # 10 · Recipes
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/dpo-tutorial/dpo-tutorial/blob/main/notebooks/10_recipes.ipynb)
#
# You will put the pieces together twice: preference data without annotators, from the
# model's own answers to an adapter on disk, and DPO in rounds, each on fresh samples.
#
# **You will**
#
# - look through a heuristic judge, and say what such a stand-in is good for;
# - draw candidates, filter them, have them judged, and keep every row through a crash;
# - validate the pairs, train an adapter on them, and evaluate it on held-out prompts;
# - measure what a judge's liking for length does to the policy;
# - save the adapter with its model card, load it again and get the same outputs;
# - find out where TRL takes the reference from in a second round;
# - compare DPO in rounds with one round, at equal numbers of labels and steps.
#
# **You need** [05 · DPO with TRL](05_dpo_with_trl.ipynb) for LoRA and the reference, and
# [09 · Evaluation](09_evaluation.ipynb) for judges. Measured on two CPU cores with
# `nano`: about a minute and 0.9 GB of memory; allow an hour for reading.
#
# Back: [09 · Evaluation](09_evaluation.ipynb) ·
# Next: [11 · Failure modes](11_failure_modes.ipynb)

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
# ## Recipe 1: feedback from a judge
#
# Human labels are slow and dear. Reinforcement learning from AI feedback lets a model
# do the comparing. For DPO that means: draw several answers to each prompt from the SFT
# model, have pairs of them judged, and train on the verdicts. Nothing else changes.
#
# Here the SFT model is that of the earlier notebooks, and the prompts are reviews'
# beginnings. With `DPO_TUTORIAL_MODEL=smollm2` this notebook takes an instruct model
# and English questions instead; every cell of recipe 1 serves both.

# %%
import os

from dpo_tutorial.models import load_model, seed_everything
from dpo_tutorial.reviews import load_sft_model

seed_everything(0)
english = os.environ.get("DPO_TUTORIAL_MODEL") == "smollm2"
sft, tokenizer = load_model() if english else load_sft_model()
small = sft.num_parameters() < 5e6
print(f"{sft.num_parameters() / 1e6:.1f} million parameters")

# %%
from dpo_tutorial import data_path
from dpo_tutorial.data import load_preferences
from dpo_tutorial.reviews import prompts

if english:
    found = load_preferences(data_path("preferences.jsonl"))
    starts = [list(dict.fromkeys(pair.prompt for pair in found))[i::2] for i in (0, 1)]
else:
    starts = [prompts("train"), prompts("held_out")]
sizes = (160, 128) if small else (32, 32)
train, held_out = (some[:n] for some, n in zip(starts, sizes, strict=True))
assert not set(train) & set(held_out)
train[:2]

# %% [markdown]
# ### The judge, and its stand-in
#
# A judge is a function of a prompt and two responses that returns text such as
# `{"winner": "A", "reason": "…"}`. Where no model is at hand to judge, a heuristic keeps
# a recipe running: `score_response` averages four marks of the surface (a sensible
# length, no repetition, an end like a sentence's, words in common with the prompt).
#
# *Predict:* which of these three does it like best?

# %%
import pandas as pd

from dpo_tutorial.feedback import HeuristicJudge, judge_pair, score_response

question = "Which planet of the solar system is the largest?"
answers = {
    "right": "The largest planet of the solar system is Jupiter, a giant of gas.",
    "wrong": "The largest planet of the solar system is Mercury, a giant of gas.",
    "broken": "planet planet planet planet planet planet planet",
}
marks = {name: score_response(question, text) for name, text in answers.items()}
assert marks["right"] == marks["wrong"] > marks["broken"]
pd.Series(marks).round(2)

# %% [markdown]
# It tells sentences from debris and truth from nothing at all. That is why it is called
# a stand-in: with it you try the machinery, not the quality of your data.
#
# In the review world we own the truth, so the judges here are the gold reward with a
# chance of error, and the same with a liking for length: each word more adds 0.3 to the
# log-odds of winning. Any endpoint that speaks OpenAI's protocol takes their place in
# one line: `EndpointJudge("a-model", base_url="http://localhost:8000/v1")`, from
# `dpo_tutorial.endpoint`. (It is not executed here, for there is no endpoint.)

# %%
from dpo_tutorial.judges import GoldJudge

gold = GoldJudge(seed=1)
judges = {"gold": gold, "length-biased": GoldJudge(seed=1, length_bias=0.3)}
if english:
    judges = {"heuristic": HeuristicJudge()}

# %% [markdown]
# Each pair is asked both ways round. Verdicts that contradict each other make a tie, and
# a tie is no preference pair.

# %%
judge = HeuristicJudge()
verdict = judge_pair(judge, question, answers["broken"], answers["right"])
print(verdict.outcome, *verdict.answers, sep="\n")
equal = judge_pair(judge, question, answers["wrong"], answers["right"])
assert (verdict.outcome, equal.outcome) == ("B", "tie")

# %% [markdown]
# ### Candidates
#
# Two answers that hardly differ teach nothing, and answers that nobody would give teach
# little. Several temperatures spread the candidates: cool ones are near what the model
# would say anyway, hot ones bring in what it rarely tries. An instruct model reads the
# prompt inside its chat template; the judge sees the prompt alone.


# %%
from dpo_tutorial.candidates import different, draw


def as_input(prompt):
    """What the model reads: the prompt, in a chat template where there is one."""
    talk = [{"role": "user", "content": prompt}]
    options = {"tokenize": False, "add_generation_prompt": True}
    return tokenizer.apply_chat_template(talk, **options) if english else prompt


# %%
rows = []
for temperature in (0.7, 1.0, 1.3):
    options = {"temperature": temperature, "seed": int(10 * temperature)}
    rows += draw(sft, tokenizer, [as_input(train[0])], **options)
pd.set_option("display.max_colwidth", 90)
print(train[0])
pd.DataFrame(rows)

# %% [markdown]
# `ended` says whether the model came to its end-of-sequence token. A candidate that the
# limit of tokens cut off must not become training data: EOS would be put behind half a
# sentence, and DPO would learn to stop there.
#
# The similarity filter is rapidfuzz's ratio, 100 for equal texts. Of candidates above
# 90 to each other the first is kept. It runs *before* the judge, whose questions cost
# more than all the rest.

# %%
said = ["the soup was fresh.", "the soup was fresh!", "the bill was unfair."]
kept = different([{"text": text} for text in said], max_similarity=0.9)
assert len(kept) == 2
kept

# %% [markdown]
# ### All of it, in one file
#
# `build_preference_dataset` does the above for every prompt. It keeps each candidate and
# each judgement as a line of one file the moment it is there.

# %%
import tempfile
from pathlib import Path

from dpo_tutorial.feedback import build_preference_dataset

folder = tempfile.TemporaryDirectory()
options = {"pairs_per_prompt": 2, "as_input": as_input, "seed": 1}
data, reports = {}, {}
for name, judge in judges.items():
    path = Path(folder.name) / f"{name}.jsonl"
    data[name], reports[name] = build_preference_dataset(
        sft, tokenizer, train, judge, path=path, **options
    )

# %%
for name, report in reports.items():
    lines = (Path(folder.name) / f"{name}.jsonl").read_text().count("\n")
    print(f"{name}: {report}\n  {lines} lines in its file\n")
    assert len(data[name]) == report.used
    assert lines == 1 + report.candidates + sum(report.outcomes.values())

# %% [markdown]
# Read the report before you train. Many ties mean a judge that follows the order or
# cannot tell; unparseable and failed answers are counted apart, never guessed. Nothing
# but pairs with a winner is used.
#
# Judging is slow and paid by the call, and long jobs die. Let one die: this judge gives
# up after some questions. Called again, the function takes up its file, and must end
# with the pairs of a run that was never cut.

# %%
sound, calls = next(iter(judges.values())), []


def sometimes(*question):
    calls.append(question)
    if len(calls) == 15:
        raise ConnectionError("the network is gone")
    return sound(*question)


# %%
path, part = Path(folder.name) / "cut.jsonl", train[: 24 if small else 10]
for attempt in (1, 2):
    try:
        again, report = build_preference_dataset(
            sft, tokenizer, part, sometimes, path=path, **options
        )
    except ConnectionError as error:
        print(f"attempt {attempt}: {error}; {path.read_text().count(chr(10))} lines")
print(f"attempt {attempt}: {len(again)} pairs; {len(calls)} questions in all")
uncut, _ = build_preference_dataset(sft, tokenizer, part, sound, **options)
assert len(calls) <= 2 * sum(report.outcomes.values()) + 2  # one pair asked again
assert again == uncut

# %% [markdown]
# The tests do it the hard way: a real process, killed twenty times at random moments
# with a signal that no program can catch. No row is lost and none doubled.
#
# ### Validate
#
# The validator of notebook 03 reads the pairs before the trainer does. *Predict* what
# it says about the length-biased judge's.

# %%
from dpo_tutorial.validation import PreferenceDataValidator

checked = {}
for name, pairs in data.items():
    checked[name] = PreferenceDataValidator(pairs).full_report(300, tokenizer)
    found = [f for f in checked[name].findings if f.check.startswith("length")]
    print(name, *(f"{f.severity}: {f.message}" for f in found), sep="\n  ")
    assert not [f for f in checked[name].findings if f.severity == "error"]

# %% [markdown]
# No errors, so the pairs may train. The share of longer winners is a sign of a biased
# judge that needs no truth, as many ties were above. It is no proof: longer answers can
# be better ones.
#
# ### Train
#
# TRL with LoRA, as in notebook 05. The rate is high and the run short: a small adapter
# on a small model. The reference is the SFT model, with the adapter switched off.

# %%
from peft import LoraConfig

from dpo_tutorial.data import convert_to_dpo_format

shape = {"r": 8, "lora_alpha": 8, "target_modules": "all-linear"}
shape |= {"fan_in_fan_out": sft.config.model_type == "gpt2"}  # transposed matrices
lora = LoraConfig(task_type="CAUSAL_LM", **shape)
steps, size = (24, 16) if small else (8, 4)
rate = (
    {"learning_rate": 8e-3, "adam_epsilon": 1e-6} if small else {"learning_rate": 5e-4}
)


def as_rows(pairs):
    fields = ("prompt", "chosen", "rejected")
    made = convert_to_dpo_format(pairs, tokenizer) if english else map(vars, pairs)
    return [{name: row[name] for name in fields} for row in made]


# %%
import warnings

from datasets import Dataset
from transformers import PrinterCallback
from trl import DPOConfig, DPOTrainer

warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
quiet = {"report_to": "none", "save_strategy": "no", "disable_tqdm": True}
quiet |= {"gradient_checkpointing": None, "bf16": False}
quiet |= {"output_dir": folder.name, "logging_steps": 1, "warmup_steps": 0.1, "seed": 1}
quiet |= {"use_cpu": sft.device.type == "cpu", "per_device_train_batch_size": size}


def build(
    model, rows, tokenizer=tokenizer, peft_config=None, ref_model=None, **changes
):
    """A quiet DPOTrainer for `rows`."""
    args = DPOConfig(**(quiet | changes))
    given = {"processing_class": tokenizer, "peft_config": peft_config}
    data = Dataset.from_list(rows)
    trainer = DPOTrainer(model, ref_model, args, train_dataset=data, **given)
    trainer.remove_callback(PrinterCallback)
    return trainer


# %%
import copy
import math

trainers = {}
for name, pairs in data.items():
    seed_everything(1)  # the adapters' start is drawn when TRL makes them
    given = {"peft_config": lora, "max_steps": steps} | rate
    trainers[name] = build(copy.deepcopy(sft), as_rows(pairs), **given)
    trainers[name].train()
    log = [row for row in trainers[name].state.log_history if "loss" in row]
    ends = [round(log[i]["loss"], 3) for i in (0, -1)]
    print(f"{name}: {len(pairs)} pairs, {steps} x {size}, loss {ends[0]} to {ends[1]}")
    assert abs(log[0]["loss"] - math.log(2)) < 1e-3

# %% [markdown]
# ### Evaluate on held-out prompts
#
# One answer a prompt from each adapter and from the SFT model, and the judges decide.
# *Predict* for the length-biased judge: words, gold reward, and its two win rates.
#
# A policy trained on a judge's verdicts is to be evaluated by *another* judge where you
# have one: the **arbiter**. Here it is the gold judge with another seed. For the gold
# adapter that is the same judge with fresh errors, so only the biased adapter gets a
# truly different one. Each adapter's own judge stands beside it.

# %%
from dpo_tutorial.evaluation import sample_responses

read = [as_input(prompt) for prompt in held_out]
says = {"SFT": sample_responses(sft, tokenizer, read, seed=3)}
for name, trainer in trainers.items():
    policy = trainer.model.eval()
    says[name] = sample_responses(policy, tokenizer, read, seed=3)

# %%
from dpo_tutorial.evaluation import DPOEvaluator

arbiter = HeuristicJudge() if english else GoldJudge(seed=2)
wins = {}
for name, judge in judges.items():
    for title, by in {"arbiter": arbiter, "own judge": judge}.items():
        evaluator = DPOEvaluator(says[name], says["SFT"], tokenizer, by)
        wins[name, title] = evaluator.pairwise_evaluation(held_out)
        print(f"{name}, by {title}: {wins[name, title]}")

# %%
from dpo_tutorial.evaluation import mean_interval
from dpo_tutorial.reviews import gold_reward

measured = {}
for name, texts in says.items():
    pairs = list(zip(held_out, texts, strict=True))
    measured[name] = {"words": mean_interval([len(text.split()) for text in texts])}
    measured[name]["surface"] = mean_interval([score_response(*p) for p in pairs])
    if not english:
        measured[name]["gold"] = mean_interval([gold_reward(*p) for p in pairs])
pd.DataFrame(measured).T

# %% [markdown]
# ### What the bias did
#
# The win rates once more, in one picture:

# %%
import matplotlib.pyplot as plt

from dpo_tutorial.plotting import COLORS, use_style

use_style()
_, axes = plt.subplots(figsize=(6, 2.6))
labels = [f"{name} labels, by {by}" for name, by in wins]
rates = [evaluation.win_rate for evaluation in wins.values()]
bars = [[r.mean - r.low for r in rates], [r.high - r.mean for r in rates]]
style = {"fmt": "o", "capsize": 3, "color": COLORS["policy"]}
axes.errorbar([r.mean for r in rates], labels, xerr=bars, **style)
axes.axvline(0.5, color=COLORS["reference"], ls=":")
axes.set(xlabel="win rate against the SFT model", xlim=(0, 1))
axes.set_title("What a win rate says depends on who judges")
axes.invert_yaxis()
plt.show()

# %% [markdown]
# *Figure: win rates of each adapter against the SFT model with 95 % intervals, once by
# the arbiter and once by the judge whose verdicts it was trained on; a dotted line at
# one half.*
#
# And in numbers that no judge has touched:

# %%
if not english:
    table = pd.DataFrame(measured).T
    both = table.loc["length-biased"], table.loc["gold"]
    change = {k: both[0][k].mean - both[1][k].mean for k in ("words", "gold")}
    print("length-biased less gold:", {k: round(v, 2) for k, v in change.items()})
    if small:
        assert change["words"] > 1

# %% [markdown]
# The adapter that learnt from the length-biased judge writes longer reviews, and to that
# judge it is a great success. Where the arbiter's interval lies below one half, the
# policy is worse than what it started from, and no number that the biased judge can
# produce would have told you. DPO did what it was asked: the bias was in the data, and
# the validator's line on length was the warning. The stand-in's mark (`surface`) went up
# with length too.
#
# ### An adapter with its papers
#
# What others need to know of a model goes into its card: where it comes from, what it
# was trained on, who judged, and numbers with their intervals. Written from variables,
# it cannot disagree with the run. PEFT leaves a form to fill in; this replaces it.

# %%
from huggingface_hub import ModelCard, ModelCardData

name = next(iter(judges))
saved = Path(folder.name) / f"adapter-{name}"
trainers[name].model.save_pretrained(saved)
tokenizer.save_pretrained(saved)
won, before, after = wins[name, "arbiter"], measured["SFT"], measured[name]
base = Path(sft.name_or_path).name

# %%
about = ModelCardData(base_model=base, library_name="peft", tags=["dpo", "lora", "trl"])
text = f"""---
{about.to_yaml()}
---
# DPO on AI feedback: {base}, {name} judge

- **Base model**: {base}; the adapter is LoRA of rank {lora.r}
- **Data**: {reports[name]}
- **Judge**: `{judges[name]}`
- **Training**: DPO, TRL {version("trl")}, {steps} steps of {size} pairs
- **Held out** ({len(held_out)} prompts): {won}
- **Words**: {before["words"]} before, {after["words"]} after
- **Limits**: a teaching model; the judge's likings are the adapter's
"""
ModelCard(text).save(saved / "README.md")
print(text)

# %% [markdown]
# Now the part that is often left out: load the adapter from its folder, onto the base
# model that it names, and compare.

# %%
from peft import AutoPeftModelForCausalLM

loaded = AutoPeftModelForCausalLM.from_pretrained(saved).eval()
same = sample_responses(loaded.to(sft.device), tokenizer, read, seed=3)
assert same == says[name]
assert ModelCard.load(saved / "README.md").data.base_model == base
kilobytes = (saved / "adapter_model.safetensors").stat().st_size / 1000
print(f"{len(same)} outputs, all equal; the adapter takes {kilobytes:.0f} kB")

# %% [markdown]
# The base is found by the path in `adapter_config.json`. Elsewhere, give a hub id there,
# or `merge_and_unload` and ship whole weights.
#
# ## Recipe 2: rounds
#
# The candidates above came from the SFT model. As training goes on, the policy says
# other things, and the pairs are about answers that it no longer gives. **Iterative
# DPO** draws fresh pairs from the current policy, has them labelled, trains on, and
# again. One adapter is carried through all rounds. From here on the model is always
# `nano`, since there are many runs.
#
# ### Which reference, in round two?
#
# There are two sound choices. A **fixed** reference, the SFT model: beta prices the
# whole way from there. Or one that **moves**, the policy as the round begins: beta
# prices this round's way only, and nothing pulls back. Which do you get from TRL?
#
# Round one got a `peft_config`. Round two gets the `PeftModel` that came out of it.
# *Predict* its reference.

# %%
nano, own = load_model("nano")
few = [
    {"prompt": p, "chosen": " fresh.", "rejected": " stale and the bill was unfair."}
    for p in prompts("train")[:16]
]
quick = {"max_steps": 2, "learning_rate": 1e-2, "adam_epsilon": 1e-6, "warmup_steps": 0}
quick["per_device_train_batch_size"] = len(few)
shape["fan_in_fan_out"] = True
lora = LoraConfig(task_type="CAUSAL_LM", **shape)
one = build(copy.deepcopy(nano), few, own, lora, **quick)
one.train()
policy = one.model
print("adapters after round one:", list(policy.peft_config))

# %%
import torch

from dpo_tutorial.data import collate, tokenize_pair
from dpo_tutorial.losses import compute_log_probs

batch = collate([tokenize_pair(row, own) for row in few], own.pad_token_id)


@torch.no_grad()
def logps(model):  # (32,): chosen, then rejected
    return compute_log_probs(model.eval(), **batch).cpu()


def first(trainer):
    """Loss of the first step."""
    trainer.train()
    return next(row["loss"] for row in trainer.state.log_history if "loss" in row)


# %%
start, base = logps(policy), logps(nano)
print(
    f"round one took the policy {(start - base).abs().max():.2f} nats from the SFT model"
)
two = build(policy, few, own, **quick)
print("adapters in round two:", list(policy.peft_config))
moved = first(two)
print(f"first loss {moved:.4f}, and ln 2 is {math.log(2):.4f}")
assert abs(moved - math.log(2)) < 1e-4

# %% [markdown]
# TRL has copied the adapter to a second one, "ref". The reference **moved**, and no
# setting was asked for: the first loss is ln 2 again. Round three, done the same way:

# %%
try:
    build(policy, few, own, **quick)
except ValueError as error:
    print(f"{type(error).__name__}: {error}")
policy.delete_adapter("ref")  # what a moved reference needs from the third round on
build(policy, few, own, **quick)
policy.delete_adapter("ref")

# %% [markdown]
# The old copy is in the way until you delete it. For a **fixed** reference hand over
# the SFT model as `ref_model`; then TRL makes no copy. The first loss must now be that
# of the policy as it stands against the SFT model.

# %%
from dpo_tutorial.losses import dpo_loss

expected = dpo_loss(*logps(policy).chunk(2), *base.chunk(2))[0].mean().item()
fixed = build(policy, few, own, ref_model=copy.deepcopy(nano), **quick)
found = first(fixed)
print(f"first loss {found:.4f}, by hand {expected:.4f}; {list(policy.peft_config)}")
assert abs(found - expected) < 1e-3
assert expected < math.log(2) - 0.01

# %% [markdown]
# Merging the adapter into the weights and starting a new one would move the reference
# too, and lose the single adapter. `sync_ref_model`, TRL's own moving reference, refuses
# PEFT models.
#
# ### The comparison
#
# `iterative_run` does the rounds: sample the policy, label by the annotator, train the
# one adapter with `TinyDPOTrainer`, measure. `offline_run` spends the same number of
# labels and of steps on the SFT model's samples, in one go. Between the two stands an
# arm of *stale* rounds: each with its own optimiser and schedule, as the rounds have,
# but on the SFT model's samples. Without it, what a restart does would count for rounds.
# First one seed of each, small, to see that the bill is the same. `share_before` and
# `share_after` are the on-policy share of the round's data before and after training:
# 1 if the policy is the one that drew them, less the further it has moved off.

# %%
from dpo_tutorial.experiments import run_all
from dpo_tutorial.iterative import iterative_run, offline_run

arms = {"rounds, fixed": {}, "rounds, moved": {"moved": True}}
arms["rounds, stale data"] = {"fresh": False}
results = run_all(iterative_run, [{"seed": 1, **arm} for arm in arms.values()])
results += run_all(offline_run, [{"seed": 1}])
small_runs = pd.concat(
    [pd.DataFrame(result) for result in results], keys=[*arms, "one round"]
)
ends = small_runs.groupby(level=0, sort=False).last()
assert ends[["labels", "steps"]].nunique().eq(1).all()
ends.round(2)

# %% [markdown]
# One seed of two dozen steps proves nothing. `benchmarks/iterative.py` ran four times
# the steps with six seeds, and with two arms more, in which beta or the rate falls from
# round to round. *Predict:* the order of the arms, and which of them the intervals over
# six seeds can tell from one round.

# %%
import json

from dpo_tutorial import results_path

measured = json.loads(results_path("iterative.json").read_text())
runs = pd.DataFrame(measured["rows"])
spent = runs[runs["round"] == 3].groupby("arm", sort=False)[["labels", "steps"]]
assert spent.nunique().eq(1).all(axis=None)
print(f"{runs['seed'].nunique()} seeds;", spent.first().iloc[0].to_dict())
columns = ["gold", "kl", "words", "share_before", "share_after"]
by_round = runs.groupby(["arm", "round"], sort=False)[columns]
by_round.agg(lambda x: str(mean_interval(x.tolist())))

# %%
looks = {
    "rounds, fixed": ("o-", "policy"),
    "rounds, moved": ("s--", "accent"),
    "rounds, stale data": ("^-.", "gold"),
    "one round": ("D:", "reference"),
}
shown = {
    "gold": "gold reward",
    "kl": "KL to SFT (nats)",
    "share_after": "on-policy share",
}
figure, axes = plt.subplots(1, 3, figsize=(7.5, 3.4))
for n, (arm, (fmt, role)) in enumerate(looks.items()):
    mine = runs[runs["arm"] == arm].groupby("round")
    for axis, (column, label) in zip(axes, shown.items(), strict=True):
        found = mine[column].agg(["median", "min", "max"])
        bars = [found["median"] - found["min"], found["max"] - found["median"]]
        style = {"fmt": fmt, "color": COLORS[role], "ms": 4, "capsize": 2, "label": arm}
        axis.errorbar(found.index + 0.06 * (n - 1.5), found["median"], bars, **style)
        axis.set(xlabel="round", xticks=(1, 2, 3), ylabel=label)
axes[1].set_yscale("symlog", linthresh=1)
axes[1].set_ylim(bottom=-0.3)
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
figure.suptitle("Four ways to spend the same labels and steps", fontsize=11)
plt.show()

# %% [markdown]
# *Figure: gold reward, KL to the SFT model (its axis logarithmic above one nat) and
# on-policy share after each round, for four arms, medians over six seeds with bars from
# the lowest to the highest.*
#
# The on-policy share is the overlap of two distributions, the policy's and that of the
# sampler of its data: 1 where they are the same, 0 where no response is common. At the
# start of each round fresh samples bring it back to 1. Data drawn once have no such
# moment; their share says how much of them the policy could still have drawn.
#
# Is the end better for it? The difference to one round, in pairs of equal seeds:

# %%
last = runs[runs["round"] == 3].pivot(index="seed", columns="arm")
for other, compared in {
    "one round": [arm for arm in runs["arm"].unique() if arm != "one round"],
    "rounds, stale data": ["rounds, fixed"],
}.items():
    for arm in compared:
        gaps = [last[k][arm] - last[k][other] for k in ("gold", "kl")]
        gold_gap, kl_gap = (mean_interval(gap.tolist()) for gap in gaps)
        print(f"{arm} less {other}: gold {gold_gap}, KL {kl_gap}")
old = ["one round", "rounds, stale data"]
fresh = last["gold"].drop(columns=old).mean(axis=1) - last["gold"][old].mean(axis=1)
print("four arms of fresh data less two of stale, gold:", mean_interval(fresh.tolist()))
stale = last["share_before"]["one round"]
print("share of one round's data before round 3:", mean_interval(stale.tolist()))
assert stale.max() < 0.99

# %% [markdown]
# Read the intervals before the means. Arm by arm they hold zero: six seeds are too few
# for differences of this size. Yet all four arms of fresh data end above both arms of
# stale data. Stale rounds are not told apart from one round either, but that interval
# is wider than the gain itself, so that the restarts are not ruled out.
# Averaged over the arms, in the last line but one, look whether fresh data leave zero
# behind; that comparison was made after looking at the others, so take it as a reason
# for a larger trial and not as its result. Moved against fixed, and a schedule against
# none, are not compared here: most lines are against one round. The falling beta has
# the narrowest interval of KL at round three.
#
# The figure shows one way to lose: after round three both arms of stale data have runs
# more than ten nats from the SFT model, and so has the moving reference. What rounds
# cost is sure: sampling and a judge in the loop, three times.
#
# ## What you did
#
# - You looked through a heuristic judge: it marks surfaces, and a falsehood passes.
# - You drew candidates, left out the alike and the cut-off, and had pairs judged.
# - You let a run die, took it up again, and got the pairs of an uncut run.
# - You trained an adapter with TRL and evaluated it on prompts it had not seen.
# - You saw a judge's liking for length become the policy's, and its own win rate hide it.
# - You saved an adapter with its card, loaded it again, and got the same outputs.
# - You found that TRL's second round moves the reference unasked, and how to fix it.
# - You compared rounds with one round at equal labels and steps, with intervals.
#
# What a toy shows: the machinery, what a biased judge does to a policy, and where the
# reference comes from. What it does not show: that rounds pay, or do not, for large
# models and long runs.
#
# ## Exercises
#
# 1. *Experiment.* Make the biased judge's liking smaller: 0.1, 0.03. At which does the
#    arbiter's interval cross one half? Predict first.
#
# <details><summary>Answer</summary>
#
# Compare the bias with the signal. One word more is worth `length_bias` in log-odds, one
# unit of gold reward four (the temperature is 0.25). At 0.3 seven words outweigh half a
# unit; at 0.03 it takes seventy. Expect the harm to fade between the two.
# </details>
#
# 2. *Find the bug.* A colleague keeps one file for three rounds of candidates, and the
#    second round ends at once, with the pairs of the first. Could that happen here?
#
# <details><summary>Answer</summary>
#
# No: the file's first line holds a fingerprint of the weights, and a policy that was
# trained in between has another one, so the call is refused. With the path alone as key
# it would return stale pairs without a word. Give each round its own file.
# </details>
#
# 3. *Experiment.* Let beta and rate fall together: `betas=(0.2, 0.1, 0.05)` with
#    `rates=(9e-3, 6e-3, 3e-3)`. Use five seeds, and say before what you could detect.
#
# <details><summary>Answer</summary>
#
# Add the arm to `ARMS` of `benchmarks/iterative.py` and cut its `SEEDS` to five. The
# half-width of an interval over five seeds is 1.24 standard deviations of the paired
# differences; three seeds have 2.48. A mean difference below that leaves zero inside;
# a true difference of that size is found only about half the time.
# </details>
#
# 4. *Implementation.* Write a judge that gives both responses to an endpoint at once and
#    refuses when they are nearly equal. Which outcome should a refusal have?
#
# <details><summary>Answer</summary>
#
# Return `{"winner": "tie"}` where the judge cannot tell: that is a judgement. Raise
# `JudgeError` where no answer came: the pair is then "failed", and asked again when the
# file is taken up. Anything else is counted as unparseable.
# </details>
#
# ## Further reading
#
# - Bai et al. 2022, [Constitutional AI](https://arxiv.org/abs/2212.08073), and Lee et al.
#   2023, [RLAIF vs. RLHF](https://arxiv.org/abs/2309.00267), on feedback from models.
# - Guo et al. 2024, [Direct Language Model Alignment from Online AI
#   Feedback](https://arxiv.org/abs/2402.04792), and Xiong et al. 2023, [Iterative
#   Preference Learning from Human Feedback](https://arxiv.org/abs/2312.11456), on rounds.
# - Gorbatovski et al. 2024, [Learn Your Reference Model for Real Good
#   Alignment](https://arxiv.org/abs/2404.09656), on a reference that moves.
# - Leviathan et al. 2023, [Fast Inference from Transformers via Speculative
#   Decoding](https://arxiv.org/abs/2211.17192), where the overlap is a rate of acceptance.
