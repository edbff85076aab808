"""TinyDPOTrainer with averaged log-probs and with a loss of the caller's own."""

import pytest
import torch

from dpo_tutorial.data import collate, tokenize_pair
from dpo_tutorial.losses import compute_log_probs, dpo_loss, orpo_loss, simpo_loss
from dpo_tutorial.training import TinyDPOTrainer

SHORT = {"steps": 3, "batch_size": 4, "learning_rate": 1e-3}


@pytest.fixture
def train(tiny_model, tokenizer, rows):
    """A short run from seed 0 against the reference of a seed: trainer, history."""

    def run(reference=1, **options):
        models = {"model": tiny_model(0), "reference": tiny_model(reference)}
        settings = {"tokenizer": tokenizer, "rows": rows, **SHORT, **options}
        trainer = TinyDPOTrainer(**models, **settings)
        return trainer, trainer.train()

    return run


def column(history, name):
    return [row[name] for row in history]


def test_averages_are_over_the_responses_tokens(train, tiny_model, tokenizer, rows):
    """Trap 13: prompt tokens do not cancel in an average; none is counted."""
    batch = collate([tokenize_pair(row, tokenizer) for row in rows], 0)
    logps = [compute_log_probs(tiny_model(seed), **batch) for seed in (0, 1)]
    texts = [row[side] for side in ("chosen", "rejected") for row in rows]
    lengths = [len(tokenizer(text)["input_ids"]) + 1 for text in texts]  # and EOS
    assert len(set(lengths)) > 2
    means = [part for x in logps for part in (x / torch.tensor(lengths)).chunk(2)]
    options = {"beta": 0.5, "loss_type": "ipo"}
    losses, chosen, rejected = dpo_loss(*means, **options)
    first = train(average_log_probs=True, **options)[1][0]
    assert first["loss"] == pytest.approx(losses.mean().item(), rel=1e-4)
    assert first["rewards/chosen"] == pytest.approx(chosen.mean().item(), rel=1e-4)
    assert first["rewards/rejected"] == pytest.approx(rejected.mean().item(), rel=1e-4)


def test_logged_log_probs_are_sums_all_the_same(train):
    """Trap 18."""
    summed = train()[1][0]
    averaged = train(average_log_probs=True)[1][0]
    assert averaged["loss"] != pytest.approx(summed["loss"], rel=0.01)
    for name in ("logps/chosen", "logps/rejected"):
        assert averaged[name] == summed[name]


def test_averages_are_off_unless_asked_for(train):
    """Trap 2."""
    assert train()[1] == train(average_log_probs=False)[1]
    assert train()[1] != train(average_log_probs=True)[1]


def test_a_given_loss_takes_the_place_of_dpo_loss(train):
    shapes = []

    def hinge(*logps):
        shapes.append([tuple(x.shape) for x in logps])
        return dpo_loss(*logps, beta=0.3, loss_type="hinge")

    own = train(loss=hinge, beta=9.9)[1]  # its beta is not the trainer's
    assert own == train(beta=0.3, loss_type="hinge")[1]
    assert shapes == [[(4,)] * 4] * 3


def test_a_given_loss_gets_averages_where_asked(train):
    options = {"beta": 2.0, "average_log_probs": True}
    own = train(loss=lambda *x: dpo_loss(*x, beta=2.0), average_log_probs=True)[1]
    assert own == train(**options)[1]


def simpo(chosen, rejected, *_):
    losses = simpo_loss(chosen, rejected, beta=2.0, gamma=1.0)
    return losses, 2.0 * chosen.detach(), 2.0 * rejected.detach()


def orpo(chosen, rejected, *_):
    losses = orpo_loss(chosen, rejected, beta=0.5)
    return losses, 0.5 * chosen.detach(), 0.5 * rejected.detach()


@pytest.mark.parametrize("loss", [simpo, orpo])
def test_simpo_and_orpo_train_without_regard_to_the_reference(train, loss):
    """Traps 6 and 7."""
    options = {"loss": loss, "average_log_probs": True, "steps": 12}
    trainer, history = train(reference=1, **options)
    other, same = train(reference=2, **options)
    assert history == same
    weights = [t.model.state_dict() for t in (trainer, other)]
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    losses = column(history, "loss")
    assert losses[-1] < losses[0]
    margins = column(history, "rewards/margins")
    assert margins[-1] > margins[0]


def test_a_resumed_run_keeps_to_its_averaging(tiny_model, tokenizer, rows, tmp_path):
    def trainer(**options):
        return TinyDPOTrainer(tiny_model(0), tokenizer, rows, **SHORT, **options)

    trainer(average_log_probs=True).save(tmp_path)
    with pytest.raises(ValueError, match="make the trainer with those settings"):
        trainer().resume(tmp_path)
    trainer(average_log_probs=True).resume(tmp_path)


def test_smoothing_that_the_loss_ignores_is_an_error_in_the_trainer(train):
    """Trap 17: nothing is switched off in silence."""
    with pytest.raises(ValueError, match="does not use label_smoothing"):
        train(loss_type="hinge", label_smoothing=0.1)
