"""What makes a DPO step cheaper, each an argument that can be turned off again.

Prefix sharing: arXiv 2410.20305. All here leave every log-probability and every
gradient as it was, up to the rounding of sums; what a gain is worth,
`benchmarks/step.py` measures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.activations import GELUTanh, NewGELUActivation

from .data import pad_rows
from .losses import IGNORE, compute_log_probs
from .sharing import SIDES, Layout, Row, shared_prompts

LOGITS = ("all", "responses", "chunks")
CHUNK = 64  # positions whose logits exist at a time
_SCALES = ("final_logit_softcapping", "logit_scale", "logits_scaling")
_SCALES += ("output_multiplier", "lm_head_multiplier")


def preference_log_probs(
    model: Any,
    rows: Sequence[Row],
    pad_token_id: int,
    *,
    concatenate: bool = True,
    logits: str = "responses",
    share_prompt: bool = False,
    pad_to: int = 0,
) -> Tensor:
    """Log-probs of B chosen, then of B rejected responses, summed: (2B,), in nats.

    `rows` are B rows of `data.tokenize_pair`. The defaults are `compute_log_probs` of
    `collate`; each argument changes what it costs and not what it is:

    - `concatenate`: one forward for both sides; else one for each;
    - `logits`: at "all" positions; at those where some row has a response
      ("responses"); or one by one, `CHUNK` at a time ("chunks"), and made again in the
      backward pass, which is memory for time;
    - `share_prompt`: a row is prompt, chosen, rejected, its prompt encoded once (see
      `shared_prompts`); a forward takes both sides, so `concatenate` stays True;
    - `pad_to`: rows get at least this many tokens, where prompts are not shared.

    Raises ValueError for arguments that are not among these or exclude one another, for
    `share_prompt` with a model whose attention takes no mask of ours or no positions,
    and for "chunks" of a model that scales its logits.
    """
    _check(concatenate, logits, share_prompt, pad_to)
    if share_prompt:
        return _summed(model, shared_prompts(rows, pad_token_id, model), logits)
    sides = [[(row["prompt_ids"], row[side]) for row in rows] for side in SIDES]
    parts = [sides[0] + sides[1]] if concatenate else sides
    batches = [_padded(pad_rows(part, pad_token_id), pad_to) for part in parts]
    if logits == "responses":
        return torch.cat([compute_log_probs(model, **batch) for batch in batches])
    return torch.cat([_summed(model, _plain(batch), logits) for batch in batches])


def _padded(batch: dict[str, Tensor], length: int) -> dict[str, Tensor]:
    """The batch with at least `length` columns; padding is never scored or seen."""
    more = max(0, length - batch["labels"].shape[1])
    fill = {"input_ids": 0, "attention_mask": 0, "labels": IGNORE}
    return {k: F.pad(v, (0, more), value=fill[k]) for k, v in batch.items()}


def _plain(batch: dict[str, Tensor]) -> Layout:
    """A row to a response: position t predicts token t + 1."""
    inputs = {k: v for k, v in batch.items() if k != "labels"}
    targets = batch["labels"][:, 1:]  # (R, T-1)
    row, place = (targets != IGNORE).nonzero(as_tuple=True)  # (N,) each
    return Layout(inputs, row, place, targets[row, place], owner=row)


def _summed(model: Any, layout: Layout, logits: str) -> Tensor:
    """Log-probs of the layout's tokens, summed by their owner."""
    device = next(model.parameters()).device
    inputs = {k: v.to(device) for k, v in layout.inputs.items()} | {"use_cache": False}
    row, place, target, owner = (x.to(device) for x in layout[1:])
    if logits == "chunks":
        logps = _chunked(model, inputs, row, place, target)
    else:
        everywhere = torch.arange(inputs["input_ids"].shape[1], device=device)
        keep = everywhere if logits == "all" else place.unique()  # (K,), sorted
        found = model(**inputs, logits_to_keep=keep).logits  # (R, K, V)
        at = torch.searchsorted(keep, place.contiguous())
        logps = found.float().log_softmax(-1)[row, at, target]  # (N,)
    return logps.new_zeros(int(owner.max()) + 1).index_add(0, owner, logps)


def _chunked(model: Any, inputs: dict, row: Tensor, place: Tensor, target: Tensor):
    """(N,): the head sees the scored positions alone, a few at a time."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    scaled = [k for k in _SCALES if getattr(base.config, k, None) not in (None, 1.0)]
    if scaled:
        raise ValueError(f"logits='chunks': {scaled} scale the logits: use 'responses'")
    hidden = base.base_model(**inputs).last_hidden_state[row, place]  # (N, H)
    head, chunks = (
        base.get_output_embeddings(),
        zip(hidden.split(CHUNK), target.split(CHUNK), strict=True),
    )
    options = {"use_reentrant": False, "preserve_rng_state": False}
    return torch.cat([checkpoint(_picked, head, *c, **options) for c in chunks])


def _picked(head: nn.Module, hidden: Tensor, target: Tensor) -> Tensor:
    logps = head(hidden).float().log_softmax(-1)  # (n, V)
    return logps.gather(1, target[:, None])[:, 0]


def bucketed(
    rows: Sequence[Row], batch_size: int, seed: int, start: int = 0
) -> Iterator[list[int]]:
    """Batches of indices of rows of like length, for ever; skips the first `start`.

    An epoch has every row once, in another order each time, and one smaller batch if
    `batch_size` does not divide the rows. Which pairs meet in a batch depends on
    length, so a step's loss differs from that of batches drawn at random.
    """
    lengths = [len(r["prompt_ids"]) + max(len(r[side]) for side in SIDES) for r in rows]
    cuts = range(0, len(rows), batch_size)
    epoch, skip = divmod(start, len(cuts))
    while True:
        generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
        order = torch.randperm(len(rows), generator=generator).tolist()
        order.sort(key=lengths.__getitem__)  # equal lengths stay shuffled
        for i in torch.randperm(len(cuts), generator=generator).tolist()[skip:]:
            yield order[cuts[i] : cuts[i] + batch_size]
        epoch, skip = epoch + 1, 0


def fuse_gelu(model: nn.Module) -> int:
    """Compute GPT-2's `gelu_new` in one kernel and not in eight; how many there were.

    The same formula, so that weights need no other: of eight tensors that the backward
    pass keeps, one is left. Changes the model in place.
    """
    found = [
        module
        for module in model.modules()
        if isinstance(dict(module.named_children()).get("act"), NewGELUActivation)
    ]
    for module in found:
        module.act = GELUTanh()
    return len(found)


def _check(concatenate: bool, logits: str, share_prompt: bool, pad_to: int) -> None:
    if logits not in LOGITS:
        raise ValueError(f"logits is {logits!r}: expected one of {LOGITS}")
    if share_prompt and (pad_to or not concatenate):
        seen = f"share_prompt with concatenate={concatenate}, pad_to={pad_to}"
        raise ValueError(f"{seen}: expected True and 0, a row holds both responses")
