"""Shapes of known models, and what a token keeps in them, from configs alone.

Every field that decides a size is the published config's; models are built on torch's
"meta" device, which knows shapes and holds no numbers. Sizes are numbers of elements.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache

import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
)
from transformers.pytorch_utils import Conv1D

SHAPES: dict[str, PreTrainedConfig] = {
    "nano": GPT2Config(
        vocab_size=962,
        n_positions=128,
        n_embd=128,
        n_layer=4,
        n_head=4,
        bos_token_id=0,
        eos_token_id=0,
    ),
    "distilgpt2": GPT2Config(
        vocab_size=50257, n_positions=1024, n_embd=768, n_layer=6, n_head=12
    ),
    "SmolLM2-135M": LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    ),
    "Qwen2.5-1.5B": Qwen2Config(
        vocab_size=151936,
        hidden_size=1536,
        intermediate_size=8960,
        num_hidden_layers=28,
        num_attention_heads=12,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    ),
    "Mistral-7B": MistralConfig(
        vocab_size=32000,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        tie_word_embeddings=False,
    ),
    "Llama-3-70B": LlamaConfig(
        vocab_size=128256,
        hidden_size=8192,
        intermediate_size=28672,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
        max_position_embeddings=8192,
        tie_word_embeddings=False,
    ),
}

GATED = {"llama", "mistral", "qwen2"}  # families with RMSNorm and a gated MLP


@dataclass(frozen=True)
class Sizes:
    """Numbers of elements in a model's parts.

    `parameters` counts each weight once; `linear` are the matrices inside the blocks,
    `head` the matrix that makes logits, `tied` if that is the input embedding again,
    `block` one whole block, `largest` the largest single tensor, `widest` the largest
    matrix in a block; `edges` is the sum of inputs + outputs over the matrices in the
    blocks.
    """

    parameters: int
    linear: int
    head: int
    tied: bool
    block: int
    largest: int
    widest: int
    edges: int

    def adapters(self, rank: int) -> int:
        """Weights of LoRA adapters of a rank on every matrix in the blocks.

        A is (rank, inputs) and B is (outputs, rank): arXiv 2106.09685, section 4.1.
        """
        return rank * self.edges


def sizes(config: PreTrainedConfig) -> Sizes:
    """The sizes of a causal language model that has this config."""
    return _sizes(type(config), config.to_json_string(use_diff=False))


@cache
def _sizes(family: type[PreTrainedConfig], fields: str) -> Sizes:
    config = family.from_dict(json.loads(fields))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    blocks = _blocks(model, config.num_hidden_layers)
    found = [m for m in blocks.modules() if isinstance(m, torch.nn.Linear | Conv1D)]
    head = model.get_output_embeddings().weight
    return Sizes(
        parameters=model.num_parameters(),
        linear=sum(m.weight.numel() for m in found),
        head=head.numel(),
        tied=head is model.get_input_embeddings().weight,
        block=sum(p.numel() for p in blocks[0].parameters()),
        largest=max(p.numel() for p in model.parameters()),
        widest=max(m.weight.numel() for m in found),
        edges=sum(sum(m.weight.shape) for m in found),
    )


def _blocks(model: torch.nn.Module, layers: int) -> torch.nn.ModuleList:
    """The list of a model's blocks, whatever its family calls it."""
    lists = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList)]
    for found in lists:
        if len(found) == layers:
            return found
    seen = f"{type(model).__name__} has lists of {[len(m) for m in lists]} modules"
    raise ValueError(f"{seen}, expected one of {layers}: give a decoder's config")


def queries(config: PreTrainedConfig) -> int:
    """Numbers in a token's queries, over all heads of one block."""
    heads = config.num_attention_heads
    return heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)


@dataclass(frozen=True)
class Saved:
    """Bytes a token: what forward keeps for backward, in PyTorch.

    `block` is one block's, `edge` a block's input alone (what checkpointing keeps),
    `norm` one norm's, and `moment` what a block's backward makes for a moment: the
    gradients of both factors of the MLP's product, and of its input and output.
    """

    block: int
    edge: int
    norm: int
    moment: int


def saved(config, width: int, rank: int = 0, mask_tokens: int = 0) -> Saved:
    """What a token leaves behind in memory, with `width` bytes a number.

    `rank` is LoRA's, 0 where all weights are trained. `mask_tokens` is the sequence's
    length where padding needs a mask: repeated keys and values, and a row of the mask.
    The blocks are transformers', without dropout, with a fused attention, which keeps
    queries, keys, values, its output and a number a head (arXiv 2205.14135). For
    dropout-free GPT with a GELU in one piece this is the 32 D bytes a token and layer
    of arXiv 2205.05198, section 4.1; "gelu_new", in Python, keeps 5 F numbers, not 2.

    Raises ValueError for a family of models that was not counted.
    """
    if config.model_type not in GATED | {"gpt2"}:
        seen = f"model_type is {config.model_type!r}"
        raise ValueError(f"{seen}, expected gpt2 or one of {sorted(GATED)}")
    D, heads = config.hidden_size, config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", heads)
    keys = queries(config) // heads * (heads if mask_tokens else groups)
    attention = width * (2 * queries(config) + 2 * keys + mask_tokens) + 4 * heads
    if config.model_type == "gpt2":
        inner, norm = config.n_inner or 4 * D, 2 * D * width  # its input and output
        mlp = inner * (5 if config.activation_function == "gelu_new" else 2)
        matrices = 4
    else:  # the input in float32, the output, and if its weight learns the normed
        inner, norm = config.intermediate_size, D * (4 + width * (1 if rank else 2))
        mlp = 4 * inner  # gate, SiLU of it, up, their product
        matrices = 7
    return Saved(
        block=2 * norm + attention + width * (mlp + matrices * rank),
        edge=width * D,
        norm=norm,
        moment=width * 2 * (inner + D),
    )
