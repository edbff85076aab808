"""DPO in rounds against one round, at equal labels and steps: longer runs, more seeds.

Six arms of `nano` with six seeds each: rounds with a fixed reference, with one that
moves, with a falling beta, with a falling rate, rounds of stale data, and one round.
Writes `benchmarks/results/iterative.json`, which notebook 10 reads. About eight minutes
on two cores; runs are kept under `build/`.

    python benchmarks/iterative.py
"""

import json
import platform
from pathlib import Path

import pandas as pd
import torch

from dpo_tutorial import written_whole
from dpo_tutorial.experiments import run_all
from dpo_tutorial.iterative import iterative_run, offline_run
from dpo_tutorial.sampling import mean_interval

RESULTS = Path(__file__).parent / "results" / "iterative.json"
ARMS = {
    "rounds, fixed": {},
    "rounds, moved": {"moved": True},
    "rounds, falling beta": {"betas": (0.2, 0.1, 0.05)},
    "rounds, falling rate": {"rates": (9e-3, 6e-3, 3e-3)},
    "rounds, stale data": {"fresh": False},
}
SEEDS, STEPS, SIZE = (1, 2, 3, 4, 5, 6), 32, 12


def main() -> None:
    size = {"steps": STEPS, "batch_size": SIZE}
    jobs = [{"seed": s, **arm, **size} for arm in ARMS.values() for s in SEEDS]
    found = run_all(iterative_run, jobs)
    found += run_all(offline_run, [{"seed": s, **size} for s in SEEDS])
    names = [(arm, seed) for arm in (*ARMS, "one round") for seed in SEEDS]
    rows = [
        {"arm": arm, "seed": seed, **row}
        for (arm, seed), run in zip(names, found, strict=True)
        for row in run
    ]
    report = {
        "steps": STEPS,
        "batch_size": SIZE,
        "machine": f"{platform.machine()}, one thread a process",
        "torch": torch.__version__,
        "rows": rows,
    }
    with written_whole(RESULTS) as scratch:
        scratch.write_text(json.dumps(report, indent=1) + "\n")
    table = pd.DataFrame(rows).groupby(["arm", "round"], sort=False)
    columns = ["gold", "kl", "words", "share_before", "share_after"]
    print(table[columns].agg(lambda x: str(mean_interval(x.tolist()))).to_string())


if __name__ == "__main__":
    main()
