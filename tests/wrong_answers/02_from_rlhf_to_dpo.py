"""Wrong answers to the exercises of chapter 02, and other right ones."""

REPAIRED = """
theta = log_ref.clone().requires_grad_()
reference = {reference}
for _ in range(steps):
    {refresh}
    ratio = theta.log_softmax(-1) - reference
    h = {gap} * (ratio[first] - ratio[second])
    losses = -wins * logsigmoid(h) - defeats * logsigmoid(-h)
    loss = losses.sum() / (wins + defeats).sum()
    (gradient,) = torch.autograd.grad(loss, theta)
    with torch.no_grad():
        theta -= rate * gradient
return theta.detach().log_softmax(-1)
"""


def repaired(reference="log_ref", refresh="pass", gap="beta"):
    return REPAIRED.format(reference=reference, refresh=refresh, gap=gap)


DRAW = """
kept = []
while sum(len(part) for part in kept) < n:
    y = propose(n)
    chance = {chance}
    kept.append(y[torch.rand(n) < chance])
return torch.cat(kept)[:n]
"""

MOVED = """
prediction, conclusion = "neither", "{conclusion}"
shown = {{"even": even, "uneven": uneven}}
dpos, ipos = (
    {{name: descend(loss, n * p_true, {defeats}) for name, n in shown.items()}}
    for loss in (dpo, ipo)
)
moved_dpo = kl(dpos["uneven"], {dpo_to})
moved_ipo = kl(ipos["uneven"], {ipo_to})
"""


def moved(conclusion="IPO", defeats="n * (1 - p_true)", to=("dpos", "ipos")):
    ends = [place if "log" in place else f'{place}["even"]' for place in to]
    return MOVED.format(
        conclusion=conclusion, defeats=defeats, dpo_to=ends[0], ipo_to=ends[1]
    )


WRONG = {
    "task1": [
        ("adds the betas", "return sum(betas)", "larger beta, or to a smaller one"),
        (
            "takes their mean",
            "return sum(betas) / len(betas)",
            "larger beta, or to a smaller one",
        ),
        (
            "multiplies them",
            "return float(torch.tensor(betas).prod())",
            "by what is r multiplied in the exponent",
        ),
        (
            "divides by the number of rounds, whatever their betas",
            "return betas[0] / len(betas)",
            "by what is r multiplied in the exponent",
        ),
        (
            "takes the last round for the only one",
            "return betas[-1]",
            "larger beta, or to a smaller one",
        ),
    ],
    "task2": [
        (
            "lets a cap at 1 do what the bound should",
            DRAW.format(chance="(score(y) / beta).exp().clamp(max=1)"),
            "a cap at 1, or a sigmoid",
        ),
        (
            "Bradley-Terry's sigmoid in place of the exponential",
            DRAW.format(chance="(score(y) / beta).sigmoid()"),
            "a cap at 1, or a sigmoid",
        ),
        (
            "beta on the wrong side",
            DRAW.format(chance="((score(y) - top) * beta).exp()"),
            "on which side of the reward",
        ),
        (
            "keeps what the reference proposes",
            "return propose(n)",
            "should be",
        ),
        (
            "best of four",
            """
            y = torch.stack([propose(n) for _ in range(4)])
            return y.gather(0, score(y).argmax(0, keepdim=True))[0]
            """,
            "should be",
        ),
        (
            "returns only what one round of proposals left",
            """
            y = propose(n)
            return y[torch.rand(n) < ((score(y) - top - 0.1) / beta).exp()]
            """,
            "draws instead of",
        ),
    ],
    "task3": [
        (
            "weighs the wins and not the defeats",
            moved("both", defeats="1 - p_true"),
            "wins *and* defeats",
        ),
        (
            "measures the distance to the reference",
            moved("both", to=("log_ref", "log_ref")),
            "not one to log_ref",
        ),
        (
            "takes DPO's optimum for IPO's",
            moved("IPO", to=("dpos", "optimum(r, 0.5, log_ref)")),
            "the KL between IPO's two fits",
        ),
        ("repeats the prediction", moved("neither"), "moved_ipo: is it above or below"),
        ("names the other loss", moved("DPO"), "moved_dpo: is it above or below"),
    ],
    "task4": [
        (
            "leaves the reference sharing the policy's memory",
            repaired("theta.detach()"),
            "what the policy started from",
        ),
        (
            "takes the reference anew at each step",
            repaired(refresh="reference = theta.detach().log_softmax(-1).clone()"),
            "what the policy started from",
        ),
        (
            "leaves beta on the wrong side",
            repaired(gap="1 / beta"),
            "a larger beta keeps the policy closer",
        ),
        (
            "leaves beta out",
            repaired(gap="1.0"),
            "a larger beta keeps the policy closer",
        ),
        (
            "drops the reference",
            repaired("0.0"),
            "what the policy started from",
        ),
        (
            "trains the tensor that the reference stands in",
            repaired("log_ref.detach().clone()").replace(
                "= log_ref.clone()", "= log_ref", 1
            ),
            "share memory",
        ),
    ],
}

RIGHT = {
    "task1": [
        (
            "a tensor, and the harmonic mean",
            "return len(betas) / sum(1 / b for b in betas) / len(betas)",
        ),
    ],
    "task2": [
        (
            "one response at a time",
            """
            y, parts = propose(100 * n).tolist(), []
            rewards = score(torch.tensor(y)).tolist()
            import math
            import random

            for response, reward in zip(y, rewards):
                if random.random() < math.exp((reward - top) / beta):
                    parts.append(response)
                if len(parts) == n:
                    return torch.tensor(parts)
            """,
        ),
    ],
    "task3": [("predicts otherwise, reads what was measured", moved())],
    "task4": [("a copy of the start", repaired("theta.detach().clone()"))],
}
