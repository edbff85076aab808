"""Prefix sharing: a prompt encoded once for both responses (arXiv 2410.20305)."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

Row = Mapping[str, list[int]]  # of `data.tokenize_pair`
SIDES = ("chosen_ids", "rejected_ids")


class Layout(NamedTuple):
    """What a model is given, and where the N scored tokens are predicted."""

    inputs: dict[str, Tensor]  # input_ids (R, T), its mask and perhaps its positions
    row: Tensor  # (N,), of the R rows
    place: Tensor  # (N,), the position whose logits predict the token
    target: Tensor  # (N,), the token
    owner: Tensor  # (N,), the response that it belongs to


def shared_prompts(rows: Sequence[Row], pad_token_id: int, model: Any) -> Layout:
    """B rows of prompt, chosen, rejected: each prompt once (arXiv 2410.20305).

    A response sees its prompt and itself, and counts its positions from the prompt's
    end, as if it stood alone. The prompt's last token predicts both first tokens; the
    last token of a response predicts none and is left out. Rows are padded on the left,
    so that the responses of all rows lie over one another.
    """
    places = [_places(*(row[k] for k in ("prompt_ids", *SIDES))) for row in rows]
    length = max(len(ids) for ids, *_ in places)  # T
    input_ids = torch.full((len(rows), length), pad_token_id)
    part, position = torch.full_like(input_ids, -1), torch.zeros_like(input_ids)
    scored = []
    for i, (ids, parts, positions, sources) in enumerate(places):
        start = length - len(ids)
        input_ids[i, start:] = torch.tensor(ids)
        part[i, start:] = torch.tensor(parts)
        position[i, start:] = torch.tensor(positions)
        for k, side in enumerate(SIDES):
            owner = i + k * len(rows)
            ends = zip(sources[k], rows[i][side], strict=True)
            scored += [(i, start + place, token, owner) for place, token in ends]
    inputs = {"input_ids": input_ids, "position_ids": position}
    inputs["attention_mask"] = _as_taken(_seen(part), model)
    return Layout(inputs, *torch.tensor(scored).unbind(1))


def _places(
    prompt: list, chosen: list, rejected: list
) -> tuple[list, list, list, list]:
    """Of one row: ids, part of each (0, 1, 2), position, sources of both responses."""
    p, c, r = len(prompt), len(chosen) - 1, len(rejected) - 1  # last tokens left out
    ids = [*prompt, *chosen[:-1], *rejected[:-1]]
    parts = [0] * p + [1] * c + [2] * r
    positions = [*range(p), *range(p, p + c), *range(p, p + r)]
    last = p - 1  # of the prompt
    sources = [[last, *range(p, p + c)], [last, *range(p + c, p + c + r)]]
    return ids, parts, positions, sources


def _seen(part: Tensor) -> Tensor:
    """(B, 1, T, T): may token q see token k? Yes if k is of its part or the prompt."""
    q, k = part[:, :, None], part[:, None, :]
    earlier = torch.ones(part.shape[1], part.shape[1], dtype=torch.bool).tril()
    itself = torch.eye(part.shape[1], dtype=torch.bool)  # so that no row is empty
    return (((k == 0) | (k == q)) & (k >= 0) & earlier | itself)[:, None]


def _as_taken(seen: Tensor, model: Any) -> Tensor:
    """The mask in the form that the model's attention takes; ValueError if in none."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    kind = base.config._attn_implementation
    if kind not in ("sdpa", "eager"):
        raise ValueError(f"share_prompt: attention is {kind!r}, expected 'sdpa'")
    if "position_ids" not in inspect.signature(base.forward).parameters:
        name = type(base).__name__
        raise ValueError(f"share_prompt: {name} takes no position_ids: turn it off")
    if kind == "sdpa":
        return seen
    low = torch.finfo(base.dtype).min  # eager attention adds the mask
    return torch.zeros_like(seen, dtype=base.dtype).masked_fill(~seen, low)
