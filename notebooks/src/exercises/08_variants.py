# %% [markdown]
# # 08 · Variants: exercises
#
# BADGE
#
# Four tasks on [08 · Variants](../08_variants.ipynb), 36 minutes in all: where losses
# come to rest, KTO from a table of prompts and responses, annotators who disagree, and
# three ports with a bug each. No training of a model. Write in place of `raise
# NotImplementedError()` and run the cell under yours: if it raises no error, you are
# done. The tasks do not need each other, but for the imports: run the given cells from
# the top. Compare with the
# [solutions](../solutions/08_variants.ipynb) only afterwards.

# %%
# BOOTSTRAP

# %% [markdown]
# ## Task 1 · Where a loss is content
#
# *Kind: mathematics on paper and in a cell · Level: medium · 10 minutes*
#
# A loss pulls at a pair until its pull is zero. Find the margin
# $h = \rho_w - \rho_l$, in nats of *summed* log-probabilities, at which each of these
# is least, first on paper:
#
# - `cdpo_rest(beta, eps)`: cDPO;
# - `ipo_rest(tau, eps)`: IPO on a pair whose label is turned round with probability
#   `eps`, so that the mean loss is $(1-\varepsilon)\,\ell(h) + \varepsilon\,\ell(-h)$;
# - `averaged_ipo_rest(tau, tokens)`: IPO as TRL has it, with *averaged*
#   log-probabilities, where both responses have `tokens` tokens and labels are right.

# %%
from math import log

import torch
import torch.nn.functional as F

from dpo_tutorial.losses import dpo_loss, ipo_loss, kto_loss, orpo_loss, simpo_loss


# %% nbgrader={"grade": false, "grade_id": "task1", "locked": false, "schema_version": 3, "solution": true, "task": false}
# def cdpo_rest(beta, eps), def ipo_rest(tau, eps), def averaged_ipo_rest(tau, tokens):
# each a number of nats
### BEGIN SOLUTION
def cdpo_rest(beta, eps):
    # (1 - eps) sigma(-z) = eps sigma(z), so that sigma(z) = 1 - eps; z = beta h
    return log((1 - eps) / eps) / beta


def ipo_rest(tau, eps):
    # a square is least at its targets' mean: (1 - eps) / (2 tau) - eps / (2 tau)
    return (1 - 2 * eps) / (2 * tau)


def averaged_ipo_rest(tau, tokens):
    return tokens / (2 * tau)  # h / tokens is 1 / (2 tau)


### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "task1_check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
GRID = torch.linspace(-60, 400, 46_001, dtype=torch.float64)  # margins, 0.01 apart
ZERO = torch.zeros_like(GRID)


def least(losses):
    return float(GRID[losses.argmin()])


def cdpo_by_grid(beta, eps):
    return least(dpo_loss(GRID, ZERO, ZERO, ZERO, beta, label_smoothing=eps)[0])


def ipo_by_grid(tau, eps):
    return least((1 - eps) * ipo_loss(GRID, tau) + eps * ipo_loss(-GRID, tau))


for beta, eps in ((0.1, 0.2), (0.5, 0.2), (0.3, 0.45)):
    rest = cdpo_by_grid(beta, eps)
    assert float(cdpo_rest(beta, eps)) > 0, (
        "Fewer than half of the labels are wrong: cDPO rests at a margin above zero."
    )
    assert abs(float(cdpo_rest(beta, eps)) - rest) < 0.02, (
        f"cDPO at beta {beta}, eps {eps} rests at {rest:.2f} nats, not at "
        f"{float(cdpo_rest(beta, eps)):.2f}. At rest two pulls balance: what does that "
        "say of sigma(beta h)? Is beta where it belongs?"
    )
assert abs(float(ipo_rest(0.1, 0.0)) - ipo_by_grid(0.1, 0.0)) < 0.02, (
    "Without wrong labels IPO rests at its target. The tau is not inside the square "
    "with h, and the target has it once."
)
for tau, eps in ((0.1, 0.2), (0.02, 0.4)):
    rest = ipo_by_grid(tau, eps)
    assert abs(float(ipo_rest(tau, eps)) - rest) < 0.02, (
        f"With {eps:.0%} of the labels turned, IPO at tau {tau} rests at {rest:.2f} "
        f"nats, not at {float(ipo_rest(tau, eps)):.2f}: a turned label has its target "
        "on the other side."
    )
for tau, tokens in ((0.1, 10), (0.5, 25)):
    rest = least(ipo_loss(GRID / tokens, tau))
    assert abs(float(averaged_ipo_rest(tau, tokens)) - rest) < 0.02, (
        f"On averages over {tokens} tokens IPO at tau {tau} rests at {rest:.0f} summed "
        f"nats, not at {float(averaged_ipo_rest(tau, tokens)):.2f}. The target holds "
        "for the average."
    )
### BEGIN HIDDEN TESTS
assert abs(float(cdpo_rest(0.2, 0.05)) - cdpo_by_grid(0.2, 0.05)) < 0.02
assert abs(float(ipo_rest(0.05, 0.1)) - ipo_by_grid(0.05, 0.1)) < 0.02
assert abs(float(averaged_ipo_rest(1.0, 7)) - least(ipo_loss(GRID / 7, 1.0))) < 0.02
### END HIDDEN TESTS

# %% [markdown]
# The last function is the quarrel over IPO in numbers: on averages the same tau asks
# for a summed margin that grows with the responses' length.
#
# ## Task 2 · KTO's reference point, from a table
#
# *Kind: implementation · Level: medium · 8 minutes*
#
# A batch has B prompts, each with one response. You get the summed log-probability of
# *every* response under *every* prompt: `p[i, j]` is $\log\pi(y_j \mid x_i)$, and `r`
# is the same under the reference. Row i's own response is on the diagonal; its
# mismatched one is that of the next row, `j = i + 1`, and the first one's for the last
# row. `up` is true where the thumb is up.
#
# Write `kto(p, r, up, beta)`: KTO's losses, (B,), with the reference point as the paper
# has it. A batch of one row has nothing to mismatch with: raise a `ValueError`.


# %% nbgrader={"grade": false, "grade_id": "task2", "locked": false, "schema_version": 3, "solution": true, "task": false}
def kto(p, r, up, beta=0.1):
    """KTO's losses (B,) from tables (B, B) of log-probabilities, and thumbs (B,)."""
    ### BEGIN SOLUTION
    rows = torch.arange(len(p))
    if len(rows) < 2:
        raise ValueError("one row: nothing to mismatch with; raise the batch size")
    rho = p - r  # (B, B)
    z = rho[rows, rows.roll(-1)].mean().detach().clamp(min=0)
    gain = beta * (rho.diagonal() - z)  # (B,)
    return 1 - torch.sigmoid(torch.where(up, gain, -gain))
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "task2_check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
def tables(own, next_row, rows=4):  # a policy with given log-ratios, elsewhere 0.3
    r = -10.0 - torch.arange(rows * rows, dtype=torch.float32).view(rows, rows)
    rho, i = torch.full((rows, rows), 0.3), torch.arange(rows)
    rho[i, i], rho[i, (i + 1) % rows] = torch.tensor(own), torch.tensor(next_row)
    return (r + rho).requires_grad_(), r


thumbs = torch.tensor([True, False, True, False])
own, other = [1.0, 2.0, -1.0, 0.5], [4.0, 0.0, 1.0, 3.0]  # z0 is 2
p, r = tables(own, other)
losses = kto(p, r, thumbs)
assert losses.shape == (4,), "One loss a row, please, not their mean."
losses.sum().backward()
assert torch.all(p.grad.diagonal()[thumbs] < 0), (
    "A thumb up does not pull its response up. Which sign has a loss's gradient then?"
)
assert torch.all(p.grad.diagonal()[~thumbs] > 0), "A thumb down does not push down."
assert torch.all(p.grad[~torch.eye(4, dtype=torch.bool)] == 0), (
    "The gradient reaches responses of other prompts: the reference point is a number "
    "to compare with, and must not be trained. Detach it."
)
truth = kto_loss(torch.tensor(own), torch.zeros(4), thumbs, torch.tensor(2.0))
batch_mean = kto_loss(
    torch.tensor(own), torch.zeros(4), thumbs, torch.tensor(own).mean()
)
assert not torch.allclose(losses, batch_mean, atol=1e-4), (
    "Your reference point is the mean of the batch's own log-ratios. It estimates a KL "
    "divergence from responses that belong to *other* prompts."
)
assert torch.allclose(losses, truth, atol=1e-4), (
    "The reference point should be the mean of four log-ratios, 4, 0, 1 and 3: row i "
    "with column i + 1. Is it counted once, inside beta's bracket?"
)
p, r = tables(own, [-4.0, -3.0, 1.0, -2.0])
truth = kto_loss(torch.tensor(own), torch.zeros(4), thumbs, torch.tensor(0.0))
assert torch.allclose(kto(p, r, thumbs), truth, atol=1e-4), (
    "The mismatched log-ratios −4, −3, 1 and −2 have a mean below zero. A KL "
    "divergence has not: clamp the mean at zero (the mean, not its four parts)."
)
try:
    kto(p[:1, :1], r[:1, :1], thumbs[:1])
    refused = False
except ValueError:
    refused = True
assert refused, "A batch of one should raise a ValueError: its z0 would be its own."
### BEGIN HIDDEN TESTS
torch.manual_seed(5)
for rows in (2, 7):
    own, other = torch.randn(2, rows).add(0.5).tolist()
    hands = torch.rand(rows) < 0.5
    p, r = tables(own, other, rows)
    z = torch.tensor(other).mean().clamp(min=0)
    truth = kto_loss(torch.tensor(own), torch.zeros(rows), hands, z, beta=0.4)
    assert torch.allclose(kto(p, r, hands, beta=0.4), truth, atol=1e-4), "elsewhere"
### END HIDDEN TESTS

# %% [markdown]
# ## Task 3 · When annotators disagree
#
# *Kind: experiment with a prediction · Level: medium · 10 minutes*
#
# One pair, judged by many. All say the same, or 30 % say the opposite. Each loss of
# `LOSSES`, as a function of the margin h, starts at h = 0 and takes 400 steps of
# gradient descent at a rate of 0.8 on its mean over the judgements. Robust DPO is told
# the share of 30 % in both cases.
#
# **Predict first**: which of the four ends at (nearly) the *same* margin in both cases?
# Set `prediction` to `"DPO"`, `"IPO"`, `"hinge"` or `"robust"`.
#
# Then write `final_margin(loss, share)`, where `share` of the judgements are turned
# round, and set `conclusion`. With 30 % turned, robust DPO ends
#
# - `"a"`: where DPO ends when nobody disagrees;
# - `"b"`: where DPO ends with 30 % turned;
# - `"c"`: where robust DPO ends when nobody disagrees.


# %%
def dpo_at(h, beta=0.3):
    return -F.logsigmoid(beta * h)


def robust_at(h, eps=0.3):
    return ((1 - eps) * dpo_at(h) - eps * dpo_at(-h)) / (1 - 2 * eps)


LOSSES = {
    "DPO": dpo_at,
    "IPO": lambda h: (h - 1 / (2 * 0.1)) ** 2,
    "hinge": lambda h: torch.relu(1 - 0.3 * h),
    "robust": robust_at,
}

# %% nbgrader={"grade": false, "grade_id": "task3", "locked": false, "schema_version": 3, "solution": true, "task": false}
# First: prediction = "…", and only then the rest
# Then: def final_margin(loss, share)
# Last: conclusion = "…", after a look at all four losses at shares 0 and 0.3
### BEGIN SOLUTION
prediction = "hinge"


def final_margin(loss, share):
    h = torch.zeros((), requires_grad=True)
    for _ in range(400):
        mean = (1 - share) * loss(h) + share * loss(-h)
        (slope,) = torch.autograd.grad(mean, h)
        h = (h - 0.8 * slope).detach().requires_grad_()
    return h.detach().item()


for name, loss in LOSSES.items():
    print(f"{name:7}", *(f"{final_margin(loss, share):6.2f}" for share in (0, 0.3)))
conclusion = "a"
### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "task3_check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
assert prediction in LOSSES, (
    "Set `prediction` to one of the four names; a wrong guess costs nothing."
)
ends = {
    (name, share): float(final_margin(loss, share))
    for name, loss in LOSSES.items()
    for share in (0.0, 0.3)
}
assert abs(ends["IPO", 0.0] - 5) < 0.1, (
    f"When all agree, IPO rests at its target of 5 nats; yours ends at "
    f"{ends['IPO', 0.0]:.2f}. Does h start at 0 and go against the slope?"
)
assert abs(ends["IPO", 0.3] - 2) < 0.1, (
    f"With 30 % turned, IPO rests at 2 nats; yours ends at {ends['IPO', 0.3]:.2f}. A "
    "turned judgement is the loss at −h, and the mean weighs both."
)
majority = float(torch.tensor(0.7 / 0.3).log() / 0.3)
assert abs(ends["DPO", 0.3] - majority) < 0.1, (
    f"With 30 % turned, DPO rests at {majority:.2f} nats: the log-odds of the "
    f"judgements, over beta. Yours is at {ends['DPO', 0.3]:.2f}. All 400 steps?"
)
with torch.no_grad():
    again = torch.zeros(())
    for _ in range(400):  # DPO's slope by hand
        again = again + 0.8 * 0.3 * torch.sigmoid(-0.3 * again)
assert abs(ends["DPO", 0.0] - float(again)) < 0.1, "DPO where all agree: rate, steps?"
gaps = {
    "a": ends["robust", 0.3] - ends["DPO", 0.0],
    "b": ends["robust", 0.3] - ends["DPO", 0.3],
    "c": ends["robust", 0.3] - ends["robust", 0.0],
}
assert conclusion == min(gaps, key=lambda key: abs(gaps[key])), (
    "`conclusion` does not agree with your margins: compare robust DPO's at 30 % with "
    "the three others. What is its mean loss over flips, by the chapter?"
)
### BEGIN HIDDEN TESTS
assert abs(float(final_margin(LOSSES["IPO"], 0.1)) - 4) < 0.1
assert abs(float(final_margin(LOSSES["hinge"], 0.4)) - 1 / 0.3) < 0.2
### END HIDDEN TESTS
moved = {name: ends[name, 0.0] - ends[name, 0.3] for name in LOSSES}
steady = min(moved, key=lambda name: abs(moved[name]))
print(f"predicted {prediction}, measured {steady}")

# %% [markdown]
# IPO's square follows the *mean* of its targets, so that each turned label moves it.
# The hinge is straight between its two corners and follows the majority. DPO follows
# the log-odds: finite as soon as one judge disagrees, without end if none does, which
# is what IPO was made against.
#
# ## Task 4 · Three ports, three bugs
#
# *Kind: find the bug · Level: medium · 8 minutes*
#
# A colleague has ported three losses in the chapter's form: `p` and `r` are summed
# log-probabilities, (2, B) with the chosen responses in row 0, and `n` the numbers of
# tokens. Each has passed a test, shown below, and each is wrong. What did the tests not
# see? Find each bug first, and write `robust`, `simpo` and `orpo` anew from the formulas,
# without the chapter's code. (ORPO as in the chapter: the chosen
# response's average NLL plus beta times the odds term. Log odds should stay finite
# where a response is all but certain.)

# %%
torch.manual_seed(0)
bench_n = torch.randint(4, 20, (2, 32))
bench_r = -bench_n * (0.2 + torch.rand(2, 32))
bench_p = bench_r * (0.6 + 0.8 * torch.rand(2, 32))


def gap(x):
    return x[0] - x[1]  # (2, B) -> (B,)


def colleagues_robust(p, r, n, beta, eps):
    z = beta * gap(p - r)
    return -((1 - eps) * F.logsigmoid(z) + eps * F.logsigmoid(-z)) / (1 - 2 * eps)


def colleagues_simpo(p, r, n, beta, gamma):
    return -F.logsigmoid(beta * gap(p) / n.float().mean(0) - gamma)


def colleagues_orpo(p, r, n, beta):
    logps = p / n
    odds = logps - torch.log(1 - logps)
    return -logps[0] - beta * F.logsigmoid(gap(odds))


sides = bench_p, bench_r
plain = dpo_loss(*bench_p, *bench_r, beta=0.1)[0]
assert torch.allclose(colleagues_robust(*sides, bench_n, 0.1, eps=0.0), plain)
same = bench_n[:1].repeat(2, 1)  # both responses equally long
shown = colleagues_simpo(*sides, same, beta=2.0, gamma=1.0)
assert torch.allclose(shown, simpo_loss(*bench_p / same, beta=2.0, gamma=1.0))
likelier = torch.stack([bench_p[0] / 2, bench_p[1]])
shown = [colleagues_orpo(x, None, bench_n, beta=1.0) for x in (bench_p, likelier)]
assert (shown[1] < shown[0]).all()  # a likelier chosen response costs less


# %% nbgrader={"grade": false, "grade_id": "task4", "locked": false, "schema_version": 3, "solution": true, "task": false}
# def robust(p, r, n, beta, eps), simpo(p, r, n, beta, gamma), orpo(p, r, n, beta)
### BEGIN SOLUTION
def robust(p, r, n, beta, eps):
    z = beta * gap(p - r)
    right, wrong = -F.logsigmoid(z), -F.logsigmoid(-z)
    return ((1 - eps) * right - eps * wrong) / (1 - 2 * eps)  # minus: undo the flips


def simpo(p, r, n, beta, gamma):
    return -F.logsigmoid(beta * gap(p / n) - gamma)  # each over its own length


def orpo(p, r, n, beta):
    logps = p / n
    odds = logps - torch.log(-torch.expm1(logps))  # log(1 - p), of p and not of log p
    return -logps[0] - beta * F.logsigmoid(gap(odds))


### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "task4_check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
for eps in (0.2, 0.4):
    kept = robust(bench_p, bench_r, bench_n, 0.1, eps)
    turned = robust(bench_p.flip(0), bench_r.flip(0), bench_n.flip(0), 0.1, eps)
    assert torch.allclose((1 - eps) * kept + eps * turned, plain, atol=1e-4), (
        f"Robust DPO: with a share of {eps} turned round, the mean of your loss is not "
        "DPO's loss of the true labels. Which sign has the second term, and what does "
        "the divisor undo?"
    )
assert torch.allclose(robust(*sides, bench_n, 0.1, 0.0), plain, atol=1e-4)
for beta, gamma in ((2.0, 1.0), (5.0, 0.5)):
    mine = simpo(*sides, bench_n, beta, gamma)
    relative = simpo_loss(*bench_p / bench_n, beta=beta, gamma=beta * gamma)
    assert not torch.allclose(mine, relative, atol=1e-4), (
        "SimPO: your gamma is multiplied by beta. In the chapter's formula, as in TRL, "
        "it is absolute."
    )
    assert torch.allclose(
        mine, simpo_loss(*bench_p / bench_n, beta=beta, gamma=gamma), atol=1e-4
    ), (
        "SimPO: the colleague's test had both responses equally long. What is averaged "
        "over what where they are not? And is there a reference in SimPO?"
    )
mine = orpo(*sides, bench_n, 1.0)
assert torch.allclose(mine, orpo_loss(*bench_p / bench_n, beta=1.0), atol=1e-3), (
    "ORPO: log odds are log p − log(1 − p), with p the probability. Which of the two "
    "stands in your second logarithm? And is it of the average log-probability?"
)
sure = torch.tensor([[-1e-7], [-4.0]], requires_grad=True)  # ten tokens each
orpo(sure, sure, torch.full((2, 1), 10), 1.0).sum().backward()
assert sure.grad.isfinite().all(), (
    "ORPO: where the chosen response is all but certain, 1 − p rounds to zero and the "
    "gradient is no number. There is a function for exp(x) − 1 near x = 0."
)
### BEGIN HIDDEN TESTS
torch.manual_seed(7)
n = torch.randint(2, 30, (2, 50))
r, p = (-n * (0.1 + torch.rand(2, 50)) for _ in range(2))
truth = dpo_loss(*p, *r, beta=0.3, loss_type="robust", label_smoothing=0.1)[0]
assert torch.allclose(robust(p, r, n, 0.3, 0.1), truth, atol=1e-4)
assert torch.allclose(simpo(p, r, n, 3.0, 0.9), simpo_loss(*p / n, 3.0, 0.9), atol=1e-4)
assert torch.allclose(orpo(p, r, n, 0.5), orpo_loss(*p / n, 0.5), atol=1e-3)
### END HIDDEN TESTS

# %% [markdown]
# Each test looked where right and wrong agree: at a share of zero, at equal lengths, at
# an order. Test a loss against the property that its paper claims for it.
