# %% [markdown]
# # 02 · From RLHF to DPO: exercises
#
# Four tasks on the optimum that RLHF and DPO share, about 42 minutes in all.
#
# You need the chapter, [02 · From RLHF to DPO](../02_from_rlhf_to_dpo.ipynb), and
# nothing beyond it. Put your answer where a cell says `YOUR CODE HERE`, then run the
# check below it: silence means that it passed, and a failed check says what to think
# about. The tasks do not depend on one another. When you have tried them all, compare
# with the [solutions](../solutions/02_from_rlhf_to_dpo.ipynb).
#
# BADGE

# %%
# BOOTSTRAP

# %% [markdown]
# The world of the chapter, cut down to one prompt and six responses. `optimum` and `kl`
# are the chapter's.

# %%
import torch
from torch.nn.functional import logsigmoid

torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)

r = torch.tensor([1.0, 0.7, 0.2, -0.8, -0.1, -0.9])  # rewards of six responses
log_ref = torch.tensor([0.20, 0.15, 0.30, 0.15, 0.10, 0.10]).log()
first, second = torch.triu_indices(6, 6, offset=1)  # every unordered pair, once
p_true = (r[first] - r[second]).sigmoid()  # P(the first of a pair wins): (15,)


def optimum(reward, beta, log_start=log_ref):
    return (log_start + reward / beta).log_softmax(-1)


def kl(log_p, log_q):
    return (log_p.exp() * (log_p - log_q)).sum(-1)


# %% [markdown]
# ## Task 1 · RLHF, and once more
#
# *Kind: mathematics on paper and in a cell · Level: easy · 8 minutes*
#
# You run RLHF with $\beta_1$ to its optimum. Then you take the result as the *new
# reference* and run it again, on the same reward, with $\beta_2$. The final policy is
# the optimum of a single run from the first reference. With which $\beta$? Insert one
# closed form into the other on paper, and generalise to any number of rounds.


# %% nbgrader={"grade": false, "grade_id": "task1", "locked": false, "schema_version": 3, "solution": true, "task": false}
def one_beta(betas):
    """The beta of the single run that equals rounds with these betas: a float."""
    ### BEGIN SOLUTION
    # ref e^{r/b1} / Z1, times e^{r/b2} / Z2: the exponents add, each Z is a constant.
    return 1 / sum(1 / beta for beta in betas)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "task1_check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
assert abs(one_beta([0.7]) - 0.7) < 1e-9, "one round is a single run already"
assert one_beta([0.5, 0.5]) < 0.5, (
    "a second round goes further from the first reference: does a policy that went "
    "further belong to a larger beta, or to a smaller one?"
)
twice = optimum(r, 0.5, log_start=optimum(r, 0.5))
assert kl(optimum(r, one_beta([0.5, 0.5])), twice) < 1e-9, (
    "two equal rounds: write pi* of the second with pi* of the first as its reference. "
    "By what is r multiplied in the exponent?"
)


def in_rounds(betas):
    policy = log_ref
    for beta in betas:
        policy = optimum(r, beta, log_start=policy)
    return policy


for rounds in ([0.5, 2.0], [0.5, 2.0, 3.0]):
    assert kl(optimum(r, one_beta(rounds)), in_rounds(rounds)) < 1e-9, (
        f"rounds with {rounds}: by what is r multiplied in the exponent after each of "
        "them? Are these factors multiplied with one another, or added?"
    )
### BEGIN HIDDEN TESTS
for betas in ([2.0, 0.3, 1.0], [0.1, 0.9], [3.0, 3.0, 3.0, 3.0]):
    assert kl(optimum(r, one_beta(betas)), in_rounds(betas)) < 1e-9, (
        f"rounds with {betas}: each contributes its own factor to the exponent of r"
    )
### END HIDDEN TESTS

# %% [markdown]
# So repeated rounds, each of them close to its own reference, wander as far from the
# first one as a single bold run does. Whoever refreshes the reference in training
# spends KL that no term counts any more.
#
# ## Task 2 · The optimum without Z
#
# *Kind: implementation · Level: medium · 12 minutes*
#
# For a language model nobody can sum $Z(x)$, and yet $\pi^*$ can be sampled exactly:
# draw a response from the reference, and **accept** it with a probability that grows
# with its reward, or else throw it away and draw again. Which acceptance probability
# leaves responses in the proportions of $\pi^*$? It must not exceed 1.
#
# You may call `propose(k)`, which draws `k` responses from the reference, and
# `score(y)`, which returns their rewards. No reward is above `top`.


# %% nbgrader={"grade": false, "grade_id": "task2", "locked": false, "schema_version": 3, "solution": true, "task": false}
def draw_optimum(propose, score, top, beta, n):
    """A tensor of n responses distributed as pi*: (n,), integers."""
    ### BEGIN SOLUTION
    kept = []
    while sum(len(part) for part in kept) < n:
        y = propose(n)
        chance = ((score(y) - top) / beta).exp()  # e^{r/beta}, scaled to at most 1
        kept.append(y[torch.rand(n) < chance])
    return torch.cat(kept)[:n]
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "task2_check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
def shares(log_start, reward, top, beta, n=20_000):  # of draws; those of pi*
    torch.manual_seed(0)
    proposed = 0

    def propose(k):
        nonlocal proposed
        proposed += k
        assert proposed <= 1000 * n, (
            "a thousand draws for each response, and still not enough accepted: print "
            "the acceptance probability of a response whose reward is `top`"
        )
        return torch.distributions.Categorical(logits=log_start).sample((k,))

    y = torch.as_tensor(draw_optimum(propose, lambda y: reward[y], top, beta, n))
    assert y.shape == (n,), f"{tuple(y.shape)} draws instead of ({n},)"
    goal = optimum(reward, beta, log_start).exp()
    return torch.bincount(y.long(), minlength=len(reward)) / n, goal


drawn, goal = shares(log_ref, 0 * r + 0.5, 0.5, beta=0.5)
assert (drawn - goal).abs().max() < 0.03, (
    "all rewards are equal here, so pi* is the reference itself: accept and reject "
    "must not depend on anything but the reward"
)
drawn, goal = shares(log_ref, r, 1.0, beta=1.0)
assert (drawn - goal).abs().max() < 0.03, (
    f"at beta 1 the shares are {drawn.numpy().round(2)} and should be "
    f"{goal.numpy().round(2)}: what ratio of acceptance must two responses have, and "
    "does a cap at 1, or a sigmoid, spoil it?"
)
drawn, goal = shares(log_ref, r, 1.0, beta=0.4)
assert (drawn - goal).abs().max() < 0.03, (
    "right at beta 1 and wrong at beta 0.4: on which side of the reward does beta stand?"
)
### BEGIN HIDDEN TESTS
other = torch.tensor([0.1, 0.6, 0.3]).log(), torch.tensor([2.0, 1.2, 3.0])
for top, beta in ((3.0, 0.8), (3.5, 2.0)):
    drawn, goal = shares(*other, top, beta)
    assert (drawn - goal).abs().max() < 0.03, (
        f"another world, rewards up to 3, beta {beta}: the shares are "
        f"{drawn.numpy().round(2)} and should be {goal.numpy().round(2)}"
    )
### END HIDDEN TESTS

# %% [markdown]
# Nothing was trained, and $Z$ did not appear. Why is this not how language models are
# made? The share of draws that is accepted is $Z e^{-\mathrm{top}/\beta}$, which for
# long texts, rare rewards and a small $\beta$ is next to nothing.
#
# ## Task 3 · Which pairs were labelled
#
# *Kind: experiment with a prediction · Level: medium · 10 minutes*
#
# The chapter compared all pairs equally often. Below, neighbours in the list are
# compared twenty times as often as the others. The annotators stay the same: how often
# a pair is *shown* changes nothing about who *wins*, which is still `p_true`.
#
# Before you run anything: whose end point moves when labels are spread so unevenly?
# Set `prediction` to `"DPO"`, `"IPO"`, `"both"` or `"neither"`; it is not graded on
# being right. Then measure `moved_dpo` and `moved_ipo`: the KL from the policy fitted to
# uneven labels to the policy fitted to even labels, `kl(uneven, even)`, for each loss.
# `descend(loss, wins, defeats)` fits one. Set `conclusion` by what you measured, in the
# same four words; count a KL above $10^{-4}$ nats as a move.


# %%
def dpo(h):
    return -logsigmoid(0.5 * h)  # beta 0.5


def ipo(h):
    return (h - 4) ** 2  # tau 0.125


def descend(per_pair, wins, defeats):  # weights (15,) of each outcome -> (6,)
    theta = log_ref.clone().requires_grad_()
    options = {"tolerance_grad": 1e-10, "tolerance_change": 1e-14, "max_iter": 300}
    solver = torch.optim.LBFGS([theta], line_search_fn="strong_wolfe", **options)

    def closure():
        solver.zero_grad()
        ratio = theta.log_softmax(-1) - log_ref
        h = ratio[first] - ratio[second]  # (15,)
        loss = (wins * per_pair(h) + defeats * per_pair(-h)).sum()
        (loss / (wins + defeats).sum()).backward()
        return loss.detach() / (wins + defeats).sum()

    solver.step(closure)
    return theta.detach().log_softmax(-1)


even = torch.ones(15)
uneven = torch.where(second - first == 1, 20.0, 1.0)  # times that a pair was shown

# %% nbgrader={"grade": false, "grade_id": "task3", "locked": false, "schema_version": 3, "solution": true, "task": false}
# prediction, moved_dpo, moved_ipo, conclusion
### BEGIN SOLUTION
prediction = "IPO"
ends = {}
for loss in (dpo, ipo):
    for shown in (even, uneven):
        ends[loss, shown] = descend(loss, shown * p_true, shown * (1 - p_true))
moved_dpo = kl(ends[dpo, uneven], ends[dpo, even])
moved_ipo = kl(ends[ipo, uneven], ends[ipo, even])
conclusion = {
    (False, False): "neither",
    (True, False): "DPO",
    (False, True): "IPO",
    (True, True): "both",
}[bool(moved_dpo > 1e-4), bool(moved_ipo > 1e-4)]
print(f"DPO moved by {moved_dpo:.1e} nats, IPO by {moved_ipo:.1e}")
# Bradley-Terry holds, so one policy fits every pair exactly, and how a sum of losses is
# weighted does not matter when each term is at its own minimum. IPO wants gaps that
# follow p itself; no six numbers have all these differences, so it compromises, and the
# weights decide where. Its mu is the distribution of the pairs.
### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "task3_check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
choices = ("neither", "DPO", "IPO", "both")
assert prediction in choices, f"set prediction to one of {choices}"


def move(loss):
    fits = [descend(loss, n * p_true, n * (1 - p_true)) for n in (uneven, even)]
    return kl(*fits).item()


assert abs(float(moved_dpo) - move(dpo)) < 1e-5, (
    "moved_dpo is not kl(uneven, even): were wins *and* defeats of a pair weighted by how "
    "often it was shown, and is it the KL between the two fits, not one to log_ref?"
)
assert abs(float(moved_ipo) - move(ipo)) < 1e-5, (
    "moved_ipo is not kl(uneven, even): the KL between IPO's two fits, from the one on "
    "uneven labels to the one on even labels"
)
assert conclusion in choices, f"set conclusion to one of {choices}"
assert (conclusion in ("DPO", "both")) == (float(moved_dpo) > 1e-4), (
    "conclusion does not agree with moved_dpo: is it above or below 1e-4?"
)
assert (conclusion in ("IPO", "both")) == (float(moved_ipo) > 1e-4), (
    "conclusion does not agree with moved_ipo: is it above or below 1e-4?"
)
### BEGIN HIDDEN TESTS
seen = (move(dpo) > 1e-4) + 2 * (move(ipo) > 1e-4)
assert conclusion == ("neither", "DPO", "IPO", "both")[seen], (
    "conclusion does not agree with what the two losses did"
)
### END HIDDEN TESTS

# %% [markdown]
# ## Task 4 · The loss that never moves
#
# *Kind: find the bug · Level: hard · 12 minutes*
#
# `train` should take the reference to $\pi^*$ by plain gradient descent on DPO. Run it:
# the loss is $\ln 2$ at the first step, as it must be, and $\ln 2$ at the last, while the
# policy runs away from the reference. There are **two** bugs, and the second shows itself
# only once the first is mended: look then at what happens to the KL as $\beta$ grows.
# Write `repaired`, with neither.


# %%
def train(wins, defeats, beta, steps=200, rate=4.0):
    """Log-probabilities (6,) after gradient descent on DPO, from the reference."""
    theta = log_ref.clone().requires_grad_()
    reference = theta.detach()
    for step in range(steps):
        ratio = theta.log_softmax(-1) - reference.log_softmax(-1)
        h = ratio[first] - ratio[second]  # (15,)
        losses = -wins * logsigmoid(h / beta) - defeats * logsigmoid(-h / beta)
        loss = losses.sum() / (wins + defeats).sum()
        (gradient,) = torch.autograd.grad(loss, theta)
        with torch.no_grad():
            theta -= rate * gradient
        if step in (0, steps - 1):
            print(f"beta {beta}, step {step}: loss {loss:.4f}")
    return theta.detach().log_softmax(-1)


for beta in (0.5, 1.0, 2.0):
    end = train(p_true, 1 - p_true, beta)
    print(f"KL to the reference {kl(end, log_ref):.2f} nats\n")


# %% nbgrader={"grade": false, "grade_id": "task4", "locked": false, "schema_version": 3, "solution": true, "task": false}
def repaired(wins, defeats, beta, steps=200, rate=4.0):
    """Log-probabilities (6,) after gradient descent on DPO, from the reference."""
    ### BEGIN SOLUTION
    theta = log_ref.clone().requires_grad_()
    # detach() shares its memory with theta, and the update below is in place: the
    # reference followed the policy. What is to stay must be a tensor of its own.
    for _ in range(steps):
        ratio = theta.log_softmax(-1) - log_ref
        h = ratio[first] - ratio[second]
        # beta multiplies the gap: pi* has the gap (r_1 - r_2) / beta
        losses = -wins * logsigmoid(beta * h) - defeats * logsigmoid(-beta * h)
        loss = losses.sum() / (wins + defeats).sum()
        (gradient,) = torch.autograd.grad(loss, theta)
        with torch.no_grad():
            theta -= rate * gradient
    return theta.detach().log_softmax(-1)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "task4_check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
was = log_ref.clone()
end = repaired(p_true, 1 - p_true, 1.0)
assert torch.equal(log_ref, was), (
    "log_ref has changed during training: which tensors share memory with it?"
)
assert kl(end, optimum(r, 1.0)) < 1e-4, (
    f"at beta 1 the KL to pi* is {kl(end, optimum(r, 1.0)):.2g}: print `reference` before "
    "the first step and after the last. Is it what the policy started from?"
)
end = repaired(p_true, 1 - p_true, 2.0)
assert kl(end, optimum(r, 2.0)) < 1e-4, (
    f"at beta 2 the KL to the reference is {kl(end, log_ref):.2f}, at pi* "
    f"{kl(optimum(r, 2.0), log_ref):.2f}: a larger beta keeps the policy closer. Where "
    "does beta stand in the loss?"
)
### BEGIN HIDDEN TESTS
other = torch.tensor([-0.5, 0.9, 0.4, 0.0, 0.3, -0.2])
chance = (other[first] - other[second]).sigmoid()
for beta in (0.7, 1.5):
    end = repaired(30 * chance, 30 * (1 - chance), beta)
    assert kl(end, optimum(other, beta)) < 1e-3, (
        f"other preferences, beta {beta}: training does not end at pi*"
    )
### END HIDDEN TESTS
