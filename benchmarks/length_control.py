"""Does length control give the gold win rate back? Ten policies; one, ten times.

Policies are trained by DPO on labels with a mild liking for length and compared with
`nano` on held-out prompts, eight samples each, by a judge that likes length and by the
same judge without that. Writes `benchmarks/results/length_control.json`, which notebook
09 reads. About ten minutes on two cores; runs are kept under `build/`.

    python benchmarks/length_control.py
"""

import json
import platform
from pathlib import Path

import torch

from dpo_tutorial import written_whole
from dpo_tutorial.experiments import run_all

RESULTS = Path(__file__).parent / "results" / "length_control.json"
LABEL_BIAS, JUDGE_BIAS, SAMPLES = 0.05, 0.4, 8


def evaluations(policy_seed: int, seeds: list[int], label_bias: float) -> list[dict]:
    """Train a policy; sample it and `nano` afresh for each of `seeds`, and judge."""
    from dpo_tutorial.models import load_model, step_plan
    from dpo_tutorial.reviews import Annotator, preference_pairs, prompts
    from dpo_tutorial.training import TinyDPOTrainer

    policy, tokenizer = load_model("nano")
    reference, _ = load_model("nano")
    plan = step_plan(policy) | {"steps": 40, "batch_size": 16}
    annotator = Annotator(seed=policy_seed, length_bias=label_bias)
    pairs = preference_pairs(640, annotator, seed=policy_seed)
    TinyDPOTrainer(policy, tokenizer, pairs, seed=policy_seed, **plan).train()
    asked = prompts("held_out") * SAMPLES
    return [judged(policy, reference, tokenizer, asked, seed) for seed in seeds]


def judged(policy, reference, tokenizer, asked: list[str], seed: int) -> dict:
    """Win rates of one evaluation: gold, raw, and both controlled for length."""
    from dpo_tutorial.evaluation import sample_responses
    from dpo_tutorial.judges import GoldJudge, judge_pair
    from dpo_tutorial.winrates import length_controlled_win_rate, win_rate

    sides = [
        sample_responses(model, tokenizer, asked, seed=2 * seed + side)
        for side, model in enumerate((policy, reference))
    ]
    rows = list(zip(asked, *sides, strict=True))
    outcomes = {
        name: [judge_pair(judge, *row).outcome for row in rows]
        for name, judge in {
            "gold": GoldJudge(seed=seed),
            "biased": GoldJudge(length_bias=JUDGE_BIAS, seed=1000 + seed),
        }.items()
    }
    lengths = [[len(text.split()) for text in side] for side in sides]
    options = {"groups": asked, "resamples": 100}
    found = {
        name: length_controlled_win_rate(outcome, *lengths, **options)
        for name, outcome in outcomes.items()
    }
    return {
        "seed": seed,
        "words": [sum(side) / len(side) for side in lengths],
        "gold": win_rate(outcomes["gold"]).mean,
        "raw": win_rate(outcomes["biased"]).mean,
        "controlled": vars(found["biased"]),
        "gold_at_equal_length": found["gold"].mean,
    }


def main() -> None:
    seeds = list(range(1, 11))
    jobs = [{"policy_seed": s, "seeds": [s], "label_bias": LABEL_BIAS} for s in seeds]
    jobs.append({"policy_seed": 1, "seeds": seeds, "label_bias": LABEL_BIAS})
    *policies, one = run_all(evaluations, jobs)
    report = {
        "label_bias": LABEL_BIAS,
        "judge_bias": JUDGE_BIAS,
        "machine": f"{platform.machine()}, one thread a process",
        "torch": torch.__version__,
        "policies": [row for rows in policies for row in rows],
        "evaluations": one,
    }
    with written_whole(RESULTS) as scratch:
        scratch.write_text(json.dumps(report, indent=1) + "\n")
    for name in ("policies", "evaluations"):
        off = [abs(row["raw"] - row["gold"]) for row in report[name]]
        left = [abs(row["controlled"]["mean"] - row["gold"]) for row in report[name]]
        close = sum(x <= 0.03 for x in left)
        print(f"{name}: raw off by {min(off):.3f} to {max(off):.3f}; length-controlled")
        print(
            f"  within 0.03 in {close} of {len(left)}, off by {max(left):.3f} at most"
        )


if __name__ == "__main__":
    main()
