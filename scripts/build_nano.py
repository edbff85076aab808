"""Build `data/nano`: a small GPT-2 and its tokenizer, trained on the review world.

    python scripts/build_nano.py                   build it and print its figures
    python scripts/build_nano.py --only-measure    print the figures of the one there

Everything is seeded; the figures go into `data/nano/figures.json`.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
from pathlib import Path

import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from dpo_tutorial import data_path
from dpo_tutorial.data import PreferencePair, collate, tokenize_pair
from dpo_tutorial.evaluation import sample_responses
from dpo_tutorial.losses import compute_log_probs
from dpo_tutorial.models import load_model, seed_everything
from dpo_tutorial.reviews import (
    corpus,
    gold_reward,
    parse,
    preference_pairs,
    prompts,
    sample_review,
    supervised_finetune,
)

EOS = "<|endoftext|>"


def build_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE, as GPT-2's: any text can be written, a word is one token."""
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(texts, vocab_size=1200, special_tokens=[EOS])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, eos_token=EOS, bos_token=EOS, pad_token=EOS
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> GPT2LMHeadModel:
    """GPT-2's architecture at about a hundredth of the size of distilgpt2."""
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=128,
        n_embd=128,
        n_layer=4,
        n_head=4,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return GPT2LMHeadModel(config)


@torch.no_grad()
def held_out_loss(model, tokenizer, pairs: list[PreferencePair]) -> float:
    """Mean -log pi(response | prompt) in nats, over both responses of each pair."""
    rows = [tokenize_pair(pair, tokenizer) for pair in pairs]
    batches = [rows[i : i + 100] for i in range(0, len(rows), 100)]
    total = sum(
        compute_log_probs(model, **collate(batch, tokenizer.pad_token_id)).sum().item()
        for batch in batches
    )
    return -total / (2 * len(pairs))


def grammar_entropy(n: int, seed: int) -> tuple[float, float]:
    """The grammar's own -log p(response | prompt) in nats: (mean, standard error)."""
    rng, starts = random.Random(seed), prompts("held_out")
    draws = (sample_review(rng, rng.choice(starts))[1] for _ in range(n))
    values = -torch.tensor(list(draws))
    return values.mean().item(), (values.std() / n**0.5).item()


def measure(model, tokenizer) -> dict[str, float]:
    """The figures that `data/README.md` gives, on held-out prompts."""
    rng = random.Random(5)
    asked = [rng.choice(prompts("held_out")) for _ in range(1000)]
    answers = sample_responses(model, tokenizer, asked, max_new_tokens=96, seed=6)
    both = list(zip(asked, answers, strict=True))
    rewards = torch.tensor([gold_reward(x, y) for x, y in both])
    entropy, error = grammar_entropy(20_000, seed=7)
    loss = held_out_loss(
        model, tokenizer, preference_pairs(2000, seed=8, split="held_out")
    )
    return {
        "parameters": model.num_parameters(),
        "share_of_samples_that_parse": sum(not parse(*b).unparsed for b in both) / 1000,
        "held_out_loss_nats": round(loss, 3),
        "grammar_entropy_nats": round(entropy, 3),
        "grammar_entropy_standard_error": round(error, 3),
        "loss_over_entropy": round(loss / entropy, 4),
        "gold_reward_mean": round(rewards.mean().item(), 3),
        "gold_reward_standard_deviation": round(rewards.std().item(), 3),
    }


def build(steps: int) -> None:
    """Train tokenizer and model; replace `data/nano` when both are done."""
    seed_everything(0)
    examples = corpus(60_000, seed=11)
    tokenizer = build_tokenizer([x + y for x, y in examples[:20_000]])
    model = build_model(tokenizer)
    log = supervised_finetune(
        model, tokenizer, examples, steps=steps, batch_size=64, learning_rate=3e-3
    )
    print([round(row["loss"], 3) for row in log if "loss" in row])
    target = data_path("nano")
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        folder = Path(scratch) / "nano"
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        shutil.rmtree(target, ignore_errors=True)
        folder.rename(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only-measure", action="store_true")
    parser.add_argument("--steps", type=int, default=2000)
    arguments = parser.parse_args()
    if not arguments.only_measure:
        build(arguments.steps)
    figures = measure(*load_model("nano"))
    text = json.dumps(figures, indent=2) + "\n"
    (data_path("nano") / "figures.json").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
