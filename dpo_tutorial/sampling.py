"""Measuring a policy: seeded samples, KL to the reference, means with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor

from .losses import IGNORE, compute_log_probs


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval; prints as `0.52 [0.47, 0.57]`."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Estimate:
    """Student's t interval for the mean of independent `values` (at least two)."""
    x = torch.as_tensor(values, dtype=torch.float64)
    if x.numel() < 2:
        raise ValueError(f"{x.numel()} value(s): an interval needs at least two")
    half = x.std().item() / x.numel() ** 0.5
    half *= float(stats.t.ppf(0.5 + confidence / 2, x.numel() - 1))
    return Estimate(x.mean().item(), x.mean().item() - half, x.mean().item() + half)


@torch.no_grad()
def sample_batch(
    model,
    tokenizer,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    seed: int = 0,
    batch_size: int = 256,
) -> list[dict[str, Tensor]]:
    """One sampled response a prompt, as batches for `compute_log_probs`.

    Each batch holds `input_ids`, `attention_mask` and `labels`, (B, T): the prompts
    padded on the left, the responses up to and with EOS scored, the rest masked by
    position and not by token id. The global random state is left as it was.
    """
    batches = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for start in range(0, len(prompts), batch_size):
            part = list(prompts[start : start + batch_size])
            asked = tokenizer(
                part, return_tensors="pt", padding=True, padding_side="left"
            )
            asked = {
                k: asked[k].to(model.device) for k in ("input_ids", "attention_mask")
            }
            drawn = model.generate(
                **asked,
                do_sample=True,
                temperature=temperature,
                top_k=0,
                top_p=1.0,
                max_new_tokens=max_new_tokens,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
            response = drawn[:, asked["input_ids"].shape[1] :]  # (B, R)
            ended = (response == tokenizer.eos_token_id).cumsum(1)
            scored = (ended - (response == tokenizer.eos_token_id).long()) == 0
            labels = torch.full_like(drawn, IGNORE)
            labels[:, -response.shape[1] :] = response.where(scored, IGNORE)
            mask = torch.cat([asked["attention_mask"], scored.long()], dim=1)
            batches.append(
                {"input_ids": drawn, "attention_mask": mask, "labels": labels}
            )
    return batches


def sample_responses(model, tokenizer, prompts: Sequence[str], **options) -> list[str]:
    """One sampled response a prompt, as text without EOS; options as `sample_batch`."""
    texts = []
    for batch in sample_batch(model, tokenizer, prompts, **options):
        for row in batch["labels"]:
            texts.append(tokenizer.decode(row[row != IGNORE], skip_special_tokens=True))
    return texts


@torch.no_grad()
def sequence_kl(
    policy, reference, tokenizer, prompts: Sequence[str], **options
) -> Estimate:
    """KL(policy || reference) of whole responses, in nats, averaged over prompts.

    The mean of log pi(y|x) - log ref(y|x) over y sampled from the policy (one a
    prompt), with its interval: unbiased at temperature 1, and so by default.
    """
    gaps = [
        compute_log_probs(policy, **batch) - compute_log_probs(reference, **batch)
        for batch in sample_batch(policy, tokenizer, prompts, **options)
    ]
    return mean_interval(torch.cat(gaps).tolist())
