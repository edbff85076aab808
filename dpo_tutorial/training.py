"""DPO's training loop, readable (Rafailov et al. 2023, arXiv 2305.18290).

Metric names are TRL's; `logps/*` are sums per sequence, in nats. The policy stays in
eval mode: dropout would make it differ from its own reference at the first step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW
from tqdm.auto import trange
from transformers import get_linear_schedule_with_warmup

from .checkpoint import Resumable
from .data import collate, tokenize_pair
from .losses import IGNORE, compute_log_probs, dpo_loss
from .models import shuffled
from .speed import bucketed, preference_log_probs


@dataclass(eq=False)
class TinyDPOTrainer(Resumable):
    """DPO's loop in the open: one policy, a frozen reference, a history.

    `model` is the policy, trained in place; `rows` are string rows or
    `PreferencePair`s. `reference` is a second model, or none: the policy as it is now.
    Either way its log-probabilities are computed once, ahead. A step takes
    `accumulation` batches of `batch_size` pairs; `history` gets a row a step and, every
    `eval_every` steps, one of `eval_*` over `eval_rows`; `on_log` is called with each.
    `average_log_probs` divides log-probs by the responses' tokens before the loss, and
    `loss` takes `dpo_loss`'s place: four (B,) log-probs in, its three tensors out.
    The last five are for speed: `share_prompt` and `logits` are those of
    `speed.preference_log_probs`; `bucket` makes batches of pairs of like length;
    `fused` takes AdamW in one kernel; `autocast` lowers precision, and so is not exact.
    Raises ValueError for bad rows, before any step; RuntimeError if the first
    log-ratios are not zero; FloatingPointError if the loss is not finite.
    """

    model: Any
    tokenizer: Any
    rows: Sequence
    reference: Any = None
    beta: float = 0.1
    loss_type: str = "sigmoid"
    label_smoothing: float = 0.0
    steps: int = 60
    batch_size: int = 32
    accumulation: int = 1
    learning_rate: float = 5e-4
    adam_epsilon: float = 1e-8
    warmup: float = 0.1
    max_grad_norm: float = 1.0
    max_length: int | None = None
    average_log_probs: bool = False
    loss: Callable[..., tuple[Tensor, Tensor, Tensor]] | None = None
    eval_rows: Sequence = ()
    eval_every: int = 0
    seed: int = 0
    on_log: Callable[[dict], None] | None = None
    share_prompt: bool = False
    logits: str = "responses"
    bucket: bool = False
    fused: bool = False
    autocast: torch.dtype | None = None

    def __post_init__(self) -> None:
        if self.reference is self.model:
            raise ValueError("reference is the policy itself: give a copy, or none")
        if not len(self.rows):
            raise ValueError("0 rows: expected at least one preference pair")
        self.model.eval()
        if self.reference is not None:
            self.reference.eval().requires_grad_(False)
        self.train_ids, self.train_reference = self._prepare(self.rows)
        self.eval_ids, self.eval_reference = self._prepare(self.eval_rows)
        self.trainable = [p for p in self.model.parameters() if p.requires_grad]
        options = {"eps": self.adam_epsilon, "weight_decay": 0.0}
        options |= {"fused": True} if self.fused else {}
        self.adam = AdamW(self.trainable, lr=self.learning_rate, **options)
        warm = math.ceil(self.warmup * self.steps)
        self.schedule = get_linear_schedule_with_warmup(self.adam, warm, self.steps)
        self.history: list[dict[str, float]] = []
        self.step = 0

    @torch.no_grad()
    def _prepare(self, rows: Sequence) -> tuple[list[dict], Tensor]:
        """Token ids, and the reference's log-probs of chosen and rejected: (n, 2)."""
        ids = [tokenize_pair(row, self.tokenizer, self.max_length) for row in rows]
        frozen = self.reference or self.model
        logps = [self._log_probs(frozen, b).view(2, -1).T for b in self._batches(ids)]
        return ids, torch.cat([torch.empty(0, 2), *(x.cpu() for x in logps)])

    def _batches(self, ids: list[dict]) -> list[list[dict]]:
        size = self.batch_size
        return [ids[i : i + size] for i in range(0, len(ids), size)]

    def _log_probs(self, model: Any, rows: list[dict]) -> Tensor:
        """Of the chosen, then of the rejected responses: (2B,)."""
        pad, kind = self.tokenizer.pad_token_id, next(model.parameters()).device.type
        low = self.autocast
        with torch.autocast(kind, low) if low is not None else nullcontext():
            if self.share_prompt or self.logits != "responses":
                ways = {"share_prompt": self.share_prompt, "logits": self.logits}
                return preference_log_probs(model, rows, pad, **ways)
            return compute_log_probs(model, **collate(rows, pad))

    def _order(self) -> Iterator[list[int]]:
        """The batches to come, for ever."""
        size, done = self.batch_size, self.step * self.accumulation
        if self.bucket:
            return bucketed(self.train_ids, size, self.seed, done)
        order = shuffled(len(self.train_ids), self.seed, done * size)
        return (list(islice(order, size)) for _ in count())

    def train(self, until: int | None = None) -> list[dict[str, float]]:
        """Run to the last step, or to step `until`; returns the history."""
        order = self._order()
        last = min(until or self.steps, self.steps)
        for step in trange(self.step + 1, last + 1, desc="DPO", leave=False):
            parts = [self._backward(step, order) for _ in range(self.accumulation)]
            updates = self._update()
            self.step, logs = step, [{**_mean(parts), **updates}]
            if self.eval_every and step % self.eval_every == 0:
                logs.append({f"eval_{k}": v for k, v in self.evaluate().items()})
            for log in logs:
                self.history.append({"step": step, **log})
                if self.on_log:
                    self.on_log(self.history[-1])
        return self.history

    def _backward(self, step: int, order: Iterator[list[int]]) -> dict[str, Tensor]:
        """Add the next batch's gradients; its metrics, detached."""
        picked = next(order)
        rows = [self.train_ids[i] for i in picked]
        metrics = self._metrics(rows, self.train_reference[picked])
        self._check(step, metrics, self.train_reference[picked, 0])
        (metrics["loss"].mean() / self.accumulation).backward()
        return {name: value.detach() for name, value in metrics.items()}

    def _update(self) -> dict[str, float]:
        """One optimiser step on the gradients at hand."""
        norm = clip_grad_norm_(self.trainable, self.max_grad_norm).item()
        rate = self.schedule.get_last_lr()[0]
        self.adam.step()
        self.schedule.step()
        self.adam.zero_grad()
        return {"grad_norm": norm, "learning_rate": rate}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """The metrics over `eval_rows` (at least one), for the policy as it is."""
        references = self.eval_reference.split(self.batch_size)
        both = zip(self._batches(self.eval_ids), references, strict=True)
        return _mean([self._metrics(*batch) for batch in both])

    def _metrics(self, rows: list[dict], reference: Tensor) -> dict[str, Tensor]:
        """Loss, with its gradient, and metrics of a batch: each (B,)."""
        chosen, rejected = self._log_probs(self.model, rows).chunk(2)  # (B,) each
        logps = [chosen, rejected, *reference.to(chosen.device).unbind(1)]  # (B,) each
        if self.average_log_probs:
            batch = collate(rows, self.tokenizer.pad_token_id)  # (2B, T)
            counts = (batch["labels"] != IGNORE).sum(1).to(chosen.device).chunk(2)
            logps = [x / n for x, n in zip(logps, counts * 2, strict=True)]
        names = ("beta", "label_smoothing", "loss_type")
        options = {name: getattr(self, name) for name in names}
        losses, won, lost = (self.loss or partial(dpo_loss, **options))(*logps)
        return {
            "loss": losses,
            "rewards/chosen": won,
            "rewards/rejected": lost,
            "rewards/accuracies": (won > lost).float(),
            "rewards/margins": won - lost,
            "logps/chosen": chosen,
            "logps/rejected": rejected,
        }

    def _check(self, step: int, metrics: dict[str, Tensor], reference: Tensor) -> None:
        """Stop before an update that would go wrong."""
        gap = (metrics["logps/chosen"].detach().cpu() - reference).abs().max()
        if not torch.isfinite(loss := metrics["loss"].mean()):
            seen = f"the loss is {loss} at step {step}"
            raise FloatingPointError(f"{seen}: lower the learning rate")
        near = 1e-2 if self.autocast is None else 1.0  # nats; bf16 keeps 8 bits
        if step == 1 and self.reference is None and gap > near:
            remedy = "the policy differs from its own reference; is dropout on?"
            raise RuntimeError(f"the first log-ratios reach {gap}, not 0: {remedy}")


def _mean(parts: list[dict[str, Tensor]]) -> dict[str, float]:
    return {k: torch.cat([p[k] for p in parts]).mean().item() for k in parts[0]}
