"""Watching a run: its log is kept and drawn as it comes, and read for what is wrong.

Metric names are TRL's: `rewards/*` carry beta, `logps/*` are sums over a response, in
nats, `eval_*` are on held-out pairs. `preflight` looks before the first step.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from .diagnosis import Issue, diagnose_training_issues
from .findings import Finding, Findings
from .preflight import preflight

__all__ = [
    "Finding",
    "Findings",
    "Issue",
    "MetricsRecorder",
    "diagnose_training_issues",
    "preflight",
    "read_history",
]


class MetricsRecorder(TrainerCallback):
    """Keeps each row that a trainer logs, and draws them while it trains.

    `TinyDPOTrainer(on_log=recorder)` and `DPOTrainer(callbacks=[recorder])`. `history`
    gets the rows, each with its `step`; TRL's closing row of totals goes to `summary`.
    With `path` each row is also appended to that file as a line of JSON when it comes,
    so that nothing is lost when a run is cut; what the file holds already is taken up
    first, so give each run its own. With `live`, `plot_dpo_training_metrics` is drawn
    in one place of the notebook every `every` steps, and with the last row when the
    cell ends, be it by an interrupt; `show` does so at any time.
    """

    def __init__(
        self, path: str | Path | None = None, *, live: bool = False, every: int = 5
    ) -> None:
        if every < 1:
            raise ValueError(f"every is {every}: expected a number of steps, 1 or more")
        self.path = None if path is None else Path(path)
        self.live, self.every = live, every
        self.history = read_history(self.path) if self.path else []
        self.summary: dict[str, float] = {}
        self._place, self._drawn, self._waits = None, float("-inf"), False

    def __call__(self, row: Mapping[str, Any]) -> None:
        """Take a row, as `TinyDPOTrainer` hands it to `on_log`."""
        numbers = {k: v for k, v in row.items() if isinstance(v, (int, float))}
        if "train_runtime" in row:
            self.summary = numbers
            return
        self.history.append(numbers)
        if self.path:
            _append(self.path, numbers)
        if self.live:
            self._redraw(numbers["step"])

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        """Take TRL's row; its step is the state's where the row has none."""
        if logs and state.is_world_process_zero:
            self({"step": state.global_step, **logs})

    def _redraw(self, step: float) -> None:
        from IPython import get_ipython

        shell = get_ipython()
        if shell and not self._waits:
            shell.events.register("post_run_cell", self._finish)
            self._waits = True
        if step - self._drawn >= self.every:
            self.show()

    def _finish(self, *_) -> None:
        """At the end of the cell: draw what is not drawn yet."""
        from IPython import get_ipython

        get_ipython().events.unregister("post_run_cell", self._finish)
        self._waits = False
        self.show()

    def show(self) -> None:
        """Draw the history in the notebook, in place of what was drawn before."""
        import matplotlib.pyplot as plt
        from IPython.display import display

        from .plotting import plot_dpo_training_metrics

        if not self.history:
            return
        figure = plot_dpo_training_metrics(self.history)
        if self._place is None:
            self._place = display(figure, display_id=True)
        else:
            self._place.update(figure)
        self._drawn = self.history[-1]["step"]
        plt.close(figure)  # or the notebook shows it a second time


def _append(path: Path, row: Mapping[str, float]) -> None:
    """Add a line; a last one that was cut short makes way for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        file.seek(max(0, file.seek(0, 2) - 1))
        if file.read() not in (b"", b"\n"):
            file.seek(0)
            whole, newline, last = file.read().rpartition(b"\n")
            if _row(last) is None:
                file.truncate(len(whole + newline))
            else:
                file.write(b"\n")
        file.write(json.dumps(row).encode() + b"\n")


def _row(line: bytes) -> dict[str, float] | None:
    """The row that a line holds; None if it holds none."""
    with suppress(ValueError):
        if isinstance(row := json.loads(line), dict):
            return row
    return None


def read_history(path: str | Path) -> list[dict[str, float]]:
    """The rows of a `MetricsRecorder`'s file; none where there is no file.

    A last line that was cut short, so that it has no newline, is left out. Raises
    ValueError for any other line that is neither a row nor blank.
    """
    path = Path(path)
    *lines, last = path.read_bytes().split(b"\n") if path.exists() else [b""]
    rows = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            rows.append(_row(line))
            if rows[-1] is None:
                seen = f"{path}, line {number}, is {line[:60]!r}"
                want = "expected a JSON object: mend the line or take it out"
                raise ValueError(f"{seen}; {want}")
    return rows + [row for row in [_row(last)] if row is not None]
