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
# - recompute every metric of a real run by hand, and know what its name hides;
# - watch a run live, with our trainer and with TRL's;
# - check a set-up before training, and see planted faults found;
# - have histories diagnosed, and measure how far to trust the diagnosis;
# - show in three worlds where the probability of chosen responses goes;
# - measure what holds it, what that costs, and which cure is only cosmetic.
#
# **You need** [04 · DPO from scratch](04_dpo_from_scratch.ipynb);
# [05 · DPO with TRL](05_dpo_with_trl.ipynb) helps. Measured on two CPU cores with
# `nano`: about a minute and 1.5 GB of memory.
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

import torch

from dpo_tutorial.models import seed_everything, step_plan
from dpo_tutorial.plotting import use_style
from dpo_tutorial.reviews import load_sft_model, preference_pairs

seed_everything(0)
use_style()
reference, tokenizer = load_sft_model()
plan = step_plan(reference) | {"steps": 12}
plan["batch_size"] = min(16, plan["batch_size"])
pairs = preference_pairs(plan["steps"] * plan["batch_size"], seed=1)
held_out = preference_pairs(32, seed=99, split="held_out")

# %%
from dpo_tutorial.monitoring import MetricsRecorder
from dpo_tutorial.training import TinyDPOTrainer

recorder = MetricsRecorder(live=True)
trainer = TinyDPOTrainer(
    copy.deepcopy(reference),
    tokenizer,
    pairs,
    eval_rows=held_out,
    eval_every=4,
    on_log=recorder,
    **plan,
)
history = trainer.train()

# %% [markdown]
# *Figure: four panels over twelve steps of training, drawn again every few steps: the
# loss from ln 2 on, the rewards of chosen and rejected responses, the accuracy against
# a coin's one half, the log-probabilities of both sides; dots are the same on held-out
# pairs.*
#
# The lines jump, since each point is another batch; the dots, always the same pairs,
# are steadier. What exactly does each name mean?
#
# ## Every metric by hand
#
# All of them come from four numbers a pair: the log-probabilities of its two responses
# under policy and reference. Compute these on the held-out pairs, and from them the
# metrics; then ask the trainer for its own.

# %%
import torch.nn.functional as F

from dpo_tutorial.data import collate, tokenize_pair
from dpo_tutorial.losses import compute_log_probs

rows = [tokenize_pair(pair, tokenizer) for pair in held_out]
batch = collate(rows, tokenizer.pad_token_id)
with torch.no_grad():
    now = compute_log_probs(trainer.model, **batch).cpu().chunk(2)  # chosen, rejected
    then = compute_log_probs(reference, **batch).cpu().chunk(2)  # (32,) each

# %%
beta = trainer.beta
chosen, rejected = (beta * (a - b) for a, b in zip(now, then, strict=True))
by_hand = {
    "loss": -F.logsigmoid(chosen - rejected),
    "rewards/chosen": chosen,
    "rewards/rejected": rejected,
    "rewards/margins": chosen - rejected,
    "rewards/accuracies": (chosen > rejected).float(),
    "logps/chosen": now[0],
    "logps/rejected": now[1],
}

# %%
import pandas as pd

logged = trainer.evaluate()
table = pd.DataFrame({"logged": logged})
table["by hand"] = {name: value.mean().item() for name, value in by_hand.items()}
assert (table["logged"] - table["by hand"]).abs().max() < 1e-2
table.round(4)

# %% [markdown]
# Read them with this in mind:
#
# - **`loss`** starts at ln 2 whatever beta is. It is no measure of quality: a margin
#   twice as large on the same ranking lowers it.
# - **`rewards/*`** carry beta. A reward of −0.3 at beta 0.1 is 3 nats of
#   log-probability; the same policy would show −3 at beta 1. Divide by beta before you
#   compare runs.
# - **`rewards/margins`** is the chosen reward minus the rejected one; the loss sees this
#   difference and nothing else.
# - **`rewards/accuracies`** is the share of pairs with a margin above zero. A tie is no
#   win, so that it starts near 0, not near one half.
# - **`logps/*`** are *sums* over a response, averaged over the batch. TRL's page calls
#   them averages; longer responses have lower ones. Compare them with themselves over
#   time, not chosen with rejected.
#
# Two names need a second look. `grad_norm` is the gradient's length *before* clipping,
# in both trainers: a value above `max_grad_norm` says that the step was shortened.

# %%
norms = [row["grad_norm"] for row in history if "grad_norm" in row]
clipped = sum(norm > trainer.max_grad_norm for norm in norms)
print(f"grad_norm from {min(norms):.2g} to {max(norms):.2g}; clipped in {clipped} steps")

# %% [markdown]
# And an accuracy is a share of a small number. *Predict* what it looks like with one
# pair a batch. Beside it stands how far chance alone moves an accuracy of one half, as
# a 95 % half-width $1.96\sqrt{0.25/n}$ for $n$ pairs.

# %%
single = (chosen > rejected).float()
print("one pair a batch:", sorted(set(single.tolist())))
for n in (1, 8, 32, 256, 1024):
    print(f"{n:5d} pairs: 50 % ± {100 * 1.96 * (0.25 / n) ** 0.5:.0f} points")

# %% [markdown]
# With one pair a batch the metric is 0 or 1 and a curve of it is noise
# ([trl#2371](https://github.com/huggingface/trl/issues/2371)). Nothing is wrong with
# such a run; average over steps, or look at held-out pairs, several hundred of them.
#
# ## The same dashboard in TRL
#
# The recorder is also a callback of transformers' trainers. Same rows, same step count;
# `logging_steps=1`, or the first row you see is a mean over ten steps.

# %%
import tempfile

from datasets import Dataset
from transformers import PrinterCallback
from trl import DPOConfig, DPOTrainer

config = DPOConfig(
    tempfile.mkdtemp(),
    max_steps=plan["steps"],
    per_device_train_batch_size=plan["batch_size"],
    learning_rate=plan["learning_rate"],
    adam_epsilon=plan["adam_epsilon"],
    warmup_steps=0.1,
    logging_steps=1,
    eval_strategy="steps",
    eval_steps=4,
    save_strategy="no",
    report_to="none",
    bf16=False,
    gradient_checkpointing=None,
    use_cpu=reference.device.type == "cpu",
    disable_tqdm=True,
)


# %%
def as_dataset(pairs):
    sides = ("prompt", "chosen", "rejected")
    return Dataset.from_list([{s: getattr(p, s) for s in sides} for p in pairs])


trl_recorder = MetricsRecorder(live=True)
trl_trainer = DPOTrainer(
    copy.deepcopy(reference),
    args=config,
    train_dataset=as_dataset(pairs),
    eval_dataset=as_dataset(held_out),
    processing_class=tokenizer,
    callbacks=[trl_recorder],
)
trl_trainer.remove_callback(PrinterCallback)
result = trl_trainer.train()

# %% [markdown]
# *Figure: the same four panels from TRL's log. Notebook 05 shows the two trainers
# agreeing step by step once order and schedule are the same.*
#
# Which names are shared, and which has TRL on top?

# %%
ours = {name for row in history for name in row}
trls = {name for row in trl_recorder.history for name in row}
assert ours - {"eval_rewards/ties"} <= trls
print("TRL's own:", ", ".join(sorted(n for n in trls - ours if "eval" not in n)))
before = trl_recorder.history[0]
print({k: round(before[k], 3) for k in ("loss", "rewards/margins", "logps/chosen")})

# %% [markdown]
# `entropy` is the policy's uncertainty a token, in nats; `logits/*` are mean raw scores
# over the vocabulary and say next to nothing; `mean_token_accuracy` is how often the
# likeliest token was the chosen one's.
