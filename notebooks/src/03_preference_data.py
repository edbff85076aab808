# %% [markdown]
# # 03 · Preference data
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/dpo-tutorial/dpo-tutorial/blob/main/notebooks/03_preference_data.ipynb)
#
# You will turn other people's preference data, and your own, into checked batches of
# tokens, and you will see what each common fault costs when nobody looks.
#
# **You will**
#
# - load pairs from files and from six public layouts, and have bad rows named by line;
# - read a validator's report on clean and on dirty data, and act on it;
# - measure length bias, and what leakage between train and test is worth to a memoriser;
# - render one pair in four chat templates, and see the harm of applying one twice;
# - find the token boundary between prompt and response, and keep it;
# - decode a batch: what is given, what is scored, what is padding.
#
# **You need** notebook 02 for the words *chosen* and *rejected*, and some Python. No
# model is used. Measured on two CPU cores: about 15 seconds and 0.6 GB of memory; allow
# an hour for reading.
#
# Back: [02 · From RLHF to DPO](02_from_rlhf_to_dpo.ipynb) ·
# Next: [04 · DPO from scratch](04_dpo_from_scratch.ipynb)

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
# ## One comparison
#
# DPO learns from triples: a prompt $x$, a chosen response $y_w$ and a rejected one
# $y_l$. The loss contains nothing but the difference between the two responses, so the
# data are the whole specification of what you want. In this course a triple is a
# `PreferencePair`, frozen once it is made.

# %%
from dpo_tutorial.data import PreferencePair

pair = PreferencePair(
    "What is 7 times 8?", "56", "I think it is 54.", {"topic": "sums"}
)
pair

# %% [markdown]
# A pair is checked where it is made. *Predict* which of these four would train without
# an error if nobody checked, and what each would teach.

# %%
good = {"prompt": "What is 7 times 8?", "chosen": "56", "rejected": "54"}


def refusal(**change):
    try:
        return PreferencePair(**good | change)
    except ValueError as error:
        return error


for change in ({"chosen": 56}, {"rejected": " "}, {"rejected": "56"}, {"prompt": None}):
    print(refusal(**change), end="\n\n")

# %% [markdown]
# The second and the third would train. An empty rejected response teaches the policy not
# to stop at once; two equal responses have a gradient of exactly zero and dilute every
# average you log. Each message has the same three parts: the value seen, what was
# expected, and what to do.
#
# ## A clean set
#
# The course brings 180 pairs over everyday topics. Every rejected answer has one flaw,
# named in the metadata, and every pair says why the chosen answer is better.

# %%
import pandas as pd

from dpo_tutorial import data_path
from dpo_tutorial.data import load_preferences

pairs = load_preferences(data_path("preferences.jsonl"))
table = pd.DataFrame([p.metadata for p in pairs])
pd.crosstab(table["topic"], table["flaw"])

# %% [markdown]
# Read rows before you read statistics. One pair for each flaw:

# %%
for flaw, rows in table.groupby("flaw"):
    p = pairs[rows.index[1]]
    print(
        f"[{flaw}] {p.prompt}\n  + {p.chosen}\n  - {p.rejected}\n  ({rows['why'].iloc[1]})\n"
    )

# %% [markdown]
# Now let the validator read all of them. It runs every check it knows and returns a
# report that shows as a table here and exports with `to_dict()`.

# %%
from dpo_tutorial.validation import PreferenceDataValidator

report = PreferenceDataValidator(pairs).full_report()
assert not [f for f in report.findings if f.severity in ("error", "warning")]
report

# %% [markdown]
# Nothing but remarks: some answers are one word because one word was asked for, and the
# chosen answer is the longer one about as often as not. That last number deserves a
# second look. Length is the easiest thing for a policy to learn: one token more costs
# nothing to understand. If the better answer is usually the longer one, DPO will find
# that out long before it finds out why it was better.
#
# *Predict:* the set is balanced as a whole. Is it balanced for each flaw?

# %%
from scipy.stats import binomtest


def longer_share(pairs):
    """Share of pairs whose chosen response has more words, with its 95 % interval."""
    gaps = [len(p.chosen.split()) - len(p.rejected.split()) for p in pairs]
    wins, n = sum(gap > 0 for gap in gaps), sum(gap != 0 for gap in gaps)
    return wins / n, *binomtest(wins, n).proportion_ci(method="wilson")


shares = {"all pairs": longer_share(pairs)}
for flaw, rows in table.groupby("flaw"):
    shares[flaw] = longer_share([pairs[i] for i in rows.index])

# %%
import matplotlib.pyplot as plt
import numpy as np

from dpo_tutorial.plotting import COLORS, use_style

use_style()
share, low, high = np.array(list(shares.values())).T
place = np.arange(len(shares))[::-1]
fig, ax = plt.subplots()
ax.errorbar(
    share, place, xerr=[share - low, high - share], fmt="o", color=COLORS["chosen"]
)
ax.axvline(0.5, color=COLORS["reference"], linestyle=":")
ax.set(xlim=(-0.03, 1), xlabel="share of pairs with the longer answer chosen")
ax.set_yticks(place, list(shares))
ax.set_title("Balanced as a whole; one flaw is all about length")
assert low[0] < 0.5 < high[0]
assert shares["verbose"][0] == 0
plt.show()

# %% [markdown]
# *Figure: for all pairs and for each of six flaws, a dot with a 95 % interval shows how
# often the chosen answer is the longer one. All pairs and five of the flaws straddle the
# dotted line at one half; "verbose" sits at zero.*
#
# Balance holds for the whole set only because the verbose pairs are paid for by the
# others. That is as it should be: drop the verbose pairs, and the rest would teach a
# liking for length. When you filter data, measure again.
#
# ## Public data and their layouts
#
# The same triple is written in many ways. These are the sets you will meet most often,
# with what a row holds:
#
# | layout | on the hub | a row holds |
# |---|---|---|
# | HH-RLHF | `Anthropic/hh-rlhf` | two whole conversations that differ in the last answer |
# | UltraFeedback | `openbmb/UltraFeedback` | an instruction and four scored completions |
# | the same, binarised | `HuggingFaceH4/ultrafeedback_binarized` (split `train_prefs`) | two message lists with their scores |
# | SHP | `stanfordnlp/SHP` | a Reddit post, two comments, a label |
# | OASST | `OpenAssistant/oasst1` | single messages of a tree; siblings have a rank |
# | Orca DPO pairs | `Intel/orca_dpo_pairs` | system, question, chosen, rejected |
# | TRL | `trl-lib/ultrafeedback_binarized` and many more | strings, or lists of role/content messages |
#
# `load_preferences("Anthropic/hh-rlhf")` is all it takes for any of them; it tells the
# layout by the fields. To see what happens inside, take one hand-written row in each
# layout's true field names. HH-RLHF first, because it has no prompt at all:

# %%
hh = {
    "chosen": "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: 7 times 8?\n\nAssistant: 56",
    "rejected": "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: 7 times 8?\n\nAssistant: 54",
}
pair = load_preferences([hh])[0]
for name in ("prompt", "chosen", "rejected"):
    print(name, getattr(pair, name), sep="\t")

# %% [markdown]
# The shared turns became the prompt, as messages with roles, and the last answers the
# responses. A row whose two conversations part earlier is no comparison of answers to
# one prompt, and is reported rather than guessed at.
#
# Scored lists have several answers to a prompt. The loader takes the best and the worst
# (Zephyr, arXiv 2310.16944, took the best and a random other). Equal scores prefer
# nothing, and such a row is a fault.

# %%
answers = [("54", 1.5), ("56", 4.75), ("about 50", 2.0)]
ultrafeedback = {
    "instruction": "7 times 8?",
    "completions": [{"response": a, "fine-grained_score": s} for a, s in answers],
}
shp = {"history": "7 times 8?", "human_ref_A": "54", "human_ref_B": "56", "labels": 0}
orca = {"system": "", "question": "7 times 8?", "chosen": "56", "rejected": "54"}
user, yes, no = (
    {"role": role, "content": text}
    for role, text in [("user", "7 times 8?"), ("assistant", "56"), ("assistant", "54")]
)
trl_strings = {"prompt": "7 times 8?", "chosen": "56", "rejected": "54"}
trl_messages = {"prompt": [user], "chosen": [yes], "rejected": [no]}
trl_implicit = {"chosen": [user, yes], "rejected": [user, no]}

# %% [markdown]
# OASST is a table of messages. Each knows its parent, and siblings that were compared
# carry a rank, zero for the best. The pair lies in the shape of the tree.

# %%
fields = ("message_id", "parent_id", "role", "text", "rank")
messages = [
    ("m1", None, "prompter", "7 times 8?", None),
    ("m2", "m1", "assistant", "54", 1),
    ("m3", "m1", "assistant", "56", 0),
]
oasst = [dict(zip(fields, m, strict=True), message_tree_id="m1") for m in messages]

# %% [markdown]
# Eight ways to write one comparison should give one comparison:

# %%
from dpo_tutorial.layouts import plain_text

layouts = {
    "HH-RLHF": [hh],
    "UltraFeedback": [ultrafeedback],
    "SHP": [shp],
    "OASST": oasst,
}
layouts |= {"Orca": [orca], "TRL strings": [trl_strings]}
layouts |= {"TRL messages": [trl_messages], "TRL implicit prompt": [trl_implicit]}
for name, rows in layouts.items():
    (pair,) = load_preferences(rows)
    assert (plain_text(pair.chosen), plain_text(pair.rejected)) == ("56", "54")
    print(f"{name:20} prompt: {pair.prompt}")

# %% [markdown]
# The prompts come as a string where the set has strings and as messages where it has
# turns; a chat template will level that out below. Does the real thing work where you
# are? This cell asks the hub for a small set, and says which case you have.

# %%
from huggingface_hub import HfApi

try:
    HfApi().dataset_info("Intel/orca_dpo_pairs", timeout=3)
except Exception as error:
    print(f"The hub is out of reach ({type(error).__name__}): nothing was loaded.")
else:
    some = load_preferences(
        "Intel/orca_dpo_pairs", split="train[:200]", on_error="skip"
    )
    print(f"The hub answers: {len(some)} pairs, the first asks {some[0].prompt[-1]}")

# %% [markdown]
# ## Your own file
#
# JSON lines, JSON, CSV and parquet are read by their ending. Columns beyond the three
# texts become metadata. Here is a CSV as a spreadsheet might export it, with one
# ordinary accident in it.

# %%
import tempfile
from pathlib import Path

csv = """prompt,chosen,rejected,rater
How do I thaw bread?,"In the oven, ten minutes at 150 degrees.",In the sun.,anna
Name a vegetable.,Leek,Leek,ben
How long does rice keep?,In the fridge, a day or two.,A month.,carla
What is a roux?,"Flour cooked in butter, to thicken a sauce.",A kangaroo.,anna
"""
folder = tempfile.TemporaryDirectory()
path = Path(folder.name) / "ratings.csv"
path.write_text(csv)
try:
    load_preferences(path)
except ValueError as error:
    print(error)

# %% [markdown]
# By default the first bad row stops you, with its line in the file. That is the right
# default while you fix the export. Once you know what is wrong and accept the loss,
# `on_error="skip"` leaves the bad rows out and warns once, with how many and why.
# *Predict* how many of the four rows are left.

# %%
import warnings

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    own = load_preferences(path, on_error="skip")
print(caught[0].message)
print([(p.prompt, p.metadata) for p in own])
assert len(own) == 2

# %% [markdown]
# Two. The comma without quotes in line 4 is the commonest accident in CSV, and the
# nastier for shifting everything behind it: without the check the chosen answer would
# read "In the fridge" and the rejected one "a day or two."
#
# ## A dirty set
#
# Loading catches what can be no pair. The rest takes a look at the whole set.
# `dirty.jsonl` has at least two rows for each fault, labelled in the metadata. They are
# read here as raw rows, since several would not survive as pairs.

# %%
import json

dirty = [json.loads(line) for line in data_path("dirty.jsonl").open(encoding="utf-8")]
splits = [row["metadata"]["split"] for row in dirty]
report = PreferenceDataValidator(dirty, splits).full_report(max_length=60)
report

# %% [markdown]
# Read it from the top: what breaks training or its evaluation is an *error*, what bends
# it a *warning*, what you should know an *info*. Did it find what was planted, and
# nothing else?

# %%
labels = [row["metadata"]["fault"] for row in dirty]
for check in sorted(set(labels) - {"none"}):
    planted = [i for i, label in enumerate(labels) if label == check]
    assert sorted(report.rows(check)) == planted, check
print(f"{len(set(labels)) - 1} kinds of fault, each found in exactly the planted rows")

# %% [markdown]
# Two of them deserve to be seen. In a *contradiction* two raters disagreed about the same
# two answers: the gradients of the two rows pull against each other, and the best the
# policy can do is indifference. In a *near-identical* pair the whole label rests on a
# few characters.

# %%
for check in ("contradiction", "near_identical"):
    for i in report.rows(check):
        row = dirty[i]
        print(
            f"[{check} {i}] {row['prompt']}\n  + {row['chosen']}\n  - {row['rejected']}"
        )

# %% [markdown]
# One near-identical pair is a good one: the digits that differ are the error. The other
# prefers a full stop to an exclamation mark. No program can tell you which is which, and
# that is why the remedy says *look*. Errors, on the other hand, can go at once:

# %%
bad = {i for f in report.findings if f.severity == "error" for i in f.rows}
kept = [i for i in range(len(dirty)) if i not in bad]
again = PreferenceDataValidator([dirty[i] for i in kept], [splits[i] for i in kept])
left = [f.check for f in again.full_report(max_length=60).findings]
assert not {"leakage", "contradiction", "truncation"} & set(left)
print(f"{len(dirty)} rows, {len(bad)} dropped; left to judge: {', '.join(left)}")

# %% [markdown]
# Length bias is left. Dropping rows does not cure it, since it is a property of how the
# answers were chosen; notebook 11 repairs it.
#
# ## Leakage
#
# A test set answers one question: does the policy do better on prompts it has not seen?
# Preference data make it easy to spoil that, because one prompt often has several pairs.
# Let us make such a set: each prompt's good answer against its bad one and against two
# answers to other prompts, as when several responses were rated for each prompt.

# %%
import random

many = [
    PreferencePair(p.prompt, p.chosen, wrong)
    for i, p in enumerate(pairs)
    for wrong in (p.rejected, pairs[i - 1].chosen, pairs[i - 2].rejected)
]


def split_rows(rows, seed, test_fraction=0.2):
    """The wrong way: shuffle the rows and cut."""
    rows = random.Random(seed).sample(rows, len(rows))
    cut = round(test_fraction * len(rows))
    return rows[cut:], rows[:cut]


print(len(many), "pairs of", len(pairs), "prompts")

# %% [markdown]
# *Predict:* of the test rows after a random cut, how many have their prompt in the
# training rows too? A test row's two siblings would both have to land in the test set
# for it to be clean.

# %%
from dpo_tutorial.data import split_by_prompt


def leaked(train, test):
    sides = ["train"] * len(train) + ["test"] * len(test)
    report = PreferenceDataValidator([*train, *test], sides).full_report()
    return len(report.rows("leakage"))


for split in (split_rows, split_by_prompt):
    train, test = split(many, seed=0)
    print(f"{split.__name__:16} {leaked(train, test):3} of {len(test)} test rows leak")
assert leaked(*split_by_prompt(many, seed=0)) == 0 < leaked(*split_rows(many, seed=0))

# %% [markdown]
# Nearly all of them leak. What is that worth? Take the worst learner there is, one that
# memorises: it remembers how often it saw a response win under a prompt, and otherwise
# tosses a coin. It knows nothing that carries over to a new prompt, so an honest test
# gives it one half.

# %%
from collections import Counter


def memoriser_accuracy(train, test, seed):
    score, coin = Counter(), random.Random(seed)
    for p in train:
        score[p.prompt, p.chosen] += 1
        score[p.prompt, p.rejected] -= 1
    gaps = [score[p.prompt, p.chosen] - score[p.prompt, p.rejected] for p in test]
    return sum(gap > 0 or (gap == 0 and coin.random() < 0.5) for gap in gaps) / len(
        gaps
    )


accuracy = {
    split.__name__: [
        memoriser_accuracy(*split(many, seed=s), seed=s) for s in range(40)
    ]
    for split in (split_rows, split_by_prompt)
}

# %%
fig, ax = plt.subplots()
styles = [("o", COLORS["rejected"]), ("s", COLORS["chosen"])]
for (name, values), (marker, color) in zip(accuracy.items(), styles, strict=True):
    ax.scatter(values, [name] * len(values), marker=marker, color=color, alpha=0.3)
    mean, error = np.mean(values), 1.96 * np.std(values, ddof=1) / len(values) ** 0.5
    ax.errorbar(mean, [name], xerr=error, fmt="|", color="black", markersize=22)
    print(
        f"{name:16} mean accuracy {mean:.3f} ± {error:.3f} (95 %, {len(values)} seeds)"
    )
ax.axvline(0.5, color=COLORS["reference"], linestyle=":")
ax.set(xlim=(0.3, 1.02), ylim=(-0.6, 1.6), xlabel="test accuracy of the memoriser")
ax.set_title("A random cut makes a memoriser look brilliant")
assert (
    np.mean(accuracy["split_rows"]) > 0.9 > 0.6 > np.mean(accuracy["split_by_prompt"])
)
plt.show()

# %% [markdown]
# *Figure: two rows of dots, one dot a seed. With `split_by_prompt` the memoriser's test
# accuracy scatters around the dotted line at one half; with `split_rows` all dots lie
# above nine tenths.*
#
# Nothing was learnt in either case. Split by prompt, and check near-duplicates too: the
# validator compares prompts that share rare words (`rapidfuzz`), so a prompt with a typo
# in it counts as the same. It can overdo that (two sums may differ in one digit), so look
# at what it names.
#
# ## Chat templates
#
# A model sees one string. An instruct model was tuned on a certain way to write turns,
# its chat template, and preference data must be written the same way.
# `convert_to_dpo_format` knows four; a tokenizer with a template of its own can be passed
# in place of the name.

# %%
from dpo_tutorial.data import convert_to_dpo_format
from dpo_tutorial.layouts import TEMPLATES

talk = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "7 x 8?"},
]
pair = PreferencePair(talk, "56", "54")
for name in TEMPLATES:
    row = convert_to_dpo_format([pair], name)[0]
    print(f"{name:7} prompt {row['prompt']!r}\n{'':7} chosen {row['chosen']!r}\n")

# %% [markdown]
# The prompt ends with the header of the answer to come, so that the first thing the
# policy is scored on is the answer itself. The response ends with the template's end of
# turn. Where that token is also the tokenizer's end of sequence (EOS), it is the one EOS
# that gets scored; otherwise an EOS follows it. "plain" has no end of turn and leaves
# that to EOS alone.
#
# The wrong way, once: convert data that are converted already. Nothing fails; the prompt
# has become a user who speaks in markup. The validator knows the marks.

# %%
twice = convert_to_dpo_format(convert_to_dpo_format(pairs[:1], "chatml"), "chatml")
print(twice[0]["prompt"])
report = PreferenceDataValidator(twice).full_report()
assert report.rows("template_residue") == [0]

# %% [markdown]
# ## The token boundary
#
# Strings meet the model as tokens, and a tokenizer may join what you kept apart. To see
# it, train a small byte-level BPE, GPT-2's kind, on the pairs themselves.

# %%
from tokenizers import ByteLevelBPETokenizer
from transformers import PreTrainedTokenizerFast

bpe = ByteLevelBPETokenizer()
texts = [f"{p.prompt} {p.chosen} {p.rejected}" for p in pairs]
bpe.train_from_iterator(texts, 3000, special_tokens=["<eos>"], show_progress=False)
tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, eos_token="<eos>")
tokenizer.tokenize("How do I thaw bread?")

# %% [markdown]
# `Ġ` is a space, and it belongs to the word *after* it. So where does the space between
# "assistant:" and the answer go? The "plain" prompt above ended in a colon and the
# response began with a space. Suppose someone had put the space at the end of the prompt.

# %%
from dpo_tutorial.data import boundary_merges

rows = convert_to_dpo_format(pairs, "plain")
moved = [(r["prompt"] + " ", r["chosen"][1:]) for r in rows]
ours = [(r["prompt"], r["chosen"]) for r in rows]
for name, texts in {
    "space ends the prompt": moved,
    "space begins the answer": ours,
}.items():
    merged = sum(boundary_merges(*text, tokenizer) for text in texts)
    print(f"{name:24} {merged:3} of {len(texts)} boundaries move")
assert not any(boundary_merges(*text, tokenizer) for text in ours)

# %% [markdown]
# With the space on the wrong side, tokenising prompt and response together gives other
# tokens than tokenising them apart, in every row that begins with a letter the tokenizer
# can join to a space. Whoever then counts the prompt's tokens and cuts there cuts in the
# wrong place:

# %%
prompt, chosen = moved[1]
apart = tokenizer.tokenize(prompt) + tokenizer.tokenize(chosen)
joint = tokenizer.tokenize(prompt + chosen)
print("apart   ", apart[-4:])
print("together", joint[-4:])
assert apart != joint

# %% [markdown]
# `tokenize_pair` tokenises apart and concatenates, so no token ever spans the boundary,
# and what is scored is exactly the response. (TRL tokenises together and lets the
# response start where the two prompts' tokens part; it warns when that moves, see
# trl#2054 and trl#1153. With a clean boundary both give the same ids.)
#
# EOS comes once, also if the text already has one. Nothing is cut in silence: a pair
# that is too long is an error, because a truncated response would teach an ending that
# nobody chose, and a prompt that fills the window would leave no response at all.

# %%
from dpo_tutorial.data import tokenize_pair

for ending in ("", "<eos>"):
    row = {"prompt": "7 times 8?", "chosen": " 56" + ending, "rejected": " It is 54."}
    ids = tokenize_pair(row, tokenizer)
    assert ids["chosen_ids"].count(tokenizer.eos_token_id) == 1
    print({name: tokenizer.convert_ids_to_tokens(i) for name, i in ids.items()})
try:
    tokenize_pair(row, tokenizer, max_length=8)
except ValueError as error:
    print(error)

# %% [markdown]
# How long is long enough? Ask the validator, which counts in tokens if you hand it the
# tokenizer, and choose a `max_length` that drops nothing or next to nothing.

# %%
for max_length in (64, 128, 256):
    report = PreferenceDataValidator(rows).full_report(max_length, tokenizer)
    print(
        f"{max_length:4} tokens: {len(report.rows('truncation')):3} of {len(rows)} too long"
    )

# %% [markdown]
# ## The batch, decoded
#
# The last step stacks pairs into rectangles: chosen first, then rejected, padded on the
# right. `labels` repeats the tokens to be scored and holds −100 elsewhere. Padding needs
# a token, and many tokenizers have none:

# %%
from dpo_tutorial.data import collate

ids = [tokenize_pair(row, tokenizer) for row in rows[:2]]
try:
    collate(ids, tokenizer.pad_token_id)
except ValueError as error:
    print(error)
tokenizer.pad_token = tokenizer.eos_token
batch = collate(ids, tokenizer.pad_token_id)
print({name: tuple(value.shape) for name, value in batch.items()})

# %% [markdown]
# Padding is now the same token as EOS, which is where a well-known mistake lives. Decode
# before you train: given, scored, padding.

# %%
for ids_row, label, mask in zip(
    batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True
):
    scored = label != -100
    given = mask.bool() & ~scored
    print("given  ", repr(tokenizer.decode(ids_row[given])))
    print("scored ", repr(tokenizer.decode(ids_row[scored])))
    print("padding", int((mask == 0).sum()), "tokens\n")

# %% [markdown]
# Each response is scored with its EOS, and no padding is. The wrong way finds the
# padding by its token id. *Predict* what it loses.

# %%
by_id = batch["labels"].clone()
by_id[batch["input_ids"] == tokenizer.pad_token_id] = -100  # wrong
eos = tokenizer.eos_token_id
print("EOS scored, by length:", int((batch["labels"] == eos).sum()), "of", len(by_id))
print("EOS scored, by id:    ", int((by_id == eos).sum()), "of", len(by_id))
assert (batch["labels"] == eos).sum() == len(by_id)
assert not (by_id == eos).any()

# %% [markdown]
# All of them: a policy trained so never learns when to stop. Here is the way from file to
# batch in one piece, for your own data:

# %%
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # you have read what it skips
    mine = load_preferences(path, on_error="skip")
train, test = split_by_prompt(mine, test_fraction=0.5)
rows = convert_to_dpo_format(train, "chatml")
batch = collate([tokenize_pair(row, tokenizer) for row in rows], tokenizer.pad_token_id)
print(tokenizer.decode(batch["input_ids"][0]))
folder.cleanup()

# %% [markdown]
# ## What you did
#
# - You loaded pairs from files and eight layouts, and had bad rows named by line.
# - You read a report on clean and on dirty data, and dropped what was broken.
# - You measured length bias by flaw, and what leakage gives to a memoriser.
# - You rendered one pair in four templates and saw the harm of applying one twice.
# - You found the token boundary and kept it.
# - You decoded a batch into what is given, scored and padded.
#
# ## Exercises
#
# 1. Drop the verbose pairs and measure `longer_share` of what is left. Which way does the
#    bias go, and would you train on it?
#    <details><summary>Answer</summary>
#    <code>longer_share([p for p in pairs if p.metadata["flaw"] != "verbose"])</code>: the
#    longer answer is now chosen in more than half, and the interval leaves one half
#    behind. The policy would learn some of that.
#    </details>
# 2. `many` has three pairs a prompt. With $k$ pairs a prompt and a test fraction $f$,
#    about what share of the test rows leaks after a random cut of rows?
#    <details><summary>Answer</summary>
#    A test row is clean only if its $k-1$ siblings are all in the test set too, so about
#    $1 - f^{k-1}$ leak: 96 % for $k = 3$, $f = 0.2$. More raters make it worse.
#    </details>
# 3. UltraFeedback's four answers hold six comparisons; the loader takes one. Write
#    `all_pairs(row)` that yields every pair with different scores. What must you do
#    before you split?
#    <details><summary>Answer</summary>
#    <code>for a, b in itertools.combinations(row["completions"], 2)</code>, the better
#    scored one chosen, equal ones left out. Split by prompt: the six share it.
#    </details>
# 4. The contradiction check compares answers exactly. Two raters also contradict each
#    other in a circle: A over B, B over C, C over A. Find such circles in a set of pairs.
#    <details><summary>Answer</summary>
#    For each prompt make a directed graph with an edge from the chosen to the rejected
#    answer; <code>graphlib.TopologicalSorter(graph).prepare()</code> raises
#    <code>CycleError</code> and names the circle. No reward explains one (notebook 01).
#    </details>
# 5. Load a file of your own, and act on each error its report names.
#    <details><summary>Hint</summary>
#    <code>PreferenceDataValidator(load_preferences("mine.csv", on_error="skip"))</code>,
#    or the raw rows, as with <code>dirty.jsonl</code>, to see those that are skipped too.
#    </details>
#
# ## Further reading
#
# - Bai et al., *Training a Helpful and Harmless Assistant with RLHF*, 2022,
#   [arXiv 2204.05862](https://arxiv.org/abs/2204.05862): HH-RLHF.
# - Cui et al., *UltraFeedback*, 2023, [arXiv 2310.01377](https://arxiv.org/abs/2310.01377);
#   Ethayarajh et al., *Understanding Dataset Difficulty with V-Usable Information*, 2022,
#   [arXiv 2110.08420](https://arxiv.org/abs/2110.08420): SHP; Köpf et al., *OpenAssistant
#   Conversations*, 2023, [arXiv 2304.07327](https://arxiv.org/abs/2304.07327).
# - Singhal et al., *A Long Way to Go: Investigating Length Correlations in RLHF*, 2023,
#   [arXiv 2310.03716](https://arxiv.org/abs/2310.03716).
# - TRL, [Dataset formats](https://huggingface.co/docs/trl/dataset_formats); Transformers,
#   [Chat templates](https://huggingface.co/docs/transformers/chat_templating).
