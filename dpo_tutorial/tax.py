"""The alignment tax: what a model could do before, by lm-evaluation-harness.

The tasks lie in `data/tasks`, in its own format; intervals are added here, by item.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from scipy import stats
from transformers.utils import logging as hf_logging

from . import data_path
from .plotting import COLORS
from .winrates import wilson

REVIEW_TASKS = ("dpo_phrase", "dpo_agreement", "dpo_category", "dpo_neutral")
ENGLISH_TASKS = ("dpo_addition", "dpo_facts")
_Z = stats.norm.ppf(0.975)


def run_tasks(
    model,
    tokenizer,
    tasks: Sequence[str] = REVIEW_TASKS,
    *,
    limit: int | None = None,
    batch_size: int = 32,
) -> pd.DataFrame:
    """Score a model on local tasks of `data/tasks`, by lm-evaluation-harness.

    A row a task: its `metric` ("acc", a share, or "word_perplexity"), the `score`, its
    95 % interval `low` to `high` (Wilson's for a share), the number of `items`, whether
    `higher` is better, and `each` item's result: 0 or 1, or its (log-prob in nats,
    words). `limit` takes the first items of each task only. The model's mode and the
    random state stay as they were. Other tasks: `lm_eval.simple_evaluate` itself.

    Raises ValueError for no task, or one that is not there.
    """
    from lm_eval.tasks import TaskManager

    known = TaskManager(include_path=str(data_path("tasks")), include_defaults=False)
    if not tasks or isinstance(tasks, str) or set(tasks) - set(known.all_tasks):
        raise ValueError(
            f"tasks {tasks!r}: expected a list of some of {sorted(known.all_tasks)}"
        )
    options = {"tasks": list(tasks), "task_manager": known, "limit": limit}
    found = _evaluate(model, tokenizer, batch_size, options)
    return pd.DataFrame([_row(name, found) for name in tasks]).set_index("task")


def _evaluate(model, tokenizer, batch_size: int, options: dict[str, Any]) -> dict:
    """The harness's own result, with each item's."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    training = model.training
    try:
        with _quiet(), _same_randomness():
            return simple_evaluate(
                HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size),
                bootstrap_iters=0,
                **options,
            )
    finally:
        model.train(training)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without progress bars, and without the warnings on padding (it is causal)."""
    harness = logging.getLogger("lm_eval")
    level, before = harness.level, hf_logging.get_verbosity()
    harness.setLevel(logging.ERROR)
    hf_logging.set_verbosity_error()
    try:
        with redirect_stderr(StringIO()):
            yield
    finally:
        harness.setLevel(level)
        hf_logging.set_verbosity(before)


@contextmanager
def _same_randomness() -> Iterator[None]:
    """The harness seeds the global generators; here they are put back."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _row(name: str, found: dict) -> dict[str, Any]:
    (metric, higher), *_ = found["higher_is_better"][name].items()
    rows = sorted(found["samples"][name], key=lambda row: row["doc_id"])
    each = [row[metric] for row in rows]
    score = found["results"][name][f"{metric},none"]
    if metric == "acc":
        share = wilson(sum(each), len(each))
        low, high = share.low, share.high
    else:
        factor = math.exp(_Z * _error_of_mean_nats(each))
        low, high = score / factor, score * factor
    row = {"task": name, "metric": metric, "score": score, "low": low, "high": high}
    return row | {"items": len(each), "higher": higher, "each": each}


def _error_of_mean_nats(each: Sequence[tuple[float, int]]) -> float:
    """Standard error of nats a word over items of unlike length: the ratio estimator's.

    Cochran (1977), Sampling Techniques, section 2.11.
    """
    nats, words = np.array(each, dtype=float).T
    left = nats - nats.sum() / words.sum() * words
    return float(stats.sem(left) / words.mean())


def alignment_tax(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """Relative loss by task, of `run_tasks`' tables; 0.05 is 5 % worse than before.

    A fall of an accuracy and a rise of a perplexity count alike as losses. Columns:
    `before`, `after`, the `tax`, and its 95 % interval `low` to `high` over the items,
    paired, with the score before taken as it is. Chance is not taken off: of a task
    with two choices not more than half can be lost. NaN where nothing was known before.

    Raises ValueError for tables of other tasks or items.
    """
    if list(before.index) != list(after.index) or any(
        before["items"] != after["items"]
    ):
        raise ValueError(
            f"before has {dict(before['items'])}, after {dict(after['items'])}: "
            "expected the same tasks and items, in the same order"
        )
    rows = [_tax(before.loc[name], after.loc[name]) for name in before.index]
    names = ["before", "after", "tax", "low", "high"]
    return pd.DataFrame(rows, index=before.index, columns=names)


def _tax(before: pd.Series, after: pd.Series) -> tuple[float, ...]:
    loss = _lost if before["metric"] == "acc" else _grown
    found = loss(before["each"], after["each"]) if before["score"] else [math.nan] * 3
    return before["score"], after["score"], *found


def _lost(before: Sequence[float], after: Sequence[float]) -> tuple[float, ...]:
    """Share of the right answers that is lost, gains set against it.

    The interval is Agresti & Min's for matched pairs (2005, Statistics in Medicine 24):
    Wald's with half an item added to each cell, so that it has a width where none
    changed.
    """
    was, now = np.array(before), np.array(after)
    lost, gained = (was > now).sum() + 0.5, (was < now).sum() + 0.5
    n, net = len(was) + 2, lost - gained
    half, scale = _Z * math.sqrt(lost + gained - net**2 / n), len(was) / n
    found = net, (net - half) * scale, (net + half) * scale
    return tuple(float(x / was.sum()) for x in found)


def _grown(before: Sequence[tuple], after: Sequence[tuple]) -> tuple[float, ...]:
    """Relative growth of the perplexity, by the change of each item's nats."""
    change = [(b[0] - a[0], b[1]) for b, a in zip(before, after, strict=True)]
    nats, words = map(sum, zip(*change, strict=True))
    mean, half = nats / words, _Z * _error_of_mean_nats(change)
    return tuple(math.expm1(mean + side * half) for side in (0, -1, 1))


_LOOKS = {"chosen": "o-", "gold": "s--", "policy": "^:"}  # a role, its line


def plot_tax(taxes: pd.DataFrame, rule: float = 0.05) -> Figure:
    """Tax against beta (log axis): a line a task, three at most, and a dot a run.

    `taxes` has a row a run, with `beta` in its index, and a column a task.
    """
    figure, axes = plt.subplots()
    betas = taxes.index.get_level_values("beta")
    for (name, runs), (role, look) in zip(taxes.items(), _LOOKS.items(), strict=False):
        means = 100 * runs.groupby(level="beta").mean()
        axes.plot(means, look, color=COLORS[role], label=name)
        axes.plot(betas, 100 * runs, look[0], ms=4, color=COLORS[role])
    axes.axhline(100 * rule, color=COLORS["reference"], ls=":", label="the rule")
    axes.set(xscale="log", xlabel="beta (log axis)", ylabel="tax (%)")
    figure.legend(loc="outside lower center", ncols=2)
    return figure
