"""The words of the cost estimate: a DPO step described, and its memory by part.

`costs` turns the one into the other. Bytes are a device's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import pandas as pd
from transformers import PreTrainedConfig

from .shapes import Saved, Sizes, saved, sizes

STATES = {  # bytes a trained weight: itself, its gradient, a float32 copy, Adam's two
    "float32": (4, 4, 0, 8),
    "mixed": (2, 2, 4, 8),  # bf16 and a float32 copy: ZeRO's 16 bytes
    "bfloat16": (2, 2, 0, 4),  # all of it in bf16, where small updates are lost
}
DIVIDED = {  # what each sharding divides among the devices
    "none": (),
    "zero1": ("optimizer",),
    "zero2": ("optimizer", "gradients"),
    "zero3": ("optimizer", "gradients", "weights", "reference"),
    "fsdp": ("optimizer", "gradients", "weights", "reference"),
}
CHOICES = {
    "trainable": ("full", "lora", "qlora"),
    "reference": ("model", "precomputed", "adapters off"),
    "optimizer": ("adamw", "adamw_fused", "adamw_8bit"),
    "precision": tuple(STATES),
    "sharding": tuple(DIVIDED),
    "logits": ("responses", "everywhere", "tiles"),
}


@dataclass(frozen=True, repr=False)
class Memory:
    """Bytes of each part of a step, each at its largest: they do not all live at once.

    `temporary` lives for a moment: Adam's intermediate results, gradients inside one
    block, gathered weights. `phases` holds what lives together: phase -> part -> bytes.
    The largest phase is the `peak`; its parts are `at_peak` and their sum is `total`.
    """

    weights: float
    gradients: float
    optimizer: float
    reference: float
    activations: float
    logits: float
    temporary: float
    phases: dict[str, dict[str, float]]

    @property
    def peak(self) -> str:
        """The phase that takes most."""
        return max(self.phases, key=lambda name: sum(self.phases[name].values()))

    @property
    def at_peak(self) -> dict[str, float]:
        """Part -> bytes in the peak; the sum is `total`."""
        return self.phases[self.peak]

    @property
    def total(self) -> float:
        """Bytes at the peak."""
        return self.highest(*self.phases)

    def highest(self, *phases: str) -> float:
        """Bytes at the peak of some phases."""
        return max(sum(self.phases[name].values()) for name in phases)

    def table(self) -> pd.DataFrame:
        """Phases by parts, in GB (1e9 bytes)."""
        table = pd.DataFrame(self.phases).T / 1e9
        return table.assign(total=table.sum(axis=1))

    def __repr__(self) -> str:
        head = f"{self.total / 1e9:.2f} GB at the peak, {self.peak!r}"
        return f"{head} (GB)\n{self.table().round(2).to_string()}"

    def _repr_html_(self) -> str:
        return self.table().round(2).to_html()


@dataclass(frozen=True, kw_only=True)
class Step:
    """A DPO step, described: `memory`, `flops` and `step_seconds` take these words.

    `pairs`, on one device, are 2 x `pairs` sequences of `prompt_tokens` +
    `response_tokens`; `padded` batches need a mask. A reference that is a "model"
    computes before the policy does. LoRA's adapters stand on every matrix in the
    blocks. "adamw" is torch's loop over tensors, "adamw_fused" makes no temporaries,
    "adamw_8bit" keeps Adam's averages in 8 bits (an embedding's in 32, as the Trainer
    of transformers does). "zero1" divides the optimiser's state among `devices`,
    "zero2" the gradients too, "zero3" and "fsdp" the weights too, of which two blocks
    and the head are gathered. Logits "everywhere" are the prompts' too, "tiles" are
    TRL's: all positions, a piece at a time. `accumulate`
    keeps gradients of earlier batches. Raises ValueError for what is none of these.
    """

    config: PreTrainedConfig
    pairs: int
    prompt_tokens: int
    response_tokens: int
    trainable: str = "full"
    lora_rank: int = 16
    reference: str = "model"
    checkpointing: bool = False
    optimizer: str = "adamw"
    precision: str = "float32"
    sharding: str = "none"
    devices: int = 1
    logits: str = "responses"
    padded: bool = False
    accumulate: bool = False

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if (seen := getattr(self, name)) not in choices:
                raise ValueError(f"{name} is {seen!r}: expected one of {choices}")
        for name in ("pairs", "response_tokens", "lora_rank", "devices"):
            if (seen := getattr(self, name)) < 1:
                raise ValueError(f"{name} is {seen}: expected 1 or more")
        if self.prompt_tokens < 0:
            raise ValueError(f"prompt_tokens is {self.prompt_tokens}: expected >= 0")
        if self.full and self.reference == "adapters off":
            seen = "reference is 'adapters off', and full training has no adapters"
            raise ValueError(f"{seen}: take 'model' or 'precomputed'")
        if self.devices > 1 and self.sharding == "none":
            seen = f"sharding is 'none' on {self.devices} devices"
            raise ValueError(f"{seen}: each holds all of it, so ask for devices=1")

    @property
    def full(self) -> bool:
        """Whether all weights are trained."""
        return self.trainable == "full"

    @cached_property
    def sizes(self) -> Sizes:
        """The model's parts, in elements."""
        return sizes(self.config)

    @property
    def length(self) -> int:
        """Tokens of a sequence."""
        return self.prompt_tokens + self.response_tokens

    @property
    def tokens(self) -> int:
        """Of a step on one device, chosen and rejected together."""
        return 2 * self.pairs * self.length

    @property
    def rows(self) -> int:
        """Positions that get logits."""
        scored = 2 * self.pairs * self.response_tokens
        return scored if self.logits == "responses" else self.tokens

    @property
    def trained(self) -> int:
        """Weights that are trained."""
        return (
            self.sizes.parameters if self.full else self.sizes.adapters(self.lora_rank)
        )

    @property
    def saved(self) -> Saved:
        """Bytes that a token leaves for the backward pass."""
        width = STATES[self.precision][0]
        rank = 0 if self.full else self.lora_rank
        return saved(self.config, width, rank, self.length if self.padded else 0)
