# %% [markdown]
# # 10 · Recipes: exercises
#
# BADGE
#
# Four tasks, 42 minutes, on [10 · Recipes](../10_recipes.ipynb): how far a reference
# that moves lets the policy go, pairs out of scored candidates, what a judge says of
# its own choices, and a file that must survive a kill.
#
# Write your answer where the cell says `YOUR CODE HERE`, run it, then the cell below
# it: it passes in silence, or gives you a hint. You need the chapter and nothing beyond
# it, and no task needs another one. Keep the
# [solutions](../solutions/10_recipes.ipynb) for afterwards.

# %%
# BOOTSTRAP

# %% [markdown]
# ## Task 1 · What three rounds add up to
#
# *Kind: mathematics on paper and in a cell · Level: medium · 10 minutes*
#
# In notebook 02 the best policy for a reward $r$ at the price $\beta$ of leaving a
# reference $\pi_\mathrm{ref}$ was
#
# $$\pi^*(y) \propto \pi_\mathrm{ref}(y)\, e^{r(y) / \beta}.$$
#
# Suppose that each round of iterative DPO reaches that optimum exactly, for one reward
# and one prompt. Round $k$ has its own $\beta_k$. The reference is **fixed** (the SFT
# model in every round) or it **moves** (the policy as the round begins).
#
# On paper: write down the policy after rounds $1, \dots, K$ for both. Which single
# $\beta$ gives the policy of the moving reference in *one* round from the SFT model?
#
# In the cell: `after_rounds` returns the policy after all rounds, and `one_round_beta`
# that single $\beta$. `best` below is the formula above, on a table of responses.

# %%
import torch


def best(reference, reward, beta):
    """The optimum over a table of responses; reference, reward: (responses,)."""
    return (reference.log() + reward / beta).softmax(0)


sft = torch.tensor([0.50, 0.30, 0.15, 0.04, 0.01], dtype=torch.float64)
reward = torch.tensor([-0.2, 0.1, 0.3, 0.8, -1.0], dtype=torch.float64)


# %% nbgrader={"grade": false, "grade_id": "task1", "locked": false, "schema_version": 3, "solution": true, "task": false}
# after_rounds(sft, reward, betas, moves): probabilities (responses,) after the rounds
# one_round_beta(betas): one round from the SFT model at this beta does what rounds at
# `betas` do when the reference moves
### BEGIN SOLUTION
def after_rounds(sft, reward, betas, moves):
    policy = sft
    for beta in betas:
        policy = best(policy if moves else sft, reward, beta)
    return policy


# Moving: each round multiplies by exp(r / beta_k), and exponents add up. Fixed: each
# round forgets the one before, and the last beta decides.
def one_round_beta(betas):
    return 1 / sum(1 / beta for beta in betas)


print("fixed", after_rounds(sft, reward, [0.5] * 3, moves=False))
print("moved", after_rounds(sft, reward, [0.5] * 3, moves=True))
print(f"as one round at beta {one_round_beta([0.5] * 3):.3f}")
### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "task1_check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
plans = [[0.5], [0.5, 0.5, 0.5], [0.2, 0.1, 0.05], [1.0, 2.0]]
for betas in plans:
    fixed = after_rounds(sft, reward, betas, moves=False)
    assert torch.allclose(fixed, best(sft, reward, betas[-1])), (
        f"fixed reference, betas {betas}: the optimum of a round depends on its "
        "reference and its beta. Does it depend on the round before?"
    )
    moved = after_rounds(sft, reward, betas, moves=True)
    by_hand = sft * torch.stack([(reward / b).exp() for b in betas]).prod(0)
    assert torch.allclose(moved, by_hand / by_hand.sum()), (
        f"moving reference, betas {betas}: each round starts where the one before "
        "ended. What is multiplied by what?"
    )
    one = one_round_beta(betas)
    assert torch.allclose(best(sft, reward, one), moved, atol=1e-6), (
        f"one round at {one:.3f} is not what rounds at {betas} come to. Write the "
        "moving policy as the SFT model times one exponential: what divides r there? "
        "And should three rounds together hold the policy more or less than one?"
    )
### BEGIN HIDDEN TESTS
for betas in ([0.3, 0.7, 1.1, 0.4], [5.0] * 10):
    other = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    gain = torch.tensor([1.0, -1.0, 0.5, 0.0], dtype=torch.float64)
    moved = after_rounds(other, gain, betas, moves=True)
    one = best(other, gain, one_round_beta(betas))
    assert torch.allclose(moved, one, atol=1e-6), "not for every table and plan"
    fixed = after_rounds(other, gain, betas, moves=False)
    assert torch.allclose(fixed, best(other, gain, betas[-1])), "the same, fixed"
### END HIDDEN TESTS

# %% [markdown]
# So a moving reference keeps no price on the whole way: ten rounds at a beta of 1 end
# where one round at 0.1 would. In the chapter some runs of the moving arm were far from
# the SFT model after round three. Real rounds do not reach their optimum, and their
# data change; the exponents add up all the same.
#
# ## Task 2 · One pair out of scored candidates
#
# *Kind: implementation · Level: easy · 6 minutes*
#
# A scorer has marked each candidate of a prompt; higher is better. Write
# `best_against_worst`, which makes at most one preference pair out of them:
#
# - a candidate that the limit of tokens cut off (`ended` is False) must not become
#   training data, on neither side;
# - of the others, the best is chosen and the worst rejected;
# - where their scores differ by `least` or less, it is a tie, and a tie is no pair:
#   return None. The same where fewer than two candidates are left.

# %%
import random

from dpo_tutorial.data import PreferencePair

candidates = [
    {"text": " fresh.", "ended": True, "score": 0.6},
    {"text": " fresh and the waiter was", "ended": False, "score": 0.9},
    {"text": " bland.", "ended": True, "score": 0.1},
    {"text": " good and the bill was fair.", "ended": True, "score": 0.7},
]


# %% nbgrader={"grade": false, "grade_id": "task2", "locked": false, "schema_version": 3, "solution": true, "task": false}
def best_against_worst(prompt, candidates, least=0.05):
    """A `PreferencePair(prompt, chosen, rejected)` of two texts, or None."""
    ### BEGIN SOLUTION
    whole = [row for row in candidates if row["ended"]]  # before choosing, not after
    if len(whole) < 2:
        return None
    whole = sorted(whole, key=lambda row: row["score"])
    worst, best_one = whole[0], whole[-1]
    if best_one["score"] - worst["score"] <= least:
        return None
    return PreferencePair(prompt, best_one["text"], worst["text"])
    ### END SOLUTION


best_against_worst("The soup was", candidates)


# %% nbgrader={"grade": true, "grade_id": "task2_check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
def scored(*rows):
    """Candidates out of (text, score), or (text, score, False) where cut off."""
    full = [(*row, True)[:3] for row in rows]
    return [{"text": t, "score": s, "ended": ended} for t, s, ended in full]


pair = best_against_worst("The soup was", candidates)
assert isinstance(pair, PreferencePair), (
    f"there is a pair in `candidates`, and you return {pair!r}. A cut-off candidate "
    "leaves the others as they are: when do you look at `ended`?"
)
assert not {pair.chosen, pair.rejected} & {" fresh and the waiter was"}, (
    "a candidate that was cut off is in the pair: training would put EOS behind half a "
    "sentence. A high score does not change that."
)
assert pair == PreferencePair("The soup was", candidates[3]["text"], " bland."), (
    f"you pair {pair.chosen!r} (chosen) with {pair.rejected!r} (rejected): which two "
    "have the most different scores, and which of them is the better?"
)
for tie in (
    scored((" a.", 0.5), (" b.", 0.5)),
    scored((" a.", 0.50), (" b.", 0.53), (" c", 0.9, False)),
):
    assert best_against_worst("It was", tie) is None, (
        "scores within `least` of each other are a tie: which of the two becomes "
        "chosen would be up to the order of the list."
    )
assert (
    best_against_worst("It was", scored((" a.", 0.5), (" b.", 0.75)), least=0.25)
    is None
), "scores that differ by just `least` are a tie too; and `least` is the caller's."
for few in ([], scored((" a.", 0.9)), scored((" a.", 0.9), (" b", 0.1, False))):
    assert best_against_worst("It was", few) is None, "a pair takes two candidates"
### BEGIN HIDDEN TESTS
dice = random.Random(10)
for _ in range(50):
    rows = scored(*[(f" {i}.", dice.random(), dice.random() < 0.7) for i in range(6)])
    pair = best_against_worst("It was", rows, least=0.3)
    whole = {row["score"]: row["text"] for row in rows if row["ended"]}
    gap = max(whole) - min(whole) if len(whole) > 1 else 0
    assert (pair is None) == (gap <= 0.3), "when is there a pair? Mind `least`"
    if pair:
        found = pair.chosen, pair.rejected
        assert found == (whole[max(whole)], whole[min(whole)]), "best against worst"
assert best_against_worst("It was", scored((" a.", 0.6), (" b.", 0.5)), least=0.05)
### END HIDDEN TESTS

# %% [markdown]
# ## Task 3 · A judge looks at its own choice
#
# *Kind: experiment with a prediction · Level: medium · 12 minutes*
#
# Best of $n$: a judge marks $n$ reviews of a prompt, and the best by its marks is kept.
# How much was gained? Three tables of marks answer, each of shape (prompts, 16), for
# the same reviews, written by the review world's grammar:
#
# - `own`: the judge's marks by which the choice is made: the gold reward, plus a liking
#   for each word, plus luck;
# - `fresh`: the same judge asked again: the same liking, new luck;
# - `gold`: the gold reward.
#
# The **gain** by a table is, averaged over the prompts, its mark of the kept review less
# the mean of its marks of all $n$ reviews among which the judge chose. Predict the
# gains for $n = 16$. By `own` it is the largest; the gain by `fresh` is
#
# - `"a"`: about that by `own`, since it is the same judge;
# - `"b"`: clearly below that by `own` and clearly above that by `gold`;
# - `"c"`: about that by `gold`, since new luck is fair.
#
# Then write `gain`, look at it for $n$ = 2, 4, 8 and 16, and set `conclusion` to `"a"`,
# `"b"` or `"c"` by what you measured at 16. "About" means within a tenth of a mark.

# %%
import numpy as np

from dpo_tutorial.reviews import gold_reward, prompts, sample_review

dice, starts = random.Random(0), prompts("held_out")[:150]
written = [[sample_review(dice, start)[0] for _ in range(16)] for start in starts]
gold = [
    [gold_reward(start, text) for text in texts]
    for start, texts in zip(starts, written, strict=True)
]
gold = np.array(gold)  # (prompts, 16)
words = np.array([[len(text.split()) for text in texts] for texts in written])
rng = np.random.default_rng(0)
own = gold + 0.08 * words + rng.normal(0, 0.5, gold.shape)
fresh = gold + 0.08 * words + rng.normal(0, 0.5, gold.shape)


# %% nbgrader={"grade": false, "grade_id": "task3", "locked": false, "schema_version": 3, "solution": true, "task": false}
# prediction: "a", "b" or "c", set before you run anything
# gain(marks, own, n): best of the first n columns by `own`; its gain by `marks`
# gains: {"own": …, "fresh": …, "gold": …}, the gains for n = 16
# conclusion: "a", "b" or "c"
### BEGIN SOLUTION
prediction = "c"


def gain(marks, own, n):
    kept = own[:, :n].argmax(1)  # (prompts,)
    return float((marks[np.arange(len(kept)), kept] - marks[:, :n].mean(1)).mean())


tables = {"own": own, "fresh": fresh, "gold": gold, "words": words}
for n in (2, 4, 8, 16):
    print(n, {name: round(gain(table, own, n), 2) for name, table in tables.items()})
gains = {name: gain(tables[name], own, 16) for name in ("own", "fresh", "gold")}
conclusion = "b"
### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "task3_check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
assert prediction in ("a", "b", "c"), f"prediction is {prediction!r}: set a, b or c"

tiny_own = np.array([[1.0, 5.0, 9.0], [4.0, 2.0, 0.0]])
tiny_marks = np.array([[7.0, 1.0, 0.0], [3.0, 5.0, 9.0]])
assert abs(gain(tiny_own, tiny_own, 2) - 1.5) < 1e-9, (
    "by hand: of [1, 5] the 5 is kept, of [4, 2] the 4, and the means are 3 and 3, so "
    f"that the gain is 1.5. You find {gain(tiny_own, tiny_own, 2):.3f}: only the first "
    "n reviews are in the choice and in the mean."
)
assert abs(gain(tiny_marks, tiny_own, 2) + 2.0) < 1e-9, (
    "`marks` only looks at what `own` has chosen. By hand the gain here is -2, and you "
    f"find {gain(tiny_marks, tiny_own, 2):.3f}: which table does the choosing?"
)


def by_loop(marks, n):
    kept = [max(range(n), key=row.__getitem__) for row in own.tolist()]
    return np.mean(
        [row[k] - row[:n].mean() for row, k in zip(marks, kept, strict=True)]
    )


tables = {"own": own, "fresh": fresh, "gold": gold}
for name, table in tables.items():
    assert abs(gains[name] - by_loop(table, 16)) < 1e-6, (
        f"gains[{name!r}] is {gains[name]:.3f}: it should be the gain for n = 16 by "
        "that table, of what `own` has chosen"
    )
### BEGIN HIDDEN TESTS
for n in (3, 7):
    assert abs(gain(gold, own, n) - by_loop(gold, n)) < 1e-6, f"not so for n = {n}"
### END HIDDEN TESTS
if gains["own"] - gains["fresh"] < 0.1:
    meant = "a"
else:
    meant = "b" if gains["fresh"] - gains["gold"] > 0.1 else "c"
assert conclusion == meant, (
    f"conclusion is {conclusion!r}; your gains are "
    f"{ {name: round(x, 2) for name, x in gains.items()} }. Which are close?"
)

# %% [markdown]
# Choosing the best mark chooses luck as well, and the more candidates, the more of it.
# New luck takes that part off. The liking for words is in both markings of one judge,
# so no second asking removes it: that takes another judge. It is why the chapter has an
# arbiter, and why it says that for the gold adapter a new seed is a weaker arbiter than
# for the biased one.
#
# ## Task 4 · Rows that do not survive
#
# *Kind: find the bug · Level: hard · 14 minutes*
#
# A colleague collects answers from a judge that is slow and paid by the call. If the
# process is killed, the same call is to go on where it was. `theirs` does well as long
# as nothing happens. Then a process is killed in the midst of writing its second row,
# so that the file ends in half a line:

# %%
import json
import tempfile
from contextlib import suppress
from pathlib import Path


def theirs(path, questions, ask):
    done = []
    if path.exists():
        for line in path.read_text().splitlines():
            with suppress(ValueError):  # the line in which we were killed
                done.append(json.loads(line))
    with path.open("a") as file:
        for question in questions[len(done) :]:
            row = {"question": question, "answer": ask(question)}
            file.write(json.dumps(row) + "\n")
            done.append(row)
    return done


folder = tempfile.TemporaryDirectory()
path, questions = Path(folder.name) / "rows.jsonl", ["soup", "bread", "bill"]
whole = [{"question": word, "answer": word.upper()} for word in questions]
lines = [json.dumps(row) + "\n" for row in whole]
path.write_text(lines[0] + lines[1][:25])
print(len(theirs(path, questions, str.upper)), "rows returned; the file:")
print(path.read_text())

# %% [markdown]
# It returned three rows, and asked only what was missing. Read the file: what will the
# next call make of its second line? That is one bug. The other is harder to see: `ask`
# may take minutes, and `write` does not write at once; it fills a buffer of some
# thousand characters. What is on disk when the process is killed during the third
# question?
#
# Write `collect` without the two bugs. A row counts when its line is whole, newline
# included. After a call the file has each question's row once and nothing else, no
# question is asked whose row was whole, and each row is on disk before the next
# question is asked.


# %% nbgrader={"grade": false, "grade_id": "task4", "locked": false, "schema_version": 3, "solution": true, "task": false}
def collect(path, questions, ask):
    """All rows, as dicts, in order; the file at `path` is taken up where it ends."""
    ### BEGIN SOLUTION
    text = path.read_bytes() if path.exists() else b""
    end = text.rfind(b"\n") + 1  # behind the last whole line; 0 if there is none
    done = [json.loads(line) for line in text[:end].splitlines()]
    with path.open("ab") as file:
        file.truncate(end)  # or the next row would be glued to the torn one
        for question in questions[len(done) :]:
            row = {"question": question, "answer": ask(question)}
            file.write(json.dumps(row).encode() + b"\n")
            file.flush()  # to disk, before the next question
            done.append(row)
    return done
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "task4_check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
def check_cut(left):
    """A file with the text `left` is taken up; what is asked, returned, on disk?"""
    path.write_text(left)
    asked, kept = [], []

    def ask(question):
        asked.append(question)
        kept.append(path.read_text().count("\n"))
        return question.upper()

    found = collect(path, questions, ask)
    whole_lines = left.count("\n")
    assert asked == questions[whole_lines:], (
        f"the file held {left!r}, and you asked {asked}. A line counts with its newline "
        "and not without: what was whole is not asked again, what was torn is."
    )
    assert found == whole, f"after {left!r} you return {found}: three rows are expected"
    text = path.read_text()
    assert text.splitlines() == [line.rstrip("\n") for line in lines], (
        f"the file held {left!r}, and now reads\n{text}\nIs there a row glued to what "
        "was left of a torn line, or one that is there twice, or none?"
    )
    before = list(range(whole_lines, len(questions)))
    assert kept == before, (
        f"on disk before each question: {kept} rows, expected {before}. A row that is "
        "still in a buffer dies with the process."
    )


torn = lines[0] + lines[1][:25], lines[0] + lines[1][:-1]
for left in ("", lines[0], *torn, "".join(lines)):
    check_cut(left)
path.unlink()  # the first call of all finds no file
assert collect(path, questions, str.upper) == whole, "without a file, all is asked"
### BEGIN HIDDEN TESTS
everything = "".join(lines)
for cut in range(len(everything) + 1):
    check_cut(everything[:cut])
### END HIDDEN TESTS

# %% [markdown]
# `flush` hands the row to the operating system, where the death of the process cannot
# reach it; against the death of the machine it takes `os.fsync` as well. And cutting
# the file at its last whole line is safer than writing it anew, which leaves a moment
# in which it is empty.
