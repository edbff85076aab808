"""The clinic: each way a DPO run fails, planted on `nano`, and what repaired it.

The trainer is `TinyDPOTrainer` throughout, with a function of `faults` in it; `cases`
has the settings. `open_clinic` runs them all; the rest reads what came of it.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pandas as pd

from . import faults, training
from .cases import CASES, LESS, vitals, wards
from .data import collate
from .diagnosis import diagnose_training_issues
from .experiments import measure, run_all
from .faults import Pairs
from .models import load_model
from .pathologies import check_for_pathologies
from .reviews import Annotator, parse, preference_pairs, prompts
from .sampling import Estimate, mean_interval
from .training import TinyDPOTrainer

MAX_WORDS = 21  # nineteen in twenty reviews of the corpus are no longer


def trial(
    seed: int,
    early: bool = False,
    check: Callable | None = None,
    tasks: Callable | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Train `nano` as `settings`, those of `admitted`, say; `measure` it and more.

    `history`; `flattery`, the remarks in each response; `check`, what `preflight` said
    before the first step; `tasks`, what `tax.run_tasks` said after the last: both only
    where they are given. `early`: `stop_early` trains.
    """
    with admitted(seed, **settings) as trainer:
        own = settings.get("loss") is faults.own_reference
        said = check and _checked(trainer, check, own)
        (stop_early if early else TinyDPOTrainer.train)(trainer)
    (nano, tokenizer), asked = load_model("nano"), prompts("held_out")[:96]
    found = measure(trainer.model.eval(), nano, tokenizer, asked, seed)
    texts = zip(asked, found["text"], strict=True)
    found |= {"flattery": [parse(*row).flattery for row in texts], "check": said}
    found["tasks"] = tasks and tasks(trainer.model, tokenizer)
    return found | {"history": trainer.history}


@contextmanager
def admitted(
    seed: int,
    make: Callable[..., Pairs] = preference_pairs,
    count: int = 200,
    annotator: Mapping[str, float] | None = None,
    curate: Callable[..., Pairs] | None = None,
    batch: Callable[..., dict] = collate,
    loss: Callable[..., faults.Loss] | None = None,
    dropout: bool = False,
    guard: bool = True,
    beta: float = 0.1,
    **settings: Any,
) -> Iterator[TinyDPOTrainer]:
    """A trainer of `nano` with a case's faults in it, for as long as the context lasts.

    `make` writes `count` pairs with an `Annotator` that has the faults `annotator`, and
    `curate` goes over them; 48 held-out pairs are made in the same way. `batch` stands
    in for `collate`; `loss` makes the loss; `dropout` leaves it on. Without its `guard`
    the trainer gets a reference of its own, and does not refuse a first log-ratio that
    is not zero. `settings` are the trainer's. Adam's epsilon and clipping go with beta,
    as in `beta_sweep_analysis`.
    """
    (nano, tokenizer), sides = load_model("nano"), []
    for n, start, split in ((count, seed, "train"), (48, 900 + seed, "held_out")):
        judge = Annotator(seed=start, **annotator or {})
        pairs = make(n, judge, seed=start, split=split)
        sides.append(curate(pairs, judge) if curate else pairs)
    policy, right = copy.deepcopy(nano), training.collate
    plan = {"steps": 20, "batch_size": 10, "learning_rate": 2e-3, "eval_every": 5}
    plan |= {"adam_epsilon": 0.01 * beta, "max_grad_norm": 10 * beta}
    data = {"tokenizer": tokenizer, "rows": sides[0], "eval_rows": sides[1]}
    try:
        training.collate = batch
        trainer = TinyDPOTrainer(
            policy,
            reference=None if guard else nano,
            loss=loss and loss(policy, tokenizer, beta),
            beta=beta,
            seed=seed,
            **data | plan | settings,
        )
        policy.train(dropout)
        yield trainer
    finally:
        training.collate = right


def _checked(trainer: TinyDPOTrainer, check: Callable, own: bool) -> Any:
    """What `preflight` says of a trainer; is the policy its `own` reference?"""
    pad = trainer.tokenizer.pad_token_id
    return check(
        trainer.model,
        trainer.model if own else trainer.reference,
        trainer.tokenizer,
        trainer.rows,
        eval_rows=trainer.eval_rows,
        beta=trainer.beta,
        batch=training.collate(trainer.train_ids[:10], pad),
    )


def stop_early(trainer: TinyDPOTrainer) -> None:
    """Train until the held-out loss rises, then back to the weights of its lowest."""
    best, kept = float("inf"), None
    while trainer.step < trainer.steps:
        trainer.train(until=trainer.step + trainer.eval_every)
        if (loss := trainer.history[-1]["eval_loss"]) > best:
            break
        best, kept = loss, copy.deepcopy(trainer.model.state_dict())
    trainer.model.load_state_dict(kept)


def open_clinic() -> pd.DataFrame:
    """Run all of `wards`, or take them from the cache: a row each, with `vitals`."""
    table = pd.DataFrame(wards())
    table["result"] = run_all(trial, table["settings"].tolist())
    figures = map(vitals, table["settings"], table["result"])
    return table.join(pd.DataFrame(list(figures)))


def before_and_after(clinic: pd.DataFrame, name: str) -> pd.DataFrame:
    """By treatment: the figure that tells, its change from the planted run, r*.

    Means over seeds with Student's t intervals; changes are taken seed by seed.
    `verdict` is "helped" or "harmed" where the change's interval leaves out 0.
    """
    by, rows = CASES[name].by, {}
    ours = clinic[clinic["case"].isin([name, "healthy"])].set_index("seed")
    planted = ours[(ours["case"] == name) & (ours["treatment"] == "planted")]
    for (case, treatment), runs in ours.groupby(["case", "treatment"], sort=False):
        change = (runs[by] - planted[by]) * (-1 if by in LESS else 1)
        row = {k: mean_interval([*runs[k]]) for k in (by, "gold")}
        if treatment != "planted":
            gain = mean_interval([*change])
            row |= {"gain": gain, "verdict": verdict(gain)}
        rows["healthy" if case == "healthy" else treatment] = row
    return pd.DataFrame.from_dict(rows, orient="index").fillna("")


def verdict(gain: Estimate) -> str:
    """What the interval of a gain allows to say."""
    if gain.low > 0:
        return "helped"
    return "harmed" if gain.high < 0 else "not told apart"


def overheard(clinic: pd.DataFrame, name: str) -> dict[str, list[str]]:
    """What the instruments said of a planted case, which they were not told.

    `preflight`: problems that the healthy run of that seed has not (less "leakage": in
    this small world all runs have near duplicates); `diagnosis`: first causes, with the
    runs that have them; `pathologies`: kinds more frequent than in the healthy runs,
    where the difference's 95 % interval is above 0.
    """
    rows = clinic[clinic["treatment"] == "planted"]
    healthy = list(rows[rows["case"] == "healthy"]["result"])
    runs = list(rows[rows["case"] == name]["result"])
    usual = {f.seen for f in healthy[0]["check"].problems}
    problems = [f for f in runs[0]["check"].problems if f.check != "leakage"]
    problems = [f for f in problems if f.seen not in usual]
    issues = [diagnose_training_issues(run["history"]) for run in runs]
    causes = Counter(found[0].cause if found else "nothing" for found in issues)
    texts, others = ([t for r in some for t in r["text"]] for some in (runs, healthy))
    found = check_for_pathologies(texts, max_words=MAX_WORDS, baseline=others).rates
    more = found[[gap.low > 0 for gap in found["difference"]]]
    more = more.sort_values("flagged", ascending=False)
    return {
        "preflight": [f"{f.check} ({f.seen.split(', such')[0]})" for f in problems],
        "diagnosis": [f"{cause} ({n} of {len(runs)})" for cause, n in causes.items()],
        "pathologies": [f"{k} ({r.mean:.0%})" for k, r in more["rate"].items()],
    }


def beside_healthy(
    clinic: pd.DataFrame, name: str, treatment: str = "planted"
) -> Estimate:
    """Change of r* from the healthy run of seed 1, prompt by prompt."""
    runs = clinic[clinic["seed"] == 1].set_index(["case", "treatment"])["result"]
    ours, healthy = (
        runs[key]["gold"] for key in ((name, treatment), ("healthy", "planted"))
    )
    return mean_interval([a - b for a, b in zip(ours, healthy, strict=True)])
