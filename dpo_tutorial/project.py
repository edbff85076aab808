"""The final project: faulty pairs, a budget, a score and a leaderboard.

The pairs of `data/project/pairs.jsonl` have two planted faults; `scripts/project.py`
makes them. A policy is scored on held-out prompts by what the course measures: the gold
reward (notebook 00), the KL to the reference (07) and the alignment tax (09).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from . import data_path, written_whole
from .data import PreferencePair, load_preferences
from .experiments import measure
from .grammar import prompts
from .models import load_model
from .sampling import mean_interval
from .tax import alignment_tax, run_tasks

KL_BUDGET = 4.0  # nats a response
TAX_BUDGET = 0.5  # of the neutral text's perplexity, and of each ranked task's accuracy
SAMPLES = (101, 102, 103)  # seeds of the scoring samples


@dataclass(frozen=True)
class Score:
    """What a policy is worth; `gold_low` to `gold_high` is gold's 95 % interval.

    `gold` is in [-1, 1], `kl` in nats a response, `tax` the largest relative loss of a
    task, `words` a response. `points` is gold, less 0.1 a nat over `KL_BUDGET`, less
    half the tax over `TAX_BUDGET`.
    """

    name: str
    points: float
    gold: float
    gold_low: float
    gold_high: float
    kl: float
    tax: float
    words: float


def project_pairs() -> list[PreferencePair]:
    """The project's pairs; `metadata["team"]` says who labelled each."""
    return load_preferences(data_path("project/pairs.jsonl"))


def score_policy(policy, tokenizer, name: str) -> Score:
    """Score a policy that began as `nano`, on every held-out prompt three times.

    Raises ValueError for a name that is empty or would not fit in a CSV's cell.
    """
    if not name.strip() or set(name) & set(',"\n\r'):
        raise ValueError(f"name is {name!r}: expected one line without comma or quotes")
    reference, _ = load_model("nano")
    asked = prompts("held_out")
    runs = [measure(policy, reference, tokenizer, asked, seed) for seed in SAMPLES]
    rows = pd.DataFrame([pd.Series(run)[["gold", "kl", "words"]] for run in runs])
    gold = [sum(each) / len(each) for each in zip(*rows["gold"], strict=True)]
    gold = mean_interval(gold)  # over prompts, which are independent
    kl, words = (
        sum(sum(x) for x in rows[k]) / rows[k].map(len).sum() for k in ("kl", "words")
    )
    lost = alignment_tax(run_tasks(reference, tokenizer), run_tasks(policy, tokenizer))
    tax = float(lost["tax"].max())
    over = 0.1 * max(0.0, kl - KL_BUDGET) + 0.5 * max(0.0, tax - TAX_BUDGET)
    values = (gold.mean - over, gold.mean, gold.low, gold.high, kl, tax, words)
    return Score(name.strip(), *(round(float(x), 4) for x in values))


def enter(score: Score, leaderboard: str | Path) -> pd.DataFrame:
    """Add a score to the leaderboard's CSV, best points first; returns the table.

    A name that is there already must do better to take its own place. Raises ValueError
    for a file with other columns, which stays as it is.
    """
    path, row = Path(leaderboard), pd.DataFrame([asdict(score)])
    table = pd.read_csv(path) if path.exists() else row[:0]
    if list(table.columns) != list(row.columns):
        seen = f"{path} has the columns {list(table.columns)}"
        raise ValueError(f"{seen}, expected {list(row.columns)}: name another file")
    both = pd.concat([table, row]) if len(table) else row
    best = both.sort_values("points", ascending=False, kind="stable")
    best = best.drop_duplicates("name").reset_index(drop=True)
    with written_whole(path) as scratch:
        best.to_csv(scratch, index=False)
    return best
