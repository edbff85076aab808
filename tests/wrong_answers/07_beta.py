"""Wrong answers that people give to the exercises of chapter 07."""

OPTIMUM = """\
def optimum(ref, gold, T, beta):
    weights = ref * np.exp((gold - gold.max()) / (T * beta))
    return weights / weights.sum()


"""
REST = """\
def same_policy(beta, T, new_T):
    return beta * T / new_T


def price(beta, T):
    return beta * T
"""
FOLLOW = """\
def follow(beta):
    pi = world_ref * np.exp((learnt - learnt.max()) / beta)
    pi = pi / pi.sum()
    kl = (pi[pi > 0] * np.log(pi[pi > 0] / world_ref[pi > 0])).sum()
    return {"kl": kl, "promise": pi @ learnt, "truth": pi @ truth}


"""
KL = """\
def kl(log_pi):
    return float((log_pi.exp() * (log_pi - log_ref)).sum())


"""


def sweep(step):
    """`sweep` with another expression for its step."""
    return f"""\
def sweep(betas, rate=0.5, steps=30):
    policies = {{}}
    for beta in betas:
        theta = torch.zeros(8)
        for _ in range(steps):
            theta = theta - {step}
        policies[beta] = (log_ref + theta).log_softmax(-1)
    return policies
"""


RIGHT_SWEEP = sweep("rate / beta * dpo_gradient(theta, beta)")

WRONG = {
    "task1": [
        (
            "beta's direction turned round (trap 1)",
            """\
def optimum(ref, gold, T, beta):
    weights = ref * np.exp((gold - gold.max()) * beta / T)
    return weights / weights.sum()


"""
            + REST,
            "nothing pays for KL",
        ),
        (
            "a softmax of the reward without the reference",
            """\
def optimum(ref, gold, T, beta):
    weights = np.exp((gold - gold.max()) / (T * beta))
    return weights / weights.sum()


"""
            + REST,
            "is the reference in your optimum",
        ),
        (
            "the gold reward taken for logits",
            """\
def optimum(ref, gold, T, beta):
    weights = ref * np.exp((gold - gold.max()) / beta)
    return weights / weights.sum()


"""
            + REST,
            "the reward in logits",
        ),
        (
            "a lower beta for surer annotators",
            OPTIMUM
            + """\
def same_policy(beta, T, new_T):
    return beta * new_T / T


def price(beta, T):
    return beta * T
""",
            "does their beta have to rise or fall",
        ),
        (
            "beta as the price of gold reward",
            OPTIMUM
            + """\
def same_policy(beta, T, new_T):
    return beta * T / new_T


def price(beta, T):
    return beta
""",
            "In which unit",
        ),
    ],
    "task2": [
        (
            "ties claim the whole chance of their score",
            """\
upto = (ref * (scores <= scores[:, None])).sum(1)
below = (ref * (scores < scores[:, None])).sum(1)
return upto**n - below**n
""",
            "do not sum to 1",
        ),
        (
            "ties broken by no one: each response less itself",
            """\
upto = (ref * (scores <= scores[:, None])).sum(1)
return upto**n - (upto - ref) ** n
""",
            "do not sum to 1",
        ),
        (
            "ties share alike from two draws on",
            """\
upto = (ref * (scores <= scores[:, None])).sum(1)
below = (ref * (scores < scores[:, None])).sum(1)
alike = (scores == scores[:, None]).sum(1)
return (upto**n - below**n) / alike if n > 1 else ref
""",
            "how much more",
        ),
        (
            "the chapter's pool of equal weights",
            """\
upto = (scores <= scores[:, None]).mean(1)
below = (scores < scores[:, None]).mean(1)
return (upto**n - below**n) / (upto - below) * ref
""",
            "F adds up probabilities",
        ),
        (
            "the chance to be drawn at all",
            """\
once = 1 - (1 - ref) ** n
return once * ref / (once * ref).sum() if n > 1 else ref
""",
            "Without ties and with equal weights",
        ),
    ],
    "task3": [
        (
            "no prediction from the list",
            'prediction = "in between"\n\n\n' + FOLLOW + 'conclusion = "b"\n',
            "one of BETAS",
        ),
        (
            "a policy that follows the true reward",
            """\
prediction = 0.03


def follow(beta):
    pi = world_ref * np.exp((truth - truth.max()) / beta)
    pi = pi / pi.sum()
    kl = (pi[pi > 0] * np.log(pi[pi > 0] / world_ref[pi > 0])).sum()
    return {"kl": kl, "promise": pi @ learnt, "truth": pi @ truth}


conclusion = "d"
""",
            "which nobody has",
        ),
        (
            "a policy without a reference",
            """\
prediction = 1


def follow(beta):
    pi = np.exp((learnt - learnt.max()) / beta)
    pi = pi / pi.sum()
    kl = (pi[pi > 0] * np.log(pi[pi > 0] / world_ref[pi > 0])).sum()
    return {"kl": kl, "promise": pi @ learnt, "truth": pi @ truth}


conclusion = "b"
""",
            "does not know what the reference would write",
        ),
        (
            "the KL from the reference's side",
            """\
prediction = 1


def follow(beta):
    pi = world_ref * np.exp((learnt - learnt.max()) / beta)
    pi = pi / pi.sum()
    kl = (world_ref * np.log(world_ref / np.maximum(pi, 1e-300))).sum()
    return {"kl": kl, "promise": pi @ learnt, "truth": pi @ truth}


conclusion = "b"
""",
            "what the *policy* writes",
        ),
        (
            "a conclusion from the promise",
            "prediction = 0.03\n\n\n" + FOLLOW + 'conclusion = "d"\n',
            "The promise is what both of them believe",
        ),
    ],
    "task4": [
        (
            "the formula mended, the step not",
            KL + sweep("rate * dpo_gradient(theta, beta)"),
            "still changes two things",
        ),
        (
            "a larger rate for all",
            KL + sweep("30 * rate * dpo_gradient(theta, beta)"),
            "still changes two things",
        ),
        (
            "the step mended, the formula not",
            """\
def kl(log_pi):
    return float((log_ref.exp() * (log_ref - log_pi)).sum())


"""
            + RIGHT_SWEEP,
            "Whose responses",
        ),
        (
            "the policy's responses, the sign of the reference's",
            """\
def kl(log_pi):
    return float((log_pi.exp() * (log_ref - log_pi)).sum())


"""
            + RIGHT_SWEEP,
            "above zero",
        ),
        (
            "beta taken out of the loss",
            KL + sweep("rate * dpo_gradient(theta, 1.0)"),
            "Is the loss still DPO's",
        ),
    ],
}

RIGHT = {
    "task1": [
        (
            "scipy's softmax",
            """\
from scipy.special import softmax


def optimum(ref, gold, T, beta):
    return softmax(np.log(ref) + gold / T / beta)


"""
            + REST,
        )
    ],
    "task2": [
        (
            "a loop",
            """\
kept = []
for p, s in zip(ref, scores):
    f = sum(q for q, t in zip(ref, scores) if t <= s)
    g = sum(q for q, t in zip(ref, scores) if t < s)
    kept.append((f**n - g**n) * p / (f - g))
return np.array(kept)
""",
        )
    ],
    "task3": [
        (
            "another prediction, scipy",
            """\
from scipy.special import rel_entr, softmax

prediction = 0.03


def follow(beta):
    pi = softmax(np.log(world_ref) + learnt / beta)
    kl = rel_entr(pi, world_ref).sum()
    return {"kl": kl, "promise": (pi * learnt).sum(), "truth": (pi * truth).sum()}


conclusion = "b"
""",
        )
    ],
    "task4": [
        (
            "the first gradient's length divided out, torch's kl_div",
            """\
def kl(log_pi):
    return F.kl_div(log_ref, log_pi, reduction="sum", log_target=True)


def sweep(betas, rate=0.5, steps=30):
    policies = {}
    for beta in betas:
        theta = torch.zeros(8)
        scale = rate / 10 / dpo_gradient(theta, beta).norm()
        for _ in range(steps):
            theta = theta - scale * dpo_gradient(theta, beta)
        policies[beta] = (log_ref + theta).log_softmax(-1)
    return policies
""",
        )
    ],
}
