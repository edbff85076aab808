"""Wrong answers that people give to the exercises of chapter 08."""

CDPO = """\
from math import log


def cdpo_rest(beta, eps):
    return log((1 - eps) / eps) / beta


"""
IPO = """\
def ipo_rest(tau, eps):
    return (1 - 2 * eps) / (2 * tau)


"""
AVERAGED = """\
def averaged_ipo_rest(tau, tokens):
    return tokens / (2 * tau)
"""


def kto(z, gain="rho.diagonal() - z"):
    """`kto` with another reference point."""
    return f"""\
if len(p) < 2:
    raise ValueError("one row")
rho = p - r
shifted = rho.roll(-1, 1).diagonal()
z = {z}
gain = beta * ({gain})
return 1 - torch.sigmoid(torch.where(up, gain, -gain))
"""


def margins(prediction, step, conclusion):
    """An answer to task 3 with another line for the mean loss."""
    return f"""\
prediction = "{prediction}"


def final_margin(loss, share):
    h = torch.zeros((), requires_grad=True)
    for _ in range(400):
        mean = {step}
        (slope,) = torch.autograd.grad(mean, h)
        h = (h - 0.8 * slope).detach().requires_grad_()
    return h.detach().item()


conclusion = "{conclusion}"
"""


MEAN = "(1 - share) * loss(h) + share * loss(-h)"
ROBUST = """\
def robust(p, r, n, beta, eps):
    z = beta * gap(p - r)
    right, wrong = -F.logsigmoid(z), -F.logsigmoid(-z)
    return ((1 - eps) * right - eps * wrong) / (1 - 2 * eps)


"""
SIMPO = """\
def simpo(p, r, n, beta, gamma):
    return -F.logsigmoid(beta * gap(p / n) - gamma)


"""
ORPO = """\
def orpo(p, r, n, beta):
    logps = p / n
    odds = logps - torch.log(-torch.expm1(logps))
    return -logps[0] - beta * F.logsigmoid(gap(odds))
"""

WRONG = {
    "task1": [
        (
            "the odds upside down",
            CDPO.replace("(1 - eps) / eps", "eps / (1 - eps)") + IPO + AVERAGED,
            "above zero",
        ),
        (
            "cDPO without its beta",
            CDPO.replace(" / beta", "") + IPO + AVERAGED,
            "Is beta where it belongs",
        ),
        (
            "the article's target (trap 3)",
            CDPO + IPO.replace("(2 * tau)", "(2 * tau**2)") + AVERAGED,
            "the target has it once",
        ),
        (
            "flips that average out",
            CDPO + IPO.replace("(1 - 2 * eps)", "1") + AVERAGED,
            "its target on the other side",
        ),
        (
            "a share of wrong labels taken off once",
            CDPO + IPO.replace("(1 - 2 * eps)", "(1 - eps)") + AVERAGED,
            "its target on the other side",
        ),
        (
            "averages that ask for less",
            CDPO
            + IPO
            + AVERAGED.replace("tokens / (2 * tau)", "1 / (2 * tau * tokens)"),
            "The target holds for the average",
        ),
    ],
    "task2": [
        (
            "the mean of the batch's own log-ratios, detached (trap 5)",
            kto("rho.diagonal().mean().detach().clamp(min=0)"),
            "the batch's own log-ratios",
        ),
        (
            "a reference point that carries gradient",
            kto("shifted.mean().clamp(min=0)"),
            "Detach it",
        ),
        ("not clamped", kto("shifted.mean().detach()"), "clamp the mean at zero"),
        (
            "each part clamped and not the mean",
            kto("shifted.clamp(min=0).mean().detach()"),
            "not its four parts",
        ),
        (
            "the response above, and not the next row's",
            kto("rho.roll(1, 1).diagonal().mean().detach().clamp(min=0)"),
            "row i with column i + 1",
        ),
        (
            "a batch of one let through",
            kto("shifted.mean().detach().clamp(min=0)").replace("< 2", "< 1"),
            "raise a ValueError",
        ),
        (
            "thumbs the wrong way",
            kto("shifted.mean().detach().clamp(min=0)").replace("1 - torch", "torch"),
            "does not pull its response up",
        ),
    ],
    "task3": [
        (
            "a prediction that is no name",
            margins("cDPO", MEAN, "a"),
            "one of the four names",
        ),
        (
            "a turned label as a negative loss",
            margins("hinge", "(1 - share) * loss(h) - share * loss(h)", "a"),
            "the loss at −h",
        ),
        (
            "turned labels left out",
            margins("IPO", "(1 - share) * loss(h)", "a"),
            "the mean weighs both",
        ),
        (
            "robust taken for a loss that ignores flips",
            margins("robust", MEAN, "c"),
            "does not agree with your margins",
        ),
        (
            "robust taken for DPO on the same labels",
            margins("DPO", MEAN, "b"),
            "does not agree with your margins",
        ),
    ],
    "task4": [
        (
            "cDPO's sign left in robust DPO",
            ROBUST.replace("right - eps", "right + eps") + SIMPO + ORPO,
            "Which sign has the second term",
        ),
        (
            "the divisor forgotten",
            ROBUST.replace(" / (1 - 2 * eps)", "") + SIMPO + ORPO,
            "what does the divisor undo",
        ),
        (
            "SimPO over the mean length",
            ROBUST + SIMPO.replace("gap(p / n)", "gap(p) / n.float().mean(0)") + ORPO,
            "What is averaged over what",
        ),
        (
            "gamma times beta (trap 7)",
            ROBUST
            + SIMPO.replace("beta * gap(p / n) - gamma", "beta * (gap(p / n) - gamma)")
            + ORPO,
            "it is absolute",
        ),
        (
            "SimPO with a reference: length-normalised DPO (trap 7)",
            ROBUST + SIMPO.replace("gap(p / n)", "gap((p - r) / n)") + ORPO,
            "is there a reference in SimPO",
        ),
        (
            "ORPO as the article has it: log-probs, not odds (trap 6)",
            ROBUST
            + SIMPO
            + ORPO.replace("logps - torch.log(-torch.expm1(logps))", "logps"),
            "log odds are",
        ),
        (
            "odds of the summed log-probability",
            ROBUST
            + SIMPO
            + ORPO.replace(
                "odds = logps - torch.log(-torch.expm1(logps))",
                "odds = p - torch.log(-torch.expm1(p))",
            ),
            "of the average log-probability",
        ),
        (
            "one minus the rounded probability",
            ROBUST
            + SIMPO
            + ORPO.replace("-torch.expm1(logps)", "1 - torch.exp(logps)"),
            "rounds to zero",
        ),
    ],
}

RIGHT = {
    "task1": [
        (
            "with tensors",
            """\
def cdpo_rest(beta, eps):
    return torch.logit(torch.tensor(1 - eps)) / beta


def ipo_rest(tau, eps):
    target = 1 / (2 * tau)
    return (1 - eps) * target + eps * -target


def averaged_ipo_rest(tau, tokens):
    return tokens * ipo_rest(tau, 0.0)
""",
        )
    ],
    "task2": [
        (
            "a loop over rows",
            """\
size = len(p)
if size == 1:
    raise ValueError("one row")
with torch.no_grad():
    z = sum(p[i, (i + 1) % size] - r[i, (i + 1) % size] for i in range(size)) / size
    z = max(z, torch.zeros(()))
losses = []
for i in range(size):
    gain = beta * (p[i, i] - r[i, i] - z)
    losses.append(1 - gain.sigmoid() if up[i] else 1 - (-gain).sigmoid())
return torch.stack(losses)
""",
        )
    ],
    "task3": [
        ("another prediction", margins("IPO", MEAN, "a")),
        (
            "backward and a leaf",
            """\
prediction = "robust"


def final_margin(loss, share):
    h = torch.zeros((), requires_grad=True)
    for _ in range(400):
        h.grad = None
        loss(h).mul(1 - share).add(loss(-h).mul(share)).backward()
        with torch.no_grad():
            h -= 0.8 * h.grad
    return float(h.detach())


conclusion = "a"
""",
        ),
    ],
    "task4": [
        (
            "log1p of the exponential, in double",
            ROBUST
            + SIMPO
            + """\
def orpo(p, r, n, beta):
    logps = p.double() / n
    odds = logps - torch.log1p(-logps.exp())
    return (-logps[0] - beta * F.logsigmoid(gap(odds))).float()
""",
        )
    ],
}
