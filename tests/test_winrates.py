"""Win rates: intervals that cover, prompts that suffice, length held equal."""

import math

import numpy as np
import pytest
from scipy import stats

from dpo_tutorial.judges import GoldJudge, judge_pair
from dpo_tutorial.reviews import corpus
from dpo_tutorial.winrates import (
    bootstrap_win_rate,
    length_controlled_win_rate,
    prompts_needed,
    scores,
    tie_share,
    wilson,
    win_rate,
)


def drawn(rng, n, p, ties=0.0):
    """Outcomes of n pairs at a win rate of p, ties counting half."""
    return list(
        rng.choice(["A", "tie", "B"], n, p=[p - ties / 2, ties, 1 - p - ties / 2])
    )


def test_ties_count_half_and_what_was_not_judged_is_left_out():
    outcomes = ["A", "tie", "B", "unparseable", "A", "failed"]
    assert scores(outcomes).tolist() == [1, 0.5, 0, 1]
    assert win_rate(outcomes).mean == bootstrap_win_rate(outcomes).mean == 0.625
    assert tie_share(outcomes) == 0.25
    with pytest.raises(ValueError, match="expected A, B, tie"):
        scores(["a"])
    with pytest.raises(ValueError, match="none of 2"):
        win_rate(["failed", "unparseable"])


@pytest.mark.parametrize(("wins", "n"), [(0, 5), (7, 10), (50, 50), (263, 500)])
def test_wilson_is_scipys_where_nothing_ties(wins, n):
    expected = stats.binomtest(wins, n).proportion_ci(method="wilson")
    for found in (wilson(wins, n), win_rate(["A"] * wins + ["B"] * (n - wins))):
        assert found.mean == wins / n
        assert (found.low, found.high) == pytest.approx(tuple(expected), abs=1e-12)
    with pytest.raises(ValueError, match="0 of 0"):
        wilson(0, 0)


def test_swapping_the_sides_mirrors_the_interval():
    outcomes = drawn(np.random.default_rng(0), 200, 0.6, 0.2)
    turned = [{"A": "B", "B": "A"}.get(name, name) for name in outcomes]
    ours, theirs = win_rate(outcomes), win_rate(turned)
    assert (ours.low, ours.high) == pytest.approx((1 - theirs.high, 1 - theirs.low))


def test_the_bootstrap_agrees_with_students_t_in_large_samples():
    x = drawn(np.random.default_rng(1), 2000, 0.6, 0.3)
    found, half = bootstrap_win_rate(x), 1.96 * scores(x).std() / math.sqrt(2000)
    assert found.low == pytest.approx(found.mean - half, abs=0.1 * half)
    assert found.high == pytest.approx(found.mean + half, abs=0.1 * half)
    assert bootstrap_win_rate(x) == found  # seeded
    assert bootstrap_win_rate(x, seed=1) != found
    narrow = bootstrap_win_rate(x, confidence=0.5)
    assert found.low < narrow.low < narrow.high < found.high


def test_pairs_of_one_prompt_are_drawn_together():
    x = drawn(np.random.default_rng(2), 100, 0.6)
    copies, names = x * 9, list(range(100)) * 9
    alone, together = bootstrap_win_rate(x), bootstrap_win_rate(copies, groups=names)
    fooled = bootstrap_win_rate(copies)
    width = alone.high - alone.low
    assert together.high - together.low == pytest.approx(width, rel=0.1)
    assert fooled.high - fooled.low < 0.5 * width


def test_a_bootstrap_of_one_outcome_is_refused():
    for outcomes in (["A"] * 20, ["tie"] * 20, ["failed"]):
        with pytest.raises(ValueError, match="expected two scores"):
            bootstrap_win_rate(outcomes)
    with pytest.raises(ValueError, match="expected as many"):
        bootstrap_win_rate(["A", "B"], groups=[1])


@pytest.mark.parametrize("ties", [0.0, 0.4])
def test_the_interval_covers_the_truth_in_93_to_97_of_100(ties):
    """1,000 evaluations; the recommended interval, with ties and without."""
    rng, p, hits, wide = np.random.default_rng(5), 0.6, 0, 0
    for _ in range(1000):
        outcomes = drawn(rng, 200, p, ties)
        found = bootstrap_win_rate(outcomes, resamples=400)
        hits += found.low <= p <= found.high
        wide += win_rate(outcomes).low <= p <= win_rate(outcomes).high
    assert 930 <= hits <= 970
    assert wide > 965 if ties else 930 <= wide <= 970  # Wilson's knows of no ties


@pytest.mark.parametrize(("p", "ties"), [(0.6, 0.0), (0.4, 0.0), (0.6, 0.4)])
def test_that_many_prompts_give_that_power(p, ties):
    n, rng, found = prompts_needed(p, power=0.8, ties=ties), np.random.default_rng(3), 0
    for _ in range(1000):
        outcomes = drawn(rng, n, p, ties)
        interval = bootstrap_win_rate(outcomes, resamples=400) if ties else None
        interval = interval or win_rate(outcomes)
        found += interval.low > 0.5 if p > 0.5 else interval.high < 0.5
    assert 750 <= found <= 850


def test_more_prompts_for_less_and_fewer_with_ties():
    assert prompts_needed(0.6) == 194  # the textbook's, without continuity correction
    needed = [prompts_needed(p) for p in (0.51, 0.55, 0.6, 0.8)]
    assert needed == sorted(needed, reverse=True)
    assert prompts_needed(0.6, ties=0.4) < prompts_needed(0.6)
    assert prompts_needed(0.6, power=0.9) > prompts_needed(0.6)
    assert prompts_needed(0.9, ties=0.2) > 0  # no loss at all: the edge
    for wrong in ({"win_rate": 0.5}, {"win_rate": 0.9, "ties": 0.4}):
        with pytest.raises(ValueError, match="expected a win rate"):
            prompts_needed(**wrong)


def planted(seed, n=3000, theta=0.4, phi=1.5, ties=0.0):
    """Outcomes by a known logistic law of the length difference, and the lengths."""
    rng = np.random.default_rng(seed)
    a, b = rng.poisson(18, n), rng.poisson(12, n)
    squashed = np.tanh((a - b) / (a - b).std())
    won = rng.random(n) < 1 / (1 + np.exp(-theta - phi * squashed))
    outcomes = np.where(rng.random(n) < ties, "tie", np.where(won, "A", "B"))
    return outcomes.tolist(), a, b


def test_length_control_recovers_a_planted_truth():
    outcomes, a, b = planted(0)
    truth = 1 / (1 + math.exp(-0.4))
    found = length_controlled_win_rate(outcomes, a, b, resamples=200)
    assert win_rate(outcomes).low > truth + 0.1
    assert found.low < truth < found.high
    assert abs(found.mean - truth) < 0.04


def test_a_tie_weighs_half_on_each_side():
    outcomes, a, b = planted(1, ties=0.3)
    once = length_controlled_win_rate(outcomes, a, b, resamples=2)
    halves = ["B" if name == "tie" else name for name in outcomes]
    halves += ["A" if name == "tie" else name for name in outcomes]
    doubled = np.tile(a, 2), np.tile(b, 2)
    twice = length_controlled_win_rate(halves, *doubled, resamples=2)
    assert once.mean == pytest.approx(twice.mean, abs=1e-4)


def test_swapping_policies_mirrors_the_controlled_rate():
    outcomes, a, b = planted(2)
    turned = [{"A": "B", "B": "A"}[name] for name in outcomes]
    ours = length_controlled_win_rate(outcomes, a, b, resamples=2)
    theirs = length_controlled_win_rate(turned, b, a, resamples=2)
    assert ours.mean == pytest.approx(1 - theirs.mean, abs=1e-4)


def test_unjudged_pairs_change_nothing():
    outcomes, a, b = planted(3, n=400)
    more = ["failed", *outcomes, "unparseable"]
    lengths = [0, *a, 900], [50, *b, 0]
    found = length_controlled_win_rate(more, *lengths, resamples=20)
    assert found == length_controlled_win_rate(outcomes, a, b, resamples=20)


def test_difficulty_enters_the_fit():
    """Hard prompts draw long answers, and lose: without their term, length takes it."""
    rng = np.random.default_rng(4)
    hard = rng.normal(size=4000)
    a = 20 + 8 * hard + rng.normal(size=4000)
    logit = 0.5 - 2.0 * hard  # length itself does nothing
    outcomes = np.where(rng.random(4000) < 1 / (1 + np.exp(-logit)), "A", "B").tolist()
    b = np.full(4000, 12.0)
    blind = length_controlled_win_rate(outcomes, a, b, resamples=2).mean
    seen = length_controlled_win_rate(outcomes, a, b, difficulty=hard, resamples=2).mean
    raw = win_rate(outcomes).mean
    assert abs(seen - raw) < 0.06 < abs(blind - raw)


def test_copies_do_not_narrow_the_controlled_interval():
    outcomes, a, b = planted(5, n=150)
    once = length_controlled_win_rate(outcomes, a, b, resamples=200)
    names, copies = list(range(150)) * 4, (np.tile(a, 4), np.tile(b, 4))
    options = {"groups": names, "resamples": 200}
    four = length_controlled_win_rate(outcomes * 4, *copies, **options)
    assert four.high - four.low == pytest.approx(once.high - once.low, rel=0.2)


@pytest.mark.parametrize(
    ("outcomes", "lengths_a", "seen"),
    [
        (["A"] * 40, range(40), "all 40 pairs score 1"),
        (["tie"] * 40, range(40), "all 40 pairs score 0.5"),
        (["A", "B"] * 20, [7] * 40, "lengths differ by 7 in every pair"),
        (["A", "B"] * 10, range(20), "20 judged pairs: expected 30"),
        (["A", "B"] * 10 + ["failed"] * 20, range(40), "20 judged pairs: expected 30"),
        (["A", "B"] * 20, range(39), "40 outcomes beside .39"),
    ],
)
def test_nothing_to_fit_is_an_error(outcomes, lengths_a, seen):
    with pytest.raises(ValueError, match=seen):
        length_controlled_win_rate(outcomes, lengths_a, [0] * len(outcomes))


def test_one_loss_among_many_wins_still_fits():
    outcomes, a = ["A"] * 39 + ["B"], list(range(40))
    found = length_controlled_win_rate(outcomes, a, [0] * 40, resamples=50)
    assert 0 <= found.low <= found.mean <= found.high <= 1


def test_length_control_undoes_the_bias_of_a_gold_judge():
    """Reviews of the grammar: short ones against ones of any length, both judges."""
    rows = corpus(2500, seed=7)
    short = {p: y for p, y in rows if len(y.split()) <= 8}
    pairs = [(p, y, short[p]) for p, y in rows if p in short and y != short[p]]
    assert len(pairs) > 800

    def judged(bias):
        judge = GoldJudge(length_bias=bias)
        return [judge_pair(judge, *pair).outcome for pair in pairs]

    lengths = [[len(pair[side].split()) for pair in pairs] for side in (1, 2)]
    gold, biased = judged(0.0), judged(0.3)
    equal = length_controlled_win_rate(gold, *lengths, resamples=2).mean
    found = length_controlled_win_rate(biased, *lengths, resamples=2).mean
    assert win_rate(biased).mean > win_rate(gold).mean + 0.1
    assert abs(found - equal) < 0.05
