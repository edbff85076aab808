"""Wrong answers that people give to the exercises of chapter 11."""

_HOLDS = """
def holds(n):
    return 1 - 2 * stats.t.sf(1.96, n - 1)
"""
_STOP = """
half = losses.shape[1] // 2
stop = losses[:, :half].mean(axis=1).argmin()
"""

WRONG = {
    "task1": [
        (
            "1.96 for three seeds",
            """
def paired(planted, repaired):
    gains = [planted[seed] - repaired[seed] for seed in planted]
    n, mean = len(gains), sum(gains) / len(gains)
    s = (sum((gain - mean) ** 2 for gain in gains) / (n - 1)) ** 0.5
    return mean, mean - 1.96 * s / n**0.5, mean + 1.96 * s / n**0.5
"""
            + _HOLDS,
            "does your factor know",
        ),
        (
            "the runs paired by their place",
            """
def paired(planted, repaired):
    gains = [a - b for a, b in zip(planted.values(), repaired.values())]
    n, mean = len(gains), sum(gains) / len(gains)
    s = (sum((gain - mean) ** 2 for gain in gains) / (n - 1)) ** 0.5
    half = stats.t.ppf(0.975, n - 1) * s / n**0.5
    return mean, mean - half, mean + half
"""
            + _HOLDS,
            "compared with that of its own seed",
        ),
        (
            "two samples instead of pairs",
            """
def paired(planted, repaired):
    from numpy import mean, var
    a, b = list(planted.values()), list(repaired.values())
    gain = mean(a) - mean(b)
    s = (var(a, ddof=1) / len(a) + var(b, ddof=1) / len(b)) ** 0.5
    half = stats.t.ppf(0.975, len(a) + len(b) - 2) * s
    return gain, gain - half, gain + half
"""
            + _HOLDS,
            "compared with that of its own seed",
        ),
        (
            "s divides by n",
            """
def paired(planted, repaired):
    from numpy import mean, std
    gains = [planted[seed] - repaired[seed] for seed in planted]
    half = stats.t.ppf(0.975, len(gains) - 1) * std(gains) / len(gains) ** 0.5
    return mean(gains), mean(gains) - half, mean(gains) + half
"""
            + _HOLDS,
            "divides by n - 1",
        ),
        (
            "repaired less planted",
            """
def paired(planted, repaired):
    gains = [repaired[seed] - planted[seed] for seed in planted]
    n, mean = len(gains), sum(gains) / len(gains)
    s = (sum((gain - mean) ** 2 for gain in gains) / (n - 1)) ** 0.5
    half = stats.t.ppf(0.975, n - 1) * s / n**0.5
    return mean, mean - half, mean + half
"""
            + _HOLDS,
            "positive where the words",
        ),
        (
            "one tail",
            """
def paired(planted, repaired):
    gains = [planted[seed] - repaired[seed] for seed in planted]
    n, mean = len(gains), sum(gains) / len(gains)
    s = (sum((gain - mean) ** 2 for gain in gains) / (n - 1)) ** 0.5
    half = stats.t.ppf(0.975, n - 1) * s / n**0.5
    return mean, mean - half, mean + half

def holds(n):
    return stats.t.cdf(1.96, n - 1)
""",
            "counting both tails",
        ),
        (
            "95 % is 95 %",
            """
def paired(planted, repaired):
    gains = [planted[seed] - repaired[seed] for seed in planted]
    n, mean = len(gains), sum(gains) / len(gains)
    s = (sum((gain - mean) ** 2 for gain in gains) / (n - 1)) ** 0.5
    half = stats.t.ppf(0.975, n - 1) * s / n**0.5
    return mean, mean - half, mean + half

def holds(n):
    return 0.95
""",
            "Which distribution has the ratio",
        ),
    ],
    "task2": [
        (
            "a loss near ln 2 at the end is a reference that moves",
            """
losses = [row["loss"] for row in log_rows]
if abs(losses[0] - log(2)) > 1e-3:
    return "unequal at the start"
if max(losses) > 1:
    return "beta upside down"
if abs(losses[-1] - log(2)) < 0.02:
    return "reference moves"
return "nothing heard"
""",
            "you say 'reference moves'",
        ),
        (
            "large rewards first, the start afterwards (trap 12: padding scored)",
            """
rewards = [abs(row["rewards/" + s]) for row in log_rows for s in ("chosen", "rejected")]
if max(rewards) > 1:
    return "beta upside down"
if max(rewards) < 1e-3:
    return "reference moves"
if abs(log_rows[0]["loss"] - log(2)) > 1e-3:
    return "unequal at the start"
return "nothing heard"
""",
            "Look there first",
        ),
        (
            "by the first loss alone (trap 11: the first loss is ln 2)",
            """
rewards = [abs(row["rewards/" + s]) for row in log_rows for s in ("chosen", "rejected")]
if abs(log_rows[0]["loss"] - log(2)) > 1e-3:
    return "unequal at the start"
if max(rewards) < 1e-3:
    return "reference moves"
return "beta upside down" if max(rewards) > 1 else "nothing heard"
""",
            "sees their difference only",
        ),
        (
            "the loss of a healthy run falls",
            """
losses = [row["loss"] for row in log_rows]
if abs(losses[0] - log(2)) > 1e-3:
    return "unequal at the start"
if max(abs(loss - log(2)) for loss in losses) < 1e-3:
    return "reference moves"
if max(losses) > losses[0] + 1e-3:
    return "beta upside down"
return "nothing heard"
""",
            "its loss may rise for a step",
        ),
        (
            "ln 2 throughout, with a wide margin",
            """
losses = [row["loss"] for row in log_rows]
rewards = [abs(row["rewards/" + s]) for row in log_rows for s in ("chosen", "rejected")]
if abs(losses[0] - log(2)) > 1e-3:
    return "unequal at the start"
if max(rewards) > 1:
    return "beta upside down"
if max(abs(loss - log(2)) for loss in losses) < 0.03:
    return "reference moves"
return "nothing heard"
""",
            "you say 'reference moves'",
        ),
    ],
    "task3": [
        (
            "kept where two more agree that the label is right",
            """
prediction = "b"

def asked_thrice(noise):
    annotator = Annotator(temperature=0.05, label_noise=noise, seed=3)
    kept = []
    for row in texts:
        labels = [annotator.label(*row) for _ in range(3)]
        if all(gap(label) > 0 for label in labels):
            kept.append(labels[0])
    return len(kept) / len(texts), 0.0

conclusion = {0.1: "a", 0.4: "b"}
""",
            "Count among the kept, by r*",
        ),
        (
            "the annotator made anew for each label",
            """
prediction = "a"

def asked_thrice(noise):
    kept = []
    for row in texts:
        labels = [
            Annotator(temperature=0.05, label_noise=noise, seed=3).label(*row)
            for _ in range(3)
        ]
        if labels[0] == labels[1] == labels[2]:
            kept.append(labels[0])
    return len(kept) / len(texts), sum(gap(pair) < 0 for pair in kept) / len(kept)

conclusion = {0.1: "a", 0.4: "c"}
""",
            "drawn independently",
        ),
        (
            "a majority instead of all",
            """
prediction = "c"

def asked_thrice(noise):
    annotator = Annotator(temperature=0.05, label_noise=noise, seed=3)
    kept = []
    for row in texts:
        labels = [annotator.label(*row) for _ in range(3)]
        kept.append(max(labels, key=labels.count))
    return len(kept) / len(texts), sum(gap(pair) < 0 for pair in kept) / len(kept)

conclusion = {0.1: "a", 0.4: "c"}
""",
            "All three labels must agree",
        ),
        (
            "the wrong ones as a share of all pairs",
            """
prediction = "b"

def asked_thrice(noise):
    annotator = Annotator(temperature=0.05, label_noise=noise, seed=3)
    kept = []
    for row in texts:
        labels = [annotator.label(*row) for _ in range(3)]
        if labels[0] == labels[1] == labels[2]:
            kept.append(labels[0])
    return len(kept) / len(texts), sum(gap(pair) < 0 for pair in kept) / len(texts)

conclusion = {0.1: "a", 0.4: "b"}
""",
            "Count among the kept",
        ),
        (
            "what three agree on is true, whatever was measured",
            """
prediction = "b"

def asked_thrice(noise):
    annotator = Annotator(temperature=0.05, label_noise=noise, seed=3)
    kept = []
    for row in texts:
        labels = [annotator.label(*row) for _ in range(3)]
        if labels[0] == labels[1] == labels[2]:
            kept.append(labels[0])
    return len(kept) / len(texts), sum(gap(pair) < 0 for pair in kept) / len(kept)

conclusion = {0.1: "a", 0.4: "b"}
""",
            "Read a, b and c again",
        ),
    ],
    "task4": [
        (
            "the lowest of all",
            """
means = losses.mean(axis=1)
return means[-1] - means[means.argmin()]
""",
            "counted as gain",
        ),
        (
            "chosen and judged by the same half",
            _STOP
            + """
mine = losses[:, :half]
return mine[-1].mean() - mine[stop].mean()
""",
            "both choose the",
        ),
        (
            "chosen by one half, judged by all",
            _STOP + "return losses[-1].mean() - losses[stop].mean()\n",
            "both choose the",
        ),
        (
            "stopping never gains",
            "return 0.0\n",
            "must be looked at",
        ),
        (
            "the end of one half against the stop of the other",
            _STOP + "return losses[-1, :half].mean() - losses[stop, half:].mean()\n",
            "in the same pairs, and that cancels",
        ),
        (
            "the wrong way round",
            _STOP + "return losses[stop, half:].mean() - losses[-1, half:].mean()\n",
            "last minus chosen",
        ),
    ],
}

RIGHT = {
    "task1": [
        (
            "with the package and scipy",
            """
from dpo_tutorial.evaluation import mean_interval

def paired(planted, repaired):
    found = mean_interval([planted[k] - repaired[k] for k in sorted(planted)])
    return found.mean, found.low, found.high

def holds(n):
    return stats.t.cdf(1.96, n - 1) - stats.t.cdf(-1.96, n - 1)
""",
        )
    ],
    "task2": [
        (
            "by the margins and the losses",
            """
sides = ("rewards/chosen", "rewards/rejected")
if any(round(log_rows[0][side], 3) for side in sides):
    return "unequal at the start"
if all(abs(row[side]) < 1e-6 for row in log_rows for side in sides):
    return "reference moves"
if max(row["loss"] for row in log_rows) > 1:
    return "beta upside down"
return "nothing heard"
""",
        )
    ],
    "task3": [
        (
            "by the package's curator, another prediction",
            """
prediction = "a"

def asked_thrice(noise):
    annotator = Annotator(temperature=0.05, label_noise=noise, seed=5)
    kept = faults.agreed([annotator.label(*row) for row in texts], annotator)
    return len(kept) / len(texts), sum(gap(pair) < 0 for pair in kept) / len(kept)

conclusion = {0.1: "a", 0.4: "c"}
""",
        )
    ],
    "task4": [
        (
            "both halves in turn",
            """
half, gains = losses.shape[1] // 2, []
a, b = slice(half), slice(half, None)
for first, second in [(a, b), (b, a)]:
    stop = losses[:, first].mean(1).argmin()
    gains.append((losses[-1, second] - losses[stop, second]).mean())
return sum(gains) / 2
""",
        )
    ],
}
