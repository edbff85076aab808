"""Log-probabilities of responses, DPO's loss and its variants, pure and per example.

DPO: arXiv 2305.18290. Hinge: SLiC-HF, arXiv 2305.10425. cDPO: Mitchell 2023, "A note on
DPO with noisy preferences". Robust: arXiv 2403.00409. APO: arXiv 2408.06266. IPO: arXiv
2310.12036. KTO: arXiv 2402.01306. ORPO: arXiv 2403.07691. SimPO: arXiv 2405.14734.
Log-probabilities are in nats; "summed" and "averaged" are over response tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LOSS_TYPES = ("sigmoid", "robust", "hinge", "ipo", "apo_zero")
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
        seen = f"rows {rows} have no scored token (all labels are {IGNORE})"
        remedy = "drop them, or raise the length that truncates them"
        raise ValueError(f"{seen}, expected a response in each: {remedy}")
    device = next(model.parameters()).device
    mask = attention_mask.to(device)
    inputs = {"input_ids": input_ids.to(device), "attention_mask": mask}
    if not attention_mask[:, 0].all():  # left padding: count from the text
        inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
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

    The four inputs are log-probabilities (batch,), summed; higher `beta` keeps the
    policy closer to the reference. With rho = log pi(y)/ref(y), h = rho_w - rho_l and
    eps = `label_smoothing`, the chance that a label is wrong, `loss_type` is

    - "sigmoid": -(1 - eps) log sigmoid(beta h) - eps log sigmoid(-beta h): DPO (arXiv
      2305.18290, eq. 7), or cDPO with eps > 0. Given averages it is length-normalised
      DPO (TRL's "sigmoid_norm"), which wants a beta near 2;
    - "robust": the same with +eps, over 1 - 2 eps: DPO's loss under the true labels, in
      expectation over noisy ones (arXiv 2403.00409);
    - "hinge": max(0, 1 - beta h);
    - "ipo": `ipo_loss` with beta as its tau;
    - "apo_zero": 1 - sigmoid(beta rho_w) + sigmoid(beta rho_l).

    Rewards are beta rho, detached. Raises ValueError for a beta of zero or less, an
    unknown loss, a smoothing outside [0, 0.5) or that the loss does not use, and for
    inputs that are not of one shape.
    """
    chosen, rejected = policy_chosen_logps, policy_rejected_logps
    _check(beta, chosen, rejected, reference_chosen_logps, reference_rejected_logps)
    _check_loss_type(loss_type, label_smoothing)
    rho_w = chosen - reference_chosen_logps  # (B,)
    rho_l = rejected - reference_rejected_logps  # (B,)
    h, eps = rho_w - rho_l, label_smoothing
    right, wrong = -F.logsigmoid(beta * h), -F.logsigmoid(-beta * h)
    if loss_type == "sigmoid":
        losses = (1 - eps) * right + eps * wrong
    elif loss_type == "robust":
        losses = ((1 - eps) * right - eps * wrong) / (1 - 2 * eps)
    elif loss_type == "hinge":
        losses = torch.relu(1 - beta * h)
    elif loss_type == "ipo":
        losses = ipo_loss(h, tau=beta)
    else:
        losses = 1 - torch.sigmoid(beta * rho_w) + torch.sigmoid(beta * rho_l)
    return losses, (beta * rho_w).detach(), (beta * rho_l).detach()


def ipo_loss(h: Tensor, tau: float = 0.1) -> Tensor:
    """IPO: (h - 1 / (2 tau))^2, (batch,), of the log-ratio gap h = rho_w - rho_l.

    The gap (batch,) carries no beta. Summed it gives the paper's loss (arXiv
    2310.12036, eq. 17), this package's default; TRL averages, which the authors told
    its maintainers to do (trl#1265): give the gap of averaged log-probabilities.
    """
    _check(tau, h)
    return (h - 1 / (2 * tau)) ** 2


def kto_reference_point(policy_logps: Tensor, reference_logps: Tensor) -> Tensor:
    """KTO's z0: a KL estimate from *mismatched* (x, y'), detached, clamped at 0: ().

    Both are (batch,), summed, of responses that belong to other prompts of the batch,
    which needs at least two (arXiv 2402.01306, section 4.1); ValueError with fewer.
    """
    _check(1.0, policy_logps, reference_logps)
    if len(policy_logps) < 2:
        seen = f"{len(policy_logps)} row(s), expected two or more to mismatch"
        raise ValueError(f"{seen}: raise the batch size")
    return (policy_logps - reference_logps).mean().detach().clamp(min=0)


def kto_loss(
    policy_logps: Tensor,
    reference_logps: Tensor,
    desirable: Tensor,
    reference_point: Tensor,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """KTO, of unpaired thumbs: (batch,) (arXiv 2402.01306, section 4.1).

    Log-probabilities (batch,) are summed, `desirable` is a bool (batch,), z0 is
    `kto_reference_point`'s. A good answer costs 1 - sigmoid(beta (rho - z0)), a bad one
    1 - sigmoid(beta (z0 - rho)), each times its weight.
    """
    _check(beta, policy_logps, reference_logps, desirable)
    gain = beta * (policy_logps - reference_logps - reference_point)  # (B,)
    good = desirable_weight * (1 - torch.sigmoid(gain))
    return torch.where(desirable, good, undesirable_weight * (1 - torch.sigmoid(-gain)))


def orpo_loss(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    beta: float = 0.1,
    chosen_nll: Tensor | None = None,
) -> Tensor:
    """ORPO: NLL of the chosen - beta log sigmoid(log odds ratio): (batch,).

    Inputs are *averaged* log-probabilities (batch,) of the policy; there is no
    reference. log odds(p) = log p - log(1 - p) (arXiv 2403.07691, eq. 4 to 7). The NLL
    is -`chosen_logps`; give another as `chosen_nll` (TRL's has the prompt, trl#1676).
    """
    _check(beta, chosen_logps, rejected_logps)
    odds_ratio = _log_odds(chosen_logps) - _log_odds(rejected_logps)  # (B,)
    nll = -chosen_logps if chosen_nll is None else chosen_nll
    return nll - beta * F.logsigmoid(odds_ratio)


def _log_odds(logps: Tensor) -> Tensor:
    """log p - log(1 - p), finite from p near 0 to p = 1."""
    return logps - torch.log(-torch.expm1(logps.clamp(max=-1e-6)))


def simpo_loss(
    chosen_logps: Tensor, rejected_logps: Tensor, beta: float = 2.0, gamma: float = 1.0
) -> Tensor:
    """SimPO: -log sigmoid(beta (gap) - gamma): (batch,) (arXiv 2405.14734, eq. 6).

    Inputs are *averaged* log-probabilities (batch,) of the policy; there is no
    reference. `gamma` is absolute, as TRL's `simpo_gamma`; papers tune gamma / beta.
    """
    _check(beta, chosen_logps, rejected_logps)
    return -F.logsigmoid(beta * (chosen_logps - rejected_logps) - gamma)


def _check(beta: float, *rows: Tensor) -> None:
    shapes = [tuple(t.shape) for t in rows]
    if len(set(shapes)) > 1:
        raise ValueError(f"log-prob shapes are {shapes}: expected one, (batch,)")
    if not beta > 0:
        raise ValueError(f"beta is {beta}: expected a number above 0, such as 0.1")


def _check_loss_type(loss_type: str, label_smoothing: float) -> None:
    if loss_type not in LOSS_TYPES:
        raise ValueError(f"loss_type is {loss_type!r}: expected one of {LOSS_TYPES}")
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing is {label_smoothing}: expected [0, 0.5)")
    if label_smoothing and loss_type not in ("sigmoid", "robust"):
        seen = f"loss_type {loss_type!r} does not use label_smoothing"
        raise ValueError(f"{seen} ({label_smoothing}): set it to 0, or take 'robust'")
