# %% [markdown]
# # 01 · Preferences and reward models: exercises
#
# Five tasks on comparisons, rewards and the bill for PPO, about 40 minutes in all.
#
# You need the chapter,
# [01 · Preferences and reward models](../01_preferences_and_reward_models.ipynb), and
# nothing beyond it. Put your answer where a cell says `YOUR CODE HERE`, then run the
# check below it: silence means that it passed, and a failed check says what to think
# about. The tasks do not depend on one another. When you have tried them all, compare
# with the [solutions](../solutions/01_preferences_and_reward_models.ipynb).
#
# BADGE

# %%
# BOOTSTRAP

# %%
import numpy as np
import torch

# %% [markdown]
# ## Task 1 · A comparison nobody made
#
# *Kind: mathematics on paper and in a cell · Level: easy · 6 minutes*
#
# Annotators prefer A to B with probability $p_{AB}$ and B to C with probability
# $p_{BC}$. Nobody compared A with C. If Bradley-Terry holds, the two numbers fix the
# third. Work it out on paper: what do $p_{AB}$ and $p_{BC}$ say about differences of
# rewards? Then write it as a function.


# %% nbgrader={"grade": false, "grade_id": "task1", "locked": false, "schema_version": 3, "solution": true, "task": false}
def preferred(p_ab, p_bc):
    """Probability that A is preferred to C, for two floats between 0 and 1."""
    ### BEGIN SOLUTION
    log_odds = np.log(p_ab / (1 - p_ab)) + np.log(p_bc / (1 - p_bc))  # r_A - r_C
    return 1 / (1 + np.exp(-log_odds))
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "task1_check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
assert np.isclose(preferred(0.8, 0.5), 0.8), (
    "B and C are equally good here: what does that say about A against C?"
)
assert preferred(0.8, 0.7) > 0.8, (
    "A beats B, and B beats C: A against C must be surer than either. "
    "Which quantity adds up along the chain: probabilities, or reward differences?"
)
assert np.isclose(preferred(0.8, 0.2), 0.5), (
    "C is as far above B as A is: how do the two reward differences combine?"
)
assert np.isclose(preferred(0.8, 0.75), 12 / 13), (
    "right in the easy cases, wrong in this one: which function turns a probability "
    "into a difference of rewards? Subtracting one half is not it"
)
### BEGIN HIDDEN TESTS
for a, b, c in ((1.3, 0.2, -0.4), (0.0, 2.0, 1.0), (-1.0, -1.5, 3.0)):
    ab, bc, ac = (1 / (1 + np.exp(-gap)) for gap in (a - b, b - c, a - c))
    assert np.isclose(preferred(ab, bc), ac), (
        f"with rewards {a}, {b}, {c} the model gives {ac:.3f}: go through log-odds, "
        "which are the reward differences themselves"
    )
### END HIDDEN TESTS

# %% [markdown]
# ## Task 2 · Rewards from a table of wins
#
# *Kind: implementation · Level: medium · 12 minutes*
#
# `wins[i, j]` says how often response $i$ was chosen over response $j$. Return the
# Bradley-Terry rewards that make these choices likeliest, with mean zero. Any method
# will do: L-BFGS or plain gradient descent in PyTorch, or scikit-learn. Pairs may have
# been compared unequally often, some of them never.
#
# How can the check judge a fit without another fit? At the maximum of this likelihood
# the derivative by each reward is zero, and that derivative is *wins seen minus wins
# expected*: $\sum_j w_{ij} - \sum_j n_{ij}\,\sigma(r_i - r_j)$ with
# $n_{ij} = w_{ij} + w_{ji}$.


# %% nbgrader={"grade": false, "grade_id": "task2", "locked": false, "schema_version": 3, "solution": true, "task": false}
def fit_rewards(wins):
    """Rewards with mean zero, in logits: (n,), from counts of wins: tensor (n, n)."""
    ### BEGIN SOLUTION
    theta = torch.zeros(len(wins), dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([theta], max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        solver.zero_grad()
        gap = theta[:, None] - theta[None, :]  # (n, n)
        loss = -(wins * torch.nn.functional.logsigmoid(gap)).sum() / wins.sum()
        loss.backward()
        return loss

    solver.step(closure)
    return (theta - theta.mean()).detach()
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "task2_check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
def too_many_wins(rewards, wins):  # expected minus seen, as a share of comparisons
    chance = (rewards[:, None] - rewards[None, :]).sigmoid()
    games = wins + wins.T
    return ((games * chance).sum(1) - wins.sum(1)) / games.sum(1)


counts = torch.tensor([[0.0, 30, 9], [10, 0, 60], [1, 40, 0]], dtype=torch.float64)
found = torch.as_tensor(fit_rewards(counts)).double()
assert found[0] == found.max(), (
    "response 0 wins most of its comparisons and must rank first: is `wins[i, j]` "
    "read as i chosen over j?"
)
assert abs(found.mean()) < 1e-3, (
    "a constant added to all rewards changes no probability, so the data cannot fix "
    "it; the task fixes it by asking for mean zero"
)
assert too_many_wins(found, counts).abs().max() < 0.01, (
    "expected wins differ from those seen, so this is not the likeliest table. Rewards "
    "are logits, not shares; and every label counts once, not every pair"
)
### BEGIN HIDDEN TESTS
for seed in range(3):
    rng = np.random.default_rng(seed)
    truth = torch.tensor(rng.normal(size=6))
    games = rng.integers(20, 400, size=(6, 6))
    chance = (truth[:, None] - truth[None, :]).sigmoid().numpy()
    table = torch.tensor(np.triu(rng.binomial(games, chance), 1)).double()
    table += torch.tensor(np.triu(games, 1)).T - table.T
    table[0, 5] = table[5, 0] = 0  # never compared
    found = torch.as_tensor(fit_rewards(table)).double()
    assert abs(found.mean()) < 1e-3, "mean zero, please: only differences are known"
    assert too_many_wins(found, table).abs().max() < 0.01, (
        "on a larger table expected wins differ from those seen: has the search "
        "converged, and does every label count once?"
    )
### END HIDDEN TESTS

# %% [markdown]
# ## Task 3 · The one that is shown first
#
# *Kind: experiment with a prediction · Level: medium · 10 minutes*
#
# The annotators below have a position bias: whichever response is shown first gets a
# bonus of 1.5 logits. The order is drawn at random, so no response is favoured by it.
# `fit` is the logistic regression of the chapter; it knows nothing of positions unless
# it is given an intercept.
#
# Before you run anything: will the *spread* of the rewards fitted **without** an
# intercept, which is their standard deviation over the eight responses, come out
# `"larger"` than the true one, `"smaller"`, or `"the same"`? Set `prediction`; it is not
# graded on being right. Then measure. `ratio_without` and `ratio_with` are the fitted
# spread divided by the true one, without an intercept and with one. `conclusion` is
# what you saw for the fit without: count a ratio within 5 % of 1 as `"the same"`.

# %%
from sklearn.linear_model import LogisticRegression

rng = np.random.default_rng(0)
truth = np.array([1.6, 1.1, 0.7, 0.3, -0.2, -0.6, -1.2, -1.7])
shown = np.array([rng.permutation(8)[:2] for _ in range(20_000)])  # first, second
gap = truth[shown[:, 0]] - truth[shown[:, 1]] + 1.5  # the bonus of the first
won = (rng.random(len(gap)) < 1 / (1 + np.exp(-gap))).astype(int)
X = np.eye(8)[shown[:, 0]] - np.eye(8)[shown[:, 1]]  # (20000, 8)


def fit(intercept):
    model = LogisticRegression(C=np.inf, fit_intercept=intercept, max_iter=1000)
    return model.fit(X, won).coef_[0]  # (8,)


# %% nbgrader={"grade": false, "grade_id": "task3", "locked": false, "schema_version": 3, "solution": true, "task": false}
# prediction, ratio_without, ratio_with, conclusion
### BEGIN SOLUTION
prediction = "smaller"
ratio_without = fit(False).std() / truth.std()
ratio_with = fit(True).std() / truth.std()
if abs(ratio_without - 1) <= 0.05:
    conclusion = "the same"
else:
    conclusion = "larger" if ratio_without > 1 else "smaller"
print(f"without an intercept {ratio_without:.2f}, with one {ratio_with:.2f}")
print(f"predicted: {prediction}; seen: {conclusion}")
# A bonus that goes now to one and now to the other makes choices look more careless
# than they are, and a careless annotator is one whose rewards lie close together.
### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "task3_check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
choices = ("larger", "smaller", "the same")
assert prediction in choices, f"set prediction to one of {choices}"
seen = [fit(intercept).std() / truth.std() for intercept in (False, True)]
assert abs(ratio_without - seen[0]) < 0.02, (
    "ratio_without: the fitted spread divided by the true one, standard deviations of "
    "eight rewards each, from the fit that has no intercept"
)
assert abs(ratio_with - seen[1]) < 0.02, (
    "ratio_with: the same ratio from the fit that has an intercept"
)
assert conclusion in choices, f"set conclusion to one of {choices}"
assert (conclusion == "the same") == (abs(ratio_without - 1) <= 0.05), (
    "conclusion: the question is about the fit without an intercept, and a ratio "
    "counts as the same only within 5 % of 1"
)
assert (conclusion == "larger") == (ratio_without > 1.05), (
    "conclusion says something else than ratio_without: does a ratio below 1 mean that "
    "the rewards lie further apart, or closer together?"
)
### BEGIN HIDDEN TESTS
measured = choices[int(seen[0] < 1)] if abs(seen[0] - 1) > 0.05 else choices[2]
assert conclusion == measured, "conclusion differs from what the fit without one shows"
### END HIDDEN TESTS

# %% [markdown]
# ## Task 4 · A report that flatters
#
# *Kind: find the bug · Level: medium · 6 minutes*
#
# `report` gives a reward model's accuracy on test pairs beside the ceiling, the
# accuracy of a judge who knows how likely each label was. Somebody is delighted with it:
# a model whose head is broken, so that it scores every text 0, has a perfect accuracy,
# far above the ceiling. Run it, find the **two** bugs, and write a `repaired` report
# that has neither.


# %%
def report(chosen, rejected, p_chosen):
    """Accuracy and ceiling, from rewards (pairs,) and P(the label drawn), (pairs,)."""
    accuracy = np.mean(chosen >= rejected)
    ceiling = max(p_chosen.mean(), 1 - p_chosen.mean())
    return accuracy, ceiling


zeros = np.zeros(4)
accuracy, ceiling = report(zeros, zeros, np.array([0.9, 0.2, 0.7, 0.2]))
print(f"a broken head: accuracy {accuracy:.2f}, ceiling {ceiling:.2f}")


# %% nbgrader={"grade": false, "grade_id": "task4", "locked": false, "schema_version": 3, "solution": true, "task": false}
def repaired(chosen, rejected, p_chosen):
    """Accuracy and ceiling, from rewards (pairs,) and P(the label drawn), (pairs,)."""
    ### BEGIN SOLUTION
    # A tie is no choice: counted as right, it rewards a model that says nothing.
    accuracy = np.mean(chosen > rejected)
    # The judge decides pair by pair, so the larger probability is taken pair by pair.
    ceiling = np.maximum(p_chosen, 1 - p_chosen).mean()
    return accuracy, ceiling
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "task4_check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
better = np.array([2.0, 0.5, -1.0, 3.0, 0.2])
worse = np.array([1.0, 0.7, -2.0, 1.0, 0.1])
odds = np.array([0.9, 0.2, 0.7, 0.2, 0.6])
accuracy, ceiling = repaired(better, worse, odds)
assert np.isclose(accuracy, 0.8), (
    "four of these five pairs have the chosen response ahead: is the comparison the "
    "right way round?"
)
assert repaired(zeros, zeros, odds[:4])[0] <= 0.5, (
    "a model that scores everything alike knows nothing: what does a tie count for?"
)
assert np.isclose(ceiling, 0.76), (
    "the judge decides each pair by itself: what is the chance of being right on a pair "
    "whose label had probability 0.2, and what is then averaged?"
)
### BEGIN HIDDEN TESTS
rng = np.random.default_rng(1)
p = rng.random(500)
draws = rng.normal(size=(2, 500))
accuracy, ceiling = repaired(*draws, p)
assert np.isclose(accuracy, (draws[0] > draws[1]).mean()), (
    "accuracy is the share of pairs with the chosen response ahead"
)
assert np.isclose(ceiling, np.where(p > 0.5, p, 1 - p).mean()), (
    "the ceiling is a mean of what the judge achieves on each pair"
)
half = np.r_[np.zeros(250), np.ones(250)]
assert repaired(half, np.zeros(500), p)[0] <= 0.75, (
    "half of the pairs are ties here: what does a tie count for?"
)
### END HIDDEN TESTS

# %% [markdown]
# ## Task 5 · The bill, with smaller helpers
#
# *Kind: mathematics on paper and in a cell · Level: easy · 6 minutes*
#
# The chapter's 7B bars make PPO twice as dear as DPO. Ouyang et al. trained a policy of
# 175B parameters beside a value model and a reward model of 6B each. On paper first: is
# PPO still twice as dear? Write the bill for any sizes. A trained model costs 16 bytes a
# parameter, a frozen one 2; reference and policy are of one size; DPO keeps its
# reference in memory.


# %% nbgrader={"grade": false, "grade_id": "task5", "locked": false, "schema_version": 3, "solution": true, "task": false}
def bill(policy, value, reward, trained=16, frozen=2):
    """Bytes that PPO holds and bytes that DPO holds, from parameters of each model."""
    ### BEGIN SOLUTION
    dpo = policy * (trained + frozen)  # the policy, and its frozen reference
    ppo = dpo + value * trained + reward * frozen
    return ppo, dpo
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "task5_check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
ppo, dpo = bill(7e9, 7e9, 7e9)
assert np.isclose(dpo, 126e9), (
    "DPO trains one model and keeps a frozen one beside it: which are they?"
)
assert np.isclose(ppo / dpo, 2), (
    "PPO holds four models, but it does not train all four: which are frozen?"
)
ppo, dpo = bill(175e9, 6e9, 6e9)
assert ppo / dpo < 1.1, (
    "the helpers are small here, so they add little: does each model enter with its own "
    "number of parameters?"
)
ppo, dpo = bill(10, 1, 0, trained=12)
assert ppo - dpo == 12, (
    "a value model of one parameter and no reward model: is the value model trained, "
    "and does it cost what `trained` says, here 12 bytes?"
)
### BEGIN HIDDEN TESTS
for sizes, (t, f) in (((3e9, 2e9, 1e9), (16, 2)), ((5.0, 1.0, 8.0), (16, 4))):
    ppo, dpo = bill(*sizes, trained=t, frozen=f)
    assert np.isclose(dpo, sizes[0] * (t + f)), "DPO: a policy and a reference"
    assert np.isclose(ppo - dpo, sizes[1] * t + sizes[2] * f), (
        "beyond DPO's two models PPO holds a value model and a reward model: which of "
        "them is trained?"
    )
### END HIDDEN TESTS

# %% [markdown]
# The count of models says little: PPO's bill is made by what is *trained*. With helpers
# of 6B it is hardly larger than DPO's, and time for writing responses, not memory, is
# then what PPO pays for.
