"""The clinic's cases: each cause of trouble as settings of `clinic.trial`, the repairs
that articles name for it as what they change in them, and the figures that tell.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Mapping
from math import log
from statistics import fmean
from typing import Any

from . import faults
from .preflight import preflight
from .tax import run_tasks

#: `see`: the symptom; `cause`; `plant`: settings of `trial`; `repairs`: by name, what
#: they change in it (None: what a healthy run has); `by`: the figure of `vitals` that
#: tells; `remember`: one line
Case = namedtuple("Case", ["see", "cause", "plant", "repairs", "by", "remember"])
_MEANS = {  # beta 2 on the mean of 20 tokens is as steep as beta 0.1 on their sum
    "average_log_probs": True,
    "beta": 2.0,
    "adam_epsilon": 1e-3,
    "max_grad_norm": 1.0,
}
SEEDS = (1, 2, 3)
LESS = ("words", "flattery", "nats a word", "held-out loss")  # the less the better
CASES = {
    "verbosity": Case(
        "responses grow longer and longer",
        "labels that like length",
        {"annotator": {"length_bias": 0.4, "temperature": 1.0}},
        {
            "balance the lengths": {"curate": faults.balanced},
            "drop long winners": {"curate": faults.no_long_winners},
            "normalise by length": _MEANS,
        },
        "words",
        "No curve shows a liking that training and held-out labels share: count words.",
    ),
    "flattery": Case(
        "responses flatter the reader",
        "labels that like flattery",
        {"annotator": {"flattery_bias": 6.0}},
        {
            "drop flattering winners": {"curate": faults.no_flattery},
            "add counter-examples": {"curate": faults.counter_examples},
        },
        "flattery",
        "A rare remark that wins whenever it appears becomes the habit.",
    ),
    "noisy labels": Case(
        "the loss falls, the text gets no better",
        "few labels, two in five of them turned round",
        {"count": 48, "annotator": {"label_noise": 0.4}},
        {
            "careful labels": {"annotator": {"label_noise": 0.05}},
            "keep agreed labels": {"curate": faults.agreed},
            "sample on policy": {"make": faults.on_policy},
        },
        "gold",
        "A falling training loss on noisy labels is the noise, learnt by heart.",
    ),
    "easy pairs": Case(
        "the loss falls to almost nothing, the text gets no better",
        "rejected responses that the policy would never give",
        {"make": faults.scrambled},
        {"sample on policy": {"make": faults.on_policy}},
        "gold",
        "Accuracy of 1 means that the pairs were easy, not that the policy is good.",
    ),
    "forgetting": Case(
        "other skills of the model get lost",
        "a low beta, a high rate",
        {"beta": 0.01, "learning_rate": 6e-3},
        {
            "raise beta": {"beta": 1.0},
            "add an SFT term": {"loss": faults.sft_term},
            "mix in the corpus": {"loss": faults.corpus_mixed_in},
            "take fewer steps": {"steps": 8},
        },
        "nats a word",
        "The reward on the task does not show what was paid for it: test the rest.",
    ),
    "collapse": Case(
        "responses repeat themselves and fall apart",
        "a learning rate ten times too high",
        {"learning_rate": 2e-2},
        {
            "raise beta": {"beta": 1.0},
            "lower the rate": {"learning_rate": None},
            "stop early": {"early": True},
        },
        "parses",
        "Beta sets the goal, not the step: it does not tame a rate that is too high.",
    ),
    "overfitting": Case(
        "training and held-out loss part early",
        "few pairs, seen many times",
        {"count": 24, "learning_rate": 4e-3},
        {
            "more pairs": {"count": None},
            "fewer epochs": {"steps": 5},
            "smooth the labels": {"label_smoothing": 0.2},
            "stop early": {"early": True},
        },
        "held-out loss",
        "Held-out loss is not the text: to stop sooner mended the one, cost the other.",
    ),
}
_BUGS = {
    "reference not frozen": ("the loss stays at ln 2", {"loss": faults.own_reference}),
    "EOS missing": ("nothing in the curves", {"batch": faults.no_eos}),
    "pads scored": (
        "the first loss is not ln 2",
        {"batch": faults.pads_scored, "guard": False},
    ),
    "prompt scored": ("both rewards are lower", {"batch": faults.prompt_scored}),
    "dropout on": (
        "the first loss is not ln 2",
        {"dropout": True, "guard": False},
    ),
    "beta reversed": ("loss and rewards are huge", {"loss": faults.divided_by_beta}),
    "labels swapped": ("the text gets worse", {"curate": faults.swapped}),
    "averages, beta for sums": ("the loss hardly falls", {"average_log_probs": True}),
}
BUGS = {
    name: Case(see, name, plant, {}, "gold", "") for name, (see, plant) in _BUGS.items()
}
BUGS["averages, beta for sums"].repairs["beta for averages"] = _MEANS
HEALTHY = Case("", "nothing", {}, {}, "gold", "")


def wards() -> list[dict[str, Any]]:
    """Every run: its case, treatment ("planted" is one), seed, and `trial`'s settings.

    A run with nothing left to set is the healthy one of its seed, and shared.
    """
    healthy, rows = {"check": preflight, "tasks": run_tasks}, []
    for name, case in {"healthy": HEALTHY, **CASES, **BUGS}.items():
        tasks = {"tasks": run_tasks} if case.by == "nats a word" else {}
        for treatment, change in {"planted": {}, **case.repairs}.items():
            merged = {k: v for k, v in (case.plant | change).items() if v is not None}
            also = {"check": preflight} if treatment == "planted" else {}
            merged |= also | tasks if merged else healthy
            for seed in SEEDS[: 1 if name in BUGS else None]:
                settings = {"seed": seed, **merged}
                row = {"case": name, "treatment": treatment, "seed": seed}
                rows.append(row | {"settings": settings})
    return rows


def vitals(settings: Mapping, result: Mapping) -> dict[str, float]:
    """The figures of a run: means over its 96 responses, losses in nats.

    `flattery` is the share that flatters, `distinct` that of different responses. The
    training loss is over the last third; the held-out loss is that of the weights kept.
    `nats a word` is the log of the perplexity on neutral reviews, where tasks were run:
    a perplexity is no quantity to average.
    """
    n = len(result["text"])
    found = {k: fmean(result[k]) for k in ("gold", "kl", "words", "parses")}
    found["flattery"] = sum(map(bool, result["flattery"])) / n
    found["distinct"] = len(set(result["text"])) / n
    losses = [row["loss"] for row in result["history"] if "loss" in row]
    held_out = [r["eval_loss"] for r in result["history"] if "eval_loss" in r]
    found["training loss"] = fmean(losses[-(len(losses) // 3) :])
    found["held-out loss"] = min(held_out) if settings.get("early") else held_out[-1]
    if (tasks := result["tasks"]) is not None:
        scores = tasks["score"].rename(lambda name: name.removeprefix("dpo_")).to_dict()
        found |= {"nats a word": log(scores.pop("neutral")), **scores}
    return found
