"""Each loss, descended on exact preferences, ends at the optimum its paper gives it."""

import torch

from dpo_tutorial.losses import dpo_loss

RESPONSES, STRENGTH, STEPS = 5, 0.4, 400  # STRENGTH: DPO's beta, IPO's tau


def world(prompts: int = 3, seed: int = 0):
    """Rewards and reference log-probs (prompts, responses), float64."""
    generator = torch.Generator().manual_seed(seed)
    shape = (2, prompts, RESPONSES)
    reward, logits = torch.randn(shape, generator=generator, dtype=torch.float64)
    return reward, logits.log_softmax(-1)


def descend(reward, log_ref, loss_type: str, rate: float):
    """The table policy's log-probs after gradient descent from the reference."""
    first, second = torch.triu_indices(RESPONSES, RESPONSES, 1)
    win = (reward[:, first] - reward[:, second]).sigmoid()  # Bradley-Terry
    theta = log_ref.clone().requires_grad_()
    reference = log_ref[:, first], log_ref[:, second]
    for _ in range(STEPS):
        log_pi = theta.log_softmax(-1)
        one, two = log_pi[:, first], log_pi[:, second]
        ahead, *_ = dpo_loss(one, two, *reference, STRENGTH, loss_type=loss_type)
        behind, *_ = dpo_loss(two, one, *reference[::-1], STRENGTH, loss_type=loss_type)
        loss = (win * ahead + (1 - win) * behind).mean()
        (gradient,) = torch.autograd.grad(loss, theta)
        with torch.no_grad():
            theta -= rate * gradient
    return theta.detach().log_softmax(-1)


def test_dpo_ends_at_the_optimum_of_rlhf():
    reward, log_ref = world()
    optimum = (log_ref + reward / STRENGTH).log_softmax(-1)  # 2305.18290, eq. 4
    fit = descend(reward, log_ref, "sigmoid", rate=150.0)
    torch.testing.assert_close(fit, optimum, rtol=0, atol=1e-8)


def test_ipo_ends_at_the_optimum_for_win_probability():
    reward, log_ref = world()
    beats_mu = (reward[:, :, None] - reward[:, None, :]).sigmoid().mean(-1)
    optimum = (log_ref + beats_mu / STRENGTH).log_softmax(-1)  # 2310.12036, Psi = id
    fit = descend(reward, log_ref, "ipo", rate=3.0)
    torch.testing.assert_close(fit, optimum, rtol=0, atol=1e-8)


def test_gradient_is_the_papers():
    log_random, log_ref = (t.log_softmax(-1) for t in world())
    theta = log_random.clone().requires_grad_()
    ratio = STRENGTH * (theta.log_softmax(-1) - log_ref)
    chosen, rejected = theta.log_softmax(-1)[:, 0], theta.log_softmax(-1)[:, 1]
    loss, *_ = dpo_loss(chosen, rejected, log_ref[:, 0], log_ref[:, 1], STRENGTH)
    (by_autograd,) = torch.autograd.grad(loss.sum(), theta, retain_graph=True)
    weight = (ratio[:, 1] - ratio[:, 0]).sigmoid().detach()
    (closed,) = torch.autograd.grad(
        (-STRENGTH * weight * (chosen - rejected)).sum(), theta
    )
    torch.testing.assert_close(by_autograd, closed, rtol=0, atol=1e-12)
