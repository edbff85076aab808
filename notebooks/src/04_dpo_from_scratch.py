# %% [markdown]
# # 04 · DPO from scratch
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/dpo-tutorial/dpo-tutorial/blob/main/notebooks/04_dpo_from_scratch.ipynb)
#
# You will build every part of a DPO trainer, prove each part against a hand-made value,
# and then raise a reward whose truth is known, over several seeds and with intervals.
#
# **You will**
#
# - compute a response's log-probability on a tensor small enough to check by hand;
# - decode the mask to text and see what is scored and what is not;
# - write the DPO loss and explain the ln 2 with which every sound run begins;
# - show which pairs the gradient listens to;
# - train, cut a run in two and reach the same weights;
# - measure gold reward and KL on held-out prompts, and read the samples.
#
# **You need** [02 · From RLHF to DPO](02_from_rlhf_to_dpo.ipynb) for why this loss, and
# a first look at [03 · Preference data](03_preference_data.ipynb). Measured on two CPU
# cores with `nano`: about two minutes on one thread and 1.2 GB of memory.
#
# Back: [03 · Preference data](03_preference_data.ipynb) · Next:
# [05 · DPO with TRL](05_dpo_with_trl.ipynb)

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
# ## One response, by hand
#
# DPO compares sums of token log-probabilities. Take a vocabulary of two tokens and two
# responses of two tokens each: a 2 x 2 tensor of labels. The model below is a table of
# probabilities, written down as logits.

# %%
import torch
import torch.nn.functional as F

p_of_token_1 = torch.tensor([[0.9, 0.5], [0.2, 0.75]])  # (batch 2, positions 2)
logits = torch.stack([1 - p_of_token_1, p_of_token_1], dim=-1).log()  # (2, 2, vocab 2)
labels = torch.tensor([[1, 1], [0, 1]])

# %% [markdown]
# *Predict:* the first response has tokens of probability 0.9 and 0.5, the second 0.8
# and 0.75. What are their log-probabilities?

# %%
token_logps = logits.log_softmax(-1).gather(-1, labels[..., None]).squeeze(-1)  # (2, 2)
by_hand = torch.tensor([0.9 * 0.5, 0.8 * 0.75]).log()
assert torch.allclose(token_logps.sum(-1), by_hand)
token_logps.sum(-1)

# %% [markdown]
# Probabilities multiply, so log-probabilities add: $\log \pi(y \mid x)$ is the **sum**
# over the response's tokens. A common mistake is to average instead. It looks harmless,
# and it is another algorithm: a response twice as long then weighs each of its tokens
# half as much, and a beta tuned for sums is far too small for means.

# %%
averaged = token_logps.mean(-1)
assert torch.allclose(averaged * 2, token_logps.sum(-1))  # here, by the length of 2
print("sum", token_logps.sum(-1).tolist(), "mean", averaged.tolist())

# %% [markdown]
# ## What is scored
#
# Now real pairs. Load the policy and some comparisons; notebook 00 introduced both.

# %%
from dpo_tutorial.models import seed_everything, step_plan
from dpo_tutorial.reviews import load_sft_model, preference_pairs

seed_everything(0)
reference, tokenizer = load_sft_model()
plan = step_plan(reference)
pairs = preference_pairs(plan["steps"] * plan["batch_size"], seed=1)
print(f"{reference.num_parameters() / 1e6:.1f} million parameters; {plan}")

# %% [markdown]
# A batch holds the chosen responses first, then the rejected ones, so that one forward
# pass serves both. `labels` repeats the token where it is scored and has −100 where it
# is not. Before you train on a mask, read it: each row below is split into what the
# model is given and what it is scored on.

# %%
from dpo_tutorial.data import collate, tokenize_pair

ids = [tokenize_pair(pair, tokenizer) for pair in pairs[:2]]
batch = collate(ids, tokenizer.pad_token_id)
for row, label in zip(batch["input_ids"], batch["labels"], strict=True):
    scored = label >= 0
    print(
        repr(tokenizer.decode(row[~scored])),
        "\n ->",
        repr(tokenizer.decode(row[scored])),
    )

# %% [markdown]
# Three things to notice. The prompt is given, not scored. Each response ends with the
# end-of-sequence token (EOS), once, and it *is* scored: the policy must learn when to
# stop. The padding behind it is the same token here, and is *not* scored, because the
# mask goes by position and not by token id. The same in numbers:

# %%
eos, pads = tokenizer.eos_token_id, (batch["attention_mask"] == 0).sum(1).tolist()
eos_scored = (batch["labels"] == eos).sum(1).tolist()
print("EOS scored", eos_scored, "padding not scored", pads)
assert eos_scored == [1, 1, 1, 1]

# %% [markdown]
# ## From a batch to log-probabilities
#
# Position $t$ of the logits predicts token $t+1$, so logits and labels are shifted
# against each other by one. `cross_entropy` gathers and ignores −100 in one call.


# %%
def naive_log_probs(model, input_ids, attention_mask, labels):
    logits = model(input_ids, attention_mask=attention_mask).logits  # (2B, T, V)
    losses = F.cross_entropy(logits[:, :-1].mT, labels[:, 1:], reduction="none")
    return -losses.sum(1)  # (2B,)


with torch.no_grad():
    naive = naive_log_probs(reference, **batch)
naive

# %% [markdown]
# This makes logits for prompt and padding too, and then throws them away. With a real
# vocabulary much of the memory goes there. The package's `compute_log_probs` makes
# logits only at the positions before a token that some row scores, and is otherwise the
# same.

# %%
from dpo_tutorial.losses import compute_log_probs

with torch.no_grad():
    kept = compute_log_probs(reference, **batch)
positions = (batch["labels"][:, 1:] != -100).any(0).sum().item()
print(f"logits at {positions} of {batch['input_ids'].shape[1]} positions")
print(f"largest difference: {(kept - naive).abs().max():.1e}")
assert torch.allclose(kept, naive, atol=1e-3)

# %% [markdown]
# The mistake that no shape check finds: scoring the padding. Here it is, once, with its
# cost. The longer the neighbour in the batch, the lower the log-probability.

# %%
wrong = batch["labels"].clone()
wrong[batch["attention_mask"] == 0] = eos
with torch.no_grad():
    off = compute_log_probs(reference, **{**batch, "labels": wrong}) - kept
for pad, error in zip(pads, off.tolist(), strict=True):
    print(f"{pad:2d} pads scored: {error:8.2f} nats")
assert (off[torch.tensor(pads) > 0] < -1e-3).all()

# %% [markdown]
# ## The loss
#
# With $\rho = \log \pi(y \mid x) - \log \pi_\mathrm{ref}(y \mid x)$, how much more
# probable the policy makes a response than the reference did, the DPO loss of a pair is
#
# $$-\log \sigma\bigl(\beta\,(\rho_w - \rho_l)\bigr).$$
#
# $\beta \rho$ is the **implicit reward**. A pair by hand: the policy has raised the
# chosen response by 1 nat and lowered the rejected one by 2.

# %%
from math import exp, log

from dpo_tutorial.losses import dpo_loss

policy_logps = torch.tensor([-2.0]), torch.tensor([-4.0])
reference_logps = torch.tensor([-3.0]), torch.tensor([-2.0])
loss, chosen_reward, rejected_reward = dpo_loss(
    *policy_logps, *reference_logps, beta=0.5
)
assert abs(loss.item() - log(1 + exp(-0.5 * 3))) < 1e-6
print(
    f"loss {loss.item():.4f}, rewards {chosen_reward.item()}, {rejected_reward.item()}"
)

# %% [markdown]
# At the first step policy and reference are one model, every $\rho$ is 0, and the loss
# is $-\log\sigma(0) = \ln 2$ whatever the data. That makes it the cheapest test in the
# trade. It needs dropout to be off: with dropout on, the policy is not the reference.
# GPT-2's configuration has a dropout of 0.1 (Llama's family has none), and Hugging
# Face's `train()` switches it on. Our trainer keeps the policy in eval mode, in which
# gradients flow all the same; TRL sets `nn.Dropout` modules to zero
# (`disable_dropout`). TRL logs the mean of ten steps unless told otherwise: set
# `logging_steps=1` to see ln 2 there.

# %%
import copy

noisy, ln2 = copy.deepcopy(reference).train(), torch.tensor(log(2.0))
with torch.no_grad():
    logps = compute_log_probs(reference, **batch).chunk(2)
    noisy_logps = compute_log_probs(noisy, **batch).chunk(2)
print("eval mode ", dpo_loss(*logps, *logps)[0].tolist())
print("train mode", dpo_loss(*noisy_logps, *logps)[0].tolist())
assert torch.allclose(dpo_loss(*logps, *logps)[0], ln2)

# %% [markdown]
# ## Which pairs the gradient listens to
#
# The gradient of a pair's loss is $-\beta\,\sigma(-\beta(\rho_w - \rho_l))$ times the
# difference of the two log-probabilities' gradients (notebook 02 asserts it). The
# weight $\sigma(\cdot)$ is near 1 for a pair that the policy ranks wrongly and near 0
# for one that it ranks rightly and by far. Autograd confirms it:

# %%
margins = torch.linspace(-8, 8, 81, requires_grad=True)  # rho_w - rho_l, in nats
zero = torch.zeros(81)
beta = 0.5
dpo_loss(margins, zero, zero, zero, beta=beta)[0].sum().backward()
weight = -margins.grad / beta
assert torch.allclose(weight, torch.sigmoid(-beta * margins.detach()), atol=1e-6)

# %% [markdown]
# We will look at real pairs' weights after training. First, the training.
#
# ## The trainer
#
# One step, in small: a batch, one forward pass for chosen and rejected, the loss, an
# update. The reference never changes, so its log-probabilities are computed once, ahead
# of the loop, and no second model is needed in it.

# %%
policy = copy.deepcopy(reference)
rows = [tokenize_pair(pair, tokenizer) for pair in pairs[:4]]
small = collate(rows, tokenizer.pad_token_id)
with torch.no_grad():
    ahead = compute_log_probs(reference, **small).chunk(2)  # (4,) chosen, (4,) rejected
optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-4, weight_decay=0.0)
by_hand = []
for _ in range(3):
    loss = dpo_loss(*compute_log_probs(policy, **small).chunk(2), *ahead)[0].mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    by_hand.append(loss.item())
by_hand

# %% [markdown]
# Three steps on one batch bring the loss down from ln 2. The package's `TinyDPOTrainer`
# adds what a real run wants: shuffling by a seed, warm-up and linear decay, gradient
# clipping and accumulation, a history, checkpoints. With those set to nothing it must
# retrace our three steps, and it does.

# %%
from dpo_tutorial.training import TinyDPOTrainer

plain = {"warmup": 0.0, "max_grad_norm": 1e9, "steps": 10**6, "learning_rate": 1e-4}
retraced = TinyDPOTrainer(
    copy.deepcopy(reference), tokenizer, pairs[:4], batch_size=4, **plain
)
history = retraced.train(until=3)
print([round(row["loss"], 6) for row in history])
assert all(abs(a - row["loss"]) < 1e-4 for a, row in zip(by_hand, history, strict=True))

# %% [markdown]
# ## Three seeds
#
# A single run may be lucky. Three seeds change the pairs, their order and the samples.
# (`adam_epsilon` is Adam's floor under the size of a gradient. With the usual 1e-8 a
# word that no pair mentions moves as far as one that matters; in a model as small as
# `nano`, whose words serve as input and output, that shakes the grammar.)
# Held-out pairs, on prompts that training does not see, are scored along the way.

# %%
held_out_pairs = preference_pairs(64, seed=99, split="held_out")
seeds = (1, 2, 3)


def train(seed, beta=0.1):
    trainer = TinyDPOTrainer(
        copy.deepcopy(reference),
        tokenizer,
        preference_pairs(plan["steps"] * plan["batch_size"], seed=seed),
        beta=beta,
        eval_rows=held_out_pairs,
        eval_every=plan["steps"] // 4,
        seed=seed,
        **plan,
    )
    trainer.train()
    return trainer


runs = {seed: train(seed) for seed in seeds}

# %% [markdown]
# The history has TRL's names. `rewards/*` carry beta; `logps/*` are sums over a
# response, in nats, averaged over the batch.

# %%
import pandas as pd

log_table = pd.DataFrame(runs[1].history).set_index("step")
shown = [
    "loss",
    "rewards/chosen",
    "rewards/rejected",
    "rewards/accuracies",
    "logps/chosen",
]
steps = [row["step"] for row in runs[1].history if "loss" in row]
log_table.loc[steps, shown].dropna().iloc[[0, len(steps) // 2, -1]].round(3)

# %% [markdown]
# The first loss is ln 2 for every seed. Over the run the margin grows; look at the
# lowest panel, the log-probabilities, before you rejoice.

# %%
import matplotlib.pyplot as plt

from dpo_tutorial.plotting import plot_dpo_training_metrics, use_style

use_style()
assert all(abs(run.history[0]["loss"] - log(2)) < 1e-3 for run in runs.values())
plot_dpo_training_metrics(runs[1].history)
plt.show()

# %% [markdown]
# *Figure: five panels over the steps of one run. The loss falls from ln 2 and the margin
# grows from zero; rewards of chosen responses fall a little and of rejected ones far
# more; accuracy climbs above one half; below, log-probabilities of both fall, the
# rejected ones' further. Dots, on held-out pairs, follow the lines.*
#
# That accuracy starts at nearly 0 is no mistake: up to rounding the margins are still
# zero, and a tie does not count as a win.
#
# The loss asks for a difference only, and lowering both responses, one more than the
# other, is a difference too. Batches vary, so measure it on the same held-out pairs
# before and after:

# %%
now, then = runs[1].evaluate(), runs[1].eval_reference.mean(0)  # (chosen, rejected)
for side, start in zip(("chosen", "rejected"), then.tolist(), strict=True):
    print(f"{side:>8}: {start:.1f} -> {now[f'logps/{side}']:.1f} nats")

# %% [markdown]
# Where the chosen responses, too, have become less probable, you see **likelihood
# displacement**: usual in DPO, and no sign of a bug by itself. Their probability has
# gone to responses that are in neither column. Notebook 06 is about it.

# %% [markdown]
# ## Did the policy get better?
#
# In this world that question has an answer. Sample one response for every held-out
# prompt, before and after, with the same seed, and ask the gold reward. The interval is
# over seeds *and* prompts: a gain for each prompt, averaged over the three runs. That
# it lies above zero is asserted for any model that knew the reviews before; for `nano`,
# more.

# %%
from dpo_tutorial.evaluation import mean_interval, sample_responses, sequence_kl
from dpo_tutorial.reviews import gold_reward, parse, prompts

small = reference.num_parameters() < 5e6
asked = prompts("held_out")[: None if small else 64]  # a large model samples slowly


def judge(texts):
    return torch.tensor([gold_reward(*row) for row in zip(asked, texts, strict=True)])


# %%
said, says = {}, {}  # by seed: responses of the reference, of the policy
for seed, run in runs.items():
    said[seed] = sample_responses(reference, tokenizer, asked, seed=seed)
    says[seed] = sample_responses(run.model, tokenizer, asked, seed=seed)
before = torch.stack([judge(said[seed]) for seed in seeds])  # (seeds, prompts)
after = torch.stack([judge(says[seed]) for seed in seeds])

# %%
gain = mean_interval((after - before).mean(0))
print("before", mean_interval(before.mean(0)), "after", mean_interval(after.mean(0)))
print("gain  ", gain, "by seed", (after - before).mean(1).numpy().round(2))
knew = sum(not parse(*row).unparsed for row in zip(asked, said[1], strict=True))
assert gain.low > 0 or knew < len(asked) / 2  # a model that knew no reviews may not
if small:
    assert gain.mean >= 0.5
    assert gain.low > 0.3

# %% [markdown]
# What did it cost? The reward came from moving away from the reference, and the
# distance is the Kullback-Leibler divergence of whole responses, in nats: the mean of
# $\log\pi(y \mid x) - \log\pi_\mathrm{ref}(y \mid x)$ over responses the policy samples.

# %%
kls = {
    seed: sequence_kl(run.model, reference, tokenizer, asked, seed=seed)
    for seed, run in runs.items()
}
for seed, kl in kls.items():
    print(f"seed {seed}: KL to the reference {kl} nats")

# %% [markdown]
# ## Read the samples
#
# Never skip this. The same prompts, side by side, with what the gold reward says.

# %%
pd.set_option("display.max_colwidth", None)
side = pd.DataFrame({"prompt": asked, "before": said[1], "after": says[1]})
side["r* after"] = after[0]
side.head(6).round(2)

# %% [markdown]
# Length and grammar belong to the picture. Longer reviews tend to score lower, by
# repetition and by clauses beyond three, and the policy noticed; whether it also broke
# the grammar is counted here. Words include punctuation marks.


# %%
def shape(texts):
    found = [parse(*row) for row in zip(asked, texts, strict=True)]
    words = sum(f.words for f in found) / len(found)
    return {"words": words, "parses": sum(not f.unparsed for f in found) / len(found)}


pd.DataFrame({"before": shape(said[1]), "after": shape(says[1])}).round(2)

# %% [markdown]
# ## Which pairs were left to learn
#
# Back to the weights. On held-out pairs, before training, every margin is 0 and every
# weight one half. After it, the pairs that the policy ranks rightly weigh less.

# %%
with torch.no_grad():
    rows = [tokenize_pair(pair, tokenizer) for pair in held_out_pairs]
    test = collate(rows, tokenizer.pad_token_id)
    now = compute_log_probs(runs[1].model, **test).chunk(2)
    then = compute_log_probs(reference, **test).chunk(2)
_, won, lost = dpo_loss(*now, *then, beta=0.1)
margin = (won - lost).cpu()  # (64,)
weights = torch.sigmoid(-margin)

# %%
from dpo_tutorial.plotting import COLORS

grid = torch.linspace(margin.min() - 0.5, margin.max() + 0.5, 100)
figure, axes = plt.subplots()
axes.plot(grid, torch.sigmoid(-grid), color=COLORS["reference"], label="σ(−margin)")
axes.scatter(margin, weights, s=14, color=COLORS["policy"], label="held-out pairs")
axes.axhline(0.5, color=COLORS["reference"], ls=":", lw=1)
axes.set(xlabel="reward margin β(ρw − ρl)", ylabel="weight in the gradient")
axes.set_title("Pairs ranked wrongly pull hardest")
axes.legend()
plt.show()

# %% [markdown]
# *Figure: the weight of a pair in the gradient against its reward margin, a falling
# S-curve; the held-out pairs lie on it, most to the right of zero with weights below
# one half, some to the left with weights above.*
#
# Most on the left are the policy's mistakes, a few the annotator's, who errs on close
# calls. In training, such a mislabelled pair would pull the wrong way each time it is
# drawn.

# %%
gold_gap = torch.tensor(
    [
        gold_reward(p.prompt, p.chosen) - gold_reward(p.prompt, p.rejected)
        for p in held_out_pairs
    ]
)
wrong = margin < 0
mislabelled = (gold_gap[wrong] < 0).sum()
print(f"weights from {weights.min():.2f} to {weights.max():.2f}")
print(f"{wrong.sum()} of {len(margin)} pairs are ranked against their label,")
print(f"and of these {mislabelled} have a label against the gold reward")

# %% [markdown]
# ## What beta does
#
# *Predict:* with beta ten times as high, will the policy end closer to the reference or
# further away, and with how much reward?

# %%
strict = train(seed=1, beta=1.0)
strict_kl = sequence_kl(strict.model, reference, tokenizer, asked, seed=1)
strict_says = sample_responses(strict.model, tokenizer, asked, seed=1)
strict_gain = mean_interval(judge(strict_says) - before[0])
print(f"beta 0.1: gain {mean_interval(after[0] - before[0])} at KL {kls[1]}")
print(f"beta 1.0: gain {strict_gain} at KL {strict_kl}")
assert strict_kl.mean < kls[1].mean

# %% [markdown]
# Closer, and with less reward, on this one seed. Beta is the price of leaving the
# reference; notebook 07 draws the whole frontier. Higher beta means *less* change, which many a tutorial has the wrong way
# round.
#
# ## Cut in two
#
# Long runs get interrupted. `save` writes the state whole or not at all, `resume` takes
# it up, and the two halves must give the very weights of the uncut run.

# %%
import tempfile

short = {"batch_size": 4, "steps": 6, "learning_rate": 1e-4}
whole = TinyDPOTrainer(copy.deepcopy(reference), tokenizer, pairs[:16], **short)
whole.train()
with tempfile.TemporaryDirectory() as folder:
    half = TinyDPOTrainer(copy.deepcopy(reference), tokenizer, pairs[:16], **short)
    half.train(until=3)
    half.save(folder)
    rest = TinyDPOTrainer(copy.deepcopy(reference), tokenizer, pairs[:16], **short)
    rest.resume(folder)
    rest.train()

# %%
both = zip(whole.model.parameters(), rest.model.parameters(), strict=True)
assert all(torch.equal(a, b) for a, b in both)
assert whole.history == rest.history
print(f"{len(rest.history)} steps in the history, weights equal to the last bit")

# %% [markdown]
# ## What you did
#
# - You computed a response's log-probability by hand, and summed, not averaged.
# - You decoded the mask: prompt and padding out, EOS in, once.
# - You wrote the loss, and know why every sound run begins at ln 2.
# - You saw that the gradient listens to the pairs the policy ranks wrongly.
# - You trained over three seeds, and resumed a cut run to the same weights.
# - You measured gold reward and KL, and read the samples.
#
# What a toy shows: the mechanism, its sizes and its side effects, with a truth to hold
# them against. What it does not show: that your annotators, prompts and model behave
# alike. Notebook 09 is about judging where no gold reward exists.
#
# ## Exercises
#
# 1. *Mathematics.* Show that for sums the prompt's log-probability cancels in
#    $\rho_w - \rho_l$ even if it is scored by mistake, and that for means it does not.
#    Check it with a batch whose labels include the prompt.
#
# <details><summary>Answer</summary>
#
# Both $\rho$ gain the same $\log\pi(x) - \log\pi_\mathrm{ref}(x)$, which drops out of
# $\rho_w - \rho_l$. Means divide it by $|x| + |y_w|$ and $|x| + |y_l|$ (without the
# first token, which nothing predicts), and these differ. Use `runs[1].model` as policy
# and `labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)`: the
# margin of sums stays as it was; divided by each row's number of labels it moves.
# </details>
#
# 2. *Experiment.* Train on `preference_pairs` of an `Annotator(label_noise=0.3)`.
#    Predict the gain, then measure it.
#
# <details><summary>Answer</summary>
#
# Positive, but smaller: with 30 % of the labels turned round, each pair teaches
# $1 - 2 \cdot 0.3 = 0.4$ of what it did. Use
# `preference_pairs(n, Annotator(label_noise=0.3, seed=1), seed=1)` in `train`.
# </details>
#
# 3. *Find the bug.* A colleague's first loss is 0.71 with a batch of eight, and 0.69
#    with dropout at zero in the configuration. Is that enough to be sure of the cause?
#
# <details><summary>Answer</summary>
#
# Nearly: a first loss off ln 2 has few causes (dropout, another reference, a reference
# whose log-probabilities were computed with other truncation or precision). That
# dropout at zero mends it points to the first. Be sure by calling the policy twice on
# one batch: with dropout on, the two answers differ.
# </details>
#
# 4. *Implementation.* Add a stopping rule to the loop: stop when the held-out margin
#    has not grown over two evaluations. Where does it stop here?
#
# <details><summary>Answer</summary>
#
# Read `eval_rewards/margins` from `history` between calls of `train(until=...)`, which
# continues where it was. With `eval_every` at a quarter of the run the rule can fire at
# the third evaluation at the earliest; evaluate every five steps to give it a chance.
# 64 held-out pairs make a noisy judge; use more before you trust it.
# </details>
#
# ## Further reading
#
# - Rafailov et al. 2023, [Direct Preference Optimization](https://arxiv.org/abs/2305.18290),
#   equation 7 and its gradient in section 4.
# - [The authors' code](https://github.com/eric-mitchell/direct-preference-optimization),
#   about as long as this notebook.
# - Razin et al. 2024, [Unintentional Unalignment: Likelihood Displacement in Direct
#   Preference Optimization](https://arxiv.org/abs/2410.08847).
