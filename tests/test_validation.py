"""Each check on rows made for it, and all of them on `data/dirty.jsonl`."""

import json

import pytest
from tokenizers import ByteLevelBPETokenizer
from transformers import PreTrainedTokenizerFast

from dpo_tutorial import data_path
from dpo_tutorial.data import PreferencePair, load_preferences
from dpo_tutorial.validation import CHECKS, PreferenceDataValidator, near_duplicates

WHOLE_SET = {"lengths", "length_bias"}


def row(prompt="What is tea?", chosen="A drink of leaves.", rejected="A kind of cup."):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def found(rows, *, splits=None, **options):
    """{check: rows} of a report, without what is about the whole set."""
    report = PreferenceDataValidator(rows, splits).full_report(**options)
    return {f.check: f.rows for f in report.findings if f.check not in WHOLE_SET}


@pytest.fixture(scope="module")
def dirty():
    lines = data_path("dirty.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def dirty_report(dirty):
    splits = [row["metadata"]["split"] for row in dirty]
    return PreferenceDataValidator(dirty, splits).full_report(max_length=60)


# --- the labelled file --------------------------------------------------------------


@pytest.mark.parametrize("check", sorted(CHECKS.keys() - WHOLE_SET))
def test_exactly_the_labelled_rows_are_found(dirty, dirty_report, check):
    faults = [row["metadata"]["fault"] for row in dirty]
    labelled = [i for i, fault in enumerate(faults) if fault == check]
    assert len(labelled) >= 2
    assert sorted(dirty_report.rows(check)) == labelled


def test_every_label_is_a_check(dirty):
    labels = {row["metadata"]["fault"] for row in dirty}
    assert labels == CHECKS.keys() - WHOLE_SET | {"none"}


def test_the_dirty_file_is_biased_and_ours_is_not(dirty_report):
    assert "length_bias" in {f.check for f in dirty_report.findings}
    ours = load_preferences(data_path("preferences.jsonl"))
    report = PreferenceDataValidator(ours).full_report()
    assert not [f for f in report.findings if f.severity != "info"]


def test_the_loader_skips_the_rows_that_make_no_pair(dirty, dirty_report):
    with pytest.warns(UserWarning, match="skipped 9 of 34 rows"):
        pairs = load_preferences(data_path("dirty.jsonl"), on_error="skip")
    checks = ("missing_field", "wrong_type", "empty_text", "identical_pair")
    assert sum(len(dirty_report.rows(check)) for check in checks) == 9
    assert len(pairs) == len(dirty) - 9


# --- one by one ---------------------------------------------------------------------


def test_clean_rows_give_lengths_alone():
    assert found([row()]) == {}
    assert found([PreferencePair(**row())]) == {}


def test_messages_are_read_as_their_text():
    messages = {
        "prompt": [{"role": "user", "content": "What is tea?"}],
        "chosen": [{"role": "assistant", "content": "A drink of leaves."}],
        "rejected": [{"role": "assistant", "content": "A kind of cup."}],
    }
    assert found([row(), messages]) == {"duplicate_row": [1]}
    bad = messages | {"chosen": [{"role": "assistant"}]}
    assert found([row(), bad]) == {"wrong_type": [1]}


def test_a_later_copy_is_the_duplicate():
    rows = [row(), row(prompt="what is  TEA?"), row(chosen="A hot drink, brewed.")]
    assert found(rows) == {"duplicate_row": [1]}


def test_both_sides_of_a_contradiction_are_named():
    other = row(chosen="A kind of cup.", rejected="A drink of leaves.")
    assert found([row(), other]) == {"contradiction": [0, 1]}
    assert found([row(), other | {"prompt": "What is a mug?"}]) == {}


def test_votes_that_differ_are_a_warning_not_an_error():
    other = row(chosen="A kind of cup.", rejected="A drink of leaves.")
    findings = PreferenceDataValidator([row()] * 9 + [other]).full_report().findings
    votes = [f for f in findings if f.check == "contradiction"]
    assert [(f.severity, len(f.rows)) for f in votes] == [("warning", 10)]
    assert "error" not in {f.severity for f in findings}


def test_template_marks_are_found_and_plain_text_is_not():
    marked = ["<|im_end|>", "</s>", "[INST] a b", "<start_of_turn>", "### Response: a"]
    rows = [row(chosen=f"A drink.\n{mark}") for mark in [*marked, "Human: hi"]]
    assert found(rows)["template_residue"] == list(range(len(rows)))
    plain = [
        "if a < b: print(a | b)",
        "a human: we",
        "<b>bold</b> type",
        "### Steps: one",
    ]
    assert found([row(chosen=text) for text in plain]) == {}


def test_truncation_counts_words_or_tokens_with_eos():
    rows = [row(chosen="one two three four"), row(chosen="one two three four five")]
    assert found(rows, max_length=7) == {"truncation": [1]}
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(["x"], vocab_size=257, special_tokens=["<eos>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer)
    rows = [row("ab", "c d", "e f"), row("ab", "c d", "e fg")]  # a byte is a token
    assert found(rows, max_length=6, tokenizer=tokenizer) == {"truncation": [1]}
    assert found(rows, max_length=7, tokenizer=tokenizer) == {}


def test_length_bias_needs_more_than_chance():
    longer, shorter = row(chosen="a b c d e"), row(rejected="a b c d e")
    prompts = [f"Question {i} of many?" for i in range(100)]

    def checks(share):
        sides = [longer] * share + [shorter] * (100 - share)
        rows = [s | {"prompt": p} for s, p in zip(sides, prompts, strict=True)]
        return [f.check for f in PreferenceDataValidator(rows).full_report().findings]

    assert "length_bias" in checks(75)
    assert "length_bias" in checks(25)
    assert "length_bias" not in checks(55)
    report = PreferenceDataValidator([longer]).full_report()
    assert [f.check for f in report.findings] == ["lengths"]
    message = report.findings[0].message
    assert "median words prompt 3, chosen 5, rejected 4;" in message
    assert "chosen longer in 100% of pairs (21% to 100%)" in message


# --- leakage (trap 20) --------------------------------------------------------------

LONG = "Explain in two sentences why the moon has phases, to a child of nine."


@pytest.mark.parametrize(
    "copy",
    [
        LONG,
        LONG.upper(),
        LONG.replace(" ", "\n "),
        LONG.replace("moon", "mooon"),
        LONG.rstrip("."),
        LONG.replace("two", "three"),
    ],
)
def test_a_prompt_in_two_splits_is_leakage(copy):
    rows = [row(LONG), row("Name a tree."), row(copy), row("Why do cats purr?")]
    rows[2]["chosen"] = "The sun lights half of it, and we see that half from aside."
    splits = ["train", "train", "test", "train"]
    assert found(rows, splits=splits) == {"leakage": [2]}
    assert found(rows, splits=["train"] * 4) == {}
    assert found(rows) == {}


def test_leakage_is_told_of_the_smaller_splits():
    rows = [row(LONG, chosen=f"Answer number {i}.") for i in range(6)]
    rows += [row(f"Name a tree in country {i}.") for i in range(2)]
    splits = ["train", "dev", "test", "train", "train", "dev", "train", "train"]
    assert found(rows, splits=splits) == {"leakage": [1, 5, 2]}


def test_near_duplicates_agree_with_comparing_all():
    from rapidfuzz import fuzz

    texts = [p.prompt for p in load_preferences(data_path("preferences.jsonl"))]
    queries = [text[:7] + text[8:] for text in texts] + [f"please {t}" for t in texts]
    queries = [query for query in queries if query not in texts]
    brute = {q for q in queries if any(fuzz.ratio(q, t) >= 90 for t in texts)}
    assert len(brute) > 200
    assert near_duplicates(queries, texts) == brute


def test_unrelated_prompts_are_no_near_duplicates():
    texts = [p.prompt for p in load_preferences(data_path("preferences.jsonl"))]
    assert near_duplicates(texts[::2], texts[1::2]) == set()


# --- the report ---------------------------------------------------------------------


def test_the_report_exports_as_json(dirty_report):
    exported = json.loads(json.dumps(dirty_report.to_dict()))
    assert exported["size"] == 34
    findings = exported["findings"]
    assert {f["severity"] for f in findings} == {"error", "warning", "info"}
    assert all(
        f.keys() == {"check", "severity", "rows", "message", "remedy"} for f in findings
    )
    assert all(f["message"] and f["remedy"] for f in findings)


def test_errors_come_first(dirty_report):
    order = ["error", "warning", "info"]
    ranks = [order.index(f.severity) for f in dirty_report.findings]
    assert ranks == sorted(ranks)


def test_the_report_displays_as_a_table_and_as_text(dirty_report):
    html, text = dirty_report._repr_html_(), repr(dirty_report)
    for finding in dirty_report.findings:
        assert finding.remedy in html
        assert finding.remedy in text
    assert "<table" in html


def test_rows_that_are_all_bad_still_give_a_report():
    assert found([{"prompt": "x"}, {}]) == {"missing_field": [0, 1]}


@pytest.mark.parametrize(("rows", "splits"), [([], None), ([row()], ["a", "b"])])
def test_no_rows_or_too_few_splits_are_errors(rows, splits):
    with pytest.raises(ValueError, match=f"splits for {len(rows)} rows, expected"):
        PreferenceDataValidator(rows, splits)
