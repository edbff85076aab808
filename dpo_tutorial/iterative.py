"""Iterative DPO: rounds of fresh samples, labels and steps, one adapter through all.

Pairs drawn from the current policy follow Guo et al. 2024 (arXiv 2402.04792), in rounds
as in Xiong et al. 2023 (arXiv 2312.11456); a reference that moves is that of
Gorbatovski et al. 2024 (arXiv 2404.09656). Runs of `nano`, for `experiments.run_all`.
"""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from .data import PreferencePair, collate
from .experiments import measure
from .losses import compute_log_probs
from .models import load_model, seed_everything
from .reviews import Annotator, prompts
from .sampling import sample_responses
from .training import TinyDPOTrainer


def iterative_run(
    seed: int = 0,
    moved: bool = False,
    fresh: bool = True,
    betas: Sequence[float] = (0.1, 0.1, 0.1),
    rates: Sequence[float] = (6e-3, 6e-3, 6e-3),
    steps: int = 8,
    batch_size: int = 12,
) -> list[dict[str, float]]:
    """A round for each of `betas` and `rates`: sample the policy, label, train `steps`.

    The reference is the SFT model; with `moved`, the policy as the round begins. Not
    `fresh`, the pairs of all rounds are the SFT model's: what is left is the restarts.
    Returns a row a round, as `offline_run`: `gold`, `kl` (to the SFT model, in nats)
    and `words` on held-out prompts; `labels` and `steps` so far; `share_before` and
    `share_after`, the on-policy share of the round's data (see `on_policy_share`).
    """
    sft, policy, tokenizer = _models(seed)
    rows = []
    for k, (beta, rate) in enumerate(zip(betas, rates, strict=True)):
        sampler = merged(policy) if fresh else sft
        pairs = labelled_pairs(sampler, tokenizer, steps * batch_size, 100 * seed + k)
        settings = {"beta": beta, "learning_rate": rate, "steps": steps}
        reference = None if moved else sft
        trainer = _trainer(policy, tokenizer, pairs, reference, settings, batch_size)
        drawn = _logps(sampler, trainer)
        shares = [on_policy_share(_logps(merged(policy), trainer), drawn)]
        trainer.train()
        shares.append(on_policy_share(_logps(merged(policy), trainer), drawn))
        rows.append(_row(k, policy, sft, tokenizer, seed, shares))
        rows[-1] |= {"labels": (k + 1) * len(pairs), "steps": (k + 1) * trainer.step}
    return rows


def offline_run(
    seed: int = 0,
    beta: float = 0.1,
    rate: float = 6e-3,
    rounds: int = 3,
    steps: int = 8,
    batch_size: int = 12,
) -> list[dict[str, float]]:
    """One round with the labels and steps of `rounds`: all pairs are the SFT model's.

    Measured as often as `iterative_run`; the shares are those of all the data.
    """
    sft, policy, tokenizer = _models(seed)
    size, pairs = steps * batch_size, []
    for k in range(rounds):
        pairs += labelled_pairs(sft, tokenizer, size, 100 * seed + k)
    settings = {"beta": beta, "learning_rate": rate, "steps": rounds * steps}
    trainer = _trainer(policy, tokenizer, pairs, sft, settings, batch_size)
    drawn = _logps(sft, trainer)
    rows, shares = [], [1.0]
    for k in range(rounds):
        trainer.train(until=(k + 1) * steps)
        shares.append(on_policy_share(_logps(merged(policy), trainer), drawn))
        rows.append(_row(k, policy, sft, tokenizer, seed, shares[-2:]))
        rows[-1] |= {"labels": (k + 1) * size, "steps": trainer.step}
    return rows


def on_policy_share(policy_logps: Tensor, sampler_logps: Tensor) -> float:
    """How much of a sampler's data the policy could have drawn: from 0 to 1.

    The mean of min(1, pi(y|x) / q(y|x)) over y drawn from the sampler q, given as
    log-probs (n,): it estimates the sum over y of min(pi, q), which is 1 less the
    total variation distance; speculative sampling accepts that share of drafts
    (Leviathan et al. 2023, arXiv 2211.17192).
    """
    return (policy_logps - sampler_logps).clamp(max=0).exp().mean().item()


def labelled_pairs(model, tokenizer, n: int, seed: int) -> list[PreferencePair]:
    """`n` pairs of two different samples of the model, labelled by the annotator."""
    rng, annotator = random.Random(seed), Annotator(seed=seed)
    starts, pairs = prompts("train"), []
    while len(pairs) < n:
        asked = [rng.choice(starts) for _ in range(2 * max(16, n - len(pairs)))]
        asked[1::2] = asked[::2]  # two samples a prompt
        texts = sample_responses(
            model, tokenizer, asked, seed=rng.randrange(2**31), batch_size=64
        )
        for prompt, a, b in zip(asked[::2], texts[::2], texts[1::2], strict=True):
            if a != b and a.strip() and b.strip():
                pairs.append(annotator.label(prompt, a, b))
    return pairs[:n]


def merged(policy):
    """A plain copy of a PEFT model with its adapter in the weights: quicker to run."""
    return copy.deepcopy(policy).merge_and_unload()


def _models(seed: int):
    """The SFT model, a policy of it with a fresh LoRA adapter, the tokenizer."""
    from peft import LoraConfig, get_peft_model

    sft, tokenizer = load_model("nano")
    shape = {"r": 8, "lora_alpha": 8, "target_modules": "all-linear"}
    config = LoraConfig(**shape, task_type="CAUSAL_LM", fan_in_fan_out=True)
    seed_everything(seed)  # the adapter's start is drawn
    with warnings.catch_warnings():  # PEFT asks transformers by an old name
        warnings.simplefilter("ignore", FutureWarning)
        policy = get_peft_model(copy.deepcopy(sft), config).eval()
    return sft, policy, tokenizer


def _trainer(policy, tokenizer, pairs, reference, settings, batch_size):
    options = {"batch_size": batch_size, "adam_epsilon": 1e-6}
    return TinyDPOTrainer(policy, tokenizer, pairs, reference, **settings, **options)


@torch.no_grad()
def _logps(model, trainer: TinyDPOTrainer, pairs: int = 64) -> Tensor:
    """Log-probs of the responses of the trainer's first pairs: (2 * pairs,)."""
    rows = collate(trainer.train_ids[:pairs], trainer.tokenizer.pad_token_id)
    return compute_log_probs(model, **rows)


def _row(k: int, policy, sft, tokenizer, seed: int, shares) -> dict[str, float]:
    asked = prompts("held_out")[:80]
    found = measure(merged(policy), sft, tokenizer, asked, seed=1000 + seed)
    row = {
        name: sum(found[name]) / len(found[name]) for name in ("gold", "kl", "words")
    }
    return row | {"round": k + 1, "share_before": shares[0], "share_after": shares[1]}
