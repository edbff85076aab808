"""One look for every figure of the course.

Colours are Okabe and Ito's (https://jfly.uni-koeln.de/color/), told apart by readers
with any colour vision; a line style goes with each so that print in grey works too.
"""

from __future__ import annotations

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
