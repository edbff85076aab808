# %% [markdown]
# # 01 · Preferences and reward models
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/dpo-tutorial/dpo-tutorial/blob/main/notebooks/01_preferences_and_reward_models.ipynb)
#
# You will turn comparisons into rewards, measure how well that works where the true
# reward is known, and see what happens to whoever trusts the result too far.
#
# **You will**
#
# - place the reward model in the pipeline of reinforcement learning from human
#   feedback (RLHF);
# - recover known rewards from sampled preferences, up to a constant, and watch the
#   error fall as $1/\sqrt n$;
# - fit Bradley-Terry twice, by PyTorch and by scikit-learn's logistic regression;
# - train a reward model on a small GPT-2 and hold it against the best that anyone
#   could do with the same labels;
# - over-optimise a reward model, and measure the loss in true reward;
# - count what PPO keeps in memory, and what DPO does.
#
# **You need** PyTorch's autograd and maximum likelihood; no reinforcement learning.
# Measured on two CPU cores: about SECONDS seconds and 1 GB of memory; allow ninety
# minutes for reading.
#
# Back: [00 · Start here](00_start_here.ipynb) ·
# Next: [02 · From RLHF to DPO](02_from_rlhf_to_dpo.ipynb)

# %%
# In Colab this installs the course and leaves torch as it is; elsewhere, nothing.
import subprocess
import sys
from importlib.metadata import version

if "google.colab" in sys.modules:
    course = "dpo-tutorial @ git+https://github.com/dpo-tutorial/dpo-tutorial@v0.1.0"
    pip = [sys.executable, "-m", "pip", "install", "-q"]
    subprocess.check_call([*pip, course, "torch==" + version("torch")])

# %% [markdown]
# ## The pipeline
#
# Nobody can write down what makes an answer good, but most people can say which of two
# they prefer. RLHF (Christiano et al. 2017; for language models Ziegler et al. 2019,
# Stiennon et al. 2020, Ouyang et al. 2022) builds on that in three stages:
#
# | stage | data | what is trained | result |
# |---|---|---|---|
# | 1. supervised fine-tuning (SFT) | prompts with good responses | a language model, next token by next token | $\pi_\mathrm{ref}$, where the rest starts |
# | 2. reward model | pairs: chosen $y_w$, rejected $y_l$ | a network that gives a text one number | $\hat r(x, y)$, a stand-in for people |
# | 3. PPO | prompts; responses drawn from the policy | the policy, to earn $\hat r$ and stay near $\pi_\mathrm{ref}$ | $\pi_\theta$ |
#
# DPO goes from the pairs of stage 2 to $\pi_\theta$ in one step; notebook 02 derives
# it. This notebook is about stage 2, on which everything rests, and about the bill for
# stage 3.
#
# ## A world whose truth we own
#
# A prompt is the start of a review, a response continues it. A **gold reward**
# $r^*(x, y)$ between -1 and 1 judges every text: favourable clauses raise it;
# repetition, flattery and words outside the grammar lower it. People are never so
# explicit. Because we are, every estimate below can be checked. Here are eight
# responses to one prompt.

# %%
import numpy as np
import pandas as pd
import torch

from dpo_tutorial.reviews import Annotator, gold_reward, preference_pairs, prompts

prompt = "Restaurant review: The soup was"
responses = [" superb.", " superb and the bread was superb."]
responses += [" tasty and the waiter was kind.", " superb superb superb superb."]
responses += [
    " good, but the bill was steep.",
    " bland.",
    " rather stale.",
    " friendly.",
]
gold = torch.tensor([gold_reward(prompt, y) for y in responses]).double()  # (8,)
pd.DataFrame({"response": responses, "gold reward": gold.numpy().round(2)})

# %% [markdown]
# Soup is not friendly in this grammar, so the last response does not parse and counts
# as the worst. “superb” four times over earns less than once.
#
# ## Bradley-Terry: from rewards to choices
#
# Bradley and Terry (1952) model a choice between two as a coin whose bias is set by the
# difference of two rewards:
#
# $$p(y_1 \succ y_2 \mid x) = \sigma\big(r(x, y_1) - r(x, y_2)\big),
# \qquad \sigma(z) = \frac{1}{1 + e^{-z}}$$
#
# Our simulated annotator follows it, with $r = r^*/T$: the temperature $T$ says how
# many mistakes are made. There are 28 pairs of eight responses, one row each in a
# design matrix of +1 (first), -1 (second) and 0.

# %%
T = 0.5
annotator = Annotator(temperature=T)
r = gold / T  # what the labels can reveal: (8,)
first, second = torch.triu_indices(8, 8, offset=1)  # every pair, once
eye = torch.eye(8, dtype=torch.float64)
X = eye[first] - eye[second]  # (28, 8)
p = (X @ r).sigmoid()  # P(the first of the pair wins): (28,)

# %%
asked = [
    annotator.probability(prompt, responses[i], responses[j])
    for i, j in zip(first, second, strict=True)
]
assert torch.allclose(p, torch.tensor(asked).double(), atol=1e-12)
print(f"surest pair {p.max():.3f}, least sure {p.min():.3f}")

# %% [markdown]
# **Predict:** all eight rewards go up by 7. Which probabilities change?

# %%
shifted, doubled = (X @ (r + 7)).sigmoid(), (X @ (2 * r)).sigmoid()
print(f"shifted by 7: largest change {(shifted - p).abs().max():.0e}")
print(f"doubled:      largest change {(doubled - p).abs().max():.2f}")
assert torch.allclose(shifted, p, atol=1e-12)
assert (doubled - p).abs().max() > 0.1

# %% [markdown]
# None: **only differences matter.** The zero of a reward is a convention, for each
# prompt its own, and a reward of 2.3 means nothing by itself. The scale does matter: it
# says how consistent the labels are.
#
# ## From choices back to rewards
#
# Now forget $r$ and keep only labels. The likelihood of the choices is a product of
# sigmoids; its negative logarithm, with a count of wins and defeats for each pair, is
# what you minimise. L-BFGS does it for one data set or for many side by side.

# %%
from torch.nn.functional import logsigmoid


def fit(wins, defeats):  # counts, (..., 28) -> rewards with mean zero, (..., 8)
    theta = torch.zeros(*wins.shape[:-1], 8, dtype=torch.float64, requires_grad=True)
    tight = {"tolerance_grad": 1e-9, "tolerance_change": 1e-14}
    solver = torch.optim.LBFGS(
        [theta], max_iter=500, line_search_fn="strong_wolfe", **tight
    )

    def loss():
        solver.zero_grad()
        gap = theta @ X.T  # (..., 28)
        total = -wins * logsigmoid(gap) - defeats * logsigmoid(-gap)
        value = (total.sum(-1) / (wins + defeats).sum(-1)).sum()
        value.backward()
        return value

    solver.step(loss)
    return (theta - theta.mean(-1, keepdim=True)).detach()


# %% [markdown]
# An annotator labels 2,000 pairs drawn at random. `which` is the pair, `won` is 1 where
# its first response was chosen.

# %%
rng = np.random.default_rng(0)
which = rng.integers(28, size=2000)
won = (rng.random(2000) < p.numpy()[which]).astype(int)
tally = torch.tensor(np.bincount(which, minlength=28)).double()  # (28,)
wins = torch.tensor(np.bincount(which, weights=won, minlength=28))
estimate = fit(wins, tally - wins)
truth = r - r.mean()
pd.DataFrame({"response": responses, "truth": truth, "estimate": estimate}).round(2)

# %% [markdown]
# Two thousand answers to “which of the two?” have become eight numbers on a scale, and
# after both columns are centred they nearly agree. How nearly is a question with an
# exact answer, below.
#
# ## The same thing under another name
#
# Read $\sigma(r_i - r_j)$ once more. With a row of $X$ as features, it is a
# **logistic regression without intercept**, whose coefficients are the rewards.
# scikit-learn, given the 2,000 single labels and no penalty (`C=inf`), must find the
# same numbers as your 28 counts.

# %%
from sklearn.linear_model import LogisticRegression

model = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10, max_iter=1000)
by_sklearn = model.fit(X.numpy()[which], won).coef_[0]  # (8,)
worst = np.abs(by_sklearn - by_sklearn.mean() - estimate.numpy()).max()
print(f"largest difference {worst:.0e}, allowed 1e-04")
assert worst < 1e-4

# %% [markdown]
# An intercept would say that whatever is shown first tends to win: position bias. That
# is a useful thing to test in real labels, and wrong to leave in by default.
#
# ## How many labels?
#
# Twenty-five data sets for each of seven sizes, each size twice the one before.
# **Predict** the slope of the error on log-log axes.

# %%
sizes = 400 * 2 ** np.arange(7)
fitted = []
for n in sizes:
    tally = rng.multinomial(n, np.full(28, 1 / 28), size=25)  # (25, 28)
    wins = rng.binomial(tally, p.numpy())
    fitted.append(fit(torch.tensor(wins).double(), torch.tensor(tally - wins).double()))
error = (torch.stack(fitted) - truth).square().mean(-1).sqrt()  # (sizes, 25)

# %% [markdown]
# Statistics predicts more than the slope. The Fisher information of one random pair is
# $I = \frac{1}{28}\sum p(1-p)\,x x^\top$ over the rows $x$ of $X$, and the covariance of
# the estimate approaches $I^{-1}/n$ (a pseudo-inverse, since the constant is free).

# %%
information = (X.T * (p * (1 - p))) @ X / 28  # (8, 8)
predicted = (torch.linalg.pinv(information).trace() / 8 / torch.tensor(sizes)).sqrt()
slopes = np.polyfit(np.log(sizes), error.log().numpy(), 1)[0]  # (25,)
slope, slope_error = slopes.mean(), slopes.std(ddof=1) / 25**0.5
ratio = error.square().mean(-1).sqrt() / predicted  # (sizes,)
print(f"slope {slope:.3f}, standard error {slope_error:.3f}")
print("error / theory:", ratio.numpy().round(2))
assert abs(slope + 0.5) < 0.1
assert ((ratio > 0.7) & (ratio < 1.3)).all()

# %%
import matplotlib.pyplot as plt

from dpo_tutorial.plotting import COLORS, use_style

use_style()
fig, axis = plt.subplots()
axis.plot(sizes, error, "o", color=COLORS["proxy"], alpha=0.35, markersize=4)
axis.plot(
    sizes,
    error.square().mean(-1).sqrt(),
    "s-",
    color=COLORS["policy"],
    label="measured",
)
axis.plot(sizes, predicted, "k--", label="Fisher information")
axis.set(xscale="log", yscale="log", xlabel="labelled pairs $n$")
axis.set_ylabel("error of the rewards (RMS, logits)")
axis.set_title(f"Four times the labels, half the error (slope {slope:.2f})")
axis.legend()
plt.show()

# %% [markdown]
# *Figure: root-mean-square error of the eight rewards against the number of labelled
# pairs, both axes logarithmic; one dot a data set, squares for their mean. The squares
# lie on the straight dashed line that the Fisher information predicts.*
#
# The slope is $-1/2$: another digit costs a hundred times the labels. And this is the
# easy case, where every response is compared with every other and the model of the
# annotator is right.
#
# ## The response that always wins
#
# Give every pair fifty labels in the true proportions, except that “superb.” never
# loses. **Predict** its fitted reward. scikit-learn's `C` is the inverse strength of a
# penalty on the squared rewards; let it fade away.

# %%
tally = torch.full((28,), 50.0).double()
wins = torch.where(first == 0, tally, (50 * p).round())
rows, won = torch.cat([X, X]), np.repeat([1, 0], 28)
weights = torch.cat([wins, tally - wins])
table = {}
for C in (1, 1e2, 1e4, 1e6):
    model = LogisticRegression(C=C, fit_intercept=False, tol=1e-8, max_iter=1000)
    b = model.fit(rows, won, sample_weight=weights).coef_[0]
    table[f"{C:.0e}"] = {
        "superb. - second best": b[0] - b[1],
        "second best - worst": b[1] - b[7],
    }
table = pd.DataFrame(table).T.rename_axis("C")
table.round(2)

# %%
lead, rest = table["superb. - second best"], table["second best - worst"]
assert (lead.diff().dropna() > 2).all()  # no end in sight
assert abs(rest.iloc[-1] - rest.iloc[-2]) < 0.05  # settled

# %% [markdown]
# The lead grows with every easing of the penalty: the likelihood has **no maximum**,
# since a certain win is best explained by an infinite gap (statisticians say that the
# data are separated). The other differences settle. In practice almost every response
# is compared once, so almost all data are separated, and what keeps rewards finite is a
# penalty, early stopping, or parameters shared between responses. Notebook 02 meets the
# same flight to infinity inside DPO.
#
# ## A network instead of a table
#
# A table knows nothing of a ninth response. A **reward model** replaces it with a
# network that reads the text: the body of the SFT model, and a linear head that turns
# the last hidden state into one number. The loss is the one you have minimised already:
#
# $$\mathcal{L}(\phi) = -\mathbb{E}\big[\log \sigma\big(\hat r_\phi(x, y_w) -
# \hat r_\phi(x, y_l)\big)\big]$$
#
# The body here is `nano`, a GPT-2 trained on the reviews; the head is new. Dropout is
# off, as one pass over the data leaves little to overfit.

# %%
import copy

from transformers import AutoModelForSequenceClassification

from dpo_tutorial.models import load_model, seed_everything

sft, tokenizer = load_model("nano")


def new_reward_model(seed):
    seed_everything(seed)
    config = copy.deepcopy(sft.config)
    config.num_labels = 1
    model = AutoModelForSequenceClassification.from_config(config)
    model.transformer.load_state_dict(sft.transformer.state_dict())
    return model.eval()


# %% [markdown]
# Which hidden state is the last one? The library's class looks for the rightmost token
# that is not padding, and tells padding by its id. In `nano`, as in GPT-2, padding
# *is* the end-of-text token EOS. **Predict** what it reads in a batch of two.

# %%
from dpo_tutorial.data import collate, pad_rows, tokenize_pair


def ids(prompt, response):
    tokens = tokenizer(prompt)["input_ids"], tokenizer(response)["input_ids"]
    return tokens[0], [*tokens[1], tokenizer.eos_token_id]


def reward(model, batch):  # (B, T) tokens -> (B,) rewards
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    return model(**inputs).logits[:, 0]


reward_model = new_reward_model(seed=0)
batch = pad_rows([ids(prompt, y) for y in responses[:2]], tokenizer.pad_token_id)

# %%
length = batch["attention_mask"].sum(1)  # tokens without padding: (B,)
with torch.no_grad():
    inputs = {"attention_mask": batch["attention_mask"]}
    hidden = reward_model.transformer(batch["input_ids"], **inputs).last_hidden_state
    everywhere = reward_model.score(hidden)[..., 0]  # the head on each token: (B, T)
    position = (everywhere - reward(reward_model, batch)[:, None]).abs().argmin(1)
tokens = batch["input_ids"].gather(1, position[:, None])
print("lengths", length.tolist(), "read at", (position + 1).tolist())
print("tokens read:", [tokenizer.decode(token) for token in tokens])
assert (position + 1 == length - 1).all()  # one before EOS

# %% [markdown]
# It reads the full stop, one before EOS. No harm here: a causal model's state at the
# full stop has seen the whole text, and the state at EOS starts blank, as a language
# model is never asked what follows (Exercise 3). But know it: with left-out EOS, or
# padding that occurs inside a text, the same line reads elsewhere without a warning.
#
# Training data: 3,000 pairs written by the grammar, labelled by an annotator with
# $T = 0.25$. The test pairs are on prompts that no training pair uses.

# %%
annotator = Annotator(seed=1)
train_pairs = preference_pairs(3000, annotator, seed=2)
test_pairs = preference_pairs(1000, annotator, seed=3, split="held_out")
assert not {a.prompt for a in train_pairs} & {b.prompt for b in test_pairs}
for pair in train_pairs[:2]:
    print(f"{pair.prompt} …\n  chosen  {pair.chosen}\n  rejected{pair.rejected}")

# %% [markdown]
# Each batch holds pairs of similar length, which saves padding; `collate` puts the
# chosen in its first half and the rejected in its second.

# %%
import random


def batches(pairs, size=8):
    rows = [tokenize_pair(pair, tokenizer) for pair in pairs]
    rows.sort(key=lambda row: max(len(row["chosen_ids"]), len(row["rejected_ids"])))
    parts = [rows[i : i + size] for i in range(0, len(rows), size)]
    return [collate(part, tokenizer.pad_token_id) for part in parts]


def train(model, pairs, epochs=1, rate=1e-3, seed=0):
    data, rng = batches(pairs), random.Random(seed)
    order = [b for _ in range(epochs) for b in rng.sample(data, len(data))]
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, len(order))
    for batch in order:
        chosen, rejected = reward(model, batch).chunk(2)  # (B,) each
        optimizer.zero_grad()
        (-logsigmoid(chosen - rejected).mean()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        decay.step()
    return model


# %%
train(reward_model, train_pairs)


@torch.no_grad()
def score(model, examples):  # [(prompt, response)] -> rewards, (len(examples),)
    rows = [ids(*example) for example in examples]
    order = np.argsort([len(x) + len(y) for x, y in rows])
    scores = np.empty(len(rows))
    for part in np.array_split(order, max(1, len(rows) // 128)):
        batch = pad_rows([rows[i] for i in part], tokenizer.pad_token_id)
        scores[part] = reward(model, batch).numpy()
    return scores


# %% [markdown]
# ## How good can it be?
#
# Labels are coin flips. Even a judge who knows $r^*$ and always names the likelier
# winner is right with probability $\max(p, 1 - p)$; its mean over the test pairs is the
# **ceiling** for accuracy, and ours can be computed. **Predict** it for this annotator.

# %%
from dpo_tutorial.evaluation import mean_interval

chance = np.array(
    [annotator.probability(b.prompt, b.chosen, b.rejected) for b in test_pairs]
)
ceiling = np.maximum(chance, 1 - chance).mean()
chosen = score(reward_model, [(b.prompt, b.chosen) for b in test_pairs])
rejected = score(reward_model, [(b.prompt, b.rejected) for b in test_pairs])
accuracy = mean_interval((chosen > rejected).astype(float))
print(f"coin 0.50, reward model {accuracy}, ceiling {ceiling:.3f}")
assert accuracy.low > 0.6
assert accuracy.mean < ceiling

# %% [markdown]
# An accuracy of, say, 75 % from a real reward model says little until you know how often
# two annotators agree, which is the nearest thing to a ceiling that real data have.
#
# We can ask more than accuracy. Does a predicted probability mean what it says, and do
# the rewards rank texts as the gold reward does?

# %%
from scipy.stats import spearmanr

turned = np.random.default_rng(0).random(1000) < 0.5  # forget who won
gap = np.where(turned, rejected - chosen, chosen - rejected)
p_hat, p_true = 1 / (1 + np.exp(-gap)), np.where(turned, 1 - chance, chance)
both = [gold_reward(b.prompt, y) for b in test_pairs for y in (b.chosen, b.rejected)]
rho = spearmanr(np.ravel([chosen, rejected], order="F"), both).statistic
print(f"rank correlation with the gold reward: {rho:.2f}")
assert rho > 0.5

# %%
group = np.digitize(p_hat, [0.2, 0.4, 0.6, 0.8])
points = [
    (p_hat[group == g].mean(), mean_interval(p_true[group == g])) for g in range(5)
]
x, y = [x for x, _ in points], np.array([e.mean for _, e in points])
half = [e.high - e.mean for _, e in points]
fig, axis = plt.subplots()
axis.plot([0, 1], [0, 1], "k--", label="perfectly calibrated")
axis.errorbar(
    x, y, half, fmt="o-", color=COLORS["proxy"], capsize=3, label="reward model"
)
axis.set(xlabel="predicted P(first wins)", ylabel="true P(first wins)")
axis.set_title("Its probabilities rise with the true ones")
axis.legend()
plt.show()
assert (np.diff(y) > 0).all()

# %% [markdown]
# *Figure: the annotator's true probability against the reward model's, averaged in five
# groups of test pairs, with 95 % intervals. The points rise along the dashed diagonal.*
#
# ## Trusting it too far
#
# A reward model is good *on average, on texts like those it was trained on*. Stage 3
# does not stay there: it searches for texts that score high, and high scores are found
# where the reward is high or where the model errs upwards. The simplest search is
# **best-of-n**: draw $n$ responses from the SFT model, keep the one that scores best.
# It needs no training, and how far it moves is known.

# %% [markdown]
# ### How far best-of-n goes
#
# Its KL to the model that it draws from is often *said to be* $\log n - (n-1)/n$.
# Beirami et al. (2024) show that this is an upper bound. In a world of listed outcomes
# the exact value is a sum: the best of $n$ is no better than outcome $i$ with
# probability $F_i^n$.


# %%
def best_of_n_kl(p, n):  # p: probabilities of distinct outcomes, worst first
    F = np.cumsum(p) / p.sum()
    q = F**n - np.append(0, F[:-1]) ** n  # P(the best of n is this outcome)
    return np.sum(q * np.log(q / p, where=q > 0, out=np.zeros_like(p)))


def bound(n):
    return np.log(n) - (n - 1) / n


few, many = np.full(8, 1 / 8), np.full(100_000, 1e-5)
for n in (2, 16, 128):
    kls = best_of_n_kl(few, n), best_of_n_kl(many, n)
    print(f"n = {n:3d}: {kls[0]:.3f}, {kls[1]:.3f}, bound {bound(n):.3f} nats")
    assert max(kls) <= bound(n)
    assert bound(n) - kls[1] < 0.01

# %% [markdown]
# With 100,000 equally likely outcomes the bound is nearly exact; with eight it cannot
# be reached, as nobody can move further than onto the single best one, $\log 8$ nats
# away. Even $n = 128$ is a modest move: a few nats, where PPO and DPO easily spend ten.
#
# ### A pool of samples
#
# For each of sixteen held-out prompts draw 128 responses. The gold reward tells what
# best-of-n could gain with perfect knowledge.

# %%
from dpo_tutorial.evaluation import sample_responses

K = 128
starts = [x for x in prompts("held_out")[:16] for _ in range(K)]
answers = sample_responses(sft, tokenizer, starts, max_new_tokens=40, seed=0)
pool = list(zip(starts, answers, strict=True))
pool_gold = np.array([gold_reward(*row) for row in pool]).reshape(16, K)
print("gold reward of a sample:", mean_interval(pool_gold.mean(1)))

# %% [markdown]
# The expected best of $n$ out of a pool needs no redrawing. Sorted by score, the sample
# of rank $i$ (from 0) is the best of a random subset of size $n$ with probability
# $\binom{i}{n-1} / \binom{K}{n}$ (Hilton and Gao 2022), so the estimate is a weighted
# sum. With $n = 1$ it must be the mean, with $n = K$ the sample on top.

# %%
from scipy.special import comb


def best_of(n, by, value):  # (prompts, K) scores, (prompts, K) values -> (prompts,)
    ranked = np.take_along_axis(value, by.argsort(-1), -1)
    return ranked @ (comb(np.arange(K), n - 1) / comb(K, n))


ns = 2 ** np.arange(8)
oracle = np.array([best_of(n, pool_gold, pool_gold).mean() for n in ns])
assert np.isclose(oracle[0], pool_gold.mean())
assert np.isclose(oracle[-1], pool_gold.max(1).mean())
print("best of n by the gold reward:", oracle.round(2))

# %% [markdown]
# ### The truth and the promise
#
# Now let a learnt reward pick. Besides the model above, train five on a hundred pairs
# each, every one with its own pairs and its own head, for eight passes: a small
# annotation budget, squeezed. Each reward model also makes a *promise*: its logits
# times $T$ are in units of the gold reward, so that the promised gain can be drawn in
# the same figure as the gain that was had. **Predict** the two curves.


# %%
def climb(model):  # -> promised and true reward at each n: (2, len(ns))
    proxy = score(model, pool).reshape(16, K)
    promise = pool_gold.mean() + annotator.temperature * (proxy - proxy.mean())
    values = promise, pool_gold
    return [[best_of(n, proxy, v).mean() for n in ns] for v in values]


large = np.array(climb(reward_model))
small = []
for seed in range(5):
    pairs = preference_pairs(100, Annotator(seed=10 + seed), seed=20 + seed)
    small.append(
        climb(train(new_reward_model(seed), pairs, epochs=8, rate=2e-3, seed=seed))
    )
small = np.array(small)  # (models, promise or truth, len(ns))

# %%
fig, axis = plt.subplots()
for (label, color, style), values in zip(
    [("promised", COLORS["proxy"], "--"), ("true reward", COLORS["gold"], "-")],
    small.swapaxes(0, 1),
    strict=True,
):
    axis.plot(ns, values.T, style, color=color, alpha=0.3, linewidth=1)
    axis.plot(
        ns, values.mean(0), style, color=color, marker="o", label=label + ", 100 pairs"
    )
axis.plot(ns, large[1], "-", color=COLORS["policy"], label="true reward, 3,000 pairs")
axis.plot(ns, oracle, "k:", label="true reward, perfect choice")
axis.set(xscale="log", xlabel="$n$", ylabel="reward of the best of $n$")
axis.set_xticks(ns, ns)
axis.set_title("With few labels the promise rises and the truth does not follow")
axis.legend()
plt.show()

# %% [markdown]
# *Figure: reward of the best of n against n (log axis). Dashed, what reward models
# trained on a hundred pairs promise: it climbs steeply past the largest possible
# reward. Solid below, the true reward of the same choices: it rises a little, then lies
# flat; thin lines are single models, some of which turn down. Above it the model
# trained on 3,000 pairs, and dotted the perfect choice.*

# %%
gain = small[:, :, -1] - small[:, :, :1].squeeze(-1)  # (models, promise or truth)
promised, had = mean_interval(gain[:, 0]), mean_interval(gain[:, 1])
late = mean_interval(small[:, 1, -1] - small[:, 1, 4])  # from n = 16 to n = 128
turned = (small[:, 1].argmax(-1) < len(ns) - 1).sum()
print(f"gain at n = {K}: promised {promised}, had {had}")
print(
    f"had with 3,000 pairs {large[1, -1] - large[1, 0]:.2f}, promised {large[0, -1] - large[0, 0]:.2f}"
)
print(f"true reward from n = 16 to {K}: {late}; {turned} of 5 models past their peak")
assert mean_interval(gain[:, 0] - gain[:, 1]).low > 0.2
assert had.mean < 0.75 * (large[1, -1] - large[1, 0])

# %% [markdown]
# The proxy *must* rise with $n$, since it is what we select by. The truth need not.
# This is **over-optimisation**, Goodhart's law at work: the harder you search, the more
# of what you find is the reward model's error. Gao et al. (2022) measured it at scale,
# with a large reward model in our gold reward's place, and found that more data and
# larger reward models push the turn further out. The cure in stage 3 is to search less:
# the KL term, and stopping early by a held-out measure.
#
# What a toy shows: the mechanism, with a truth to hold against. What it does not: where
# the turn lies for a real reward model; and best-of-n only picks among texts that the
# SFT model writes, whereas PPO can reach texts that no annotator has ever seen. The
# five models share the prompts and the pool, so the intervals are about training a
# reward model again, not about other prompts.
#
# ## The bill for PPO
#
# Stage 3 needs four models at once (Ouyang et al. 2022; PPO itself is Schulman et al.
# 2017):
#
# | model | what for | trained? |
# |---|---|---|
# | policy $\pi_\theta$ | draws responses, is improved | yes |
# | value model | predicts the reward to come, as a baseline | yes |
# | reward model $\hat r$ | scores whole responses | frozen |
# | reference $\pi_\mathrm{ref}$ | the KL term | frozen |
#
# DPO needs the first and the last. A trained model is dearer than a frozen one: with
# AdamW it needs a gradient and two moments for each weight. **Predict** the bytes a
# parameter in float32, then count them on `nano`.

# %%
policy = copy.deepcopy(sft)
optimizer = torch.optim.AdamW(policy.parameters())
policy(batch["input_ids"], labels=batch["input_ids"]).loss.backward()
optimizer.step()
moments = [s[k] for s in optimizer.state.values() for k in ("exp_avg", "exp_avg_sq")]
held = [*policy.parameters(), *(w.grad for w in policy.parameters()), *moments]
per_weight = sum(t.nbytes for t in held) / policy.num_parameters()
print(f"{per_weight:.0f} bytes a parameter")
assert per_weight == 4 + 4 + 4 + 4

# %% [markdown]
# Mixed precision changes the parts and not the sum: weights and gradients in bfloat16
# (2 + 2), a float32 copy of the weights (4), two float32 moments (8) make 16 again
# (Rajbhandari et al. 2020). A frozen model is its weights: 4 bytes, or 2.
#
# Models can be counted without being made: on PyTorch's `meta` device a tensor has a
# shape and no memory. Value model and reward model have a head with one output.

# %%
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig


def count(config):  # -> parameters of a language model, and of one with a scalar head
    config.num_labels = 1
    with torch.device("meta"):
        lm = AutoModelForCausalLM.from_config(config)
        scalar = AutoModelForSequenceClassification.from_config(config)
    return lm.num_parameters(), scalar.num_parameters()


# the defaults of both classes: GPT-2's width, and the 7B Llama
configs = {"nano": sft.config, "distilgpt2": GPT2Config(n_layer=6), "7B": LlamaConfig()}
counts = {name: count(copy.deepcopy(config)) for name, config in configs.items()}
assert counts["nano"][0] == sft.num_parameters()
pd.DataFrame(counts, ["language model", "scalar head"]).map("{:,}".format)

# %%
GB = 1e9


def memory(lm, scalar, trained=16, frozen=4):  # bytes a parameter -> GB by model
    policy, reference = trained * lm / GB, frozen * lm / GB
    critics = {
        "value model": trained * scalar / GB,
        "reward model": frozen * scalar / GB,
    }
    return {
        "PPO": {"policy": policy, "reference": reference, **critics},
        "DPO": {"policy": policy, "reference": reference},
        "DPO, reference\nscored ahead": {"policy": policy},
    }


# %%
sums = {}
for name, sizes in counts.items():
    frozen = 2 if name == "7B" else 4  # bfloat16 with a float32 copy, else float32
    by_method = memory(*sizes, frozen=frozen)
    sums[name] = {
        method.replace("\n", " "): sum(m.values()) for method, m in by_method.items()
    }
    assert 1.9 < sums[name]["PPO"] / sums[name]["DPO"] < 2.1
pd.DataFrame(sums).map("{:.3g} GB".format)

# %% [markdown]
# PPO holds **twice** what DPO holds, in either recipe and at every size. DPO can shed
# the reference too: it enters by two numbers a pair, which can be computed once, before
# training, and kept.

# %%
fig, axis = plt.subplots()
colors = {"value model": COLORS["accent"], "reward model": COLORS["proxy"]} | COLORS
for row, (method, parts) in enumerate(by_method.items()):
    left = 0
    for name, size in parts.items():
        hatch = "//" if name in ("reference", "reward model") else None
        label = name + (" (frozen)" if hatch else " (trained)")
        axis.barh(
            row,
            size,
            left=left,
            color=colors[name],
            hatch=hatch,
            edgecolor="white",
            label=label if row == 0 else None,
        )
        left += size
    axis.text(left + 3, row, f"{left:.0f} GB", va="center")
axis.set_yticks(range(3), by_method)
axis.set(xlabel="GB for weights, gradients, AdamW", xlim=(0, 275), ylim=(2.5, -0.5))
axis.set_title("At 7B, PPO holds twice what DPO holds; what is trained dominates")
axis.legend(loc="lower right")
axis.grid(axis="y")
plt.show()

# %% [markdown]
# *Figure: horizontal bars of memory for a 7B model. PPO: policy and value model, both
# trained, make up most of the bar; reference and reward model, frozen, are thin slices.
# DPO: policy and a thin reference. DPO with the reference scored ahead: policy alone.*
#
# So “PPO needs four models” is true and misleads: the second *trained* model costs as
# much as the policy, the two frozen ones a quarter of that together. Not in the bars:
# activations, and for PPO the cache of keys and values while it generates. Nor is time,
# where PPO pays most, since each step draws whole responses token by token. Sizes may
# differ as well; Ouyang et al. ran a 6B reward and value model beside a policy of 175B.
# Sharing one body between policy and value model, or training small adapters
# (notebooks 05 and 12), makes the bill smaller for both.
#
# ## What you did
#
# - You placed the reward model in the pipeline: after SFT, before PPO.
# - You recovered eight rewards from choices, up to a constant, and measured an error
#   that falls as $1/\sqrt n$ at the level that the Fisher information predicts.
# - You fitted Bradley-Terry by PyTorch and by logistic regression, to the same numbers,
#   and saw the response that always wins run away.
# - You trained a reward model and placed its accuracy between chance and the ceiling.
# - You over-optimised five reward models and compared promise with truth.
# - You counted the four models of PPO: two trained, two frozen, twice the memory of DPO.
#
# ## Exercises
#
# **1.** Set `T` to 1, a more careless annotator, and run the sweep again. Is the error
# in logits larger or smaller? And in units of the gold reward, after multiplying by
# `T`?
#
# <details><summary>Answer</summary>
#
# Smaller in logits: the pairs are closer to coin flips, and $p(1-p)$, the information
# in a label, is largest there. Larger in units of the gold reward, since it is
# multiplied by a temperature twice as high. Slope and theory hold for both.
# </details>
#
# **2.** Turn 20 % of the labels round (`Annotator(temperature=0.5, label_noise=0.2)`)
# and fit again with a great many labels. Do the rewards still converge to the truth?
#
# <details><summary>Answer</summary>
#
# No. Probabilities now lie between 0.2 and 0.8, so the fitted rewards shrink, the
# extreme ones most, and more labels do not help: the model is wrong. The order survives.
# A likelihood that knows of the noise, $0.2 + 0.6\,\sigma(\cdot)$, repairs it; notebook
# 08 meets that idea as robust DPO.
# </details>
#
# **3.** Read the reward at EOS: apply <code>model.score</code> to
# <code>model.transformer(...)</code> at position
# <code>attention_mask.sum(1) - 1</code>. What happens to the accuracy after 3,000 pairs?
#
# <details><summary>Answer</summary>
#
# It is lower for the same budget. After EOS the language model never had to predict
# anything, so its state there carries little about the review, and training has to
# build that first. A reward model that must tell finished texts from cut-off ones needs
# this position all the same.
# </details>
#
# **4.** Three responses beat each other in a circle, each winning 90 % of its
# comparisons with the next. What does Bradley-Terry make of it?
#
# <details><summary>Answer</summary>
#
# Three equal rewards and probabilities of one half: no reward is higher than the one
# that it is lower than. A scalar reward cannot express a circle, nor can DPO, which has
# a reward inside. Methods that work on $p(y \succ y')$ itself, such as IPO's objective
# in notebook 02, do not assume that one exists.
# </details>
#
# **5.** Train the five small models for two passes instead of eight. What happens to
# the promise, and what to the truth?
#
# <details><summary>Answer</summary>
#
# The promise shrinks a great deal, as logits stay small; the truth changes little. Part
# of what was broken is overconfidence, which stopping early (or a held-out pair or two)
# repairs; the rest is ignorance, which only more labels repair.
# </details>
#
# ## Further reading
#
# - Bradley and Terry 1952, *Rank Analysis of Incomplete Block Designs: I. The Method of
#   Paired Comparisons*, Biometrika 39, [doi 10.2307/2334029](https://doi.org/10.2307/2334029).
# - Christiano et al. 2017, *Deep Reinforcement Learning from Human Preferences*,
#   [arXiv 1706.03741](https://arxiv.org/abs/1706.03741): a reward from comparisons.
# - Ziegler et al. 2019, *Fine-Tuning Language Models from Human Preferences*,
#   [arXiv 1909.08593](https://arxiv.org/abs/1909.08593).
# - Stiennon et al. 2020, *Learning to Summarize from Human Feedback*,
#   [arXiv 2009.01325](https://arxiv.org/abs/2009.01325): over-optimisation seen by
#   people, in the section on the reward model.
# - Ouyang et al. 2022, *Training Language Models to Follow Instructions with Human
#   Feedback*, [arXiv 2203.02155](https://arxiv.org/abs/2203.02155).
# - Schulman et al. 2017, *Proximal Policy Optimization Algorithms*,
#   [arXiv 1707.06347](https://arxiv.org/abs/1707.06347).
# - Gao, Schulman and Hilton 2022, *Scaling Laws for Reward Model Overoptimization*,
#   [arXiv 2210.10760](https://arxiv.org/abs/2210.10760).
# - Hilton and Gao 2022,
#   [*Measuring Goodhart's Law*](https://openai.com/index/measuring-goodharts-law/): the
#   estimator for best-of-n.
# - Beirami et al. 2024, *Theoretical Guarantees on the Best-of-n Alignment Policy*,
#   [arXiv 2401.01879](https://arxiv.org/abs/2401.01879).
# - Rajbhandari et al. 2020, *ZeRO: Memory Optimizations Toward Training Trillion
#   Parameter Models*, [arXiv 1910.02054](https://arxiv.org/abs/1910.02054): the 16
#   bytes.
