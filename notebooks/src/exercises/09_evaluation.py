# %% [markdown]
# # 09 · Evaluation: exercises
#
# BADGE
#
# Four tasks, 40 minutes, on [09 · Evaluation](../09_evaluation.ipynb): what the order
# swap does to a win rate, how verdicts are counted, how often a small evaluation finds
# what is there, and a length control with two mistakes.
#
# Write your answer where the cell says `YOUR CODE HERE`, run it, then the cell below
# it: it passes in silence, or gives you a hint. You need the chapter and nothing beyond
# it, and no task needs another one. Keep the
# [solutions](../solutions/09_evaluation.ipynb) for afterwards.

# %%
# BOOTSTRAP

# %% [markdown]
# ## Task 1 · What the swap does, exactly
#
# *Kind: mathematics on paper and in a cell · Level: medium · 10 minutes*
#
# A judge compares the policy's response with the baseline's. The log-odds that it names
# the response in *first* place are $d + b$ if the policy's stands there, and $-d + b$
# if the baseline's does: $d$ is how much better the policy's response is, $b$ a liking
# for the first place. Each pair is asked both ways round, and the two verdicts are
# independent draws. As in the chapter, verdicts that agree decide the pair, and
# verdicts that contradict each other make a tie, worth one half.
#
# On paper:
#
# 1. With what probabilities is the policy named in the one order and in the other?
# 2. With what probabilities does the swapped pair come out as win, tie and loss?
# 3. Show that the expected score of the swapped pair is the mean of the two
#    probabilities of question 1, whatever $d$ and $b$ are.
# 4. A judge without a liking for a place would give the policy $\sigma(d)$ on average.
#    Take $d > 0$ and $b \ne 0$: where does the swapped score lie? (You may look at
#    numbers before you prove it.)
#
# In the cell: `named` answers question 1, `swapped` question 2, and `pull` question 4,
# with one of `"towards one half"`, `"none"`, `"away from one half"`.

# %%
from math import exp


def sigmoid(x):
    return 1 / (1 + exp(-x))


# %% nbgrader={"grade": false, "grade_id": "task1", "locked": false, "schema_version": 3, "solution": true, "task": false}
# named(d, b): P(policy named | policy first), P(policy named | policy second)
# swapped(d, b): P(win), P(tie), P(loss) of the policy, asked both ways round
# pull: "towards one half", "none" or "away from one half"
### BEGIN SOLUTION
def named(d, b):
    # Policy second: the baseline is named with log-odds -d + b, the policy with d - b.
    return sigmoid(d + b), sigmoid(d - b)


def swapped(d, b):
    first, second = named(d, b)
    win, loss = first * second, (1 - first) * (1 - second)
    return win, 1 - win - loss, loss


# Score: pq + (1 - pq - (1 - p)(1 - q)) / 2 = pq + (p + q - 2pq) / 2 = (p + q) / 2.
# For d > 0 the mean of sigmoid(d + b) and sigmoid(d - b) is below sigmoid(d): a pair
# that the place decides counts one half, whoever is better.
pull = "towards one half"
### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "task1_check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
for d, b in [(1.0, 0.0), (1.0, 2.0), (-0.5, 3.0), (2.0, -1.0)]:
    first, second = named(d, b)
    assert abs(first - sigmoid(d + b)) < 1e-9, (
        f"named({d}, {b}) gives {first:.3f} with the policy first: the log-odds of the "
        "response in first place are given in the task."
    )
    assert abs(second + sigmoid(b - d) - 1) < 1e-9, (
        f"named({d}, {b}) gives {second:.3f} with the policy second. There the place is "
        "a gift to the baseline: start from the log-odds that the *baseline* is named, "
        "and turn the verdict back into one on the policy."
    )
    win, tie, loss = swapped(d, b)
    assert abs(win + tie + loss - 1) < 1e-9, (
        "win, tie and loss do not add up to 1. Two contradictions make a tie: the first "
        "place wins both times, or the second place does."
    )
    again = swapped(d, -b)
    assert all(
        abs(x - y) < 1e-9 for x, y in zip((win, tie, loss), again, strict=True)
    ), (
        "a liking for the second place must do the same as one for the first once both "
        "orders are asked: are the two verdicts about the same response?"
    )
    assert abs(win + tie / 2 - (first + second) / 2) < 1e-9, (
        "the expected score is not the mean of the two one-way rates: win needs both "
        "verdicts, and they are independent draws."
    )
choices = ("towards one half", "none", "away from one half")
assert pull in choices, f"pull is {pull!r}: choose one of {choices}"
score, fair = sum(named(1.0, 2.0)) / 2, sigmoid(1.0)
moved = (abs(score - 0.5) > abs(fair - 0.5)) - (abs(score - 0.5) < abs(fair - 0.5))
assert pull == choices[1 + moved], (
    f"put numbers in: for d = 1 and b = 2 the swapped score is {score:.3f}, a judge "
    f"without the liking gives {fair:.3f}. The swap takes a mean; is that an undoing? "
    "And what becomes of the pairs that the place decides?"
)
### BEGIN HIDDEN TESTS
for d, b in [(0.0, 0.0), (3.0, 0.3), (-2.0, -5.0)]:
    p, q = sigmoid(d + b), 1 - sigmoid(b - d)
    truth = p * q, p * (1 - q) + q * (1 - p), (1 - p) * (1 - q)
    assert all(abs(x - y) < 1e-9 for x, y in zip(swapped(d, b), truth, strict=True)), (
        f"swapped({d}, {b}) is {swapped(d, b)}: go through the four pairs of verdicts"
    )
### END HIDDEN TESTS

# %% [markdown]
# ## Task 2 · Count the verdicts
#
# *Kind: implementation · Level: easy · 8 minutes*
#
# Below are the raw answers of a judge who was asked about each pair twice: first with
# the policy's response as A, then with the places changed. Write `tally(answers)`. It
# returns two things: a dict with how many pairs were won by the policy (`"A"`), lost
# (`"B"`), tied (`"tie"`) and `"unparseable"`, and the policy's win rate as the chapter
# defines it. `parse_verdict` reads one answer, and returns None where nothing can be
# read.

# %%
from dpo_tutorial.judges import parse_verdict

A, B, TIE = '{"winner": "A"}', '{"winner": "B"}', '{"winner": "tie"}'
heard = [
    (A, B),
    (A, A),
    (B, A),
    (A, "I prefer A."),
    (TIE, TIE),
    (A, B),
    ("", ""),
    (B, TIE),
]


# %% nbgrader={"grade": false, "grade_id": "task2", "locked": false, "schema_version": 3, "solution": true, "task": false}
def tally(answers):
    """Counts of "A", "B", "tie", "unparseable" over pairs, and the policy's win rate.

    `answers`: (text with the policy as A, text with the policy as B) for each pair.
    """
    ### BEGIN SOLUTION
    counts = dict.fromkeys(("A", "B", "tie", "unparseable"), 0)
    turned = {"A": "B", "B": "A", "tie": "tie", None: None}
    for texts in answers:
        first, second = map(parse_verdict, texts)
        second = turned[second]
        if first is None or second is None:
            counts["unparseable"] += 1
        else:
            counts[first if first == second else "tie"] += 1
    judged = counts["A"] + counts["B"] + counts["tie"]
    return counts, (counts["A"] + counts["tie"] / 2) / judged
    ### END SOLUTION


tally(heard)

# %% nbgrader={"grade": true, "grade_id": "task2_check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
import random
from collections import Counter

from dpo_tutorial import winrates
from dpo_tutorial.judges import judge_pair


def outcomes_of(answers):
    """By the package: a judge that says what it is told to say."""
    scripts = map(iter, answers)
    judges = [lambda *_, script=script: next(script) for script in scripts]
    return [judge_pair(judge, "prompt", "one", "two").outcome for judge in judges]


def check_tally(answers):
    counts, rate = tally(answers)
    counts = Counter(counts)  # what never came up counts 0
    outcomes = outcomes_of(answers)
    truth = Counter(outcomes)
    assert sum(counts.values()) == len(answers), (
        f"{len(answers)} pairs, and counts of {sum(counts.values())}: each pair has one "
        "outcome, an unreadable one too."
    )
    assert counts["unparseable"] == truth["unparseable"], (
        f"{counts['unparseable']} pairs unparseable, expected {truth['unparseable']}: "
        "no readable verdict is no tie, and one verdict alone is no comparison both "
        "ways round."
    )
    found = {name: counts[name] for name in ("A", "B", "tie")}
    assert found == {name: truth[name] for name in found}, (
        f"you count {found}. In the second answer the policy's response is called B: "
        "turn that verdict back before you compare the two."
    )
    assert abs(rate - winrates.win_rate(outcomes).mean) < 1e-9, (
        f"the counts are right, the win rate {rate:.3f} is not. What is a tie worth, "
        "and which pairs were never judged?"
    )


check_tally(heard)
check_tally([(A, B), (A, B), (B, A), ("no", B)])
### BEGIN HIDDEN TESTS
rng = random.Random(9)
says = [A, B, TIE, "A", '{"winner": "A"', '```json\n{"winner": "B"}\n```']
for n in (5, 20, 60):
    check_tally([(A, B)] + [(rng.choice(says), rng.choice(says)) for _ in range(n)])
### END HIDDEN TESTS

# %% [markdown]
# Look at the eight pairs again. With the unparseable ones called ties the rate moves
# towards one half, and nobody sees that a quarter of the evaluation was never held.
#
# ## Task 3 · How often would you find it?
#
# *Kind: experiment with a prediction · Level: medium · 10 minutes*
#
# A policy truly wins 55 % of all comparisons. Many teams evaluate it, each on 150
# prompts of its own, with a fair judge and no ties, and a team reports its win rate
# when its 95 % interval (`win_rate`, Wilson's) lies wholly above one half.
#
# Predict first, of a hundred teams, how many report:
#
# - `"a"`: about 95, the confidence of the interval;
# - `"b"`: about 80, what the chapter asks of an evaluation;
# - `"c"`: fewer than 40.
#
# Then write `published`, run it, and set `conclusion` to what you measured:
#
# - `"few, and near 0.55"`: fewer than half report, and the mean of the reported win
#   rates is within 0.02 of the truth;
# - `"few, and too high"`: fewer than half report, and that mean is further above;
# - `"most, and near 0.55"`: more than half report, about the truth.

# %%
import numpy as np

from dpo_tutorial.winrates import prompts_needed, win_rate

print(f"{prompts_needed(0.55)} prompts for a power of four in five")


# %% nbgrader={"grade": false, "grade_id": "task3", "locked": false, "schema_version": 3, "solution": true, "task": false}
# prediction: "a", "b" or "c", set before you run anything
# published(p, n, teams, rng): share of the teams that report; mean of their win rates
# share, mean = published(0.55, 150, 1000, np.random.default_rng(0))
# conclusion: one of the three texts above
### BEGIN SOLUTION
prediction = "b"


def published(p, n, teams, rng):
    reported = []
    for _ in range(teams):
        outcomes = np.where(rng.random(n) < p, "A", "B").tolist()
        found = win_rate(outcomes)
        if found.low > 0.5:
            reported.append(found.mean)
    return len(reported) / teams, float(np.mean(reported))


share, mean = published(0.55, 150, 1000, np.random.default_rng(0))
print(f"{share:.0%} of the teams report, {mean:.3f} on average")
conclusion = "few, and too high"
### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "task3_check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
from scipy.stats import binom

from dpo_tutorial.winrates import wilson


def exactly(p, n):
    """What `published` tends to with ever more teams: (share, mean)."""
    wins = np.arange(n + 1)
    seen = binom.pmf(wins, n, p) * [wilson(k, n).low > 0.5 for k in wins]
    return seen.sum(), (seen * wins / n).sum() / seen.sum()


assert prediction in ("a", "b", "c"), f"prediction is {prediction!r}: set a, b or c"
for p, n in [(0.55, 150), (0.6, 100)]:
    found, true = published(p, n, 600, np.random.default_rng(1)), exactly(p, n)
    assert abs(found[0] - true[0]) < 0.08, (
        f"of teams with {n} prompts and a true rate of {p} you let {found[0]:.0%} "
        "report. Each team draws n outcomes with probability p, and reports when the "
        "*low* end of its own interval is above one half."
    )
    assert abs(found[1] - true[1]) < 0.012, (
        f"the mean reported win rate for p = {p}, n = {n} is {found[1]:.3f}: take it "
        "over the teams that report, each with the rate that it measured."
    )
assert abs(share - exactly(0.55, 150)[0]) < 0.06, (
    f"share is {share:.2f}: it belongs to 150 prompts and a true rate of 0.55"
)
### BEGIN HIDDEN TESTS
found, true = published(0.53, 400, 600, np.random.default_rng(2)), exactly(0.53, 400)
off = abs(found[0] - true[0]), abs(found[1] - true[1])
assert max(off) < 0.08, "the share must go by the p and n that are given"
assert off[1] < 0.012, "the mean must go by the p and n that are given"
### END HIDDEN TESTS
few, close = share < 0.5, abs(mean - 0.55) < 0.02
meant = f"{'few' if few else 'most'}, and {'near 0.55' if close else 'too high'}"
assert conclusion == meant, (
    f"conclusion is {conclusion!r}; your own numbers are a share of {share:.2f} and a "
    f"mean of {mean:.3f}. Read them again."
)

# %% [markdown]
# 95 % is what an interval promises when the truth is known and fixed: to hold it. How
# often it leaves out one half is the power, and that depends on the prompts. With too
# few of them only the lucky teams have something to report, and luck is what they
# report. Where you read of a win rate from few prompts, this is what you read.
#
# ## Task 4 · A length control that does not control
#
# *Kind: find the bug · Level: hard · 12 minutes*
#
# A colleague wrote `theirs`, after AlpacaEval's idea: fit the verdicts on the difference
# in length, then ask for the rate at no difference. It is tried on made-up verdicts
# whose truth is known: the judge likes length, the policy writes longer responses, and
# at equal length it would win as often as the baseline. So the rate asked for is one
# half, by either side's count.

# %%
from sklearn.linear_model import LogisticRegression


def theirs(outcomes, lengths_a, lengths_b):
    gap = np.subtract(lengths_a, lengths_b)
    x = (gap - gap.mean()) / gap.std()  # features want mean 0 and spread 1
    x = np.tanh(x)[:, None]
    y = [outcome == "A" for outcome in outcomes]
    fit = LogisticRegression(C=1e4).fit(x, y)
    return fit.predict_proba([[0.0]])[0, 1]


def made_up(merit, ties, n=1500, seed=0):
    """Verdicts on A, who writes longer and, at equal length, has log-odds `merit`."""
    rng = np.random.default_rng(seed)
    lengths_a, lengths_b = rng.normal(18, 6, n), rng.normal(12, 6, n)
    gap = lengths_a - lengths_b
    p = 1 / (1 + np.exp(-merit - 1.5 * np.tanh(gap / gap.std())))
    outcomes = np.where(rng.random(n) < p, "A", "B")
    return np.where(rng.random(n) < ties, "tie", outcomes), lengths_a, lengths_b


turn = np.vectorize({"A": "B", "B": "A", "tie": "tie"}.get)
said, longer, shorter = made_up(merit=0.0, ties=0.3)
print(f"A by theirs: {theirs(said, longer, shorter):.2f}")
print(f"B by theirs: {theirs(turn(said), shorter, longer):.2f}")

# %% [markdown]
# Neither number is one half, and the two do not add up to 1, as the shares of two sides
# must. These are two bugs: one line mistreats the lengths, one the outcomes. Write
# `controlled`, the function without them. (The chapter has it in a few lines; try it
# from the two symptoms first.)


# %% nbgrader={"grade": false, "grade_id": "task4", "locked": false, "schema_version": 3, "solution": true, "task": false}
def controlled(outcomes, lengths_a, lengths_b):
    """A's win rate had both been equally long; outcomes are "A", "B" or "tie"."""
    ### BEGIN SOLUTION
    gap = np.subtract(lengths_a, lengths_b)
    # Scaled, not centred: after centring, 0 is the *usual* difference, not none.
    x = np.tanh(gap / gap.std())[:, None]
    # A tie is half a win and half a loss; `== "A"` had made it a whole loss.
    y = np.array([{"A": 1.0, "tie": 0.5, "B": 0.0}[outcome] for outcome in outcomes])
    weights = np.concatenate([y, 1 - y])
    fit = LogisticRegression(C=1e4)
    fit.fit(np.vstack([x, x]), np.repeat([1, 0], len(y)), weights)
    return fit.predict_proba([[0.0]])[0, 1]
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "task4_check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
from dpo_tutorial.evaluation import length_controlled_win_rate


def check_control(merit, ties, seed):
    said, longer, shorter = made_up(merit, ties, seed=seed)
    ours = controlled(said, longer, shorter)
    other = controlled(turn(said), shorter, longer)
    true = length_controlled_win_rate(said, longer, shorter, resamples=10).mean
    assert abs(ours + other - 1) < 0.01, (
        f"A gets {ours:.2f} and B {other:.2f}, which is not 1 together: what does your "
        "function make of a tie, when A asks and when B asks?"
    )
    if not ties:
        assert abs(ours - true) < 0.02, (
            f"without ties you find {ours:.3f}, the package {true:.3f}. Which difference "
            "in words does the 0 stand for that you predict at?"
        )
    assert abs(ours - true) < 0.02, (
        f"with ties you find {ours:.3f}, the package {true:.3f}. A tie is evidence "
        "that the two are near each other: do you throw it away?"
    )


check_control(merit=0.0, ties=0.0, seed=0)
check_control(merit=0.0, ties=0.3, seed=0)
check_control(merit=1.2, ties=0.4, seed=1)
### BEGIN HIDDEN TESTS
check_control(merit=-1.5, ties=0.5, seed=2)
check_control(merit=0.8, ties=0.0, seed=3)
### END HIDDEN TESTS

# %% [markdown]
# To put features at mean 0 is a good habit where only the fit matters. Here the answer
# is read off at one place of the axis, and that place has a meaning: as long as each
# other. Asking the same question from B's side is a test that costs one line, and finds
# what no look at a single number does.
