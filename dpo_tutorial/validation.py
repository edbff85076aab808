"""What is wrong with preference pairs, row by row, and what to do about it."""

from __future__ import annotations

import re
from collections import Counter, defaultdict, namedtuple
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice, pairwise
from typing import Any
from zlib import crc32

import numpy as np
import pandas
from rapidfuzz import fuzz
from scipy.stats import binomtest

from dpo_tutorial.layouts import plain_text

Texts = dict[int, tuple[str, str, str]]  # by row: prompt, chosen, rejected
Faults = Iterator[tuple[str, int]]  # check and row
KEYS = ("prompt", "chosen", "rejected")
MARK = re.compile(r"<\|\w+\|>|</s>|\[/?INST]|_of_turn>|^(Human:|### (Inst|Resp))", re.M)
CHECKS = {  # check: severity, what is wrong, what to do
    "missing_field": ("error", "a field is missing", "add it, or name the layout"),
    "wrong_type": ("error", "a field is not text", "write a string or messages"),
    "empty_text": ("error", "a text is empty", "drop the row"),
    "identical_pair": ("error", "chosen equals rejected", "drop the row: no gradient"),
    "leakage": ("error", "prompt in a larger split too", "split by prompt"),
    "truncation": ("error", "longer than max_length", "raise it, or drop the row"),
    "contradiction": ("warning", "A over B and B over A", "keep votes, drop mistakes"),
    "duplicate_row": ("warning", "the row came before", "keep one: copies weigh more"),
    "near_identical": ("warning", "responses all but equal", "look at what differs"),
    "template_residue": ("warning", "a chat template's mark", "strip it from the text"),
    "length_bias": ("warning", "", "balance lengths, or the policy learns length"),
    "short_response": ("info", "a response of one word", "look: is it an answer?"),
    "lengths": ("info", "", "choose max_length by the longest"),
}


# One check's result: `rows` are indices, none where it is about the set as a whole.
Finding = namedtuple("Finding", ["check", "severity", "rows", "message", "remedy"])


@dataclass(frozen=True, repr=False)
class Report:
    """What `full_report` found, errors first; a table where it is displayed."""

    size: int
    findings: list[Finding]

    def rows(self, check: str) -> list[int]:
        """The indices of the rows that `check` found."""
        return [row for f in self.findings if f.check == check for row in f.rows]

    def to_dict(self) -> dict[str, Any]:
        """The report in numbers, strings and lists, as JSON takes them."""
        return {"size": self.size, "findings": [f._asdict() for f in self.findings]}

    def _table(self) -> pandas.DataFrame:
        rows = [f"{len(f.rows)}: {f.rows[:4]}" * bool(f.rows) for f in self.findings]
        return pandas.DataFrame(self.findings).assign(rows=rows)

    def __repr__(self) -> str:
        return f"{self.size} rows\n{self._table().to_string(index=False)}"

    def _repr_html_(self) -> str:
        with pandas.option_context("display.max_colwidth", None):
            return f"{self._table().to_html(index=False)}{self.size} rows"


class PreferenceDataValidator:
    """Checks rows, mappings or `PreferencePair`s, before they meet a chat template.

    Mappings may hold what `PreferencePair` refuses. `splits` gives each row's split,
    such as "train" or "test", to look for leakage.
    """

    def __init__(self, rows: Iterable, splits: Sequence[str] | None = None) -> None:
        self.rows = [row if isinstance(row, Mapping) else vars(row) for row in rows]
        self.splits = ["all"] * len(self.rows) if splits is None else list(splits)
        if not 0 < len(self.rows) == len(self.splits):
            seen = f"{len(self.splits)} splits for {len(self.rows)} rows"
            raise ValueError(f"{seen}, expected a row at least and a split for each")

    def full_report(self, max_length: int | None = None, tokenizer=None) -> Report:
        """Every check. `max_length` is of prompt and response: in tokens, else words.

        A row with a missing, mistyped or empty text is left out of all further checks.
        """
        found = defaultdict(list)
        for i, row in enumerate(self.rows):
            found[_fault(row)].append(i)
        good = found.pop(None, [])
        texts = {i: tuple(plain_text(self.rows[i][n]) for n in KEYS) for i in good}
        long = () if max_length is None else _too_long(texts, max_length, tokenizer)
        for check, row in chain(_pair_faults(texts), self._leaks(texts), long):
            found[check].append(row)
        about_all = _lengths(texts) if texts else {}
        findings = [
            Finding(check, severity, found[check], about_all.get(check, wrong), remedy)
            for check, (severity, wrong, remedy) in CHECKS.items()
            if found[check] or about_all.get(check)
        ]
        return Report(len(self.rows), findings)

    def _leaks(self, texts: Texts) -> Faults:
        prompts, earlier = defaultdict(dict), set()
        for i, (prompt, *_) in texts.items():
            prompts[self.splits[i]][i] = _key(prompt)
        for rows in sorted(prompts.values(), key=len, reverse=True):
            own = set(rows.values())
            leaked = own & earlier | near_duplicates(own - earlier, earlier)
            yield from (("leakage", i) for i, p in rows.items() if p in leaked)
            earlier |= own


def _key(text: str) -> str:
    return " ".join(text.casefold().split())


def _fault(row: Mapping) -> str | None:
    if any(row.get(name) is None for name in KEYS):
        return "missing_field"
    try:
        return None if all(plain_text(row[n]).strip() for n in KEYS) else "empty_text"
    except ValueError:
        return "wrong_type"


def _pair_faults(texts: Texts) -> Faults:
    rows = {i: (_key(x), y.strip(), z.strip()) for i, (x, y, z) in texts.items()}
    judged, seen = set(rows.values()), set()
    for i, row in rows.items():
        if row[1] == row[2]:
            yield "identical_pair", i
        elif (row[0], row[2], row[1]) in judged:
            yield "contradiction", i
        elif row in seen:
            yield "duplicate_row", i
        elif fuzz.ratio(row[1], row[2], score_cutoff=95):
            yield "near_identical", i
        seen.add(row)
        if any(map(MARK.search, texts[i])):
            yield "template_residue", i
        if min(len(text.split(None, 1)) for text in row[1:]) == 1:
            yield "short_response", i


def _too_long(texts: Texts, limit: int, tokenizer: Any) -> Faults:
    for i, row in texts.items():
        units = [text.split() for text in row]
        if tokenizer is not None:
            units = tokenizer(list(row), add_special_tokens=False)["input_ids"]
        prompt, *answers = map(len, units)
        if prompt + max(answers) + (tokenizer is not None) > limit:  # with EOS
            yield "truncation", i


def _sketch(text: str) -> list[int]:
    """Up to sixteen of a text's words and word pairs, as hashes: the smallest ones."""
    words = re.findall(r"\w+", text)
    parts = (*zip(words, strict=True), *pairwise(words))
    return sorted({crc32(" ".join(part).encode()) for part in parts})[:16]


def near_duplicates(queries: Iterable[str], others: Iterable[str]) -> set[str]:
    """The queries with a rapidfuzz ratio of 90 or more to one of `others`.

    A query is compared with texts that share one of the eight rarest parts of its
    sketch, fifty at most: the time grows with the number of texts, not its square.
    """
    sketches = {text: _sketch(text) for text in {*queries, *others}}
    counts = Counter(chain.from_iterable(sketches.values()))
    held = defaultdict(list)

    def _rarest(text: str) -> list[int]:
        return sorted((k for k in sketches[text] if counts[k] > 1), key=counts.get)[:8]

    def _is_near(text: str) -> bool:
        alike = islice((t for part in _rarest(text) for t in held[part]), 50)
        return any(fuzz.ratio(text, other, score_cutoff=90) for other in alike)

    for text in sorted(others):
        for part in _rarest(text):
            held[part].append(text)
    return set(filter(_is_near, queries))


def _lengths(texts: Texts) -> dict[str, str]:
    words = np.array([[len(text.split()) for text in row] for row in texts.values()])
    prompt, chosen, rejected = words.T
    middle = ", ".join(map("{} {:.0f}".format, KEYS, np.median(words, 0)))
    longest = (prompt + np.maximum(chosen, rejected)).max()
    wins, n = int((chosen > rejected).sum()), max(1, int((chosen != rejected).sum()))
    low, high = binomtest(wins, n).proportion_ci(method="wilson")
    share = f"chosen longer in {wins / n:.0%} of pairs ({low:.0%} to {high:.0%})"
    biased = not low <= 0.5 <= high and not 0.4 <= wins / n <= 0.6
    lengths = f"median words {middle}; longest pair {longest}; {share}"
    return {"lengths": lengths, "length_bias": share if biased else ""}
