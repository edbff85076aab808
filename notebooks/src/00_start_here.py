# %% [markdown]
# # 00 · Start here
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/dpo-tutorial/dpo-tutorial/blob/main/notebooks/00_start_here.ipynb)
#
# In one minute you will teach a small language model to prefer good reviews over bad
# ones, from nothing but comparisons, and you will know by how much it worked.
#
# **You will**
#
# - check that this machine can run the course;
# - meet the world that carries it: reviews whose true quality is known;
# - write Direct Preference Optimization (DPO) in about thirty lines of PyTorch;
# - compare the model before and after, in figures and in its own words;
# - choose your way through the course.
#
# **You need** Python, and to have seen a PyTorch training loop. No reinforcement
# learning, no GPU. Measured on two CPU cores with the model that comes with the course:
# about half a minute and 0.9 GB of memory.
#
# Next: [01 · Preferences and reward models](01_preferences_and_reward_models.ipynb)

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
# ## Is everything there?
#
# A missing package is best found now. The course's own requirements are the list, so it
# cannot fall behind them.

# %%
from importlib.metadata import requires, version

from packaging.requirements import Requirement

needs = [Requirement(text) for text in requires("dpo-tutorial")]
needs = [need for need in needs if not need.marker]  # without the extras
bad = [
    f"{n} (have {version(n.name)})" for n in needs if version(n.name) not in n.specifier
]
assert not bad, f"upgrade with pip: {bad}"
print(f"all {len(needs)} packages fit; Python {sys.version.split()[0]}")

# %% [markdown]
# Then the machine. A GPU is used if there is one. The question about bf16 is put so
# that an emulation does not count: on a card that only emulates it, bf16 is slow.

# %%
import os

import torch

from dpo_tutorial.models import pick_device

device = pick_device()
print(f"torch {torch.__version__}, device {device}, {os.cpu_count()} CPU cores")
if device == "cuda":
    bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    print(torch.cuda.get_device_name(), "with bf16" if bf16 else "without bf16")

# %% [markdown]
# ## A model, and a world in which we know what is good
#
# The model continues short reviews. `load_sft_model` takes `distilgpt2` if it is cached
# or the model hub answers, and otherwise `nano`, a GPT-2 of under a million parameters
# that lies in this repository; it says which. A model that has not seen the reviews is
# first shown some (supervised fine-tuning, SFT), as in most real pipelines. The model
# that we train is called the **policy**, π.

# %%
from dpo_tutorial.models import seed_everything, step_plan
from dpo_tutorial.reviews import load_sft_model

seed_everything(0)
policy, tokenizer = load_sft_model()
plan = step_plan(policy)
print(f"{policy.num_parameters() / 1e6:.1f} million parameters: {plan}")

# %% [markdown]
# A **prompt** $x$ is a review's start, a **response** $y$ its continuation. Here are prompts
# that no training in this course ever sees, and what the model makes of them.

# %%
from dpo_tutorial.evaluation import sample_responses
from dpo_tutorial.reviews import prompts

asked = prompts("held_out")[: None if policy.num_parameters() < 5e6 else 64]
before = sample_responses(policy, tokenizer, asked, seed=1)
for prompt, response in zip(asked[:4], before, strict=False):
    print(prompt + response)

# %% [markdown]
# Some are kind, some are not, some go on too long. In this world, unlike in yours, a
# **gold reward** r* says how good a response is, from −1 to 1: it wants praise, in few and
# well-formed clauses, without repetition and without flattering the reader.

# %%
from dpo_tutorial.reviews import gold_reward

soup = "Restaurant review: The soup was"
print(gold_reward(soup, " delicious."))
print(round(gold_reward(soup, " delicious, but the bill was unfair."), 2))
print(gold_reward(soup, " delicious. You have wonderful taste, dear reader."))

# %% [markdown]
# The model never sees that number. It sees what people can give: comparisons. An
# annotator reads two responses to one prompt and says which is better, and, like a
# person, sometimes errs when they are close.

# %%
import pandas as pd

from dpo_tutorial.reviews import preference_pairs

pairs = preference_pairs(plan["steps"] * plan["batch_size"], seed=1)
pd.set_option("display.max_colwidth", None)
pd.DataFrame(pairs[:3])[["prompt", "chosen", "rejected"]]

# %% [markdown]
# ## DPO in thirty lines
#
# Four pieces. First, text to tensors: the prompt's tokens are there to be read, the
# response's to be scored, so the prompt's labels are −100, which the loss ignores. The
# response ends with the end-of-sequence token (EOS): stopping is part of the answer.


# %%
def encode(prompt, response):
    x = tokenizer(prompt)["input_ids"]
    y = tokenizer(response)["input_ids"] + [tokenizer.eos_token_id]
    return torch.tensor(x + y), torch.tensor([-100] * len(x) + y)


# %% [markdown]
# Second, $\log \pi(y \mid x)$: how probable the model finds a response. Position $t$
# predicts token $t+1$, hence the shift by one; the sum runs over the response's tokens.

# %%
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence


def log_probs(model, texts):
    rows = [encode(*text) for text in texts]
    ids = pad_sequence([row[0] for row in rows], batch_first=True)
    labels = pad_sequence(
        [row[1] for row in rows], batch_first=True, padding_value=-100
    )
    mask = pad_sequence([torch.ones_like(row[0]) for row in rows], batch_first=True)
    ids, labels, mask = (t.to(model.device) for t in (ids, labels, mask))
    logits = model(ids, attention_mask=mask).logits[:, :-1]
    losses = F.cross_entropy(logits.mT, labels[:, 1:], reduction="none")
    return -losses.sum(1)  # (batch,)


# %% [markdown]
# Third, the loss. The policy is compared with a frozen copy of itself, the
# **reference**, so that only *changes* count: by how much more has it raised the chosen
# response than the rejected one? The logistic function σ turns that margin, times
# $\beta$, into the probability that the policy gives to the annotator's verdict, and
# the loss asks for more of it. $\beta = 0.1$ is the usual first try; notebook 04 shows
# what another does.

# %%
import copy

reference = copy.deepcopy(policy)
beta = 0.1


def dpo_loss(batch):
    chosen = [(pair.prompt, pair.chosen) for pair in batch]
    rejected = [(pair.prompt, pair.rejected) for pair in batch]
    margin = log_probs(policy, chosen) - log_probs(policy, rejected)
    with torch.no_grad():
        margin -= log_probs(reference, chosen) - log_probs(reference, rejected)
    return -F.logsigmoid(beta * margin).mean()


# %% [markdown]
# What should the very first loss be? Policy and reference are still one model, every
# margin is 0, and $-\log \sigma(0) = \ln 2$. A first loss that is anything else means a
# mistake, most often dropout left on (`load_sft_model` hands the model out in eval
# mode, with dropout off) or a wrong reference.

# %%
with torch.no_grad():
    first = dpo_loss(pairs[:8]).item()
print(f"first loss {first:.4f}, ln 2 is {torch.log(torch.tensor(2.0)):.4f}")
assert abs(first - 0.693147) < 1e-4

# %% [markdown]
# Fourth, the loop. Each pair is used once, and the learning rate falls to zero. `eps` is
# Adam's floor under the size of a gradient; for a model as small as `nano` it is set
# high, so that words which no pair mentions stay where they are.

# %%
from tqdm.auto import trange

options = {"lr": plan["learning_rate"], "eps": plan["adam_epsilon"]}
optimizer = torch.optim.AdamW(policy.parameters(), **options)
decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, plan["steps"])
losses = []
for step in trange(plan["steps"], leave=False):
    start = step * plan["batch_size"]
    loss = dpo_loss(pairs[start : start + plan["batch_size"]])
    loss.backward()
    torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
    optimizer.step()
    decay.step()
    optimizer.zero_grad()
    losses.append(loss.item())

# %% [markdown]
# ## Did it work?
#
# The same held-out prompts, the same random seed, now from the trained policy. Look at
# the words first: a number that rises while the text gets worse is a classic failure.

# %%
after = sample_responses(policy, tokenizer, asked, seed=1)
table = pd.DataFrame({"prompt": asked, "before": before, "after": after})
for when in ("before", "after"):
    table[f"r* {when}"] = [gold_reward(*row) for row in table[["prompt", when]].values]
table.head(6).round(2)

# %% [markdown]
# Six rows are an anecdote. Over all held-out prompts, the mean gold reward with its
# 95 % interval:

# %%
from dpo_tutorial.evaluation import mean_interval

for when in ("before", "after"):
    print(f"{when:>6}: {mean_interval(table[f'r* {when}'])}")
gain = mean_interval(table["r* after"] - table["r* before"])
print(f"  gain: {gain}, from {len(pairs)} comparisons")

# %% [markdown]
# The gain is asserted for any model that knew the reviews before DPO; one that starts
# from random weights has more to learn than 60 steps of SFT can teach.

# %%
from dpo_tutorial.reviews import parse

knew = sum(not parse(*row).unparsed for row in zip(asked, before, strict=True))
print(f"{knew} of {len(asked)} responses were well-formed before DPO")
assert gain.low > 0 or knew < len(asked) / 2

# %% [markdown]
# The whole interval of the gain lies above zero. The loss tells less than you might
# hope: it starts at $\ln 2$ and comes down slowly, since many comparisons are close and
# one batch is noisy.

# %%
import matplotlib.pyplot as plt

from dpo_tutorial.plotting import COLORS, use_style

use_style()
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.3))
left.plot(pd.Series(losses).rolling(5, min_periods=1).mean(), color=COLORS["policy"])
left.axhline(first, color=COLORS["reference"], ls=":", label="ln 2")
left.set(title="The loss leaves ln 2", xlabel="step", ylabel="DPO loss (nats)")
left.legend()
bins = [b / 5 for b in range(-5, 6)]
both = [table["r* before"], table["r* after"]]
right.hist(both, bins, color=[COLORS["reference"], COLORS["policy"]])
right.legend(["before", "after"], loc="upper left")
right.set(title="Bad reviews give way to good ones", xlabel="gold reward r*")
right.set_ylabel("held-out prompts")
plt.show()

# %% [markdown]
# *Figure: left, the DPO loss by step, averaged over five steps, falling from ln 2.
# Right, histograms of the gold reward over held-out prompts: spread from bad to good
# before training, gathered at the good end after it.*
#
# You have seen the whole method: comparisons in, a better policy out, without a reward
# model and without reinforcement learning. Everything that is left is *why* this is
# allowed, how to do it with real tools, and what goes wrong.
#
# ## The map
#
# | notebook | what you can do after it |
# |---|---|
# | [01 · Preferences and reward models](01_preferences_and_reward_models.ipynb) | turn comparisons into rewards; say what PPO costs |
# | [02 · From RLHF to DPO](02_from_rlhf_to_dpo.ipynb) | derive DPO, each step checked by a cell |
# | [03 · Preference data](03_preference_data.ipynb) | load, check, split and tokenise preference data |
# | [04 · DPO from scratch](04_dpo_from_scratch.ipynb) | write the trainer, and trust it |
# | [05 · DPO with TRL](05_dpo_with_trl.ipynb) | train with the standard library, and know that it agrees |
# | [06 · Monitoring](06_monitoring.ipynb) | read the curves and diagnose a run |
# | [07 · Beta](07_beta.ipynb) | choose beta on a frontier of reward against KL |
# | [08 · Variants](08_variants.ipynb) | choose among IPO, KTO, ORPO, SimPO and others |
# | [09 · Evaluation](09_evaluation.ipynb) | judge a model so that a sceptic accepts it |
# | [10 · Recipes](10_recipes.ipynb) | run AI feedback and iterative DPO end to end |
# | [11 · Failure modes](11_failure_modes.ipynb) | recognise each failure and repair it |
# | [12 · Scaling](12_scaling.ipynb) | know what a run will cost, and take it past one machine |
#
# In a hurry? Read 04. Here for the mathematics? 01 and 02. With data of your own? 03.
# Each chapter from 01 on has an exercise notebook, in `exercises/`.
#
# ## What you did
#
# - You checked that this machine can run the course.
# - You met the reviews, whose true quality a gold reward knows.
# - You wrote DPO in about thirty lines.
# - You compared the model before and after on prompts it had never seen.
# - You have the map.
#
# ## Exercises
#
# 1. *Predict first.* Swap `chosen` and `rejected` in `dpo_loss` and run the notebook
#    again. Where will the mean gold reward end?
#
# <details><summary>Answer</summary>
#
# Below where it started: the policy learns what the annotator dislikes. The loss curve
# looks just as healthy, which is why you look at samples, not only at losses.
# (The notebook's last assertion fails, as it should.)
# </details>
#
# 2. Set `beta = 2.0`, train again and compare. Does the policy move further from the
#    reference, or less far?
#
# <details><summary>Answer</summary>
#
# Less far: beta is the price of leaving the reference, so a higher beta keeps the
# policy closer to it. The gain shrinks too. Notebook 02 proves it for the optimum,
# notebook 04 measures the distance for two betas.
# </details>
#
# 3. Why must EOS be part of what is scored? Remove it in `encode` and look at the
#    samples' length.
#
# <details><summary>Answer</summary>
#
# Where one response is the beginning of another, the comparison lives in the EOS
# alone, and without it is lost. Reviews still get shorter, since the tokens that begin
# another clause are scored too, but the direct signal to stop is gone. Count with
# `[len(tokenizer(text)["input_ids"]) for text in after]`.
# </details>
#
# ## Further reading
#
# - Rafailov et al. 2023, [Direct Preference Optimization: Your Language Model is
#   Secretly a Reward Model](https://arxiv.org/abs/2305.18290), the paper.
# - [DPOTrainer](https://huggingface.co/docs/trl/dpo_trainer) in the documentation of
#   TRL, the library of notebook 05.
