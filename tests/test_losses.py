"""Log-probs and losses: hand-made values, naive forms, properties."""

import math

import pytest
import torch

from dpo_tutorial.data import collate, tokenize_pair
from dpo_tutorial.losses import (
    LOSS_TYPES,
    compute_log_probs,
    dpo_loss,
    ipo_loss,
    kto_loss,
    kto_reference_point,
    orpo_loss,
    simpo_loss,
)

LN2 = math.log(2)


class TableModel(torch.nn.Module):
    """Returns the same log-odds whatever it reads: two tokens, p(token 1) = 0.75."""

    def __init__(self):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.log(torch.tensor([0.25, 0.75])))

    def forward(self, input_ids, attention_mask, logits_to_keep, use_cache):
        shape = (input_ids.shape[0], len(logits_to_keep), 2)
        return type("Output", (), {"logits": self.logits.expand(shape)})


def naive_log_probs(model, input_ids, attention_mask, labels):
    """The definition, token by token, over all the vocabulary."""
    logits = model(input_ids=input_ids, attention_mask=attention_mask).logits
    logps, total = logits.log_softmax(-1), torch.zeros(len(labels))
    for row in range(labels.shape[0]):
        for t in range(1, labels.shape[1]):
            if labels[row, t] != -100:
                total[row] += logps[row, t - 1, labels[row, t]]
    return total


def test_log_probs_on_a_two_by_two_tensor_are_sums():
    ids = torch.tensor([[0, 1, 1], [0, 0, 1]])
    labels = torch.tensor([[-100, 1, 1], [-100, -100, 1]])
    found = compute_log_probs(TableModel(), ids, torch.ones_like(ids), labels)
    expected = [2 * math.log(0.75), math.log(0.75)]  # a mean would make them equal
    assert found.tolist() == pytest.approx(expected, abs=1e-6)


def test_log_probs_equal_the_naive_form(tiny_model, tokenizer, rows):
    model = tiny_model()
    ids = [tokenize_pair(row, tokenizer) for row in rows]
    batch = collate(ids, tokenizer.pad_token_id)
    found = compute_log_probs(model, **batch)
    assert torch.allclose(found, naive_log_probs(model, **batch), atol=1e-5)


def test_padding_changes_nothing_on_either_side(tiny_model, tokenizer, rows):
    model = tiny_model()
    batch = collate([tokenize_pair(rows[0], tokenizer)], tokenizer.pad_token_id)
    plain = compute_log_probs(model, **batch)
    fill = {"input_ids": tokenizer.pad_token_id, "attention_mask": 0, "labels": -100}
    for left, right in ((0, 5), (5, 0)):
        padded = {
            name: torch.nn.functional.pad(batch[name], (left, right), value=value)
            for name, value in fill.items()
        }
        found = compute_log_probs(model, **padded)
        assert torch.allclose(found, plain, atol=1e-5), (left, right)


def test_a_row_with_nothing_scored_is_an_error(tiny_model):
    ids = torch.tensor([[1, 2, 3], [1, 2, 3]])
    labels = torch.tensor([[-100, 2, 3], [-100, -100, -100]])
    with pytest.raises(ValueError, match=r"rows \[1\] have no scored token"):
        compute_log_probs(tiny_model(), ids, torch.ones_like(ids), labels)


def logps(*values):
    return tuple(torch.tensor([v], dtype=torch.float64) for v in values)


def test_zero_margin_gives_ln_2():
    losses, *_ = dpo_loss(*logps(-5.0, -9.0, -5.0, -9.0))
    assert losses.item() == pytest.approx(LN2, abs=1e-12)


def test_values_by_hand():
    # log-ratios: chosen -2 - (-3) = 1, rejected -4 - (-2) = -2, gap 3
    inputs = logps(-2.0, -4.0, -3.0, -2.0)
    losses, chosen, rejected = dpo_loss(*inputs, beta=0.5)
    assert losses.item() == pytest.approx(math.log(1 + math.exp(-1.5)), abs=1e-6)
    assert (chosen.item(), rejected.item()) == pytest.approx((0.5, -1.0))
    assert dpo_loss(*inputs, beta=0.1, loss_type="hinge")[0].item() == pytest.approx(
        0.7
    )


def test_ipo_squares_the_gap_without_beta():
    # Trap 3: (h - 1 / (2 beta))^2 with h = 3, not (beta h - 1 / (2 beta))^2
    losses, *_ = dpo_loss(*logps(-2.0, -4.0, -3.0, -2.0), beta=0.5, loss_type="ipo")
    assert losses.item() == pytest.approx((3 - 1) ** 2)


def test_label_smoothing_is_the_mixture():
    inputs = logps(-2.0, -4.0, -3.0, -2.0)
    turned = logps(-4.0, -2.0, -2.0, -3.0)
    mixed = 0.8 * dpo_loss(*inputs)[0] + 0.2 * dpo_loss(*turned)[0]
    assert torch.allclose(dpo_loss(*inputs, label_smoothing=0.2)[0], mixed, atol=1e-12)


def test_swapping_flips_the_margin():
    a, b = torch.randn(5), torch.randn(5)
    zero = torch.zeros(5)
    _, chosen, rejected = dpo_loss(a, b, zero, zero)
    _, chosen_2, rejected_2 = dpo_loss(b, a, zero, zero)
    assert torch.allclose(chosen - rejected, -(chosen_2 - rejected_2))


def test_higher_beta_stays_closer_to_the_reference():
    """Trap 1: the loss's minimum over a two-response policy moves in with beta."""
    distances = []
    for beta in (0.1, 0.5, 2.0):
        logit = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([logit], max_iter=200)

        def closure(beta=beta, logit=logit, optimizer=optimizer):
            optimizer.zero_grad()
            won = torch.nn.functional.logsigmoid(logit)
            lost = torch.nn.functional.logsigmoid(-logit)
            half = torch.full((1,), -LN2, dtype=torch.float64)
            loss = 0.7 * dpo_loss(won, lost, half, half, beta)[0]
            loss = loss + 0.3 * dpo_loss(lost, won, half, half, beta)[0]
            loss.backward()
            return loss

        optimizer.step(closure)
        distances.append(abs(logit.item()))
    expected = [math.log(0.7 / 0.3) / beta for beta in (0.1, 0.5, 2.0)]
    assert distances == pytest.approx(expected, rel=1e-3)


def test_rewards_carry_beta_and_no_gradient():
    policy = torch.tensor([-2.0], requires_grad=True)
    zero = torch.zeros(1)
    losses, chosen, rejected = dpo_loss(policy, zero, zero, zero, beta=0.3)
    assert chosen.item() == pytest.approx(-0.6)
    assert not chosen.requires_grad
    assert not rejected.requires_grad
    assert losses.requires_grad


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"beta": 0.0}, "beta is 0.0"),
        ({"beta": -1.0}, "beta is -1.0"),
        ({"beta": float("nan")}, "beta is nan"),
        ({"loss_type": "dop"}, "loss_type is 'dop'"),
        ({"label_smoothing": 0.5}, "label_smoothing is 0.5"),
        ({"label_smoothing": 0.1, "loss_type": "ipo"}, "does not use label_smoothing"),
    ],
)
def test_bad_settings_are_errors(options, words):
    with pytest.raises(ValueError, match=words):
        dpo_loss(*logps(-1.0, -1.0, -1.0, -1.0), **options)


def test_shapes_that_would_broadcast_are_an_error():
    column = torch.zeros(3, 1)
    with pytest.raises(ValueError, match="log-prob shapes"):
        dpo_loss(column, torch.zeros(3), torch.zeros(3), torch.zeros(3))


def column(*values):
    return torch.tensor(values, dtype=torch.float64)


def sigma(x):
    return 1 / (1 + math.exp(-x))


def test_apo_zero_by_hand():
    inputs = logps(-2.0, -4.0, -3.0, -2.0)  # log-ratios 1 and -2
    losses, *_ = dpo_loss(*inputs, beta=0.5, loss_type="apo_zero")
    assert losses.item() == pytest.approx(1 - sigma(0.5) + sigma(-1.0), abs=1e-6)


def test_robust_by_hand():
    options = {"beta": 0.5, "loss_type": "robust", "label_smoothing": 0.2}
    losses, *_ = dpo_loss(*logps(-2.0, -4.0, -3.0, -2.0), **options)  # beta h = 1.5
    right, wrong = -math.log(sigma(1.5)), -math.log(sigma(-1.5))
    assert losses.item() == pytest.approx((0.8 * right - 0.2 * wrong) / 0.6, abs=1e-6)


@pytest.mark.parametrize("eps", [0.1, 0.3, 0.45])
def test_robust_is_the_clean_loss_in_expectation_over_flipped_labels(eps):
    """arXiv 2403.00409; cDPO's mixture is not unbiased."""
    torch.manual_seed(0)
    inputs = [torch.randn(50, dtype=torch.float64) * 5 for _ in range(4)]
    flipped = [inputs[i] for i in (1, 0, 3, 2)]
    clean = dpo_loss(*inputs, beta=0.7)[0]
    for loss_type, unbiased in (("robust", True), ("sigmoid", False)):
        options = {"beta": 0.7, "label_smoothing": eps, "loss_type": loss_type}
        expected = (1 - eps) * dpo_loss(*inputs, **options)[0]
        expected = expected + eps * dpo_loss(*flipped, **options)[0]
        assert torch.allclose(expected, clean, atol=1e-9) == unbiased, loss_type


# A share p of annotators prefers the first of two responses: where is the loss least?
OPTIMA = {
    "sigmoid": lambda p, beta: math.log(p / (1 - p)) / beta,  # Psi = log odds: DPO
    "ipo": lambda p, tau: (p - 0.5) / tau,  # Psi = identity (arXiv 2310.12036)
}


@pytest.mark.parametrize("loss_type", OPTIMA)
@pytest.mark.parametrize("p", [0.6, 0.9, 0.999])
@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_psi_sets_the_optimum(loss_type, p, beta):
    """Trap 4: log odds go to infinity as p goes to 1; the identity stays bounded."""
    best = OPTIMA[loss_type](p, beta)
    h = (best + column(-1.0, 0.0, 1.0)).requires_grad_()
    zero = torch.zeros_like(h)
    for_, against = (
        dpo_loss(*pair, zero, zero, beta, loss_type=loss_type)[0]
        for pair in ((h, zero), (zero, h))
    )
    (p * for_ + (1 - p) * against).sum().backward()
    below, at, above = h.grad.tolist()
    assert abs(at) < 1e-9
    assert below < -1e-6
    assert above > 1e-6


def test_cdpo_stops_where_the_reward_gap_is_the_log_odds_of_its_noise():
    """With labels all one way DPO never stops; cDPO does, at sigmoid(beta h) = 1-eps"""
    beta, eps = 0.5, 0.1
    h = column(math.log((1 - eps) / eps) / beta).requires_grad_()
    zero = torch.zeros_like(h)
    slopes = []
    for smoothing in (eps, 0.0):
        loss, *_ = dpo_loss(h, zero, zero, zero, beta, label_smoothing=smoothing)
        slopes.append(torch.autograd.grad(loss.sum(), h)[0].item())
    assert slopes == pytest.approx([0.0, -beta * eps], abs=1e-9)


@pytest.mark.parametrize("tau", [0.1, 0.5])
def test_ipo_of_sums_is_the_papers_and_of_averages_is_trls(tau):
    """Trap 3: eq. 17 of arXiv 2310.12036, from token probabilities written out."""
    chosen, rejected = [0.5, 0.2, 0.6], [0.05]
    ref_chosen, ref_rejected = [0.3, 0.2, 0.4], [0.1]
    tokens = (chosen, rejected, ref_chosen, ref_rejected)
    sums = [column(math.log(math.prod(x))) for x in tokens]
    means = [x / len(t) for x, t in zip(sums, tokens, strict=True)]
    ratio = math.prod(chosen) * math.prod(ref_rejected)
    h = math.log(ratio / (math.prod(rejected) * math.prod(ref_chosen)))
    papers = (h - 1 / (2 * tau)) ** 2
    assert dpo_loss(*sums, tau, loss_type="ipo")[0].item() == pytest.approx(papers)
    assert ipo_loss(column(h), tau).item() == pytest.approx(papers)
    trls = dpo_loss(*means, tau, loss_type="ipo")[0].item()
    articles = (tau * h - 1 / (2 * tau)) ** 2
    for other in (trls, articles):
        assert other != pytest.approx(papers, rel=0.05)


# loss(chosen, rejected) - loss(rejected, chosen) by the two log-ratios; beta 0.3
SWAPPED = {
    "sigmoid": lambda a, b: -0.3 * (a - b),
    "robust": lambda a, b: -0.3 * (a - b) / (1 - 2 * 0.2),
    "hinge": lambda a, b: (1 - 0.3 * (a - b)).relu() - (1 + 0.3 * (a - b)).relu(),
    "ipo": lambda a, b: -2 * (a - b) / 0.3,
    "apo_zero": lambda a, b: 2 * (torch.sigmoid(0.3 * b) - torch.sigmoid(0.3 * a)),
}


def options_of(loss_type):
    smoothing = {"label_smoothing": 0.2} if loss_type == "robust" else {}
    return {"beta": 0.3, "loss_type": loss_type, **smoothing}


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_swapping_chosen_and_rejected(loss_type):
    torch.manual_seed(0)
    inputs = [torch.randn(20, dtype=torch.float64) * 3 for _ in range(4)]
    swapped = [inputs[i] for i in (1, 0, 3, 2)]
    found, won, lost = dpo_loss(*inputs, **options_of(loss_type))
    other, won_2, lost_2 = dpo_loss(*swapped, **options_of(loss_type))
    expected = SWAPPED[loss_type](inputs[0] - inputs[2], inputs[1] - inputs[3])
    assert torch.allclose(found - other, expected, atol=1e-9)
    assert torch.equal(won, lost_2)
    assert torch.equal(lost, won_2)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_rows_do_not_touch_each_other_and_far_values_stay_finite(loss_type):
    inputs = [torch.tensor([-1e4, -3.0, -2.0]), torch.tensor([-2.0, -9.0, -1e4])]
    inputs = [x.requires_grad_() for x in inputs]
    zeros = [torch.zeros(3), torch.zeros(3)]
    whole, *_ = dpo_loss(*inputs, *zeros, **options_of(loss_type))
    rows = [
        dpo_loss(*(x[i : i + 1] for x in inputs + zeros), **options_of(loss_type))[0]
        for i in range(3)
    ]
    assert torch.allclose(whole, torch.cat(rows))
    slopes = torch.autograd.grad(whole.sum(), inputs)
    assert all(torch.isfinite(x).all() for x in (whole, *slopes))


def test_kto_reference_point_is_detached_clamped_and_needs_two_rows():
    """Trap 5."""
    policy, reference = column(-1.0, -2.0, -2.0), column(-2.0, -4.0, -3.0)
    above = kto_reference_point(policy.requires_grad_(), reference)  # of 1, 2, 1
    assert above.item() == pytest.approx(4 / 3)
    assert above.shape == ()
    assert not above.requires_grad
    assert kto_reference_point(reference, policy).item() == 0.0  # -4/3
    with pytest.raises(ValueError, match=r"1 row\(s\), expected two or more"):
        kto_reference_point(policy[:1], reference[:1])


def test_kto_by_hand():
    policy, reference = column(-1.0, -1.0, -5.0), column(-3.0, -3.0, -4.0)  # 2, 2, -1
    thumbs, z0 = torch.tensor([True, False, False]), torch.tensor(0.5)
    weights = {"desirable_weight": 1.5, "undesirable_weight": 0.5}
    losses = kto_loss(policy, reference, thumbs, z0, beta=0.2, **weights)
    expected = [
        1.5 * (1 - sigma(0.2 * 1.5)),  # beta (rho - z0), thumb up
        0.5 * (1 - sigma(-0.2 * 1.5)),  # beta (z0 - rho), thumb down
        0.5 * (1 - sigma(0.2 * 1.5)),
    ]
    assert losses.tolist() == pytest.approx(expected, abs=1e-6)


def test_kto_of_a_turned_thumb_is_the_rest_to_one():
    policy, reference = torch.randn(8).double(), torch.randn(8).double()
    thumbs, z0 = torch.arange(8) % 3 == 0, torch.tensor(0.4).double()
    given = kto_loss(policy, reference, thumbs, z0)
    turned = kto_loss(policy, reference, ~thumbs, z0)
    assert torch.allclose(given + turned, torch.ones(8).double())


def test_kto_notices_that_every_log_ratio_grew_the_articles_form_does_not():
    """Trap 5: the batch's own mean cancels what all rows have in common."""
    policy, zero = column(1.0, -0.5, 2.0, 0.2), column(0.0, 0.0, 0.0, 0.0)
    thumbs, z0 = torch.tensor([True, True, True, False]), torch.tensor(0.3).double()

    def articles(policy):
        return kto_loss(policy, zero, thumbs, policy.mean(), beta=0.5)

    assert torch.allclose(articles(policy), articles(policy + 3))
    rose = kto_loss(policy + 3, zero, thumbs, z0, 0.5)
    assert ((rose < kto_loss(policy, zero, thumbs, z0, 0.5)) == thumbs).all()


def test_orpo_by_hand_is_an_odds_ratio_and_not_the_articles_ratio():
    """Trap 6: p = 0.9 against 0.5 are odds of 9 to 1, a ratio of 1.8."""
    chosen, rejected = column(math.log(0.9)), column(math.log(0.5))
    found = orpo_loss(chosen, rejected, beta=0.25).item()
    assert found == pytest.approx(-math.log(0.9) + 0.25 * math.log(1 + 1 / 9))
    articles = -math.log(0.9) + 0.25 * math.log(1 + 1 / 1.8)
    assert found != pytest.approx(articles, rel=0.05)
    other = orpo_loss(chosen, rejected, beta=0.25, chosen_nll=column(2.0)).item()
    assert other - 2.0 == pytest.approx(found + math.log(0.9))


def test_orpo_equals_the_naive_form_in_float64():
    chosen = torch.tensor([-30.0, -8.0, -2.0, -0.7, -1e-2, -1e-4])
    rejected = chosen.flip(0)
    p, q = chosen.double().exp(), rejected.double().exp()
    ratio = (p / (1 - p)) / (q / (1 - q))
    naive = -p.log() + 0.1 * torch.log(1 + 1 / ratio)
    found = orpo_loss(chosen, rejected, beta=0.1)
    assert torch.allclose(found.double(), naive, rtol=1e-5)


def test_orpo_is_finite_where_a_response_is_certain():
    edge = torch.tensor([0.0, 0.0, -1e-8, -1e-30, -200.0])
    chosen, rejected = edge.clone().requires_grad_(), edge.flip(0).requires_grad_()
    losses = orpo_loss(chosen, rejected)
    slopes = torch.autograd.grad(losses.sum(), (chosen, rejected))
    assert all(torch.isfinite(x).all() for x in (losses, *slopes))


def test_simpo_by_hand_with_an_absolute_gamma():
    """Trap 7: the reward gap beta * gap is compared with gamma, whatever beta is."""
    found = simpo_loss(column(-1.0), column(-2.0), beta=2.5, gamma=1.5).item()
    assert found == pytest.approx(math.log(1 + math.exp(-1.0)))
    for beta in (0.5, 2.0, 10.0):
        chosen = column(1.6 / beta - 3)
        at_gamma = simpo_loss(chosen, column(-3.0), beta=beta, gamma=1.6)
        assert at_gamma.item() == pytest.approx(LN2)


def test_simpo_and_orpo_swapped():
    a, b = -torch.rand(9).double() * 4, -torch.rand(9).double() * 4
    gap = simpo_loss(a, b, beta=2.0, gamma=0.0) - simpo_loss(b, a, beta=2.0, gamma=0.0)
    assert torch.allclose(gap, -2.0 * (a - b))
    nll = torch.zeros(9).double()
    gap = orpo_loss(a, b, 0.3, nll) - orpo_loss(b, a, 0.3, nll)
    assert torch.allclose(gap, -0.3 * (torch.logit(a.exp()) - torch.logit(b.exp())))


@pytest.mark.parametrize(
    "loss",
    [
        lambda *x, **k: kto_loss(*x, torch.ones(3).bool(), torch.zeros(()), **k),
        orpo_loss,
        simpo_loss,
    ],
    ids=["kto", "orpo", "simpo"],
)
def test_variants_check_their_inputs(loss):
    for beta in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="beta is"):
            loss(torch.zeros(3), torch.zeros(3), beta=beta)
    with pytest.raises(ValueError, match="log-prob shapes"):
        loss(torch.zeros(3), torch.zeros(3, 1))


def test_ipo_and_the_reference_point_check_their_inputs():
    with pytest.raises(ValueError, match="beta is 0"):
        ipo_loss(torch.zeros(3), tau=0)
    with pytest.raises(ValueError, match="log-prob shapes"):
        kto_reference_point(torch.zeros(3), torch.zeros(3, 1))
