"""Preference pairs: loading, chat templates, splits, tokens and batches.

A pair is a prompt x, a chosen response y_w and a rejected one y_l (arXiv 2305.18290).
It is checked where it is made, so that what reaches the trainer is complete.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from os.path import commonprefix
from typing import Any

import torch

from dpo_tutorial.layouts import as_messages, plain_text, read_rows, render, to_fields

Message = dict[str, str]


@dataclass(frozen=True)
class PreferencePair:
    """One comparison: to `prompt`, `chosen` was preferred to `rejected`.

    A text is a string or a list of messages ({"role", "content"}). ValueError for any
    other type, for an empty text, and for chosen == rejected, whose gradient is zero.
    """

    prompt: str | list[Message]
    chosen: str | list[Message]
    rejected: str | list[Message]
    metadata: dict | None = None

    def __post_init__(self) -> None:
        for name in ("prompt", "chosen", "rejected"):
            if not (text := plain_text(getattr(self, name), name)).strip():
                raise ValueError(f"{name} is {text!r}, expected a text: drop the row")
        if self.chosen == self.rejected:
            same = f"chosen and rejected are both {self.chosen!r}"
            raise ValueError(f"{same}, expected two different texts: drop the row")


def load_preferences(
    source: Any, *, layout: str = "auto", on_error: str = "raise", split: str = "train"
) -> list[PreferencePair]:
    """Preference pairs from a file, the Hugging Face hub, or rows in memory.

    `source` is a .jsonl, .json, .csv or .parquet path, a hub id such as
    "Anthropic/hh-rlhf" (its `split`), or an iterable of mappings. `layout` is one of
    `layouts.LAYOUTS`; "auto" tells by each row's fields. A row that does not fit
    raises ValueError with its place and the reason; with `on_error="skip"` it is left
    out, and one warning says how many were and why.
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error is {on_error!r}, expected 'raise' or 'skip'")
    pairs, faults, rows = [], [], read_rows(source, split)
    for place, row in rows:
        try:
            pairs.append(PreferencePair(*to_fields(row, layout)))
        except ValueError as error:
            faults.append(f"{place}: {error}")
            if on_error == "raise":
                raise ValueError(faults[0]) from error
    if not pairs:
        text = f"no pair in {len(rows)} rows of {str(source)[:80]}, expected some"
        raise ValueError("\n  ".join([text, *faults[:5]]))
    if faults:
        text = [f"skipped {len(faults)} of {len(rows)} rows, such as:", *faults[:5]]
        warnings.warn("\n  ".join(text), stacklevel=2)
    return pairs


def _fields(pair: PreferencePair | Mapping) -> dict[str, Any]:
    return asdict(pair) if isinstance(pair, PreferencePair) else dict(pair)


def convert_to_dpo_format(
    pairs: Iterable[PreferencePair | Mapping], chat_template: Any
) -> list[dict[str, Any]]:
    """Rows of strings: prompt, chosen, rejected (and metadata where there is some).

    `chat_template` is a name in `layouts.TEMPLATES` or a tokenizer with a template of
    its own. A string prompt counts as one user message. The prompt ends with the header
    of the answer, a response with the end of turn; the newline that some templates put
    after that is left out, since sampling stops before it. Where the end of turn is the
    tokenizer's EOS it is the only one; elsewhere `tokenize_pair` adds EOS after it.
    """
    rows = []
    for pair in map(_fields, pairs):
        prompt = as_messages(pair["prompt"])
        if (role := prompt[-1]["role"]) != "user":
            remedy = "move the last turns into the responses"
            raise ValueError(f"a prompt ends with {role!r}, expected 'user': {remedy}")
        answers = [as_messages(pair[k], "assistant") for k in ("chosen", "rejected")]
        whole = [render(prompt + answer, chat_template) for answer in answers]
        # As in TRL; some templates open an answer to come with a tag such as <think>.
        start = render(prompt, chat_template, answer_next=True)
        start = commonprefix([start, *whole])  # noqa: RUF071 (text, not paths)
        chosen, rejected = (text[len(start) :].rstrip("\n") for text in whole)
        row = {"prompt": start, "chosen": chosen, "rejected": rejected}
        rows.append(row | {k: v for k, v in pair.items() if k == "metadata" and v})
    return rows


def split_by_prompt(
    pairs: Sequence, test_fraction: float = 0.2, seed: int = 0
) -> tuple[list, list]:
    """Split into (train, test) so that all pairs of one prompt land on one side.

    `test_fraction` is of the distinct prompts (case and white space make none), and
    which of them are held out depends on `seed` and on nothing else. Order is kept.
    """
    texts = [plain_text(_fields(pair)["prompt"]) for pair in pairs]
    keys = [" ".join(text.casefold().split()) for text in texts]
    prompts = sorted(set(keys))
    count = round(test_fraction * len(prompts))
    if not 0 < count < len(prompts):
        seen = f"test_fraction={test_fraction} of {len(prompts)} prompts is {count}"
        raise ValueError(f"{seen}, expected some on both sides: change it, add prompts")
    held_out = set(random.Random(seed).sample(prompts, count))
    train = [pair for pair, key in zip(pairs, keys, strict=True) if key not in held_out]
    test = [pair for pair, key in zip(pairs, keys, strict=True) if key in held_out]
    return train, test


def _ids(text: str, tokenizer: Any) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def boundary_merges(prompt: str, response: str, tokenizer: Any) -> bool:
    """Whether tokenising both together puts a token across their boundary."""
    apart = _ids(prompt, tokenizer) + _ids(response, tokenizer)
    return apart != _ids(prompt + response, tokenizer)


def tokenize_pair(
    row: PreferencePair | Mapping, tokenizer: Any, max_length: int | None = None
) -> dict[str, list[int]]:
    """Token ids of one row of strings: prompt_ids, chosen_ids, rejected_ids.

    Prompt and response are tokenised apart, so no token spans their boundary. Responses
    end with EOS exactly once; the prompt begins with BOS once where the tokenizer sets
    one. ValueError, and no truncation, where prompt and response have more than
    `max_length` tokens together; ValueError where one of them has none.
    """
    row, eos, bos = _fields(row), tokenizer.eos_token_id, tokenizer.bos_token_id
    texts = {name: row.get(name) for name in ("prompt", "chosen", "rejected")}
    if not all(isinstance(text, str) for text in texts.values()):
        raise ValueError(f"{texts}: expected strings, as of convert_to_dpo_format")
    if eos is None:
        raise ValueError("eos_token_id is None, expected an id: set the tokenizer's")
    prompt, *answers = (_ids(text, tokenizer) for text in texts.values())
    if bos in tokenizer("a")["input_ids"][:1] and prompt[:1] != [bos]:
        prompt = [bos, *prompt]
    for ids in answers:
        while ids[-1:] == [eos]:
            ids.pop()
    if not (prompt and all(answers)):
        raise ValueError(f"{texts}: expected a token at least in each, drop the row")
    longest = max(map(len, answers)) + 1  # with EOS
    if max_length is not None and len(prompt) + longest > max_length:
        seen = f"prompt of {len(prompt)} and response of {longest} tokens"
        remedy = "raise it, or shorten or drop the row"
        raise ValueError(f"{seen}, expected max_length={max_length} at most: {remedy}")
    chosen, rejected = ([*ids, eos] for ids in answers)
    return {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}


def pad_rows(
    rows: Sequence[tuple[list[int], list[int]]], pad_token_id: int | None
) -> dict[str, torch.Tensor]:
    """(prompt ids, response ids) rows as one right-padded batch.

    `input_ids`, `attention_mask`, `labels`, each (B, T). Labels are -100 on prompt and
    padding, told by length and not by token id: with pad = EOS the EOS stays scored.
    """
    if pad_token_id is None:
        remedy = "tokenizer.pad_token = tokenizer.eos_token"
        raise ValueError(f"pad_token_id is None, expected an id: {remedy}")
    shape = len(rows), max(len(p) + len(r) for p, r in rows)  # (B, T)
    input_ids, labels = torch.full(shape, pad_token_id), torch.full(shape, -100)
    attention_mask = torch.zeros_like(labels)
    for i, (prompt, response) in enumerate(rows):
        start, end = len(prompt), len(prompt) + len(response)
        input_ids[i, :end] = torch.tensor(prompt + response)
        labels[i, start:end] = torch.tensor(response)
        attention_mask[i, :end] = 1
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


def collate(
    examples: Sequence[Mapping[str, list[int]]], pad_token_id: int | None
) -> dict[str, torch.Tensor]:
    """`pad_rows` of B `tokenize_pair` rows, each (2B, T): B chosen, then B rejected."""
    sides = ("chosen_ids", "rejected_ids")
    rows = [(e["prompt_ids"], e[side]) for side in sides for e in examples]
    return pad_rows(rows, pad_token_id)
