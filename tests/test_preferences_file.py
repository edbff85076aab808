"""The hand-written preference pairs in data/preferences.jsonl hold what they promise.

Plain `json` is used on purpose: the file must be readable without the package.
"""

import json
import re
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest

PATH = Path(__file__).resolve().parents[1] / "data" / "preferences.jsonl"
FLAWS = {"wrong", "verbose", "sycophantic", "evasive", "off_format", "unsafe"}
NUMBER = re.compile(r"\d+(?:\.\d+)?")
QUESTION = re.compile(
    r"What is (?P<a>[\d.]+) ?(?P<op>[-+*/x\u00d7]|% of) ?(?P<b>\d+(?:\.\d+)?)"
)
OPERATIONS = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "/": lambda a, b: a / b,
    "% of": lambda a, b: a * b / 100,
    **dict.fromkeys("*x\u00d7", lambda a, b: a * b),
}
WORDS = {"one": 1, "three": 3, "five": 5}
FENCE = re.compile(r"```python\n(.*?)```", re.DOTALL)
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")


def read_rows() -> list[dict]:
    """Return the rows of the file in order."""
    return [json.loads(line) for line in PATH.read_text("utf-8").splitlines()]


ROWS = read_rows()


def texts(row: dict) -> list[str]:
    """Return every string of a row, the metadata's included."""
    head = [row["prompt"], row["chosen"], row["rejected"]]
    return head + list(row["metadata"].values())


def numbers(text: str) -> set[Fraction]:
    """Return the numbers that are written out in the text."""
    return {Fraction(found) for found in NUMBER.findall(text)}


def expected_result(prompt: str) -> Fraction | None:
    """Compute A op B where the prompt asks for it, else return None."""
    match = QUESTION.search(prompt)
    if match is None:
        return None
    a, b = Fraction(match["a"]), Fraction(match["b"])
    return OPERATIONS[match["op"]](a, b)


def python_snippets(row: dict, answer: str) -> list[str]:
    """Return the Python code in one answer: fenced, inline, or the answer itself."""
    plain = "code only" in row["prompt"].lower() and answer == row["chosen"]
    if plain and "```" not in answer:
        return [answer]
    return FENCE.findall(answer) + INLINE.findall(FENCE.sub("", answer))


def test_every_row_has_the_same_keys_in_the_same_order() -> None:
    for row in ROWS:
        assert list(row) == ["prompt", "chosen", "rejected", "metadata"]
        assert list(row["metadata"]) == ["topic", "flaw", "why"]


def test_size_flaws_and_topics() -> None:
    flaws = Counter(row["metadata"]["flaw"] for row in ROWS)
    topics = Counter(row["metadata"]["topic"] for row in ROWS)
    assert len(ROWS) >= 160
    assert set(flaws) == FLAWS
    assert min(flaws.values()) >= 15
    assert len(topics) >= 8
    assert min(topics.values()) >= 8


def test_strings_are_clean() -> None:
    residue = re.compile(r"Human:|Assistant:|User:|<\||\[INST|</?s>|[ \t]+$", re.M)
    for row in ROWS:
        for text in texts(row):
            assert isinstance(text, str), row
            assert text, row
            assert text == text.strip(), row
            assert residue.search(text) is None, text


def test_prompts_are_distinct() -> None:
    plain = [re.sub(r"\s+", " ", row["prompt"].casefold()) for row in ROWS]
    assert len(set(plain)) == len(plain)


def test_chosen_and_rejected_differ() -> None:
    for row in ROWS:
        assert row["chosen"].casefold() != row["rejected"].casefold(), row["prompt"]


def test_why_is_one_sentence_of_its_own() -> None:
    whys = [row["metadata"]["why"] for row in ROWS]
    assert len(set(whys)) == len(whys)
    for why in whys:
        assert why.endswith("."), why
        assert len(why.split()) >= 5, why


def test_length_does_not_give_the_label_away() -> None:
    shorter = [len(row["chosen"]) < len(row["rejected"]) for row in ROWS]
    assert 0.4 <= sum(shorter) / len(shorter) <= 0.6


@pytest.mark.parametrize("flaw", sorted(FLAWS - {"verbose"}))
def test_each_flaw_has_both_length_orders(flaw: str) -> None:
    pairs = [row for row in ROWS if row["metadata"]["flaw"] == flaw]
    longer = [len(row["chosen"]) > len(row["rejected"]) for row in pairs]
    assert 0.5 <= sum(longer) / len(longer) <= 0.7


def test_verbose_pairs_prefer_the_shorter_answer() -> None:
    for row in ROWS:
        if row["metadata"]["flaw"] == "verbose":
            assert 2 * len(row["chosen"]) < len(row["rejected"]), row["prompt"]


def test_arithmetic_is_right_in_the_chosen_answer() -> None:
    asked = [(row, expected_result(row["prompt"])) for row in ROWS]
    asked = [(row, result) for row, result in asked if result is not None]
    assert len(asked) >= 6
    for row, result in asked:
        assert result in numbers(row["chosen"]), row["prompt"]
        if row["metadata"]["flaw"] == "wrong":
            assert result not in numbers(row["rejected"]), row["prompt"]


def test_python_code_compiles() -> None:
    compiled = 0
    for row in ROWS:
        if row["metadata"]["topic"] != "code" or "Python" not in row["prompt"]:
            continue
        for answer in (row["chosen"], row["rejected"]):
            for snippet in python_snippets(row, answer):
                compile(snippet, row["prompt"], "exec")
                compiled += 1
    assert compiled >= 15


def test_json_is_json_where_the_prompt_asks_for_it() -> None:
    asked = [row for row in ROWS if "as JSON" in row["prompt"]]
    assert len(asked) >= 3
    for row in asked:
        assert isinstance(json.loads(row["chosen"]), dict)
        with pytest.raises(json.JSONDecodeError):
            json.loads(row["rejected"])


def test_word_counts_are_obeyed_by_the_chosen_answer_alone() -> None:
    asked = re.compile(r"(?:in|exactly) (one|three|five) words?\b", re.IGNORECASE)
    found = [(row, asked.search(row["prompt"])) for row in ROWS]
    found = [(row, WORDS[match[1].lower()]) for row, match in found if match]
    assert len(found) >= 3
    for row, count in found:
        assert len(row["chosen"].split()) == count, row["prompt"]
        assert len(row["rejected"].split()) != count, row["prompt"]
