"""One look for every figure of the course.

Colours are Okabe and Ito's (https://jfly.uni-koeln.de/color/), told apart by readers
with any colour vision; a line style goes with each so that print in grey works too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

#: what a colour means, the same in every notebook
COLORS = {
    "chosen": "#0072B2",  # blue, solid
    "rejected": "#D55E00",  # vermillion, dashed
    "policy": "#CC79A7",  # purple
    "reference": "#666666",  # grey, dotted
    "gold": "#E69F00",  # orange: the true reward
    "accent": "#009E73",  # green: anything else (never beside vermillion)
    "proxy": "#56B4E9",  # sky blue: a learnt reward
}
STYLES = {"chosen": "-", "rejected": "--", "policy": "-", "reference": ":"}


def use_style() -> None:
    """Set matplotlib's defaults for the course: 6 x 3.5 inches, 10 pt, light grid."""
    plt.rcParams.update(
        {
            "figure.figsize": (6.0, 3.5),
            "figure.dpi": 96,
            "figure.constrained_layout.use": True,
            "font.size": 10,
            "axes.titlesize": 11,
            "axes.labelsize": 10,
            "legend.fontsize": 10,
            "legend.frameon": False,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.3,
            "lines.linewidth": 1.8,
        }
    )


def _series(history: Sequence[Mapping], name: str) -> tuple[list, list]:
    """Steps and values of one metric, from the rows that have it."""
    rows = [row for row in history if name in row]
    return [row["step"] for row in rows], [row[name] for row in rows]


def plot_dpo_training_metrics(history: Sequence[Mapping]) -> Figure:
    """Loss, rewards, accuracy and log-probs of a run, as a 2 x 2 figure.

    `history` holds rows with `step` and TRL's metric names; dots are the same
    metric on held-out pairs (`eval_*`), where it was logged.
    """
    panels = [
        ("Loss: starts at ln 2", "nats", {"loss": "policy"}, math.log(2)),
        (
            "Rewards: the margin grows",
            "β log π/π_ref (nats)",
            {"rewards/chosen": "chosen", "rewards/rejected": "rejected"},
            0.0,
        ),
        ("Accuracy: above a coin", "share", {"rewards/accuracies": "policy"}, 0.5),
        (
            "Log-probs: which way do they go?",
            "sum over a response (nats)",
            {"logps/chosen": "chosen", "logps/rejected": "rejected"},
            None,
        ),
    ]
    figure, axes = plt.subplots(2, 2, figsize=(7.5, 5), sharex=True)
    for axis, (title, unit, metrics, level) in zip(axes.flat, panels, strict=True):
        for name, role in metrics.items():
            label = name.split("/")[-1] if len(metrics) > 1 else None
            style = {"color": COLORS[role], "ls": STYLES[role], "label": label}
            axis.plot(*_series(history, name), **style)
            style |= {"ls": "none", "marker": "o", "mec": "black"}
            style["label"] = None if role == "rejected" else "held out"
            if _series(history, f"eval_{name}")[0]:
                axis.plot(*_series(history, f"eval_{name}"), **style)
        if level is not None:
            axis.axhline(level, color=COLORS["reference"], ls=":", lw=1)
        axis.set(title=title, ylabel=unit)
        axis.legend()
    figure.supxlabel("step", fontsize=10)
    return figure
