"""Findings and a table of them; what is wrong with rows and with tokenised batches."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import pandas
import torch
from jinja2 import TemplateError
from torch import Tensor

from .data import boundary_merges, collate, convert_to_dpo_format, tokenize_pair
from .losses import IGNORE
from .validation import PreferenceDataValidator

#: One check: its name, "error", "warning" or "ok", what was seen, and what to do.
Finding = namedtuple("Finding", ["check", "severity", "seen", "remedy"])
Batch = Mapping[str, Tensor]
KEYS = ("prompt", "chosen", "rejected")
DATA = {  # our check, and those of the validator that it gathers
    "rows": ("missing_field", "wrong_type", "identical_pair"),
    "empty responses": ("empty_text",),
    "truncation": ("truncation",),
    "length skew": ("length_bias",),
    "leakage": ("leakage",),
}
UNMASK = "give -100 (or 0 in completion_mask) to {}"


class Findings(list):
    """Named tuples in a list that displays as a table."""

    @property
    def problems(self) -> Findings:
        """What is not "ok"."""
        return Findings(f for f in self if f[1] != "ok")

    def find(self, name: str) -> Any:
        """The first entry of that name, or None."""
        return next((f for f in self if f[0] == name), None)

    def __repr__(self) -> str:
        lines = [f"{a:<22} {b!s:<7} {c}" for a, b, c, _ in self]
        hints = [f"\n{'':31}-> {f[3]}" if f[3] else "" for f in self]
        return "\n".join(map("".join, zip(lines, hints, strict=True))) or "no findings"

    def _repr_html_(self) -> str:
        if not self:
            return "no findings"
        with pandas.option_context("display.max_colwidth", None):
            return pandas.DataFrame(list(self)).to_html(index=False)


def verdict(check: str, fine: str, *faults: tuple[Any, str, str, str]) -> Finding:
    """The first fault that holds, (holds, severity, seen, remedy), else an "ok"."""
    held = [fault[1:] for fault in faults if fault[0]]
    return Finding(check, *(held[0] if held else ("ok", fine, "")))


def string_rows(rows: Sequence, tokenizer: Any) -> list[dict[str, str]]:
    """Prompt, chosen and rejected as strings; rows that cannot be are left out."""
    texts = []
    for row in rows:
        fields = row if isinstance(row, Mapping) else vars(row)
        with suppress(KeyError, TypeError, ValueError, TemplateError):
            sides = {key: fields[key] for key in KEYS}
            if not all(isinstance(text, str) for text in sides.values()):
                sides = convert_to_dpo_format([sides], tokenizer)[0]
            texts.append(sides)
    return texts


def own_batch(texts: Sequence, tokenizer: Any, limit: int | None):
    """The first eight rows as `TinyDPOTrainer` has them; None if it can take none."""
    ids, pad = [], tokenizer.pad_token_id
    for row in texts[:64]:
        with suppress(ValueError):
            ids.append(tokenize_pair(row, tokenizer, limit))
    return collate(ids[:8], 0 if pad is None else pad) if ids else None


def with_labels(batch: Batch) -> dict[str, Tensor]:
    """A batch in `compute_log_probs`' terms: `labels` for TRL's `completion_mask`."""
    batch, ids = dict(batch), batch["input_ids"]
    if "labels" not in batch:
        batch["labels"] = torch.where(batch["completion_mask"].bool(), ids, IGNORE)
    return {k: batch[k].cpu() for k in ("input_ids", "attention_mask", "labels")}


def data_findings(
    rows: Sequence, eval_rows: Sequence, limit: int | None, tokenizer: Any
) -> Iterator[Finding]:
    """What `PreferenceDataValidator` says, check by check."""
    if not len(rows):
        yield Finding("rows", "error", "no rows", "give the rows you will train on")
        return
    size = len(rows) + len(eval_rows)
    splits = ["train"] * len(rows) + ["eval"] * len(eval_rows)
    validator = PreferenceDataValidator([*rows, *eval_rows], splits)
    report = validator.full_report(limit, tokenizer)
    texts = string_rows(rows, tokenizer), string_rows(eval_rows, tokenizer)
    heads = [{" ".join(r["prompt"].lower().split()) for r in t} for t in texts]
    for check, parts in DATA.items():
        faults = []
        for f in (f for f in report.findings if f.check in parts):
            where = f": {len(f.rows)} of {size} rows, such as {f.rows[:4]}"
            severity, seen = f.severity, f.message + where * bool(f.rows)
            if check == "leakage" and heads[0].isdisjoint(heads[1]):
                severity, seen = "warning", f"nearly so, {seen}"
            faults.append((True, severity, seen, f.remedy))
        looked = len(eval_rows) or check != "leakage"
        fine = f"none in {size} rows" if looked else "not looked for: no eval_rows"
        yield verdict(check, fine, *faults)


def boundary_finding(texts: Sequence[Mapping], tokenizer: Any) -> Finding:
    """Whether prompt and response merge into one token, in up to 256 rows (trap 8)."""
    looked = [(r, side) for r in texts[:: 1 + len(texts) // 256] for side in KEYS[1:]]
    merged = [
        f"{row['prompt'][-12:]}|{row[side][:12]}"
        for row, side in looked
        if boundary_merges(row["prompt"], row[side], tokenizer)
    ]
    seen = f"{len(merged)} of {len(looked)} responses merge with their prompt"
    todo = "end prompts on a token boundary (no trailing space), or tokenise apart"
    such = f"{seen}, such as {merged[:1]}"
    return verdict("boundary", seen, (merged, "warning", such, todo))


def batch_findings(
    batch: Batch, texts: Sequence[Mapping], tokenizer: Any
) -> Iterator[Finding]:
    """EOS, BOS, padding and what is scored, in a batch with `labels`: traps 9 to 14."""
    ids, mask = batch["input_ids"], batch["attention_mask"].bool()  # (2B, T)
    scored = batch["labels"] != IGNORE
    yield _eos(ids, mask & scored, tokenizer)
    yield _bos(ids, mask, tokenizer)
    pads, todo = int((scored & ~mask).sum()), "set tokenizer.pad_token, to EOS say"
    none = (tokenizer.pad_token_id is None, "error", "no padding token", todo)
    some = (pads, "error", f"{pads} are scored", UNMASK.format("padding"))
    yield verdict("pads", f"{int((~mask).sum())}, none scored", some, none)
    yield _scored(ids, mask, scored, texts, tokenizer)


def _eos(ids: Tensor, scored: Tensor, tokenizer: Any) -> Finding:
    """EOS scored in each response, once; with pad = EOS the mask may have lost it."""
    eos, size = tokenizer.eos_token_id, len(ids)
    counts = ((ids == eos) & scored).sum(1) if eos is not None else torch.ones(size)
    none, more = int((counts == 0).sum()), int((counts > 1).sum())
    todo = "append EOS; see that max_length does not cut it off"
    if eos == tokenizer.pad_token_id:
        todo += "; mask padding by length and not by id, for here pad is EOS"
    once = "let either the template or the trainer add EOS, not both"
    return verdict(
        "eos",
        f"scored once in each of {size} responses",
        (eos is None, "error", "no EOS token", "set tokenizer.eos_token"),
        (none, "error", f"not scored in {none} of {size} responses", todo),
        (more, "warning", f"scored more than once in {more} of {size}", once),
    )


def _bos(ids: Tensor, mask: Tensor, tokenizer: Any) -> Finding:
    """BOS at the start once, where the tokenizer itself puts one (trap 10)."""
    bos, adds = tokenizer.bos_token_id, tokenizer("a")["input_ids"][:1]
    starts = [row[m][:2].tolist() for row, m in zip(ids, mask, strict=True)]
    twice = sum(start == [bos, bos] for start in starts)
    none = sum(start[:1] != [bos] == adds for start in starts)
    todo = "the template writes it: tokenise with add_special_tokens=False"
    again = (twice, "error", f"twice in {twice} of {len(ids)} prompts", todo)
    less = (none, "warning", f"missing in {none} prompts", "add_special_tokens=True")
    return verdict("bos", "once" if adds == [bos] else "not used", again, less)


def _scored(
    ids: Tensor, mask: Tensor, scored: Tensor, texts: Sequence, tokenizer: Any
) -> Finding:
    """Something scored in each row, and nothing of the prompt (traps 13 and 14)."""

    def bare(text: str) -> str:
        start, end = tokenizer.bos_token or "", tokenizer.eos_token or ""
        return text.removeprefix(start).removesuffix(end)

    known = {bare(r["prompt"] + r[k]): bare(r[k]) for r in texts for k in KEYS[1:]}
    prompts = 0
    for row, m, s in zip(ids, mask, scored & mask, strict=True):
        whole, part = (bare(tokenizer.decode(row[keep])) for keep in (m, s))
        longer = part != (answer := known.get(whole, part)) and part.endswith(answer)
        prompts += longer or bool(s[m][:1].any())  # nothing predicts a first token
    empty = (~scored[:, 1:].any(1)).nonzero().flatten().tolist()
    todo = "drop these rows, or raise the length that truncates them"
    none = (empty, "error", f"nothing, in rows {empty} of the batch", todo)
    more = (prompts, "error", f"prompts too: {prompts} rows", UNMASK.format("prompts"))
    return verdict("scored", "responses only", none, more)
