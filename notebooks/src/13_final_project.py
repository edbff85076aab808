# %% [markdown]
# # 13 · Final project
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/dpo-tutorial/dpo-tutorial/blob/main/notebooks/13_final_project.ipynb)
#
# You are given pairs with two planted faults and a base model. Deliver a better policy,
# and the evidence that it is one.
#
# **You will**
#
# - find two faults in preference data that no error message names;
# - repair each, and show before and after what the repair was worth;
# - deliver a policy within a budget of KL and forgetting, scored by a script.
#
# **You need** notebooks 03 to 11. Measured on two CPU cores with `nano`: about one minute of computing
# and 1 GB of memory; allow a day of work, alone or in pairs.
#
# Back: [12 · Scaling](12_scaling.ipynb) · Start: [00 · Start here](00_start_here.ipynb)

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
# ## What you are given
#
# Three teams compared reviews for you. Each row says who labelled it. Their labels are what
# you have; there are no others.

# %%
import pandas as pd

from dpo_tutorial.project import project_pairs

pairs = project_pairs()
print(
    len(pairs),
    "pairs;",
    pd.Series([p.metadata["team"] for p in pairs]).value_counts().to_dict(),
)
print(pairs[0])

# %% [markdown]
# The base model is `nano`, which every notebook of the course has used. The plan below is
# the course's usual one.

# %%
from dpo_tutorial.models import load_model, seed_everything, step_plan

seed_everything(1)
base, tokenizer = load_model("nano")
plan = step_plan(base) | {"steps": 40, "batch_size": 16, "seed": 1}
print(plan)

# %% [markdown]
# ## What counts
#
# A policy is scored on held-out prompts, three samples a prompt: the gold reward, the KL to
# the reference, and the tax, the largest relative loss of a task of notebook 09. Points
# are the gold reward, less 0.1 for each nat of KL beyond the budget and less half the tax
# beyond its own. Here is what doing nothing is worth.

# %%
from dpo_tutorial.project import KL_BUDGET, TAX_BUDGET, score_policy

print(f"budget: {KL_BUDGET} nats, tax {TAX_BUDGET:.0%}")
untrained = score_policy(base, tokenizer, "nano untrained")
untrained

# %% [markdown]
# ## The baseline
#
# DPO on the file as it is, by the usual plan. Predict before you run: is the policy better
# than the model it began as?

# %%
import copy

from dpo_tutorial.training import TinyDPOTrainer

trainer = TinyDPOTrainer(copy.deepcopy(base), tokenizer, pairs, **plan)
history = pd.DataFrame(trainer.train()).set_index("step")
history.loc[[1, 20, 40], ["loss", "rewards/accuracies", "rewards/margins"]].round(3)

# %%
baseline = score_policy(trainer.model, tokenizer, "DPO on the file as it is")
baseline

# %% [markdown]
# The loss ends below $\ln 2$ and the margin above zero, as in a sound run, and the policy
# is worth less than the model it began as. Nothing in the log says why. Look at the words.
#
# ## The leaderboard
#
# `enter` keeps a CSV, the best first. The course's own file has the rows to beat: the two
# above, each fault mended alone, and both.

# %%
from dpo_tutorial import data_path

board = pd.read_csv(data_path("project/leaderboard.csv"))
board.round(2)

# %%
import matplotlib.pyplot as plt

from dpo_tutorial.plotting import COLORS, use_style

use_style()
rows = board.sort_values("gold")
fig, axis = plt.subplots(figsize=(6, 2.8), layout="constrained")
bars = [rows["gold"] - rows["gold_low"], rows["gold_high"] - rows["gold"]]
axis.errorbar(rows["gold"], rows["name"], xerr=bars, fmt="o", color=COLORS["gold"])
axis.axvline(untrained.gold, color=COLORS["reference"], ls=":", lw=1.5)
axis.set(xlabel="gold reward on held-out prompts", title="It takes both repairs")
plt.show()

# %% [markdown]
# *Figure: gold reward of each row with its 95 % interval; the dotted line is the untrained
# model.*
#
# The first row is no ceiling; it comes from the simplest repairs, and it is over the budget
# of one of the two. Mind the last row: one repair alone is worse than none. In your own copy:
#
# ```python
# from dpo_tutorial.project import enter
# enter(score_policy(trainer.model, tokenizer, "our team"), "leaderboard.csv")
# ```
#
# or, for a saved model, `python scripts/project.py score FOLDER --name "our team"`, which
# writes to the course's file unless `--leaderboard` names another.
#
# ## The rules
#
# - Train on these pairs, on what you sample from your own policies, and on labels that you
#   write yourself (at most 100, and you hand them in). The gold reward and the simulated
#   annotator must not be used for training, for filtering or for choosing a checkpoint.
# - Score at most five policies with `score_policy`, and report all of them. Choosing the best of
#   fifty on the test prompts is a way of training on them.
# - Everything else of the course may be used: the validator, preflight, diagnosis, the
#   clinic, any loss, any trainer.
#
# ## What you hand in
#
# 1. A notebook that runs top to bottom from a fresh kernel, seeds set, and the policy.
# 2. **Diagnosis** of both faults: the symptom, the check that told it from its rivals, and a
#    number with its interval.
# 3. **Repairs**, one at a time: before and after, at least three seeds.
# 4. An honest evaluation: gold, KL, tax, words, what got worse, ten samples to read.
#
# The rubric is in the instructor's pack (`docs/instructor.md`), and it rewards evidence more than
# rank.
#
# ## Where to begin
#
# - Read thirty pairs, ten of each team. Then count things, per team, before you train.
# - A fault in the labels can be seen in a model that was trained on *other* labels.
# - A policy that changed in a way nobody asked for has learnt what the labels have in common.
