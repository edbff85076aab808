"""Log-probabilities of responses and the DPO loss, pure and per example.

DPO: Rafailov et al. 2023, arXiv 2305.18290. IPO: Azar et al. 2023, arXiv 2310.12036.
Hinge: SLiC-HF, Zhao et al. 2023, arXiv 2305.10425. Label smoothing (cDPO): Mitchell
2023, "A note on DPO with noisy preferences". Log-probabilities are in nats.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LOSS_TYPES = ("sigmoid", "hinge", "ipo")
IGNORE = -100  # the label of a token that is not scored


def compute_log_probs(
    model, input_ids: Tensor, attention_mask: Tensor, labels: Tensor
) -> Tensor:
    """Log-probability of each row's scored tokens, summed: (batch,), in nats.

    All three inputs are (batch, length). `labels` hold the token where it is scored and
    -100 elsewhere (prompt, padding). Logits are made only at positions before a scored
    token, for the other rows of the batch too, so that memory follows the responses'
    length. Padding may stand on either side; inputs are moved to the model's device.
    Source: arXiv 2305.18290, eq. 7, where log pi(y | x) is the sum over the response's
    tokens, not their mean.

    Raises ValueError where a row has no scored token: its response is empty, or was
    truncated away.
    """
    targets = labels[:, 1:]  # (B, T-1): position t predicts token t + 1
    scored = targets != IGNORE
    if not scored.any(dim=1).all():
        rows = (~scored.any(dim=1)).nonzero().flatten().tolist()
        raise ValueError(
            f"rows {rows} have no scored token (all labels are {IGNORE}), expected a "
            "response in each: drop them, or raise the length that truncates them"
        )
    device = next(model.parameters()).device
    inputs = {
        "input_ids": input_ids.to(device),
        "attention_mask": attention_mask.to(device),
    }
    if not attention_mask[:, 0].all():  # left padding: count positions from the text
        inputs["position_ids"] = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
    keep = scored.any(dim=0).nonzero().flatten().to(device)  # (K,)
    logits = model(**inputs, logits_to_keep=keep, use_cache=False).logits  # (B, K, V)
    token_losses = F.cross_entropy(
        logits.float().transpose(1, 2),  # (B, V, K)
        targets.to(device)[:, keep],
        ignore_index=IGNORE,
        reduction="none",
    )  # (B, K), 0 where the label is -100
    return -token_losses.sum(dim=1)


def dpo_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    loss_type: str = "sigmoid",
) -> tuple[Tensor, Tensor, Tensor]:
    """DPO's loss and implicit rewards: three tensors (batch,).

    The four inputs are log-probabilities (batch,), summed over response tokens, in
    nats. Higher `beta` keeps the policy closer to the reference. With the gap
    h = log pi(y_w)/ref(y_w) - log pi(y_l)/ref(y_l), `loss_type` is

    - "sigmoid": -log sigmoid(beta h) (arXiv 2305.18290, eq. 7); `label_smoothing` eps,
      the chance that a label is wrong, mixes in -eps log sigmoid(-beta h) (cDPO);
    - "hinge": max(0, 1 - beta h);
    - "ipo": (h - 1 / (2 beta))^2, beta being the paper's tau (arXiv 2310.12036,
      eq. 17). Given sums this is the paper's loss; TRL averages over tokens, after
      asking the authors: give it log-probabilities divided by the response lengths.

    Rewards are beta log pi/ref, detached. Raises ValueError for a beta of zero or less,
    an unknown loss, a smoothing outside [0, 0.5) or not used by the loss, and for
    inputs that are not of one shape.
    """
    logps = (
        policy_chosen_logps,
        policy_rejected_logps,
        reference_chosen_logps,
        reference_rejected_logps,
    )
    _check_loss(logps, beta, label_smoothing, loss_type)
    chosen_ratio = policy_chosen_logps - reference_chosen_logps  # (B,)
    rejected_ratio = policy_rejected_logps - reference_rejected_logps  # (B,)
    h = chosen_ratio - rejected_ratio
    if loss_type == "sigmoid":
        eps = label_smoothing
        losses = -(1 - eps) * F.logsigmoid(beta * h) - eps * F.logsigmoid(-beta * h)
    elif loss_type == "hinge":
        losses = torch.relu(1 - beta * h)
    else:
        losses = (h - 1 / (2 * beta)) ** 2
    return losses, (beta * chosen_ratio).detach(), (beta * rejected_ratio).detach()


def _check_loss(
    logps: tuple[Tensor, ...], beta: float, label_smoothing: float, loss_type: str
) -> None:
    shapes = [tuple(t.shape) for t in logps]
    if len(set(shapes)) > 1:
        raise ValueError(f"log-prob shapes are {shapes}: expected one, (batch,)")
    if not beta > 0:
        raise ValueError(
            f"beta is {beta}: expected a number above 0, such as 0.1; higher values "
            "keep the policy closer to the reference"
        )
    if loss_type not in LOSS_TYPES:
        raise ValueError(f"loss_type is {loss_type!r}: expected one of {LOSS_TYPES}")
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing is {label_smoothing}: expected [0, 0.5)")
    if label_smoothing and loss_type != "sigmoid":
        raise ValueError(
            f"loss_type {loss_type!r} does not use label_smoothing "
            f"({label_smoothing}): set it to 0, or take 'sigmoid'"
        )
