"""What several test files share: a tokenizer and a model small enough to read."""

import os

import pytest
import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

EOS = "<|endoftext|>"


@pytest.fixture(scope="session")
def tokenizer():
    """A byte-level BPE of a few merges; pad and EOS are one token, as in GPT-2."""
    bpe = ByteLevelBPETokenizer()
    texts = ["the soup was good and the bread was stale"] * 4
    bpe.train_from_iterator(texts, vocab_size=300, special_tokens=[EOS])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, eos_token=EOS, pad_token=EOS
    )


@pytest.fixture
def tiny_model():
    """Makes a GPT-2 of two layers from a seed, in eval mode."""

    def make(seed: int = 0, dropout: float = 0.0):
        torch.manual_seed(seed)
        config = GPT2Config(
            vocab_size=300,
            n_positions=512,
            n_embd=16,
            n_layer=2,
            n_head=2,
            bos_token_id=0,
            eos_token_id=0,
            initializer_range=0.5,
            attn_pdrop=dropout,
            embd_pdrop=dropout,
            resid_pdrop=dropout,
        )
        return GPT2LMHeadModel(config).eval()

    return make


@pytest.fixture
def rows():
    """Pairs whose prompts and responses differ in length."""
    return [
        {"prompt": "the soup was", "chosen": " good", "rejected": " stale and bad"},
        {"prompt": "bread", "chosen": " was good and good", "rejected": " no"},
        {"prompt": "the bread and the", "chosen": " soup", "rejected": " bread"},
        {"prompt": "was", "chosen": " the soup good", "rejected": " the soup stale"},
    ]


def skip_or_fail(reason: str) -> None:
    """Skip for want of something outside; fail where COMPLETE is set, as on GitHub."""
    (pytest.fail if os.environ.get("COMPLETE") else pytest.skip)(reason)
