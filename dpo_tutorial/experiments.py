"""Many small runs: settings in, measurements out, in parallel, cached under `build/`.

A sweep is a function, such as `dpo_run`, and a list of settings.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
import torch

from . import build_dir, data_path, written_whole
from .losses import IGNORE, compute_log_probs
from .reviews import Annotator, gold_reward, parse, preference_pairs, prompts
from .sampling import mean_interval, sample_batch

_MEASURED = ("gold", "kl", "words", "repeated", "parses")
_ON_PAIRS = {"accuracy": "eval_rewards/accuracies", "loss": "eval_loss"}
_MODULES = ("data", "grammar", "losses", "models", "reviews", "sampling", "training")


def run_all(
    function: Callable[..., Any], settings: Sequence[Mapping[str, Any]]
) -> list[Any]:
    """`function(**s)` for each s of `settings`, in order; a process to a core.

    Each result is kept under `build/runs` at once: an interrupted sweep goes on where
    it was. The key is the settings, the source of the function and of those of its
    module that it names, the package's code and `nano`'s weights; no global variable.

    Raises ValueError, before any run, for settings that the function does not take;
    RuntimeError for a run that fails.
    """
    for row in settings:
        _check(function, row)
    paths = [build_dir() / "runs" / f"{_key(function, row)}.joblib" for row in settings]
    missing = {p: s for p, s in zip(paths, settings, strict=True) if not p.exists()}
    pool = joblib.Parallel(n_jobs=max(1, min(len(missing), os.cpu_count() or 1)))
    with warnings.catch_warnings():  # loky replaces a process that has grown
        warnings.filterwarnings("ignore", "A worker stopped", UserWarning)
        pool(joblib.delayed(_run_one)(function, s, p) for p, s in missing.items())
    return [joblib.load(path) for path in paths]


def _check(function: Callable, settings: Mapping[str, Any]) -> None:
    try:
        (expected := inspect.signature(function)).bind(**settings)
    except TypeError as error:
        seen = f"{function.__name__} cannot take {dict(settings)}: {error}"
        raise ValueError(f"{seen}; expected {expected}: mend the settings") from None


def _run_one(function: Callable, settings: Mapping[str, Any], path: Path) -> None:
    torch.set_num_threads(1)  # the processes share the cores between them
    try:
        result = function(**settings)
    except Exception as error:
        seen = f"{function.__name__} failed with {dict(settings)}: {error!r}"
        raise RuntimeError(f"{seen}; mend it, done runs are kept") from error
    with written_whole(path) as scratch:
        joblib.dump(result, scratch)


def _key(function: Callable, settings: Mapping[str, Any]) -> str:
    named = {k: _source(v) if inspect.isfunction(v) else v for k, v in settings.items()}
    return joblib.hash([_code(), _source(function), named])


@cache
def _code() -> str:
    """A hash of what every run depends on: the package's code and `nano`."""
    files = [Path(__file__).with_name(f"{name}.py") for name in _MODULES]
    files += [data_path("lexicon.json"), *sorted(data_path("nano").iterdir())]
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()


def _source(function: Callable, known: frozenset[str] = frozenset()) -> str:
    """Source of a function and, recursively, of those of its module that it names."""
    text, known = inspect.getsource(function), known | {function.__name__}
    for name in sorted(set(re.findall(r"\w+", text)) - known):
        used = inspect.unwrap(function.__globals__.get(name))
        if inspect.isfunction(used) and used.__module__ == function.__module__:
            text += _source(used, known)
    return text


@torch.no_grad()
def measure(
    policy, reference, tokenizer, asked: Sequence[str], seed: int = 0
) -> dict[str, list]:
    """One sampled response a prompt, and what it is worth: lists over the prompts.

    `text`; `gold`, the gold reward; `kl`, log pi(y|x) - log ref(y|x) in nats, the mean
    of which estimates the KL divergence; `words`, with punctuation; `repeated`, the
    share of subjects and adjectives seen before; `parses`, whether it is well formed.
    """
    texts, kl = [], []
    for batch in sample_batch(policy, tokenizer, asked, seed=seed):
        gap = compute_log_probs(policy, **batch) - compute_log_probs(reference, **batch)
        kl += gap.tolist()
        rows = [row[row != IGNORE] for row in batch["labels"]]
        texts += tokenizer.batch_decode(rows, skip_special_tokens=True)
    pairs = list(zip(asked, texts, strict=True))
    found = [parse(*pair) for pair in pairs]
    return {
        "text": texts,
        "gold": [gold_reward(*pair) for pair in pairs],
        "kl": kl,
        "words": [f.words for f in found],
        "repeated": [1 - len(set(f.content)) / max(1, len(f.content)) for f in found],
        "parses": [not f.unparsed for f in found],
    }


def dpo_run(
    seed: int = 0, annotator: Mapping[str, float] | None = None, **settings
) -> dict[str, Any]:
    """Train `nano` by `TinyDPOTrainer` and measure it on the held-out prompts.

    `annotator` holds the faults of the labels (`Annotator`'s arguments), `settings`
    the trainer's, on top of `step_plan`'s. Returns `measure`'s lists, the `history`,
    and the metrics on held-out pairs with sound labels (`eval_loss`, …).
    """
    from .models import load_model, step_plan
    from .training import TinyDPOTrainer

    reference, tokenizer = load_model("nano")
    settings = step_plan(reference) | settings
    count = settings["steps"] * settings["batch_size"]
    trainer = TinyDPOTrainer(
        copy.deepcopy(reference),
        tokenizer,
        preference_pairs(count, Annotator(seed=seed, **annotator or {}), seed=seed),
        eval_rows=preference_pairs(64, seed=99, split="held_out"),
        seed=seed,
        **settings,
    )
    trainer.train()
    result = measure(trainer.model, reference, tokenizer, prompts("held_out"), seed)
    result |= {f"eval_{name}": value for name, value in trainer.evaluate().items()}
    return result | {"history": trainer.history}


def beta_sweep_analysis(
    betas: Sequence[float] = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
    seeds: Sequence[int] = (1, 2, 3),
    **settings,
) -> pd.DataFrame:
    """Train `nano` by `dpo_run` at each beta with each seed: `summary`'s table.

    Adam's epsilon (0.01 beta) and the norm of clipping (10 beta) go with beta, so that
    it changes the goal and not the size of a step. `settings` are `dpo_run`'s others.
    """
    grid = [
        {"beta": b, "seed": s, "adam_epsilon": 0.01 * b, "max_grad_norm": 10 * b}
        | settings
        for b, s in product(betas, seeds)
    ]
    return summary(grid, run_all(dpo_run, grid))


def summary(settings: Sequence[Mapping], results: Sequence[Mapping]) -> pd.DataFrame:
    """A row a run: its settings, then what came of it.

    `measure`'s, averaged over prompts, and `accuracy` and `loss` on held-out pairs.
    """
    table = pd.DataFrame(list(settings))
    for name in _MEASURED:
        table[name] = [sum(r[name]) / len(r[name]) for r in results]
    for name, metric in _ON_PAIRS.items():
        table[name] = [r.get(metric) for r in results]
    return table.dropna(axis="columns", how="all")


def with_intervals(runs: pd.DataFrame, by: str = "beta") -> pd.DataFrame:
    """`mean_interval` over the runs at each value of `by`, for each measurement."""
    names = [name for name in (*_MEASURED, *_ON_PAIRS) if name in runs]
    return runs.groupby(by)[names].agg(lambda column: mean_interval(column.tolist()))


def choose_beta(runs: pd.DataFrame, reward: str = "gold") -> float:
    """The largest beta whose mean `reward` is within a standard error of the best.

    So of equals the nearest to the reference; Breiman et al. (1984) prune trees so.
    """
    found = runs.groupby("beta")[reward].agg(["mean", "sem"])
    best = found.loc[found["mean"].idxmax()]
    return float(found.index[found["mean"] >= best["mean"] - best["sem"]].max())
