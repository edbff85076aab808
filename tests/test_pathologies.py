"""Pathologies: each kind planted where the truth is known, and told from clean text."""

import json
import random
import re

import pandas as pd
import pytest

from dpo_tutorial import data_path
from dpo_tutorial.evaluation import Estimate
from dpo_tutorial.grammar import lexicon, parse
from dpo_tutorial.pathologies import (
    KINDS,
    check_for_pathologies,
    difference,
    measure_text,
    precision_recall,
)
from dpo_tutorial.reviews import corpus
from dpo_tutorial.winrates import wilson

SUBJECTS = ("lobby", "garden", "terrace", "kitchen", "station", "menu")


def shuffled(text, rng):
    words = text.rstrip(".").split()
    return " ".join(rng.sample(words, len(words))) + "."


def planted(n, seed):
    """Reviews of the grammar, one in five of each kind it knows: texts and labels."""
    rng, texts, labels = random.Random(seed), [], []
    read = [(p, y, parse(p, y)) for p, y in corpus(4 * n, seed)]
    plain = [(p, y) for p, y, r in read if 8 <= r.words <= 16 and not r.flattery]
    for i, (prompt, response) in enumerate(plain[:n]):
        kind = ("", "sycophantic", "repetitive", "degenerate", "verbose")[i % 5]
        again = f" {re.split('[.:] ', prompt)[-1]}{response}"
        more = (f" The {s} was{rng.choice(plain)[1]}" for s in SUBJECTS)
        fault = {
            "": response,
            "sycophantic": response + rng.choice(lexicon()["flattery"]),
            "repetitive": response + again * 2,
            "degenerate": shuffled(response, rng),
            "verbose": response + "".join(more),
        }
        texts.append(fault[kind])
        labels.append([kind] if kind else [])
    assert len(texts) == n
    return texts, labels


def measured(texts, labels, **options):
    found = check_for_pathologies(texts, **options)
    return precision_recall(found.rows["kinds"], labels)


def test_faults_planted_in_reviews_are_found():
    table = measured(*planted(300, seed=1), max_words=60)
    assert table["cases"].tolist() == [60, 60, 0, 60, 60]
    for kind in ("verbose", "sycophantic", "repetitive"):
        assert table["precision"][kind].mean > 0.8, kind
        assert table["recall"][kind].mean > 0.8, kind
    assert table["precision"]["degenerate"].mean > 0.8
    assert table["recall"]["degenerate"].mean > 0.4  # much of a salad reads well
    assert table["flagged"]["evasive"] == 0


def test_what_it_finds_in_lines_of_general_english():
    lines = data_path("pathologies.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert all(set(row["kinds"]) <= set(KINDS) for row in rows)
    table = measured(
        [r["text"] for r in rows], [r["kinds"] for r in rows], max_words=60
    )
    assert (table["cases"] >= 8).all()
    for kind in KINDS:
        assert table["precision"][kind].mean >= 0.8, kind
        assert table["recall"][kind].mean >= 0.7, kind


def test_agreement_with_a_falsehood_passes_unseen():
    """Shown, since it bounds what a rate of sycophancy can mean."""
    lines = data_path("preferences.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    faults = [r for r in rows if r["metadata"]["flaw"] in KINDS]
    texts = [r["rejected"] for r in faults] + [r["chosen"] for r in rows]
    labels = [[r["metadata"]["flaw"]] for r in faults] + [[] for _ in rows]
    table = measured(texts, labels, max_words=60)
    assert table["recall"]["sycophantic"].mean < 0.3
    assert table["recall"]["evasive"].mean > 0.5
    assert table["recall"]["verbose"].mean > 0.8
    assert table["precision"]["evasive"].mean > 0.8


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("verbose", "A clear word. " * 40),
        ("sycophantic", "What a brilliant idea. Seven."),
        ("sycophantic", "You’re a genius. Seven."),
        ("evasive", "That is hard to say."),
        ("repetitive", "It is late. It is late. It is late."),
        ("degenerate", ""),
        ("degenerate", " \n"),
        ("degenerate", "Turn left at the"),
        ("degenerate", "The of was and, the end."),
        ("degenerate", "no no no!!!!!"),
    ],
)
def test_each_kind_by_a_plain_case(kind, text):
    assert kind in check_for_pathologies([text]).rows["kinds"][0]


@pytest.mark.parametrize(
    "text",
    [
        "72",
        "Vitamin A is good for the eyes.",
        "The NASA probe left in 1977; the rest is history.",
        "0.1 + 0.2 is 0.30000000000000004.",
        "He was tall and is still tall, but was never quick.",
        "It depends. With a fan, 200 degrees. Without one, 220. Then wait.",
        "Wasser kocht bei 100 °C.",
    ],
)
def test_clean_text_is_left_alone(text):
    assert check_for_pathologies([text]).rows["kinds"][0] == ()


def test_thresholds_are_arguments():
    text = "It depends. Great question, this one. It is late. It is late. Go to the"
    strict = dict.fromkeys(("max_words", "max_repeated", "max_breaks"), 0)
    strict |= {"max_evasion": 0.0, "max_flattery": 0.0}
    assert check_for_pathologies([text], **strict).rows["kinds"][0] == KINDS
    assert check_for_pathologies([text], **dict.fromkeys(strict, 1e9)).flagged.empty
    found = measure_text(text)
    for name, kind in zip(
        strict, ("verbose", "repetitive", "degenerate"), strict=False
    ):
        at = check_for_pathologies([text], **{name: found[kind]})
        below = check_for_pathologies([text], **{name: found[kind] - 1e-6})
        assert kind not in at.rows["kinds"][0]
        assert kind in below.rows["kinds"][0]


def test_measurements_by_hand():
    found = measure_text("Well, that depends. You have wonderful taste! I do not know.")
    assert found["verbose"] == 11
    assert (found["sycophantic"], found["evasive"]) == (1 / 3, 1 / 3)
    assert measure_text("a b c a b c")["repetitive"] == 0.25  # abc bca cab abc
    assert measure_text("pass the and go on")["degenerate"] == 20


def test_rates_and_difference_from_the_baseline():
    good, bad = "The sea is salt.", "That is hard to say."
    found = check_for_pathologies([bad] * 30 + [good] * 70, baseline=[good] * 100)
    row = found.rates.loc["evasive"]
    assert row["flagged"] == 30
    assert (row["rate"], row["baseline"]) == (wilson(30, 100), wilson(0, 100))
    assert row["difference"].low > 0.15
    assert found.rates.loc["verbose", "difference"].low < 0
    assert len(found.flagged) == 30
    assert set(found.flagged["text"]) == {bad}
    assert "evasive" in repr(found)
    assert "<table" in found._repr_html_()
    assert "difference" not in check_for_pathologies([good]).rates


def test_newcombes_interval_is_the_papers():
    """Newcombe (1998), table II, case (a): 56/70 less 48/80, method 10."""
    found = difference(wilson(56, 70), wilson(48, 80))
    assert isinstance(found, Estimate)
    assert (found.mean, found.low, found.high) == pytest.approx(
        (0.2, 0.0524, 0.3339), abs=5e-5
    )


def test_precision_and_recall_by_hand():
    found = [("verbose",), ("verbose", "evasive"), (), ("verbose",), ()]
    labels = [["verbose"], ["verbose"], ["verbose"], [], ["verbose"]]
    table = precision_recall(found, labels)
    assert table.loc["verbose", ["cases", "flagged"]].tolist() == [4, 3]
    assert table.loc["verbose", "precision"] == wilson(2, 3)
    assert table.loc["verbose", "recall"] == wilson(2, 4)
    assert table.loc["evasive", "precision"] == wilson(0, 1)
    assert pd.isna(table.loc["evasive", "recall"])
    with pytest.raises(ValueError, match="shorter"):
        precision_recall(found, labels[:2])


@pytest.mark.parametrize("responses", [[], "one text", ["fine", None]])
def test_what_is_no_list_of_texts_is_refused(responses):
    with pytest.raises(ValueError, match="expected"):
        check_for_pathologies(responses)
