"""The alignment tax: what a model could do before, by lm-evaluation-harness."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import redirect_stderr
from io import StringIO

import pandas as pd
from transformers.utils import logging as hf_logging

from . import data_path

REVIEW_TASKS = ("dpo_agreement", "dpo_category", "dpo_neutral")
ENGLISH_TASKS = ("dpo_addition", "dpo_facts")


def run_tasks(
    model, tokenizer, tasks: Sequence[str] = REVIEW_TASKS, batch_size: int = 32
) -> pd.DataFrame:
    """Score a model on local tasks of `data/tasks`, by lm-evaluation-harness.

    A row a task: its `metric` ("acc", a share, or "word_perplexity"), the `score`, its
    `stderr` over the `items` (of a perplexity none), and whether `higher` is better.
    For other tasks of the harness call `lm_eval.simple_evaluate` itself.

    Raises ValueError for a task that is not there.
    """
    from lm_eval.tasks import TaskManager

    known = TaskManager(include_path=str(data_path("tasks")), include_defaults=False)
    if unknown := set(tasks) - set(known.all_tasks):
        raise ValueError(
            f"tasks {sorted(unknown)}: expected some of {sorted(known.all_tasks)}"
        )
    found = _evaluate(model, tokenizer, list(tasks), known, batch_size)
    return pd.DataFrame([_row(name, found) for name in tasks]).set_index("task")


def _evaluate(model, tokenizer, tasks: list[str], manager, batch_size: int) -> dict:
    """The harness's own result, without its progress bars."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    before = hf_logging.get_verbosity()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    hf_logging.set_verbosity_error()  # it feeds padded rows without a mask, causally
    try:
        with redirect_stderr(StringIO()):
            return simple_evaluate(
                HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size),
                tasks=tasks,
                task_manager=manager,
                bootstrap_iters=0,
                log_samples=False,
            )
    finally:
        hf_logging.set_verbosity(before)


def _row(name: str, found: dict) -> dict:
    result, higher = found["results"][name], found["higher_is_better"][name]
    metric = next(iter(higher))
    score, items = result[f"{metric},none"], found["n-samples"][name]["effective"]
    error = (score * (1 - score) / items) ** 0.5 if metric == "acc" else None
    return {
        "task": name,
        "metric": metric,
        "score": score,
        "stderr": error,
        "items": items,
        "higher": higher[metric],
    }


def alignment_tax(before: pd.DataFrame, after: pd.DataFrame) -> pd.Series:
    """Relative loss by task, of `run_tasks`' tables; 0.05 is 5 % worse than before.

    A fall of an accuracy and a rise of a perplexity count alike as losses.
    """
    change = after["score"] / before["score"] - 1
    return change.where(~before["higher"], -change)
