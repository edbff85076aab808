# %% [markdown]
# # 05 · DPO with TRL: exercises
#
# Four tasks on LoRA's memory, lost endings, learning rates and a wrong reference, about
# 39 minutes in all.
#
# You need the chapter, [05 · DPO with TRL](../05_dpo_with_trl.ipynb), and nothing beyond
# it. Put your answer where a cell says `YOUR CODE HERE`, then run the check below it:
# silence means that it passed, and a failed check says what to think about. The tasks do
# not depend on one another. When you have tried them all, compare with the
# [solutions](../solutions/05_dpo_with_trl.ipynb).
#
# BADGE

# %%
# BOOTSTRAP

# %% [markdown]
# All tasks use the course's smallest model, `nano`, on the processor, with the settings
# of the chapter and its function `build`. `reference` is the model before DPO.

# %%
import copy
import tempfile
import warnings

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import PrinterCallback
from trl import DPOConfig, DPOTrainer

from dpo_tutorial.data import collate, tokenize_pair
from dpo_tutorial.losses import compute_log_probs, dpo_loss
from dpo_tutorial.models import seed_everything
from dpo_tutorial.reviews import load_sft_model, preference_pairs

warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
seed_everything(0)
reference, tokenizer = load_sft_model("nano")
reference = reference.cpu()

# %%
folder = tempfile.TemporaryDirectory()
settings = {"learning_rate": 2e-3, "adam_epsilon": 1e-3, "weight_decay": 0.0, "seed": 1}
settings |= {"per_device_train_batch_size": 8, "max_steps": 12, "logging_steps": 1}
settings |= {"bf16": False, "max_length": None, "gradient_checkpointing": None}
settings |= {"output_dir": folder.name, "report_to": "none", "save_strategy": "no"}
settings |= {"disable_tqdm": True, "use_cpu": True}


def build(model, rows, tokenizer=tokenizer, peft_config=None, **changes):
    """A DPOTrainer with the settings above, but for the changes."""
    given = {"args": DPOConfig(**(settings | changes)), "processing_class": tokenizer}
    given |= {"peft_config": peft_config, "train_dataset": Dataset.from_list(rows)}
    trainer = DPOTrainer(model, **given)
    trainer.remove_callback(PrinterCallback)
    return trainer


fields = ("prompt", "chosen", "rejected")
pairs = preference_pairs(96, seed=1)
rows = [{name: getattr(pair, name) for name in fields} for pair in pairs]
held_out = preference_pairs(32, seed=9, split="held_out")
batch = [tokenize_pair(pair, tokenizer) for pair in held_out]
batch = collate(batch, tokenizer.pad_token_id)  # 32 chosen, then 32 rejected
lora = LoraConfig(
    r=8,
    lora_alpha=16,
    target_modules="all-linear",
    task_type="CAUSAL_LM",
    fan_in_fan_out=True,  # GPT-2 stores its matrices that way
)

# %% [markdown]
# ## Task 1 · The bill before the run
#
# *Kind: mathematics on paper and in a cell · Level: medium · 10 minutes*
#
# LoRA puts beside a matrix with `n_in` inputs and `n_out` outputs two others: $A$ with
# $r$ rows and `n_in` columns, $B$ with `n_out` rows and $r$ columns. Only these are
# trained. All numbers are 32-bit, 4 bytes each; Adam keeps two averages of each trained
# number; the full run has a second model as its reference, the LoRA run needs none.
#
# Write `bill`: for a model whose matrices have the `shapes` `(n_in, n_out)` and which has
# `other` parameters besides (embeddings, biases, norms), return how many numbers are
# trained and how many bytes the run holds in weights, gradients, Adam's averages and the
# reference. With `r=None` it is the full run, which trains everything.


# %% nbgrader={"grade": false, "grade_id": "task1", "locked": false, "schema_version": 3, "solution": true, "task": false}
def bill(shapes, other, r=None):
    """(trained numbers, bytes in all) of a full run, or of LoRA with rank `r`."""
    ### BEGIN SOLUTION
    base = sum(n_in * n_out for n_in, n_out in shapes) + other
    if r is None:
        return base, 4 * (base + base + 2 * base + base)
    added = sum(r * (n_in + n_out) for n_in, n_out in shapes)
    return added, 4 * (base + added + added + 2 * added)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "task1_check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
def measured(model, second):
    """(trained numbers, bytes): count the tensors of one step of a real run."""
    trained = [p for p in model.parameters() if p.requires_grad]
    adam = torch.optim.AdamW(trained)
    for p in trained:
        p.grad = torch.zeros_like(p)
    adam.step()
    tensors = [*model.parameters(), *(p.grad for p in trained), *second]
    for state in adam.state.values():
        tensors += [state["exp_avg"], state["exp_avg_sq"]]
    total = sum(t.numel() * t.element_size() for t in tensors)
    return sum(p.numel() for p in trained), total


shapes = [
    tuple(module.weight.shape)
    for name, module in reference.named_modules()
    if name.endswith(("c_attn", "c_proj", "c_fc"))
]
other = reference.num_parameters() - sum(a * b for a, b in shapes)
full = copy.deepcopy(reference)
trained, size = bill(shapes, other)
want, want_size = measured(full, reference.parameters())
assert trained == want, f"a full run trains all {want:,} numbers, `other` among them"
assert size != want_size - 4 * want, (
    "full run: one of its five parts is missing. Adam keeps two numbers for each that is "
    "trained, and the reference is a model too"
)
assert size == want_size, (
    f"full run: found {size:,} bytes, expected {want_size:,}. Weights, gradients, Adam's "
    "two averages, the reference: how many numbers each, of 4 bytes?"
)
wrapped = get_peft_model(copy.deepcopy(reference), lora)
trained, size = bill(shapes, other, r=8)
want, want_size = measured(wrapped, [])
assert trained != sum(8 * a * b for a, b in shapes), (
    "r times n_in times n_out is more than the matrix itself: count the entries of A and "
    "of B"
)
assert trained == want, (
    f"PEFT trains {want:,} numbers, you count {trained:,}: A and B are both trained, and "
    "their sizes differ where n_in and n_out do"
)
assert size < bill(shapes, other)[1], "LoRA should come cheaper than the full run"
assert size != want_size + 4 * (want_size // 4 - 4 * want), (
    "LoRA: 4 bytes too many for each number of the base. Is a second model counted, "
    "though switching the adapters off gives the reference? Or gradients for what is not "
    "trained?"
)
assert size == want_size, (
    f"LoRA: found {size:,} bytes, a real run holds {want_size:,}. The base's weights stay "
    "in memory, with the adapters beside them; gradients and Adam's averages are for what "
    "is trained"
)
### BEGIN HIDDEN TESTS
assert bill([(3, 5)], 2) == (17, 4 * 17 * 5), "full run of 17 numbers"
assert bill([(3, 5), (10, 4)], 7, r=2) == (44, 4 * (62 + 4 * 44)), "LoRA, two matrices"
wrapped = get_peft_model(
    copy.deepcopy(reference),
    LoraConfig(r=3, target_modules="all-linear", fan_in_fan_out=True),
)
assert bill(shapes, other, r=3) == measured(wrapped, []), "LoRA with rank 3"
### END HIDDEN TESTS

# %% [markdown]
# For a square matrix of width $n$ LoRA trains as many numbers as the full run at
# $r = n/2$: small matrices gain little. With rank 8 on widths of thousands the trained
# part vanishes from the bill, and what is left is the base.
#
# ## Task 2 · What did the limit take?
#
# *Kind: implementation · Level: medium · 8 minutes*
#
# TRL cuts and drops without a word. Write the check to run before every training:
# `lost` returns two counts, the **pairs** of `rows` that are no longer in
# `trainer.train_dataset`, and the **responses** (two a pair that stayed) of which no EOS
# is scored. Batches come from `trainer.data_collator`, as in the chapter; a batch holds
# the chosen responses first, then the rejected ones. Mind that this tokenizer pads with
# EOS.
#
# The cell builds four trainers to try it on: without limit, with two limits, and with a
# ChatML template whose end of turn is not this tokenizer's EOS.

# %%
some = rows[:16]
chatml = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
chat = copy.deepcopy(tokenizer)
chat.chat_template = chatml
roles = dict(zip(fields, ("user", "assistant", "assistant"), strict=True))
talks = [{k: [{"role": roles[k], "content": row[k]}] for k in fields} for row in some]
trainers = {
    "no limit": build(copy.deepcopy(reference), some),
    "max_length 16": build(copy.deepcopy(reference), some, max_length=16),
    "max_length 8": build(copy.deepcopy(reference), some, max_length=8),
    "ChatML": build(copy.deepcopy(reference), talks, chat),
}
example = trainers["no limit"]
example = example.data_collator([dict(row) for row in example.train_dataset])
print({name: tuple(value.shape) for name, value in example.items()})


# %% nbgrader={"grade": false, "grade_id": "task2", "locked": false, "schema_version": 3, "solution": true, "task": false}
def lost(trainer, rows, tokenizer):
    """(pairs that were dropped, responses of the others without a scored EOS)."""
    ### BEGIN SOLUTION
    stayed = [dict(row) for row in trainer.train_dataset]
    batch = trainer.data_collator(stayed)
    is_eos = batch["input_ids"] == tokenizer.eos_token_id
    ends = (is_eos & batch["completion_mask"].bool()).any(1)  # (2 x pairs,)
    return len(rows) - len(stayed), int((~ends).sum())
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "task2_check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
def ids_lost(rows, limit):
    """The same for plain texts, counted from token ids, without TRL."""
    dropped = unended = 0
    for row in rows:
        ids = tokenize_pair(row, tokenizer)
        start = len(ids["prompt_ids"])
        long = [
            start + len(ids[f"{side}_ids"]) > limit for side in ("chosen", "rejected")
        ]
        dropped += start >= limit
        unended += sum(long) if start < limit else 0
    return dropped, unended


found = lost(trainers["no limit"], some, tokenizer)
assert found[0] == 0, "without a limit nothing is dropped: the first count is of pairs"
assert found[1] == 0, (
    "without a limit every response keeps its EOS. Do you count those that have lost it? "
    "And did you look at all columns and rows? Responses end at different places"
)
found = lost(trainers["ChatML"], talks, chat)
assert found[1] >= len(talks), (
    "in ChatML no EOS is scored, and you found one nearly everywhere. Where did it stand? This "
    "tokenizer pads with EOS, and the prompt is not scored"
)
assert found[1] != len(talks), (
    "every response has lost its EOS: count two for each pair"
)
ends = copy.deepcopy(chat)
ends.chat_template = chatml.replace("<|im_end|>", "{{ eos_token }}")
found = lost(build(copy.deepcopy(reference), talks, ends, max_length=50), talks, ends)
assert found[1] > 0, (
    "here the prompt's turn ends in an EOS too, and the limit of 50 took that of some "
    "responses: an EOS of the prompt is not scored"
)
found = lost(trainers["ChatML"], talks, chat)
assert tuple(found) == (0, 2 * len(talks)), (
    f"ChatML: found {found}, expected no pair dropped and all responses without an EOS"
)
for limit in (16, 8):
    want = ids_lost(some, limit)
    found = lost(trainers[f"max_length {limit}"], some, tokenizer)
    assert found[0] == want[0], (
        f"max_length {limit}: {want[0]} pairs were dropped, you count {found[0]}: compare "
        "the number of rows with trainer.train_dataset"
    )
    assert found[1] == want[1], (
        f"max_length {limit}: {want[1]} responses have lost their EOS, you count "
        f"{found[1]}: count responses, not pairs, among those that stayed, and only tokens "
        "that are scored"
    )
### BEGIN HIDDEN TESTS
for limit in (10, 12):
    trainer = build(copy.deepcopy(reference), some, max_length=limit)
    want = ids_lost(some, limit)
    if len(trainer.train_dataset):
        assert tuple(lost(trainer, some, tokenizer)) == want, f"max_length {limit}"
### END HIDDEN TESTS

# %% [markdown]
# ## Task 3 · The same rate for LoRA?
#
# *Kind: experiment with a prediction · Level: easy · 9 minutes*
#
# Four runs of 12 steps on the same pairs: all weights at TRL's default rate of 1e-6, all
# weights at this model's 2e-3, and LoRA of rank 8 at 2e-3 and at ten times that. How far
# does LoRA at 2e-3 come, compared with all weights at 2e-3?
#
# - `"a"`: about as far, since the rate is the same;
# - `"b"`: less than a fifth as far;
# - `"c"`: further, since few weights have to carry the whole change.
#
# Write your `prediction` first. Then fill `learnt` (ln 2 minus the mean of the last four
# losses in `trainer.state.log_history`) and `moved` (the mean of the absolute difference
# of a response's log-probability from the reference, in nats, over `batch`) for each name
# in `runs`. Last comes `conclusion`: one of the letters, by `moved`, with `"a"` for
# anything from a fifth to once as far.

# %%
plans = {
    "all, 1e-6": {"learning_rate": 1e-6},
    "all, 2e-3": {"learning_rate": 2e-3},
    "LoRA, 2e-3": {"learning_rate": 2e-3, "peft_config": lora},
    "LoRA, 2e-2": {"learning_rate": 2e-2, "peft_config": lora},
}
runs = {}
for name, plan in plans.items():
    runs[name] = build(copy.deepcopy(reference), rows, **plan)
    runs[name].train()

# %% nbgrader={"grade": false, "grade_id": "task3", "locked": false, "schema_version": 3, "solution": true, "task": false}
prediction = None  # "a", "b" or "c", before you measure
learnt, moved = {}, {}
conclusion = None
### BEGIN SOLUTION
prediction = "a"
from math import log

with torch.no_grad():
    base = compute_log_probs(reference, **batch)
    for name, trainer in runs.items():
        losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
        learnt[name] = log(2) - sum(losses[-4:]) / 4
        now = compute_log_probs(trainer.model.eval(), **batch)
        moved[name] = (now - base).abs().mean().item()
        print(f"{name:12}learnt {learnt[name]:.5f}, moved {moved[name]:.5f} nats")
conclusion = "b"
### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "task3_check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
import math

assert prediction in ("a", "b", "c"), "write your prediction first: 'a', 'b' or 'c'"
with torch.no_grad():
    start = compute_log_probs(reference, **batch)
for name, trainer in runs.items():
    assert name in learnt, f"learnt[{name!r}] is missing"
    assert name in moved, f"moved[{name!r}] is missing"
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert abs(learnt[name] - (math.log(2) - sum(losses[-4:]) / 4)) < 1e-6, (
        f"learnt[{name!r}]: ln 2 minus the mean of the last four losses; the last row of "
        "the log is a summary without a loss"
    )
    with torch.no_grad():
        gaps = compute_log_probs(trainer.model.eval(), **batch) - start
    assert abs(moved[name] - gaps.abs().mean()) < 1e-4, (
        f"moved[{name!r}]: take the absolute value of each response's difference before "
        "the mean, or ups and downs cancel; and compare with `reference`, not with a model "
        "that has been trained"
    )
ratio = moved["LoRA, 2e-3"] / moved["all, 2e-3"]
letter = "b" if ratio < 0.2 else "a" if ratio <= 1 else "c"
assert conclusion == letter, (
    f"LoRA at 2e-3 came {ratio:.1%} as far as all weights at that rate: which letter is "
    "that?"
)
### BEGIN HIDDEN TESTS
assert moved["all, 1e-6"] < 0.1 * moved["all, 2e-3"], "measured on the trained models?"
### END HIDDEN TESTS

# %% [markdown]
# At $B = 0$ the matrix $A$ gets no gradient, and what $B$ gains counts only through $A$:
# the correction begins slowly, so it wants a higher rate. (How much higher depends on the
# optimiser; with Adam's usual epsilon in place of this model's large one the two differ
# by less.) All four runs begin at ln 2 and write a log that looks in order; at 1e-6 this
# model has hardly moved at all. Look at how far a run came, and not only at whether it
# ran. (`learnt` compares losses of different batches: in twelve steps it shows the second
# run, and of LoRA's two only noise, of either sign.)
#
# ## Task 4 · A reference from before stage 1
#
# *Kind: find the bug · Level: hard · 12 minutes*
#
# A colleague trains LoRA adapters in stage 1, and then goes on with the *same* adapters
# in a DPO loop written by hand. The reference has to be the model after stage 1, as it
# was when DPO began. To save memory the colleague switches the adapters off for it. The
# cell shows the first loss of such a run, before any step of DPO.
#
# Find out what is wrong and write `mended_reference`. It is called once, before the first
# step, and returns a function that gives the reference's log-probabilities of a batch,
# also later, when the policy has moved. `model` is the policy: it must stay as it is,
# adapters trainable and all.

# %%
from dpo_tutorial.training import TinyDPOTrainer

torch.manual_seed(0)
stage1 = get_peft_model(copy.deepcopy(reference), lora)
short = {"steps": 12, "batch_size": 8, "learning_rate": 8e-2, "adam_epsilon": 1e-3}
TinyDPOTrainer(stage1, tokenizer, pairs, **short).train()  # serves as stage 1


def colleagues_reference(model):
    """A function from a batch to the reference's log-probabilities, (rows,)."""

    def log_probs(batch):
        with torch.no_grad(), model.disable_adapter():
            return compute_log_probs(model, **batch)

    return log_probs


with torch.no_grad():
    now = compute_log_probs(stage1, **batch).chunk(2)
before = colleagues_reference(stage1)(batch).chunk(2)
print(f"first loss {dpo_loss(*now, *before)[0].mean():.4f}, and ln 2 is 0.6931")


# %% nbgrader={"grade": false, "grade_id": "task4", "locked": false, "schema_version": 3, "solution": true, "task": false}
def mended_reference(model):
    """A function from a batch to the log-probabilities under `model` as it is now."""
    ### BEGIN SOLUTION
    frozen = copy.deepcopy(model).eval().requires_grad_(False)

    def log_probs(batch):
        with torch.no_grad():
            return compute_log_probs(frozen, **batch)

    return log_probs
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "task4_check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
def adapters(model):
    return [p for n, p in model.named_parameters() if "lora_" in n and p.requires_grad]


policy = copy.deepcopy(stage1)
log_probs = mended_reference(policy)
with torch.no_grad():
    after_stage1 = compute_log_probs(stage1, **batch)
    before_stage1 = compute_log_probs(reference, **batch)
given = log_probs(batch)
assert len(adapters(policy)) == len(adapters(stage1)), (
    "the policy has lost its trainable adapters: merging or freezing in place changes the "
    "model that is to be trained. Work on a copy"
)
assert not torch.allclose(given, before_stage1, atol=1e-3), (
    "this is still the model before stage 1: what do the adapters hold when DPO begins?"
)
assert torch.allclose(given, after_stage1, atol=1e-3), (
    "the reference should give what the policy gives before the first step of DPO"
)
part = {name: value[:8] for name, value in batch.items()}
assert log_probs(part).shape == (8,), (
    "asked for another batch, the function still answers for the first one: store the "
    "model, and not its numbers on one batch"
)
assert not given.requires_grad, "the reference needs no gradient"
with torch.no_grad():
    for p in adapters(policy):
        p.add_(0.05)  # the policy moves on
    assert not torch.allclose(
        compute_log_probs(policy, **batch), after_stage1, atol=0.1
    )
assert torch.allclose(log_probs(batch), after_stage1, atol=1e-3), (
    "the policy moved and the reference moved with it: at ln 2 for ever, beta holds "
    "nothing. What has to be stored when mended_reference is called?"
)
### BEGIN HIDDEN TESTS
policy = copy.deepcopy(stage1)
log_probs, half = mended_reference(policy), {k: v[:7] for k, v in batch.items()}
with torch.no_grad():
    kept = compute_log_probs(policy, **batch)
assert torch.allclose(kept, after_stage1, atol=1e-4), "the policy itself was changed"
assert torch.allclose(log_probs(half), after_stage1[:7], atol=1e-3), "another batch"
### END HIDDEN TESTS

# %% [markdown]
# The first loss told here, since policy and reference differed. A copy costs a model's
# memory; TRL keeps a second, frozen set of adapters; merging stage 1 and starting new
# adapters on top makes "adapters off" mean what the colleague wanted.
#
# Now compare with the [solutions](../solutions/05_dpo_with_trl.ipynb), and go on with
# [06 · Monitoring](../06_monitoring.ipynb).
