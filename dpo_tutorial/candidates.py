"""Candidates: a model's answers to a prompt at several temperatures, kept as drawn."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator
from itertools import combinations, product

import torch
from rapidfuzz import fuzz
from torch import Tensor

from .ledger import Ledger
from .losses import IGNORE
from .sampling import sample_batch


def digest(parts: Iterable[bytes]) -> str:
    """A short name for bytes: others get another one."""
    found = hashlib.sha256()
    for part in parts:
        found.update(len(part).to_bytes(8, "big") + part)
    return found.hexdigest()[:16]


def fingerprint(model) -> str:
    """A short name for a model's weights: a trained model gets another one."""
    return digest(map(_bytes, model.state_dict().values()))


def _bytes(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().view(-1)
    return flat.view(torch.uint8).numpy().tobytes()  # any type, bfloat16 too


def draw_candidates(
    model, tokenizer, inputs: list, temperatures, ledger: Ledger, seed: int, **sampling
) -> list[list[dict]]:
    """The candidates of each prompt, one a temperature; what is missing is drawn."""
    size, times = sampling["batch_size"], range(len(temperatures))
    for t, start in product(times, range(0, len(inputs), size)):
        part = inputs[start : start + size]
        keys = [f"candidate {start + i} {t}" for i in range(len(part))]
        if all(map(ledger.get, keys)):
            continue
        options = sampling | {"temperature": temperatures[t]}
        options["seed"] = (1009 * seed + t) * 1_000_003 + start
        rows = draw(model, tokenizer, part, **options)  # the whole batch: one draw
        for key, row in zip(keys, rows, strict=True):
            if not ledger.get(key):
                ledger.add(key, row)
    return [
        [ledger.get(f"candidate {i} {t}") for t in times] for i in range(len(inputs))
    ]


def draw(model, tokenizer, inputs: list[str], **options) -> list[dict]:
    """A candidate each; `ended` tells whether it came to its EOS."""
    rows = []
    for batch in sample_batch(model, tokenizer, inputs, **options):
        for label in batch["labels"]:  # (T,)
            ids = label[label != IGNORE]
            text = tokenizer.decode(ids, skip_special_tokens=True)
            ended = bool(ids[-1] == tokenizer.eos_token_id)
            about = {"temperature": options["temperature"], "ended": ended}
            rows.append({"text": text} | about)
    return rows


def different(rows: list[dict], max_similarity: float) -> list[dict]:
    """The candidates that are not too alike to an earlier one of them."""
    kept: list[dict] = []
    for row in rows:
        near = (fuzz.ratio(row["text"], k["text"]) > 100 * max_similarity for k in kept)
        if not any(near):
            kept.append(row)
    return kept


def pair_up(kept: list[list[dict]], pairs: int, seed: int) -> Iterator[tuple]:
    """(key, (prompt's number, candidate A, candidate B)): up to `pairs` a prompt."""
    for i, rows in enumerate(kept):
        rng = random.Random(f"{seed} {i}")
        every = list(combinations(rows, 2))
        for j, both in enumerate(rng.sample(every, min(pairs, len(every)))):
            yield f"{i} {j}", (i, *rng.sample(both, 2))  # A is not always the cooler
