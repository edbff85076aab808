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


#: panel: what it shows, its unit, its metrics with their colours, a level to compare
_PANELS = {
    "loss": ("Loss", "nats", {"loss": "policy"}, math.log(2)),
    "margin": ("Margin", "β × nats", {"rewards/margins": "policy"}, 0.0),
    "rewards": (
        "Rewards",
        "β log π/π_ref",
        {"rewards/chosen": "chosen", "rewards/rejected": "rejected"},
        0.0,
    ),
    "accuracy": ("Accuracy", "share", {"rewards/accuracies": "policy"}, 0.5),
    "log-probs": (
        "Log-probs",
        "nats, summed",
        {"logps/chosen": "chosen", "logps/rejected": "rejected"},
        None,
    ),
    "KL": ("KL", "nats", {"kl": "policy"}, 0.0),
}


def _series(history: Sequence[Mapping], name: str) -> tuple[list, list]:
    """Steps and values of one metric in order; a step logged twice counts once."""
    pairs = [(row.get("step"), row.get(name)) for row in history]
    values = dict(pair for pair in pairs if None not in pair)
    return sorted(values), [values[step] for step in sorted(values)]


def plot_dpo_training_metrics(history: Sequence[Mapping]) -> Figure:
    """Loss, margin, rewards and accuracy of a run; below, log-probs and KL if logged.

    `history` holds rows with `step` and TRL's metric names, and `kl`; dots are the same
    metric on held-out pairs (`eval_*`). Dotted are ln 2 for the loss and a coin's one
    half for the accuracy. Titles give the mean over the last fifth of the values. Rows
    may be missing, repeated, unordered, or not finite.
    """
    logged = {name.removeprefix("eval_") for row in history for name in row}
    extra = [k for k in ("log-probs", "KL") if logged & _PANELS[k][2].keys()]
    layout = [["loss", "margin"], ["rewards", "accuracy"]]
    layout += [[extra[0], extra[-1]]] if extra else []
    size = (7.5, 2.2 * len(layout))
    figure, axes = plt.subplot_mosaic(layout, figsize=size, sharex=True)
    for key, axis in axes.items():
        _draw_metrics(axis, history, *_PANELS[key])
    figure.supxlabel("step", fontsize=10)
    return figure


def _draw_metrics(axis, history, title, unit, metrics: Mapping, level) -> None:
    ends = []
    for name, role in metrics.items():
        label = role if len(metrics) > 1 else None
        style = {"color": COLORS[role], "ls": STYLES[role], "label": label}
        steps, values = _series(history, name)
        axis.plot(steps, values, marker="." if len(steps) == 1 else None, **style)
        style |= {"ls": "none", "marker": "o", "mec": "black"}
        style["label"] = None if role == "rejected" else "held out"
        held_out = _series(history, f"eval_{name}")
        if held_out[0]:
            axis.plot(*held_out, **style)
        known = [v for v in values or held_out[1] if math.isfinite(v)]
        tail = known[-max(1, len(known) // 5) :]
        ends += [f"{sum(tail) / len(tail):.2f}"] if tail else []
    if level is not None:
        axis.axhline(level, color=COLORS["reference"], ls=":", lw=1)
    axis.set(ylabel=unit)
    axis.set_title(f"{title}: {' and '.join(ends)} at the end" if ends else title)
    if axis.get_legend_handles_labels()[0]:
        axis.legend()


_SWEEP = {
    "gold": "gold reward",
    "kl": "KL (nats)",
    "accuracy": "accuracy on pairs",
    "words": "words",
    "repeated": "share of repeats",
    "loss": "loss on pairs (nats)",
}


def _with_bars(values: Sequence) -> tuple[list, list[list]]:
    """Numbers, or estimates with `mean`, `low` and `high`, as points and error bars."""
    found = [
        (v.mean, v.low, v.high) if hasattr(v, "low") else (v, v, v) for v in values
    ]
    bars = [[mean - low for mean, low, _ in found], [high - m for m, _, high in found]]
    return [mean for mean, *_ in found], bars


def plot_beta_sweep(table, before: Mapping[str, float] | None = None) -> Figure:
    """Six panels against beta (log axis), means with intervals.

    `table` is that of `experiments.with_intervals`; `before` has the reference's own
    values of some panels, drawn dotted.
    """
    figure, axes = plt.subplots(2, 3, figsize=(7.5, 4.4), sharex=True)
    for axis, (name, label) in zip(axes.flat, _SWEEP.items(), strict=True):
        means, bars = _with_bars(table[name])
        color = COLORS["gold" if name == "gold" else "policy"]
        axis.errorbar(table.index, means, bars, fmt="o-", ms=4, capsize=3, color=color)
        if before and name in before:
            axis.axhline(before[name], color=COLORS["reference"], ls=":", lw=1.5)
        axis.set(xscale="log", ylabel=label)
    figure.supxlabel("beta (log axis)", fontsize=10)
    return figure


def plot_frontier(curves: Mapping[str, tuple[str, str, Sequence, Sequence]]) -> Figure:
    """Gold reward against KL to the reference (log axis), a curve a method.

    `curves` maps a label to a role of `COLORS`, a format such as "o-", and the KLs and
    rewards of its points: numbers, or estimates, which get error bars.
    """
    figure, axis = plt.subplots(figsize=(7.0, 4.2))
    for label, (role, fmt, kls, rewards) in curves.items():
        (x, x_bars), (y, y_bars) = _with_bars(kls), _with_bars(rewards)
        style = {"fmt": fmt, "ms": 5, "capsize": 2, "elinewidth": 1, "label": label}
        axis.errorbar(x, y, y_bars, x_bars, color=COLORS[role], **style)
    axis.set(xscale="log", xlabel="KL to the reference (nats, log axis)")
    axis.set_ylabel("gold reward")
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
