"""Sampling, KL and intervals; and the short SFT that precedes them."""

import math

import pytest
import torch

from dpo_tutorial.evaluation import (
    mean_interval,
    sample_batch,
    sample_responses,
    sequence_kl,
)
from dpo_tutorial.losses import compute_log_probs
from dpo_tutorial.models import load_model
from dpo_tutorial.reviews import load_sft_model, prompts

ASKED = ["the soup was", "bread", "the bread and the soup was", "was"]


def test_samples_are_seeded_and_leave_the_global_state_alone(tiny_model, tokenizer):
    model = tiny_model()
    torch.manual_seed(1)
    first = sample_responses(model, tokenizer, ASKED, seed=3, max_new_tokens=8)
    then = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), then)
    assert first == sample_responses(model, tokenizer, ASKED, seed=3, max_new_tokens=8)
    assert first != sample_responses(model, tokenizer, ASKED, seed=4, max_new_tokens=8)


def test_responses_are_scored_up_to_and_with_the_first_eos(tiny_model, tokenizer):
    model, eos = tiny_model(), tokenizer.eos_token_id
    with torch.no_grad():  # a model that ends often
        model.lm_head.weight[eos] = model.lm_head.weight.mean(0) * 0
    asked = ASKED * 50
    (batch,) = sample_batch(model, tokenizer, asked, max_new_tokens=20)
    ended = 0
    for ids, mask, labels in zip(*batch.values(), strict=True):
        scored = labels[labels != -100]
        assert len(scored) >= 1
        assert (scored[:-1] != eos).all()  # at most one EOS, and that at the end
        assert torch.equal(ids[labels != -100], scored)
        assert (mask[labels != -100] == 1).all()
        ended += int(scored[-1] == eos)
    assert ended > 0


def test_log_probs_of_samples_do_not_depend_on_their_neighbours(tiny_model, tokenizer):
    model = tiny_model()
    (batch,) = sample_batch(model, tokenizer, ASKED, max_new_tokens=6, seed=2)
    together = compute_log_probs(model, **batch)
    for i in range(len(ASKED)):
        keep = batch["attention_mask"][i] == 1
        alone = {name: value[i : i + 1, keep] for name, value in batch.items()}
        assert torch.allclose(compute_log_probs(model, **alone), together[i], atol=1e-4)


def test_kl_is_zero_to_oneself_and_that_of_the_first_token_otherwise(
    tiny_model, tokenizer
):
    policy, reference = tiny_model(0), tiny_model(1)
    asked = ["the soup was"] * 4000
    options = {"max_new_tokens": 1, "batch_size": 4000}
    same = sequence_kl(policy, policy, tokenizer, asked, **options)
    assert same.mean == pytest.approx(0, abs=1e-5)
    ids = torch.tensor([tokenizer(asked[0])["input_ids"]])
    with torch.no_grad():
        p, q = (m(ids).logits[0, -1].log_softmax(-1) for m in (policy, reference))
    exact = (p.exp() * (p - q)).sum().item()
    found = sequence_kl(policy, reference, tokenizer, asked, **options)
    error = (found.high - found.low) / 4  # about one standard error
    assert abs(found.mean - exact) < 4 * error


def test_mean_interval_by_hand():
    found = mean_interval([1.0, 2.0, 3.0])
    half = 4.302653 / math.sqrt(3)  # Student's t at 97.5 % with two degrees of freedom
    assert found.mean == 2
    assert (found.low, found.high) == pytest.approx((2 - half, 2 + half), abs=1e-5)
    assert str(mean_interval([1.0, 1.0])) == "1.00 [1.00, 1.00]"


def test_one_value_has_no_interval():
    with pytest.raises(ValueError, match="at least two"):
        mean_interval([1.0])


def test_nano_needs_no_sft():
    model, tokenizer = load_sft_model("nano")
    asked = prompts("held_out")[:8]
    again = sample_responses(load_model("nano")[0], tokenizer, asked, seed=1)
    assert sample_responses(model, tokenizer, asked, seed=1) == again


@pytest.mark.slow
def test_another_model_learns_the_reviews_once(
    tiny_model, tokenizer, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("DPO_TUTORIAL_BUILD", str(tmp_path / "build"))
    base = tmp_path / "base"
    tiny_model().save_pretrained(base)
    tokenizer.save_pretrained(base)
    first, _ = load_sft_model(str(base), steps=3)
    assert "stage 1: 3 SFT steps" in capsys.readouterr().out
    again, _ = load_sft_model(str(base), steps=3)
    assert "stage 1" not in capsys.readouterr().out
    both = zip(first.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in both)
    untrained = load_model(str(base))[0]
    moved = zip(first.parameters(), untrained.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in moved)
    assert len(list((tmp_path / "build" / "sft").iterdir())) == 1
