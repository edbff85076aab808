"""Wrong answers that people give to the exercises of chapter 09."""

WRONG = {
    "task1": [
        (
            "the second verdict is not turned back",
            """
def named(d, b):
    return sigmoid(d + b), sigmoid(-d + b)

def swapped(d, b):
    p, q = named(d, b)
    return p * q, p * (1 - q) + q * (1 - p), (1 - p) * (1 - q)

pull = "towards one half"
""",
            "turn the verdict back",
        ),
        (
            "the place helps the policy in both orders",
            """
def named(d, b):
    return sigmoid(d + b), sigmoid(d + b)

def swapped(d, b):
    p, q = named(d, b)
    return p * q, p * (1 - q) + q * (1 - p), (1 - p) * (1 - q)

pull = "towards one half"
""",
            "a gift to the baseline",
        ),
        (
            "one of the two contradictions only",
            """
def named(d, b):
    return sigmoid(d + b), sigmoid(d - b)

def swapped(d, b):
    p, q = named(d, b)
    return p * q, p * (1 - q), (1 - p) * (1 - q)

pull = "towards one half"
""",
            "Two contradictions make a tie",
        ),
        (
            "the swap undoes the liking",
            """
def named(d, b):
    return sigmoid(d + b), sigmoid(d - b)

def swapped(d, b):
    p, q = named(d, b)
    return p * q, p * (1 - q) + q * (1 - p), (1 - p) * (1 - q)

pull = "none"
""",
            "is that an undoing",
        ),
        (
            "what two verdicts agree on must be surer",
            """
def named(d, b):
    return sigmoid(d + b), sigmoid(d - b)

def swapped(d, b):
    p, q = named(d, b)
    return p * q, p * (1 - q) + q * (1 - p), (1 - p) * (1 - q)

pull = "away from one half"
""",
            "pairs that the place decides",
        ),
    ],
    "task2": [
        (
            "unparseable is a tie (trap 23)",
            """
counts = dict.fromkeys(("A", "B", "tie", "unparseable"), 0)
for texts in answers:
    first, second = map(parse_verdict, texts)
    second = {"A": "B", "B": "A"}.get(second, second)
    counts[first if first == second and first else "tie"] += 1
return counts, (counts["A"] + counts["tie"] / 2) / len(answers)
""",
            "no readable verdict is no tie",
        ),
        (
            "the verdict that can be read decides",
            """
counts = dict.fromkeys(("A", "B", "tie", "unparseable"), 0)
for texts in answers:
    first, second = map(parse_verdict, texts)
    second = {"A": "B", "B": "A"}.get(second, second)
    first, second = first or second, second or first
    if first is None:
        counts["unparseable"] += 1
    else:
        counts[first if first == second else "tie"] += 1
judged = len(answers) - counts["unparseable"]
return counts, (counts["A"] + counts["tie"] / 2) / judged
""",
            "one verdict alone is no comparison",
        ),
        (
            "the second verdict is not turned back",
            """
counts = dict.fromkeys(("A", "B", "tie", "unparseable"), 0)
for texts in answers:
    first, second = map(parse_verdict, texts)
    if None in (first, second):
        counts["unparseable"] += 1
    else:
        counts[first if first == second else "tie"] += 1
judged = len(answers) - counts["unparseable"]
return counts, (counts["A"] + counts["tie"] / 2) / judged
""",
            "turn that verdict back",
        ),
        (
            "ties are left out of the win rate",
            """
counts = dict.fromkeys(("A", "B", "tie", "unparseable"), 0)
for texts in answers:
    first, second = map(parse_verdict, texts)
    second = {"A": "B", "B": "A"}.get(second, second)
    if None in (first, second):
        counts["unparseable"] += 1
    else:
        counts[first if first == second else "tie"] += 1
return counts, counts["A"] / (counts["A"] + counts["B"])
""",
            "What is a tie worth",
        ),
        (
            "unparseable pairs count as lost in the rate",
            """
counts = dict.fromkeys(("A", "B", "tie", "unparseable"), 0)
for texts in answers:
    first, second = map(parse_verdict, texts)
    second = {"A": "B", "B": "A"}.get(second, second)
    if None in (first, second):
        counts["unparseable"] += 1
    else:
        counts[first if first == second else "tie"] += 1
return counts, (counts["A"] + counts["tie"] / 2) / len(answers)
""",
            "which pairs were never judged",
        ),
    ],
    "task3": [
        (
            "an interval that holds the truth, instead of one that leaves out one half",
            """
prediction = "a"

def published(p, n, teams, rng):
    rates = []
    for _ in range(teams):
        found = win_rate(np.where(rng.random(n) < p, "A", "B").tolist())
        if found.low <= p <= found.high:
            rates.append(found.mean)
    return len(rates) / teams, float(np.mean(rates))

share, mean = published(0.55, 150, 1000, np.random.default_rng(0))
conclusion = "most, and near 0.55"
""",
            "*low* end",
        ),
        (
            "the mean over all teams",
            """
prediction = "c"

def published(p, n, teams, rng):
    all_of_them = [
        win_rate(np.where(rng.random(n) < p, "A", "B").tolist()) for _ in range(teams)
    ]
    share = np.mean([found.low > 0.5 for found in all_of_them])
    return share, np.mean([found.mean for found in all_of_them])

share, mean = published(0.55, 150, 1000, np.random.default_rng(0))
conclusion = "few, and near 0.55"
""",
            "over the teams that report",
        ),
        (
            "the conclusion is the prediction",
            """
prediction = "b"

def published(p, n, teams, rng):
    rates = [
        win_rate(np.where(rng.random(n) < p, "A", "B").tolist()) for _ in range(teams)
    ]
    rates = [found.mean for found in rates if found.low > 0.5]
    return len(rates) / teams, float(np.mean(rates))

share, mean = published(0.55, 150, 1000, np.random.default_rng(0))
conclusion = "most, and near 0.55"
""",
            "Read them again",
        ),
        (
            "no prediction",
            """
prediction = ...

def published(p, n, teams, rng):
    return 0.23, 0.61

share, mean = published(0.55, 150, 1000, np.random.default_rng(0))
conclusion = "few, and too high"
""",
            "set a, b or c",
        ),
        (
            "constants",
            """
prediction = "c"

def published(p, n, teams, rng):
    return 0.23, 0.61

share, mean = published(0.55, 150, 1000, np.random.default_rng(0))
conclusion = "few, and too high"
""",
            "Each team draws n outcomes",
        ),
    ],
    "task4": [
        (
            "the ties are mended, the lengths still centred",
            """
gap = np.subtract(lengths_a, lengths_b)
x = np.tanh((gap - gap.mean()) / gap.std())[:, None]
y = np.array([{"A": 1.0, "tie": 0.5, "B": 0.0}[name] for name in outcomes])
fit = LogisticRegression(C=1e4)
weights = np.concatenate([y, 1 - y])
fit.fit(np.vstack([x, x]), np.repeat([1, 0], len(y)), weights)
return fit.predict_proba([[0.0]])[0, 1]
""",
            "Which difference in words",
        ),
        (
            "the lengths are mended, a tie is still a loss",
            """
gap = np.subtract(lengths_a, lengths_b)
x = np.tanh(gap / gap.std())[:, None]
y = [outcome == "A" for outcome in outcomes]
fit = LogisticRegression(C=1e4).fit(x, y)
return fit.predict_proba([[0.0]])[0, 1]
""",
            "make of a tie",
        ),
        (
            "ties are dropped",
            """
gap = np.subtract(lengths_a, lengths_b)
decided = np.array(outcomes) != "tie"
x = np.tanh(gap / gap.std())[:, None]
y = np.array(outcomes) == "A"
fit = LogisticRegression(C=1e4).fit(x[decided], y[decided])
return fit.predict_proba([[0.0]])[0, 1]
""",
            "do you throw it away",
        ),
        (
            "the raw win rate with ties as halves",
            """
return np.mean([{"A": 1.0, "tie": 0.5, "B": 0.0}[name] for name in outcomes])
""",
            "Which difference in words",
        ),
    ],
}

RIGHT = {
    "task1": [
        (
            "by the four pairs of verdicts",
            """
def named(d, b):
    return 1 / (1 + exp(-d - b)), 1 - 1 / (1 + exp(d - b))

def swapped(d, b):
    p, q = named(d, b)
    return p * q, p * (1 - q) + q * (1 - p), (1 - p) * (1 - q)

pull = "towards one half"
""",
        )
    ],
    "task2": [
        (
            "by a list of outcomes, as a Counter",
            """
from collections import Counter
outcomes = []
for one, two in answers:
    one, two = parse_verdict(one), parse_verdict(two)
    two = {"A": "B", "B": "A"}.get(two, two)
    if None in (one, two):
        outcomes.append("unparseable")
    else:
        outcomes.append(one if one == two else "tie")
counts = Counter(outcomes)
won = counts["A"] + 0.5 * counts["tie"]
return counts, won / (len(outcomes) - counts["unparseable"])
""",
        )
    ],
    "task3": [
        (
            "another prediction, drawn at once",
            """
prediction = "a"

def published(p, n, teams, rng):
    wins = rng.binomial(n, p, teams)
    found = [win_rate(["A"] * k + ["B"] * (n - k)) for k in wins.tolist()]
    rates = [estimate.mean for estimate in found if estimate.low > 0.5]
    return len(rates) / teams, sum(rates) / len(rates)

share, mean = published(0.55, 150, 1000, np.random.default_rng(0))
conclusion = "few, and too high"
""",
        )
    ],
    "task4": [
        (
            "each pair twice, ties once on each side",
            """
gap = np.subtract(lengths_a, lengths_b)
x = np.tanh(gap / gap.std())
rows, wins = [], []
for value, name in zip(x, outcomes):
    rows += [[value], [value]]
    wins += {"A": [1, 1], "B": [0, 0], "tie": [1, 0]}[name]
fit = LogisticRegression(C=1e4).fit(rows, wins)
return fit.predict_proba([[0.0]])[0, 1]
""",
        )
    ],
}
