"""What a training loop keeps on disk, written whole; only its own run takes it up."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from . import written_whole

_STATEFUL = ("model", "adam", "schedule")
_PLAIN = (bool, int, float, str, torch.dtype)


class Resumable:
    """`save` and `resume` of `TinyDPOTrainer`: weights, optimiser, history, place."""

    def _settings(self) -> dict[str, Any]:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {k: v for k, v in values.items() if isinstance(v, _PLAIN)}

    def save(self, folder: str | Path) -> None:
        """Write what `resume` needs to `folder`/state.pt, whole or not at all."""
        state = {part: getattr(self, part).state_dict() for part in _STATEFUL}
        state["settings"] = self._settings()
        state["references"] = [self.train_reference, self.eval_reference]
        state["progress"] = [self.step, self.history]
        with written_whole(Path(folder) / "state.pt") as scratch:
            torch.save(state, scratch)

    def resume(self, folder: str | Path) -> None:
        """Take up the run `save` left in `folder`; ValueError if it was another one."""
        state = torch.load(Path(folder) / "state.pt", weights_only=True)
        if state["settings"] != self._settings():
            seen = f"{folder} holds a run with {state['settings']}"
            raise ValueError(f"{seen}: make the trainer with those settings")
        for part in _STATEFUL:
            getattr(self, part).load_state_dict(state[part])
        self.train_reference, self.eval_reference = state["references"]
        self.step, self.history = state["progress"]
