# %% [markdown]
# # 05 · DPO with TRL
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/dpo-tutorial/dpo-tutorial/blob/main/notebooks/05_dpo_with_trl.ipynb)
#
# You will repeat notebook 04's run in TRL, the library most people use for DPO, prove
# that the two agree at every step, and then look at what TRL does without telling you.
#
# **You will**
#
# - set up `DPOTrainer` so that it retraces our trainer, number by number;
# - find out where TRL takes the reference from, and when it takes the wrong one;
# - train LoRA adapters and count what they save;
# - wrap a model twice, in the way that goes unnoticed, and see what is lost;
# - decode what TRL scores: end of sequence, chat templates, truncation;
# - launch the same run from the command line, and size a recipe for a 7B model.
#
# **You need** [04 · DPO from scratch](04_dpo_from_scratch.ipynb). Measured on two CPU
# cores with `nano`: about 40 seconds and 0.8 GB of memory, or 2.2 GB where `smollm2` is
# at hand; allow an hour for reading.
#
# Back: [04 · DPO from scratch](04_dpo_from_scratch.ipynb) ·
# Next: [06 · Monitoring](06_monitoring.ipynb)

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
# ## One run, two trainers
#
# The run is notebook 04's, with fewer steps and smaller batches: the same model, seed and
# settings, and the first of the same pairs. What follows describes the versions printed
# here; TRL changes quickly, and that is one more reason to check it by execution. Our
# trainer goes first, and leaves loss, rewards and log-probabilities of every step in its
# history.

# %%
from dpo_tutorial.models import seed_everything, step_plan
from dpo_tutorial.reviews import load_sft_model, preference_pairs

seed_everything(0)
reference, tokenizer = load_sft_model()
steps, size = 20, 8 if reference.num_parameters() < 5e6 else 4
pairs = preference_pairs(steps * size, seed=1)
print(*(f"{name} {version(name)}" for name in ("trl", "transformers", "peft")))
print(f"{reference.num_parameters() / 1e6:.1f}M parameters, {steps} x {size} pairs")

# %%
import copy

from dpo_tutorial.training import TinyDPOTrainer

plan = step_plan(reference) | {"steps": steps, "batch_size": size}
ours = TinyDPOTrainer(copy.deepcopy(reference), tokenizer, pairs, seed=1, **plan)
history = ours.train()

# %% [markdown]
# TRL takes a `Dataset` of plain rows. One seed does not make one order: its shuffle
# draws from another generator than ours. So the rows are laid out as our trainer drew
# them, and TRL is told to take them in sequence.

# %%
from itertools import islice

from dpo_tutorial.models import shuffled

order = list(islice(shuffled(len(pairs), seed=1), len(pairs)))
fields = ("prompt", "chosen", "rejected")
rows = [{name: getattr(pairs[i], name) for name in fields} for i in order]
rows[0]

# %% [markdown]
# Settings come in three groups: what makes the run the same as ours, how long it is, and
# what keeps it quiet and on our device. (`gradient_checkpointing=None` leaves
# checkpointing off. TRL has it on by default, which saves memory and costs time.) What
# is in no group is the same on both sides by default: a beta of 0.1, a linear decay of
# the rate, Adam's two averaging constants.
#
# *Predict:* which of the first group would TRL have set otherwise, and which of those
# would you have noticed in the log? The second cell answers.

# %%
import tempfile

same = {name: plan[name] for name in ("learning_rate", "adam_epsilon")}
same |= {"weight_decay": 0.0, "max_grad_norm": 1.0, "logging_steps": 1, "bf16": False}
same |= {"train_sampling_strategy": "sequential", "max_length": None}
same["warmup_steps"] = 0.1  # below 1: a share of the steps
length = {"per_device_train_batch_size": size, "max_steps": steps, "seed": 1}
folder = tempfile.TemporaryDirectory()
quiet = {"output_dir": folder.name, "report_to": "none", "save_strategy": "no"}
quiet |= {"disable_tqdm": True, "gradient_checkpointing": None}
quiet["use_cpu"] = reference.device.type == "cpu"

# %%
import pandas as pd
from trl import DPOConfig

default = DPOConfig(**(quiet | {"use_cpu": True}))
defaults = {name: getattr(default, name) for name in same}
table = pd.DataFrame({"here": same, "TRL's default": defaults}, dtype=object).map(str)
table[table["here"] != table["TRL's default"]]

# %% [markdown]
# None of them raises an error, and the log shows two: the rate, with its warm-up, and
# how often a row is written. A rate of 1e-6 suits large models and leaves a small one
# where it is; bf16 keeps two to three digits of each product; `max_length` cuts; and with
# a log every ten steps the first number is a mean of ten losses, so that even a sound
# run seems not to begin at ln 2.
#
# Every `DPOTrainer` of this notebook comes from the function below. (The filter hides
# one warning, about an old name by which TRL asks Transformers for a property. Other
# warnings stay.) Then comes the comparison, at every step. Losses and rewards are of
# order one, log-probabilities are sums of many nats, and all of it is 32-bit arithmetic.
# How close will they be?

# %%
import warnings

from datasets import Dataset
from transformers import PrinterCallback
from trl import DPOTrainer

warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)


def build(model, rows, tokenizer=tokenizer, peft_config=None, **changes):
    """A DPOTrainer with the settings above, but for the changes."""
    args = DPOConfig(**(same | length | quiet | changes))
    given = {"args": args, "processing_class": tokenizer, "peft_config": peft_config}
    trainer = DPOTrainer(model, train_dataset=Dataset.from_list(rows), **given)
    trainer.remove_callback(PrinterCallback)  # it would print each row of the log
    return trainer


# %%
def losses(trainer):
    """Train, and return the rows of the log, one a step."""
    trainer.train()
    return [row for row in trainer.state.log_history if "loss" in row]


# %%
theirs = build(copy.deepcopy(reference), rows)
log = losses(theirs)
names = ["loss", "rewards/chosen", "rewards/rejected", "logps/chosen", "logps/rejected"]
both = list(zip(history, log, strict=True))
gap = pd.DataFrame({k: [abs(a[k] - b[k]) for a, b in both] for k in names})
gap.index += 1
print(gap.max().map("{:.1e}".format).to_string())
print(f"largest difference over {len(gap)} steps: {gap.max().max():.1e}")
print("first accuracy:", *(row["rewards/accuracies"] for row in both[0]))
assert len(gap) >= 20
assert gap.max().max() < 1e-4

# %%
import matplotlib.pyplot as plt

from dpo_tutorial.plotting import COLORS, STYLES, use_style

use_style()
_, axes = plt.subplots()
for role, name in {"policy": "loss", "chosen": names[3], "rejected": names[4]}.items():
    axes.semilogy(gap[name].clip(1e-9), c=COLORS[role], ls=STYLES[role], label=name)
axes.axhline(1e-4, color=COLORS["reference"], ls=":")
axes.locator_params(axis="x", integer=True)
axes.set(xlabel="step", ylabel="|ours − TRL's| (nats)", ylim=(5e-10, 2e-2))
axes.set_title("Two trainers, one run: they differ by less than 0.0001")
axes.legend(ncols=3)
plt.show()

# %% [markdown]
# *Figure: the absolute difference between our trainer and TRL in loss and in the two
# log-probabilities, at each step, on a logarithmic axis (an exact zero is drawn at the
# bottom). All curves stay below a dotted line at one ten-thousandth.*
#
# What is left is rounding: the two sum the same numbers in different orders. One metric
# can still differ by whole pairs, `rewards/accuracies` at the first steps (the last line
# printed): there every margin is zero up to rounding, and the sign of a rounding error
# says who "won".
#
# ## Where TRL takes the reference from
#
# We gave TRL no reference, and it had one. Older tutorials tell you to pass `ref_model`;
# with TRL 1.x you need not. But what did it take?

# %%
from math import log as ln
from pathlib import Path

assert theirs.ref_model is not None
assert theirs.ref_model is not theirs.model
assert abs(log[0]["loss"] - ln(2)) < 1e-6
print("the reference was loaded from", Path(theirs.model.config._name_or_path).name)

# %% [markdown]
# It did not copy the model that we gave it. It read `config._name_or_path` and loaded
# **again** what is stored under that name. The two are the same only if yours has not
# changed since. Say you did stage 1 (SFT) in memory and go on with the same object;
# here, one with the weights of the policy that was just trained.
#
# *Predict* the first loss of a DPO run that starts from it. (One step is enough: its
# rate is that of the warm-up's start, zero.)

# %%
moved = copy.deepcopy(reference)
moved.load_state_dict(theirs.model.state_dict())
(row,) = losses(build(moved, rows[:size], max_steps=1))
print({name: round(row[name], 4) for name in names[:3]}, "and ln 2 is", round(ln(2), 4))
assert abs(row["rewards/chosen"]) > 1e-3

# %% [markdown]
# Rewards before any step: the reference is the stored model, not the start of this run.
# Nothing failed, and the only sign is a first loss off ln 2. Where nothing is stored
# under that name, as for a model built in memory, there is at least an error, if not one
# that says what to do.
#
# Three things help: save the model and load it again; pass a `ref_model`; or set
# `precompute_ref_log_probs`. That takes the policy as it is *now*, runs it once over the
# data before the first step, and keeps two numbers a pair in place of a second model, as
# our trainer does.

# %%
moved.config._name_or_path = ""
try:
    build(moved, rows[:size])
except OSError as error:
    print(f"{type(error).__name__}: {str(error).splitlines()[0]}")

ahead = build(moved, rows[:size], max_steps=1, precompute_ref_log_probs=True)
print(
    "second model:", ahead.ref_model, "columns:", ahead.train_dataset.column_names[-2:]
)
assert abs(losses(ahead)[0]["loss"] - ln(2)) < 1e-6

# %% [markdown]
# Copies deserve a warning too. To compute log-probabilities without whole logits, TRL
# 1.16 replaces the `forward` of the model that it is given. Called in the plain way, the
# replacement runs the `forward` of that one model, wherever it is copied to. *Predict*
# what a copy with all its weights set to zero answers.

# %%
import torch

from dpo_tutorial.data import collate, tokenize_pair
from dpo_tutorial.losses import compute_log_probs, dpo_loss

batch = collate([tokenize_pair(r, tokenizer) for r in rows[:4]], tokenizer.pad_token_id)


@torch.no_grad()
def logps(model):  # (8,): of four chosen and four rejected responses, summed
    return compute_log_probs(model.eval(), **batch).cpu()


# %%
twin = copy.deepcopy(theirs.model)
for weight in twin.parameters():
    weight.data.zero_()
print("the trained model", logps(theirs.model)[:3])
print("its zeroed copy  ", logps(twin)[:3])

# %% [markdown]
# Where the two lines agree, the copy answers with the original's weights: a frozen "old
# policy" made by `deepcopy` would silently follow the new one. Move weights by
# `state_dict`, as above, or through a folder.
#
# ## LoRA
#
# Full fine-tuning moves every weight. Low-rank adapters (LoRA) leave a weight $W$ as it
# is and learn a correction $\frac{\alpha}{r} B A$ of rank $r$ beside it. $B$ starts at
# zero. So at first the policy *is* its base, and switching the adapters off gives the
# base back at any time: a reference that costs nothing. The library PEFT *wraps* a model
# in such adapters, and TRL calls it when it is given a `peft_config`.
#
# Watch three numbers: $B$, the first loss, and the distance from the reference with the
# adapters off. (The dropout of one half will be explained.)

# %%
from peft import LoraConfig

transposed = reference.config.model_type == "gpt2"  # it stores its matrices that way
shape = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear", "lora_dropout": 0.5}
shape |= {"task_type": "CAUSAL_LM", "fan_in_fan_out": transposed}
rate = 10 * plan["learning_rate"]
change = {"peft_config": LoraConfig(**shape), "learning_rate": rate}
adapters = build(copy.deepcopy(reference), rows, **change)
B = [p for name, p in adapters.model.named_parameters() if "lora_B" in name]
print(len(B), "matrices B, largest entry", max(p.abs().max().item() for p in B))
assert adapters.ref_model is None
assert not any(p.any() for p in B)

# %%
lora_log = losses(adapters)
stage1, base = logps(adapters.model), logps(reference)
with adapters.model.disable_adapter():
    off = logps(adapters.model)
print(f"loss {lora_log[0]['loss']:.6f} at first, {lora_log[-1]['loss']:.6f} at last")
print(f"adapters on:  {(stage1 - base).abs().max():.4f} nats from the reference")
print(f"adapters off: {(off - base).abs().max():.4f} nats from the reference")
assert abs(lora_log[0]["loss"] - ln(2)) < 1e-6
assert torch.allclose(off, base, atol=1e-4)

# %% [markdown]
# The first loss is ln 2, and that in spite of the dropout: TRL sets every `nn.Dropout`
# to zero, in adapters too, so a `lora_dropout` does nothing unless you pass
# `disable_dropout=False`. (The rate is ten times as high as before: a small correction
# has further to go.)
#
# What does LoRA save? Count bytes: the weights, the gradients of what is trained, Adam's
# two averages of them, and the second model. *Predict* the largest saving.


# %%
def megabytes(tensors):
    return sum(t.numel() * t.element_size() for t in tensors) / 1e6


def memory(trainer):
    trained = [p for p in trainer.model.parameters() if p.requires_grad]
    adam = [t for state in trainer.optimizer.state.values() for t in state.values()]
    second = trainer.ref_model.parameters() if trainer.ref_model else []
    parts = [trainer.model.parameters(), trained, adam, second]
    return [megabytes(tensors) for tensors in parts]


# %%
full, low = memory(theirs), memory(adapters)
costs = {"full": full, "full, precomputed": [*full[:3], 0.0], "LoRA": low}
costs = pd.DataFrame(costs, index=["weights", "gradients", "Adam", "reference"]).T
count, total = adapters.model.get_nb_trainable_parameters()
print(f"LoRA trains {count:,} of {total:,} parameters ({count / total:.1%})")
assert costs.sum(axis=1).is_monotonic_decreasing
costs.assign(together=costs.sum(axis=1)).round(2)

# %%
_, axes = plt.subplots(figsize=(6, 2.6))
shades = [COLORS[name] for name in ("policy", "accent", "gold", "reference")]
costs[::-1].plot.barh(stacked=True, color=shades, ax=axes, edgecolor="white")
axes.set(xlabel="megabytes, activations not counted")
axes.set_title("LoRA saves gradients, Adam's averages and the reference")
axes.legend(loc="lower right", ncols=2)
plt.show()

# %% [markdown]
# *Figure: three stacked bars of megabytes. Full fine-tuning has four parts, of which
# Adam's is the largest; with precomputed reference log-probabilities the second model is
# gone; with LoRA little more than the weights is left.*
#
# The largest saving is Adam's: its two averages are kept for trained weights only.
# Activations are not in the count: they go by batch and length, and LoRA saves few of
# them. Nor does it make the policy's own weights smaller; 4 bits do, at the end of this
# notebook.
#
# ## Wrapped twice
#
# A common plan is LoRA for stage 1 and LoRA again for DPO. Stage 1's adapters are on
# disk; `AutoModelForCausalLM` loads such a folder, base and adapters, without a word; and
# DPO gets a `peft_config`. Let our trained adapters play stage 1. *Predict* the first
# loss, and what the policy knows of stage 1.

# %%
from transformers import AutoModelForCausalLM

saved = Path(folder.name) / "stage1"
adapters.save_model(saved)
loaded = AutoModelForCausalLM.from_pretrained(saved)
print(type(loaded).__name__, f"{(logps(loaded) - stage1).abs().max():.4f} from stage 1")
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    twice = build(loaded, rows[:size], max_steps=1, peft_config=LoraConfig(**shape))
print([str(w.message).split(".")[0] for w in caught if "second" in str(w.message)])

# %%
print("first loss", round(losses(twice)[0]["loss"], 6))
for name, target in {"stage 1": stage1, "base": base}.items():
    print(f"{(logps(twice.model) - target).abs().max():.4f} nats from {name}")
assert torch.allclose(logps(twice.model), base, atol=1e-4)

# %% [markdown]
# The second wrapping gave its adapters the name of the first ones, `default`, and
# initialised them anew. Stage 1 is gone: the run starts from the base, against the base.
# **The first loss is ln 2 all the same**, because policy and reference are wrong
# together; the cheapest test in the trade is blind here, and PEFT's warning the only
# sign.
#
# Had it been a `PeftModel`, PEFT's own class for a wrapped model, TRL would have refused,
# as the next cell shows. Two ways are right. **Merge** stage 1 into the weights and put
# new adapters on top: switched off, they give stage 1, which is what the reference should
# be. Or hand over the `PeftModel` **without** a `peft_config`; TRL 1.x then adds a frozen
# copy of your adapters, named "ref".

# %%
from peft import PeftModel

wrapped = PeftModel.from_pretrained(copy.deepcopy(reference), saved, is_trainable=True)
try:
    build(wrapped, rows[:size], peft_config=LoraConfig(**shape))
except ValueError as error:
    print(str(error).split(". ")[0])

# %%
merged = PeftModel.from_pretrained(copy.deepcopy(reference), saved).merge_and_unload()
merged = build(merged, rows[:size], peft_config=LoraConfig(**shape)).model
with merged.disable_adapter():
    print(f"merged: reference {(logps(merged) - stage1).abs().max():.4f} nats off")
    assert torch.allclose(logps(merged), stage1, atol=1e-3)

kept = build(wrapped, rows[:size], max_steps=1)
copied = [p for name, p in kept.model.named_parameters() if ".ref." in name]
print(f"kept: {list(kept.model.peft_config)}, a copy of {megabytes(copied):.2f} MB")
assert not any(p.requires_grad for p in copied)
against_base = dpo_loss(*stage1.chunk(2), *base.chunk(2))[0].mean()
print(f"first loss {losses(kept)[0]['loss']:.4f}; adapters off: {against_base:.4f}")

# %% [markdown]
# The last number, here of four pairs, is what you get without that copy, when the
# reference is had by switching all adapters off, as TRL once did (trl#1193) and your own
# code may still do: it compares stage 1 with the model *before* stage 1. Merging is
# right in every version.
#
# ## What TRL makes of your text
#
# Never train on a batch that you have not read. First a pair of plain texts, through
# TRL's own tokenisation and collator.


# %%
def read(trainer, tokenizer=tokenizer):
    """Print what the first row is given and scored on; count EOS scored in each row."""
    batch = trainer.data_collator([dict(row) for row in trainer.train_dataset])
    ids, scored = batch["input_ids"], batch["completion_mask"].bool()
    given = batch["attention_mask"].bool() & ~scored
    print("given ", repr(tokenizer.decode(ids[0][given[0]])))
    print("scored", repr(tokenizer.decode(ids[0][scored[0]])))
    return ((ids == tokenizer.eos_token_id) & scored).sum(1).tolist()


assert read(build(copy.deepcopy(reference), rows[:2])) == [1, 1, 1, 1]

# %% [markdown]
# As in notebook 04: the prompt is given, the response scored, and TRL has put EOS at the
# end, once. (Not where the text ends with it already.)
#
# Now the same pair as a conversation in ChatML, the layout of many instruct models. A
# chat template is a small program that writes turns as text. *Predict* how many EOS there
# will be.

# %%
chatml = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
roles = dict(zip(fields, ("user", "assistant", "assistant"), strict=True))


def as_talk(row):
    return {k: [{"role": role, "content": row[k]}] for k, role in roles.items()}


# %%
chat = copy.deepcopy(tokenizer)
talks = [as_talk(row) for row in rows[:2]]
for template in (chatml, chatml.replace("<|im_end|>", "{{ eos_token }}")):
    chat.chat_template = template
    eos = read(build(copy.deepcopy(reference), talks, chat), chat)
    print("EOS scored:", eos, "\n")
assert eos == [1, 1, 1, 1]

# %% [markdown]
# To a conversation TRL adds nothing: ending a turn is the template's business. Unless
# the end-of-turn mark *is* the tokenizer's EOS, as in most instruct models, none is
# scored, and DPO never hears where to stop. The second half is the remedy, one word in
# the template: EOS is scored. So is the template's newline behind it, with little harm.
#
# Next, length. `max_length` (1,024 tokens unless you say otherwise) counts prompt and
# response together. *Predict* which token a limit takes first, and what an empty
# response becomes.

# %%
for limit in (None, 16, 10):
    short = build(copy.deepcopy(reference), rows[:16], max_length=limit)
    cut = short.data_collator([dict(row) for row in short.train_dataset])
    ends = (cut["input_ids"] == tokenizer.eos_token_id) & cut["completion_mask"].bool()
    print(f"max_length {limit}: {len(short.train_dataset)} of 16 pairs stay,", end=" ")
    print(f"{int(ends.any(1).sum())} of {len(ends)} responses keep their EOS")
assert read(build(copy.deepcopy(reference), [rows[0] | {"chosen": ""}])) == [1, 1]

# %% [markdown]
# EOS goes first: a cut response is scored as text that goes on, and says nothing of
# where to stop. Where the prompt alone fills the limit, the pair is dropped without a
# word; compare `len(trainer.train_dataset)` with your data. An empty response becomes a
# bare EOS, so preferring it teaches silence; our `PreferencePair` refuses it.
#
# ## What TRL decides for you
#
# Dropout, precision, the meaning of a setting. Five short runs that differ from ours in
# one thing each. *Predict* which first losses leave ln 2, and which third losses differ
# from the first row's.

# %%
smooth = {"label_smoothing": 0.3}
switches = {"as above": {}, "dropout left on": {"disable_dropout": False}}
switches |= {"bf16": {"bf16": True}, "smoothed": smooth}
switches["smoothed, robust"] = smooth | {"loss_type": "robust"}
found = {}
for name, change in switches.items():
    first, _, third = losses(
        build(copy.deepcopy(reference), rows, max_steps=3, **change)
    )
    found[name] = [first["loss"], third["loss"], first["logps/chosen"]]

# %%
found = pd.DataFrame(found, index=["first loss", "third loss", "first logps/chosen"]).T
print("a GPU here that computes in bf16:", torch.cuda.is_bf16_supported(False))
third = found["third loss"]
assert abs(third["as above"] - third["smoothed"]) < 1e-6
assert abs(third["as above"] - third["smoothed, robust"]) > 1e-5
found.round(5)

# %% [markdown]
# - **Dropout** left on moves the first loss (in models that have any; Llama's family
#   does not). TRL switches it off.
# - **bf16** is on unless you say otherwise, on a CPU too. It rounds policy and reference
#   alike, so that the first loss gives no hint; the log-probability has moved. Ask
#   `torch.cuda.is_bf16_supported(including_emulation=False)`, as the cell does, and
#   give TRL the answer: without the argument PyTorch also says yes for older GPUs that
#   only emulate bf16, such as Colab's T4.
# - **Label smoothing** with `sigmoid`, which used to be cDPO, now does nothing, and
#   nothing is said. `robust` uses it, in another formula; notebook 08 has both.
#
# Two names remain. TRL's documentation calls `logps/chosen` the average log-probability
# of the tokens, and `rewards/accuracies` is a share: of what, at one pair a batch?

# %%
one = {"per_device_train_batch_size": 1, "max_steps": 8}
single = losses(build(copy.deepcopy(reference), rows[:8], **one))
tokens = (batch["labels"] >= 0).sum(1)
print("logps/chosen", round(single[0]["logps/chosen"], 4), end=": ")
print(f"the sum is {base[0]:.4f}, the average {base[0] / tokens[0]:.4f}")
print("accuracies", [row["rewards/accuracies"] for row in single])
assert abs(single[0]["logps/chosen"] - base[0]) < 1e-3

# %% [markdown]
# A sum over the response; the average is over the batch only, so a batch of longer
# responses lowers it whatever the policy does. Accuracy at one pair is zero or one, and
# begins with a tie that counts as a loss: average over steps before you read it.
# (With gradient accumulation TRL averages over the parts of a step.)
#
# ## An instruct model and its own template
#
# SmolLM2-135M-Instruct speaks English and brings a template. The first cell says whether
# it is at hand, and how to get it; the second runs where it is.

# %%
from huggingface_hub import try_to_load_from_cache

from dpo_tutorial import build_dir, data_path, recipes_path
from dpo_tutorial.data import load_preferences
from dpo_tutorial.models import load_model

hub = try_to_load_from_cache("HuggingFaceTB/SmolLM2-135M-Instruct", "model.safetensors")
here = (build_dir() / "models" / "smollm2").exists() or isinstance(hub, str)
if not here:
    print("smollm2 is not here. To get it: load_model('smollm2'), then run this again.")

# %%
if here:
    instruct, own = load_model("smollm2")
    english = load_preferences(data_path("preferences.jsonl"))
    english.sort(key=lambda pair: len(pair.prompt + pair.chosen + pair.rejected))
    talks = [as_talk({k: getattr(pair, k) for k in fields}) for pair in english[:2]]
    change = {"max_steps": 2, "learning_rate": 1e-4, "warmup_steps": 0}
    peft = LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM")
    spoken = build(instruct, talks, own, peft, **change, adam_epsilon=1e-8)
    assert read(spoken, own) == [1] * 4
    spoken_log = losses(spoken)
    print("losses", [round(row["loss"], 4) for row in spoken_log])
    assert abs(spoken_log[0]["loss"] - ln(2)) < 1e-6

# %% [markdown]
# Where it ran: the template wrote a system turn that is in no row, its end-of-turn mark
# is this tokenizer's EOS and is scored once, and the first loss is ln 2. Where it did
# not, the ChatML cells above have shown the way.
#
# ## From the command line
#
# TRL is also a command, `trl dpo`, and a recipe holds its settings. The one below is the
# course's for small models. In a shell you would type
# `trl dpo --config recipes/dpo_distilgpt2.yaml`; what stands behind that replaces the
# recipe's values. Here that is model, data, sizes, Adam's settings and the device, which
# makes it the run from above once more. The model goes by its folder, the data by a
# folder with `train.jsonl`.

# %%
recipe = recipes_path("dpo_distilgpt2.yaml")
data, out = Path(folder.name) / "reviews", Path(folder.name) / "by_command"
data.mkdir()
pd.DataFrame(rows).to_json(data / "train.jsonl", orient="records", lines=True)
print(recipe.read_text())

# %%
change = length | {name: same[name] for name in ("learning_rate", "adam_epsilon")}
change |= {"model_name_or_path": reference.name_or_path, "dataset_name": data}
change |= {"output_dir": out, "use_cpu": quiet["use_cpu"], "num_processes": 1}
trl = [sys.executable, "-m", "trl.cli.main", "dpo", "--config", str(recipe)]
trl += [str(x) for name, value in change.items() for x in (f"--{name}", value)]
done = subprocess.run(trl, capture_output=True, text=True, check=False)
assert done.returncode == 0, done.stderr[-2000:]

# %%
import json

state = json.loads((out / f"checkpoint-{steps}" / "trainer_state.json").read_text())
command = [row for row in state["log_history"] if "loss" in row]
both = list(zip(command, log, strict=True))
apart = max(abs(a[name] - b[name]) for a, b in both for name in names)
print(f"first loss {command[0]['loss']:.6f}; apart from the run above by {apart:.1e}")
assert apart < 1e-4

# %% [markdown]
# The same run, its log in `trainer_state.json` beside the last checkpoint. A misspelt
# key stops `trl dpo`. TRL's script started by hand (`python -m trl.scripts.dpo`) does not
# stop: it ignores the key, and you train at a default. `tests/test_recipes.py` has TRL's
# parser read every recipe of the course.
#
# ## A 7B model on one card
#
# `recipes/dpo_mistral7b_qlora.yaml` is for Mistral-7B: weights in 4 bits with LoRA on top
# (QLoRA), arithmetic in bf16, flash attention, a tracker. It is **not executed here**.
# What memory would it need? The shape follows from the configuration alone; on the "meta"
# device a model has shapes and no numbers.
#
# Each block of 64 weights has a scale of one byte, and 256 of these share a 32-bit one
# (QLoRA's double quantisation). Checkpointing keeps one activation vector a token and
# layer and rebuilds a layer at a time, at about 34 bytes a token and hidden unit
# (Korthikanti et al. 2022). TRL makes the logits in tiles.

# %%
import yaml
from transformers import MistralConfig, MistralForCausalLM

big = yaml.safe_load((recipe.parent / "dpo_mistral7b_qlora.yaml").read_text())
mistral = MistralConfig()  # its defaults are the shape of Mistral-7B
with torch.device("meta"):
    model = MistralForCausalLM(mistral)
linear = [m for m in model.model.modules() if isinstance(m, torch.nn.Linear)]
packed = sum(m.weight.numel() for m in linear)
other = model.num_parameters() - packed  # embeddings, head, norms: not quantised
added = sum(big["lora_r"] * (m.in_features + m.out_features) for m in linear)
print(f"{packed / 1e9:.2f}B in 4 bits, {other / 1e9:.2f}B not, {added / 1e6:.0f}M new")

# %%
tokens = 2 * big["per_device_train_batch_size"] * big["max_length"]  # both responses
hidden = tokens * mistral.hidden_size
sizes = {"weights and scales": packed / 2 + packed / 64 * (1 + 4 / 256)}
sizes |= {"embeddings and head, bf16": 2 * other}
sizes |= {"adapters, gradients, Adam in 8 bits": (2 + 2 + 2) * added}
sizes |= {"checkpoints, bf16": 2 * hidden * mistral.num_hidden_layers}
sizes |= {"one layer": 34 * hidden, "a tile": 4 * tokens * mistral.vocab_size}
sizes = pd.Series(sizes, name="GB") / 1e9
full = 18 * model.num_parameters() / 1e9  # bf16: 3 x 2; Adam and a float32 copy: 12
print(f"QLoRA {sizes.sum():.1f} GB; full fine-tuning {full:.0f} GB and activations")
sizes.round(2)

# %% [markdown]
# On paper a card of 8 GB would do. CUDA's own share, weights unpacked for each product,
# buffers and fragmentation come on top, so the recipe asks for 16; take 24 to be at
# ease. Full fine-tuning would need several large cards. In this estimate the weights are
# exact and the activations a rule of thumb.
#
# ## What you did
#
# - You set up `DPOTrainer` to retrace our trainer, and saw that only rounding is left.
# - You found that TRL loads the reference from a name, and saw it take the wrong one.
# - You trained LoRA adapters, switched them off, and counted what they save.
# - You wrapped a model twice, lost stage 1 at a first loss of ln 2, and merged instead.
# - You decoded what TRL scores, and what templates and limits do to EOS.
# - You launched the same run from the command line, and sized a recipe for a 7B model.
#
# What a toy shows: what the library computes, to the last digit, and where it is silent;
# none of that depends on size. What it does not show: speed, memory on a GPU, and how
# LoRA compares with full fine-tuning on a task that is hard for it.
#
# ## Exercises
#
# 1. *Experiment.* Put `plan["adam_epsilon"] = 1e-12` before our run and repeat the
#    comparison. Predict what happens to the largest difference.
#
# <details><summary>Answer</summary>
#
# With `nano` it grows several times over, and the assertion below 1e-4 may stop the
# cell. Adam divides each gradient by its own size, plus epsilon. A weight whose gradient
# is nothing but rounding error then takes steps as long as any other's, in a direction
# that rounding chose, and the two trainers round differently. Whether two sound programs
# agree is a matter of conditioning as well.
# </details>
#
# 2. *Find the bug.* A colleague's DPO run on top of a LoRA stage 1 begins at 0.6931 and
#    learns, yet the policy behaves as if stage 1 had never been. Where do you look?
#
# <details><summary>Answer</summary>
#
# For a second wrapping. Compare log-probabilities of a few responses under the stage-1
# model and under `trainer.model` before the first step, as `logps` does here: they must
# be equal. Then merge stage 1 before DPO. The loss cannot show it.
# </details>
#
# 3. *Find the bug.* Another run begins at 0.71 with dropout off. Name two causes from
#    this notebook, and tell them apart.
#
# <details><summary>Answer</summary>
#
# The model was changed in memory after it was loaded, so that the reloaded reference is
# an older one; or stage-1 adapters are on in the policy and off in the reference. In
# both, `rewards/chosen` is not zero at step one. Look at `trainer.ref_model`: a second
# model in the first case, `None` in the second.
# </details>
#
# 4. *Implementation.* Bring stage 1 to the command line: save the merged model, and run
#    the recipe on it with `--use_peft true --lora_target_modules all-linear`. Why can you
#    not give it the folder of adapters?
#
# <details><summary>Answer</summary>
#
# Merge once more (TRL has put new adapters into `merged`), `save_pretrained` model and
# tokenizer to one folder, and pass it as `--model_name_or_path`. TRL reads `config.json`
# to learn what it loads, and a folder of adapters has none.
# </details>
#
# 5. *Mathematics.* Why does $B = 0$ with $A$ random keep the start at the base *and* let
#    training begin? What would both at zero do?
#
# <details><summary>Answer</summary>
#
# The gradient of $B$ is proportional to $A x$, that of $A$ to $B^\top$ times what comes
# back. With $B = 0$, $B$ moves at the first step and $A$ from the second. $A = 0$ with
# $B$ random would do as well; both at zero never move.
# </details>
#
# ## Further reading
#
# - [TRL's page on DPOTrainer](https://huggingface.co/docs/trl/dpo_trainer), and its source.
# - Hu et al. 2021, [LoRA](https://arxiv.org/abs/2106.09685); Dettmers et al. 2023,
#   [QLoRA](https://arxiv.org/abs/2305.14314).
# - Tunstall et al. 2023, [Zephyr](https://arxiv.org/abs/2310.16944), whose model after
#   stage 1 the recipe starts from.
# - Korthikanti et al. 2022, [Reducing Activation Recomputation in Large Transformer
#   Models](https://arxiv.org/abs/2205.05198), for the 34 bytes.
# - TRL's threads by number, `github.com/huggingface/trl/issues/…`: 1193 and 6591 on
#   references under LoRA, 2371 on accuracy at one pair.
