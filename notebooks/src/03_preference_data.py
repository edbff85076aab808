# %% [markdown]
# # 03 · Preference data
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/dpo-tutorial/dpo-tutorial/blob/main/notebooks/03_preference_data.ipynb)
#
# You will turn public preference data, and your own, into checked batches of tokens, and
# see what each common fault costs when nobody looks.
#
# **You will**
#
# - load pairs from files and from six public layouts, and have bad rows named by line;
# - read a validator's report on clean and on dirty data, and act on it;
# - measure length bias, and what leakage between train and test is worth;
# - render one pair in four chat templates, and see what applying one twice does;
# - find the token boundary between prompt and response, and keep it;
# - decode a batch into what is given, what is scored and what is padding.
#
# **You need** notebook 02 for the words *chosen* and *rejected*, and some Python; no
# model is used. Measured on two CPU cores: about 7 seconds and 0.5 GB of memory; allow
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
# $y_l$. Nothing but the difference between the two responses enters the loss, so the
# data are the whole specification of what you want. In this course a triple is a
# `PreferencePair`, which is checked where it is made and frozen from then on.
#
# *Predict* which of these four bad changes would train without an error if nobody
# checked, and what each would teach.

# %%
from dpo_tutorial.data import PreferencePair

good = {"prompt": "7 times 8?", "chosen": "56", "rejected": "54"}
for change in ({"chosen": 56}, {"rejected": " "}, {"rejected": "56"}, {"prompt": None}):
    try:
        PreferencePair(**good | change)
    except ValueError as error:
        print(error)

# %% [markdown]
# The second and the third would train, whatever else you use. The others depend on the
# chat template: one that writes `{{ m['content'] }}` renders the number as text and the
# missing prompt as nothing, without a word. A blank rejected response teaches the policy
# not to stop at once; two equal responses have a gradient of exactly zero and dilute
# every average you log. Each message says what was seen, what was expected and what to
# do.
#
# ## A clean set
#
# The course brings its own pairs over twelve everyday topics. Each rejected answer has
# one flaw, named in the metadata, and each pair says why the other is better. Read rows
# before you read statistics: the second cell prints one pair for each flaw.

# %%
import pandas as pd

from dpo_tutorial import data_path
from dpo_tutorial.data import load_preferences

pairs = load_preferences(data_path("preferences.jsonl"))
table = pd.DataFrame([pair.metadata for pair in pairs])
pd.crosstab(table["topic"], table["flaw"])

# %%
for flaw, rows in table.groupby("flaw"):
    pair = pairs[rows.index[1]]
    print(f"[{flaw}] {pair.prompt}\n  + {pair.chosen}\n  - {pair.rejected}")
    print(f"  ({pair.metadata['why']})\n")

# %% [markdown]
# Now let the validator read all of them. It runs every check it has and returns a report
# that shows as a table here and exports with `to_dict()`.

# %%
from dpo_tutorial.validation import PreferenceDataValidator

report = PreferenceDataValidator(pairs).full_report()
assert {finding.severity for finding in report.findings} == {"info"}
report

# %% [markdown]
# Remarks only: some answers are one word because one word was asked for, and the longer
# answer is the chosen one about as often as not. That last figure deserves a second
# look. Length is easy for a policy to pick up: if the better answer is usually the
# longer one, writing more lowers the loss, whatever made the answer better.
#
# *Predict:* the set is balanced as a whole. Is it balanced for each flaw?

# %%
from scipy.stats import binomtest


def longer_share(pairs):
    """Share of pairs whose chosen response has more words, with its 95 % interval."""
    gaps = [len(p.chosen.split()) - len(p.rejected.split()) for p in pairs]
    wins, n = sum(gap > 0 for gap in gaps), sum(gap != 0 for gap in gaps)
    return wins / n, *binomtest(wins, n).proportion_ci(method="wilson")


# %%
shares = {"all pairs": longer_share(pairs)}
for flaw, rows in table.groupby("flaw"):
    shares[flaw] = longer_share([pairs[i] for i in rows.index])
assert shares["all pairs"][1] < 0.5 < shares["all pairs"][2]
assert shares["verbose"][0] == 0

# %%
import matplotlib.pyplot as plt
import numpy as np

from dpo_tutorial.plotting import COLORS, use_style

use_style()
share, low, high = np.array(list(shares.values())).T
place, error = np.arange(len(shares))[::-1], [share - low, high - share]
fig, ax = plt.subplots()
ax.errorbar(share, place, xerr=error, fmt="o", color=COLORS["chosen"])
ax.axvline(0.5, color=COLORS["reference"], linestyle=":")
ax.set(xlim=(-0.03, 1), xlabel="share of pairs with the longer answer chosen")
ax.set_yticks(place, list(shares))
ax.set_title("Balanced as a whole, because one flaw pays for the others")
plt.show()

# %% [markdown]
# *Figure: for all pairs and for each of six flaws, a dot with a 95 % interval shows how
# often the chosen answer is the longer one. All pairs straddle the dotted line at one
# half. Five flaws lie a little to its right, each with an interval that includes one half;
# "verbose" lies at zero.*
#
# The verbose pairs pay for the others. No other flaw leans for certain on its own, but all
# five lean the same way, and a filter on style that drops the verbose pairs leaves only
# them (Exercise 1). Whenever you filter data, measure again.
#
# ## Public data and their layouts
#
# The same triple is written in many ways. These are the sets you will meet most often:
#
# | layout | on the hub | a row holds |
# |---|---|---|
# | HH-RLHF | `Anthropic/hh-rlhf` | two whole conversations that differ in the last answer |
# | UltraFeedback | `openbmb/UltraFeedback` | an instruction and four scored completions |
# | the same, binarised | `HuggingFaceH4/ultrafeedback_binarized`, split `train_prefs` | two message lists with their scores |
# | SHP | `stanfordnlp/SHP` | a Reddit post, two comments, a label |
# | OASST | `OpenAssistant/oasst1` | one message of a tree; siblings have a rank |
# | Orca DPO pairs | `Intel/orca_dpo_pairs` | system, question, chosen, rejected |
# | TRL | `trl-lib/ultrafeedback_binarized` and many more | strings, or lists of role/content messages |
#
# `load_preferences("Anthropic/hh-rlhf", on_error="skip")` is all it takes; the layout is
# told by the fields. (Public sets have rows that are no pair. By default the first one
# stops you; "skip" leaves them out and says how many.) To see what happens inside, take a
# hand-written row in each layout's true field names. HH-RLHF comes first, because it has
# no prompt at all:

# %%
talk = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: 7 times 8?\n\nAssistant:"
hh = {"chosen": talk + " 56", "rejected": talk + " 54"}
load_preferences([hh])[0]

# %% [markdown]
# The shared turns became the prompt, as messages with roles, and the last answers the
# responses. Where two conversations part earlier, they are no two answers to one prompt,
# and the row is reported.
#
# Scored lists have several answers to a prompt. The loader takes the best and the worst
# (Zephyr, arXiv 2310.16944, took the best and a random other); if all scores are equal,
# nothing is preferred, and that is reported too. SHP's label is 1 where comment A was
# preferred and 0 where B was.

# %%
answers = [("54", 1.5), ("56", 4.75), ("about 50", 2.0)]
scored = [{"response": text, "fine-grained_score": score} for text, score in answers]
ultrafeedback = {"instruction": "7 times 8?", "completions": scored}
shp = {"history": "7 times 8?", "human_ref_A": "54", "human_ref_B": "56", "labels": 0}
orca = {"system": "", "question": "7 times 8?", "chosen": "56", "rejected": "54"}

# %% [markdown]
# OASST is a table of messages. Each names its parent, and siblings that were compared
# have a rank, zero for the best: the pair lies in the shape of the tree.

# %%
fields = ("message_tree_id", "message_id", "parent_id", "role", "text", "rank")
messages = [
    ("m1", "m1", None, "prompter", "7 times 8?", None),
    ("m1", "m2", "m1", "assistant", "54", 1),
    ("m1", "m3", "m1", "assistant", "56", 0),
]
oasst = [dict(zip(fields, message, strict=True)) for message in messages]

# %% [markdown]
# TRL's own layout has strings or messages, with the prompt apart or left inside both
# answers. In all, these eight rows should load as the same comparison: 56 over 54. HH's
# has the turns before it too.

# %%
user = {"role": "user", "content": "7 times 8?"}
yes, no = ({"role": "assistant", "content": text} for text in ("56", "54"))
trl = {"prompt": [user], "chosen": [yes], "rejected": [no]}
trl_implicit = {"chosen": [user, yes], "rejected": [user, no]}

layouts = {"UltraFeedback": [ultrafeedback], "SHP": [shp], "Orca": [orca], "HH": [hh]}
layouts |= {"OASST": oasst, "TRL strings": [good], "TRL messages": [trl]}
for name, rows in (layouts | {"TRL implicit": [trl_implicit]}).items():
    (pair,) = load_preferences(rows)
    assert "56" in str(pair.chosen)
    assert "54" in str(pair.rejected)
    print(f"{name:14}{str(pair.prompt)[-60:]}")

# %% [markdown]
# Prompts stay strings where the set has strings and become messages where it has turns;
# chat templates will level that out below. Does the real thing work where you are? The
# next cell asks the hub for a small set and says which case you have.

# %%
from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError

try:
    HfApi().dataset_info("Intel/orca_dpo_pairs", timeout=3)
    hub = load_preferences("Intel/orca_dpo_pairs", split="train[:200]", on_error="skip")
    print(f"The hub answers: {len(hub)} pairs; the first asks {hub[0].prompt[-1]}")
except (OSError, HTTPError) as error:  # offline, no connection, no access
    print(f"The hub is out of reach ({type(error).__name__}): nothing was loaded.")

# %% [markdown]
# ## Your own file
#
# JSON lines, JSON, CSV and parquet are told by their ending, and columns beyond the three
# texts become metadata. Here is a CSV as a spreadsheet might export it. It has two
# faults; find them before you run the cell.

# %%
import tempfile
from pathlib import Path

folder = tempfile.TemporaryDirectory()
path = Path(folder.name) / "ratings.csv"
path.write_text("""prompt,chosen,rejected,rater
How do I thaw bread?,"In the oven, ten minutes at 150 degrees.",In the sun.,anna
Name a vegetable.,Leek,Leek,ben
How long does rice keep?,In the fridge, a day or two.,A month.,carla
What is a roux?,"Flour cooked in butter, to thicken a sauce.",A kangaroo.,anna
""")
try:
    load_preferences(path)
except ValueError as error:
    print(error)

# %% [markdown]
# The first bad row stops you, with its line in the file. That is the right default while
# you mend the export. Once you know what is wrong and accept the loss, `on_error="skip"`
# leaves bad rows out and warns once, with how many and why.

# %%
import warnings

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    own = load_preferences(path, on_error="skip")
print(caught[0].message)
assert [pair.metadata["rater"] for pair in own] == ["anna", "anna"]

# %% [markdown]
# The comma without quotes in line 4 is the commonest accident in CSV, and a nasty one:
# it shifts what follows. Unchecked, the chosen answer would read "In the fridge" and the
# rejected one "a day or two."
#
# ## A dirty set
#
# Loading catches what can be no pair. The rest takes a look at the whole set.
# `dirty.jsonl` has rows with each fault, labelled in the metadata. They are read raw
# here, since several would not survive as pairs. The loop asserts that each check finds
# the rows planted for it, and no others.

# %%
import json

dirty = [json.loads(line) for line in data_path("dirty.jsonl").open(encoding="utf-8")]
splits = [row["metadata"]["split"] for row in dirty]
report = PreferenceDataValidator(dirty, splits).full_report(max_length=60)
labels = [row["metadata"]["fault"] for row in dirty]
for check in set(labels) - {"none"}:
    assert sorted(report.rows(check)) == [i for i, x in enumerate(labels) if x == check]
report

# %% [markdown]
# Read it from the top: what breaks training or its evaluation is an *error*, what bends
# it a *warning*, what you should know an *info*. Under `rows` stands how many there are,
# then the places of the first four. A warning asks you to look. Take the pairs whose two
# responses are all but equal:

# %%
for i in report.rows("near_identical"):
    print(f"{dirty[i]['prompt']}\n  + {dirty[i]['chosen']}\n  - {dirty[i]['rejected']}")

# %% [markdown]
# The first is a good pair, since the digit that differs is the error. The second prefers
# a full stop to an exclamation mark. No program can tell which is which.
#
# A *contradiction* asks you to look as well: the same two answers were judged in opposite
# ways. Two opposing votes ask for indifference, nine to one for log-odds of $\ln 9$. That
# is information, and what gives DPO a finite target (notebook 02, Step 11): keep genuine
# votes, drop entry errors such as swapped columns. So with duplicates: a copy made by
# accident should not count twice, a second rater's vote should.
#
# An error has to go, and its remedy is not always to drop the row: add the missing field,
# split by prompt, raise `max_length`. These rows were planted and have no more to give, so
# here they are dropped.

# %%
bad = {i for f in report.findings if f.severity == "error" for i in f.rows}
kept = [i for i in range(len(dirty)) if i not in bad]
again = PreferenceDataValidator([dirty[i] for i in kept], [splits[i] for i in kept])
left = again.full_report(max_length=60).findings
assert "error" not in {finding.severity for finding in left}
print(f"{len(bad)} of {len(dirty)} rows dropped; left:", *(f.check for f in left))

# %% [markdown]
# Length bias is left: dropping bad rows does not cure it, since it lies in how the
# answers were chosen. Notebook 11 repairs it.
#
# ## Leakage
#
# A test set answers one question: is the policy better on prompts that it has not seen?
# Preference data make it easy to spoil that, because one prompt often has several pairs.
# Make such a set: each good answer against its bad one and against two answers to other
# prompts, as if four responses had been rated. Then cut it the wrong way.
#
# *Predict:* of the test rows after a random cut, how many have their prompt in the
# training rows too? A row is clean only if both its siblings land in the test set with
# it.

# %%
many = []
for i, p in enumerate(pairs):
    for wrong in (p.rejected, pairs[i - 1].chosen, pairs[i - 2].rejected):
        many.append(PreferencePair(p.prompt, p.chosen, wrong))

# %%
import random


def split_rows(rows, seed, test_fraction=0.2):
    """The wrong way: shuffle the rows and cut."""
    rows = random.Random(seed).sample(rows, len(rows))
    cut = round(test_fraction * len(rows))
    return rows[cut:], rows[:cut]


# %%
from dpo_tutorial.data import split_by_prompt
from dpo_tutorial.validation import near_duplicates

leaks = {}
for split in (split_rows, split_by_prompt):
    train, test = split(many, seed=0)
    sides = ["train"] * len(train) + ["test"] * len(test)
    report = PreferenceDataValidator([*train, *test], sides).full_report()
    leaks[split.__name__] = len(report.rows("leakage"))
    print(f"{split.__name__:16}{leaks[split.__name__]:3} of {len(test)} test rows leak")
assert leaks["split_by_prompt"] == 0 < leaks["split_rows"]
print("also taken for one prompt:", near_duplicates(["17 times 8?"], ["17 times 9?"]))

# %% [markdown]
# Nearly all of them. The validator also compares prompts that share rare words or word
# pairs (with `rapidfuzz`), so one with a typo counts as the same. The last line shows it
# overdone, two sums that differ in one digit: look at what it names.
#
# What is a leak worth? Take the poorest learner there is, one that
# memorises: it remembers which responses won under which prompt, and tosses a coin for
# the rest. It knows nothing that carries over to a new prompt, so an honest test gives
# it one half.

# %%
from collections import Counter


def memoriser_accuracy(train, test, seed):
    score, coin = Counter(), random.Random(seed)
    for p in train:
        score[p.prompt, p.chosen] += 1
        score[p.prompt, p.rejected] -= 1
    gaps = [score[p.prompt, p.chosen] - score[p.prompt, p.rejected] for p in test]
    return np.mean([gap > 0 or (gap == 0 and coin.random() < 0.5) for gap in gaps])


# %%
by_split = {}
for split in (split_rows, split_by_prompt):
    runs = [memoriser_accuracy(*split(many, seed=seed), seed) for seed in range(40)]
    error = 1.96 * np.std(runs, ddof=1) / len(runs) ** 0.5
    by_split[split.__name__] = runs
    print(f"{split.__name__:16}{np.mean(runs):.3f} ± {error:.3f} (95 %, 40 seeds)")

# %%
fig, ax = plt.subplots()
looks = [("o", "black"), ("s", COLORS["accent"])]
for (name, runs), (marker, color) in zip(by_split.items(), looks, strict=True):
    ax.scatter(runs, [name] * len(runs), marker=marker, color=color, alpha=0.4)
    ax.scatter(np.mean(runs), [name], marker="|", color="black", s=600)
ax.axvline(0.5, color="black", linestyle=":")
ax.set(xlim=(0.3, 1.02), ylim=(-0.6, 1.6), xlabel="test accuracy of the memoriser")
ax.set_title("A random cut makes a memoriser look brilliant")
assert min(by_split["split_rows"]) > 0.9
assert abs(np.mean(by_split["split_by_prompt"]) - 0.5) < 0.05
plt.show()

# %% [markdown]
# *Figure: two rows of dots, one dot a seed, a bar at the mean. With `split_by_prompt` the
# memoriser's test accuracy scatters around the dotted line at one half; with
# `split_rows` every dot lies above nine tenths.*
#
# Nothing was learnt in either case. Split by prompt, and look for near-duplicates too.
#
# ## Chat templates
#
# A model reads one string. An instruct model was tuned on one way of writing turns, its
# chat template, and preference data must be written the same way.
# `convert_to_dpo_format` knows four; pass a tokenizer in place of the name to use its own.

# %%
from dpo_tutorial.data import convert_to_dpo_format
from dpo_tutorial.layouts import TEMPLATES

system = {"role": "system", "content": "Be brief."}
pair = PreferencePair([system, user], "56", "54")
for name in TEMPLATES:
    row = convert_to_dpo_format([pair], name)[0]
    print(f"{name:7}{row['prompt']!r}\n    ->{row['chosen']!r}\n")

# %% [markdown]
# The prompt ends with the header of the answer to come, so that the first thing scored is
# the answer. The response ends with the template's end of turn. Where that token is the
# tokenizer's end of sequence (EOS), it is the one EOS to be scored; elsewhere an EOS
# follows it. "plain" has no end of turn and leaves it to EOS alone.
#
# The wrong way, once: convert what is converted already. Nothing fails, and the user now
# talks in markup. The validator knows the marks.

# %%
twice = convert_to_dpo_format(convert_to_dpo_format(pairs[:1], "chatml"), "chatml")
print(twice[0]["prompt"])
assert PreferenceDataValidator(twice).full_report().rows("template_residue") == [0]

# %% [markdown]
# ## The token boundary
#
# Text meets the model as tokens, and a tokenizer may join what you kept apart. To see it,
# train a small byte-level BPE, GPT-2's kind, on the pairs themselves. (Byte-pair encoding
# starts from bytes and joins the commonest neighbours into tokens, again and again.)

# %%
from tokenizers import ByteLevelBPETokenizer
from transformers import PreTrainedTokenizerFast

bpe = ByteLevelBPETokenizer()
texts = [f"{p.prompt} {p.chosen} {p.rejected}" for p in pairs]
bpe.train_from_iterator(texts, 3000, special_tokens=["<eos>"], show_progress=False)
tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, eos_token="<eos>")
tokenizer.tokenize("How do I thaw bread?")

# %% [markdown]
# `Ġ` is a space, and it belongs to the word *after* it. That is why the "plain" prompt
# above ended in a colon and its response began with a space. Move the space to the end
# of the prompt, where most people would put it, and count the rows in which tokenising
# both together gives other tokens than tokenising each apart.

# %%
from dpo_tutorial.data import boundary_merges

rows = convert_to_dpo_format(pairs, "plain")
moved = [(row["prompt"] + " ", row["chosen"][1:]) for row in rows]
merges = sum(boundary_merges(*texts, tokenizer) for texts in moved)
ours = sum(boundary_merges(r["prompt"], r["chosen"], tokenizer) for r in rows)
print(f"boundaries that move: {ours} of {len(rows)} as it is, {merges} with the space")
assert ours == 0 < merges

# %%
prompt, chosen = moved[1]
print("apart   ", (tokenizer.tokenize(prompt) + tokenizer.tokenize(chosen))[-4:])
print("together", (together := tokenizer.tokenize(prompt + chosen))[-4:])
cut = together[len(tokenizer.tokenize(prompt)) :]
print("together, cut at the prompt's length:", cut)
assert not cut

# %% [markdown]
# The token "ĠBasil" belongs to neither side. Code that tokenises both together and cuts
# at the prompt's length is left with no response here, and would score nothing.
#
# `tokenize_pair` tokenises apart and concatenates. Apart, because generation also sees
# the prompt tokenised alone. That does not heal a bad boundary: "B" and "asil" are not how
# this tokenizer writes the word elsewhere. Run `boundary_merges` first. It also tells of
# SentencePiece-style tokenizers, some of which put a space before any text that stands
# alone, and so before the answer.
#
# (TRL tokenises together and starts the response where the tokens part from the prompt's;
# it warns when that is not the prompt's end, see trl#2054 and trl#1153. A clean boundary
# gives both the same start. They can differ elsewhere: TRL also scores a newline after
# the end of turn, adds EOS only to plain strings, and may repeat a BOS that a string
# begins with.)
#
# EOS comes once, also where the text has one. Nothing is cut in silence: a truncated
# response would teach an ending that nobody chose, and a prompt that fills the window
# leaves no response at all. (TRL's `max_length` is 1,024 tokens unless you set it, and
# cuts what is beyond.)

# %%
from dpo_tutorial.data import tokenize_pair

row = {"prompt": "7 times 8?", "chosen": " 56", "rejected": " It is 54.<eos>"}
ids = tokenize_pair(row, tokenizer)
print({name: tokenizer.convert_ids_to_tokens(value) for name, value in ids.items()})
assert [value.count(tokenizer.eos_token_id) for value in ids.values()] == [0, 1, 1]
try:
    tokenize_pair(row, tokenizer, max_length=8)
except ValueError as error:
    print(error)

# %% [markdown]
# (How long is long enough? `full_report(max_length, tokenizer)` on the converted rows
# counts those that would not fit.)
#
# ## The batch, decoded
#
# The last step stacks pairs into rectangles: chosen first, then rejected. They are padded
# on the right, so that each row's positions count from its first token without further
# care. `labels` repeats the tokens to be scored and has −100 elsewhere, the index that
# PyTorch's cross-entropy ignores. Padding needs a token, and this tokenizer, as many, comes without one. The usual remedy takes EOS, and
# that is where a well-known mistake lives. Decode before you train:

# %%
from dpo_tutorial.data import collate

tokenizer.pad_token = tokenizer.eos_token
ids = [tokenize_pair(row, tokenizer) for row in rows[:2]]
batch = collate(ids, tokenizer.pad_token_id)
for tokens, mask, label in zip(*batch.values(), strict=True):
    print("given  ", repr(tokenizer.decode(tokens[(label == -100) & (mask == 1)])))
    print("scored ", repr(tokenizer.decode(tokens[label != -100])))
    print("padding", int((mask == 0).sum()), "tokens\n")

# %% [markdown]
# Each response is scored with its EOS, and no padding is. The wrong way finds the padding
# by its token id. *Predict* what it loses.

# %%
by_id = batch["labels"].clone()
by_id[batch["input_ids"] == tokenizer.pad_token_id] = -100  # wrong
kept = {"by length": batch["labels"], "by token id": by_id}
kept = {way: int((x == tokenizer.eos_token_id).sum()) for way, x in kept.items()}
print("EOS scored in", len(by_id), "rows:", kept)
assert kept == {"by length": len(by_id), "by token id": 0}

# %% [markdown]
# All of them: DPO then says nothing about where to stop. Nor is the mistake exotic:
# `DataCollatorForLanguageModeling` of Transformers masks by the pad token's id.
#
# Here is the whole way from file to batch, for data of your own. With a model, pass its
# tokenizer in place of "plain". A template whose marks the tokenizer does not know comes
# out in pieces, as the last line shows.

# %%
train, test = split_by_prompt(own, test_fraction=0.5)
rows = convert_to_dpo_format(train, "plain")
batch = collate([tokenize_pair(row, tokenizer) for row in rows], tokenizer.pad_token_id)
print(tokenizer.decode(batch["input_ids"][0]))
folder.cleanup()
print("ChatML's end of turn would be", tokenizer.tokenize("<|im_end|>"))

# %% [markdown]
# ## What you did
#
# - You loaded pairs from files and six public layouts, and had bad rows named by line.
# - You read a report on clean and on dirty data, and dropped what was broken.
# - You measured length bias by flaw, and what leakage is worth to a memoriser.
# - You rendered one pair in four templates and saw what applying one twice does.
# - You found the token boundary and kept it.
# - You decoded a batch into what is given, scored and padded.
#
# ## Exercises
#
# 1. Drop the verbose pairs and measure `longer_share` of the rest. Would you train on it?
#    <details><summary>Answer</summary>
#
#    ```python
#    rest = [p for p in pairs if p.metadata["flaw"] != "verbose"]
#    print(longer_share(rest))
#    ```
#
#    The longer answer is now chosen more often than not, and the interval reaches one half
#    by a hair. The policy could learn some of that; better add pairs in which short wins.
#    </details>
# 2. `many` has three pairs a prompt. With $k$ pairs a prompt and a test fraction $f$,
#    what share of the test rows leaks after a random cut, about? Compare with the count
#    above.
#    <details><summary>Answer</summary>
#
#    A test row is clean only if its $k-1$ siblings are in the test set too, so about
#    $1 - f^{k-1}$ leak. More pairs a prompt make it worse. Seed 0, printed above, lies
#    below that; a mean over seeds does not:
#
#    ```python
#    shares = []
#    for seed in range(40):
#        train, test = split_rows(many, seed)
#        seen = {p.prompt for p in train}
#        shares.append(np.mean([p.prompt in seen for p in test]))
#    print(1 - 0.2**2, np.mean(shares), min(shares), max(shares))
#    ```
#    </details>
# 3. UltraFeedback's four answers hold up to six comparisons; the loader takes one. Write
#    `all_pairs(row)`, which yields every pair with different scores. What does that ask
#    of your split?
#    <details><summary>Answer</summary>
#    <code>for a, b in itertools.combinations(row["completions"], 2)</code>: leave out
#    equal scores, and put the better one first. Split by prompt: the six share theirs.
#    </details>
# 4. Raters also contradict each other in circles: A over B, B over C, C over A. Find such
#    circles in a set of pairs. `graphlib`, of Python's standard library, sorts graphs that
#    have none.
#    <details><summary>Answer</summary>
#
#    For each prompt make a graph from each chosen answer to those it beat. Message lists
#    are no dictionary keys, so take their text.
#
#    ```python
#    from graphlib import CycleError, TopologicalSorter
#
#    from dpo_tutorial.layouts import plain_text
#
#    beaten = {}
#    for p in pairs:
#        prompt, better, worse = map(plain_text, (p.prompt, p.chosen, p.rejected))
#        beaten.setdefault(prompt, {}).setdefault(better, set()).add(worse)
#    for prompt, graph in beaten.items():
#        try:
#            TopologicalSorter(graph).prepare()
#        except CycleError as error:
#            print(prompt, error.args[1])
#    ```
#
#    It names one circle a prompt, from worse to better, and a plain contradiction is a
#    circle of two. No reward explains one (notebook 01). Our pairs have none; plant one.
#    </details>
# 5. Load a file of your own and act on each error that its report names.
#    <details><summary>Hint</summary>
#    <code>load_preferences("mine.csv", on_error="skip")</code> for the pairs; the raw
#    rows, as with <code>dirty.jsonl</code>, to have the skipped ones in the report too.
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
