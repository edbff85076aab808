"""DPO's training loop, readable (Rafailov et al. 2023, arXiv 2305.18290).

Metric names are TRL's; `logps/*` are sums per sequence, in nats. The policy stays in
eval mode: dropout would make it differ from its own reference at the first step.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW
from tqdm.auto import trange
from transformers import get_linear_schedule_with_warmup

from .data import collate, tokenize_pair
from .losses import compute_log_probs, dpo_loss


def shuffled(n: int, seed: int, start: int = 0) -> Iterator[int]:
    """Indices below `n` for ever, each epoch reordered; skips the first `start`."""
    epoch, skip = divmod(start, n)
    while True:
        generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
        yield from torch.randperm(n, generator=generator).tolist()[skip:]
        epoch, skip = epoch + 1, 0


@dataclass(eq=False)
class TinyDPOTrainer:
    """DPO's loop in the open: one policy, a frozen reference, a history.

    `model` is the policy, trained in place; `rows` are string rows or
    `PreferencePair`s. `reference` is a second model; without one it is the policy as it
    is now. Either way its log-probabilities are computed once, ahead, and the loop
    needs no second model. A step takes `accumulation` batches of `batch_size` pairs.
    `beta`, `loss_type` and `label_smoothing` are `dpo_loss`'s. `history` gets a row a
    step and, every `eval_every` steps, one of `eval_*` over `eval_rows`; `on_log` is
    called with each.

    Raises ValueError for bad rows, before any step; RuntimeError if the first margin is
    not zero; FloatingPointError, with the step, if the loss is not finite.
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
    warmup: float = 0.1
    max_grad_norm: float = 1.0
    max_length: int | None = None
    eval_rows: Sequence = ()
    eval_every: int = 0
    seed: int = 0
    on_log: Callable[[dict], None] | None = None

    def __post_init__(self) -> None:
        if self.reference is self.model:
            raise ValueError(
                "reference is the policy itself, which training moves: give a copy "
                "made before, or none, to have its log-probs computed ahead"
            )
        self.model.eval()
        self.train_ids, self.eval_ids = (
            [tokenize_pair(row, self.tokenizer, self.max_length) for row in rows]
            for rows in (self.rows, self.eval_rows)
        )
        self.trainable = [p for p in self.model.parameters() if p.requires_grad]
        self.adam = AdamW(self.trainable, lr=self.learning_rate, weight_decay=0.0)
        warm = math.ceil(self.warmup * self.steps)
        self.schedule = get_linear_schedule_with_warmup(self.adam, warm, self.steps)
        self.history: list[dict[str, float]] = []
        self.step = 0
        frozen = self.reference or self.model
        self.train_reference = self._log_probs_ahead(frozen, self.train_ids)
        self.eval_reference = self._log_probs_ahead(frozen, self.eval_ids)

    @torch.no_grad()
    def _log_probs_ahead(self, frozen, rows: list[dict]) -> Tensor:
        """Log-probs of rows under the frozen reference, chosen and rejected: (n, 2)."""
        frozen.eval()
        parts = [torch.empty(0, 2)]
        for i in range(0, len(rows), self.batch_size):
            batch = collate(rows[i : i + self.batch_size], self.tokenizer.pad_token_id)
            parts.append(compute_log_probs(frozen, **batch).cpu().view(2, -1).T)
        return torch.cat(parts)

    def train(self, until: int | None = None) -> list[dict[str, float]]:
        """Run to the last step, or to step `until`; returns the history."""
        done = self.step * self.batch_size * self.accumulation
        order = shuffled(len(self.train_ids), self.seed, done)
        last = min(until or self.steps, self.steps)
        for step in trange(self.step + 1, last + 1, desc="DPO", leave=False):
            parts = []
            for _ in range(self.accumulation):
                picked = list(islice(order, self.batch_size))
                rows = [self.train_ids[i] for i in picked]
                metrics = self._metrics(rows, self.train_reference[picked])
                self._check(step, metrics)
                (metrics["loss"].mean() / self.accumulation).backward()
                parts.append(metrics)
            updates = self._update()
            self.step = step
            self._log({**_mean(parts), **updates})
            if self.eval_every and step % self.eval_every == 0:
                self._log({f"eval_{k}": v for k, v in self.evaluate().items()})
        return self.history

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
        """The metrics over `eval_rows`, for the policy as it is."""
        starts = range(0, len(self.eval_ids), self.batch_size)
        chunks = [slice(i, i + self.batch_size) for i in starts]
        both = [(self.eval_ids[c], self.eval_reference[c]) for c in chunks]
        return _mean([self._metrics(rows, reference) for rows, reference in both])

    def _metrics(self, rows: list[dict], reference: Tensor) -> dict[str, Tensor]:
        """Loss, with its gradient, and metrics of a batch: each (B,)."""
        batch = collate(rows, self.tokenizer.pad_token_id)  # (2B, T)
        logps = compute_log_probs(self.model, **batch)  # (2B,), from one forward
        chosen, rejected = logps.chunk(2)  # (B,) each
        references = reference.to(logps.device).unbind(1)
        settings = (self.beta, self.label_smoothing, self.loss_type)
        losses, won, lost = dpo_loss(chosen, rejected, *references, *settings)
        return {
            "loss": losses,
            "rewards/chosen": won,
            "rewards/rejected": lost,
            "rewards/accuracies": (won > lost).float(),
            "rewards/margins": won - lost,
            "logps/chosen": chosen,
            "logps/rejected": rejected,
        }

    def _check(self, step: int, metrics: dict[str, Tensor]) -> None:
        """Stop before an update that would go wrong."""
        loss, margin = metrics["loss"].mean(), metrics["rewards/margins"].abs().max()
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss.item()} at step {step}: expected a finite number; "
                "lower the learning rate, or look at the batch"
            )
        if step == 1 and self.reference is None and margin > 1e-3:
            raise RuntimeError(
                f"the first margins reach {margin.item():.4f}, expected 0: the policy "
                "differs from its own reference; is dropout on?"
            )

    def _log(self, metrics: dict[str, float]) -> None:
        self.history.append({"step": self.step, **metrics})
        if self.on_log:
            self.on_log(self.history[-1])

    def _settings(self) -> dict[str, Any]:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {k: v for k, v in values.items() if isinstance(v, (int, float, str))}

    def save(self, folder: str | Path) -> None:
        """Write what `resume` needs to `folder`, whole or not at all."""
        path = Path(folder) / "state.pt"
        path.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "settings": self._settings(),
            "model": self.model.state_dict(),
            "adam": self.adam.state_dict(),
            "schedule": self.schedule.state_dict(),
            "references": [self.train_reference, self.eval_reference],
            "progress": [self.step, self.history],
        }
        torch.save(state, path.with_suffix(".tmp"))
        os.replace(path.with_suffix(".tmp"), path)

    def resume(self, folder: str | Path) -> None:
        """Take up the run `save` left in `folder`; ValueError if it was another one."""
        state = torch.load(Path(folder) / "state.pt", weights_only=True)
        if state["settings"] != self._settings():
            raise ValueError(
                f"{folder} holds a run with {state['settings']}, expected "
                f"{self._state()['settings']}: make the trainer with those settings"
            )
        self.model.load_state_dict(state["model"])
        self.adam.load_state_dict(state["adam"])
        self.schedule.load_state_dict(state["schedule"])
        self.train_reference, self.eval_reference = state["references"]
        self.step, self.history = state["progress"]


def _mean(parts: list[dict[str, Tensor]]) -> dict[str, float]:
    """Means over all examples of some batches' metrics."""
    return {k: torch.cat([p[k] for p in parts]).mean().item() for k in parts[0]}
