# %% [markdown]
# # 12 · Scaling
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/dpo-tutorial/dpo-tutorial/blob/main/notebooks/12_scaling.ipynb)
#
# You will know what a run costs before you start it, make it cheaper by measures whose
# gain you see, take it to several processes without changing its result, with the
# command for two machines, and then decide between DPO and RLHF with this course's own numbers.
#
# **You will**
#
# - count weights, gradients, optimiser, reference, activations and logits of a model that
#   you have not downloaded, and compare the sum with what was measured;
# - say what fits on a card of 16, 24, 48 or 80 GB;
# - build the speed-ups of a DPO step one by one, each shown to leave the loss as it was;
# - train on two processes, count the ranks from inside, and compare the weights;
# - weigh DPO against RLHF, and leave with a checklist.
#
# **You need** [04 · DPO from scratch](04_dpo_from_scratch.ipynb) and
# [05 · DPO with TRL](05_dpo_with_trl.ipynb). Measured on two CPU cores with `nano`: about
# half a minute of computing and 0.7 GB of memory, and as much again for each of two processes; allow an hour for reading. What takes longer is
# read from `benchmarks/results`; the script of the same name in `benchmarks/` makes it again.
#
# Back: [11 · Failure modes](11_failure_modes.ipynb) · Start:
# [00 · Start here](00_start_here.ipynb)

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
# ## A model without its weights
#
# The bill depends on a model's shape alone, and the shape is in its configuration, a few
# hundred bytes. On torch's `meta` device a model has shapes and no numbers, so a 70B model
# costs nothing to look at. `SHAPES` holds six configurations; no hub is asked.

# %%
import torch
from transformers import AutoModelForCausalLM

from dpo_tutorial.shapes import SHAPES

for name, config in SHAPES.items():
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    size = f"{model.num_parameters() / 1e9:8.4f}B parameters"
    print(f"{name:14}{size}, vocabulary {config.vocab_size:7,}")

# %% [markdown]
# ## What every parameter costs
#
# Training in float32 keeps four numbers of four bytes for each parameter: the weight, its
# gradient and Adam's two averages. The frozen reference adds a fifth. *Predict*, for the
# 7B model, the sum in GB before you run the cell.

# %%
from dpo_tutorial.costs import memory

batch = {"pairs": 1, "prompt_tokens": 512, "response_tokens": 512}
full = memory(SHAPES["Mistral-7B"], **batch)
with torch.device("meta"):
    mistral = AutoModelForCausalLM.from_config(SHAPES["Mistral-7B"])
N = mistral.num_parameters()
by_hand = {"weights": 4 * N, "gradients": 4 * N, "optimizer": 8 * N, "reference": 4 * N}
for part, size in by_hand.items():
    assert getattr(full, part) == size
    print(f"{part:10}{size / 1e9:7.1f} GB")
print(f"{'sum':10}{sum(by_hand.values()) / 1e9:7.1f} GB")

# %% [markdown]
# The package's `memory` counts the same. Large runs use **mixed precision**: arithmetic
# and gradients in bf16, and a float32 copy of the weights for Adam, which makes 16 bytes a
# parameter (Rajbhandari et al. 2020), and 2 more for a frozen bf16 reference. The sum of
# the parts is about the same; what shrinks is the activations.

# %%
mixed = memory(SHAPES["Mistral-7B"], precision="mixed", **batch)
states = mixed.weights + mixed.gradients + mixed.optimizer
print(
    f"{states / N:.0f} bytes a parameter, and {mixed.reference / N:.0f} for the reference"
)
mixed.table().round(1)

# %% [markdown]
# The table has one row for each phase of a step, because not everything lives at once:
# logits and activations are largest when the backward pass begins, gradients when it
# ends. The bill is the largest row.
#
# ## Activations and logits, seen
#
# Autograd keeps what the backward pass will need. How much that is can be seen: torch
# calls a hook for each tensor that it saves. Count the bytes on `nano`, once with logits
# at every position and once only where a response is scored.

# %%
from dpo_tutorial.losses import compute_log_probs
from dpo_tutorial.models import load_model, seed_everything

seed_everything(0)
nano, tokenizer = load_model("nano")
nano.eval()


def saved_bytes(forward):  # each storage once, parameters left out
    own = {p.untyped_storage().data_ptr() for p in nano.parameters()}
    seen = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = forward()
    return sum(seen.values()), loss


# %% [markdown]
# Four pairs, prompts of 64 tokens and responses of 32, random ids: memory does not care
# what the text says. The plain form makes logits everywhere and gathers the scored ones.

# %%
pairs, P, R = 4, 64, 32
shape = {"pairs": pairs, "prompt_tokens": P, "response_tokens": R}
ids = torch.randint(0, nano.config.vocab_size, (2 * pairs, P + R))  # (2B, T)
labels = ids.masked_fill(torch.arange(P + R) < P, -100)
mask = torch.ones_like(ids)


def everywhere():
    logits = nano(input_ids=ids, use_cache=False).logits[:, :-1]  # (2B, T-1, V)
    logps = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    return logps[:, P - 1 :].sum(1)  # (2B,)


plain, one = saved_bytes(everywhere)
lean, two = saved_bytes(lambda: compute_log_probs(nano, ids, mask, labels))
assert torch.allclose(one, two, atol=1e-4)
print(f"saved for the backward pass: {plain / 1e6:.1f} MB and {lean / 1e6:.1f} MB")

# %% [markdown]
# The same log-probabilities, and fewer logits. What does the calculator say of the two
# forms? It counts from the configuration; the hook has counted tensors. At its largest a
# step holds three tensors of the logits' size (the log-softmax, its gradient, and the
# gradient of the logits), of which autograd keeps the first.

# %%
for logits, counted in {"everywhere": plain, "responses": lean}.items():
    guess = memory(nano.config, logits=logits, **shape)
    kept = guess.activations + guess.logits / 3
    print(f"{logits:10} estimated {kept / 1e6:.1f} MB, counted {counted / 1e6:.1f} MB")
    assert abs(kept / counted - 1) < 0.05

# %% [markdown]
# `nano` has a vocabulary of under a thousand, so its logits are small. They are one number
# for each entry of the vocabulary and each position, three times, however deep the model is:

# %%
long = {"pairs": 8, "prompt_tokens": 512, "response_tokens": 512}
for name, config in SHAPES.items():
    a, b = (
        memory(config, logits=k, **long).logits for k in ("everywhere", "responses")
    )
    print(
        f"{name:14} logits everywhere {a / 1e9:6.1f} GB, at responses {b / 1e9:6.1f} GB"
    )

# %% [markdown]
# ## The calculator against measurements
#
# A formula that nobody checked is a rumour. `benchmarks/memory.py` took real DPO steps, each
# case in a process of its own, and noted by how much its peak resident memory grew over
# the loaded libraries. The file says on what machine; here are estimate and measurement.

# %%
import json

import pandas as pd

from dpo_tutorial import results_path

measured = json.loads(results_path("memory.json").read_text(encoding="utf-8"))
cases = pd.DataFrame(measured["cases"]).dropna(subset=["measured"])
cases["ratio"] = cases["estimate"] / cases["measured"]
print(measured["machine"], "· torch", measured["torch"])
low, high = cases["ratio"].min(), cases["ratio"].max()
print(f"{len(cases)} cases, estimate / measured from {low:.2f} to {high:.2f}")
assert 0.85 < low <= high < 1.15
cases.loc[::4, ["name", "shape", "pairs", "ratio"]].round(3)

# %% [markdown]
# The cases are full training with the reference beside it or ahead, LoRA, checkpointing,
# bf16, logits everywhere, other batches and lengths. One thing of the machine matters:
# memory that a program frees is not always given back, so the benchmark tells the
# allocator to return it.
# %%
import matplotlib.pyplot as plt

from dpo_tutorial.plotting import COLORS, use_style

use_style()
fig, axis = plt.subplots()
ends = [0, cases["measured"].max() * 1.05 / 1e9]
axis.plot(ends, ends, color=COLORS["reference"], ls="--", lw=1)
axis.fill_between(
    ends,
    [0.85 * e for e in ends],
    [1.15 * e for e in ends],
    alpha=0.2,
    color=COLORS["reference"],
)
for name, look in {
    "distilgpt2": ("o", "gold"),
    "SmolLM2-135M": ("s", "policy"),
}.items():
    part = cases[cases["shape"] == name]
    x, y = part["measured"] / 1e9, part["estimate"] / 1e9
    axis.plot(x, y, look[0], color=COLORS[look[1]], label=name)
axis.set(xlabel="measured, GB added", ylabel="estimated, GB")
worst = (cases["ratio"] - 1).abs().max()
axis.set_title(f"Estimated to within {worst:.0%} in {len(cases)} cases")
axis.legend()
plt.show()

# %% [markdown]
# *Figure: estimated against measured memory of DPO steps, one marker for
# each case, with the diagonal and a band of 15 % to both sides.*
#
# ## What fits on my card?
#
# Now the answer that you came for. One pair of 512 + 512 tokens a card, nine tenths of the
# card usable; a number is how many such cards you need, of 1, 2, 4, … 64, sharded with
# ZeRO-3 if it is more than one. Gradients are accumulated over several such batches, so
# they live beside the activations, which is why full training needs more than in the
# table above. *Predict:* does full DPO of a 7B fit on one card of 80 GB?

# %%
from dpo_tutorial.costs import what_fits

large = {name: SHAPES[name] for name in ("Qwen2.5-1.5B", "Mistral-7B", "Llama-3-70B")}
what_fits(shapes=large).round(0)

# %% [markdown]
# Read down one column. LoRA removes gradients, optimiser and reference for all but the
# adapters; QLoRA shrinks the weights too; checkpointing and logits at the responses keep
# activations small. `<NA>` says that not even 64 cards hold it. A full 7B
# does not fit on 80 GB in mixed precision, by no measure here; it does only all in bf16
# with 8-bit Adam, where small updates are lost.
#
# ## How long a step takes
#
# Time follows the arithmetic: 2 operations for each weight and token forward, 4 backward,
# of which LoRA saves about half, and 2 for a live reference. Divide by what your hardware
# achieves, which is less than its data sheet promises. Here is the arithmetic of
# an epoch over 60,000 pairs.

# %%
from dpo_tutorial.costs import flops

usual = {"pairs": 1, "prompt_tokens": 256, "response_tokens": 256}
for name, config in SHAPES.items():
    step = flops(config, **usual)
    adapters = flops(config, trainable="lora", reference="precomputed", **usual)
    hours = 60_000 * step / 400e12 / 3600  # one accelerator that achieves 400 TFLOP/s
    print(
        f"{name:14} {step:8.1e} operations a pair, {hours:8.2f} h; LoRA, reference ahead, {adapters / step:.2f} of it"
    )

# %% [markdown]
# The rate is an assumption, stated in the cell; put your own in. On the
# machine of the benchmark the rate of the first case predicts the others so (`ratio`):

# %%
times = pd.DataFrame(measured["times"])
times["ratio"] = times["predicted_seconds"] / times["seconds"]
times["GFLOP/s"] = times["flops"] / times["seconds"] / 1e9
times[["name", "shape", "pairs", "GFLOP/s", "ratio"]].round(2)

# %% [markdown]
# Much looser than memory. Arithmetic is not all that a step does: the optimiser reads and
# writes every weight, and small products run below the rate of large ones.

# %% [markdown]
# ## Speed, one measure at a time
#
# The plainest correct step runs the policy on the chosen responses, again on the rejected
# ones, and the reference twice more, with logits everywhere. Build it on eight pairs of
# reviews, as the yardstick for all that follows.

# %%
from dpo_tutorial.data import collate, tokenize_pair
from dpo_tutorial.reviews import preference_pairs

rows = [tokenize_pair(pair, tokenizer) for pair in preference_pairs(64, seed=1)]
eight = collate(rows[:8], tokenizer.pad_token_id)  # (16, T): chosen, then rejected
calls = []
hook = nano.register_forward_hook(
    lambda model, inputs, out: calls.append(out.logits.shape[:2])
)


def plain_log_probs(input_ids, attention_mask, labels):
    logits = nano(input_ids, attention_mask=attention_mask, use_cache=False).logits
    logps = logits[:, :-1].log_softmax(-1)  # (B, T-1, V)
    picked = logps.gather(-1, input_ids[:, 1:, None])[..., 0]
    return (picked * (labels[:, 1:] != -100)).sum(1)  # (B,)


def halves(batch):
    return [{k: v[part] for k, v in batch.items()} for part in (slice(8), slice(8, 16))]


with torch.no_grad():
    yardstick = torch.cat([plain_log_probs(**half) for half in halves(eight)])
print(calls, "positions with logits:", sum(b * t for b, t in calls))

# %% [markdown]
# **One forward.** Chosen and rejected stand in one batch: half the calls, equal work. On a
# GPU larger products are also faster ones.

# %%
calls.clear()
with torch.no_grad():
    together = plain_log_probs(**eight)
print(calls, f"largest difference {(together - yardstick).abs().max():.0e} nats")
assert torch.allclose(together, yardstick, atol=1e-4)

# %% [markdown]
# **Logits only where responses are.** `compute_log_probs` gives the model the positions
# that are scored by some row; the others never meet the vocabulary.

# %%
calls.clear()
with torch.no_grad():
    at_responses = compute_log_probs(nano, **eight)
print(calls, f"largest difference {(at_responses - yardstick).abs().max():.0e} nats")
assert torch.allclose(at_responses, yardstick, atol=1e-4)
hook.remove()

# %% [markdown]
# **The reference once, ahead.** It does not change, so neither do its log-probs. Over $E$
# epochs a live reference costs $E$ forwards of each pair and sits in memory; computed once
# it costs one, and the model is gone. `TinyDPOTrainer` always does so.
#
# **Padding by length bucket.** A batch is as wide as its longest row. If rows of like
# length meet, less of it is padding. Count the positions of an epoch of 64 pairs.

# %%
from dpo_tutorial.speed import bucketed


def width(batch):
    return collate([rows[i] for i in batch], tokenizer.pad_token_id)[
        "input_ids"
    ].numel()


mixed_batches = torch.randperm(64).view(8, 8).tolist()
buckets = bucketed(rows, 8, seed=0)
alike = [next(buckets) for _ in range(8)]
assert sorted(i for batch in alike for i in batch) == list(range(64))
tokens = sum(
    len(r["prompt_ids"]) * 2 + len(r["chosen_ids"]) + len(r["rejected_ids"])
    for r in rows
)
for label, batches in {"at random": mixed_batches, "by length": alike}.items():
    print(f"{label}: {sum(map(width, batches))} positions for {tokens} tokens")

# %% [markdown]
# Every pair is still seen once, in another company: losses by step differ from those of
# random batches, and lengths now vary between steps. Bucketing is therefore the one measure
# of this list that changes the run, if not the data.
#
# ## The prompt once for both
#
# Chosen and rejected begin with the same prompt, and it is encoded twice. **Prefix sharing**
# (Wang and Hegde 2024) puts prompt, chosen and rejected in one row. Two things must be right, or the
# log-probs are wrong without a word: the rejected response must not see the chosen one, and
# its positions must go on from the prompt's end. Write the mask for a hand-sized row.

# %%
p, c, r = 3, 2, 4  # tokens of prompt, chosen, rejected
part = torch.tensor([0] * p + [1] * c + [2] * r)
earlier = torch.ones(p + c + r, p + c + r, dtype=torch.bool).tril()
sees = earlier & ((part[None] == 0) | (part[None] == part[:, None]))  # (T, T)
position = torch.tensor([*range(p), *range(p, p + c), *range(p, p + r)])
print(position.tolist())

# %%
fig, axis = plt.subplots(figsize=(4, 3.5))
axis.imshow(sees, cmap="cividis")
axis.grid(False)
names = ["p"] * p + ["c"] * c + ["r"] * r
axis.set_xticks(range(len(names)), names)
axis.set_yticks(range(len(names)), names)
axis.set(xlabel="token that is seen", ylabel="token that sees")
axis.set_title("The rejected response does not see the chosen")
plt.show()

# %% [markdown]
# *Figure: attention mask of nine tokens, three of the prompt (p), two chosen (c), four
# rejected (r); light where a token sees another. Below the diagonal all is light but the block
# where rejected tokens would see chosen ones.*
#
# Now one real pair by hand. The prompt's last token predicts the first token of *both*
# responses, which is the off-by-one that this layout invites.

# %%
row = rows[0]
prompt, chosen, rejected = (
    row[k] for k in ("prompt_ids", "chosen_ids", "rejected_ids")
)
p, c, r = len(prompt), len(chosen), len(rejected)
part = torch.tensor([0] * p + [1] * c + [2] * r)
sees = torch.ones(p + c + r, p + c + r, dtype=torch.bool).tril()
sees &= (part[None] == 0) | (part[None] == part[:, None])
place = torch.tensor([[*range(p), *range(p, p + c), *range(p, p + r)]])
line = torch.tensor([prompt + chosen + rejected])

with torch.no_grad():
    logps = (
        nano(line, attention_mask=sees[None, None], position_ids=place)
        .logits[0]
        .log_softmax(-1)
    )
sources = [p - 1, *range(p, p + c - 1)], [p - 1, *range(p + c, p + c + r - 1)]
by_hand = [
    logps[list(s), ids].sum()
    for s, ids in zip(sources, (chosen, rejected), strict=True)
]
print([round(x.item(), 4) for x in by_hand], yardstick[[0, 8]].tolist())
assert torch.allclose(torch.stack(by_hand), yardstick[[0, 8]], atol=1e-4)

# %% [markdown]
# The package does the same for a padded batch, under the argument `share_prompt`. It must
# agree with the plain form in log-probs and in gradients.

# %%
from dpo_tutorial.speed import preference_log_probs


def gradient(**ways):
    nano.zero_grad()
    logps = preference_log_probs(nano, rows[:8], tokenizer.pad_token_id, **ways)
    (logps[:8] - logps[8:]).sum().backward()
    return logps.detach(), torch.cat([w.grad.flatten() for w in nano.parameters()])


plain = gradient(concatenate=False, logits="all")
for ways in ({}, {"share_prompt": True}, {"share_prompt": True, "logits": "chunks"}):
    logps, grads = gradient(**ways)
    apart = (
        (logps - plain[0]).abs().max(),
        (grads - plain[1]).abs().max() / plain[1].abs().max(),
    )
    print(ways, "log-probs {:.0e}, gradient {:.0e}".format(*apart))
    assert max(apart) < 1e-4
nano.zero_grad()

# %% [markdown]
# What is the gain worth? For prompts of $P$ and responses of $R$ tokens the plain form
# encodes $2(P + R)$ tokens a pair and this one $P + 2R$: predict the share for 64 and 32,
# then for 512 and 128.

# %%
for P, R in ((64, 32), (512, 128), (64, 512)):
    print(f"prompt {P}, response {R}: {(P + 2 * R) / (2 * (P + R)):.2f} of the tokens")

# %% [markdown]
# ## What each was worth
#
# Timing needs a quiet machine and both sides in turn; `benchmarks/step.py` does that on
# the distilgpt2 shape and on `nano`. The file's own words first, then each measure's gain.

# %%
step = json.loads(results_path("step.json").read_text(encoding="utf-8"))
print(
    {
        k: step["machine"][k]
        for k in ("architecture", "cores", "torch", "trl", "bfloat16")
    }
)
gains = pd.DataFrame(step["gains"])
gains[["time", "low", "high"]] = gains["time_ratio"].tolist()
gains[["name", "shape", "time", "low", "high", "memory_ratio"]].round(2)

# %% [markdown]
# Each row compares a step with the measure and the same step without it, run in turns: time
# as a ratio (median, lowest and highest of the rounds) and memory added as a ratio. The
# first six stand each on the one before, beginning with the plain step; chunks, LoRA and
# bf16 each on the sixth. All but bf16 leave the log-probs as they are, to rounding.
#
# What helps depends on the shape: one kernel for GELU is little for distilgpt2, whose matrices
# are large, and much of `nano`'s memory. LoRA saves where weights are many.
#
# The goal of this package was half of TRL's time and three fifths of the memory that TRL's
# steps add, at the same loss. Same rows, same batch, same first weights, losses compared at
# every step:

# %%
fair = pd.DataFrame(step["comparisons"]).dropna(subset=["time_ratio"])
fair["time"] = [t[0] for t in fair["time_ratio"]]
fair["range"] = [f"{low:.2f} to {high:.2f}" for _, low, high in fair["time_ratio"]]
assert fair["largest_loss_gap"].max() < 1e-4
fair[
    ["shape", "lora", "pairs", "logits", "trl", "time", "range", "memory_ratio"]
].round(2)

# %% [markdown]
# The rows say what the goal is met against. In time it is met against TRL as it comes, with
# a live reference, and against TRL with `precompute_ref_log_probs=True`. In memory it is met
# against TRL as it comes. Against TRL with the reference ahead it is missed for four pairs of
# the distilgpt2 shape with all weights trained, and met for eight: gradients and Adam's two averages are three numbers a parameter on both
# sides, and no measure that leaves the result as it was touches them.

# %%
adam = memory(SHAPES["distilgpt2"], reference="precomputed", **shape)
both = (adam.gradients + adam.optimizer) / 2**20
ours = fair.query("shape == 'distilgpt2' and not lora and pairs == 4").iloc[0]["ours"]
print(
    f"gradients and Adam: {both:.0f} of the {ours['added_mib']:.0f} MiB that our steps add"
)

# %% [markdown]
# That is where LoRA comes in, which trains few parameters, and after it sharding.
#
# How do time and memory grow? Four axes, one at a time.

# %%
growth = pd.DataFrame(step["growth"])
fig, axes = plt.subplots(2, 4, figsize=(9, 4.2), sharex="col", layout="constrained")
for column, (axis, part) in zip(
    axes.T, growth.groupby("axis", sort=False), strict=True
):
    for ax, what in zip(column, ("seconds", "added_mib"), strict=True):
        theirs, ours = ([row[what] for row in part[who]] for who in ("theirs", "ours"))
        ax.plot(part["value"], theirs, "s--", color=COLORS["reference"], label="TRL")
        ax.plot(part["value"], ours, "o-", color=COLORS["policy"], label="ours")
        ax.set_ylim(bottom=0)
    column[1].set_xlabel(axis if axis == "pairs" else axis + ", tokens")
axes[0, 0].set_ylabel("seconds a step")
axes[1, 0].set_ylabel("MiB added")
axes[0, 0].legend()
fig.suptitle("Time and memory of a step as each axis grows")
plt.show()

# %% [markdown]
# *Figure: seconds a step (above) and memory added (below) for TRL's trainer, its reference
# computed ahead, and ours, against pairs, prompt tokens, response tokens and vocabulary.*

# %%
for row in step["gpu"]:
    print(row["shape"], row["dtype"], row["status"])

# %% [markdown]
# ## More than one process
#
# When one card is too slow, several share each batch (**DDP**: every rank holds
# everything). When one card is too small, the state itself is divided: optimiser (ZeRO 1),
# gradients too (2), weights too, a live
# reference's with them (3; PyTorch's own **FSDP2** is the same idea). None of this
# may change the result, and that is a claim to check.
#
# Ranks first. `recipes/train.py` is TRL's `DPOTrainer` with one more argument,
# `--expect_ranks`: every rank adds a one to a sum over all of them, and the run stops if the
# sum is another. `WORLD_SIZE` would not do, since it says what was wished for.

# %%
import tempfile
from pathlib import Path

from dpo_tutorial.launch import accelerate_command, largest_difference, train

ddp, script = "recipes/accelerate/ddp.yaml", "recipes/train.py"
options = [
    "--config",
    "recipes/dpo_nano.yaml",
    "--use_cpu",
    "true",
    "--expect_ranks",
    "2",
]
print("python", *accelerate_command(ddp, script, *options)[1:])

# %% [markdown]
# Four steps of eight pairs with `nano`, in one process and in two, which meet through
# gloo, a library for processes without GPUs. Each of two ranks gets four of the eight
# pairs. *Predict:* how far apart may the weights be afterwards?

# %%
keys = "prompt", "chosen", "rejected"
rows32 = [{k: getattr(pair, k) for k in keys} for pair in preference_pairs(32, seed=1)]
with tempfile.TemporaryDirectory() as scratch:
    one = train(Path(scratch) / "one", rows32, "one")
    two = train(Path(scratch) / "two", rows32, "ddp")
    weights_apart = largest_difference(one["weights"], two["weights"])
losses_apart = max(
    abs(a - b) for a, b in zip(one["losses"], two["losses"], strict=True)
)
print("ranks, counted by each:", one["ranks"], two["ranks"])
print(f"apart: losses {losses_apart:.0e}, weights {weights_apart:.0e}")
assert two["ranks"] == [2, 2]
assert max(losses_apart, weights_apart) < 1e-4

# %% [markdown]
# Only the order of a sum has changed. `benchmarks/processes.py` ran the same four steps on
# every engine of `recipes/accelerate`, and on two "machines" of two ranks each: two torchrun
# agents that meet by rendezvous. `tests/test_processes.py` runs them again.

# %%
runs = json.loads(results_path("processes.json").read_text(encoding="utf-8"))
table = pd.DataFrame(runs["runs"]).T
for what in ("weights", "adam"):
    table["share of " + what] = [f"{held[0][what]:.0%}" for held in table["held"]]
assert table[["loss_difference", "weight_difference"]].max(axis=None) < 1e-4
assert table["moved"].min() > 1e-3
print(runs["machine"], runs["versions"])
for what in ("loss_difference", "weight_difference"):
    table[what] = [f"{apart:.0e}" for apart in table[what]]
columns = [
    "ranks",
    "share of weights",
    "share of adam",
    "loss_difference",
    "weight_difference",
]
table[columns]

# %% [markdown]
# All engines end in the same weights, to rounding. The cell asserts as well that the weights
# moved, since runs in which nothing moved would agree too. The shares are what rank 0 holds
# between steps: DDP everything; ZeRO-2 half of Adam's averages; FSDP2 and ZeRO-3 half of the
# weights too, except that ZeRO-3 by default keeps small tensors whole (`zero3`), and
# most of `nano`'s are small; `zero3_json` lets the Trainer set
# that threshold to ten times the model's width: 1,280 numbers here, not 100,000.
#
# ### The launch that lies
#
# The same launcher with `distributed_type: MULTI_CPU`, which looks like the right word for
# this machine, asks for two processes as well. What came:

# %%
for name, seen in runs["launches"].items():
    print(f"{name}: {seen['together']} together, {seen['finished']} run(s) finished")

# %% [markdown]
# `MULTI_CPU`: one process, which trains on everything, and no line says so. accelerate's
# launcher turns `MULTI_GPU` into torchrun and `MULTI_CPU` into nothing, unless there is a
# host file for MPI (`accelerate/commands/launch.py`). `MULTI_GPU` without `--use_cpu true`
# on a machine without GPUs is the reverse: two processes that each believe to be alone and
# finish the same run twice. **Count the ranks.**
#
# ### A rank dies
#
# Machines fail. One of the four ranks of `agents` was killed in the middle of the run; the
# others must not wait for ever, and the run must go on from its checkpoint to the same
# weights.

# %%
killed = runs["killed"]
print(
    f"rank {killed['rank']} of {len(killed['ranks'])} killed at step {killed['step']}; an error within a minute: {killed['seconds_to_stop'] < 60}"
)
print(
    f"resumed, weights apart from the unbroken run: {killed['weight_difference']:.0e}"
)
print(
    "merged and loaded again:",
    {k: (v["files"], v["logit_difference"]) for k, v in runs["merged"].items()},
)

# %% [markdown]
# FSDP2 and ZeRO-3 write a checkpoint in pieces: FSDP2 a file for each rank and an index,
# ZeRO-3 two for each rank, of the model and of the optimiser. The last line merged the
# pieces (`accelerate merge-weights`; DeepSpeed's `zero_to_fp32`) and loaded the whole:
# number of files, largest difference of a logit.
#
# ### Two hosts
#
# On two real hosts the command is the same on both, with the first one's address:
#
# ```bash
# torchrun --nnodes 2 --nproc_per_node 4 --rdzv_backend c10d \
#     --rdzv_id dpo --rdzv_endpoint FIRST_HOST:29500 \
#     recipes/train.py --config recipes/dpo_nano.yaml \
#     --per_device_train_batch_size 1 --expect_ranks 8
# ```
#
# **This was not executed here**, for want of a second host; what was executed is this
# command with two ranks each and two pairs a rank, twice on one machine over loopback, the
# row `agents` above. `recipes/slurm.sh`
# is the same for a cluster with Slurm, and not executed either. The article's configuration,
# DeepSpeed ZeRO-3 as JSON, is `recipes/deepspeed_zero3.json`, the row `zero3_json`.
#
# What sharding is worth depends on the model. The calculator says, for a 70B on one card and
# on sixteen:

# %%
seventy = {
    "precision": "mixed",
    "checkpointing": True,
    "reference": "precomputed",
    **batch,
}
for sharding, cards in {"none": 1, "zero1": 16, "zero2": 16, "zero3": 16}.items():
    need = memory(SHAPES["Llama-3-70B"], sharding=sharding, devices=cards, **seventy)
    print(f"{sharding:6} {need.total / 1e9:7.1f} GB a card")
# %% [markdown]
# ## DPO or RLHF
#
# The article ends with a list: take DPO where you have pairs and little hardware, RLHF
# where you want to explore. You can now do better than a list, since this course measured
# both sides of most decisions. The lines below are quoted from the executed notebooks by
# `benchmarks/course.py`; nothing is typed twice.

# %%
quoted = json.loads(results_path("course.json").read_text(encoding="utf-8"))


def quote(*names):
    for name in names:
        print(f"{name} ({quoted[name]['notebook'][:2]})")
        print(*(f"    {line.rstrip()}" for line in quoted[name]["lines"]), sep="\n")


quote("models in memory", "samples", "ppo gets there")

# %% [markdown]
# **What it costs.** PPO holds four models and trains two of them, the policy and the value
# model; the reference and the reward model are frozen. DPO trains one and can do without
# the second (notebook 01; the columns after the name are `nano`,
# distilgpt2, a 7B, and of the 7B its trained policy alone; activations are left out). PPO
# also samples while it trains, and every sample must be scored; DPO reads a file. In the
# enumerable world of notebook 02 policy gradient still reaches the very optimum that DPO's
# derivation promises. **Decision:** short of hardware or of a serving stack, DPO.

# %%
quote("one nat", "learnt reward", "beta")

# %% [markdown]
# **What it reaches.** At an equal distance from the reference, one nat, policy gradient on
# a *learnt* reward is ahead of offline DPO here, and best-of-n on the same reward as well;
# the intervals of DPO and the others overlap. The policy gradient climbs only until
# the proxy stops being true; then the gold reward turns while the promised one goes on rising.
# Published comparisons on large models lean the same way where PPO is tuned with care
# (Xu et al. 2024; Ivison et al. 2024), at several times the work. **Decision:** if the last
# points of quality matter and you can score fresh samples, RLHF, or DPO made online.
#
# Choose beta on a frontier of reward against KL. The pair accuracy, which every trainer
# prints, chose the worst of the four settings in the last lines.

# %%
quote("finite data", "displacement", "silent faults")

# %% [markdown]
# **How it fails.** With pairs that were each labelled once, DPO's optimum is not RLHF's: the
# labels look deterministic and the loss drives the policy on to the one best response
# (notebook 02). The log-probability of the *chosen* response falls too (06). And not every
# mistake is heard: of the failures planted in notebook 11, preflight, diagnosis and the
# screens each spoke about little more than half. **Decision:** whichever you take, sample
# from the policy and read the samples.

# %%
quote("ai feedback", "rounds")

# %% [markdown]
# **In the middle: online DPO.** Sample from the current policy, have pairs judged, train,
# and repeat: RLHF's exploration with DPO's loss, and no value model. In notebook 10 fresh
# pairs gained over stale ones when the arms are averaged, an average chosen after looking;
# no single comparison leaves out zero. What the judge likes decides what comes out: with
# length-biased labels the labeller's own win rate rises while an unbiased arbiter's falls.
# TRL has this loop as `trl.experimental.online_dpo.OnlineDPOTrainer` (Guo et al. 2024).
# **Decision:** if you can label during training, a few rounds of DPO before you build PPO.

# %%
quote("variants", "judges", "tax")

# %% [markdown]
# **What to change first.** A variant pays where its assumption holds: a length-normalised
# loss where labels like length, ORPO where there was no SFT stage. Against noise, nothing
# here beat plain DPO reliably (notebook 08). Evaluate with places swapped and lengths
# controlled, and look at what was forgotten: the neutral text's perplexity in the last
# line rose while every ranked skill stood still (09).
#
# | decision | DPO | online DPO | RLHF (PPO) |
# |---|---|---|---|
# | models in memory | policy; reference ahead of time | + a judge | policy, value, reference, reward |
# | sampling during training | none | each round | each step |
# | labels | pairs, fixed | pairs, fresh | pairs for the reward model, then its scores |
# | reward you can query (tests, rules) | only through pairs | through pairs | directly |
# | typical failure | displacement, length, stale pairs | the judge's taste | reward hacking, instability |
# | to tune | beta, rate, steps | + rounds | + value model, clipping, rollouts |
# | stop when | gold or judged win rate turns at a KL you accept | the same, by round | the same, by step |
#
# *PPO's last two rows are the literature's (Zheng et al. 2023, arXiv 2307.04964); this
# course ran policy gradient with a KL penalty and no value model of its own.*
#
# ## The checklist
#
# For the wall. Each line names the notebook that showed it.
#
# **Before**
#
# - [ ] The SFT model is good at the task; DPO sharpens and does not teach (08).
# - [ ] Pairs: no prompt in two splits, no contradiction unnoticed, no length skew (03).
# - [ ] One masked batch decoded to text: response scored, EOS scored, prompt and pads not (04).
# - [ ] The first loss is $\ln 2$, with dropout off (04), and that is *not* proof of the right
#   reference (05).
# - [ ] The bill is known: memory and hours, before the card is rented (12).
#
# **During**
#
# - [ ] Held-out loss and margins beside the training ones; chosen log-probs watched (06).
# - [ ] KL to the reference measured on samples, not guessed from beta (07).
# - [ ] Ranks counted from inside the run (12).
# - [ ] Samples read at every evaluation (11).
#
# **After**
#
# - [ ] Win rate with an interval, places swapped, length controlled, unparseable counted (09).
# - [ ] What was forgotten: ranked tasks *and* perplexity (09).
# - [ ] A second judge that did not label the data (10).
# - [ ] Two or three seeds before any claim about a method (08).
# - [ ] When it failed: the symptom page, one repair at a time, before and after (11).
#
# ## What you did
#
# - You counted the memory of models that you never loaded, and saw the count agree with
#   measurements.
# - You answered what fits on which card, and what arithmetic a run takes.
# - You built the speed-ups one by one, and saw each leave the log-probs where they were.
# - You trained on two processes, counted the ranks, and found the same weights.
# - You set DPO beside RLHF with numbers that this course measured.
#
# What a toy shows: exactness, ratios on two cores, and the traps of launching, which do not
# depend on size. What it does not show: the speed of real interconnects, fused attention
# kernels, and how near a GPU comes to its data sheet. Rows that were not measured say so.
#
# ## Exercises
#
# 1. *Mathematics.* For which prompts does prefix sharing save more than a third of the
#    tokens? Answer for responses of $R$ tokens, then check with a cell.
#
# <details><summary>Answer</summary>
#
# $(P + 2R) / (2P + 2R) < 2/3$ gives $3P + 6R < 4P + 4R$, so $P > 2R$: prompts of more than
# twice the response's length. With 64 and 32 it is exactly a third.
# </details>
#
# 2. *Implementation.* Two micro-batches of one pair instead of one batch of two: from the
#    parts of `memory` without `accumulate`, work out the row "loss" of each, then compare
#    with `accumulate=True`. Which parts change?
#
# <details><summary>Answer</summary>
#
# Activations and logits are those of one pair. Weights, optimiser and reference stay;
# gradients now live through the second forward too, so that they are added to the phase
# in which activations are largest.
# </details>
#
# 3. *Experiment.* Let rejected tokens see chosen ones in the mask by hand. Predict which of
#    the two log-probs changes, then run.
#
# <details><summary>Answer</summary>
#
# Only the rejected one's: the chosen tokens stand before and still see the prompt alone. The
# loss stays finite and plausible, and the first loss is still $\ln 2$ if the reference makes
# the same mistake, so nothing but a comparison with the plain form shows it.
# </details>
#
# 4. *Find the bug.* Two ranks, each with half the batch, and the weights differ from those
#    of one process by $10^{-3}$. The ranks are two. Name two causes.
#
# <details><summary>Answer</summary>
#
# The two saw other pairs (a sampler that shuffles with another seed, or batches that are
# split differently), or the average is wrong: a loss averaged by token and not by pair,
# gradients summed and not averaged, or clipping by each rank's own norm.
# </details>
#
# ## Further reading
#
# - Rajbhandari et al. 2020, [ZeRO](https://arxiv.org/abs/1910.02054): optimiser, gradients
#   and weights divided.
# - Korthikanti et al. 2022, [Reducing Activation Recomputation in Large Transformer
#   Models](https://arxiv.org/abs/2205.05198): what activations cost.
# - Dettmers et al. 2023, [QLoRA](https://arxiv.org/abs/2305.14314): weights in 4 bits.
# - Wang and Hegde 2024, [Accelerating DPO with Prefix Sharing](https://arxiv.org/abs/2410.20305).
# - Xu et al. 2024, [Is DPO Superior to PPO for LLM Alignment?](https://arxiv.org/abs/2404.10719),
#   and Ivison et al. 2024, [Unpacking DPO and PPO](https://arxiv.org/abs/2406.09279).
# - Guo et al. 2024, [Direct Language Model Alignment from Online AI
#   Feedback](https://arxiv.org/abs/2402.04792): online DPO.
# - Rafailov et al. 2023, [Direct Preference Optimization](https://arxiv.org/abs/2305.18290).
#
# Back: [11 · Failure modes](11_failure_modes.ipynb) · Start:
# [00 · Start here](00_start_here.ipynb)
