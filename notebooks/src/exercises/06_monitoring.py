# %% [markdown]
# # 06 · Monitoring: exercises
#
# BADGE
#
# Four tasks on [06 · Monitoring](../06_monitoring.ipynb), 38 minutes in all: how many
# pairs a comparison needs, what a margin hides, where the probability goes, and a log
# that contradicts itself. Write in place of `raise NotImplementedError()` and run the
# cell under yours: if it raises no error, you are done. The tasks do not need each other,
# but for the imports: run the given cells from the top.
# Compare with the [solutions](../solutions/06_monitoring.ipynb) only afterwards.

# %%
# BOOTSTRAP

# %% [markdown]
# ## Task 1 · A difference, or luck?
#
# *Kind: mathematics on paper and in a cell · Level: easy · 8 minutes*
#
# Two runs are scored on held-out pairs, run A on one set of $n$ pairs and run B on
# *another* set of $n$. Both accuracies are near $a$, and B's is higher by $d$. The
# chapter gave the 95 % half-width of one accuracy near one half,
# $1.96\sqrt{0.25/n}$. On paper, find that of the *difference* of two independent
# accuracies near $a$. A pair is right or wrong, so that one pair has the variance
# $a(1-a)$.
#
# Then write `pairs_needed(d, a)`: the smallest whole $n$ for which that half-width is
# at most $d$ (both as shares: three points are 0.03).


# %% nbgrader={"grade": false, "grade_id": "task1", "locked": false, "schema_version": 3, "solution": true, "task": false}
from math import ceil


def pairs_needed(d, a):
    """Smallest n, of each of two sets of pairs, that shows a difference of d."""
    ### BEGIN SOLUTION
    # Var = a (1 - a) / n + a (1 - a) / n, and 1.96 sqrt(2 a (1 - a) / n) <= d
    return ceil(2 * a * (1 - a) * (1.96 / d) ** 2)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "task1_check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
def check_pairs(d, a):
    n = pairs_needed(d, a)
    assert n == int(n), f"{n} pairs: a whole number, please, rounded up."
    half_width = [1.96 * (2 * a * (1 - a) / m) ** 0.5 for m in (n, n - 1)]
    assert half_width[0] <= d, (
        f"{n} pairs are too few to show {d} at {a}: there the half-width of the "
        f"difference is {half_width[0]:.4f}. Has each of the two accuracies its error "
        "in it? Did you round up?"
    )
    assert half_width[1] > d, f"{n} pairs are more than are needed to show {d} at {a}."


growth = pairs_needed(0.02, 0.6) / pairs_needed(0.04, 0.6)
assert 3.9 < growth < 4.1, (
    f"Half the difference takes {growth:.1f} times the pairs in your formula. A "
    "half-width shrinks with the root of n: solve for n."
)
assert pairs_needed(0.05, 0.9) < pairs_needed(0.05, 0.5), (
    "An accuracy near 0 or 1 varies less than one near one half. Where is a in yours?"
)
check_pairs(0.05, 0.7)
check_pairs(0.1, 0.5)
### BEGIN HIDDEN TESTS
for d, a in ((0.02, 0.6), (0.03, 0.8), (0.2, 0.55)):
    check_pairs(d, a)
### END HIDDEN TESTS
print(f"to show three points at 70 %: {pairs_needed(0.03, 0.7)} pairs for each run")

# %% [markdown]
# On the *same* pairs less is needed, since what is hard for one run is mostly hard for
# the other: compare pair by pair.
#
# ## Task 2 · What the margin hides
#
# *Kind: implementation · Level: medium · 8 minutes*
#
# A log has the mean margin. Three ways lead to the same mean: chosen responses rose,
# rejected ones fell, or both fell and the rejected ones further. Write
# `where_it_moved(now, then)` for the summed log-probabilities of pairs under policy and
# reference, each a tensor (2, B) with the chosen responses in row 0. It returns a
# dictionary of four numbers:
#
# - `"margin"`: the mean change of the gap, chosen less rejected, in nats, without beta;
# - `"accuracy"`: as the chapter's `rewards/accuracies`;
# - `"won but fell"`: the share of *all* pairs that are ranked rightly (margin above
#   zero) although their chosen response lost probability;
# - `"from below"`: the part of the mean margin that is due to the rejected responses'
#   falling (a rise counts as a negative fall), as a share of the mean margin.

# %%
import torch

# six pairs, chosen above rejected, in nats
then = torch.tensor(
    [
        [-10.0, -12.0, -8.0, -20.0, -9.0, -15.0],
        [-14.0, -6.0, -9.0, -10.0, -9.0, -11.0],
    ]
)
change = torch.tensor(
    [[1.0, -1.0, -2.0, 2.0, 0.5, -3.0], [-2.0, -4.0, -1.0, 1.0, 0.5, -5.0]]
)


# %% nbgrader={"grade": false, "grade_id": "task2", "locked": false, "schema_version": 3, "solution": true, "task": false}
def where_it_moved(now, then):
    """Margin (nats), accuracy, share won but fell, and the share from below."""
    ### BEGIN SOLUTION
    chosen, rejected = now - then  # log-ratios, (B,) each
    margin = chosen - rejected
    won = margin > 0
    return {
        "margin": margin.mean().item(),
        "accuracy": won.float().mean().item(),
        "won but fell": (won & (chosen < 0)).float().mean().item(),
        "from below": (-rejected.mean() / margin.mean()).item(),
    }
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "task2_check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
def pairs(chosen, rejected, before=(-10.0, -20.0)):
    before = torch.tensor(before)[:, None].expand(2, len(chosen))
    return where_it_moved(before + torch.tensor([chosen, rejected]), before)


def near(x, y):
    return abs(float(x) - y) < 1e-4


got = where_it_moved(then + change, then)
assert set(got) == {"margin", "accuracy", "won but fell", "from below"}, "Which names?"
assert pairs([1.0], [-2.0], (-20.0, -10.0))["accuracy"] == 1, (
    "A pair whose chosen response gained and whose rejected one lost is won, whatever "
    "the two log-probabilities are: the reference is missing from your accuracy."
)
assert near(pairs([1.0, 1.0], [1.0, -2.0])["accuracy"], 1 / 2), (
    "One win and one tie. A tie is no win: look at >= and >."
)
assert near(pairs([1.0], [-2.0])["margin"], 3), "The margin, in nats and without beta."
assert pairs([-3.0], [-1.0])["won but fell"] == 0, (
    "Here both fell and the pair is lost: “won but fell” wants a margin above zero."
)
assert near(got["won but fell"], 2 / 6), (
    "Two of the six pairs are won although the chosen response fell. The share is of "
    "all pairs, and “fell” means less than under the reference."
)
assert near(pairs([-1.0], [-4.0])["from below"], 4 / 3), (
    "The margin is 3 nats and the rejected response fell by 4: more than the whole of "
    "it came from below, and the chosen response gave back one nat."
)
assert near(got["from below"], 10.5 / 8), (
    "The six rejected responses together fell by 10.5 nats net (two of them rose), and "
    "the six gaps widened by 8: one mean over the other, and no mean of single shares."
)
assert near(got["margin"], 8 / 6), "The six gaps widened by 8 nats together."
assert near(got["accuracy"], 4 / 6), "Four of the six pairs are ranked rightly."
### BEGIN HIDDEN TESTS
torch.manual_seed(3)
base = -20 * torch.rand(2, 50)
moved = torch.randn(2, 50) - torch.tensor([[0.3], [1.5]])
seen, rho = where_it_moved(base + moved, base), moved.double()
gaps = rho[0] - rho[1]
hidden = {"margin": gaps.mean(), "accuracy": (gaps > 0).double().mean()}
hidden["won but fell"] = ((gaps > 0) & (rho[0] < 0)).double().mean()
hidden["from below"] = -rho[1].mean() / gaps.mean()
for name, value in hidden.items():
    assert abs(float(seen[name]) - float(value)) < 1e-3, f"{name} on other pairs"
### END HIDDEN TESTS

# %% [markdown]
# ## Task 3 · A fall that helps, a fall that harms
#
# *Kind: experiment with a prediction · Level: medium · 10 minutes*
#
# The chapter's small world again: seven responses with known rewards and two shared
# features each, the sentiment of the adjective (halved after “not”) and whether “not”
# occurs. `descend(won, lost)` trains on the one pair “won over lost” and returns the
# probabilities before the first step and after each, (steps, 7).
#
# Learning “not bad.” over “not good.” lowered the chosen response and ended with
# “awful.”. Now keep the chosen response and take “awful.” as the rejected one: still a
# sound label. **Predict, before you run anything**, who *gains* most probability then,
# and set `prediction` to one of `"lovely."`, `"not bad."`, `"not good."`, `"good."`.
# (Which way do the features of the pair point?)
#
# Then write `outcome(won, lost)`, run both pairs and set `conclusion`:
#
# - `"a"`: the chosen response fell in both, and the expected reward fell in both;
# - `"b"`: it fell in both, and the expected reward fell with one pair and rose with the
#   other;
# - `"c"`: it fell with one pair only, and there the expected reward fell;
# - `"d"`: it rose in both.

# %%
import torch.nn.functional as F

responses = ["lovely.", "good.", "fine.", "not bad.", "not good.", "bad.", "awful."]
r = torch.tensor([1.0, 0.7, 0.3, 0.2, -0.4, -0.7, -1.0])
log_ref = torch.tensor([12.0, 20, 20, 12, 10, 16, 10]).div(100).log()  # (7,)
sentiment = [1.5, 1.0, 0.4, -0.5, 0.5, -1.0, -1.5]
features = torch.tensor([sentiment, [0, 0, 0, 1, 1, 0, 0]]).T  # (7, 2)


def descend(won, lost, steps=80, rate=0.5, beta=0.5):
    theta, path = torch.zeros(2, requires_grad=True), []
    first, second = responses.index(won), responses.index(lost)
    for _ in range(steps + 1):
        log_pi = (log_ref + features @ theta).log_softmax(-1)
        path.append(log_pi.detach().exp())
        ratio = log_pi - log_ref
        loss = -F.logsigmoid(beta * (ratio[first] - ratio[second]))
        (gradient,) = torch.autograd.grad(loss, theta)
        theta = (theta - rate * gradient).detach().requires_grad_()
    return torch.stack(path)


# %% nbgrader={"grade": false, "grade_id": "task3", "locked": false, "schema_version": 3, "solution": true, "task": false}
# First: prediction = "…", and only then the rest.
# Then: def outcome(won, lost), which trains on “won over lost” and returns a dictionary:
#   "chosen": the change of the chosen response's log-probability, in nats;
#   "reward": the change of the expected reward under the policy;
#   "heir":   the response that gained most probability (a string of `responses`).
# Last: conclusion = "…", after a look at both pairs.
### BEGIN SOLUTION
prediction = "lovely."


def outcome(won, lost):
    path = descend(won, lost)
    start, end = path[0], path[-1]
    chosen = responses.index(won)
    return {
        "chosen": (end[chosen] / start[chosen]).log().item(),
        "reward": ((end - start) @ r).item(),
        "heir": responses[(end - start).argmax()],
    }


for rejected in ("not good.", "awful."):
    found = outcome("not bad.", rejected)
    print(f"over {rejected:9} chosen {found['chosen']:+.2f} nats,", end=" ")
    print(f"expected reward {found['reward']:+.2f}, heir {found['heir']}")
conclusion = "b"
### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "task3_check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
assert prediction in ("lovely.", "not bad.", "not good.", "good."), (
    "Set `prediction` to one of the four responses; a wrong guess costs nothing."
)


def check_outcome(won, lost):
    path, got = descend(won, lost), outcome(won, lost)
    gain, chosen = path[-1] - path[0], responses.index(won)
    nats = float(path[-1, chosen].log() - path[0, chosen].log())
    assert abs(float(got["chosen"]) - nats) < 0.01, (
        f"{won} over {lost}: “chosen” is {float(got['chosen']):.2f}. It is the log of the "
        "chosen response's probability, last row less first, in nats. The gap to the "
        "rejected one is another number, and it always grows."
    )
    assert abs(float(got["reward"]) - float(gain @ r)) < 0.01, (
        f"{won} over {lost}: the expected reward weighs all seven rewards with the "
        "probabilities; take it after less before."
    )
    assert got["heir"] == responses[gain.argmax()], (
        f"{won} over {lost}: the heir is who gained most probability, of all seven."
    )
    return nats < 0, float(gain @ r) < 0


fell = [check_outcome("not bad.", rejected) for rejected in ("not good.", "awful.")]
found = {"a": [(True, True)] * 2, "b": [(True, True), (True, False)]}
found |= {"c": [(True, True), (False, False)]}
truth = next((key for key, pattern in found.items() if pattern == fell), "d")
assert conclusion == truth, (
    "`conclusion` does not agree with what your function measures. Read the signs of "
    "“chosen” and of “reward” for both pairs once more."
)
### BEGIN HIDDEN TESTS
for pair_of in (("fine.", "bad."), ("good.", "lovely."), ("not good.", "awful.")):
    check_outcome(*pair_of)
### END HIDDEN TESTS
path = descend("not bad.", "awful.")
order = (path[-1] - path[0]).argsort(descending=True)
most = " and then ".join(responses[n] for n in order[:2])
print(f"predicted {prediction} as the heir; most is gained by {most}")

# %% [markdown]
# The pair points along its difference of features, and the chosen response itself need
# not lie far along it. So the same fall of the same response can go with a better
# policy or a worse one: look at who inherits. Look also at the runner-up of the second
# pair, “not good.”, of which the label said nothing.
#
# ## Task 4 · A log that contradicts itself
#
# *Kind: find the bug · Level: hard · 12 minutes*
#
# Four logs of real runs of `nano`. The diagnosis names two of them rightly (the first
# cause counts) and has nothing to say about the other two. Is nothing wrong with either?
#
# There is a test that needs no threshold. DPO's loss of a pair is
# $-\log\sigma(m)$ with $m$ its reward margin, a *convex* function of $m$. On paper: if
# you know only the mean margin over a set of pairs, as a log does, what is the lowest
# mean loss that DPO can have on it? Write that as `lowest_loss(margin)`. A held-out row
# whose `eval_loss` lies below it was not written by DPO's loss alone.
#
# Then read the logs and name what is wrong. `named` gives for each of A to D a cause of
# the chapter's list, or “healthy”:
#
# - `"wrong reference"`, `"not learning"`, `"overfitting"`, `"displacement"`,
# - `"both rewards drifting"`, `"diverging"`, `"too early a divergence"`,
# - `"reward scale exploding"`, `"healthy"`.

# %%
import gzip
import json

import pandas as pd

from dpo_tutorial import data_path
from dpo_tutorial.monitoring import diagnose_training_issues

stored = json.loads(gzip.decompress(data_path("histories.json.gz").read_bytes()))
tests = [run for run in stored if run["split"] == "test"]
logs = dict(zip("ABCD", (tests[n]["history"] for n in (0, 17, 27, 60)), strict=True))
for name, history in logs.items():
    causes = [issue.cause for issue in diagnose_training_issues(history)]
    print(f"{name}:", ", then ".join(causes) or "no cause named")

# %%
KEYS = (
    "loss",
    *("rewards/" + k for k in ("accuracies", "margins", "chosen", "rejected")),
)


def rows(history):  # training at five steps; the same names on held-out pairs
    table = pd.DataFrame(history).set_index("step")
    train = table[[*KEYS]].dropna()
    held_out = table[["eval_" + key for key in KEYS]].dropna()
    steps = [1, *held_out.index]
    both = train.reindex(steps).join(held_out.add_suffix(" "), how="left")
    return both.rename(columns=lambda name: name.replace("rewards/", "").strip())


for name, history in logs.items():
    print(f"log {name}", rows(history).round(2).to_string(na_rep=""), sep="\n")


# %% nbgrader={"grade": false, "grade_id": "task4", "locked": false, "schema_version": 3, "solution": true, "task": false}
# Write lowest_loss(margin), then named = {"A": "…", "B": "…", "C": "…", "D": "…"}
### BEGIN SOLUTION
from math import exp, log1p


def lowest_loss(margin):  # Jensen: the mean of a convex f is at least f of the mean
    return log1p(exp(-margin))


for name, history in logs.items():
    last = history[-1]
    floor = lowest_loss(last["eval_rewards/margins"])
    print(f"{name}: held-out loss {last['eval_loss']:.3f}, at least {floor:.3f}")
named = {"A": "wrong reference", "B": "overfitting"}
named |= {"C": "both rewards drifting", "D": "healthy"}
### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "task4_check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
torch.manual_seed(0)
assert abs(float(lowest_loss(0.0)) - 0.6931) < 1e-3, (
    "With all margins at zero the loss is ln 2. What does your function give there?"
)
for mean in (0.5, 2.0, -1.0):
    level = -F.logsigmoid(torch.tensor(mean)).item()  # all pairs alike
    assert float(lowest_loss(mean)) < level + 1e-3, (
        f"If all pairs have the margin {mean}, the loss is {level:.3f}; you give more as "
        "the lowest. Rewards, and so margins, carry beta already."
    )
    assert float(lowest_loss(mean)) > level - 1e-3, (
        f"At a mean margin of {mean} you give {float(lowest_loss(mean)):.3f}. Can DPO "
        "have that? A tangent is a bound too, but not the best: which margins, with "
        "this mean, have the least mean loss?"
    )
assert set(named) == set("ABCD"), "`named` wants the four keys A, B, C and D."
HINTS = {
    "A": "look at step 1, where the policy has not been trained yet. What must its "
    "rewards be then, and its loss?",
    "B": "compare accuracy and loss in training with those on held-out pairs.",
    "C": "its held-out loss lies below what its margins allow, so something beside "
    "DPO's loss is being minimised. Where do both rewards go, and how far apart?",
    "D": "does any held-out number speak for a fault? A chosen reward that falls to "
    "-0.35, at a growing margin, is usual.",
}
for name, n in zip("ABCD", (0, 17, 27, 60), strict=True):
    assert named[name] == tests[n]["cause"], f"Log {name}: {HINTS[name]}"
### BEGIN HIDDEN TESTS
for run in stored:  # no run of plain DPO is below the bound
    gaps = [
        row["eval_loss"] - float(lowest_loss(row["eval_rewards/margins"]))
        for row in run["history"]
        if "eval_loss" in row
    ]
    if run["cause"] != "both rewards drifting":
        assert min(gaps) > -0.005, "plain DPO below your lowest loss"
### END HIDDEN TESTS

# %% [markdown]
# A diagnosis by thresholds is silent below them; an inequality is not. It proves a
# second term wherever it is broken. Where it holds it proves nothing: a term that adds
# to the loss, as an SFT term does, keeps it above the bound.
