"""Label noise from 0 to 40 %: DPO, IPO, cDPO and robust DPO, three seeds each.

Writes `benchmarks/results/noise.json`, which notebook 08 reads: for each level and seed
what `experiments.measure` found on each of 96 held-out prompts. About four minutes on
two cores; runs are kept under `build/`.

    python benchmarks/noise.py
"""

import inspect
import json
import platform
from pathlib import Path

import torch

from dpo_tutorial import variants, written_whole
from dpo_tutorial.experiments import run_all
from dpo_tutorial.variants import compare

RESULTS = Path(__file__).parent / "results" / "noise.json"
LEVELS, SEEDS = (0.0, 0.1, 0.2, 0.3, 0.4), (1, 2, 3)
KEPT = ("gold", "kl", "words", "parses")


def stages(level: float) -> dict[str, list[dict]]:
    """The runs at a level; the last two are told it, and without noise are DPO."""
    usual = {"beta": 0.03, "learning_rate": 4e-3}
    runs = {
        "sigmoid": [{"loss": "sigmoid", **usual}],
        "IPO": [{"loss": "ipo", "tau": 0.01, "learning_rate": 2e-3}],
    }
    told = {**usual, "label_smoothing": level}
    more = {name: [{"loss": name.lower(), **told}] for name in ("cDPO", "robust")}
    return runs | more if level else runs


def main() -> None:
    code = inspect.getsource(variants)
    report = {
        "machine": f"{platform.machine()}, one thread a process",
        "torch": torch.__version__,
        "runs": {level: stages(level) for level in LEVELS},
        "results": {},
    }
    for level in LEVELS:
        options = {
            "runs": stages(level),
            "code": code,
            "faults": {"label_noise": level},
        }
        found = run_all(compare, [{"seed": s, **options} for s in SEEDS])
        report["results"][level] = [
            {name: {k: _rounded(run[k]) for k in KEPT} for name, run in seed.items()}
            for seed in found
        ]
    with written_whole(RESULTS) as scratch:
        scratch.write_text(json.dumps(report) + "\n")
    print(f"{RESULTS.name}: {RESULTS.stat().st_size // 1000} kB")


def _rounded(values: list) -> list[float]:
    return [round(float(value), 4) for value in values]


if __name__ == "__main__":
    main()
