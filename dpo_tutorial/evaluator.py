"""Whether one policy beats another, by a judge, every judgement kept as it comes."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from .judges import OUTCOMES, Judge, judge_pair
from .ledger import Ledger
from .plotting import COLORS
from .sampling import Estimate, sample_responses
from .winrates import win_rate


@dataclass(frozen=True)
class Evaluation:
    """The judgements of an evaluation: policy is A, baseline is B."""

    table: pd.DataFrame

    @property
    def counts(self) -> dict[str, int]:
        """How many pairs came to each of `OUTCOMES`."""
        found = self.table["outcome"].value_counts()
        return {name: int(found.get(name, 0)) for name in OUTCOMES}

    @property
    def win_rate(self) -> Estimate:
        """`win_rate` of the policy; ties count half, pairs not judged are left out."""
        return win_rate(self.table["outcome"])

    def __repr__(self) -> str:
        n = self.counts
        judged = n["A"] + n["B"] + n["tie"]
        return (
            f"win rate {self.win_rate if judged else 'unknown'} over {judged} pairs: "
            f"{n['A']} won, {n['B']} lost, {n['tie']} tied; besides, "
            f"{n['unparseable']} unparseable, {n['failed']} failed"
        )


class DPOEvaluator:
    """Compares a `policy` with a `baseline` on the same prompts, by a `judge`.

    `baseline` is mostly the SFT model that DPO started from. `policy` and `baseline`
    are models, or lists of responses made elsewhere, one a prompt; with two lists the
    `tokenizer` may be None.
    """

    def __init__(self, policy, baseline, tokenizer, judge: Judge) -> None:
        self.policy, self.baseline = policy, baseline
        self.tokenizer, self.judge = tokenizer, judge

    def pairwise_evaluation(
        self,
        prompts: Sequence[str],
        *,
        path: str | Path | None = None,
        seed: int = 0,
        swap: bool = True,
        workers: int = 1,
        **sampling: Any,
    ) -> Evaluation:
        """Sample a response to each prompt from both, have each pair judged.

        Sampling takes `sample_batch`'s options. With `path`, each judgement is a line
        of that file as soon as it is there; called again with the same arguments,
        what is there is not asked again, but pairs that failed are. `workers` ask at
        the same time (an endpoint; a judge of your own must allow it).

        Raises ValueError for no prompt, no worker, responses that are not one text a
        prompt, and for a file that belongs to other responses, another judge (by its
        name or `repr`) or another `swap`.
        """
        prompts = _texts(prompts)
        if not prompts or workers < 1:
            raise ValueError(
                f"{len(prompts)} prompts, {workers} workers: expected one at least"
            )
        sides = self._responses(prompts, seed, sampling)
        pairs = list(zip(prompts, *sides, strict=True))
        settings = {"judge": judge_name(self.judge), "swap": swap}
        settings |= {"pairs": _digest(pairs)}
        with Ledger(path, settings) as ledger:
            keyed = {str(i): pair for i, pair in enumerate(pairs)}
            rows = judge_all(self.judge, keyed, ledger, swap, workers)
        return Evaluation(pd.DataFrame(rows).drop(columns="key"))

    def _responses(self, prompts: list[str], seed: int, sampling) -> list[list[str]]:
        """Those of policy and baseline; lists are looked at before models sample."""
        sources = [
            source if hasattr(source, "generate") else _texts(source, len(prompts))
            for source in (self.policy, self.baseline)
        ]
        return [
            source
            if isinstance(source, list)
            else sample_responses(
                source, self.tokenizer, prompts, seed=2 * seed + side, **sampling
            )
            for side, source in enumerate(sources)
        ]


def judge_all(
    judge: Judge, pairs: Mapping[str, tuple], ledger: Ledger, swap: bool, workers: int
) -> list[dict[str, Any]]:
    """A row for each (prompt, response A, response B), in order of `pairs`.

    What the ledger holds is not asked again, unless it failed; each new row is written
    by the thread that has it, so that an error, or a kill, loses what is asked only.
    """
    kept = {row["key"] for row in ledger if row.get("outcome", "failed") != "failed"}
    lock = Lock()

    def ask(key: str) -> None:
        row = judge_pair(judge, *pairs[key], swap).row()
        with lock:
            ledger.add(key, row, again=True)

    with ThreadPoolExecutor(max_workers=workers) as pool:
        asked = [pool.submit(ask, key) for key in pairs if key not in kept]
        try:
            for done in as_completed(asked):
                done.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [ledger.get(key) for key in pairs]


def _texts(found: Iterable[str], number: int | None = None) -> list[str]:
    texts = [found] if isinstance(found, str) else list(found)
    if isinstance(found, str) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{repr(found)[:60]}: expected a list of texts")
    if number not in (None, len(texts)):
        raise ValueError(
            f"{len(texts)} responses to {number} prompts: expected one each"
        )
    return texts


def judge_name(judge: Judge) -> str:
    """What a judge is called, the same in every process."""
    name = getattr(judge, "__qualname__", None) or repr(judge)
    return re.sub(r" at 0x[0-9a-fA-F]+", "", name)


def _digest(pairs: list[tuple]) -> str:
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()[:16]


_BARS = {  # outcome: label, role of its colour, hatch
    "A": ("won", "policy", None),
    "tie": ("tied", "proxy", None),
    "B": ("lost", "reference", None),
    "unparseable": ("unparseable", "rejected", "//"),
    "failed": ("failed", "gold", "xx"),
}


def plot_outcomes(evaluations: Mapping[str, Evaluation]) -> Figure:
    """A bar an evaluation: its outcomes in per cent, its win rate beside its name.

    Outcomes that no evaluation has are left out; the numbers in the bars are pairs.
    """
    counts = pd.DataFrame({name: e.counts for name, e in evaluations.items()}).T
    shares = 100 * counts.div(counts.sum(axis=1), axis=0)
    figure, axis = plt.subplots(figsize=(7.0, 1.3 + 0.5 * len(counts)))
    names = [_with_rate(name, e) for name, e in evaluations.items()]
    left = 0 * shares["A"]
    for outcome, (label, role, hatch) in _BARS.items():
        if not counts[outcome].any():
            continue
        style = {"color": COLORS[role], "hatch": hatch, "edgecolor": "white"}
        bars = axis.barh(names, shares[outcome], left=left, label=label, **style)
        wide = counts[outcome].where(shares[outcome] > 4).dropna().astype(int)
        numbers = [str(wide.get(name, "")) for name in counts.index]
        ink = "white" if role == "reference" else "black"
        axis.bar_label(bars, numbers, label_type="center", color=ink)
        left = left + shares[outcome]
    axis.set(xlabel="share of pairs (%)", xlim=(0, 100))
    axis.invert_yaxis()
    figure.legend(loc="outside upper right", ncols=5)
    return figure


def _with_rate(name: str, evaluation: Evaluation) -> str:
    return f"{name}\n{repr(evaluation).partition(' over ')[0]}"
