"""Wrong answers that people give to the exercises of chapter 06."""

WRONG = {
    "task1": [
        (
            "one accuracy's error, not the difference's",
            "return ceil(a * (1 - a) * (1.96 / d) ** 2)",
            "each of the two accuracies",
        ),
        (
            "one half, whatever the accuracy",
            "return ceil(2 * 0.25 * (1.96 / d) ** 2)",
            "Where is a in yours",
        ),
        (
            "n taken as falling with the difference, not with its square",
            "return ceil((2 * a * (1 - a)) ** 0.5 * 1.96 / d)",
            "solve for n",
        ),
        (
            "rounded down",
            "return int(2 * a * (1 - a) * (1.96 / d) ** 2)",
            "round up",
        ),
    ],
    "task2": [
        (
            "accuracy without the reference",
            """\
chosen, rejected = now - then
margin, won = chosen - rejected, now[0] > now[1]
return {
    "margin": margin.mean().item(),
    "accuracy": won.float().mean().item(),
    "won but fell": (won & (chosen < 0)).float().mean().item(),
    "from below": (-rejected.mean() / margin.mean()).item(),
}
""",
            "the reference is missing",
        ),
        (
            "a tie counts as a win",
            """\
chosen, rejected = now - then
margin = chosen - rejected
won = margin >= 0
return {
    "margin": margin.mean().item(),
    "accuracy": won.float().mean().item(),
    "won but fell": (won & (chosen < 0)).float().mean().item(),
    "from below": (-rejected.mean() / margin.mean()).item(),
}
""",
            "A tie is no win",
        ),
        (
            "all that fell, won or lost",
            """\
chosen, rejected = now - then
margin = chosen - rejected
return {
    "margin": margin.mean().item(),
    "accuracy": (margin > 0).float().mean().item(),
    "won but fell": (chosen < 0).float().mean().item(),
    "from below": (-rejected.mean() / margin.mean()).item(),
}
""",
            "wants a margin above zero",
        ),
        (
            "rewards, with beta, as the log has them",
            """\
chosen, rejected = 0.1 * (now - then)
margin = chosen - rejected
won = margin > 0
return {
    "margin": margin.mean().item(),
    "accuracy": won.float().mean().item(),
    "won but fell": (won & (chosen < 0)).float().mean().item(),
    "from below": (-rejected.mean() / margin.mean()).item(),
}
""",
            "without beta",
        ),
        (
            "shares of the movement and not of the margin",
            """\
chosen, rejected = now - then
margin = chosen - rejected
won = margin > 0
down, up = -rejected.mean(), chosen.mean().abs()
return {
    "margin": margin.mean().item(),
    "accuracy": won.float().mean().item(),
    "won but fell": (won & (chosen < 0)).float().mean().item(),
    "from below": (down / (down + up)).item(),
}
""",
            "more than the whole",
        ),
    ],
    "task3": [
        (
            "no prediction",
            """\
prediction = ""


def outcome(won, lost):
    path = descend(won, lost)
    gain, n = path[-1] - path[0], responses.index(won)
    nats = (path[-1, n] / path[0, n]).log()
    return {"chosen": nats, "reward": gain @ r, "heir": responses[gain.argmax()]}


conclusion = "b"
""",
            "one of the four responses",
        ),
        (
            "the gap, which always grows, for the chosen response",
            """\
prediction = "not bad."


def outcome(won, lost):
    path = descend(won, lost)
    gain = path[-1] - path[0]
    gap = (path[:, responses.index(won)] / path[:, responses.index(lost)]).log()
    nats = gap[-1] - gap[0]
    return {"chosen": nats, "reward": gain @ r, "heir": responses[gain.argmax()]}


conclusion = "d"
""",
            "another number, and it always grows",
        ),
        (
            "the reward of the heir for the expected reward",
            """\
prediction = "lovely."


def outcome(won, lost):
    path = descend(won, lost)
    gain, n = path[-1] - path[0], responses.index(won)
    nats, heir = (path[-1, n] / path[0, n]).log(), gain.argmax()
    return {"chosen": nats, "reward": r[heir], "heir": responses[heir]}


conclusion = "b"
""",
            "weighs all seven rewards",
        ),
        (
            "a conclusion from the first pair alone",
            """\
prediction = "lovely."


def outcome(won, lost):
    path = descend(won, lost)
    gain, n = path[-1] - path[0], responses.index(won)
    nats = (path[-1, n] / path[0, n]).log()
    return {"chosen": nats, "reward": gain @ r, "heir": responses[gain.argmax()]}


conclusion = "a"
""",
            "does not agree",
        ),
    ],
    "task4": [
        (
            "trusts the diagnosis where it is silent",
            """\
from math import exp, log1p


def lowest_loss(margin):
    return log1p(exp(-margin))


named = {"A": "wrong reference", "B": "overfitting", "C": "healthy", "D": "healthy"}
""",
            "Log C: its held-out loss lies below",
        ),
        (
            "a falling chosen reward taken for displacement",
            """\
from math import exp, log1p


def lowest_loss(margin):
    return log1p(exp(-margin))


named = {"A": "wrong reference", "B": "overfitting"}
named |= {"C": "both rewards drifting", "D": "displacement"}
""",
            "Log D",
        ),
        (
            "beta once more",
            """\
from math import exp, log1p


def lowest_loss(margin):
    return log1p(exp(-0.1 * margin))


named = {"A": "wrong reference", "B": "overfitting"}
named |= {"C": "both rewards drifting", "D": "healthy"}
""",
            "carry beta already",
        ),
        (
            "the tangent at zero",
            """\
from math import log


def lowest_loss(margin):
    return log(2) - margin / 2


named = {"A": "wrong reference", "B": "overfitting"}
named |= {"C": "both rewards drifting", "D": "healthy"}
""",
            "A tangent is a bound too",
        ),
    ],
}

RIGHT = {
    "task1": [
        (
            "searched and not solved",
            """\
n = 1
while 1.96 * (2 * a * (1 - a) / n) ** 0.5 > d:
    n += 1
return n
""",
        )
    ],
    "task2": [
        (
            "a loop over pairs",
            """\
up = [float(a - b) for a, b in zip(now[0], then[0])]
down = [float(b - a) for a, b in zip(now[1], then[1])]
gaps = [u + x for u, x in zip(up, down)]
size = len(gaps)
return {
    "margin": sum(gaps) / size,
    "accuracy": sum(g > 0 for g in gaps) / size,
    "won but fell": sum(g > 0 and u < 0 for g, u in zip(gaps, up)) / size,
    "from below": sum(down) / sum(gaps),
}
""",
        )
    ],
    "task3": [
        (
            "another prediction, logs summed by hand",
            """\
prediction = "not good."


def outcome(won, lost):
    start, end = descend(won, lost)[[0, -1]].tolist()
    gains = {name: b - a for name, a, b in zip(responses, start, end)}
    n = responses.index(won)
    nats = torch.tensor(end[n]).log() - torch.tensor(start[n]).log()
    reward = sum(float(x) * g for x, g in zip(r, gains.values()))
    return {"chosen": nats, "reward": reward, "heir": max(gains, key=gains.get)}


conclusion = "b"
""",
        )
    ],
    "task4": [
        (
            "softplus",
            """\
def lowest_loss(margin):
    return F.softplus(torch.tensor(-float(margin)))


named = {"A": "wrong reference", "B": "overfitting"}
named |= {"C": "both rewards drifting", "D": "healthy"}
""",
        )
    ],
}
