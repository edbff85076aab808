"""Checks before the first step, of any trainer's set-up: ours, TRL's, your own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from math import log
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from . import findings
from .data import PreferencePair
from .findings import Batch, Finding, Findings, verdict, with_labels
from .losses import compute_log_probs, dpo_loss

TOLERANCE = 1e-2  # nats, of a model's log-prob against its own; `TinyDPOTrainer`'s too


def preflight(
    model: Any,
    reference: Any,
    tokenizer: Any,
    rows: Sequence,
    *,
    eval_rows: Sequence = (),
    max_length: int | None = None,
    beta: float = 0.1,
    batch: Mapping[str, Tensor] | None = None,
    bf16: bool | None = None,
) -> Findings:
    """All that can be checked before a step, as a list of `Finding`s.

    `reference` None stands for what a trainer then takes: a PEFT policy's adapter "ref"
    if it has one, or that policy with adapters off; else a copy of the policy. `batch`
    is as the trainer's data loader gives it: `input_ids`, `attention_mask`, and
    `labels` (-100 where not scored) or TRL's `completion_mask`; without it the first
    rows are tokenised as `TinyDPOTrainer` does. `max_length` is in tokens, else the
    model's; `bf16` is the trainer's setting, else it goes by the policy's weights.
    Faults of data and models are findings; TypeError or ValueError is for an argument
    that is something else altogether.
    """
    _check_arguments(model, reference, [*rows, *eval_rows], batch)
    limit = max_length or getattr(model.config, "max_position_embeddings", None)
    texts = findings.string_rows(rows, tokenizer)
    given = findings.own_batch(texts, tokenizer, limit) if batch is None else batch
    found, trl = Findings(), "completion_mask" in (batch or ())
    with _as_it_was(model, reference):
        if given is None:
            found += [Finding("first loss", "error", "no row could be tokenised", "")]
        else:
            found += _loss_findings(model, reference, given, beta)
            found += findings.batch_findings(with_labels(given), texts, tokenizer)
    found += [_reference(model, reference, trl), _dtype(model, reference, bf16)]
    found += [*_weights(model, reference), findings.boundary_finding(texts, tokenizer)]
    found += findings.data_findings(rows, eval_rows, limit, tokenizer)
    return found


def _check_arguments(model, reference, rows, batch) -> None:
    odd = [x for x in rows if not isinstance(x, Mapping | PreferencePair)]
    models = [model, model if reference is None else reference]
    odd += [x for x in models if not isinstance(x, torch.nn.Module)]
    if odd:
        want = "expected models, and PreferencePairs or mappings as rows"
        raise TypeError(f"there is a {type(odd[0]).__name__}: {want}")
    if batch is not None:
        masks = {"labels", "completion_mask"} & set(batch)
        whole = masks and {"input_ids", "attention_mask"} <= set(batch)
        if not whole or len(batch["input_ids"]) % 2:
            want = "input_ids, attention_mask, labels or completion_mask: chosen rows"
            raise ValueError(f"batch has {sorted(batch)}, expected {want} + rejected")


@contextmanager
def _as_it_was(*models) -> Iterator[None]:
    """No gradients within; modes, gradient flags and random state come back after."""
    parts = [part for model in models if model is not None for part in model.modules()]
    weights = [p for part in parts for p in part.parameters(recurse=False)]
    were = [(part, "training", part.training) for part in parts]
    were += [(p, "requires_grad", p.requires_grad) for p in weights]
    devices = {p.device for p in weights if p.device.type == "cuda"}
    try:
        with torch.no_grad(), torch.random.fork_rng(devices):
            yield
    finally:
        for item, name, value in were:
            setattr(item, name, value)


def _loss_findings(model, reference, given: Batch, beta: float) -> Iterator[Finding]:
    """The first loss as the trainer will see it, and dropout (trap 11)."""
    batch = with_labels(given)
    try:
        _check_ids(model, batch["input_ids"])
        trains = model.training or "completion_mask" in given  # TRL calls train()
        noisy = compute_log_probs(model.train(), **batch).cpu()  # (2B,)
        quiet = compute_log_probs(model.eval(), **batch).cpu()
        then = _reference_log_probs(model, reference, given, batch)
    except (IndexError, RuntimeError, ValueError) as error:
        seen = f"no forward pass: {str(error).splitlines()[0]}"
        yield Finding("first loss", "error", seen, "mend this before anything else")
        return
    now, other = (noisy, quiet) if trains else (quiet, noisy)
    gap, noise = ((now - x).abs().max().item() for x in (then, other))
    loss = dpo_loss(*now.chunk(2), *then.chunk(2), beta=beta)[0].mean().item()
    seen = f"{loss:.4f} (ln 2 is {log(2):.4f}), log-ratios up to {gap:.2g} nats"
    todo = "policy and reference differ: see below"
    todo = "reference.eval()" if getattr(reference, "training", False) else todo
    yield verdict("first loss", seen, (not gap <= TOLERANCE, "error", seen, todo))
    moves = f"log-probs move by up to {noise:.2g} nats"
    off = f"off in eval mode; in train mode {moves}" if noise > TOLERANCE else "off"
    todo = "set it to 0 (TRL: disable_dropout=True), or train in eval mode"
    yield verdict("dropout", off, (trains and noise > TOLERANCE, "error", moves, todo))


def _check_ids(model, ids: Tensor) -> None:
    """Said here, since on a GPU these two end in an assertion that stops everything."""
    (_, length), last = ids.shape, int(ids.max())
    places = getattr(model.config, "max_position_embeddings", None) or length
    words = model.get_input_embeddings().num_embeddings
    if length > places or last >= words:
        seen = f"rows of {length} tokens with ids up to {last}"
        raise ValueError(f"{seen}: the model takes {places} tokens of {words} kinds")


def _reference_log_probs(model, reference, given: Batch, batch: Batch) -> Tensor:
    """(2B,): of the reference, or of what stands for it (trap 15)."""
    ahead = [given.get(f"ref_{side}_logps") for side in ("chosen", "rejected")]
    if ahead[0] is not None:  # TRL's precompute_ref_log_probs
        return torch.cat(ahead).cpu().float()
    if reference is not None:
        return compute_log_probs(reference, **batch).cpu()
    if not isinstance(model, PeftModel):
        return compute_log_probs(model.eval(), **batch).cpu()
    active, frozen = model.active_adapter, "ref" in model.peft_config
    with nullcontext() if frozen else model.disable_adapter():
        model.set_adapter("ref" if frozen else active)
        then = compute_log_probs(model.eval(), **batch).cpu()
    model.set_adapter(active)
    return then


def _reference(model, reference, trl: bool) -> Finding:
    """Whether the reference is there and can stay what it is (traps 15 and 16)."""
    if reference is None:
        path = getattr(model.config, "_name_or_path", "")
        fine = f"a copy of the policy, which TRL loads from {Path(path).name}"
        if peft := isinstance(model, PeftModel):
            fine = "the policy, adapters off or by its adapter 'ref'"
        todo = "save the model and load it from there, or give TRL a ref_model"
        seen, lost = "none, and no path to load it from", not (path or peft or trl)
        lost = (lost, "warning", seen, todo)
        return verdict("reference", f"none given: {fine}", lost)
    moving = {p.data_ptr() for p in model.parameters() if p.requires_grad} - {0}
    shared = any(p.data_ptr() in moving for p in reference.parameters())
    asks = not trl and any(p.requires_grad for p in reference.parameters())
    todo = "give a copy.deepcopy, made before any adapter is put in"
    freeze = "reference.requires_grad_(False)"  # TRL runs it without gradients
    share = (shared, "error", "shares weights that will be trained", todo)
    ask = (asks, "warning", "its weights ask for gradients", freeze)
    return verdict("reference", "a model of its own", share, ask)


def _weights(model, reference) -> Iterator[Finding]:
    """Something to train; LoRA put on once, over a merged base (trap 15)."""
    total, moving = (model.num_parameters(only_trainable=x) for x in (False, True))
    todo = "model.requires_grad_(True), or load the adapter with is_trainable=True"
    seen = f"{moving} of {total} parameters"
    yield verdict("trainable", seen, (not moving, "error", seen, todo))
    if not isinstance(model, PeftModel):
        return
    moved = any(p.any() for n, p in model.named_parameters() if "lora_B" in n)
    bare = moved and reference is None and "ref" not in model.peft_config
    todo = "merge_and_unload() the SFT adapter first, then add a new one"
    seen = "trained already: with adapters off the reference is the base without them"
    base = (bare, "error", seen, todo)
    loaded = getattr(inner := model.get_base_model(), "_hf_peft_config_loaded", False)
    over = (loaded, "error", "put over one that the model had: it is lost", todo)
    todo = "either get_peft_model or the trainer's peft_config, not both"
    twice = (isinstance(inner, PeftModel), "error", "put on twice", todo)
    yield verdict("adapters", ", ".join(model.peft_config), twice, over, base)


def _dtype(model, reference, bf16: bool | None) -> Finding:
    """Precision of policy, reference and device (trap 21)."""
    mine, other = model.dtype, (model if reference is None else reference).dtype
    halves = {torch.float16, torch.bfloat16}
    half = halves & {p.dtype for p in model.parameters() if p.requires_grad}
    asked = mine == torch.bfloat16 if bf16 is None else bf16
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    load = "load in float32 and let the trainer's bf16 do the mixing"
    seen = "bf16 asked, and no CUDA device here has it, unless by imitation"
    unlike = (mine != other, "warning", f"policy {mine}, reference {other}", load)
    coarse = (half, "warning", f"trained {half} weights lose small updates", load)
    slow = (asked and not native, "warning", seen, "bf16=False")
    return verdict("dtype", str(mine), unlike, coarse, slow)
