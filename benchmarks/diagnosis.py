"""Short DPO runs of `nano` with planted faults, and healthy ones, for the diagnosis.

    python benchmarks/diagnosis.py

trains them, about ten seconds of a core each, kept under `build/` (after a change here:
`make clean`), writes `data/histories.json.gz`, and prints how often the diagnosis is
right. The thresholds were set on the calibration runs and on no other.
"""

from __future__ import annotations

import copy
import gzip
import json
import random
from collections import Counter
from contextlib import suppress
from typing import Any

import torch
import torch.nn.functional as F

from dpo_tutorial import data_path
from dpo_tutorial.data import PreferencePair, collate, load_preferences, tokenize_pair
from dpo_tutorial.diagnosis import REMEDIES, diagnose_training_issues
from dpo_tutorial.experiments import run_all
from dpo_tutorial.losses import compute_log_probs, dpo_loss
from dpo_tutorial.models import load_model, seed_everything
from dpo_tutorial.reviews import Annotator, corpus, preference_pairs
from dpo_tutorial.training import TinyDPOTrainer

HEALTHY = "healthy"
SPLITS = {  # the first seed, the runs of each cause in REMEDIES' order, healthy runs
    "calibration": (1000, [8] * 8, 24),
    "test": (2000, [8, 8, 8, 8, 7, 7, 7, 7], 20),
}


def plan(cause: str, seed: int) -> dict[str, Any]:
    """Settings of one run; how strong the fault is and of which kind is drawn."""
    rng = random.Random(f"{cause} {seed}")
    settings = {
        "seed": seed,
        "plant": None,
        "count": 480,
        "beta": rng.choice([0.1, 0.2, 0.3]),
        "learning_rate": rng.uniform(1.5e-3, 3e-3),
        "annotator": {"temperature": rng.uniform(0.1, 0.25)},
        "eval_annotator": {},
    }
    return settings | FAULTS.get(cause, healthy)(rng)


def healthy(rng: random.Random) -> dict:
    """No fault beyond what any data has: some labels turned round, settings varied."""
    annotator = {"temperature": rng.uniform(0.1, 0.25)}
    annotator["label_noise"] = rng.uniform(0, 0.15)
    settings = {"beta": rng.choice([0.1, 0.2, 0.3, 0.5]), "annotator": annotator}
    return settings | {"learning_rate": rng.uniform(1.5e-3, 4e-3)}


def wrong_reference(rng: random.Random) -> dict:
    """The reference has other weights, or the policy has dropout or an SFT more."""
    return {"plant": rng.choice(["other reference", "dropout", "sft"])}


def not_learning(rng: random.Random) -> dict:
    """A rate far too low, next to no weights to train, or labels by the coin."""
    low = {"learning_rate": 10 ** rng.uniform(-6, -5)}
    kinds = [low, {"plant": "frozen"}, {"annotator": {"label_noise": 0.5}}]
    return rng.choice(kinds)


def overfitting(rng: random.Random) -> dict:
    """A handful of pairs, seen fifteen to forty times."""
    return {"count": rng.choice([12, 16, 24, 32])}


def drifting(rng: random.Random) -> dict:
    """A loss without its chosen or its rejected half, or with a large SFT term."""
    return {"plant": rng.choice(["rejected only", "chosen only", "sft term"])}


def displacement(rng: random.Random) -> dict:
    """Pairs that prefer the shorter one: probability goes to shorter ones still."""
    bias = {"length_bias": -rng.uniform(0.6, 1.5), "temperature": 10.0}
    settings = {"annotator": bias, "eval_annotator": bias, "learning_rate": 4e-3}
    return settings | {"beta": rng.uniform(0.05, 0.15)}


def diverging(rng: random.Random) -> dict:
    """A learning rate five to fifty times too high."""
    return {"learning_rate": 10 ** rng.uniform(-1.9, -1)}


def early_divergence(rng: random.Random) -> dict:
    """Training labels that go by length, held-out labels that do not."""
    bias = rng.choice([-0.4, 0.5]) * rng.uniform(0.8, 1.2)
    annotator = {"length_bias": bias, "temperature": 10.0}
    return {"annotator": annotator, "learning_rate": 4e-3}


def exploding(rng: random.Random) -> dict:
    """A beta meant for averaged log-probs, on sums."""
    return {"beta": rng.uniform(2, 15)}


FAULTS = dict(
    zip(
        REMEDIES,
        [
            wrong_reference,
            not_learning,
            overfitting,
            drifting,
            displacement,
            diverging,
            early_divergence,
            exploding,
        ],
        strict=True,
    )
)


def planted_run(
    seed: int,
    plant: str | None,
    count: int,
    annotator: dict,
    eval_annotator: dict,
    **settings,
) -> list[dict[str, float]]:
    """The history of 30 steps of 16 pairs, with held-out pairs every five steps."""
    seed_everything(seed)
    nano, tokenizer = load_model("nano")
    policy, reference = copy.deepcopy(nano), None
    pairs = preference_pairs(count, Annotator(seed=seed, **annotator), seed=seed)
    judge = Annotator(seed=seed + 1, **eval_annotator)
    held_out = preference_pairs(64, judge, seed=seed + 1, split="held_out")
    if plant in ("chosen only", "sft term"):
        pairs, held_out = foreign_pairs(seed)
    if plant in ("other reference", "dropout", "sft"):
        reference = nano
    if plant == "other reference":
        for weight in nano.parameters():
            weight.data += 0.05 * weight.std() * torch.randn_like(weight)
    if plant == "sft":
        brief_sft(policy, tokenizer, seed)
    if plant == "frozen":
        policy.requires_grad_(False).transformer.ln_f.bias.requires_grad_(True)
    sizes = {"steps": 30, "batch_size": 16, "adam_epsilon": 1e-3, "seed": seed}
    held = {"eval_rows": held_out, "eval_every": 5, "reference": reference}
    loss = faulty_loss(plant, settings["beta"])
    trainer = TinyDPOTrainer(
        policy, tokenizer, pairs, loss=loss, **sizes, **held, **settings
    )
    policy.train(plant == "dropout")
    with suppress(FloatingPointError):
        trainer.train()
    return trainer.history


def foreign_pairs(seed: int) -> tuple[list, list]:
    """Pairs that `nano` has never seen the like of, cut to sixty characters a text."""
    pairs = load_preferences(data_path("preferences.jsonl"))
    cut = [(p.prompt[:60], p.chosen[:60], p.rejected[:60]) for p in pairs]
    random.Random(seed).shuffle(cut)
    pairs = [PreferencePair(*texts) for texts in cut]
    return pairs[64:], pairs[:64]


def faulty_loss(plant: str | None, beta: float):
    """A loss with a fault in it, or None for `TinyDPOTrainer`'s own."""
    if plant not in ("rejected only", "chosen only", "sft term"):
        return None

    def loss(chosen, rejected, reference_chosen, reference_rejected):
        logps = chosen, rejected, reference_chosen, reference_rejected
        losses, won, lost = dpo_loss(*logps, beta)
        if plant == "sft term":
            return losses - chosen / 10, won, lost
        better, worse = chosen - reference_chosen, rejected - reference_rejected
        half = better if plant == "chosen only" else -worse
        return -F.logsigmoid(beta * half), won, lost

    return loss


def brief_sft(policy, tokenizer, seed: int) -> None:
    """Ten steps of SFT on 16 reviews each."""
    adam = torch.optim.AdamW(policy.parameters(), 1e-3, eps=1e-3)
    for step in range(10):
        rows = corpus(16, seed=100 * seed + step)
        rows = [{"prompt": x, "chosen": y, "rejected": y} for x, y in rows]
        ids = [tokenize_pair(row, tokenizer) for row in rows]
        batch = collate(ids, tokenizer.pad_token_id)  # the reviews, twice
        (-compute_log_probs(policy, **batch).mean() / 10).backward()
        adam.step()
        adam.zero_grad()


def rounded(history: list[dict]) -> list[dict]:
    """Four significant digits; without what the diagnosis has no use for."""
    return [
        {k: float(f"{v:.4g}") for k, v in row.items() if k != "learning_rate"}
        for row in history
    ]


def main() -> None:
    runs = [
        {"split": split, "cause": cause, "seed": first + i}
        for split, (first, counts, healthy) in SPLITS.items()
        for cause, n in zip([*REMEDIES, HEALTHY], [*counts, healthy], strict=True)
        for i in range(n)
    ]
    histories = run_all(planted_run, [plan(r["cause"], r["seed"]) for r in runs])
    for run, history in zip(runs, histories, strict=True):
        run["history"] = rounded(history)
    content = json.dumps(runs, separators=(",", ":")).encode()
    data_path("histories.json.gz").write_bytes(gzip.compress(content, mtime=0))
    for split in SPLITS:
        scores = Counter()
        for run in (r for r in runs if r["split"] == split):
            found = diagnose_training_issues(run["history"])
            named = found[0].cause if found else HEALTHY
            scores[run["cause"] != HEALTHY, named == run["cause"]] += 1
        print(split, "right", scores[True, True], "wrong", scores[True, False], end=" ")
        print("healthy", scores[False, True], "alarms", scores[False, False])


if __name__ == "__main__":
    main()
