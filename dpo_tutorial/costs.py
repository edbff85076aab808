"""What a DPO step costs in memory and time, from a model's config alone.

Training states: ZeRO (arXiv 1910.02054, section 3). Activations: Korthikanti et al.
(arXiv 2205.05198, section 4), counted anew in `shapes`. LoRA: arXiv 2106.09685. QLoRA:
arXiv 2305.14314. Operations: Kaplan et al. (arXiv 2001.08361, section 2.1). Not
counted: what the libraries themselves take, and an allocator's waste.
`benchmarks/memory.py` sets the estimates against measured processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from transformers import PreTrainedConfig

from .footprint import DIVIDED, STATES, Memory, Step
from .shapes import SHAPES, queries

NF4 = 1 / 2 + (1 + 4 / 256) / 64  # 4 bits, a scale of 8 for 64, its own of 32 for 256
EIGHT_BIT = 2 * (1 + 4 / 256)  # Adam's two averages in bytes, a scale for 256
COPIES = 3  # of the logits at once: log-softmax, its gradient, theirs, in float32


def memory(config: PreTrainedConfig, **step) -> Memory:
    """Memory of a step on one device, phase by phase; the words are `Step`'s."""
    s = Step(config=config, **step)
    n, g, share, kept = s.sizes, STATES[s.precision][1], _shares(s), s.saved
    states = _states(s)
    fixed = {k: v * share(k) for k, v in states.items() if k != "gradients"}
    early = states["gradients"] * share("gradients") if s.accumulate else 0
    late = states["gradients"] * share("gradients")
    head = max(early, n.head * g * share("gradients") if s.full else 0)
    layers, (loss, one) = s.config.num_hidden_layers, _logits(s)
    each = kept.edge if s.checkpointing else kept.block
    forward = s.tokens * (layers * each + kept.norm)
    again = s.tokens * kept.block if s.checkpointing else 0  # a block's second forward
    moment, gathered = s.tokens * kept.moment, _gathered(s)
    last = s.tokens * kept.block + moment + gathered  # the first block goes last
    tied = 2 * n.head * g if s.full and n.tied else 0  # head's, embedding's, their sum
    phases = {
        "loss": (early, forward, loss, gathered),
        "head": (head, forward, one, gathered),
        "blocks": (head, forward + again, 0, moment + gathered),
        "end of backward": (late, 0, 0, max(last, tied)),
        "optimizer": (late, 0, 0, _intermediate(s) * share("optimizer")),
    }
    names = ("gradients", "activations", "logits", "temporary")
    both = {k: fixed | dict(zip(names, v, strict=True)) for k, v in phases.items()}
    parts = {part: max(p[part] for p in both.values()) for part in (*fixed, *names)}
    return Memory(**parts, phases=both)


def _states(s: Step) -> dict[str, float]:
    """Weights, gradients, optimiser and reference, before any sharding."""
    weight, gradient, copy, adam = STATES[s.precision]
    base = s.sizes.parameters * weight
    if s.trainable == "qlora":
        base += s.sizes.linear * (NF4 - weight)
    averages = adam * s.trained
    if s.optimizer == "adamw_8bit":
        wide = s.sizes.head if s.full else 0  # the embedding, as large as the head
        averages = EIGHT_BIT * (s.trained - wide) + adam * wide
    return {
        "weights": base + (0 if s.full else s.trained * weight),
        "gradients": s.trained * gradient,
        "optimizer": s.trained * copy + averages,
        "reference": base if s.reference == "model" else 0,
    }


def _logits(s: Step) -> tuple[float, float]:
    """Logits and their gradients as backward begins, and at the head's own."""
    if s.logits == "tiles":  # TRL's: 4,096 tokens by 32,768 words, twice in one buffer
        tile = min(s.rows, 4096) * min(s.config.vocab_size, 32768)
        return (tile * STATES[s.precision][0],) * 2
    one, width = 4 * s.rows * s.config.vocab_size, STATES[s.precision][0]
    original = one * width / 4 if width < 4 else 0  # stays while its copies are made
    return COPIES * one + original, one


def _shares(s: Step):
    """What a device holds of a part: all of it, or one of `devices` shares."""
    return lambda part: 1 / s.devices if part in DIVIDED[s.sharding] else 1


def _gathered(s: Step) -> float:
    """Weights that are whole for a moment, and gradients before they are divided."""
    weight, gradient, *_ = STATES[s.precision]
    unpacked = 2 * s.sizes.widest if s.trainable == "qlora" else 0
    if "weights" not in DIVIDED[s.sharding] or s.devices == 1:
        return unpacked
    packed = NF4 if s.trainable == "qlora" else weight
    whole = packed * 2 * s.sizes.block + weight * s.sizes.head
    return unpacked + whole + (gradient * s.sizes.block if s.full else 0)


def _intermediate(s: Step) -> float:
    """Torch's loop makes two tensors of the size of the one that it updates."""
    if s.optimizer != "adamw":
        return 0
    largest = s.sizes.largest if s.full else s.lora_rank * s.config.hidden_size
    return 2 * largest * STATES[s.precision][3] / 2


def flops(config: PreTrainedConfig, **step) -> float:
    """Operations of a step on one device: a product and a sum are two of them.

    Forward takes 2 for each token and weight of a matrix, and attention 4 for each
    token, query number and earlier token. Backward makes the inputs' gradients and the
    weights', each as dear; LoRA needs the latter of adapters only. Checkpointing adds
    the blocks' forward, "tiles" the head's, a reference that is not precomputed one of
    each. "6 N a token" is this without attention and reference.
    """
    s = Step(config=config, **step)
    attention = 4 * s.tokens * s.config.num_hidden_layers * queries(config)
    attention *= s.length / 2  # the other half is masked
    blocks, head = 2 * s.tokens * s.sizes.linear, 2 * s.rows * s.sizes.head
    adapters = 0 if s.full else 2 * s.tokens * s.trained
    forward = blocks + head + attention + adapters
    backward = (1 + s.full) * (blocks + head) + 2 * (attention + adapters)
    again = s.checkpointing * (forward - head) + (s.logits == "tiles") * head
    reference = 0 if s.reference == "precomputed" else forward - adapters
    return forward + backward + again + reference


def step_seconds(config: PreTrainedConfig, *, flops_per_second: float, **step) -> float:
    """Seconds of a step at a rate that was reached, not the one a vendor states.

    Time to update weights and to talk to other devices is not counted.
    """
    if not flops_per_second > 0:
        raise ValueError(f"flops_per_second is {flops_per_second}: expected above 0")
    return flops(config, **step) / flops_per_second


_LEAN = {"reference": "precomputed", "checkpointing": True, "optimizer": "adamw_fused"}
_ADAPTED = {**_LEAN, "reference": "adapters off", "precision": "bfloat16"}
METHODS: dict[str, dict] = {
    "full, reference beside it": {"precision": "mixed", "optimizer": "adamw_fused"},
    "+ reference precomputed": {**_LEAN, "precision": "mixed", "checkpointing": False},
    "+ checkpointing": {**_LEAN, "precision": "mixed"},
    "+ 8-bit Adam, all in bf16": {
        **_LEAN,
        "precision": "bfloat16",
        "optimizer": "adamw_8bit",
    },
    "LoRA, rank 16": {**_ADAPTED, "trainable": "lora"},
    "QLoRA, rank 16": {**_ADAPTED, "trainable": "qlora"},
}


def what_fits(
    cards: Sequence[float] = (16, 24, 48, 80),
    *,
    shapes: Mapping[str, PreTrainedConfig] | None = None,
    methods: Mapping[str, dict] | None = None,
    pairs: int = 1,
    prompt_tokens: int = 512,
    response_tokens: int = 512,
    usable: float = 0.9,
    most: int = 64,
) -> pd.DataFrame:
    """Cards needed, by shape and method: 1, or 2, 4, ... `most` under ZeRO-3.

    `cards` are sizes in GB (1e9 bytes), of which the share `usable` is counted on: the
    rest goes to the driver, libraries and fragments. `pairs` go to each card, and
    gradients are accumulated. "GB" is the need on one card; <NA> where `most` are too
    few. `shapes` (name -> config) and `methods` (name -> `Step`'s words) default to
    `SHAPES` and `METHODS`.
    """
    if not 0 < usable <= 1 or most < 1 or not all(card > 0 for card in cards):
        seen = f"cards {cards}, usable {usable}, most {most}"
        raise ValueError(
            f"{seen}: expected sizes above 0, a share in (0, 1], 1 or more"
        )
    sizes = {"prompt_tokens": prompt_tokens, "response_tokens": response_tokens}
    rows = {}
    for name, config in (shapes or SHAPES).items():
        for method, words in (methods or METHODS).items():
            step = {"pairs": pairs, **sizes, "accumulate": True, **words}
            rows[name, method] = _row(config, step, cards, usable, most)
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index.names = ["shape", "method"]
    return table.astype({f"{card:g} GB": "Int64" for card in cards})


def _row(config, step: dict, cards: Sequence[float], usable: float, most: int) -> dict:
    """GB on one card, and how many of each size are needed."""
    counts = [2**i for i in range(most.bit_length())]
    need = {1: memory(config, **step).total / 1e9}
    for n in counts[1:]:
        need[n] = memory(config, **step, sharding="zero3", devices=n).total / 1e9
    row = {"GB": need[1]}
    for card in cards:
        enough = [n for n in counts if need[n] <= usable * card]
        row[f"{card:g} GB"] = min(enough, default=None)
    return row
