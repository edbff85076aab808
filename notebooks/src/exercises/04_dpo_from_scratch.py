# %% [markdown]
# # 04 · DPO from scratch: exercises
#
# Four tasks on weights, gradients, swapped labels and a faulty sum, about 42 minutes in
# all.
#
# You need the chapter, [04 · DPO from scratch](../04_dpo_from_scratch.ipynb), and nothing
# beyond it. Put your answer where a cell says `YOUR CODE HERE`, then run the check below
# it: silence means that it passed, and a failed check says what to think about. The tasks
# do not depend on one another. When you have tried them all, compare with the
# [solutions](../solutions/04_dpo_from_scratch.ipynb).
#
# BADGE

# %%
# BOOTSTRAP

# %% [markdown]
# Tasks 2 and 3 use the course's smallest model, `nano`, whatever model you took in the
# chapter. `reference` is the model before DPO.

# %%
import copy
import math

import torch

from dpo_tutorial.data import PreferencePair, collate, tokenize_pair
from dpo_tutorial.losses import compute_log_probs, dpo_loss
from dpo_tutorial.models import seed_everything, step_plan
from dpo_tutorial.reviews import load_sft_model, preference_pairs
from dpo_tutorial.training import TinyDPOTrainer

seed_everything(0)
reference, tokenizer = load_sft_model("nano")
reference = reference.cpu()  # small enough for any processor

# %% [markdown]
# ## Task 1 · What a single loss tells
#
# *Kind: mathematics on paper and in a cell · Level: easy · 8 minutes*
#
# A log holds a pair's loss $L = -\log \sigma(\beta h)$ and nothing else. With
# $h = \rho_w - \rho_l$ the log-ratio gap in nats, work out two things on paper:
#
# - the pair's `weight` in the gradient, $\sigma(-\beta h)$, from $L$ alone. You need
#   $\sigma(-u) = 1 - \sigma(u)$, and nothing about $\beta$;
# - the `gap` $h$ itself, from $L$ and $\beta$.


# %% nbgrader={"grade": false, "grade_id": "task1", "locked": false, "schema_version": 3, "solution": true, "task": false}
def read_loss(loss, beta):
    """(weight in the gradient, gap h in nats) of a pair, from its loss; floats."""
    ### BEGIN SOLUTION
    right = math.exp(-loss)  # sigma(beta h)
    return 1 - right, math.log(right / (1 - right)) / beta
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "task1_check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
def from_autograd(h, beta):
    """(loss, weight) of a pair with this gap, by the package and by autograd."""
    gap, zero = torch.tensor([h], dtype=torch.float64), torch.zeros(1).double()
    losses, _, _ = dpo_loss(gap.requires_grad_(), zero, zero, zero, beta=beta)
    losses.sum().backward()
    return losses.item(), -gap.grad.item() / beta


weight, gap = read_loss(math.log(2), 0.1)
assert abs(weight - 0.5) < 1e-6, (
    "the first loss of every run is ln 2: all weights are 1/2"
)
assert abs(gap) < 1e-6, "at ln 2 nothing has moved: the gap is zero"
loss, want = from_autograd(2.0, 1.0)
weight, gap = read_loss(loss, 1.0)
assert weight < 0.5, (
    "a pair whose loss is below ln 2 is ranked rightly, and weighs less than one half: "
    "e to the power of -L is the sigmoid of which sign?"
)
assert abs(weight - want) < 1e-6, (
    f"autograd's weight is {want:.3f}: write L as a sigmoid, then use 1 - sigma(u)"
)
assert gap > 0, "a loss below ln 2 belongs to a gap above zero"
assert abs(gap - 2.0) < 1e-4, "the gap is wrong already at beta = 1: solve L for h"
loss, want = from_autograd(-7.0, 0.1)
weight, gap = read_loss(loss, 0.1)
assert abs(weight - want) < 1e-6, (
    "right at beta = 1, wrong at 0.1: the loss holds beta times h already, and the weight "
    "is the sigmoid of just that"
)
assert abs(gap + 7.0) < 1e-4, (
    "right at beta = 1, wrong at 0.1: the loss knows beta times h; the gap is asked for "
    "in nats, without beta"
)
### BEGIN HIDDEN TESTS
for h, beta in ((30.0, 0.05), (-1.5, 2.0), (4.0, 0.5)):
    loss, want = from_autograd(h, beta)
    weight, gap = read_loss(loss, beta)
    assert abs(weight - want) < 1e-6, (
        f"weight at h {h}, beta {beta}: see the hints above"
    )
    assert abs(gap - h) < 1e-3, f"gap at h {h}, beta {beta}: see the hints above"
### END HIDDEN TESTS

# %% [markdown]
# So the loss is the weight, read on another scale: a pair at 0.05 has a weight of about
# 0.05 too and has little left to say, one at 3 still pulls with 95 % of its force.
#
# ## Task 2 · A batch in parts
#
# *Kind: implementation · Level: medium · 13 minutes*
#
# A batch that does not fit into memory is run in parts, whose gradients add up in the
# parameters' `.grad` until the optimiser takes its step. Done rightly, the result is the
# gradient of the whole batch. Write `accumulate`: `parts` are batches as `collate` makes
# them, **not all of one size**; after the call, the `.grad` of the policy is the gradient
# of the mean DPO loss over all pairs of all parts, and that mean is returned as a float.
#
# The policy here has made a few steps, so that pairs differ in weight. The reference has
# parameters that would take a gradient, and should get none.

# %%
few = preference_pairs(64, seed=2)
short = step_plan(reference) | {"steps": 8, "batch_size": 8}
moved = copy.deepcopy(reference)  # trained in place
TinyDPOTrainer(moved, tokenizer, few, seed=2, **short).train()
rows = [tokenize_pair(pair, tokenizer) for pair in few[:6]]
cuts = [(0, 3), (3, 4), (4, 6)]  # parts of 3, 1 and 2 pairs
parts = [collate(rows[a:b], tokenizer.pad_token_id) for a, b in cuts]
print(
    "rows in the parts, chosen and rejected:", [len(part["labels"]) for part in parts]
)


# %% nbgrader={"grade": false, "grade_id": "task2", "locked": false, "schema_version": 3, "solution": true, "task": false}
def accumulate(policy, reference, parts, beta):
    """Leave the mean loss's gradient in `policy`; return that loss, a float."""
    ### BEGIN SOLUTION
    pairs = sum(len(part["labels"]) // 2 for part in parts)
    mean = 0.0
    for part in parts:
        with torch.no_grad():
            before = compute_log_probs(reference, **part).chunk(2)
        now = compute_log_probs(policy, **part).chunk(2)
        losses, _, _ = dpo_loss(*now, *before, beta=beta)  # (pairs of this part,)
        share = losses.sum() / pairs
        share.backward()
        mean += share.item()
    return mean
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "task2_check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
def flat(model):
    """All gradients as one vector; zeros where there is none."""
    grads = [
        torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()
    ]
    return torch.cat([g.flatten() for g in grads])


def by_part(parts, beta):
    """Sizes (K,), mean losses (K,) and their gradients (K, parameters), one part alone."""
    sizes, means, grads = [], [], []
    for part in parts:
        model = copy.deepcopy(moved)
        with torch.no_grad():
            before = compute_log_probs(reference, **part).chunk(2)
        now = compute_log_probs(model, **part).chunk(2)
        mean = dpo_loss(*now, *before, beta=beta)[0].mean()
        mean.backward()
        sizes.append(len(part["labels"]) / 2)
        means.append(mean.item())
        grads.append(flat(model))
    return torch.tensor(sizes), torch.tensor(means), torch.stack(grads)


def close(one, two):
    return (one - two).norm() < 1e-3 * two.norm()


def try_out(parts, beta):
    """(returned, gradient) of `accumulate` on copies; the reference must stay clean."""
    policy, frozen = copy.deepcopy(moved), copy.deepcopy(reference)
    value = accumulate(policy, frozen, parts, beta)
    assert flat(policy).any(), "the policy has no gradient: was backward called?"
    assert all(p.grad is None for p in frozen.parameters()), (
        "the reference collected a gradient: it is never updated, so that backward pass is "
        "memory and time for nothing. Compute its log-probabilities without a graph"
    )
    same = zip(policy.parameters(), moved.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in same), "accumulate must not change weights"
    return value, flat(policy)


sizes, means, grads = by_part(parts, 0.5)
shares = (sizes / sizes.sum())[:, None]
value, got = try_out(parts, 0.5)
last_alone = (grads[-1], grads[-1] * shares[-1], grads[-1] / len(parts))
assert not any(close(got, alone) for alone in last_alone), (
    "only the last part's gradient is left: what cleared the others?"
)
assert not close(got, grads.sum(0)), (
    "the parts' means were added up: the gradient is too long by the number of parts"
)
assert not close(got, grads.mean(0)), (
    "each part counts the same here, though one has 3 pairs and one has 1: a pair should "
    "weigh the same wherever it stands"
)
assert not close(got, (grads * sizes[:, None]).sum(0)), (
    "this is the gradient of a sum over pairs: divide by the number of all of them"
)
want = (grads * shares).sum(0)
assert not close(got, want / 2), (
    "half as long as it should be: labels has two rows for each pair"
)
assert close(got, want), (
    "not the gradient of the whole batch. Where is beta, inside the sigmoid or outside? "
    "Are log-probabilities sums? Is chosen the first half of a part?"
)
assert abs(value - (means * shares[:, 0]).sum().item()) < 1e-4, (
    "the gradient is right, the number returned is not the mean loss over all pairs"
)
### BEGIN HIDDEN TESTS
for beta, some in ((0.1, parts[::-1]), (2.0, parts[1:])):
    sizes, means, grads = by_part(some, beta)
    shares = (sizes / sizes.sum())[:, None]
    value, got = try_out(some, beta)
    assert close(got, (grads * shares).sum(0)), f"wrong gradient at beta {beta}"
    assert abs(value - (means * shares[:, 0]).sum().item()) < 1e-4, "wrong mean loss"
### END HIDDEN TESTS

# %% [markdown]
# A library that divides by the number of parts is right only while all have one size;
# the last batch of an epoch often has not.
#
# ## Task 3 · The columns are swapped
#
# *Kind: experiment with a prediction · Level: easy · 9 minutes*
#
# A script exports preference data with `chosen` and `rejected` swapped: all of it, the
# training pairs and the held-out ones. The cell below trains on the data as they should
# be and on the data as exported, with the same seed and settings. Which sign of the
# mistake will you see?
#
# - `"a"`: the first loss is not ln 2;
# - `"b"`: the first loss is ln 2, but then the loss does not fall, or the accuracy on the
#   exported held-out pairs stays below one half;
# - `"c"`: none of these; only the text that the policy writes is worse.
#
# Write your `prediction` before you look at any number. Then fill the four dictionaries,
# each with the keys `"right"` and `"swapped"`, from `runs[...].history` (a list of rows;
# `loss` is in those of training steps, `eval_rewards/accuracies` in the last one) and
# from samples: `first` loss, `last` loss (the mean of the last five), held-out
# `accuracy`, and `gold`, the mean gold reward of one sampled response to each prompt in
# `asked`, with `seed=1`. From these follows `conclusion`, one of the letters.

# %%
from dpo_tutorial.evaluation import sample_responses
from dpo_tutorial.reviews import gold_reward, prompts

asked = prompts("held_out")[:32]
pairs = preference_pairs(15 * 16, seed=1)
plan = step_plan(reference) | {"steps": 15, "batch_size": 16}
held_out = preference_pairs(64, seed=99, split="held_out")


def swap(pairs):
    return [PreferencePair(p.prompt, p.rejected, p.chosen) for p in pairs]


runs = {}
sets = {"right": (pairs, held_out), "swapped": (swap(pairs), swap(held_out))}
for name, (train, test) in sets.items():
    evaluation = {"eval_rows": test, "eval_every": plan["steps"]}
    policy = copy.deepcopy(reference)
    runs[name] = TinyDPOTrainer(policy, tokenizer, train, seed=1, **evaluation, **plan)
    runs[name].train()

# %% nbgrader={"grade": false, "grade_id": "task3", "locked": false, "schema_version": 3, "solution": true, "task": false}
prediction = None  # "a", "b" or "c", before you measure
first, last, accuracy, gold = {}, {}, {}, {}
conclusion = None
### BEGIN SOLUTION
prediction = "b"
for name, run in runs.items():
    losses = [row["loss"] for row in run.history if "loss" in row]
    first[name], last[name] = losses[0], sum(losses[-5:]) / 5
    accuracy[name] = run.history[-1]["eval_rewards/accuracies"]
    said = sample_responses(run.model, tokenizer, asked, seed=1)
    rewards = [gold_reward(*row) for row in zip(asked, said, strict=True)]
    gold[name] = sum(rewards) / len(rewards)
    print(
        f"{name:8} loss {first[name]:.4f} to {last[name]:.4f}, held-out accuracy "
        f"{accuracy[name]:.2f}, gold reward {gold[name]:.2f}"
    )
conclusion = "c"
### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "task3_check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
assert prediction in ("a", "b", "c"), "write your prediction first: 'a', 'b' or 'c'"
tables = {"first": first, "last": last, "accuracy": accuracy, "gold": gold}
for name, table in tables.items():
    assert set(table) == {"right", "swapped"}, (
        f"{name} wants keys 'right' and 'swapped'"
    )
for name, run in runs.items():
    losses = [row["loss"] for row in run.history if "loss" in row]
    assert abs(first[name] - losses[0]) < 1e-6, "first: the loss of the first step"
    assert abs(last[name] - sum(losses[-5:]) / 5) < 1e-4, (
        "last: the mean of the last five rows that hold a training loss; the row of the "
        "held-out pairs has none"
    )
    row = [row for row in run.history if "eval_rewards/accuracies" in row][-1]
    assert abs(accuracy[name] - row["eval_rewards/accuracies"]) < 1e-6, (
        "accuracy: of the held-out pairs, under its eval_ name, not of a training batch"
    )
assert gold["right"] > gold["swapped"], (
    "the policy of the swapped data scores no worse: were the responses of both policies "
    "sampled, and is each judged with its own prompt?"
)
sound = abs(first["swapped"] - math.log(2)) < 1e-3
learns = last["swapped"] < first["swapped"] - 0.005 and accuracy["swapped"] > 0.5
letter = "a" if not sound else "c" if learns else "b"
assert conclusion == letter, (
    "conclusion should follow from the swapped run's numbers: is its first loss ln 2, did "
    "the loss fall, and is its accuracy above one half?"
)
### BEGIN HIDDEN TESTS
for name, run in runs.items():
    said = sample_responses(run.model, tokenizer, asked, seed=1)
    want = [gold_reward(*row) for row in zip(asked, said, strict=True)]
    assert abs(gold[name] - sum(want) / len(want)) < 0.05, (
        f"gold[{name!r}]: the mean of gold_reward(prompt, response) over `asked`"
    )
### END HIDDEN TESTS

# %% [markdown]
# Every metric of DPO measures agreement with the labels, so none can say that the labels
# are upside down. Samples can, and so can ten pairs read by a person before the run.
#
# ## Task 4 · It begins at ln 2, and is wrong
#
# *Kind: find the bug · Level: hard · 12 minutes*
#
# A colleague has written the log-probabilities anew, and a run with them begins at ln 2,
# as it should. That proves less than it seems: policy and reference are one model then,
# and any rule that scores both alike gives ln 2. This function has **two** faults.
#
# Below it is a model for checking by hand: four tokens, 0 to 3, where 0 is EOS and
# padding; the table has the probability of each next token (column) after each token
# (row). The batch has the prompt "1" with the responses "2 3 EOS" and "3 EOS". What
# should the two numbers be? Mend the function.


# %%
def colleagues_log_probs(model, input_ids, attention_mask, labels, pad=0):
    """Log-probability of each row's response, summed: (batch,). Has two faults."""
    logits = model(input_ids, attention_mask=attention_mask).logits  # (B, T, V)
    scored = (labels != -100) & (labels != pad)  # neither prompt nor padding
    targets = labels.masked_fill(~scored, 0)
    token_logps = logits.log_softmax(-1).gather(-1, targets[..., None]).squeeze(-1)
    return (token_logps * scored).sum(1)


# %%
from types import SimpleNamespace


class Table:
    """A language model that is a table: row, the token; column, the next one."""

    probabilities = torch.tensor(
        [
            [0.25, 0.25, 0.25, 0.25],
            [0.1, 0.1, 0.5, 0.3],
            [0.2, 0.3, 0.1, 0.4],
            [0.7, 0.1, 0.1, 0.1],
        ]
    )

    def __call__(self, input_ids, attention_mask=None):
        return SimpleNamespace(logits=self.probabilities.log()[input_ids])


by_hand = collate(
    [{"prompt_ids": [1], "chosen_ids": [2, 3, 0], "rejected_ids": [3, 0]}],
    pad_token_id=0,
)
print(by_hand["labels"])
print("the colleague's:", colleagues_log_probs(Table(), **by_hand).exp())


# %% nbgrader={"grade": false, "grade_id": "task4", "locked": false, "schema_version": 3, "solution": true, "task": false}
def mended_log_probs(model, input_ids, attention_mask, labels, pad=0):
    """Log-probability of each row's response, summed: (batch,)."""
    ### BEGIN SOLUTION
    logits = model(input_ids, attention_mask=attention_mask).logits  # (B, T, V)
    logits, labels = logits[:, :-1], labels[:, 1:]  # position t predicts token t + 1
    scored = labels != -100  # tells prompt and padding, and keeps EOS, whatever its id
    targets = labels.masked_fill(~scored, 0)
    token_logps = logits.log_softmax(-1).gather(-1, targets[..., None]).squeeze(-1)
    return (token_logps * scored).sum(1)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "task4_check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
p = Table.probabilities
want = torch.stack([p[1, 2] * p[2, 3] * p[3, 0], p[1, 3] * p[3, 0]]).log()
without_eos = torch.stack([p[1, 2] * p[2, 3], p[1, 3]]).log()
on_itself = torch.stack([p[2, 2] * p[3, 3] * p[0, 0], p[3, 3] * p[0, 0]]).log()
got = mended_log_probs(Table(), **by_hand)
assert got.shape == (2,), (
    f"expected one number a row, shape (2,), got {tuple(got.shape)}"
)
assert not torch.allclose(got, without_eos), (
    "the tokens are compared with the right positions now, but something that should be "
    "scored is not: multiply the table's entries for '2 3 EOS' and see which is missing"
)
assert not torch.allclose(got, on_itself), (
    "EOS is scored now, but each token is predicted from itself: which row of the table "
    "should predict the 2, that of the prompt or that of the 2?"
)
assert not torch.allclose(got, want / torch.tensor([3, 2])), "a sum, not a mean"
assert torch.allclose(got, want, atol=1e-5), (
    f"expected probabilities {want.exp()}, found {got.exp()}: for "
    "'2 3 EOS' it is that of 2 after 1, of 3 after 2 and of EOS after 3"
)
### BEGIN HIDDEN TESTS
for part in parts:
    with torch.no_grad():
        want = compute_log_probs(reference, **part)
        got = mended_log_probs(reference, **part, pad=tokenizer.pad_token_id)
    assert torch.allclose(got, want, atol=1e-2), (
        "right on the table, not on nano: does the answer depend on pad, or on token 0?"
    )
### END HIDDEN TESTS

# %% [markdown]
# Whoever scores no EOS gives no preference about where to stop; whoever forgets the shift
# asks how probable a token is after itself. Both run, both begin at ln 2. Three lines by
# hand find them.
#
# Now compare with the [solutions](../solutions/04_dpo_from_scratch.ipynb), and go on with
# [05 · DPO with TRL](../05_dpo_with_trl.ipynb).
