"""Win rates: intervals, sample size, and what is left when length is held equal.

A tie is half a win and half a loss throughout; pairs not judged are left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from scipy import stats
from sklearn.linear_model import LogisticRegression

from .sampling import Estimate

_SCORE = {"A": 1.0, "tie": 0.5, "B": 0.0}


def scores(outcomes: Iterable[str]) -> np.ndarray:
    """1 for "A", 0.5 for "tie", 0 for "B"; what was not judged is left out: (n,).

    Raises ValueError for an outcome that is none of `judges.OUTCOMES`, or no judgement.
    """
    found = list(outcomes)
    if not len(x := _judged(found)[0]):
        raise ValueError(f"none of {len(found)} pairs was judged: expected one")
    return x


def _score(outcome: str) -> float:
    if outcome not in {*_SCORE, "unparseable", "failed"}:
        raise ValueError(f"outcome {outcome!r}: expected A, B, tie, …")
    return _SCORE.get(outcome, math.nan)


def win_rate(outcomes: Iterable[str], confidence: float = 0.95) -> Estimate:
    """Share of pairs that A wins, a tie counting half, with Wilson's interval.

    Wilson (1927): the interval of a share p of n by solving the score test. With ties
    the variance is below p (1 - p) / n, so that the interval is wider than it need be.
    """
    x = scores(outcomes)
    return wilson(x.sum(), len(x), confidence)


def wilson(count: float, n: int, confidence: float = 0.95) -> Estimate:
    """The share `count` / `n` with Wilson's interval; ValueError unless n is over 0."""
    if not 0 <= count <= n or not n:
        raise ValueError(f"{count} of {n}: expected 0 <= count <= n and n over 0")
    p, z = count / n, stats.norm.ppf(0.5 + confidence / 2)
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    low, high = np.clip([centre - half, centre + half], 0, 1).tolist()
    return Estimate(float(p), low, high)


def tie_share(outcomes: Iterable[str]) -> float:
    """Share of the judged pairs that tie; to be told wherever a win rate is."""
    return float((scores(outcomes) == 0.5).mean())


def bootstrap_win_rate(
    outcomes: Sequence[str],
    confidence: float = 0.95,
    *,
    groups: Sequence | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """As `win_rate`, with a percentile bootstrap interval (Efron 1979).

    It knows that ties narrow the spread. `groups` names each pair's prompt where a
    prompt comes up again: whole prompts are then drawn. Raises ValueError where all
    pairs came out the same, since the interval would have no width.
    """
    x, names = _judged(outcomes, range(len(outcomes)) if groups is None else groups)
    if not len(x) or x.min() == x.max():
        seen = f"{len(x)} judged pairs of one score, expected two scores at least"
        raise ValueError(f"{seen}: a resample shows nothing else; take win_rate")
    place = np.unique(names, return_inverse=True)[1]
    data = np.bincount(place, x), np.bincount(place)  # by prompt: score, pairs
    low, high = stats.bootstrap(
        data,
        lambda score, pairs, axis: score.sum(axis) / pairs.sum(axis),
        paired=True,
        method="percentile",
        confidence_level=confidence,
        n_resamples=resamples,
        batch=100,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Estimate(float(x.mean()), float(low), float(high))


def prompts_needed(
    win_rate: float, power: float = 0.8, ties: float = 0.0, confidence: float = 0.95
) -> int:
    """How many prompts, so that with probability `power` the interval excludes 0.5.

    n = (z_confidence s_0 + z_power s_1)^2 / (win_rate - 0.5)^2, the normal
    approximation for one share (Fleiss, Levin & Paik 2003, chapter 2), without
    continuity correction. s_1^2 = p (1 - p) - ties / 4 is an outcome's variance, ties
    counting half; s_0^2 is that at p = 0.5. It holds for an interval that knows the
    ties, `bootstrap_win_rate`; Wilson's then needs more.

    Raises ValueError for a win rate of 0.5 or one that this share of ties rules out.
    """
    p, gap = win_rate, abs(win_rate - 0.5)
    if not 0 < gap <= 0.5 - ties / 2 + 1e-9 or not 0 <= ties < 1 or not 0 < power < 1:
        raise ValueError(
            f"win rate {win_rate}, ties {ties}, power {power}: expected a win rate "
            "off 0.5 and within ties / 2 … 1 - ties / 2, and a power between 0 and 1"
        )
    z = stats.norm.ppf(0.5 + confidence / 2) * math.sqrt((1 - ties) / 4)
    z += stats.norm.ppf(power) * math.sqrt(max(0.0, p * (1 - p) - ties / 4))
    return math.ceil((z / gap) ** 2)


def length_controlled_win_rate(
    outcomes: Sequence[str],
    lengths_a: Sequence[float],
    lengths_b: Sequence[float],
    *,
    difficulty: Sequence[float] | None = None,
    groups: Sequence | None = None,
    confidence: float = 0.95,
    resamples: int = 500,
    seed: int = 0,
) -> Estimate:
    """A's win rate had both responses been of one length, by logistic regression.

    As AlpacaEval 2 (Dubois et al. 2024, arXiv 2404.04475, section 3), for one pair of
    models: logit P(A wins) = theta + phi tanh(d / sd(d)) + psi difficulty, where d is
    the difference in length; the rate is the mean prediction with the second term at
    zero. `difficulty` of each prompt is left out where none is given. Not as there: no
    L1 penalty, and no pull towards truncated copies of the baseline. A tie weighs half
    on each side. The interval is the percentile bootstrap's, over `groups` if given.

    Raises ValueError where there is nothing to fit: inputs of unlike length, fewer than
    30 judged pairs, only wins or only losses, no difference in length anywhere.
    """
    hard = [0.0] * len(outcomes) if difficulty is None else difficulty
    names = range(len(outcomes)) if groups is None else groups
    y, a, b, hard, names = _judged(outcomes, lengths_a, lengths_b, hard, names)
    _check_fit(y, gap := a - b)
    features = np.column_stack([np.tanh(gap / gap.std()), hard - hard.mean()])
    parts = [np.flatnonzero(names == name) for name in np.unique(names)]

    def controlled(picked: np.ndarray) -> float:
        rows = np.concatenate([parts[i] for i in picked])
        return _without_length(features[rows], y[rows])

    everything = np.arange(len(parts))
    low, high = stats.bootstrap(
        (everything,),
        controlled,
        vectorized=False,
        method="percentile",
        confidence_level=confidence,
        n_resamples=resamples,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Estimate(controlled(everything), float(low), float(high))


def _judged(outcomes: Sequence[str], *columns: Sequence) -> list[np.ndarray]:
    """Scores and columns of the pairs that were judged, each (n,)."""
    if sizes := {len(column) for column in columns} - {len(outcomes)}:
        raise ValueError(f"{len(outcomes)} outcomes beside {sizes}: expected as many")
    y = np.array([_score(name) for name in outcomes])
    return [np.asarray(column)[~np.isnan(y)] for column in (y, *columns)]


def _check_fit(y: np.ndarray, gap: np.ndarray) -> None:
    """ValueError where there is nothing to fit; y, gap: (n,)."""
    if len(y) < 30:
        raise ValueError(f"{len(y)} judged pairs: expected 30 at least, judge more")
    if y.min() == y.max():
        seen = f"all {len(y)} pairs score {y[0]:g}, expected wins and losses"
        raise ValueError(f"{seen}: take win_rate, there is no trend to fit")
    if not gap.std():
        seen = f"lengths differ by {gap[0]:g} in every pair, expected variation"
        raise ValueError(f"{seen}: where it is 0, win_rate holds length equal already")


def _without_length(features: np.ndarray, y: np.ndarray) -> float:
    """Mean P(A wins) by a logistic regression of `y`, its first feature set to zero.

    A score of 0.5 becomes two rows of weight one half. The ridge (C) is far too weak
    to matter except where the rows could be told apart without a mistake.
    """
    if y.min() == y.max():  # a resample may hold wins only
        return float(y[0])
    model = LogisticRegression(C=1e4, solver="newton-cholesky")
    both, won = np.vstack([features, features]), np.repeat([1, 0], len(y))
    weights = np.concatenate([y, 1 - y])
    model.fit(both[weights > 0], won[weights > 0], weights[weights > 0])
    return float(model.predict_proba(features * [0, 1])[:, 1].mean())
