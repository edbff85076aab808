# %% [markdown]
# # 03 · Preference data: exercises
#
# Four tasks on votes, tokens, limits and a faulty export, about 46 minutes in all.
#
# You need the chapter, [03 · Preference data](../03_preference_data.ipynb), and nothing
# beyond it. Put your answer where a cell says `YOUR CODE HERE`, then run the check below
# it: silence means that it passed, and a failed check says what to think about. The tasks
# do not depend on one another. When you have tried them all, compare with the
# [solutions](../solutions/03_preference_data.ipynb).
#
# BADGE

# %%
# BOOTSTRAP

# %% [markdown]
# The tasks use the course's pairs, and a tokenizer that is made as in the chapter with
# one difference: like Llama's, it has a token for the beginning of a sequence (BOS) and
# puts it in front of all that it reads, unless told not to. As its padding it has EOS.

# %%
from tokenizers import ByteLevelBPETokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from dpo_tutorial import data_path
from dpo_tutorial.data import convert_to_dpo_format, load_preferences

pairs = load_preferences(data_path("preferences.jsonl"))
bpe, marks = ByteLevelBPETokenizer(), {"bos_token": "<bos>", "eos_token": "<eos>"}
texts = [f"{p.prompt} {p.chosen} {p.rejected}" for p in pairs]
special = list(marks.values())
bpe.train_from_iterator(texts, 3000, special_tokens=special, show_progress=False)
front = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
bpe._tokenizer.post_processor = front
tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, **marks)
tokenizer.pad_token = tokenizer.eos_token
for own in (True, False):
    ids = tokenizer("7 times 8?", add_special_tokens=own)["input_ids"]
    print(f"add_special_tokens={own}:", tokenizer.convert_ids_to_tokens(ids))

# %% [markdown]
# ## Task 1 · What votes ask for
#
# *Kind: mathematics on paper and in a cell · Level: medium · 9 minutes*
#
# Raters compared the same two answers to one prompt: `wins` of them preferred A to B,
# `losses` preferred B to A, and each vote is a row of the training set. With
# $h = \rho_A - \rho_B$ in nats, where $\rho$ is a response's log-probability under the
# policy minus that under the reference, DPO's loss of all these rows together is
#
# $$-\,\mathrm{wins} \cdot \log \sigma(\beta h) - \mathrm{losses} \cdot \log \sigma(-\beta h).$$
#
# On paper, find the $h$ at which it is lowest. (The derivative of $\log \sigma(u)$ is
# $\sigma(-u)$, and $\sigma(u) / \sigma(-u) = e^u$.) Then think of an accident in the
# export: every row of a *losing* vote was written out 1 + `copies` times. Write
# `best_gap` for both; without any dissent it is `math.inf`.

# %% nbgrader={"grade": false, "grade_id": "task1", "locked": false, "schema_version": 3, "solution": true, "task": false}
import math


def best_gap(wins, losses, beta, copies=0):
    """The h (nats) with the lowest loss; `copies` are extra ones of each losing row."""
    ### BEGIN SOLUTION
    rows = losses * (1 + copies)
    return math.log(wins / rows) / beta if rows else math.inf
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "task1_check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
from scipy.optimize import minimize_scalar
from scipy.special import log_expit


def lowest(wins, losses, beta):
    """The same by search, for comparison."""

    def loss(h):
        return -wins * log_expit(beta * h) - losses * log_expit(-beta * h)

    return minimize_scalar(loss, bounds=(-100, 100), options={"xatol": 1e-7}).x


assert abs(best_gap(4, 4, 0.1)) < 1e-6, (
    "four votes against four ask for indifference: what is h then?"
)
assert best_gap(9, 1, 0.1) * best_gap(1, 9, 0.1) < 0, (
    "nine to one and one to nine ask for opposite signs: odds compare wins with losses, "
    "a share compares them with all votes"
)
assert abs(best_gap(9, 1, 1.0) - lowest(9, 1, 1.0)) < 1e-2, (
    "at beta = 1 another h has a lower loss: set the derivative to zero and solve for "
    "e to the power of h before you take a logarithm"
)
assert abs(best_gap(9, 1, 0.1) - lowest(9, 1, 0.1)) < 1e-2, (
    "right at beta = 1 and wrong at 0.1: the loss knows beta times h only. To have the "
    "same product with a smaller beta, what does h do?"
)
assert best_gap(9, 0, 0.1) == math.inf, (
    "without dissent the loss falls for ever as h grows: return math.inf"
)
assert abs(best_gap(9, 1, 0.1, copies=8)) < 1e-6, (
    "one dissenting row and 8 copies of it are how many rows, against nine?"
)
assert abs(best_gap(8, 2, 0.5, copies=3)) < 1e-6, (
    "two dissenting rows with 3 extra copies of each: count the rows"
)
### BEGIN HIDDEN TESTS
for wins, losses, beta in ((3, 2, 0.05), (2, 7, 0.2), (20, 1, 2.0)):
    assert abs(best_gap(wins, losses, beta) - lowest(wins, losses, beta)) < 1e-2, (
        f"{wins} votes to {losses} at beta {beta}: another h has a lower loss"
    )
assert abs(best_gap(30, 2, 0.1, 4) - lowest(30, 10, 0.1)) < 1e-2, (
    "two dissenting rows with 4 extra copies of each are ten rows"
)
### END HIDDEN TESTS

# %% [markdown]
# Votes have a finite target, and an accidental copy is a vote that nobody cast: eight
# pastes of one row undo nine raters. That is why copies must go and second opinions stay.
#
# ## Task 2 · From two texts to a row of a batch
#
# *Kind: implementation · Level: medium · 15 minutes*
#
# Write what lies between a converted row and the model: `encode` takes one prompt and
# one response and returns three lists of `length` numbers, `input_ids`,
# `attention_mask` and `labels`.
#
# - The row begins with BOS **once**, also where the prompt's text begins with `<bos>`, as
#   some templates make it.
# - Prompt and response are tokenised apart.
# - The response ends with EOS **once**, also where its text ends with `<eos>`.
# - Padding goes to the right, with the tokenizer's `pad_token_id`; `labels` are −100 on
#   prompt and padding.
# - What does not fit into `length` is a `ValueError`.


# %% nbgrader={"grade": false, "grade_id": "task2", "locked": false, "schema_version": 3, "solution": true, "task": false}
def encode(prompt, response, tokenizer, length):
    """A dict of input_ids, attention_mask and labels: lists of `length` numbers."""
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    ### BEGIN SOLUTION
    given = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    answer = tokenizer(response, add_special_tokens=False)["input_ids"]
    if given[:1] != [bos]:
        given = [bos, *given]
    if answer[-1:] != [eos]:
        answer = [*answer, eos]
    pads = length - len(given) - len(answer)
    if pads < 0:
        raise ValueError(f"{length - pads} tokens, expected {length} at most")
    return {
        "input_ids": given + answer + [tokenizer.pad_token_id] * pads,
        "attention_mask": [1] * (length - pads) + [0] * pads,
        "labels": [-100] * len(given) + answer + [-100] * pads,
    }
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "task2_check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
import torch

bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id


def encoded(prompt, response, length=40):
    """`encode`'s lists, and what it scores."""
    row = {
        k: torch.as_tensor(v).tolist()
        for k, v in encode(prompt, response, tokenizer, length).items()
    }
    assert {len(v) for v in row.values()} == {length}, (
        f"expected {length} numbers in each"
    )
    return row, [x for x in row["labels"] if x != -100]


for prompt, answer in (("7 times 8?", " 56"), ("Name a herb: ", "Basil is one.")):
    row, scored = encoded(prompt, answer)
    assert bos not in scored, (
        "BOS is among the scored tokens: the tokenizer also put one before the response"
    )
    assert scored.count(eos) > 0, (
        "no EOS is scored: was it added, and if so, do you mask padding by its id? Here "
        "padding and EOS are one token"
    )
    assert scored.count(eos) == 1, (
        "EOS is scored more than once: is padding scored too?"
    )
    apart = tokenizer.tokenize(answer)
    assert tokenizer.convert_ids_to_tokens(scored) == [*apart, "<eos>"], (
        "the scored tokens are not the response's own: a token that spans the boundary "
        "belongs to neither side. Tokenise the two texts apart"
    )
    places = [i for i, x in enumerate(row["input_ids"]) if x == bos]
    assert places == [0], "BOS should be there once, at the start"
    assert all(
        y in (-100, x) for x, y in zip(row["input_ids"], row["labels"], strict=True)
    ), (
        "labels should repeat the token that input_ids has at the same place: does the "
        "mask over the prompt count BOS, and does padding come last in both?"
    )
    padding = set(row["input_ids"][sum(row["attention_mask"]) :])
    assert padding == {tokenizer.pad_token_id}, (
        "what stands to the right of the response should be the tokenizer's pad_token_id"
    )
    assert sum(row["attention_mask"]) == 1 + len(tokenizer.tokenize(prompt)) + len(
        scored
    ), (
        "attention_mask should be 1 on BOS, prompt and response with its EOS, and 0 on "
        "padding: go by length, not by token id"
    )
row, scored = encoded("<bos>7 times 8?", " 56<eos>")
assert row["input_ids"].count(bos) == 1, (
    "BOS stands twice where the text brings one: the template wrote one, the tokenizer "
    "another"
)
assert scored.count(eos) == 1, "EOS is scored twice where the text brings one"
full = sum(row["attention_mask"])
try:
    encode("7 times 8?", " 56", tokenizer, full)
except ValueError:
    raise AssertionError(f"a row of exactly {full} tokens fits into {full}") from None
try:
    encode("7 times 8?", " 56", tokenizer, 4)
    raise AssertionError(
        "four places do not hold this row, and nothing was said: cut, "
        "it would lose its EOS or its response"
    )
except ValueError:
    pass
### BEGIN HIDDEN TESTS
from dpo_tutorial.data import pad_rows, tokenize_pair

for row in convert_to_dpo_format(pairs[:40], "plain"):
    ids = tokenize_pair(row, tokenizer)
    for side in ("chosen", "rejected"):
        for extra in (0, 7):
            size = len(ids["prompt_ids"]) + len(ids[f"{side}_ids"]) + extra
            got, _ = encoded(row["prompt"], row[side], size)
            pad = [tokenizer.pad_token_id] * extra
            parts = ids["prompt_ids"], ids[f"{side}_ids"]
            want = pad_rows([parts], tokenizer.pad_token_id)
            assert got["input_ids"] == want["input_ids"][0].tolist() + pad, (
                f"input_ids of {row[side]!r} are not BOS, prompt, response, EOS, padding"
            )
            assert got["labels"] == want["labels"][0].tolist() + [-100] * extra, (
                f"labels of {row[side]!r} should repeat the response with its EOS"
            )
            mask = want["attention_mask"][0].tolist() + [0] * extra
            assert got["attention_mask"] == mask, "attention_mask goes by length"
### END HIDDEN TESTS

# %% [markdown]
# ## Task 3 · Whom does a length limit hit?
#
# *Kind: experiment with a prediction · Level: easy · 9 minutes*
#
# Taken as a whole, these pairs are balanced: the longer answer is chosen about as often
# as not. TRL's `max_length` keeps the first tokens of prompt and response together and
# cuts off the rest, EOS included. Set it to 90 tokens. Of the responses that lose their
# EOS,
#
# - `"a"`: about as many are chosen as rejected, since the set is balanced;
# - `"b"`: most are chosen, since better answers say more;
# - `"c"`: most are rejected.
#
# Write your `prediction` first. Then count for each side how many of its 180 rows are
# longer than `limit`, BOS and EOS included (`lengths` below has the tokens of prompt and
# response, with both), and put the counts into `cut`. Next, drop every pair that has at
# least one such row. Into `longer_before` and `longer_after` put the share of pairs
# whose chosen row has more tokens than the rejected one, before and after dropping.
# Last comes `conclusion`, one of the letters. Count `"a"` as right where neither side is
# twice the other.

# %%
from dpo_tutorial.data import tokenize_pair

limit, lengths = 90, []  # of each pair: (tokens with chosen, tokens with rejected)
for row in convert_to_dpo_format(pairs, "plain"):
    ids = tokenize_pair(row, tokenizer)
    sides = [
        len(ids["prompt_ids"]) + len(ids[f"{s}_ids"]) for s in ("chosen", "rejected")
    ]
    lengths.append(tuple(sides))
print(lengths[:4])

# %% nbgrader={"grade": false, "grade_id": "task3", "locked": false, "schema_version": 3, "solution": true, "task": false}
prediction = None  # "a", "b" or "c", before you measure
cut = {"chosen": None, "rejected": None}
longer_before = longer_after = None
conclusion = None
### BEGIN SOLUTION
prediction = "a"


def share(rows):
    return sum(chosen > rejected for chosen, rejected in rows) / len(rows)


cut["chosen"] = sum(chosen > limit for chosen, _ in lengths)
cut["rejected"] = sum(rejected > limit for _, rejected in lengths)
longer_before = share(lengths)
longer_after = share([row for row in lengths if max(row) <= limit])
conclusion = "c"
print(cut, f"longer chosen: {longer_before:.2f} before, {longer_after:.2f} after")
### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "task3_check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
assert prediction in ("a", "b", "c"), "write your prediction first: 'a', 'b' or 'c'"
for place, side in enumerate(("chosen", "rejected")):
    assert cut[side] is not None, f"cut[{side!r}] is still missing"
    found = sum(row[place] > limit for row in lengths)
    fits = sum(row[place] == limit for row in lengths)
    assert cut[side] != found + fits or not fits, (
        f"{side}: a row of exactly {limit} tokens still fits"
    )
    assert cut[side] == found, (
        f"{side}: count the rows of this side whose tokens are more than {limit}; a pair "
        "can be long on one side only"
    )
for name, share, rows in (
    ("longer_before", longer_before, lengths),
    ("longer_after", longer_after, [row for row in lengths if max(row) <= limit]),
):
    assert share is not None, f"{name} is still missing"
    assert abs(share - sum(a > b for a, b in rows) / len(rows)) < 1e-6, (
        f"{name} should be the share of {len(rows)} pairs (a pair stays only if both its "
        "rows fit) whose chosen row, the first number, is the longer one"
    )
ratio = cut["chosen"] / cut["rejected"]
letter = "a" if 0.5 <= ratio <= 2 else "b" if ratio > 2 else "c"
assert conclusion == letter, (
    f"you counted {cut}: which of the three sentences does that bear out?"
)
### BEGIN HIDDEN TESTS
assert longer_after > longer_before, "dropping long pairs should have moved the share"
### END HIDDEN TESTS

# %% [markdown]
# A balanced set is a sum of parts that are not. The long answers here are the verbose
# ones, nearly all of them rejected. Cut, they no longer say where they ended, so the limit
# changes what the rejected side teaches and leaves the chosen side nearly alone; dropped,
# they leave a set in which longer is better. A limit is a filter: measure again behind it.
#
# ## Task 4 · Two hundred contradictions
#
# *Kind: find the bug · Level: hard · 13 minutes*
#
# Three raters judged the course's pairs, two raters a pair, and their votes came in on
# three sheets. Honest raters disagree now and then. But the report below has far too many
# contradictions, and the cause is known: one **rater** misread the task and put the worse
# answer first, throughout; or one **sheet** was exported with the columns `chosen` and
# `rejected` swapped. Which one?
#
# Find it from contradictions alone (`report.rows` gives their indices). Then set
# `culprit` to its name, and `mended` to the list of all votes, in the same order, with
# the fault undone and everything else as it was.

# %%
import random

from dpo_tutorial.validation import PreferenceDataValidator

dice, votes = random.Random(12), []
broken = dice.choice(["anna", "ben", "carla", "monday", "tuesday", "friday"])
for pair in pairs:
    raters = dice.sample(["anna", "ben", "carla"], 2)
    sheets = dice.sample(["monday", "tuesday", "friday"], 2)
    for rater, sheet in zip(raters, sheets, strict=True):
        texts = [pair.chosen, pair.rejected]
        if (dice.random() < 0.1) != (broken in (rater, sheet)):
            texts.reverse()
        vote = {"prompt": pair.prompt, "chosen": texts[0], "rejected": texts[1]}
        votes.append(vote | {"rater": rater, "sheet": sheet})
dice.shuffle(votes)
report = PreferenceDataValidator(votes).full_report()
print(f"{len(report.rows('contradiction'))} of {len(votes)} votes are contradicted")

# %% nbgrader={"grade": false, "grade_id": "task4", "locked": false, "schema_version": 3, "solution": true, "task": false}
culprit = None  # the name of a rater or of a sheet
mended = None  # all 360 votes
### BEGIN SOLUTION
contradicted = set(report.rows("contradiction"))
for column in ("rater", "sheet"):
    for name in sorted({vote[column] for vote in votes}):
        rows = [i for i, vote in enumerate(votes) if vote[column] == name]
        share = len(contradicted.intersection(rows)) / len(rows)
        print(f"{name:8}{share:.2f} of {len(rows)} votes are contradicted")
culprit = "monday"
mended = []
for vote in votes:
    if vote["sheet"] == culprit:
        vote = vote | {"chosen": vote["rejected"], "rejected": vote["chosen"]}
    mended.append(vote)
### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "task4_check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
names = {vote[column] for vote in votes for column in ("rater", "sheet")}
assert culprit in names, f"culprit should be one of {sorted(names)}"
assert mended is not None, "mended is still missing"
assert len(mended) == len(votes), (
    f"{len(mended)} votes of {len(votes)} are left. Nothing has to go: a swap can be "
    "undone, and a contradiction may be two honest raters, which is information"
)
changed = []
for old, new in zip(votes, mended, strict=True):
    swapped = old | {"chosen": old["rejected"], "rejected": old["chosen"]}
    assert new in (old, swapped), (
        "a vote should be as it was, or have its texts swapped"
    )
    changed.append(new == swapped)
still = PreferenceDataValidator(mended).full_report().rows("contradiction")
assert still, (
    "no contradiction is left: with them went the honest disagreements. The fault lies in "
    "what votes have in common, not in those that are contradicted"
)
for column in ("rater", "sheet"):
    for name in {vote[column] for vote in votes}:
        own = [
            c for c, vote in zip(changed, votes, strict=True) if vote[column] == name
        ]
        if name == culprit:
            assert all(own), (
                f"only {sum(own)} of {len(own)} votes of {name!r} are swapped back. Are "
                "those that nobody contradicted right? Somebody may have agreed by mistake. (If you "
                "changed the rows of `votes` themselves, run its cell again and make new "
                "ones.)"
            )
            assert sum(changed) == len(own), (
                f"votes apart from those of {name!r} changed"
            )
share = len(still) / len(votes)
assert share < 0.3, (
    f"after this, {share:.0%} of the votes are still contradicted. Compare the shares of "
    "each rater and of each sheet: a contradiction has two sides, and the innocent share "
    "in it. Which name stands out?"
)
### BEGIN HIDDEN TESTS
assert culprit == broken, "another name explains more of the contradictions"
for vote, was in zip(mended, votes, strict=True):
    assert (vote == was) == (was["sheet"] != broken), "swap back that sheet, whole"
### END HIDDEN TESTS

# %% [markdown]
# What is left are pairs on which honest raters differ. Dropping all that was contradicted
# would have cost more than half of the votes, among them every honest disagreement, and
# would have kept the swapped rows that met another rater's slip. When a report has too
# many hits, ask what the hits have in common.
#
# Now compare with the [solutions](../solutions/03_preference_data.ipynb), and go on with
# [04 · DPO from scratch](../04_dpo_from_scratch.ipynb).
