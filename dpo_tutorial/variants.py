"""Trials of DPO's variants on `nano`: many losses on the same labels.

The losses are `losses.py`'s, here in one form: functions of `p`, `r` and `n`, each
(2, B), row 0 for the chosen responses and row 1 for the rejected: the policy's and the
reference's summed log-probabilities, in nats, and the numbers of response tokens.
Papers: those of `losses.py`. All of it
works in the worker processes of `experiments.run_all`.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from transformers import get_linear_schedule_with_warmup

from .data import PreferencePair, collate, pad_rows, tokenize_pair
from .experiments import measure
from .losses import (
    IGNORE,
    compute_log_probs,
    dpo_loss,
    ipo_loss,
    orpo_loss,
    simpo_loss,
)
from .models import load_model
from .reviews import (
    Annotator,
    gold_reward,
    preference_pairs,
    prompts,
    sample_review,
)


def _gap(x: Tensor) -> Tensor:
    return x[0] - x[1]  # (2, B) -> (B,)


def _ipo_article(p: Tensor, r: Tensor, n: Tensor, beta: float) -> Tensor:
    return (beta * _gap(p - r) - 1 / (2 * beta)) ** 2


def _orpo_article(p: Tensor, r: Tensor, n: Tensor, beta: float) -> Tensor:
    return -(p / n)[0] - beta * F.logsigmoid(_gap(p / n))


def _dpo(loss_type: str = "sigmoid") -> Callable[..., Tensor]:
    return lambda p, r, n, **o: dpo_loss(*p, *r, loss_type=loss_type, **o)[0]


#: losses by name, (p, r, n, **settings) -> (B,); "…_article": wrong on purpose
LOSSES: dict[str, Callable[..., Tensor]] = {
    "sigmoid": _dpo(),
    "cdpo": _dpo(),  # with a label_smoothing
    "robust": _dpo("robust"),
    "hinge": _dpo("hinge"),
    "ipo": lambda p, r, n, tau: ipo_loss(_gap(p - r), tau),
    "norm": lambda p, r, n, **o: dpo_loss(*p / n, *r / n, **o)[0],
    "simpo": lambda p, r, n, **o: simpo_loss(*p / n, **o),
    "orpo": lambda p, r, n, **o: orpo_loss(*p / n, **o),
    "sft": lambda p, r, n: -(p / n)[0],  # the chosen response's loss per token
    "ipo_article": _ipo_article,
    "orpo_article": _orpo_article,
}


@torch.no_grad()
def prepare(pairs: Sequence, reference, tokenizer, size: int = 16) -> list[tuple]:
    """Batches (batch, r, n) of `size` pairs of similar length, to save padding."""
    rows = [tokenize_pair(pair, tokenizer) for pair in pairs]
    rows.sort(key=lambda row: max(len(row["chosen_ids"]), len(row["rejected_ids"])))
    batches = []
    for start in range(0, len(rows), size):
        batch = collate(rows[start : start + size], tokenizer.pad_token_id)
        n = (batch["labels"] != IGNORE).sum(1).view(2, -1)  # (2, B)
        r = compute_log_probs(reference, **batch).view(2, -1)  # (2, B)
        batches.append((batch, r, n))
    return batches


def updates(
    policy, batches: list, steps: int, learning_rate: float, seed: int
) -> Iterator[Any]:
    """`steps` batches, reshuffled each epoch; an update follows the caller's backward.

    AdamW with `nano`'s large epsilon, linear warm-up and decay, gradients clipped at 1.
    """
    if not batches:
        raise ValueError("no batches: expected what prepare or prepare_thumbs gives")
    options = {"lr": learning_rate, "eps": 1e-3, "weight_decay": 0.0}
    adam = torch.optim.AdamW(policy.parameters(), **options)
    schedule = get_linear_schedule_with_warmup(adam, steps // 10, steps)
    rng, order = random.Random(seed), []
    for _ in range(steps):
        order = order or rng.sample(batches, len(batches))
        yield order.pop()
        clip_grad_norm_(policy.parameters(), 1.0)
        adam.step()
        schedule.step()
        adam.zero_grad()


def fit(policy, batches, loss, steps=32, learning_rate=2e-3, seed=0, **settings):
    """Train `policy` in place by `LOSSES[loss]` with its `settings`; returns it."""
    if loss not in LOSSES:
        raise ValueError(f"loss is {loss!r}: expected one of {', '.join(LOSSES)}")
    for batch, r, n in updates(policy, batches, steps, learning_rate, seed):
        p = compute_log_probs(policy, **batch).view(2, -1)
        LOSSES[loss](p, r, n, **settings).mean().backward()
    return policy


def compare(
    seed: int,
    runs: Mapping[str, Sequence[Mapping]],
    faults: Mapping[str, float] | None = None,
    base: str = "nano",
    code: str = "",
) -> dict[str, dict]:
    """Train a policy for each of `runs` on the same 256 labels: {name: `measure`}.

    A run is a list of stages, each `fit`'s settings; a later stage takes the policy so
    far as its reference. `faults` are `Annotator`'s. Measured on 96 held-out prompts
    against `base`. `code` is for the cache's key only.
    """
    reference, tokenizer = load_model(base)
    labels = preference_pairs(256, Annotator(seed=seed, **faults or {}), seed=seed)
    shared, measured = prepare(labels, reference, tokenizer), {}
    for name, stages in runs.items():
        policy, batches = copy.deepcopy(reference), shared
        for number, stage in enumerate(stages):
            if number:
                batches = prepare(labels, policy, tokenizer)
            fit(policy, batches, seed=seed + number, **stage)
        asked = prompts("held_out")[:96]
        measured[name] = measure(policy, reference, tokenizer, asked, seed)
    return measured


def thumbs(seed: int, per_prompt: int, count: int = 512, bar: float = 0.5) -> list:
    """`count` (prompt, response, thumb up?), `per_prompt` responses to a prompt.

    The log-odds of a thumb up are (r* - `bar`) / 0.25: about one in four is up.
    """
    rng, rows = random.Random(seed), []
    for prompt in rng.sample(prompts("train"), count // per_prompt) * per_prompt:
        response, _ = sample_review(rng, prompt)
        likes = 1 / (1 + math.exp((bar - gold_reward(prompt, response)) / 0.25))
        rows.append((prompt, response, rng.random() < likes))
    return rows


def pairs_of(rows: Sequence[tuple[str, str, bool]]) -> list[PreferencePair]:
    """Every pair that thumbs hold: a good and a bad response to one prompt."""
    good, bad = ([row for row in rows if row[2] == up] for up in (True, False))
    both = [(g, b) for g, b in product(good, bad) if g[0] == b[0] and g[1] != b[1]]
    return [PreferencePair(g[0], g[1], b[1]) for g, b in both]


@torch.no_grad()
def prepare_thumbs(rows: Sequence, reference, tokenizer, size: int = 32) -> list[tuple]:
    """Batches (own, other, (r_own, r_other), up) of `size` rows, for KTO.

    `other` has each prompt with the next row's response: mismatched, for the reference
    point. r_* are the reference's log-probs, (B,), in nats; `up` is a bool (B,).
    """
    eos, pad = [tokenizer.eos_token_id], tokenizer.pad_token_id
    ids = [
        (tokenizer(x)["input_ids"], tokenizer(y)["input_ids"] + eos, up)
        for x, y, up in rows
    ]
    ids.sort(key=lambda row: len(row[1]))
    batches = []
    for start in range(0, len(ids), size):
        part = ids[start : start + size]
        own = pad_rows([(x, y) for x, y, _ in part], pad)
        after = [y for _, y, _ in part[1:] + part[:1]]
        other = pad_rows([(x, y) for (x, *_), y in zip(part, after, strict=True)], pad)
        r = [compute_log_probs(reference, **batch) for batch in (own, other)]
        batches.append((own, other, r, torch.tensor([up for *_, up in part])))
    return batches
