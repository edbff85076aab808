"""The trials of notebook 08: batches, the loop and the thumbs of `variants.py`."""

import copy
import math
from collections import Counter
from itertools import pairwise, product
from statistics import fmean

import pytest
import torch

from dpo_tutorial.data import PreferencePair
from dpo_tutorial.losses import compute_log_probs, kto_reference_point
from dpo_tutorial.reviews import gold_reward
from dpo_tutorial.variants import (
    LOSSES,
    fit,
    pairs_of,
    prepare,
    prepare_thumbs,
    thumbs,
    updates,
)

SETTINGS = {
    "sigmoid": {"beta": 0.3},
    "cdpo": {"beta": 0.3, "label_smoothing": 0.2},
    "robust": {"beta": 0.3, "label_smoothing": 0.2},
    "hinge": {"beta": 0.3},
    "ipo": {"tau": 0.1},
    "norm": {"beta": 2.0},
    "simpo": {"beta": 2.0, "gamma": 1.0},
    "orpo": {"beta": 1.0},
    "sft": {},
    "ipo_article": {"beta": 0.3},
    "orpo_article": {"beta": 1.0},
}
ROWS = [
    ("the soup was", " good", True),
    ("bread", " was good and good", False),
    ("the bread and the", " soup", True),
    ("was", " the soup stale", False),
    ("the soup was", " stale and bad", False),
]


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def margins(policy, batches):
    """(policy - reference) of the chosen less that of the rejected: (pairs,)."""
    with torch.no_grad():
        gaps = [compute_log_probs(policy, **b).view(2, -1) - r for b, r, _ in batches]
    return torch.cat([gap[0] - gap[1] for gap in gaps])


@pytest.fixture
def reference(tiny_model):
    return tiny_model(1)


@pytest.fixture
def batches(rows, reference, tokenizer):
    return prepare(rows, reference, tokenizer, size=2)


# --- prepare


@pytest.mark.parametrize("size", [1, 3, 16])
def test_batches_hold_each_pair_once_whatever_their_size(
    rows, reference, tokenizer, size
):
    """Padding and order change no log-probability; the count is of response tokens."""
    found = []
    for batch, r, n in prepare(rows, reference, tokenizer, size):
        assert r.shape == n.shape == (2, len(batch["labels"]) // 2)
        assert r.shape[1] <= size
        assert not r.requires_grad
        found += zip(*n.tolist(), *r.tolist(), strict=True)
    wanted = []
    for row in rows:
        [(batch, r, _)] = prepare([row], reference, tokenizer)
        texts = row["chosen"], row["rejected"]
        n = [len(tokenizer(text)["input_ids"]) + 1 for text in texts]  # and EOS
        wanted.append((*n, *r.flatten().tolist()))
    assert len(found) == len(rows)
    for a, b in zip(sorted(found), sorted(wanted), strict=True):
        assert a == pytest.approx(b, abs=1e-4)


def test_the_chosen_responses_are_row_0(rows, reference, tokenizer):
    """Turning the pairs round swaps the rows of r and n."""
    turned = [
        {**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in rows
    ]
    [(_, r, n)] = prepare(rows, reference, tokenizer)
    [(_, other_r, other_n)] = prepare(turned, reference, tokenizer)
    assert torch.allclose(other_r.flip(0), r, atol=1e-4)
    assert torch.equal(other_n.flip(0), n)


def test_short_pairs_share_a_batch(rows, reference, tokenizer):
    lengths = [n.max().item() for *_, n in prepare(rows, reference, tokenizer, size=1)]
    assert lengths == sorted(lengths)


def test_a_pair_without_a_response_is_an_error(reference, tokenizer):
    row = {"prompt": "bread", "chosen": " good", "rejected": ""}
    with pytest.raises(ValueError, match="drop the row"):
        prepare([row], reference, tokenizer)


# --- updates and fit


def test_each_epoch_has_every_batch_once_in_an_order_of_its_own(tiny_model):
    def order(seed, count=8):
        return list(updates(tiny_model(), list(range(count)), 3 * count, 1e-3, seed))

    epochs = [order(0)[i : i + 8] for i in (0, 8, 16)]
    assert all(sorted(epoch) == list(range(8)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert order(0) == order(0) != order(1)
    assert len(list(updates(tiny_model(), [1, 2, 3], 5, 1e-3, 0))) == 5


def test_an_update_uses_the_gradient_of_its_own_batch_only(tiny_model):
    """Nothing is left over from the batch before, and all parameters move."""
    model = tiny_model()
    before, starts = weights(model), []
    for number in updates(model, [0, 1], 2, 1e-3, 0):
        starts.append(all(p.grad is None for p in model.parameters()))
        sum((p * (number + 1)).sum() for p in model.parameters()).backward()
    assert starts == [True, True]
    assert (weights(model) != before).all()


def test_without_a_gradient_nothing_moves(tiny_model):
    """No weight decay."""
    model = tiny_model()
    before = weights(model)
    for _ in updates(model, [0], 4, 1e-2, 0):
        sum((0 * p).sum() for p in model.parameters()).backward()
    assert torch.equal(weights(model), before)


def test_a_gradient_beyond_the_norm_of_1_counts_as_1(tiny_model):
    def moved(norm):
        model = tiny_model()
        before = weights(model)
        scale = norm / len(before) ** 0.5
        for _ in updates(model, [0], 4, 1e-2, 0):
            sum((scale * p).sum() for p in model.parameters()).backward()
        return (weights(model) - before).norm().item()

    assert moved(1e4) == pytest.approx(moved(1.0), rel=1e-3)
    assert moved(0.1) < 0.9 * moved(1.0)  # Adam's large epsilon: small ones count less


def test_the_rate_warms_up_and_decays(tiny_model):
    model, steps = tiny_model(), []
    for _ in updates(model, [0], 30, 1e-2, 0):
        steps.append(weights(model))
        sum(p.sum() for p in model.parameters()).backward()
    sizes = [(b - a).abs().max().item() for a, b in pairwise(steps)]
    assert sizes[0] == 0 < sizes[1] < sizes[3]  # the first step has a rate of 0
    assert sizes[3] == pytest.approx(max(sizes), rel=0.05)
    assert sizes[-1] < 0.1 * sizes[3]


def test_every_loss_has_a_trial_here():
    assert set(SETTINGS) == set(LOSSES)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_teaches_the_labels(reference, batches, loss):
    policy, start = copy.deepcopy(reference), weights(reference)
    out = fit(policy, batches, loss, steps=12, learning_rate=3e-3, **SETTINGS[loss])
    assert out is policy
    assert torch.equal(weights(reference), start)
    if loss == "sft":  # knows nothing of the rejected ones
        gains = [
            compute_log_probs(policy, **b).view(2, -1)[0] - r[0] for b, r, _ in batches
        ]
        assert torch.cat(gains).mean() > 0.1
    else:
        assert margins(policy, batches).mean() > 0.1


def test_a_seed_fixes_a_run(reference, batches):
    runs = [
        weights(fit(copy.deepcopy(reference), batches, "sigmoid", 5, seed=s, beta=0.3))
        for s in (0, 0, 1)
    ]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


@pytest.mark.parametrize("loss", ["simpo", "orpo", "orpo_article", "sft"])
def test_losses_without_a_reference_ignore_it(reference, batches, loss):
    other = [(batch, r + 5 * torch.randn_like(r), n) for batch, r, n in batches]
    runs = [
        weights(fit(copy.deepcopy(reference), b, loss, 4, **SETTINGS[loss]))
        for b in (batches, other)
    ]
    assert torch.equal(*runs)


def test_the_articles_ipo_is_the_papers_with_tau_beta_squared():
    """... times beta squared: its target is 1 / (2 beta^2)."""
    p, r = torch.randn(2, 2, 64) * 20
    article = LOSSES["ipo_article"](p, r, None, beta=0.2)
    paper = LOSSES["ipo"](p, r, None, tau=0.2**2)
    assert torch.allclose(article, 0.2**2 * paper, rtol=1e-4)


def test_bad_losses_and_settings_are_errors(reference, batches):
    policy, start = copy.deepcopy(reference), weights(reference)
    with pytest.raises(ValueError, match="dopo"):
        fit(policy, batches, "dopo", beta=0.1)
    with pytest.raises(TypeError, match="beta"):
        fit(policy, batches, "ipo", beta=0.1)  # its name is tau
    with pytest.raises(ValueError, match="beta is 0"):
        fit(policy, batches, "sigmoid", beta=0)
    assert torch.equal(weights(policy), start)


# --- thumbs


def test_thumbs_come_from_the_seed_so_many_to_a_prompt():
    rows = thumbs(3, 4, count=128)
    assert rows == thumbs(3, 4, count=128) != thumbs(4, 4, count=128)
    counts = Counter(prompt for prompt, *_ in rows)
    assert len(counts) == 32
    assert set(counts.values()) == {4}
    assert set(Counter(p for p, *_ in thumbs(3, 1, count=128)).values()) == {1}


def test_a_thumb_goes_by_the_gold_reward_and_the_bar():
    def share(bar):
        return fmean(up for *_, up in thumbs(0, 2, count=200, bar=bar))

    rows = thumbs(0, 2, count=200)
    for up in (True, False):
        assert any(row[2] == up for row in rows)
    gold = {
        up: fmean(gold_reward(p, y) for p, y, was in rows if was == up)
        for up in (True, False)
    }
    assert gold[True] > gold[False] + 0.3
    odds = [1 / (1 + math.exp((0.5 - gold_reward(p, y)) / 0.25)) for p, y, _ in rows]
    error = math.sqrt(sum(q * (1 - q) for q in odds)) / len(rows)
    assert abs(share(0.5) - fmean(odds)) < 4 * error
    assert share(-20.0) == 1
    assert share(20.0) == 0


def test_more_prompts_than_there_are_is_an_error():
    with pytest.raises(ValueError, match="larger than population"):
        thumbs(0, 1, count=10**6)


def test_pairs_are_all_those_of_one_prompt():
    rows = [
        ("a", "x", True),
        ("a", "y", True),
        ("a", "z", False),
        ("b", "x", True),
        ("c", "z", False),
        ("d", "x", True),
        ("d", "x", False),  # the same text, thumbed both ways: no pair
    ]
    wanted = [PreferencePair("a", "x", "z"), PreferencePair("a", "y", "z")]
    assert pairs_of(rows) == wanted
    assert pairs_of([]) == pairs_of(rows[:2]) == []


def test_thumbs_hold_the_pairs_that_a_count_says():
    rows = thumbs(0, 4, count=128)
    said = {(p, y, up) for p, y, up in rows}
    found = pairs_of(rows)
    assert all((f.prompt, f.chosen, True) in said for f in found)
    assert all((f.prompt, f.rejected, False) in said for f in found)
    wanted = sum(
        a[0] == b[0] and a[1] != b[1] and a[2] and not b[2]
        for a, b in product(rows, rows)
    )
    assert len(found) == wanted > 10
    assert pairs_of(thumbs(0, 1, count=128)) == []


# --- prepare_thumbs


def read(batch, tokenizer):
    """Each row of a batch as (prompt, response) texts, EOS kept."""
    rows = []
    for ids, labels, mask in zip(*(batch[k] for k in KEYS), strict=True):
        scored, kept = labels >= 0, mask.bool()
        rows.append(
            (tokenizer.decode(ids[kept & ~scored]), tokenizer.decode(ids[scored]))
        )
    return rows


KEYS = "input_ids", "labels", "attention_mask"


@pytest.mark.parametrize("size", [2, 5, 32])
def test_thumbs_stay_with_their_rows(reference, tokenizer, size):
    found, eos = [], tokenizer.eos_token
    for own, _, (r, _), up in prepare_thumbs(ROWS, reference, tokenizer, size):
        assert r.shape == up.shape == (len(own["labels"]),)
        assert up.dtype == torch.bool
        assert not r.requires_grad
        assert torch.allclose(r, compute_log_probs(reference, **own), atol=1e-5)
        found += [
            (*row, up)
            for row, up in zip(read(own, tokenizer), up.tolist(), strict=True)
        ]
    assert sorted(found) == sorted((x, y + eos, up) for x, y, up in ROWS)


def test_the_other_rows_have_the_same_prompts_and_the_next_responses(
    reference, tokenizer
):
    """Trap 5: the reference point wants mismatched pairs."""
    [(own, other, (_, r), _)] = prepare_thumbs(ROWS, reference, tokenizer)
    mine, theirs = read(own, tokenizer), read(other, tokenizer)
    assert [x for x, _ in mine] == [x for x, _ in theirs]
    responses = [y for _, y in mine]
    assert [y for _, y in theirs] == responses[1:] + responses[:1]
    assert all(a != b for a, b in zip(mine, theirs, strict=True))
    assert torch.allclose(r, compute_log_probs(reference, **other), atol=1e-5)
    assert kto_reference_point(r, r) == 0  # the reference against itself


def test_a_batch_of_one_thumb_has_nothing_to_mismatch(reference, tokenizer):
    """Trap 5: it comes out, its own neighbour, and the reference point refuses it."""
    *_, (own, other, (_, r), _) = prepare_thumbs(ROWS, reference, tokenizer, size=4)
    assert torch.equal(own["input_ids"], other["input_ids"])
    with pytest.raises(ValueError, match="two or more to mismatch"):
        kto_reference_point(r, r)
