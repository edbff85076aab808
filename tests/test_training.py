"""TinyDPOTrainer: its first loss, its gradient, its checkpoints, its errors."""

import copy
import math

import pytest
import torch

from dpo_tutorial.training import TinyDPOTrainer, shuffled

LN2 = math.log(2)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_first_loss_is_ln_2(tiny_model, tokenizer, rows):
    trainer = TinyDPOTrainer(tiny_model(), tokenizer, rows, steps=1, batch_size=4)
    first = trainer.train()[0]
    assert first["loss"] == pytest.approx(LN2, abs=1e-5)
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-4)


def test_dropout_in_the_config_does_not_move_the_first_loss(
    tiny_model, tokenizer, rows
):
    """Trap 11."""
    model = tiny_model(dropout=0.5).train()
    trainer = TinyDPOTrainer(model, tokenizer, rows, steps=1, batch_size=4)
    assert trainer.train()[0]["loss"] == pytest.approx(LN2, abs=1e-5)


def test_dropout_switched_on_by_hand_is_noticed(tiny_model, tokenizer, rows):
    trainer = TinyDPOTrainer(tiny_model(dropout=0.5), tokenizer, rows, batch_size=4)
    trainer.model.train()
    with pytest.raises(RuntimeError, match="first log-ratios reach"):
        trainer.train()
    assert trainer.history == []


def test_training_separates_the_pairs_and_moves_every_parameter(
    tiny_model, tokenizer, rows
):
    model = tiny_model()
    before = {name: p.clone() for name, p in model.named_parameters()}
    trainer = TinyDPOTrainer(
        model, tokenizer, rows, steps=20, batch_size=4, learning_rate=1e-3
    )
    history = trainer.train()
    assert [row["step"] for row in history] == list(range(1, 21))
    assert history[-1]["loss"] < history[0]["loss"]
    assert history[-1]["rewards/accuracies"] == 1.0
    still = [n for n, p in model.named_parameters() if torch.equal(p, before[n])]
    assert still == []


def test_a_given_reference_is_frozen_and_used(tiny_model, tokenizer, rows):
    policy, reference = tiny_model(0), tiny_model(1)
    before = weights(reference)
    trainer = TinyDPOTrainer(
        policy, tokenizer, rows, reference=reference, steps=3, batch_size=4
    )
    first = trainer.train()[0]
    assert abs(first["loss"] - LN2) > 1e-3  # another model: margins are not zero
    assert torch.equal(weights(reference), before)
    assert not any(p.requires_grad for p in reference.parameters())


def test_a_copy_as_reference_equals_log_probs_ahead(tiny_model, tokenizer, rows):
    model, copied = tiny_model(), tiny_model()
    options = {"steps": 4, "batch_size": 2, "learning_rate": 1e-3}
    ahead = TinyDPOTrainer(model, tokenizer, rows, **options).train()
    beside = TinyDPOTrainer(
        copied, tokenizer, rows, reference=tiny_model(), **options
    ).train()
    assert [r["loss"] for r in ahead] == pytest.approx([r["loss"] for r in beside])


def test_accumulation_equals_one_large_batch(tiny_model, tokenizer, rows):
    """By loss and gradient norm: Adam turns gradients of nearly zero into noise."""
    options = {"steps": 3, "learning_rate": 1e-3, "max_grad_norm": 1e9}
    large, small = (
        TinyDPOTrainer(tiny_model(), tokenizer, rows, **sizes, **options).train()
        for sizes in ({"batch_size": 4}, {"batch_size": 1, "accumulation": 4})
    )
    for name in ("loss", "grad_norm", "logps/chosen", "rewards/margins"):
        assert [r[name] for r in small] == pytest.approx(
            [r[name] for r in large], rel=1e-3, abs=1e-5
        ), name


def test_resumed_run_reaches_the_same_weights(tiny_model, tokenizer, rows, tmp_path):
    options = {
        "steps": 6,
        "batch_size": 2,
        "accumulation": 2,
        "learning_rate": 1e-3,
        "eval_rows": rows[:2],
        "eval_every": 2,
    }
    whole = TinyDPOTrainer(tiny_model(), tokenizer, rows, **options)
    whole.train()
    first = TinyDPOTrainer(tiny_model(), tokenizer, rows, **options)
    first.train(until=3)
    first.save(tmp_path)
    second = TinyDPOTrainer(tiny_model(seed=7), tokenizer, rows, **options)
    second.resume(tmp_path)
    history = second.train()
    assert torch.equal(weights(second.model), weights(whole.model))
    assert history == whole.history
    assert [p.name for p in tmp_path.iterdir()] == ["state.pt"]


def test_resume_of_another_run_is_an_error(tiny_model, tokenizer, rows, tmp_path):
    TinyDPOTrainer(tiny_model(), tokenizer, rows, beta=0.1).save(tmp_path)
    other = TinyDPOTrainer(tiny_model(), tokenizer, rows, beta=0.2)
    with pytest.raises(ValueError, match="make the trainer with those settings"):
        other.resume(tmp_path)


def test_an_interrupted_save_leaves_the_old_checkpoint(
    tiny_model, tokenizer, rows, tmp_path, monkeypatch
):
    trainer = TinyDPOTrainer(tiny_model(), tokenizer, rows)
    trainer.save(tmp_path)
    before = (tmp_path / "state.pt").read_bytes()

    def broken(state, path):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(OSError, match="disk full"):
        trainer.save(tmp_path)
    assert (tmp_path / "state.pt").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["state.pt"]


def test_a_loss_that_is_not_finite_stops_before_the_update(tiny_model, tokenizer, rows):
    model = tiny_model()
    trainer = TinyDPOTrainer(model, tokenizer, rows, batch_size=4)
    trainer.train(until=2)
    with torch.no_grad():
        model.transformer.wte.weight[5] = math.nan
    kept = copy.deepcopy(trainer.history)
    with pytest.raises(FloatingPointError, match="the loss is nan at step 3"):
        trainer.train()
    assert trainer.history == kept


def test_the_policy_as_its_own_reference_is_an_error(tiny_model, tokenizer, rows):
    model = tiny_model()
    with pytest.raises(ValueError, match="reference is the policy itself"):
        TinyDPOTrainer(model, tokenizer, rows, reference=model)


def test_no_rows_are_an_error(tiny_model, tokenizer):
    with pytest.raises(ValueError, match="0 rows"):
        TinyDPOTrainer(tiny_model(), tokenizer, [])


def test_too_long_a_response_is_an_error_before_any_step(tiny_model, tokenizer, rows):
    with pytest.raises(ValueError, match="max_length"):
        TinyDPOTrainer(tiny_model(), tokenizer, rows, max_length=4)


def test_prompt_tokens_get_no_gradient_of_their_own(tiny_model, tokenizer):
    """Trap 13: in a summed loss the prompt cancels, so the averaged one is tested."""
    from dpo_tutorial.data import collate, tokenize_pair

    row = {"prompt": "the soup was", "chosen": " good", "rejected": " bad and stale"}
    ids = tokenize_pair(row, tokenizer)
    labels = collate([ids], tokenizer.pad_token_id)["labels"]
    scored = (labels >= 0).sum(1).tolist()
    assert scored == [len(ids["chosen_ids"]), len(ids["rejected_ids"])]


def test_order_is_an_epoch_at_a_time_and_resumes_anywhere():
    from itertools import islice

    stream = list(islice(shuffled(5, seed=3), 20))
    for epoch in range(4):
        assert sorted(stream[5 * epoch : 5 * epoch + 5]) == list(range(5))
    assert stream[:5] != stream[5:10]
    for start in range(12):
        assert list(islice(shuffled(5, 3, start), 8)) == stream[start : start + 8]
