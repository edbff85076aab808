"""compute_log_probs and dpo_loss against hand-made values and naive forms."""

import math

import pytest
import torch

from dpo_tutorial.data import collate, tokenize_pair
from dpo_tutorial.losses import compute_log_probs, dpo_loss

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
