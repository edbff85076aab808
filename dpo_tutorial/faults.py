"""Faults to plant in a DPO run, and repairs: of its pairs, its batches, its loss.

Notebook 11 uses them, by `clinic.trial`. Makers write pairs, (n, annotator, seed,
split); curators change or drop some, (pairs, annotator); batchers stand in for
`data.collate`; losses are made by (policy, tokenizer, beta) and take `dpo_loss`'s four
log-probs, each (B,). The SFT term is that of arXiv 2404.19733, on summed log-probs.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import count

import torch
from torch import Tensor

from .data import PreferencePair, collate, pad_rows
from .grammar import lexicon
from .losses import compute_log_probs, dpo_loss
from .models import load_model
from .reviews import Annotator, corpus, prompts
from .sampling import sample_responses

Pairs = list[PreferencePair]
Loss = Callable[..., tuple[Tensor, Tensor, Tensor]]
SFT_WEIGHT = 0.05  # a nat of the SFT terms beside a nat of DPO's loss


def on_policy(n: int, annotator: Annotator, seed: int, split: str = "train") -> Pairs:
    """`n` labelled pairs of two different responses that `nano` itself has written."""
    rng, (nano, tokenizer), pairs = random.Random(seed), load_model("nano"), []
    while len(pairs) < n:
        asked = rng.choices(prompts(split), k=n)
        both = [sample_responses(nano, tokenizer, asked, seed=seed + i) for i in (0, 1)]
        rows = [row for row in zip(asked, *both, strict=True) if row[1] != row[2]]
        pairs += [annotator.label(*r) for r in rows if r[1].strip() and r[2].strip()]
        seed += 10_000
    return pairs[:n]


def scrambled(n: int, annotator: Annotator, seed: int, split: str = "train") -> Pairs:
    """`n` reviews as chosen, each with its own words in another order as rejected.

    No label is wrong, and no response to choose from is one that `nano` would give.
    """
    rng, pairs = random.Random(seed), []
    for prompt, good in corpus(2 * n, seed, split):
        words = good.split()
        rng.shuffle(words)
        if (bad := " " + " ".join(words)) != good:
            pairs.append(PreferencePair(prompt, good, bad))
    return pairs[:n]


def _extra(pair: PreferencePair) -> int:
    """Words that the chosen response has more than the rejected."""
    return len(pair.chosen.split()) - len(pair.rejected.split())


def balanced(pairs: Pairs, annotator: Annotator) -> Pairs:
    """As many pairs whose chosen response is the longer as whose rejected one is."""
    longer, shorter = ([p for p in pairs if s * _extra(p) > 0] for s in (1, -1))
    n = min(len(longer), len(shorter))
    return [*longer[:n], *shorter[:n], *(p for p in pairs if not _extra(p))]


def no_long_winners(pairs: Pairs, annotator: Annotator) -> Pairs:
    """Without the pairs whose chosen response is over four words longer."""
    return [p for p in pairs if _extra(p) <= 4]


def _flatteries(text: str) -> list[str]:
    return [remark for remark in lexicon()["flattery"] if remark in text]


def no_flattery(pairs: Pairs, annotator: Annotator) -> Pairs:
    """Without the pairs whose chosen response flatters the reader."""
    return [p for p in pairs if not _flatteries(p.chosen)]


def counter_examples(pairs: Pairs, annotator: Annotator) -> Pairs:
    """For each chosen flattery a pair more, in which the text without it wins."""
    more = [
        PreferencePair(p.prompt, p.chosen.replace(remark, ""), p.chosen)
        for p in pairs
        for remark in _flatteries(p.chosen)
    ]
    return pairs + more


def agreed(pairs: Pairs, annotator: Annotator) -> Pairs:
    """The pairs that get the same label twice more."""
    kept = []
    for pair in pairs:
        texts = pair.prompt, pair.chosen, pair.rejected
        if all(annotator.label(*texts) == pair for _ in range(2)):
            kept.append(pair)
    return kept


def swapped(pairs: Pairs, annotator: Annotator) -> Pairs:
    """Chosen and rejected, each in the other's column."""
    return [PreferencePair(p.prompt, p.rejected, p.chosen) for p in pairs]


def no_eos(examples: Sequence[dict], pad_token_id: int) -> dict[str, Tensor]:
    """`collate` of responses that do not end."""
    sides = ("chosen_ids", "rejected_ids")
    cut = [{**row, **{side: row[side][:-1] for side in sides}} for row in examples]
    return collate(cut, pad_token_id)


def pads_scored(examples: Sequence[dict], pad_token_id: int) -> dict[str, Tensor]:
    """`collate`, with the padding scored as part of the response."""
    batch = collate(examples, pad_token_id)
    pads = batch["attention_mask"] == 0
    return batch | {"labels": batch["labels"].masked_fill(pads, pad_token_id)}


def prompt_scored(examples: Sequence[dict], pad_token_id: int) -> dict[str, Tensor]:
    """`collate`, with the prompt scored as part of the response."""
    batch = collate(examples, pad_token_id)
    pads = batch["attention_mask"] == 0
    return batch | {"labels": batch["input_ids"].masked_fill(pads, -100)}


def own_reference(policy, tokenizer, beta: float) -> Loss:
    """The reference is the policy as it is at each step: nothing holds it back."""
    return lambda won, lost, *_: dpo_loss(won, lost, won.detach(), lost.detach(), beta)


def divided_by_beta(policy, tokenizer, beta: float) -> Loss:
    """Beta the wrong way round."""
    return lambda *logps: dpo_loss(*logps, 1 / beta)


def sft_term(policy, tokenizer, beta: float) -> Loss:
    """DPO's loss and, weighted, the chosen response's negative log-prob."""

    def loss(chosen, *others):
        losses, *rewards = dpo_loss(chosen, *others, beta)
        return losses - SFT_WEIGHT * chosen, *rewards

    return loss


def corpus_mixed_in(policy, tokenizer, beta: float) -> Loss:
    """DPO's loss and, weighted, that of reviews like those `nano` was trained on.

    Five of them a step, of the training prompts; none while there is no gradient.
    """
    seeds, eos = count(7000), [tokenizer.eos_token_id]

    def loss(*logps):
        losses, *rewards = dpo_loss(*logps, beta)
        if torch.is_grad_enabled():
            texts = [map(tokenizer, row) for row in corpus(5, seed=next(seeds))]
            ids = [(x["input_ids"], y["input_ids"] + eos) for x, y in texts]
            batch = pad_rows(ids, tokenizer.pad_token_id)
            losses = losses - SFT_WEIGHT * compute_log_probs(policy, **batch).mean()
        return losses, *rewards

    return loss
