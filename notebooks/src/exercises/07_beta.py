# %% [markdown]
# # 07 · Choosing beta: exercises
#
# BADGE
#
# Four tasks on [07 · Choosing beta](../07_beta.ipynb), 40 minutes in all: the price
# that beta sets, best-of-n where draws tie, a learnt reward that is wrong in one place,
# and a sweep that has beta upside down. All in worlds small enough to list. Write in
# place of `raise NotImplementedError()` and run the cell under yours: if it raises no
# error, you are done. The tasks do not need each other, but for the imports: run the
# given cells from the top. Compare with the
# [solutions](../solutions/07_beta.ipynb) only afterwards.

# %%
# BOOTSTRAP

# %% [markdown]
# ## Task 1 · What a nat costs
#
# *Kind: mathematics on paper and in a cell · Level: medium · 12 minutes*
#
# One prompt, a few responses, each with a probability under the reference and a gold
# reward $r^*$. Annotators choose by Bradley-Terry with temperature $T$, so that the
# reward in logits is $r = r^*/T$. Write three functions:
#
# - `optimum(ref, gold, T, beta)`: the probabilities of $\pi^*$;
# - `same_policy(beta, T, new_T)`: with other annotators, of temperature `new_T`, the
#   beta that asks for the very same policy as `beta` did with `T`;
# - `price(beta, T)`: how much *gold* reward the optimum gains for one more nat of KL,
#   $d\,\mathbb{E}[r^*] / d\,\mathrm{KL}$, at that beta. On paper: the optimum is the
#   best trade of reward against KL, so what must hold between the two if beta is
#   changed by a little and the objective has its maximum there?

# %%
import numpy as np

ref = np.array([0.4, 0.3, 0.2, 0.1])
gold = np.array([0.0, 0.3, -0.5, 0.8])


# %% nbgrader={"grade": false, "grade_id": "task1", "locked": false, "schema_version": 3, "solution": true, "task": false}
# def optimum(ref, gold, T, beta): an array like ref
# def same_policy(beta, T, new_T): a number
# def price(beta, T): a number
### BEGIN SOLUTION
def optimum(ref, gold, T, beta):
    weights = np.log(ref) + gold / (T * beta)
    weights = np.exp(weights - weights.max())  # no overflow at a small beta
    return weights / weights.sum()


def same_policy(beta, T, new_T):
    return beta * T / new_T  # only the product T beta enters


def price(beta, T):
    # E[r] - beta KL is stationary at pi*: dE[r] = beta dKL, and r* = T r
    return beta * T


### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "task1_check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
def kl_to_ref(pi):
    return float((pi * np.log(pi / ref)).sum())


def measured_price(beta, T):  # from two neighbours of beta on the curve of optima
    low, high = (optimum(ref, gold, T, beta * k) for k in (0.999, 1.001))
    return float((low - high) @ gold) / (kl_to_ref(low) - kl_to_ref(high))


assert abs(sum(optimum(ref, gold, 0.25, 1.0)) - 1) < 1e-6, "Probabilities sum to 1."
assert np.allclose(optimum(ref, gold, 0.25, 1e6), ref, atol=1e-3), (
    "At a huge beta nothing pays for KL: the policy stays at the reference. Is beta "
    "where it divides? And is the reference in your optimum?"
)
assert optimum(ref, gold, 0.25, 0.01)[3] > 0.99, (
    "At beta 0.01 the best response should have nearly all the probability."
)
odds = optimum(ref, gold, 0.25, 1.0)
assert abs(np.log(odds[3] / odds[0]) - np.log(0.1 / 0.4) - 3.2) < 0.01, (
    "At T = 0.25 and beta = 1 a response that is better by 0.8 gains 0.8 / 0.25 = 3.2 "
    "nats on the other: the optimum tilts by the reward in logits."
)
for beta, T, later in ((0.5, 0.25, 0.1), (1.0, 0.2, 0.6)):
    was, now = (
        optimum(ref, gold, t, b)
        for t, b in ((T, beta), (later, same_policy(beta, T, later)))
    )
    assert np.allclose(was, now, atol=1e-6), (
        f"From T = {T} to {later} another policy comes out. Surer annotators, with a "
        "lower temperature, make larger logits: does their beta have to rise or fall?"
    )
for beta, T in ((0.5, 0.25), (1.5, 0.4)):
    slope = measured_price(beta, T)
    assert abs(price(beta, T) - slope) < 0.02 * slope, (
        f"At beta {beta} and T = {T} you say {price(beta, T):.3f}; two neighbouring "
        f"optima say {slope:.3f}. In which unit is the reward whose price beta is?"
    )
### BEGIN HIDDEN TESTS
rng = np.random.default_rng(0)
for _ in range(5):
    some_ref, some_gold = rng.dirichlet(np.ones(6)), rng.normal(size=6)
    T, beta = rng.uniform(0.2, 1, 2)
    tilted = some_ref * np.exp(some_gold / T / beta)
    got = optimum(some_ref, some_gold, T, beta)
    assert np.allclose(got, tilted / tilted.sum(), atol=1e-6), "optimum, elsewhere"
assert abs(price(3.0, 0.1) - 0.3) < 1e-6
assert abs(same_policy(0.1, 0.5, 0.25) - 0.2) < 1e-6
### END HIDDEN TESTS

# %% [markdown]
# A beta means nothing without the annotators' temperature. That is why betas do not
# travel from one data set to the next.
#
# ## Task 2 · Best-of-n where draws tie
#
# *Kind: implementation · Level: medium · 8 minutes*
#
# In the chapter's pool each response had the same weight, $1/K$. Now `ref` gives each
# listed response its own probability, and `scores` may tie. Draw $n$ times from the
# reference and keep the draw with the best score; of several that are best, one at
# random. Write `best_of(n, ref, scores)`: each response's probability to be kept.
#
# (With $F$ the probability of a score no better than a response's, and $F_-$ of a worse
# one, what is the chance that the best *score* is this one? How is it shared out?)


# %% nbgrader={"grade": false, "grade_id": "task2", "locked": false, "schema_version": 3, "solution": true, "task": false}
def best_of(n, ref, scores):
    """Probabilities (K,) of best-of-n; `ref` and `scores` are arrays (K,)."""
    ### BEGIN SOLUTION
    upto = (ref * (scores <= scores[:, None])).sum(1)  # F
    below = (ref * (scores < scores[:, None])).sum(1)  # F_-
    return (upto**n - below**n) * ref / (upto - below)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "task2_check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
from itertools import product


def by_listing(n, ref, scores):  # every possible set of n draws
    kept = np.zeros(len(ref))
    for draws in product(range(len(ref)), repeat=n):
        draws = np.array(draws)
        best = draws[scores[draws] == scores[draws].max()]
        np.add.at(kept, best, ref[draws].prod() / len(best))
    return kept


four = np.array([0.4, 0.3, 0.2, 0.1])
scores = np.array([1.0, 2.0, 2.0, 0.0])
flat = np.full(4, 1 / 4)
distinct = np.array([0.3, 0.1, 0.4, 0.2])
assert np.allclose(best_of(3, flat, distinct), by_listing(3, flat, distinct)), (
    "Without ties and with equal weights you are off: n draws are all at most s with "
    "the chance F to the power n; take away those that are all worse."
)
assert np.allclose(best_of(3, four, distinct), by_listing(3, four, distinct)), (
    "Without ties, but with unequal weights, you are off: F adds up probabilities; it "
    "does not count responses."
)
assert abs(sum(best_of(3, four, scores)) - 1) < 1e-6, (
    "The probabilities do not sum to 1. Do two responses that tie both claim the "
    "whole chance of their score?"
)
kept = best_of(3, four, scores)
assert abs(kept[1] / kept[2] - 3 / 2) < 1e-3, (
    f"The second and the third response tie, and you share {kept[1]:.3f} and "
    f"{kept[2]:.3f}. The second is drawn more often: how much more?"
)
assert np.allclose(best_of(1, four, scores), four), (
    "With one draw there is nothing to choose: the reference comes out."
)
assert np.allclose(kept, by_listing(3, four, scores))
### BEGIN HIDDEN TESTS
rng = np.random.default_rng(1)
for n in (2, 4):
    some = rng.dirichlet(np.ones(5))
    marks = rng.integers(0, 3, 5).astype(float)
    assert np.allclose(best_of(n, some, marks), by_listing(n, some, marks)), "elsewhere"
### END HIDDEN TESTS
for n in (2, 8, 32):
    kept = best_of(n, four, scores)
    spent = (kept[kept > 0] * np.log(kept[kept > 0] / four[kept > 0])).sum()
    print(f"n = {n}: KL {spent:.2f}, at most {np.log(n) - (n - 1) / n:.2f} nats")

# %% [markdown]
# Two responses that tie share half of the probability from the start: best-of-n can
# never spend more than log 2 nats here, and the closed form is far above it.
#
# ## Task 3 · A reward that is wrong in one place
#
# *Kind: experiment with a prediction · Level: medium · 10 minutes*
#
# A response has a quality $q$ of −1, 0 or 1 and a length of 1 to 40 words; the
# reference seldom writes long ones. The true reward, in logits, is $2q$ less 0.2 for
# each word beyond eight. The learnt reward has $2q$ right and *adds* 0.2 for every
# word: of the few long texts in its data it could not know better.
#
# The optimum for the learnt reward needs no training. **Predict first** at which of
# `BETAS` it has the highest *true* reward, and set `prediction` to that number.
#
# Then write `follow(beta)`, which returns a dictionary for the optimum of the learnt
# reward: `"kl"` in nats, `"promise"` (the learnt reward's mean) and `"truth"`. The
# cell before yours also has the true reward of best-of-n by the learnt reward, by
# simulation. Compare the ends, beta 0.03 and n = 32, with the reference, and set
# `conclusion`:
#
# - `"a"`: both end below the reference's true reward;
# - `"b"`: the optimum ends below it, best-of-n does not;
# - `"c"`: best-of-n ends below it, the optimum does not;
# - `"d"`: neither does.

# %%
BETAS = (10, 3, 1, 0.3, 0.1, 0.03)
quality, words = (x.flatten() for x in np.meshgrid([-1, 0, 1], np.arange(1, 41)))
world_ref = np.array([0.4, 0.3, 0.3])[quality + 1] * 0.75**words
world_ref = world_ref / world_ref.sum()  # (120,)
truth = 2 * quality - 0.2 * np.maximum(words - 8, 0)
learnt = 2 * quality + 0.2 * words


def best_of_truth(n, times=20_000):  # the true reward of best-of-n by the learnt one
    draws = np.random.default_rng(0).choice(120, (times, n), p=world_ref)
    return truth[draws[np.arange(times), learnt[draws].argmax(1)]].mean()


print(f"true reward of the reference: {world_ref @ truth:.2f}; best-of-n", end=" ")
print({n: round(float(best_of_truth(n)), 2) for n in (2, 8, 32)})

# %% nbgrader={"grade": false, "grade_id": "task3", "locked": false, "schema_version": 3, "solution": true, "task": false}
# First: prediction = …, one of BETAS, and only then the rest
# Then: def follow(beta), which returns {"kl": …, "promise": …, "truth": …}
# Last: conclusion = "…"
### BEGIN SOLUTION
prediction = 1


def follow(beta):
    pi = np.exp(np.log(world_ref) + (learnt - learnt.max()) / beta)
    pi = pi / pi.sum()
    kl = (pi[pi > 0] * np.log(pi[pi > 0] / world_ref[pi > 0])).sum()
    return {"kl": kl, "promise": pi @ learnt, "truth": pi @ truth}


for beta in BETAS:
    print(beta, {name: round(float(x), 2) for name, x in follow(beta).items()})
conclusion = "b"
### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "task3_check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
def tilted(reward, beta):
    weights = world_ref * np.exp((reward - reward.max()) / beta)
    return weights / weights.sum()


def check_follow(beta):
    pi, got = tilted(learnt, beta), follow(beta)
    blind = np.exp((learnt - learnt.max()) / beta)
    blind = blind / blind.sum()
    assert abs(got["promise"] - blind @ learnt) > 1e-3 or beta < 0.1, (
        f"At beta {beta} your policy does not know what the reference would write."
    )
    assert abs(got["truth"] - tilted(truth, beta) @ truth) > 1e-3, (
        f"At beta {beta} your policy follows the true reward, which nobody has: let it "
        "follow the learnt one, and be judged by the true one."
    )
    assert abs(got["promise"] - pi @ learnt) < 1e-2, (
        f"At beta {beta} the promise is off: the optimum is the reference times "
        "exp(reward / beta), and these rewards are in logits already."
    )
    assert abs(got["truth"] - pi @ truth) < 1e-2, f"The truth is off at beta {beta}."
    kl = (pi[pi > 0] * np.log(pi[pi > 0] / world_ref[pi > 0])).sum()
    assert abs(got["kl"] - kl) < 1e-2, (
        f"The KL is off at beta {beta}: it is a mean over what the *policy* writes, of "
        "its log-probability less the reference's."
    )


assert prediction in BETAS, "`prediction` is one of BETAS; a wrong guess costs nothing."
for beta in BETAS:
    check_follow(beta)
ends = [follow(0.03)["truth"], best_of_truth(32)]
below = tuple(bool(end < world_ref @ truth) for end in ends)
answer = {(True, True): "a", (True, False): "b", (False, True): "c"}.get(below, "d")
assert conclusion == answer, (
    "`conclusion` does not agree with the numbers: compare the *true* reward of each "
    "end with the reference's. The promise is what both of them believe."
)
### BEGIN HIDDEN TESTS
for beta in (5, 0.5, 0.2):
    check_follow(beta)
### END HIDDEN TESTS
best = max(BETAS, key=lambda beta: follow(beta)["truth"])
print(f"predicted beta {prediction}, measured {best}")

# %% [markdown]
# The promise rises at every step down, as it must. What saves best-of-n is that it can
# spend at most log n nats: long texts are too rare among 32 draws. It turns as well, and
# with draws enough it ends below the reference too: try `best_of_truth(1000, 2000)`.
#
# ## Task 4 · A sweep that has beta upside down
#
# *Kind: find the bug · Level: medium · 10 minutes*
#
# A colleague trains tabular policies by DPO on the exact preferences of eight responses
# and reports: “The higher beta, the *further* the policy goes. The papers have it the
# wrong way round.” The loss is right. Two other things are not: one is a formula, the
# other is what the sweep compares (the chapter met it with another optimiser).
#
# Write `kl(log_pi)` and `sweep(betas, rate, steps)` anew, so that the sweep changes
# beta alone: whatever beta is, the *first* step should lead to the same policy. Leave
# the loss as it is.

# %%
import torch
import torch.nn.functional as F

log_ref = torch.tensor([30.0, 20, 15, 12, 9, 7, 4, 3]).div(100).log()  # (8,)
reward = torch.tensor([-0.4, 0.1, -1.0, 0.4, 1.0, -0.7, 0.7, -0.1]) / 0.25  # logits
both = log_ref.exp()[:, None] * log_ref.exp()  # i and j are drawn
wins = both * (reward[:, None] - reward).sigmoid()  # and i is preferred
wins = wins / wins.sum()  # (8, 8)


def dpo_gradient(theta, beta):
    theta = theta.clone().requires_grad_()
    rho = (log_ref + theta).log_softmax(-1) - log_ref
    loss = -(wins * F.logsigmoid(beta * (rho[:, None] - rho))).sum()
    return torch.autograd.grad(loss, theta)[0]


def colleagues_kl(log_pi):
    return float((log_ref.exp() * (log_ref - log_pi)).sum())


def colleagues_sweep(betas, rate=0.5, steps=30):
    policies = {}
    for beta in betas:
        theta = torch.zeros(8)
        for _ in range(steps):
            theta = theta - rate * dpo_gradient(theta, beta)
        policies[beta] = (log_ref + theta).log_softmax(-1)
    return policies


for beta, log_pi in colleagues_sweep((0.03, 0.1, 0.3, 1.0)).items():
    print(f"beta {beta}: {colleagues_kl(log_pi):.3f} nats")


# %% nbgrader={"grade": false, "grade_id": "task4", "locked": false, "schema_version": 3, "solution": true, "task": false}
# def kl(log_pi): KL divergence of a policy to the reference, in nats
# def sweep(betas, rate=0.5, steps=30): {beta: log-probabilities of the policy}
### BEGIN SOLUTION
def kl(log_pi):
    return float((log_pi.exp() * (log_pi - log_ref)).sum())  # over the policy's own


def sweep(betas, rate=0.5, steps=30):
    policies = {}
    for beta in betas:
        theta = torch.zeros(8)
        for _ in range(steps):  # the gradient has a factor beta: divide it out
            theta = theta - rate / beta * dpo_gradient(theta, beta)
        policies[beta] = (log_ref + theta).log_softmax(-1)
    return policies


for beta, log_pi in sweep((0.03, 0.1, 0.3, 1.0)).items():
    print(f"beta {beta}: {kl(log_pi):.3f} nats")


### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "task4_check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
import itertools

torch.manual_seed(0)
for log_pi in ((log_ref + torch.randn(8)).log_softmax(-1) for _ in range(3)):
    seen, true = float(kl(log_pi)), float(log_pi.exp() @ (log_pi - log_ref))
    assert seen > 0, "A KL divergence of two different policies is above zero."
    assert abs(seen - true) < 1e-3, (
        "`kl` is not the KL divergence from policy to reference. Whose responses does "
        "its mean run over? The chapter samples from the policy."
    )


def distance(log_pi):
    return float(log_pi.exp() @ (log_pi - log_ref))


first = {beta: distance(x) for beta, x in sweep((0.1, 1.0), rate=0.5, steps=1).items()}
assert 0.9 < first[1.0] / first[0.1] < 1.1, (
    f"After one step beta 0.1 is {first[0.1]:.2g} nats away and beta 1 is "
    f"{first[1.0]:.2g}: the sweep still changes two things. How does the gradient at "
    "the start go with beta, and what does plain gradient descent do about it?"
)
assert first[1.0] > 1e-4, "The policy hardly moves in its first step at a rate of 0.5."
final = [distance(x) for x in sweep((0.03, 0.1, 0.3, 1.0), 0.5, 30).values()]
apart = [low - high for low, high in itertools.pairwise(final)]
assert min(apart) > 0.002, (
    f"KL at betas 0.03, 0.1, 0.3 and 1: {[round(x, 3) for x in final]}. It should "
    "fall as beta grows, at an equal first step. Is the loss still DPO's?"
)
assert final[-1] > 2 * first[1.0], "Thirty steps lead no further than one."
### BEGIN HIDDEN TESTS
more = [distance(x) for x in sweep((0.05, 0.5, 2.0), 0.3, 60).values()]
assert more == sorted(more, reverse=True)
assert more[0] > 1.5 * more[-1]
once = [distance(x) for x in sweep((0.05, 0.5, 2.0), 0.3, 1).values()]
assert max(once) < 1.1 * min(once)
### END HIDDEN TESTS

# %% [markdown]
# With gradient descent the whole step goes with beta, with Adam only its epsilon and
# the clipping do. In either case a short sweep at a fixed setting shows how far the
# runs *got*, and not where beta wanted them.
