"""What a DPO run's log says is wrong with it, without a look at model or data."""

from __future__ import annotations

from collections import defaultdict, namedtuple
from collections.abc import Mapping, Sequence
from math import isfinite, log, log10, nan
from numbers import Real

import numpy as np

from .findings import Findings

#: `confidence` is from 0 to 1, `evidence` has the numbers, `remedy` what to try.
Issue = namedtuple("Issue", ["cause", "confidence", "evidence", "remedy"])
Signs = Mapping[str, float]
KINDS = ("accuracies", "chosen", "rejected", "margins")
REMEDIES = {
    "wrong reference": "run preflight: dropout, another checkpoint, adapters, dtype",
    "not learning": "raise the learning rate; count trainable weights; read the labels",
    "overfitting": "more pairs, fewer epochs, a higher beta; keep the best checkpoint",
    "both rewards drifting": "look for a term or a decay beside DPO's loss; raise beta",
    "displacement": "usual up to a point: read samples; raise beta, add an SFT term",
    "diverging": "lower the learning rate, lengthen warm-up, clip gradients",
    "too early a divergence": "compare how train and eval pairs were made and judged",
    "reward scale exploding": "lower beta: summed log-probs want about 0.1, not 2",
}
WORST = ("wrong reference", "reward scale exploding", "diverging")
EXPLAINS = {  # a cause, and what it brings about
    **{cause: {*REMEDIES} - {*WORST[: i + 1]} for i, cause in enumerate(WORST)},
    "both rewards drifting": {"displacement", "not learning"},
    "overfitting": {"too early a divergence", "displacement"},
    "too early a divergence": {"displacement"},
}


def diagnose_training_issues(history: Sequence[Mapping]) -> Findings:
    """What is wrong with a run, from its log alone: `Issue`s, the most confident first.

    `history` has a row a logged step, with `step` and TRL's metric names: ours, or
    TRL's `log_history`. The order is free, of a step logged twice the later row counts,
    and what is missing or no number is left out. A healthy run gives an empty list. An
    issue that another brings about keeps half its confidence. TypeError if `history` is
    not of rows. On displacement: arXiv 2410.08847.
    """
    signs = read_signs(history)
    found = {cause: rule(signs) for cause, rule in RULES.items()}
    sure = [cause for cause, (confidence, _) in found.items() if confidence >= 0.6]
    brought = set().union(*(EXPLAINS.get(cause, ()) for cause in sure))
    issues = [
        Issue(c, round(float(x) / (1 + (c in brought)), 2), text, REMEDIES[c])
        for c, (x, text) in found.items()
        if x >= 0.5
    ]
    return Findings(sorted(issues, key=lambda issue: -issue.confidence))


def read_signs(history: Sequence[Mapping]) -> dict[str, float]:
    """The figures that the rules go by; NaN for what the log does not hold.

    `loss`, `chosen`, …: means over the last third, `eval_*` on held-out pairs, which
    stand in where nothing else is. `base`: the loss of a policy that is its reference;
    `worst`: the largest over a sixth of the run; `rise`: that of the held-out loss.
    """
    curves, broken = _curves(history)
    signs = defaultdict(lambda: nan, broken=broken)
    for prefix in ("eval_", ""):
        for name in ("loss", *(f"rewards/{kind}" for kind in KINDS)):
            if values := [*curves[prefix + name].values()]:
                late, key = values[-((len(values) + 2) // 3) :], name.split("/")[-1]
                signs |= dict.fromkeys((prefix + key, key), sum(late) / len(late))
    if losses := curves["loss"] or curves["eval_loss"]:
        start, values = min(losses), list(losses.values())
        rewards = (curves[f"rewards/{kind}"].get(start) for kind in KINDS[1:])
        first = max((abs(x) for x in rewards if x is not None), default=nan)
        same = start <= 1 and first < 1e-3  # so that other losses have their own base
        signs |= {"first step": start, "first loss": values[0], "first reward": first}
        signs |= {"rows": len(values), "base": values[0] if same else log(2)}
        width = max(1, len(values) // 6)
        signs["worst"] = max(np.convolve(values, np.ones(width) / width, "valid"))
    if held_out := [*curves["eval_loss"].values()]:
        signs["rise"] = held_out[-1] - min(held_out)
    _read_nats(signs, curves)
    return signs


def _curves(history: Sequence[Mapping]) -> tuple[dict[str, dict], float]:
    """By name, its finite values by step, in order; the first step that was not."""
    rows, curves, broken = [], defaultdict(dict), nan
    for i, row in enumerate(history):
        if not isinstance(row, Mapping):
            seen = f"history holds a {type(row).__name__}"
            raise TypeError(f"{seen}, expected rows of metrics by name")
        step = row.get("step")
        rows.append((step if isinstance(step, Real) else i + 1, row))
    for step, row in sorted(rows, key=lambda pair: pair[0]):
        for name, value in row.items():
            if isinstance(value, Real) and isfinite(value):
                curves[name][step] = float(value)
            elif isinstance(value, Real) and not broken <= step:
                broken = float(step)
    return curves, broken


def _read_nats(signs: dict, curves: dict) -> None:
    """`scale`, reward per nat, an estimate of beta; `fall`, nats that the chosen lost.

    Held-out pairs are the same each time: reward over log-prob is a line of slope beta.
    Training batches differ, and give a lower bound of it.
    """
    for prefix in ("", "eval_"):
        rewards, logps = (curves[f"{prefix}{n}/chosen"] for n in ("rewards", "logps"))
        if len(steps := [step for step in logps if step in rewards]) < 2:
            continue
        y, x = (np.array([c[step] for step in steps]) for c in (rewards, logps))
        third, low, high = -(-len(x) // 3), x.argmin(), x.argmax()
        if prefix:
            scale = (y[high] - y[low]) / max(x[high] - x[low], 0.05)
            fall = -y[-1] / scale if scale > 1e-6 else x[0] - x[-1]
        else:
            fall, gain = (v[:third].mean() - v[-third:].mean() for v in (x, y))
            scale = gain / (abs(fall) + 2)
        signs |= {"scale": float(abs(scale)) or nan, "fall": float(fall)}
        signs["start"] = abs(float(x[-1] + fall))


def _ramp(x: float, start: float, full: float) -> float:
    """0 before `start` and for NaN, 0.5 there, rising to 0.95 at `full`."""
    share = (x - start) / (full - start)
    return 0.5 + 0.45 * min(1.0, share) if share >= 0 else 0.0


def _wrong_reference(s: Signs) -> tuple[float, str]:
    off, first = abs(s["first loss"] - log(2)), s["first reward"]
    text = f"step {s['first step']:.0f}: loss {s['first loss']:.4f}, ln 2 is 0.6931"
    if s["first step"] > 1:
        above = _ramp(s["first loss"] - log(2), 0.15, 0.5)
        return min(0.55, above), f"{text}; unsure, as it is not step 1"
    if isfinite(first):  # other losses than DPO's do not start at ln 2
        text = f"{text}; rewards up to {first:.2g}, not 0"
    return _ramp(log10((first if isfinite(first) else off / 10) + 1e-9), -3, -2), text


def _not_learning(s: Signs) -> tuple[float, str]:
    gain = s["base"] - np.fmin(s["loss"], s["eval_loss"])
    margin = np.fmax(s["margins"], s["eval_margins"])
    learns = margin / max(s["scale"], 0.01) > 1 and s["accuracies"] > 0.55  # low beta
    text = f"loss {s['base']:.3f} to {s['loss']:.3f}, margin {margin:.3f}, rewards "
    confidence = min(_ramp(-gain, -0.012, 0), _ramp(-margin, -0.06, 0))
    text += f"{s['chosen']:.3f} and {s['rejected']:.3f}"
    return confidence * (s["rows"] >= 4 and not learns), text


def _overfitting(s: Signs) -> tuple[float, str]:
    train, held_out = s["accuracies"], s["eval_accuracies"]
    text = f"accuracy {train:.2f} in training, {held_out:.2f} held out; loss "
    confidence = min(_ramp(train, 0.93, 0.96), _ramp(train - held_out, 0.15, 0.25))
    return confidence, f"{text}{s['loss']:.2f} and {s['eval_loss']:.2f}"


def _early_divergence(s: Signs) -> tuple[float, str]:
    apart, gain = s["eval_loss"] - s["loss"], s["base"] - s["loss"]
    lost = max(s["eval_loss"] - s["base"], s["rise"] - 0.03)
    text = f"loss {s['loss']:.2f} in training, {s['eval_loss']:.2f} held out, "
    parts = _ramp(apart, 0.12, 0.3), _ramp(gain, 0.05, 0.1), _ramp(lost, 0, 0.05)
    return min(parts), f"{text}{s['rise']:.2f} above its lowest"


def _drift(s: Signs) -> tuple[float, str]:
    middle = (s["chosen"] + s["rejected"]) / 2
    share = np.fmax(s["margins"], s["eval_margins"]) / (abs(middle) or nan)
    nats = abs(middle) / s["scale"]
    text = f"rewards {s['chosen']:.2f} and {s['rejected']:.2f}: {nats:.0f} nats "
    confidence = min(_ramp(nats, 6, 12), _ramp(-share, -0.25, -0.1))
    return confidence, f"{text}the same way, their margin {share:.0%} of that"


def _displacement(s: Signs) -> tuple[float, str]:
    text = f"chosen log-probs fell by {s['fall']:.1f} nats, from {-s['start']:.1f}; "
    confidence = _ramp(s["fall"] / max(9.0, 0.25 * s["start"]), 1, 2)
    return confidence * (s["margins"] > 0), f"{text}margin {s['margins']:.2f}"


def _diverging(s: Signs) -> tuple[float, str]:
    if isfinite(s["broken"]):
        return 0.95, f"not a finite number at step {s['broken']:.0f}"
    text = f"loss up to {s['worst']:.2f} from {s['base']:.2f}, now {s['loss']:.2f}"
    lost = min(_ramp(s["fall"], 15, 25), _ramp(s["loss"] - s["base"], 0, 0.05))
    return max(lost, _ramp(s["worst"] - s["base"], 0.3, 0.6)) * (s["rows"] >= 4), text


def _exploding(s: Signs) -> tuple[float, str]:
    size, margin = max(abs(s["chosen"]), abs(s["rejected"])), abs(s["margins"])
    text = f"rewards {s['chosen']:.1f} and {s['rejected']:.1f}, {s['scale']:.2g} a nat"
    steep = min(_ramp(size, 2, 4), _ramp(s["scale"], 0.75, 1.5))
    return max(steep, _ramp(margin, 10, 20)), f"{text}; margin {margin:.1f}"


_FIRST = _wrong_reference, _not_learning, _overfitting, _drift, _displacement
RULES = dict(zip(REMEDIES, (*_FIRST, _diverging, _early_divergence, _exploding)))  # noqa: B905
