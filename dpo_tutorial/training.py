"""DPO's training loop, readable (Rafailov et al. 2023, arXiv 2305.18290).

Metric names are TRL's; `logps/*` are sums per sequence, in nats. The policy stays in
eval mode: dropout would make it differ from its own reference at the first step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW
from tqdm.auto import trange
from transformers import get_linear_schedule_with_warmup

from . import written_whole
from .data import collate, tokenize_pair
from .losses import IGNORE, compute_log_probs, dpo_loss
from .models import shuffled

_STATEFUL = ("model", "adam", "schedule")


@dataclass(eq=False)
class TinyDPOTrainer:
    """DPO's loop in the open: one policy, a frozen reference, a history.

    `model` is the policy, trained in place; `rows` are string rows or
    `PreferencePair`s. `reference` is a second model, or none: the policy as it is now.
    Either way its log-probabilities are computed once, ahead. A step takes
    `accumulation` batches of `batch_size` pairs; `history` gets a row a step and, every
    `eval_every` steps, one of `eval_*` over `eval_rows`; `on_log` is called with each.
    `average_log_probs` divides log-probs by the responses' tokens before the loss, and
    `loss` takes `dpo_loss`'s place: four (B,) log-probs in, its three tensors out.
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
        batches = [collate(b, self.tokenizer.pad_token_id) for b in self._batches(ids)]
        logps = [compute_log_probs(frozen, **b).cpu().view(2, -1).T for b in batches]
        return ids, torch.cat([torch.empty(0, 2), *logps])

    def _batches(self, ids: list[dict]) -> list[list[dict]]:
        size = self.batch_size
        return [ids[i : i + size] for i in range(0, len(ids), size)]

    def train(self, until: int | None = None) -> list[dict[str, float]]:
        """Run to the last step, or to step `until`; returns the history."""
        done = self.step * self.batch_size * self.accumulation
        order = shuffled(len(self.train_ids), self.seed, done)
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

    def _backward(self, step: int, order: Iterator[int]) -> dict[str, Tensor]:
        """Add the next batch's gradients; its metrics, detached."""
        picked = list(islice(order, self.batch_size))
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
        batch = collate(rows, self.tokenizer.pad_token_id)  # (2B, T)
        chosen, rejected = compute_log_probs(self.model, **batch).chunk(2)  # (B,) each
        logps = [chosen, rejected, *reference.to(chosen.device).unbind(1)]  # (B,) each
        if self.average_log_probs:
            counts = (batch["labels"] != IGNORE).sum(1).to(chosen.device).chunk(2)
            logps = [x / n for x, n in zip(logps, counts * 2, strict=True)]
        options = {
            k: getattr(self, k) for k in ("beta", "label_smoothing", "loss_type")
        }
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
        if step == 1 and self.reference is None and gap > 1e-2:
            remedy = "the policy differs from its own reference; is dropout on?"
            raise RuntimeError(f"the first log-ratios reach {gap}, not 0: {remedy}")

    def _settings(self) -> dict[str, Any]:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {k: v for k, v in values.items() if isinstance(v, (int, float, str))}

    def save(self, folder: str | Path) -> None:
        """Write what `resume` needs to `folder`/state.pt, whole or not at all."""
        state = {part: getattr(self, part).state_dict() for part in _STATEFUL}
        state["settings"] = self._settings()
        state["references"] = [self.train_reference, self.eval_reference]
        state["progress"] = [self.step, self.history]
        with written_whole(Path(folder) / "state.pt") as scratch:
            torch.save(state, scratch)

    def resume(self, folder: str | Path) -> None:
        """Take up the run `save` left in `folder`; ValueError if it was another one."""
        state = torch.load(Path(folder) / "state.pt", weights_only=True)
        if state["settings"] != self._settings():
            seen = f"{folder} holds a run with {state['settings']}"
            raise ValueError(f"{seen}: make the trainer with those settings")
        for part in _STATEFUL:
            getattr(self, part).load_state_dict(state[part])
        self.train_reference, self.eval_reference = state["references"]
        self.step, self.history = state["progress"]


def _mean(parts: list[dict[str, Tensor]]) -> dict[str, float]:
    return {k: torch.cat([p[k] for p in parts]).mean().item() for k in parts[0]}
