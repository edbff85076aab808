"""Many small runs: settings in, measurements out, in parallel, cached under `build/`.

A sweep is a function, such as `dpo_run`, and a list of settings. What it measures is
kept by the settings and by the code, so that a second execution only reads it.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import joblib
import torch

from . import build_dir, data_path, written_whole
from .evaluation import sample_batch
from .losses import IGNORE, compute_log_probs
from .reviews import Annotator, gold_reward, parse, preference_pairs, prompts

_MODULES = ("data", "evaluation", "grammar", "losses", "models", "reviews", "training")


def run_all(
    function: Callable[..., Any], settings: Sequence[Mapping[str, Any]]
) -> list[Any]:
    """`function(**s)` for each s of `settings`, in order; a process to a core.

    Each result is kept under `build/runs` when it is there, so that an interrupted
    sweep goes on where it was. The key is the function's source, its settings, the
    package's code and the weights of `nano`: to change any of them is another run. A
    helper that `function` calls and that is not the package's is not part of it.
    """
    text = inspect.getsource(function)
    keys = [joblib.hash([_code(), text, dict(s)]) for s in settings]
    paths = [build_dir() / "runs" / f"{key}.joblib" for key in keys]
    missing = [(p, s) for p, s in zip(paths, settings, strict=True) if not p.exists()]
    pool = joblib.Parallel(n_jobs=max(1, min(len(missing), os.cpu_count() or 1)))
    pool(joblib.delayed(_run_one)(function, s, p) for p, s in missing)
    return [joblib.load(path) for path in paths]


def _run_one(function: Callable, settings: Mapping[str, Any], path: Path) -> None:
    torch.set_num_threads(1)  # the processes share the cores between them
    result = function(**settings)
    with written_whole(path) as scratch:
        joblib.dump(result, scratch)


@cache
def _code() -> str:
    """A hash of what every run depends on: the package's code and `nano`."""
    files = [Path(__file__).with_name(f"{name}.py") for name in _MODULES]
    files += [data_path("lexicon.json"), *sorted(data_path("nano").iterdir())]
    content = (
        b"".join(f.read_bytes() for f in files) + inspect.getsource(measure).encode()
    )
    return hashlib.sha256(content).hexdigest()


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
