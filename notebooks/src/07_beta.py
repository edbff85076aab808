# %% [markdown]
# # 07 · Choosing beta
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/dpo-tutorial/dpo-tutorial/blob/main/notebooks/07_beta.ipynb)
#
# You will sweep beta over three orders of magnitude, draw what DPO and its rivals earn
# for each nat of KL, and watch a learnt reward climb while the true one falls.
#
# **You will**
#
# - compute, without any training, what each beta asks for;
# - sweep seven betas with three seeds each, and choose one by a rule;
# - see why beta and the learning rate cannot be tuned apart;
# - draw the reward-KL frontier of DPO, best-of-n, supervised fine-tuning and a policy
#   gradient on one axis, and compare them at one nat;
# - over-optimise a learnt reward and find where the gold reward turns.
#
# **You need** [04 · DPO from scratch](04_dpo_from_scratch.ipynb); Bradley-Terry and
# best-of-n from [01](01_preferences_and_reward_models.ipynb) and the optimum $\pi^*$
# from [02](02_from_rlhf_to_dpo.ipynb). Measured on two CPU cores: about three minutes
# the first time, under one after that; 1.1 GB of memory in the largest process.
#
# Back: [06 · Monitoring](06_monitoring.ipynb) · Next: [08 · Variants](08_variants.ipynb)

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
# ## What beta asks for
#
# RLHF and DPO share a goal, the reward less beta times the KL to the reference, and its
# optimum is $\pi^*(y \mid x) \propto \pi_\mathrm{ref}(y \mid x)\, e^{r(x, y)/\beta}$
# (notebook 02). Beta is a price: so much reward must a nat of KL bring. The reward here
# is in **logits** of Bradley-Terry, $r = r^*/T$, where $T$ is the annotator's
# temperature. Surer annotators make larger logits, and the same beta then goes further.
#
# In our world the optimum needs no training. Draw many responses from the reference and
# weigh them by $e^{r/\beta}$. Drawing takes time, and so will the training runs below.
# Such work goes to `run_all`, as a function and a list of settings: one process to a
# core, each result kept under `build/` by its settings and its code.

# %%
from dpo_tutorial.evaluation import sample_responses
from dpo_tutorial.models import load_model
from dpo_tutorial.reviews import gold_reward, prompts


def draw(seed, count):  # `count` responses to each of 64 prompts
    asked = prompts("held_out")[:64] * count
    return sample_responses(*load_model("nano"), asked, max_new_tokens=40, seed=seed)


# %%
import numpy as np

from dpo_tutorial.experiments import run_all

K, T = 64, 0.25  # responses a prompt; the annotator's temperature
asked = prompts("held_out")[:64]
halves = run_all(draw, [{"seed": seed, "count": K // 2} for seed in (0, 1)])
pool = np.array(halves, dtype=object).reshape(K, 64).T  # (prompts, K)
gold = np.array([[gold_reward(asked[i], y) for y in pool[i]] for i in range(64)])
print(f"{gold.size} responses, gold reward of the reference {gold.mean():.2f}")
print(f"KL of a single one of {K} draws to the pool: log {K} = {np.log(K):.2f} nats")

# %% [markdown]
# *Predict:* as beta falls from 10 to 0.01, where does most of the change happen, and
# does the KL grow without end?

# %%
import pandas as pd
from scipy.special import rel_entr, softmax


def value_and_kl(weights):  # (prompts, K): gold reward, and KL to the pool in nats
    kl = rel_entr(weights, 1 / K).sum(1).mean()
    return {"gold": (weights * gold).sum(1).mean(), "kl": kl}


# %%
BETAS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
optima = [value_and_kl(softmax(gold / T / beta, axis=1)) for beta in BETAS]
ideal = pd.DataFrame(optima, pd.Index(BETAS, name="beta"))
assert (ideal.diff().dropna() < 0).all(axis=None)  # both fall as beta grows
ideal.round(2)

# %% [markdown]
# Most happens between beta 10 and 0.3. Then reward and KL level off: the best of the
# pool share all the weight, and no reweighting of 64 draws can go beyond $\log 64$ nats.
# Language itself ends later, at the best of *all* responses, which few pools contain.
#
# This is what each beta *asks for*. What a run *gets* depends on the data, on the
# optimiser and on how long it goes.
#
# ## A sweep that changes one thing
#
# Beta sits inside DPO's loss, hence in its gradient: at the start, ten times the beta
# is ten times the gradient. Adam divides that out again, since its first step is
# $g/(|g| + \epsilon)$ times the learning rate, but not $\epsilon$ itself. `nano` wants
# a large one (notebook 04). Here is how much of a full step each beta takes.

# %%
import torch

from dpo_tutorial.data import collate, tokenize_pair
from dpo_tutorial.losses import compute_log_probs, dpo_loss
from dpo_tutorial.reviews import preference_pairs

reference, tokenizer = load_model("nano")
rows = [tokenize_pair(pair, tokenizer) for pair in preference_pairs(12, seed=1)]
logps = compute_log_probs(reference, **collate(rows, tokenizer.pad_token_id)).chunk(2)


def share_of_a_step(beta, epsilon):
    loss = dpo_loss(*logps, *(x.detach() for x in logps), beta=beta)[0].mean()
    grads = torch.autograd.grad(loss, [*reference.parameters()], retain_graph=True)
    size = torch.cat([grad.flatten().abs() for grad in grads])
    return (size / (size + epsilon)).mean().item()


# %%
fixed = [share_of_a_step(beta, 1e-3) for beta in BETAS]
scaled = [share_of_a_step(beta, 1e-2 * beta) for beta in BETAS]
assert fixed[0] < 0.2 * fixed[4]
assert np.allclose(scaled, scaled[0], rtol=0.01)
pd.DataFrame({"ε = 0.001": fixed, "ε = 0.01 beta": scaled}, ideal.index).round(3)

# %% [markdown]
# With a fixed epsilon a low beta also means a low learning rate, and a sweep over beta
# would change two things. So `beta_sweep_analysis` sets epsilon, and the norm at which
# gradients are clipped, in proportion to beta. (With the usual epsilon of 1e-8 the first
# correction is not needed. The second is: a fixed norm clips high betas at many steps
# and low ones at hardly any.)
#
# ## The sweep
#
# Seven betas, three seeds: 21 runs, each on its seed's 32 x 12 = 384 pairs, seen once.
# Gold reward, KL, words and the next two come from one sample for each held-out prompt:
# `repeated` is the share of subjects and adjectives said before, `parses` the share of
# samples that are well formed. `accuracy` and `loss` are those of 64 held-out pairs.
# *Predict* which fall as beta grows: gold reward, KL, accuracy, words.

# %%
from dpo_tutorial.experiments import beta_sweep_analysis, measure, with_intervals

PLAN = {"steps": 32, "batch_size": 12, "learning_rate": 2.5e-3}
runs = beta_sweep_analysis(BETAS, seeds=(1, 2, 3), **PLAN)
table = with_intervals(runs)
assert table["kl"][10.0].mean > 5 * ideal["kl"][10.0]
table.map(str).assign(**{"kl asked for": ideal["kl"].round(2)})

# %% [markdown]
# Each entry is a mean over three seeds with its 95 % interval, by Student's t, which
# knows no bounds: hence shares below 0 or above 1. Three seeds make wide intervals: with
# two degrees of freedom t is 4.3. The seeds are shared, though: all betas learn from the
# same three sets of pairs, and part of an interval's width is common to its neighbours.

# %%
import matplotlib.pyplot as plt

from dpo_tutorial.plotting import COLORS, plot_beta_sweep, use_style

use_style()
untrained = measure(reference, reference, tokenizer, prompts("held_out"), seed=1)
before = {name: np.mean(untrained[name]) for name in ("gold", "words", "repeated")}
figure = plot_beta_sweep(table, before)
figure.suptitle("Higher beta: less KL and less reward, which accuracy does not show")
plt.show()

# %% [markdown]
# *Figure: six panels against beta on a log axis, with intervals; dotted, the reference,
# by one sample a prompt. Gold reward and KL fall as beta grows. Responses are short at
# low beta and lengthen to about the reference's, and the share of repeats with them.
# Accuracy on held-out pairs hardly changes, within wide intervals; the loss on them
# shoots up at the largest betas.*

# %%
from scipy.stats import spearmanr

names = ["kl", "gold", "words", "accuracy"]
rank = {name: spearmanr(runs["beta"], runs[name]).statistic for name in names}
assert rank["kl"] < -0.7
assert rank["gold"] < -0.5
pd.Series(rank, name="rank correlation with beta").round(2)

# %% [markdown]
# Higher beta means closer to the reference; many a tutorial has it the other way round.
# Below 0.1 the KL goes on growing and buys hardly any reward.
#
# Compare with the KL that each beta asks for. At low beta the runs fall short of it, and
# at high beta they have *more*. Neither is beta's doing. A low beta needs margins of
# many nats before its loss is content, and the run ends first. At a high beta we suspect
# the noise of small batches and large steps, which keeps shaking the policy and buys
# little reward; the learning rates below will bear on that.
#
# ### Which beta, then?
#
# A rule for a sweep with noise: find the best mean, and take the **largest beta within
# one standard error of it**. Of policies that you cannot tell apart, that is the one
# nearest to the reference. And what would you have chosen without a gold reward, by
# what a DPO log shows?

# %%
from dpo_tutorial.experiments import choose_beta

means = runs.groupby("beta")[["gold", "kl", "accuracy", "loss"]].mean()
best = means.idxmax()
picks = {"one standard error": choose_beta(runs), "best gold": best["gold"]}
picks |= {"best accuracy": best["accuracy"], "lowest loss": means["loss"].idxmin()}
means.loc[[*picks.values()]].set_index(pd.Index(picks), append=True).round(2)

# %% [markdown]
# With three seeds the rule itself is uncertain: neighbours in the table have intervals
# that overlap. It tells the low betas from the high ones, and no more should be read
# into it.
#
# Accuracy asks whether the policy ranks *given* pairs, and does not see what the policy
# would *write*. The loss cannot be compared across betas at all: beta is inside it.
# Choose by what the policy writes: sample, and let a judge compare (notebook 09), with
# KL, length and repetition beside it.
#
# ### Read from the cache
#
# The sweep is kept. A second call reads it and writes nothing; a changed setting, or a
# changed line of the package, is another run, and `make clean` forgets them all.

# %%
from dpo_tutorial import build_dir

kept = [*build_dir().glob("runs/*.joblib")]
written = [path.stat().st_mtime_ns for path in kept]
assert len(kept) > len(runs)  # the sweep and the pool, at least
assert beta_sweep_analysis(BETAS, seeds=(1, 2, 3), **PLAN).equals(runs)
assert written == [path.stat().st_mtime_ns for path in kept]

# %% [markdown]
# ## Beta and the learning rate
#
# Beta sets where the run wants to go; the learning rate, with the number of steps, how
# far it gets. Three of each, one seed a cell; the middle row comes from the sweep.
# *Predict:* which of the two moves the KL more?

# %%
RATES, SOME = (1e-3, 2.5e-3, 5e-3), (0.03, 0.3, 3.0)
plans = [PLAN | {"learning_rate": rate} for rate in RATES]
cells = pd.concat([beta_sweep_analysis(SOME, seeds=(1,), **plan) for plan in plans])
pivot = {"index": "learning_rate", "columns": "beta"}
kls, rewards, parses = (
    cells.pivot(**pivot, values=v) for v in ("kl", "gold", "parses")
)

# %%
figure, axes = plt.subplots(1, 2, figsize=(7.5, 3.2))
names = "gold reward", "KL (nats)"
for axis, shown, name in zip(axes, (rewards, kls), names, strict=True):
    axis.imshow(shown if name == "gold reward" else np.log(shown), cmap="cividis")
    for (i, j), value in np.ndenumerate(shown):
        box = {"facecolor": "white", "edgecolor": "none", "pad": 2}
        axis.text(j, i, f"{value:.2f}", ha="center", va="center", bbox=box)
    axis.set(title=name, xlabel="beta", xticks=range(3), xticklabels=SOME)
    axis.set(ylabel="learning rate", yticks=range(3), yticklabels=RATES)
    axis.grid(visible=False)
figure.suptitle("At every beta, KL follows the learning rate")
plt.show()

# %% [markdown]
# *Figure: two heat maps of learning rate (rows) against beta (columns), with a number in
# each cell: gold reward on the left, KL on the right. In each column KL grows down the
# rows, with the learning rate.*

# %%
assert (kls.loc[5e-3] > kls.loc[1e-3]).all()
print("KL at the highest rate over that at the lowest, by beta:")
print((kls.loc[5e-3] / kls.loc[1e-3]).round(1).to_dict())
print("KL at the lowest beta over that at the highest, by rate:")
print((kls[0.03] / kls[3.0]).round(1).to_dict())
parses.round(2)

# %% [markdown]
# The learning rate moves the KL more. At the lowest rate beta 3 ends close to the KL it
# asks for, so that what the sweep had beyond it came from large steps. And in these runs
# the highest rate turns the order of the KLs round. The table, the share of samples that
# still parse, says how: text breaks at just the betas that should have held it. Beta
# penalises log-ratios *on the pairs*, and nothing in DPO's loss looks at what the policy
# writes instead. So the order of tuning is: a learning rate at which KL follows beta and
# text stays whole, then beta. A “safe” beta with a hot rate is not safe.
#
# ## The frontier
#
# Figure 2 of the DPO paper asks the fair question: not who earns the most reward, but
# how much for the same KL. We draw it for DPO and its rivals.
#
# ### Best-of-n
#
# Draw $n$ from the reference, keep the best. No training; the price is paid at each
# answer. Its KL has a closed form, $\log n - (n-1)/n$: exact if no two draws ever tie,
# and an upper bound otherwise (Beirami et al. 2024). Ties are common in short reviews.
# In our pool the weight that best-of-n gives to a response follows from $F$, the share
# of the pool that scores no better: $F^n - F_-^n$, shared among those that tie.


# %%
def best_of(n, scores):  # weights of the pool's responses under best-of-n
    upto = (scores[:, None] <= scores[:, :, None]).mean(-1)  # F: (prompts, K)
    below = (scores[:, None] < scores[:, :, None]).mean(-1)  # F_-
    return (upto**n - below**n) / (upto - below) / K


ns = pd.Index([2, 4, 8, 16, 32], name="n")
perfect = pd.DataFrame([value_and_kl(best_of(n, gold)) for n in ns], ns)
closed = perfect["closed form"] = np.log(ns) - (ns - 1) / ns
assert (perfect["kl"] < closed).all()
perfect.round(3)

# %% [markdown]
# Thirty-two draws cost less than three nats. Compare the gold column with the optimum's
# at the same KL: best-of-n is almost on it.
#
# ### A reward learnt from the same pairs
#
# Nobody has the gold reward. Give the rivals what DPO gets: a reward model by
# Bradley-Terry on the very pairs of each seed. The reward is linear in the counts of
# words and of neighbouring words, which makes the fit a logistic regression on
# differences (notebook 01) and a model one can read.

# %%
from scipy.sparse import vstack
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from dpo_tutorial.evaluation import mean_interval


def learn_reward(pairs):  # -> a function of texts, in logits
    words = CountVectorizer(ngram_range=(1, 2), token_pattern=r"[\w'-]+|[^\w\s]")
    words.fit(text for pair in pairs for text in (pair.chosen, pair.rejected))
    won = words.transform(pair.chosen for pair in pairs)
    lost = words.transform(pair.rejected for pair in pairs)
    both, wins = vstack([won - lost, lost - won]), [1] * len(pairs) + [0] * len(pairs)
    fit = LogisticRegression(C=0.3, fit_intercept=False).fit(both, wins)
    return lambda texts: words.transform(texts) @ fit.coef_[0]


# %%
SEEDS, PAIRS = (1, 2, 3), PLAN["steps"] * PLAN["batch_size"]
learnt = {seed: learn_reward(preference_pairs(PAIRS, seed=seed)) for seed in SEEDS}
test = preference_pairs(1000, seed=99, split="held_out")
for seed, score in learnt.items():
    right = score([p.chosen for p in test]) > score([p.rejected for p in test])
    print(f"seed {seed}: right on {right.mean():.0%} of {len(test)} held-out pairs")


# %%
def by_learnt(seed):  # gold reward of the learnt reward's best of n, for each n
    scores = np.array([learnt[seed](row) for row in pool])  # (prompts, K)
    return [value_and_kl(best_of(n, scores))["gold"] for n in ns]


imperfect = pd.DataFrame([by_learnt(seed) for seed in SEEDS], SEEDS, ns)
best_of_learnt = [mean_interval(imperfect[n].tolist()) for n in ns]
perfect.assign(learnt=[*map(str, best_of_learnt)]).round(2)

# %% [markdown]
# The choices are good ones for the first few draws. After that the interval widens and
# the mean hardly grows: what the learnt reward likes best is not what is best.
#
# ### SFT on the chosen responses
#
# The simplest rival maximises the chosen responses' log-probability and never looks at
# the rejected ones. *Predict* its place, remembering how a chosen response came about:
# it is the better of two draws, in a noisy judge's eyes.

# %%
import copy

from torch.nn.utils import clip_grad_norm_

from dpo_tutorial.models import shuffled


def ascend(policy, adam, logps, weights):  # a step up on the mean of weights * logps
    adam.zero_grad()
    (-weights * logps).mean().backward()
    clip_grad_norm_(policy.parameters(), 1.0)
    adam.step()


def optimiser(policy, rate=2.5e-3):
    return torch.optim.AdamW(policy.parameters(), rate, eps=1e-3, weight_decay=0.0)


# %%
def sft_run(seed, pairs, batch=24, passes=1):
    reference, tokenizer = load_model("nano")
    policy = copy.deepcopy(reference)
    adam, order = optimiser(policy), shuffled(pairs, seed)
    rows = [tokenize_pair(p, tokenizer) for p in preference_pairs(pairs, seed=seed)]
    for _ in range(passes * pairs // batch):
        part = [rows[next(order)] for _ in range(batch)]
        both = collate(part, tokenizer.pad_token_id)  # the chosen come first
        logps = compute_log_probs(policy, **{k: v[:batch] for k, v in both.items()})
        ascend(policy, adam, logps, torch.ones(batch))
    return measure(policy, reference, tokenizer, prompts("held_out"), seed)


# %%
from dpo_tutorial.experiments import summary

sft_settings = [{"seed": seed, "pairs": PAIRS} for seed in SEEDS]
sft = with_intervals(summary(sft_settings, run_all(sft_run, sft_settings)), by="pairs")
pairs = [pair for seed in SEEDS for pair in preference_pairs(PAIRS, seed=seed)]
picked = np.mean([gold_reward(pair.prompt, pair.chosen) for pair in pairs])
print(f"gold reward of the chosen {picked:.2f}, best-of-2 {perfect['gold'][2]:.2f}")
sft.map(str)

# %% [markdown]
# SFT imitates the winners of two draws, whose reward is about that of best-of-2, and more
# steps would fit the same winners more closely: it has nowhere further to go. It pays
# more KL than best-of-2 for it, the price of learning from few examples in large steps.
#
# ### A policy gradient
#
# PPO is a policy gradient with clipping and a value model. For responses this short the
# plain form will do: **REINFORCE with a leave-one-out baseline** (RLOO, Ahmadian et al.
# 2024). Draw $k$ responses to a prompt; value each by its reward less beta times its
# log-ratio to the reference; raise the log-probability of each by as much as its value
# exceeds the mean of the others'.


# %%
def leave_one_out(value):  # (k, prompts): less the mean of the other k - 1
    return (value - value.mean(0)) * len(value) / (len(value) - 1)


by_hand = leave_one_out(torch.tensor([[1.0, 5.0], [4.0, 5.0], [7.0, 5.0]]))
assert by_hand[:, 0].tolist() == [1 - (4 + 7) / 2, 4 - (1 + 7) / 2, 7 - (1 + 4) / 2]
assert by_hand[:, 1].tolist() == [0, 0, 0]  # all the same: nothing to learn
by_hand

# %% [markdown]
# The third response of the first prompt is the best of its three and gets the most; the
# second prompt teaches nothing. Next, the pieces and the loop, whole. Every step draws
# 40 responses from the policy *as it then is*, which DPO never does. Both rewards are
# recorded and one is followed, in logits, so that beta means what it means in DPO: a
# strict beta of 1, and a loose 0.1, with more steps because it has further to go.

# %%
from dpo_tutorial.evaluation import sample_batch


def respond(policy, tokenizer, asked, seed):  # a batch for log-probs, and its texts
    (batch,) = sample_batch(policy, tokenizer, asked, max_new_tokens=40, seed=seed)
    scored = [row[row >= 0] for row in batch["labels"]]
    return batch, tokenizer.batch_decode(scored, skip_special_tokens=True)


def both_rewards(learnt, asked, texts, T=0.25):  # in logits: r*/T, and the learnt one
    gold = [gold_reward(x, y) / T for x, y in zip(asked, texts, strict=True)]
    return {"gold": torch.tensor(gold), "learnt": torch.tensor(learnt(texts)).float()}


# %%
def policy_gradient(seed, reward, beta, steps, pairs, k=4):
    reference, tokenizer = load_model("nano")
    policy, starts, history = copy.deepcopy(reference), prompts("train"), []
    adam, order = optimiser(policy), shuffled(len(starts), seed)
    learnt = learn_reward(preference_pairs(pairs, seed=seed))
    for step in range(steps):
        asked = [starts[next(order)] for _ in range(10)] * k
        batch, texts = respond(policy, tokenizer, asked, seed=1000 * seed + step)
        rewards = both_rewards(learnt, asked, texts)
        logps = compute_log_probs(policy, **batch)  # (k * prompts,)
        with torch.no_grad():
            gap = logps - compute_log_probs(reference, **batch)
        value = (rewards[reward] - beta * gap).view(k, -1)
        ascend(policy, adam, logps, leave_one_out(value).flatten())
        rewards["kl"] = gap
        history.append({name: x.mean().item() for name, x in rewards.items()})
    result = measure(policy, reference, tokenizer, prompts("held_out"), seed)
    return {**result, "history": history}


# %%
from itertools import product

names = ("reward", "beta", "steps", "seed", "pairs")
some = product(("gold", "learnt"), ((0.1, 20), (1.0, 12)), SEEDS)
grid = [dict(zip(names, (r, *b, s, PAIRS), strict=True)) for r, b, s in some]
pg_results = run_all(policy_gradient, grid)
pg = summary(grid, pg_results)
pg_tables = {name: with_intervals(part) for name, part in pg.groupby("reward")}
pd.concat(pg_tables).map(str)

# %% [markdown]
# With the gold reward and a loose beta the policy gradient nears the largest reward
# there is. With the learnt reward and the same beta it ends in ruins, below the
# reference; we come back to that. First, all methods on one axis.

# %%
learner, knower = (pg_tables[k].loc[[1.0, 0.1]] for k in ("learnt", "gold"))
curves = {
    "optimum π*": ("reference", ":", ideal["kl"], ideal["gold"]),
    "best-of-n, gold": ("gold", "o-", closed, perfect["gold"]),
    "best-of-n, learnt": ("proxy", "o-", closed, best_of_learnt),
    "policy gradient, gold": ("gold", "^--", knower["kl"], knower["gold"]),
    "policy gradient, learnt": ("proxy", "^--", learner["kl"], learner["gold"]),
    "DPO, seven betas": ("policy", "s-", table["kl"], table["gold"]),
    "DPO, lowest rate": ("policy", "s:", kls.loc[1e-3], rewards.loc[1e-3]),
    "SFT on chosen": ("chosen", "D", sft["kl"], sft["gold"]),
}

# %%
from dpo_tutorial.plotting import plot_frontier

(axis,) = plot_frontier(curves).axes
axis.axhline(gold.mean(), color="black", lw=0.8)
axis.set_title("Knowing the gold reward beats learning it from labels")
plt.show()

# %% [markdown]
# *Figure: gold reward against KL (log axis); the reference is the horizontal line.
# Highest is the dotted optimum, with best-of-n by the gold reward almost on it, and the
# policy gradient on the gold reward nearing the top further right. Below lie best-of-n
# by the learnt reward, the policy gradient on the learnt reward at beta 1, and DPO, which
# starts lower and climbs past the end of best-of-n. Three points of DPO at the lowest
# learning rate, dotted, lie to its left, about on best-of-n by the learnt reward. The
# second point of the policy gradient on the learnt reward, at beta 0.1, is far right and
# below the reference. SFT lies left of the sweep.*
#
# The order is by what a method knows. DPO's left end is its weak one: at high beta it
# pays KL for noise. That end is not DPO's limit: with smaller steps (dotted, from the
# grid, one seed) it earns as much for less KL. Its low betas hold their own against
# best-of-n by the learnt reward, and they answer with one draw.
#
# ### At one nat
#
# Read the figure at one price: each method's reward at a KL of one nat, interpolated
# along its own curve in $\sqrt{\mathrm{KL}}$, in which reward starts out as nearly a
# straight line (Gao et al. 2022), seed by seed. SFT never gets there.


# %%
def at_one_nat(kl, reward):  # of one run or sweep, from the reference on
    kl, reward = np.array(sorted(zip(kl, reward, strict=True))).T
    return np.interp(1, [0, *np.sqrt(kl)], [gold.mean(), *reward])


def by_seed(frame):
    return [at_one_nat(run["kl"], run["gold"]) for _, run in frame.groupby("seed")]


priced = {"policy gradient, " + k: by_seed(x) for k, x in pg.groupby("reward")}
priced["best-of-n, learnt"] = [at_one_nat(closed, row) for row in imperfect.values]
priced["DPO"] = by_seed(runs)

# %%
best = at_one_nat(closed, perfect["gold"])
limit = at_one_nat(ideal["kl"], ideal["gold"])
order = {name: mean_interval(values) for name, values in priced.items()}
order |= {"best-of-n, gold": f"{best:.2f}", "optimum": f"{limit:.2f}"}
difference = np.subtract(priced["best-of-n, learnt"], priced["DPO"])
order["best-of-n, learnt, less DPO"] = mean_interval(difference)
assert max(order[k].mean for k in ("DPO", "best-of-n, learnt")) < best
assert sft["kl"].iloc[0].mean < 1
pd.Series(order, name="gold reward at one nat").map(str).to_frame()

# %% [markdown]
# Knowing the gold reward is worth more here than the choice of a method: in the mean,
# whoever knows it leads whoever learns from labels. Among the learners three seeds decide
# nothing, since the interval of the last line includes zero. And at one nat the sweep is
# read at its high betas, DPO's weak end at this learning rate.
#
# ### Where this differs from the literature
#
# In the DPO paper's figure 2 DPO lies above PPO, even above PPO that is given the gold
# reward. Here a policy gradient with the gold reward earns more than DPO ever does. The
# first suspect is the labels: the paper's pairs were labelled *without noise* by the
# gold classifier. Ours are 384 noisy choices, while the policy gradient asks the gold
# reward up to 20 x 40 = 800 times and gets exact answers. Test it: DPO at beta 0.1 with
# an annotator who hardly errs, on the same pairs, and the difference by seed; below it
# what the policy gradient earns at that KL, between its two points.

# %%
sure = {"temperature": 0.01}
clean = beta_sweep_analysis((0.1,), SEEDS, annotator=sure, **PLAN)
noisy = runs[runs["beta"] == 0.1].reset_index()
for name in ("gold", "kl"):
    gain = mean_interval((clean[name] - noisy[name]).tolist())
    print(f"{name}: {clean[name].mean():.2f}, was {noisy[name].mean():.2f}; {gain}")
nats, earned = ([x.mean for x in knower[name]] for name in ("kl", "gold"))
there = np.interp(clean["kl"].mean() ** 0.5, np.sqrt(nats), earned)
print(f"policy gradient on the gold reward, at the same KL: {there:.2f}")
assert clean["gold"].mean() < there

# %% [markdown]
# Sure labels help a little at most; with three seeds the interval decides nothing. In
# the mean a gap to the policy gradient remains, and so noise is not the whole reason.
# *How many* labels? That is cheaper to ask of the learnt reward, since it needs no run:
# more pairs, with noise and nearly without, for best-of-8; one set of pairs a cell.


# %%
from dpo_tutorial.reviews import Annotator


def best_of_8(count, temperature):  # by a reward learnt from `count` pairs
    annotator = Annotator(temperature, seed=1)
    score = learn_reward(preference_pairs(count, annotator, seed=1))
    scores = np.array([score(row) for row in pool])
    return value_and_kl(best_of(8, scores))["gold"]


counts = (96, 384, 1536, 6144)
columns = {f"temperature {t}": [best_of_8(n, t) for n in counts] for t in (0.25, 0.01)}
print(f"by the gold reward itself: {perfect['gold'][8]:.2f}")
pd.DataFrame(columns, pd.Index(counts, name="pairs")).round(2)

# %% [markdown]
# More labels help, noise matters least where there are many, and a linear reward levels
# off short of the gold one: it cannot express all of $r^*$. So part of the gap is
# knowledge, which any learner from 384 labels lacks. The learners lie close together in
# the figure. Another part we did not test: DPO only ever sees the pairs, which were
# drawn from the reference's world, and the further its policy moves, the less they say
# about what it writes now. The policy gradient asks about its own samples. Notebook 10
# lets DPO do so, too. And a small world favours the policy gradient: with responses of
# some ten words a plain baseline is steady enough.
#
# ## Over-optimisation
#
# Back to the ruin. The policy gradient at beta 0.1 followed the learnt reward, and its
# history has both. To put them on one scale, the learnt logits are multiplied by $T$
# and shifted to start where gold starts: what the learnt reward *promises*. Each point
# is a mean over four steps of 40 fresh responses.


# %%
def promise_and_truth(history):  # KL, promise and truth over windows of four steps
    table = pd.DataFrame(history)
    table = table.groupby(table.index // 4).mean()
    truth, promise = T * table["gold"], T * table["learnt"]
    return [x.to_numpy() for x in (table["kl"], promise - promise[0] + truth[0], truth)]


at = [i for i, s in enumerate(grid) if (s["reward"], s["beta"]) == ("learnt", 0.1)]
chased = [promise_and_truth(pg_results[i]["history"]) for i in at]

# %%
figure, axis = plt.subplots()
for kl, promise, truth in chased:
    axis.plot(kl, promise, "o--", ms=4, color=COLORS["proxy"])
    axis.plot(kl, truth, "o-", ms=4, color=COLORS["gold"])
axis.axhline(1, color=COLORS["reference"], ls=":", lw=1)
axis.set(xscale="log", xlabel="KL to the reference (nats, log axis)")
axis.set(ylabel="gold reward, or its promise")
axis.set_title("The learnt reward climbs on; the gold reward turns")
axis.legend(axis.lines[:2], ["promised", "true"], loc="upper left")
plt.show()

# %% [markdown]
# *Figure: reward against KL (log axis) along three runs of the policy gradient. Dashed,
# the promise of the learnt reward, passing the dotted line at 1, the largest reward
# there is, and climbing on. Solid, the gold reward, rising with the promise for the
# first few nats and then falling below zero.*

# %%
for seed, (kl, promise, truth) in zip(SEEDS, chased, strict=True):
    top = truth.argmax()
    print(f"seed {seed}: gold turns at {kl[top]:.1f} nats, {truth[top]:.2f};", end=" ")
    print(f"ends at {kl[-1]:.0f} nats, {truth[-1]:.2f}, promised {promise[-1]:.2f}")
    assert promise[-1] > promise[top]
    assert top < len(truth) - 1
ends = pg[pg["reward"] == "learnt"].pivot(index="seed", columns="beta", values="gold")
assert (ends[1.0] > ends[0.1] + 0.2).all()
ends.round(2)

# %% [markdown]
# The table has the final policies' gold reward on held-out prompts, at both betas. At 0.1
# they are worse than the last points of the figure, which average four steps of a policy
# on its way down and cut its responses at 40 tokens; their KL is larger for the same
# reason.
#
# Why does it turn? Read what a final policy writes, with what both rewards say of it.

# %%
last = pg_results[at[0]]
words = pd.DataFrame({"text": last["text"], "gold": last["gold"]})
words["learnt"] = learnt[1](last["text"])
words["text"] = words["text"].str.slice(0, 90) + "…"
pd.set_option("display.max_colwidth", None)
words.sort_values("learnt", ascending=False).head(4).round(2)

# %% [markdown]
# A sum over words grows with the words. At the lengths of the pairs that did little harm;
# under optimisation it is all that matters. The model was
# right *on texts like those it was trained on*, and the policy left them. This is
# Goodhart's law, and the reward model need not be this simple: Gao et al. (2022) saw
# gold turn with large ones too, later for larger models and for more labels.
#
# The cure in the same figure is beta. At 1 the policy stays where the learnt reward is
# right; at 0.1 it goes where nobody was asked. Best-of-n, held within $\log n$ nats by
# its nature, cannot get there either.
#
# And DPO? It has no reward model to exploit, but the same pairs, the same blind spots,
# and a loss that looks only at pairs. At beta 0.1 its runs stayed near because they were
# short, and not because they were safe: Rafailov et al. (2024) find the same turn
# in DPO when KL grows, and the highest learning rate above shows how little beta alone
# guards against it.
#
# ## What you did
#
# - You computed what each beta asks for by reweighting samples, with no training.
# - You swept seven betas with three seeds, kept beta apart from the step size, and chose
#   the largest beta within a standard error of the best.
# - You saw the learning rate move KL at every beta.
# - You drew the frontier and compared methods at one nat: what a method *knows*, gold
#   reward or noisy labels, mattered more than which method it was.
# - You chased a learnt reward past the point where the gold reward turned.
#
# What a toy shows: how the pieces depend on each other, with a truth to measure by. What
# it does not: which beta suits your data. Beta works on logits, and their size is set by
# how sure your annotators are; the place where your reward turns is your own as well.
# The rule travels, the number does not.
#
# ## Exercises
#
# 1. *Mathematics.* Derive best-of-n's closed form for a reward without ties.
#
# <details><summary>Answer</summary>
#
# Let $u = F(r)$ be a response's rank, uniform on $[0, 1]$ under the reference. The best
# of $n$ has $u$ with density $n u^{n-1}$, so that the KL is
# $\int_0^1 n u^{n-1} \log(n u^{n-1})\, du = \log n + (n-1) \int_0^1 n u^{n-1} \log u\,
# du = \log n - (n-1)/n$. With ties the responses of one rank share their weight, and
# averaging a density can only lower the KL.
# </details>
#
# 2. *Implementation.* You have no gold reward, only a budget of nats. Write
#    `within(runs, nats)`, the smallest beta whose mean KL fits the budget. What does it
#    choose, and give up, at 1, 1.5 and 2 nats?
#
# <details><summary>Answer</summary>
#
# `means.index[means["kl"] <= nats].min()`, then `means.loc[...]` against
# `means["gold"].max()`. The smaller the budget, the higher the beta and the more reward
# it gives up; the most generous of the three gives up hardly any. In practice
# a budget comes from what you must not lose, such as other skills: notebook 09 measures
# that tax.
# </details>
#
# 3. *Experiment, with a prediction.* Run `beta_sweep_analysis((0.01, 0.1), SEEDS,
#    adam_epsilon=1e-3, max_grad_norm=1.0, **PLAN)`. Which beta ends with more KL now?
#
# <details><summary>Answer</summary>
#
# Beta 0.1. It keeps its run, since its epsilon was that number already. Beta 0.01 now
# takes far smaller steps, as the table of step sizes says, so that its KL drops below
# that of beta 0.1. Whoever read a sweep like this would conclude that beta works the
# other way round.
# </details>
#
# 4. *Find the bug.* A colleague reports: “beta 0.01 and beta 1 give the same KL of 0.1
#    nats after 50 steps, so beta does not matter for us, and we keep 0.01.”
#
# <details><summary>Answer</summary>
#
# The runs are too short or too cool for beta to bind: at the start every margin is near
# zero, the loss is a straight line in the margin, and beta only scales it, which Adam
# undoes. Raise the learning rate or the steps until KL follows beta, and then decide;
# as it is, the next longer run with 0.01 will go wherever its noise takes it.
# </details>
#
# ## Further reading
#
# - Rafailov et al. 2023, [Direct Preference Optimization](https://arxiv.org/abs/2305.18290):
#   figure 2 and section 6.1.
# - Gao, Schulman and Hilton 2022, [Scaling Laws for Reward Model
#   Overoptimization](https://arxiv.org/abs/2210.10760).
# - Rafailov et al. 2024, [Scaling Laws for Reward Model Overoptimization in Direct
#   Alignment Algorithms](https://arxiv.org/abs/2406.02900).
# - Ahmadian et al. 2024, [Back to Basics: Revisiting REINFORCE Style Optimization for
#   Learning from Human Feedback in LLMs](https://arxiv.org/abs/2402.14740).
# - Beirami et al. 2024, [Theoretical Guarantees on the Best-of-n Alignment
#   Policy](https://arxiv.org/abs/2401.01879).
# - Breiman, Friedman, Olshen and Stone 1984, *Classification and Regression Trees*: the
#   one-standard-error rule.
