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
# - over-optimise reward models and compare what they promise with what comes;
# - count what PPO keeps in memory, and what DPO does.
#
# **You need** PyTorch's autograd and maximum likelihood; no reinforcement learning.
# Measured on two CPU cores: about 40 seconds and 0.9 GB of memory; allow ninety minutes
# for reading.
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
# they prefer. RLHF (Christiano et al. 2017; on language models Ziegler et al. 2019,
# Stiennon et al. 2020, Ouyang et al. 2022) builds on that, in three stages:
#
# | stage | data | what is trained | result |
# |---|---|---|---|
# | 1. supervised fine-tuning (SFT) | prompts with good responses | a language model, token by token | $\pi_\mathrm{ref}$, where the rest starts |
# | 2. reward model | pairs: chosen $y_w$, rejected $y_l$ | a network that gives a text one number | $\hat r(x, y)$, a stand-in for people |
# | 3. PPO (proximal policy optimisation) | prompts; responses drawn from the policy | the policy, the language model in training, to earn $\hat r$ and stay near $\pi_\mathrm{ref}$ | $\pi_\theta$ |
#
# DPO goes from the pairs of stage 2 to $\pi_\theta$ in one step; notebook 02 derives
# it. This notebook is about stage 2, on which both rest, and about the bill for
# stage 3.
#
# ## A world whose truth we own
#
# A prompt $x$ is the start of a review, a response $y$ continues it. A **gold reward**
# $r^*(x, y)$ between -1 and 1 judges every text: favourable clauses raise it;
# repetition, flattery and words outside the grammar lower it. Real preferences come
# without such a function. Because ours have one, every estimate below can be checked.
# Here are eight responses to one prompt.

# %%
import numpy as np
import pandas as pd
import torch

from dpo_tutorial.reviews import Annotator, gold_reward, preference_pairs, prompts

torch.set_num_threads(1)  # small matrices: a second thread would mostly wait
rng = np.random.default_rng(0)

# %%
prompt = "Restaurant review: The soup was"
responses = [" delicious.", " delicious and the bread was delicious."]
responses += [" fresh and the waiter was kind.", " delicious delicious delicious."]
responses += [" good, but the bill was poor.", " mediocre.", " bad.", " charming."]
gold = torch.tensor([gold_reward(prompt, y) for y in responses]).double()  # (8,)
assert gold[0] > gold[1] > gold[3]
pd.DataFrame({"response": responses, "gold reward": gold}).round(2)

# %% [markdown]
# One “delicious” is worth more than two, and far more than a string of them: the gold
# reward has no taste for repetition. Soup is not charming in this grammar, so the last
# response does not parse and ranks lowest.
#
# ## Bradley-Terry: from rewards to choices
#
# Bradley and Terry (1952) model a choice between two as a coin whose bias is set by the
# difference of two rewards:
#
# $$p(y_1 \succ y_2 \mid x) = \sigma\big(r(x, y_1) - r(x, y_2)\big),
# \qquad \sigma(z) = \frac{1}{1 + e^{-z}}$$
#
# Our simulated annotator follows it with $r = r^*/T$; the temperature $T$ says how
# careless the choices are. Eight responses make 28 pairs. Each is a row of a design
# matrix $X$: +1 for the first, -1 for the second, 0 elsewhere, so that $X r$ is the
# difference.

# %%
T = 0.5
r = gold / T  # what labels can reveal: (8,)
first, second = torch.triu_indices(8, 8, offset=1)  # every pair, once
eye = torch.eye(8, dtype=torch.float64)
X = eye[first] - eye[second]  # (28, 8)
p = (X @ r).sigmoid()  # P(the first of a pair wins): (28,)

# %%
annotator = Annotator(temperature=T)
pairs = [(responses[i], responses[j]) for i, j in zip(first, second, strict=True)]
asked = [annotator.probability(prompt, *pair) for pair in pairs]
assert np.allclose(p, asked, atol=1e-12)
print(f"the annotator agrees; surest pair {p.max():.3f}, least sure {p.min():.3f}")

# %% [markdown]
# **Predict:** all eight rewards go up by 7. Which probabilities change? And if all of
# them double?

# %%
for name, other in (("shifted", r + 7), ("doubled", 2 * r)):
    change = ((X @ other).sigmoid() - p).abs().max()
    print(f"{name}: largest change of a probability {change:.2f}")
    assert (change < 1e-12) == (name == "shifted")

# %% [markdown]
# **Only differences matter.** The zero of a reward is a convention, each prompt's own,
# and a reward of 2.3 by itself means nothing. The scale does matter: it says how
# consistent the choices are.
#
# ## From choices back to rewards
#
# Forget $r$ and keep the choices. Their likelihood is a product of sigmoids, and its
# negative logarithm, per label, is what to minimise. It needs only each pair's count of
# wins and defeats. L-BFGS finds the minimum, for one data set or for many side by side.
# Then try it on 2,000 labels of pairs drawn at random: `which` is the pair, `won` is 1
# where its first response was chosen.

# %%
from torch.nn.functional import logsigmoid


def negative_log_likelihood(theta, wins, defeats):  # (..., 8), (..., 28) -> (...)
    gap = theta @ X.T  # (..., 28)
    total = wins * logsigmoid(gap) + defeats * logsigmoid(-gap)
    return -total.sum(-1) / (wins + defeats).sum(-1)


# %%
def fit(wins, defeats):  # -> rewards with mean zero, (..., 8)
    theta = torch.zeros(*wins.shape[:-1], 8, dtype=torch.float64, requires_grad=True)
    options = {"tolerance_grad": 1e-9, "tolerance_change": 1e-14, "max_iter": 500}
    solver = torch.optim.LBFGS([theta], line_search_fn="strong_wolfe", **options)

    def closure():
        solver.zero_grad()
        loss = negative_log_likelihood(theta, wins, defeats).sum()
        loss.backward()
        return loss

    solver.step(closure)
    return (theta - theta.mean(-1, keepdim=True)).detach()


# %%
which = rng.integers(28, size=2000)
won = (rng.random(2000) < p.numpy()[which]).astype(int)
tally = torch.tensor(np.bincount(which, minlength=28)).double()  # labels of each pair
wins = torch.tensor(np.bincount(which, weights=won, minlength=28))
estimate, truth = fit(wins, tally - wins), r - r.mean()
pd.DataFrame({"response": responses, "truth": truth, "estimate": estimate}).round(2)

# %% [markdown]
# Answers to “which of the two?” have become eight numbers on a scale. Both columns are
# centred, as the constant cannot be recovered; with that they nearly agree. How nearly
# is a question with an exact answer, below.
#
# ## The same thing under another name
#
# Read $\sigma(r_i - r_j)$ once more: with a row of $X$ as features it is a **logistic
# regression without intercept**, whose coefficients are the rewards. scikit-learn,
# given the 2,000 single labels and no penalty (`C=inf`), must find what you found from
# 28 counts.

# %%
from sklearn.linear_model import LogisticRegression

options = {"fit_intercept": False, "tol": 1e-10, "max_iter": 1000}
by_sklearn = LogisticRegression(C=np.inf, **options).fit(X[which], won).coef_[0]
worst = np.abs(by_sklearn - by_sklearn.mean() - estimate.numpy()).max()
print(f"largest difference {worst:.0e}, allowed 1e-04")
assert worst < 1e-4

# %% [markdown]
# An intercept would say that whatever is shown first tends to win. Real annotators and
# judges may well have such a position bias; test for it, and do not let it in unseen.
#
# ## How many labels?
#
# Fifty data sets for each of seven sizes, each size twice the one before.
# **Predict** the slope of the error on log-log axes.

# %%
sizes, fits = 400 * 2 ** np.arange(7), []
for n in sizes:
    tallies = rng.multinomial(n, np.full(28, 1 / 28), size=50)  # (50, 28)
    w = rng.binomial(tallies, p.numpy())
    fits.append(fit(torch.tensor(w).double(), torch.tensor(tallies - w).double()))
error = (torch.stack(fits) - truth).square().mean(-1).sqrt()  # (sizes, 50)

# %% [markdown]
# Statistics predicts more than the slope. The Fisher information of one random pair is
# $I = \frac{1}{28}\sum p(1-p)\,x x^\top$ over the rows $x$ of $X$, and the covariance of
# the estimate approaches $I^{-1}/n$ (a pseudo-inverse, as the constant stays free).

# %%
information = (X.T * (p * (1 - p))) @ X / 28  # (8, 8)
variance = torch.linalg.pinv(information).trace() / 8  # mean over rewards, for n = 1
theory = (variance / torch.tensor(sizes)).sqrt()  # (sizes,)

# %%
measured = error.square().mean(-1).sqrt()  # (sizes,)
slopes = np.polyfit(np.log(sizes), error.log(), 1)[0]  # (50,)
slope, slope_error = slopes.mean(), slopes.std(ddof=1) / 50**0.5
print(f"slope {slope:.3f}, standard error {slope_error:.3f}")
print("measured / theory:", (measured / theory).numpy().round(2))
assert abs(slope + 0.5) < 0.1
assert (measured / theory - 1).abs().max() < 0.3

# %%
import matplotlib.pyplot as plt

from dpo_tutorial.plotting import COLORS, use_style

use_style()
fig, axis = plt.subplots()
axis.plot(sizes, error, "o", c=COLORS["proxy"], alpha=0.35, ms=3)
axis.plot(sizes, measured, "s", c=COLORS["policy"], label="measured, 50 data sets")
axis.plot(sizes, theory, "k--", label="Fisher information")
axis.set(xscale="log", yscale="log", xlabel="labelled pairs $n$")
axis.set_ylabel("error of the rewards (RMS, logits)")
axis.set_title(f"Four times the labels, half the error (slope {slope:.2f})")
axis.legend()
plt.show()

# %% [markdown]
# *Figure: root-mean-square error of the eight rewards against the number of labelled
# pairs, both axes logarithmic; a dot for each data set, squares for the RMS over data
# sets. The squares lie on the dashed line that the Fisher information predicts.*
#
# The slope is that of $1/\sqrt n$: one more digit costs a hundred times the labels. And
# this is the easy case. Every response was compared with every other, and the model of
# the annotator was right.
#
# ## The response that always wins
#
# Give every pair fifty labels in the true proportions, except that “delicious.” never
# loses. **Predict** its fitted reward. scikit-learn's `C` is the inverse strength of a
# penalty on the squared rewards; let the penalty fade. `lead` is how far “delicious.”
# is ahead of the second response, `others` how far the second is ahead of the last.

# %%
wins = torch.where(first == 0, 50.0, (50 * p).round())
rows, outcome, weight = torch.cat([X, X]), [1] * 28 + [0] * 28, [*wins, *(50 - wins)]
table = {}
for C in (1.0, 1e2, 1e4, 1e6):
    b = LogisticRegression(C=C, **options).fit(rows, outcome, weight).coef_[0]
    table[f"C = {C:.0e}"] = {"lead": b[0] - b[1], "others": b[1] - b[7]}
table = pd.DataFrame(table)
lead, others = table.to_numpy()
assert (np.diff(lead) > 2).all()  # no end in sight
assert abs(others[-1] - others[-2]) < 0.05  # settled
table.round(2)

# %% [markdown]
# Its lead grows whenever the penalty eases: the likelihood has **no maximum**, since a
# certain win is best explained by an infinite gap (statisticians call such data
# separated). The distance between the others settles. In practice nearly every
# response is compared once, so nearly all data are separated, and what keeps rewards
# finite is a penalty, early stopping, or parameters shared between responses. Notebook
# 02 meets the same flight to infinity inside DPO.
#
# ## A network instead of a table
#
# A table knows nothing of a ninth response. A **reward model** puts a network in its
# place: the body of the SFT model, and a linear head that turns its last hidden state
# into one number. You have minimised the loss already:
#
# $$\mathcal{L}(\phi) = -\mathbb{E}\big[\log \sigma\big(\hat r_\phi(x, y_w) -
# \hat r_\phi(x, y_l)\big)\big]$$
#
# The body is `nano`'s, a GPT-2 trained on the reviews; the head is new. `eval` switches
# dropout off, which short training of a small model does not need.

# %%
import copy

from transformers import AutoModelForSequenceClassification

from dpo_tutorial.models import load_model, seed_everything

sft, tokenizer = load_model("nano")


def new_reward_model(seed):
    seed_everything(seed)
    config = copy.deepcopy(sft.config)
    config.num_labels = 1
    model = AutoModelForSequenceClassification.from_config(config).to(sft.device)
    model.transformer.load_state_dict(sft.transformer.state_dict())
    return model.eval()


# %% [markdown]
# Which hidden state is the last? The library's class takes the rightmost token that is
# not padding, and knows padding by its id. In `nano` padding *is* the end-of-text token
# EOS, as is usual with GPT-2. **Predict** where it reads two responses that end with
# EOS.

# %%
from dpo_tutorial.data import collate, pad_rows, tokenize_pair


def reward(model, batch):  # (B, T) tokens -> (B,) rewards
    names = "input_ids", "attention_mask"
    return model(**{k: batch[k].to(model.device) for k in names}).logits[:, 0]


def ids(text):
    return tokenizer(text)["input_ids"]


# %%
two = [(ids(prompt), [*ids(y), tokenizer.eos_token_id]) for y in responses[:2]]
batch = pad_rows(two, tokenizer.pad_token_id)
model, length = new_reward_model(seed=0), batch["attention_mask"].sum(1)  # (B,)
with torch.no_grad():
    inputs = {k: batch[k].to(model.device) for k in ("input_ids", "attention_mask")}
    everywhere = model.score(model.transformer(**inputs)[0])[..., 0]  # head, (B, T)
    read = (everywhere - reward(model, batch)[:, None]).abs().argmin(1).cpu()  # (B,)
last = batch["input_ids"].gather(1, read[:, None])
print("read:", [tokenizer.decode(token) for token in last])
assert (read == length - 2).all()  # EOS is at length - 1

# %% [markdown]
# It reads the full stop, one before EOS. That does little harm here: in a causal model
# the state at the full stop has seen every word (Exercise 3). But know it: with a
# padding token of its own the same line reads at EOS, and a model trained at one place
# must not be asked at the other.
#
# Now the data: pairs written by the grammar and labelled at $T = 0.25$. No test pair
# has a prompt that occurs in training. A batch holds pairs of similar length, to save
# padding; in it `collate` puts the chosen first and the rejected after them.

# %%
T = 0.25
train_pairs = preference_pairs(2000, Annotator(T, seed=1), seed=2)
test_pairs = preference_pairs(1000, Annotator(T, seed=3), seed=4, split="held_out")
assert not {a.prompt for a in train_pairs} & {b.prompt for b in test_pairs}
example = train_pairs[0]
print(f"{example.prompt} …\nchosen:  {example.chosen}\nrejected:{example.rejected}")


# %%
def batches(pairs, size=8):
    rows = [tokenize_pair(pair, tokenizer) for pair in pairs]
    rows.sort(key=lambda row: max(len(row["chosen_ids"]), len(row["rejected_ids"])))
    parts = [rows[i : i + size] for i in range(0, len(rows), size)]
    return [collate(part, tokenizer.pad_token_id) for part in parts]


# %%
def train(model, pairs, epochs, rate, seed=0):
    data, rng = batches(pairs), np.random.default_rng(seed)
    order = [i for _ in range(epochs) for i in rng.permutation(len(data))]
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, len(order))
    for i in order:
        chosen, rejected = reward(model, data[i]).chunk(2)  # (size,) each
        loss = -logsigmoid(chosen - rejected).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        decay.step()
    return model


# %%
@torch.no_grad()
def score(model, examples):  # [(prompt, response), …] -> rewards, (len(examples),)
    rows = [(ids(x), [*ids(y), tokenizer.eos_token_id]) for x, y in examples]
    order = np.argsort([len(x) + len(y) for x, y in rows])
    scores = np.empty(len(rows))
    for part in np.array_split(order, -(-len(rows) // 128)):
        batch = pad_rows([rows[i] for i in part], tokenizer.pad_token_id)
        scores[part] = reward(model, batch).cpu()
    return scores


reward_model = train(new_reward_model(seed=0), train_pairs, epochs=1, rate=1.5e-3)

# %% [markdown]
# ## How good can it be?
#
# Labels are coin flips. Even a judge who knows $r^*$ and always names the likelier
# winner is right with probability $\max(p, 1 - p)$. The mean of that over the test
# pairs is the **ceiling** of accuracy, and the annotator's formula gives it exactly.
# **Predict** it.

# %%
from dpo_tutorial.evaluation import mean_interval

judge = Annotator(T)
p_chosen = [judge.probability(b.prompt, b.chosen, b.rejected) for b in test_pairs]
p_chosen = np.array(p_chosen)  # P(the label that was drawn), (1000,)
ceiling = np.maximum(p_chosen, 1 - p_chosen).mean()
agreement = (p_chosen**2 + (1 - p_chosen) ** 2).mean()  # two labels of one pair

# %%
chosen = score(reward_model, [(b.prompt, b.chosen) for b in test_pairs])
rejected = score(reward_model, [(b.prompt, b.rejected) for b in test_pairs])
accuracy = mean_interval((chosen > rejected).astype(float))
print(f"chance 0.50, reward model {accuracy}, ceiling {ceiling:.2f}")
print(f"two annotators agree on {agreement:.2f} of the pairs")
assert accuracy.low > 0.6
assert accuracy.mean < ceiling

# %% [markdown]
# Far above chance and short of the ceiling. The accuracy of a real reward model says
# little until you know how often two annotators agree, the nearest thing to a ceiling
# that real data have. Agreement lies below the ceiling, since both annotators err, so a
# good model may exceed it.
#
# One more question that only a known truth can answer: do the rewards rank the 2,000
# responses, on many prompts, as the gold reward does? Training never compared two
# prompts, so that nothing but the shared network makes their rewards comparable. The
# correlation below mixes the order within prompts with the order across them.

# %%
from scipy.stats import spearmanr

both = [gold_reward(b.prompt, y) for b in test_pairs for y in (b.chosen, b.rejected)]
rank = spearmanr(np.stack([chosen, rejected], 1).ravel(), both).statistic
print(f"rank correlation with the gold reward: {rank:.2f}")
assert rank > 0.5

# %% [markdown]
# ## Trusting it too far
#
# A reward model is good *on average, on texts like those it was trained on*. Stage 3
# does not stay with the average: it searches for texts that score high, and those are
# found where the true reward is high *or the model errs upwards*. The plainest search
# is **best-of-n**: draw $n$ responses from the SFT model and keep the one that scores
# best. It needs no training, and how far it moves from the SFT model is known.
#
# The distance is the Kullback-Leibler divergence (KL) of the best-of-n policy from the
# SFT model, in nats, since the logarithm is the natural one. It is often *said to be*
# $\log n - (n-1)/n$. Beirami et al. (2024) show that this
# is an upper bound. Where outcomes can be listed from worst to best, the exact value is
# a sum: the best of $n$ is no better than outcome $i$ with probability $F_i^n$, if one
# draw is so with probability $F_i$.


# %%
def best_of_n_kl(size, n):  # `size` equally likely outcomes
    below = np.arange(size + 1) / size  # F
    q = np.diff(below**n)  # P(the best of n is outcome i): (size,)
    return np.sum(q * np.log(np.maximum(q, 1e-300) * size))


# %%
for n in (2, 16, 128):
    bound, kls = np.log(n) - (n - 1) / n, [best_of_n_kl(s, n) for s in (8, 100_000)]
    print(f"n = {n:3}: {kls[0]:.3f} and {kls[1]:.3f}, bound {bound:.3f} nats")
    assert max(kls) <= bound
    assert bound - kls[1] < 0.01

# %% [markdown]
# With 100,000 equally likely outcomes the bound is nearly exact. With eight it is loose,
# and at $n = 128$ out of reach: nobody can move further than onto the best one,
# $\log 8$ nats away. Note how
# small the numbers are. The KL grows only with the logarithm of the draws paid for.
#
# For each of twelve held-out prompts draw a pool of $K = 128$ responses, the few that
# run on being cut at 40 tokens.

# %%
from dpo_tutorial.evaluation import sample_responses

K, ns = 128, 2 ** np.arange(8)
starts = prompts("held_out")[:12] * K  # each prompt in turn, K times over
answers = sample_responses(sft, tokenizer, starts, max_new_tokens=40, seed=0)
pool = list(zip(starts, answers, strict=True))
pool_gold = np.array([gold_reward(x, y) for x, y in pool]).reshape(K, 12).T

# %% [markdown]
# No redrawing is needed to estimate the best of $n$. In a pool sorted by score, the
# sample of rank $i$ (from 0) is the best of a random subset of size $n$ with
# probability $\binom{i}{n-1} / \binom{K}{n}$ (Hilton and Gao 2022), so the unbiased
# estimate is a weighted sum. Let the gold reward itself do the choosing first: that is
# the most that anyone can gain.

# %%
from scipy.special import comb


def best_of(n, by, value):  # scores and values, (12, K) -> mean value of the best
    ranked = np.take_along_axis(value, by.argsort(-1), -1)
    return (ranked @ (comb(np.arange(K), n - 1) / comb(K, n))).mean()


perfect = np.array([best_of(n, pool_gold, pool_gold) for n in ns])
assert np.isclose(perfect[0], pool_gold.mean())
assert np.isclose(perfect[-1], pool_gold.max(1).mean())
print("best of 1, 2, 4, … by the gold reward:", perfect.round(2))

# %% [markdown]
# ### The promise and the truth
#
# Now learnt rewards choose: the model above, and six trained on thirty pairs each, for
# eight passes, every one with its own pairs and its own head: a tiny budget, squeezed.
# A reward model also makes a *promise*. Its rewards are logits, so $T \hat r$ is in
# units of the gold reward, up to the constant that no reward model knows. **Predict**
# promise and truth as $n$ grows.


# %%
def climb(model):  # -> (2, len(ns)): promised reward, true reward
    proxy = score(model, pool).reshape(K, 12).T
    promise = T * (proxy - proxy.mean()) + pool_gold.mean()
    return [[best_of(n, proxy, v) for n in ns] for v in (promise, pool_gold)]


# %%
small = []
for seed in range(6):
    few = preference_pairs(30, Annotator(T, seed=seed), seed=100 + seed)
    model = train(new_reward_model(seed), few, epochs=8, rate=2e-3, seed=seed)
    small.append(climb(model))
small, large = np.array(small), np.array(climb(reward_model))  # small: (6, 2, len(ns))

# %%
fig, axis = plt.subplots()
looks = ("proxy", "--", "promised, 30 pairs"), ("gold", "-", "true, 30 pairs")
for curves, (name, style, label) in zip(small.swapaxes(0, 1), looks, strict=True):
    axis.plot(ns, curves.T, style, c=COLORS[name], alpha=0.4, lw=1)
    axis.plot(ns, curves.mean(0), style, c=COLORS[name], lw=3, label=label)
axis.plot(ns, large[1], "s-", c=COLORS["policy"], ms=4, label="true, 2,000 pairs")
axis.plot(ns, perfect, "k:", label="true, perfect choice")
axis.set(xlabel="$n$", ylabel="gold reward, or its promise", ylim=(-0.3, 1.7))
axis.set_xscale("log", base=2)
axis.set_xticks(ns, ns)
axis.set_title("Few labels: the promise climbs, the truth does not follow")
axis.legend(loc="upper left", ncols=2)
plt.show()

# %% [markdown]
# *Figure: reward of the best of n against n (log axis). Dashed: what reward models
# trained on thirty pairs promise, thin lines for the six models and a thick one for
# their mean, soars towards the largest possible reward of 1, for some models beyond it.
# Solid: the true reward of the same choices rises a little on average and then goes
# flat, the six lines fanning out. The
# model trained on 2,000 pairs lies far above, somewhat under the dotted line of a
# perfect choice.*
#
# The gains in numbers, with intervals over the six models:

# %%
gain = small[:, :, -1] - small[:, :, 0]  # (6 models, promised or true)
late = small[:, 1, -1] - small[:, 1, 4]  # true, from n = 16 to 128
past_peak = (small[:, 1].argmax(-1) < len(ns) - 1).sum()
print(
    "30 pairs: promised", mean_interval(gain[:, 0]), "true", mean_interval(gain[:, 1])
)
print("2,000 pairs: promised, true", (large[:, -1] - large[:, 0]).round(2))
print("30 pairs, true from n = 16 to 128:", mean_interval(late))
print(f"true reward past its peak: {past_peak} of 6 models")
assert mean_interval(gain[:, 0] - gain[:, 1]).low > 0.2
assert gain[:, 1].mean() < 0.75 * (large[1, -1] - large[1, 0])

# %% [markdown]
# The proxy *has to* rise with $n$: it is what we select by. The truth need not.
# Two things part them: selection finds the model's errors, and eight passes over thirty
# pairs inflate its scale (Exercise 5 separates the two). Where the truth *falls* while
# the proxy climbs, one speaks of **over-optimisation**; some of the six models end below
# their peak, and the interval from $n = 16$ to 128 says whether a fall is established on
# average (notebook 07 searches further). With 2,000 pairs, seen once each, the model
# promises less than comes. Gao et al. (2022) measured over-optimisation at scale, with a
# large reward model in the gold reward's place, and found that it shrinks with more data
# and with larger reward models. Stage 3 fights it by searching less: by
# the KL term, and by stopping in time.
#
# What this toy shows: the mechanism, against a known truth. What it does not: where the
# turn lies for a real reward model (even here the six disagree), nor how PPO fares,
# which reaches texts that the SFT model would hardly ever write. All models share one
# pool, so the intervals speak of training again, not of other prompts.
#
# ## The bill for PPO
#
# Stage 3 holds four models at once (PPO is Schulman et al. 2017; its use here, Ouyang
# et al. 2022):
#
# | model | what for | trained? |
# |---|---|---|
# | policy $\pi_\theta$ | draws responses, is improved | yes |
# | value model | predicts the reward to come, to be compared with what came, token by token | yes |
# | reward model $\hat r$ | scores whole responses | frozen |
# | reference $\pi_\mathrm{ref}$ | the KL term | frozen |
#
# DPO holds the first and the last. Trained models are dear: training adds to each
# weight a gradient, and AdamW two moments. **Predict** the bytes a parameter in float32; then count.

# %%
policy = copy.deepcopy(sft)
optimizer = torch.optim.AdamW(policy.parameters())
policy(**inputs).logits.sum().backward()
optimizer.step()
moments = [s[k] for s in optimizer.state.values() for k in ("exp_avg", "exp_avg_sq")]
held = [*policy.parameters(), *(w.grad for w in policy.parameters()), *moments]
per_parameter = sum(tensor.nbytes for tensor in held) / policy.num_parameters()
print(f"{per_parameter:.0f} bytes a parameter")
assert per_parameter == 4 + 4 + 4 + 4

# %% [markdown]
# Mixed precision changes the parts, not the sum: weights and gradients in 16 bits
# (2 + 2), a float32 copy of the weights (4) and both moments (8) make 16 again
# (Rajbhandari et al. 2019). A frozen model is its weights: 4 bytes, or 2.
#
# Models can be counted without being made: on PyTorch's `meta` device a tensor has a
# shape and no memory. Value and reward model have a head with one output.

# %%
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig


def count(config):  # parameters: with a language-model head, with a scalar head
    config = copy.deepcopy(config)
    config.num_labels = 1
    kinds = AutoModelForCausalLM, AutoModelForSequenceClassification
    with torch.device("meta"):
        return [kind.from_config(config).num_parameters() for kind in kinds]


# distilgpt2 is GPT-2's default with six layers; LlamaConfig's default is the 7B model
configs = {"nano": sft.config, "distilgpt2": GPT2Config(n_layer=6), "7B": LlamaConfig()}
counts = {name: count(config) for name, config in configs.items()}
assert counts["nano"][0] == sft.num_parameters()
assert round(counts["7B"][0] / 1e9, 1) == 6.7
pd.DataFrame(counts, ["language model", "scalar head"]).map("{:,}".format)


# %%
def memory(lm, scalar, trained, frozen):  # bytes a parameter -> GB
    ppo = {"policy, trained": trained * lm, "value model, trained": trained * scalar}
    ppo |= {"reference, frozen": frozen * lm, "reward model, frozen": frozen * scalar}
    ahead = {"policy, trained": trained * lm}
    dpo = ahead | {"reference, frozen": frozen * lm}
    methods = {"PPO": ppo, "DPO": dpo, "DPO, reference ahead": ahead}
    return pd.DataFrame(methods).reindex(ppo).T.fillna(0) / 1e9


frozen = {"nano": 4, "distilgpt2": 4, "7B": 2}  # float32; for 7B 16 bits and a copy
tables = {name: memory(*counts[name], 16, frozen[name]) for name in counts}
sums = pd.DataFrame({name: table.sum(axis=1) for name, table in tables.items()})
assert ((sums.loc["PPO"] / sums.loc["DPO"]).between(1.9, 2.1)).all()
assert tables["7B"].loc["PPO"].iloc[:2].sum() > 0.85 * sums["7B"]["PPO"]  # trained
pd.concat([sums.map("{:.3g} GB".format), tables["7B"].map("{:.0f} GB".format)], axis=1)

# %% [markdown]
# Left the sums, right the parts for 7B. PPO holds **twice** what DPO holds, in either
# precision and at each size. And DPO can
# shed its reference: it enters through two numbers a pair, which can be computed once,
# before training, and kept.

# %%
colors = [COLORS[k] for k in ("policy", "accent", "reference", "proxy")]
axis = tables["7B"].plot.barh(stacked=True, color=colors, edgecolor="white")
for bars in axis.containers[2:]:
    plt.setp(bars, hatch="///")
for row, total in enumerate(sums["7B"]):
    axis.text(total + 3, row, f"{total:.0f} GB", va="center")
axis.set(xlabel="GB for weights, gradients and AdamW", xlim=(0, 280))
axis.set_title("A 7B model: PPO holds twice what DPO holds")
axis.invert_yaxis()
axis.legend(loc="lower right")
plt.show()

# %% [markdown]
# *Figure: memory for a 7B model as stacked bars. PPO: policy and value model, the two
# that are trained, make most of the bar; reference and reward model, hatched because
# frozen, are thin. DPO: the policy and a thin reference. Last, the policy alone.*
#
# So “PPO needs four models” is true and misleads: the frozen pair is a small part of the
# bill, the second *trained* model is the large one. Left out of the bars: activations,
# and PPO's cache of keys and values while it generates. Left out altogether: time,
# where PPO pays most, as every step writes whole responses token by token. Sizes can
# differ too; Ouyang et al. used reward and value models of 6B beside a policy of 175B.
# Letting policy and value share a body, or training small adapters (notebooks 05 and
# 12), makes the bill smaller.
#
# ## What you did
#
# - You placed the reward model in the pipeline: after SFT, before PPO.
# - You recovered eight rewards from choices, up to a constant, with an error that falls
#   as $1/\sqrt n$, at the level that the Fisher information predicts.
# - You fitted Bradley-Terry by PyTorch and by logistic regression, to the same numbers,
#   and saw a response that always wins run away.
# - You trained a reward model and placed its accuracy between chance and the ceiling.
# - You searched six reward models too far, and held their promise against the truth.
# - You counted PPO's four models, two trained and two frozen: twice the memory of DPO.
#
# ## Exercises
#
# **1.** Set the first `T` to 1, a more careless annotator, and run the sweep again. Is
# the error in logits larger or smaller? And in units of the gold reward, after
# multiplying by `T`?
#
# <details><summary>Answer</summary>
#
# Smaller in logits: the pairs are closer to coin flips, and p(1 - p), the information
# in a label, is largest there. Larger in units of the gold reward, since it is
# multiplied by a temperature twice as high. Slope and theory hold in both.
# </details>
#
# **2.** Turn a fifth of the labels round, `Annotator(temperature=0.5,
# label_noise=0.2)`, and fit to a great many labels. Do the rewards still converge to
# the truth?
#
# <details><summary>Answer</summary>
#
# No. All probabilities now lie between 0.2 and 0.8, so the fitted rewards shrink, to
# less than half of the truth, and more labels do not help: the model is wrong. The order survives here. A
# likelihood that knows of the noise, with 0.2 + 0.6 sigma(gap) for the probability,
# repairs it; notebook 08 meets the idea again.
# </details>
#
# **3.** Below the cell that prints `read`, redefine `reward` to read at EOS: apply
# `model.score` to the states of `model.transformer` at position
# `attention_mask.sum(1) - 1`. Train again. What happens to the accuracy?
#
# <details><summary>Answer</summary>
#
# Little, once trained again: the two intervals overlap almost entirely. The language model never had to
# predict anything after EOS, so its state there starts out blank, but 2,000 pairs are
# enough to teach it to look back. What EOS adds is a way to tell a finished text from
# one that was cut off at a full stop.
# </details>
#
# **4.** Three responses beat each other in a circle, each winning 90 % of its
# comparisons with the next. What does Bradley-Terry make of it?
#
# <details><summary>Answer</summary>
#
# Three equal rewards, hence probabilities of one half. A scalar reward cannot express a
# circle, and neither can DPO, which has one inside. Methods that work on the
# probability of winning itself, such as IPO in notebook 02, do not assume that a reward
# exists.
# </details>
#
# **5.** Train the six small models for two passes instead of eight. What happens to
# the promise, and what to the truth?
#
# <details><summary>Answer</summary>
#
# The promise shrinks to about a third, and the true gain stays within its interval (the
# assertion on the gap between them then fails, as it should). Part of the trouble was
# overconfidence, which stopping early cures; the rest is ignorance, which only labels
# cure.
# </details>
#
# ## Further reading
#
# - Bradley and Terry 1952, *Rank Analysis of Incomplete Block Designs: I. The Method of
#   Paired Comparisons*, Biometrika 39,
#   [doi 10.2307/2334029](https://doi.org/10.2307/2334029).
# - Christiano et al. 2017, *Deep Reinforcement Learning from Human Preferences*,
#   [arXiv 1706.03741](https://arxiv.org/abs/1706.03741): a reward from comparisons.
# - Ziegler et al. 2019, *Fine-Tuning Language Models from Human Preferences*,
#   [arXiv 1909.08593](https://arxiv.org/abs/1909.08593).
# - Stiennon et al. 2020, *Learning to Summarize from Human Feedback*,
#   [arXiv 2009.01325](https://arxiv.org/abs/2009.01325): over-optimisation as people
#   see it.
# - Ouyang et al. 2022, *Training Language Models to Follow Instructions with Human
#   Feedback*, [arXiv 2203.02155](https://arxiv.org/abs/2203.02155).
# - Schulman et al. 2017, *Proximal Policy Optimization Algorithms*,
#   [arXiv 1707.06347](https://arxiv.org/abs/1707.06347).
# - Gao, Schulman and Hilton 2022, *Scaling Laws for Reward Model Overoptimization*,
#   [arXiv 2210.10760](https://arxiv.org/abs/2210.10760).
# - Hilton and Gao 2022, *Measuring Goodhart's Law*,
#   [openai.com](https://openai.com/index/measuring-goodharts-law/): the estimator for
#   best-of-n.
# - Beirami et al. 2024, *Theoretical Guarantees on the Best-of-n Alignment Policy*,
#   [arXiv 2401.01879](https://arxiv.org/abs/2401.01879).
# - Rajbhandari et al. 2019, *ZeRO: Memory Optimizations Toward Training Trillion
#   Parameter Models*, [arXiv 1910.02054](https://arxiv.org/abs/1910.02054): the 16
#   bytes.
