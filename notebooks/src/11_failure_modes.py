# %% [markdown]
# # 11 · Failure modes: the clinic
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/dpo-tutorial/dpo-tutorial/blob/main/notebooks/11_failure_modes.ipynb)
#
# You will meet fifteen runs that went wrong, guess each cause from its curves, hear what
# the instruments said without knowing it, and see which of the usual repairs repaired.
#
# **You will**
#
# - read the curves of sixteen anonymous runs and commit yourself to a diagnosis;
# - compare it with what `preflight`, `diagnose_training_issues` and
#   `check_for_pathologies` said;
# - plant seven causes of bad training in data and settings, and try every repair that
#   articles name for them, over three seeds;
# - plant eight faults of the code, and learn which of them no curve shows;
# - measure what a run forgets, with lm-evaluation-harness;
# - leave with a page: symptom, likely cause, check, repair.
#
# **You need** [06 · Monitoring](06_monitoring.ipynb) for the instruments and
# [09 · Evaluation](09_evaluation.ipynb) for the pathologies and the alignment tax.
# Measured on two CPU cores with `nano`: about five minutes of CPU time, on both cores
# together, and 0.9 GB of memory in the largest process; half a minute when the runs are
# already under `build/`. Allow ninety minutes for reading and guessing.
#
# Back: [10 · Recipes](10_recipes.ipynb) · Next: [12 · Scaling](12_scaling.ipynb)

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
# ## Admission
#
# Each run trains `nano` for 20 steps of 10 pairs with `TinyDPOTrainer`, samples a
# response to each of 96 held-out prompts, and is kept with its log. The cases live in
# `dpo_tutorial.cases`; do not read that module yet. `open_clinic` runs them all, in
# parallel, and takes what is there already from `build/`.

# %%
from dpo_tutorial.clinic import open_clinic
from dpo_tutorial.plotting import COLORS, STYLES, use_style

use_style()
clinic = open_clinic()
planted = clinic[clinic["treatment"] == "planted"]
print(f"{len(clinic)} runs of {planted['case'].nunique()} cases, one of them healthy")

# %% [markdown]
# What a sound run of this size comes to, with intervals over three seeds, which may
# leave the range that a figure can have. Its settings, of which a case changes some:
# 200 pairs, beta 0.1, a learning rate of 0.002. `gold` is r*, the review world's true
# reward, a little below zero for the untrained reference (`data/README.md`); `kl` is in
# nats; `flattery` and `parses` are the shares of responses that flatter and that are
# well formed, `distinct` that of different ones; `nats a word` is the log of the
# perplexity on neutral reviews.

# %%
from dpo_tutorial.evaluation import mean_interval

healthy = clinic[clinic["case"] == "healthy"]
for name in ("gold", "kl", "words", "flattery", "parses", "distinct", "nats a word"):
    print(f"{name:>11}: {mean_interval(healthy[name].tolist())}")

# %% [markdown]
# ## The hand-out
#
# If you teach, hand out the next two figures and the samples, and nothing else. The
# letters are drawn by a seed. One of the sixteen runs is healthy.

# %%
import random
from string import ascii_uppercase

names = list(planted["case"].unique())
random.Random(11).shuffle(names)
letters = dict(zip(ascii_uppercase, names, strict=False))
first = planted[planted["seed"] == 1].set_index("case")["result"]  # a run a case


# %%
def panels(curves, level, ylabel, title):
    figure, axes = plt.subplots(4, 4, figsize=(7.5, 6.5), sharex=True)
    for axis, (letter, case) in zip(axes.flat, letters.items(), strict=True):
        for name, style in curves.items():
            rows = [row for row in first[case]["history"] if name in row]
            axis.plot([r["step"] for r in rows], [r[name] for r in rows], **style)
        axis.axhline(level, color=COLORS["reference"], ls=":", lw=1)
        if max(axis.get_ylim()) - min(axis.get_ylim()) < 0.004:
            axis.set_ylim(level - 0.002, level + 0.002)
        axis.set_title(letter, loc="left", fontweight="bold")
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower right", ncols=2)
    figure.suptitle(title)
    figure.supxlabel("step")
    figure.supylabel(ylabel)


# %% [markdown]
# Scales differ from panel to panel: read the axes first. The dotted line is ln 2, where
# every sound DPO run begins.

# %%
from math import log

import matplotlib.pyplot as plt

dots = {"ls": "none", "marker": "o", "ms": 4, "color": "black", "label": "held out"}
lines = {"color": COLORS["policy"], "lw": 1.2, "label": "training"}
panels(
    {"loss": lines, "eval_loss": dots},
    level=log(2),
    ylabel="loss (nats)",
    title="Sixteen runs: which one is healthy?",
)
plt.show()

# %% [markdown]
# *Figure: a grid of four by four panels with letters A to P, each with a run's training
# loss as a line over 20 steps, its held-out loss as dots, and ln 2 dotted.*

# %%
sides = {
    f"rewards/{side}": {"color": COLORS[side], "ls": STYLES[side], "label": side}
    for side in ("chosen", "rejected")
}
panels(sides, level=0, ylabel="reward, β log π/π_ref", title="The same runs: rewards")
plt.show()

# %% [markdown]
# *Figure: the same grid with the rewards of chosen responses (solid) and rejected ones
# (dashed) over the steps, and zero dotted.*
#
# And a response of each to one prompt.

# %%
import pandas as pd

from dpo_tutorial.reviews import prompts

pd.set_option("display.max_colwidth", None)
asked, number = prompts("held_out")[:96], 0
print(asked[number])
pd.Series({k: first[case]["text"][number][:150] for k, case in letters.items()})

# %% [markdown]
# *Predict:* for each letter write down "healthy" or a cause, and what you would do
# first. Then read on.
#
# ## What the instruments said
#
# `preflight` saw models, rows and a batch before the first step (only what it did not
# say of the healthy run too is shown); `diagnose_training_issues` saw the log of each
# run (the first cause it named, and in how many of the runs);
# `check_for_pathologies` read the responses (kinds more frequent than in healthy runs,
# by an interval). None was told the cause.

# %%
from dpo_tutorial.clinic import overheard

heard = {case: overheard(clinic, case) for case in names}
joined = {
    letter: {instrument: "; ".join(x) for instrument, x in heard[case].items()}
    for letter, case in letters.items()
}
pd.DataFrame.from_dict(joined, orient="index")

# %% [markdown]
# The instruments disagree, and none hears everything. Now the key.

# %%
from dpo_tutorial.cases import BUGS, CASES

every = {**CASES, **BUGS}
causes = {c: f": {case.cause}" for c, case in CASES.items()}
pd.Series({letter: c + causes.get(c, "") for letter, c in letters.items()})

# %%
alarms = {
    "preflight": [c for c in every if heard[c]["preflight"]],
    "diagnosis": [c for c in every if not heard[c]["diagnosis"][0].startswith("noth")],
    "pathologies": [c for c in every if heard[c]["pathologies"]],
}
for instrument, cases in alarms.items():
    print(f"{instrument} said something of {len(cases)} of {len(every)}")
silent = [c for c in every if not any(c in cases for cases in alarms.values())]
print("nothing from any of them:", ", ".join(silent) or "none")

# %% [markdown]
# Count your own hits against these. To say something is not to name the cause: of the
# labels' likings, the log knew nothing, and a swapped column looked like a fine run
# with rather long responses. No log can tell a wrong sign from a right one, since loss
# and accuracy are computed with the same wrong sign.
#
# ## How to read a case
#
# Each of the seven cases below has one table. Its first column is the figure that tells
# the case, `gold` the reward r*. `gain` is the change from the planted run of the same
# seed, positive for better, with a 95 % interval over three seeds; `verdict` says
# "helped" or "harmed" where that interval leaves out zero. Three seeds make wide
# intervals, which may even leave the range that a share can have, so "not told apart" is
# no proof that nothing happened. The planted runs'
# settings are printed, since a cause you can read is a cause you can plant yourself.

# %%
from dpo_tutorial.clinic import before_and_after


def case_file(name):
    plant = {k: getattr(v, "__name__", v) for k, v in CASES[name].plant.items()}
    print("planted:", plant)
    for instrument, words in heard[name].items():
        print(f"{instrument}: {'; '.join(words) or 'nothing'}")
    return before_and_after(clinic, name)


# %%
def samples(name, number=0):
    rows = clinic[(clinic["seed"] == 1) & clinic["case"].isin(["healthy", name])]
    who = rows["treatment"].where(rows["case"] == name, "healthy")
    texts = rows["result"].map(lambda result: result["text"][number][:200])
    return pd.Series(texts.tolist(), index=who, name=asked[number]).to_frame()


# %% [markdown]
# ## Verbosity
#
# The annotator likes a response better for each word more, and heeds r* less than usual
# (see the printed temperature; elsewhere it is 0.25). Articles advise to balance lengths
# in the data, to filter, and to normalise the loss by length, here with a beta of 2.
#
# *Predict:* which of the three will bring the words down furthest?

# %%
case_file("verbosity")

# %%
ours = clinic[clinic["case"] == "verbosity"]
print(ours.groupby("treatment", sort=False)["kl"].mean().round(1).to_dict())
samples("verbosity")

# %% [markdown]
# The log of this run looks healthy; `preflight`'s length skew and a count of words gave
# it away. Dropping long winners shortens the responses, though r* stays below that of
# the healthy runs: what is left of these labels says little about quality. Balancing
# left the matter open: with as many longer winners as shorter ones, the long may still
# win by more words. Normalising by length did the opposite of what it is advised for.
# One reading: an average lets a long response move by many nats for little reward, so
# that beta hardly holds the policy where responses are long, and the KL printed above
# is the largest of the four. It is meant for a loss that favours length by itself; here
# the labels do.
#
# ## Flattery
#
# The annotator likes remarks such as "You have wonderful taste, dear reader." One
# response in eight has one in the data. Two repairs: drop the pairs in which flattery
# won, or keep them and add counter-examples, the same text without the remark as chosen.

# %%
case_file("flattery")

# %% [markdown]
# Both repairs brought the remarks down to where the healthy runs have them or near it,
# and the reward back with them. The counter-examples did so without throwing a pair
# away: the only difference between their two texts is the habit that you want to go.
#
# ## The loss falls, the text gets no better
#
# Two causes give this symptom. The first: 48 pairs, two labels in five turned round,
# seen four times. The repairs: labels from a careful annotator; the labels that two
# more labellings confirm; responses sampled from the policy itself, with the same noise.

# %%
losses = planted.groupby("case")["training loss"].mean().round(2)
print("training loss:", losses[["healthy", "noisy labels", "easy pairs"]].to_dict())
case_file("noisy labels")

# %% [markdown]
# The training loss of the planted runs is below the healthy ones', on labels that are
# two fifths noise: learnt by heart. Careful labels helped. Keeping the agreed labels was
# not told apart from doing nothing: labels as noisy as these seldom agree three times,
# so that few pairs are left, each seen more often, and some agree on the wrong side.
# Nor was sampling on policy: it changes the responses, not the noise.
#
# The second cause: every label is right, and no pair is of use. The rejected responses
# are reviews with their words in another order, which the policy would hardly write.

# %%
case_file("easy pairs")

# %%
last = first["easy pairs"]["history"][-1]
print({k: round(last[k], 2) for k in ("eval_loss", "eval_rewards/accuracies")})
samples("easy pairs")

# %% [markdown]
# Loss near zero, accuracy near 1, held out as well, and a reward about where the
# untrained reference's was. No log of the sixteen looks better. The pairs taught what
# the policy knew: that a sentence has an order. With pairs that the policy itself has
# written, the same number of labels taught it what is good.
#
# ## Forgetting
#
# A low beta and a high rate. The figure that tells is the log of the perplexity of
# neutral reviews, in nats a word, by lm-evaluation-harness (notebook 09); what `nano`
# has before is printed first. The usual repairs: a higher beta, an SFT term on the
# chosen responses, the SFT corpus mixed in, fewer steps.

# %%
from dpo_tutorial.models import load_model
from dpo_tutorial.tax import alignment_tax, run_tasks

before = run_tasks(*load_model("nano"))
print(f"before: {log(before.loc['dpo_neutral', 'score']):.2f} nats a word")
case_file("forgetting")

# %% [markdown]
# Here, for seed 1, is the tax of each treatment by task, as a share of what was there
# before; the original article's rule calls more than 5 % too aggressive.

# %%
rows = clinic[(clinic["seed"] == 1) & clinic["case"].isin(["healthy", "forgetting"])]
names_of = rows["treatment"].where(rows["case"] != "healthy", "healthy")
taxes = [alignment_tax(before, result["tasks"])["tax"] for result in rows["result"]]
pd.DataFrame(taxes, index=list(names_of)).round(2)

# %% [markdown]
# All four repairs kept more of the neutral text; look at what each cost. Mixing in the
# corpus held the model so well that its reward stayed near the untrained reference's. A
# beta a hundred times higher at the same hot rate lost the reward too: beta says where
# the optimum is, not how far a step goes. The SFT term kept both; fewer steps kept the
# reward but gave up more of the text. The second table has the tax of seed 1: set
# phrases and "was or were" are all but untouched; which adjective suits a subject was
# lost to a good part in the planted run; and neutral text costs more than 5 % in every
# row, the healthy run's too. Which skills you test decides whether you see a tax at all.
#
# ## Collapse
#
# A learning rate ten times too high. `parses` is the share of responses that are well
# formed from start to end.
#
# *Predict:* the held-out loss falls from one evaluation to the next in seed 1, whose
# curves you have seen. Will stopping early help?

# %%
case_file("collapse")

# %%
samples("collapse")

# %% [markdown]
# Not one response of the planted runs parses. `diagnose_training_issues` heard it, and
# so would anyone who reads a sample. Stopping by held-out loss could not be relied on:
# in seed 1 that loss fell at every evaluation, so that the run never stopped, and the
# interval over the three seeds reaches from none to all. Ranking two given texts asks
# less than writing one. At the same rate a higher beta left no response that parses
# either. What helped was the
# plain thing, a lower rate, which gives the healthy run.
#
# ## Training and held-out loss part
#
# Twenty-four pairs, seen eight times, at twice the usual rate.

# %%
case_file("overfitting")

# %%
ours = clinic[(clinic["case"] == "overfitting") & (clinic["seed"] == 1)]
ours = ours.set_index("treatment")["result"]
figure, axes = plt.subplots(1, 5, figsize=(7.5, 2.8), sharey=True, sharex=True)
for axis, (treatment, result) in zip(axes, ours.items(), strict=True):
    rows = pd.DataFrame(result["history"]).set_index("step")
    axis.plot(rows["loss"].dropna(), **lines)
    axis.plot(rows["eval_loss"].dropna(), **dots)
    axis.set_title(treatment, fontsize=9)
figure.suptitle("Few pairs part the losses; more pairs do not", fontsize=11)
figure.supxlabel("step", fontsize=10)
axes[0].set_ylabel("loss (nats)")
plt.show()

# %% [markdown]
# *Figure: training loss (line) and held-out loss (dots) of the planted run and of the
# four repairs, side by side.*
#
# Read both columns, and two rows with care. "stop early" is judged by the same
# held-out pairs that chose where it stops; the held-out loss of "smooth the labels"
# is the smoothed one, which does not compare with the others. Fewer epochs (its 0.00
# is a bound just above zero) and stopping early helped the held-out loss, a little,
# and their mean r* is lower than that of the runs they were to repair: they learnt
# less of everything. The planted runs themselves have about the reward of the healthy
# ones.
# More pairs gave the best of both, though with three seeds its gain in loss is not told
# apart from none. The curves that part are true as a warning about the log; as a
# measure of the text they mislead.
#
# ## Faults of the code
#
# Eight faults that tutorials and trainers have had, each in one run, beside the healthy
# run of the same seed: the same pairs, the same order, the same samples' seed. The
# change of r* has an interval over the 96 prompts. The repair is to mend the code, that
# is, the healthy run.

# %%
from dpo_tutorial.clinic import beside_healthy

bugs = {
    name: {
        "preflight": "; ".join(heard[name]["preflight"]),
        "diagnosis": heard[name]["diagnosis"][0],
        "change of r*": beside_healthy(clinic, name),
    }
    for name in BUGS
}
pd.DataFrame.from_dict(bugs, orient="index")

# %% [markdown]
# `preflight` names the faults of set-up outright, before a step is paid for. The wrong
# signs and scales (beta reversed, labels swapped, averages) are no faults that a batch
# shows. Swapped labels are the worst: the loss falls, the accuracy rises, and the
# reward goes the other way. Several faults did next to nothing here in 20 steps: `nano`
# has long learnt to stop, so that an EOS which is not scored was not missed; dropout
# only adds noise to margins. A fault that costs nothing today is still one: it will
# cost when the model, the loss or the length of the run changes.
#
# Four of them deserve a look.
#
# **Prompt scored.** In a summed DPO loss the prompt's log-probability is in both
# responses and cancels from the margin (in averaged losses it does not). *Predict:*
# what happens to the rewards, and to the loss?

# %%
both = {
    name: pd.DataFrame(first[name]["history"]).dropna(subset="loss")
    for name in ("healthy", "prompt scored")
}
columns = ["loss", "rewards/margins", "rewards/chosen", "rewards/rejected"]
apart = both["prompt scored"][columns] - both["healthy"][columns]
print(apart.abs().max().round(4).to_dict())
assert apart["loss"].abs().max() < 0.02 < apart["rewards/chosen"].abs().max()

# %% [markdown]
# The margins and the loss are the same to within rounding, the rewards are not: each
# has the prompt's log-ratio in it as well. The policy is the same, and the metrics lie.
#
# **Reference not frozen.** If the reference moves with the policy, every log-ratio is
# zero, and the loss is ln 2 for ever. That is not "not learning": the gradient does not
# vanish, and no pair ever counts as learnt.

# %%
moving = [
    row["loss"] for row in first["reference not frozen"]["history"] if "loss" in row
]
assert max(abs(loss - log(2)) for loss in moving) < 1e-3
for name in ("healthy", "reference not frozen"):
    row = planted[(planted["case"] == name) & (planted["seed"] == 1)].iloc[0]
    print(f"{name:>20}: r* {row['gold']:.2f} at a KL of {row['kl']:.2f} nats")

# %% [markdown]
# In 20 steps the brake is hardly needed, and the two runs end up alike. What is lost is
# the log: loss, margin and accuracy can no longer say when to stop.
#
# **Pads scored.** The reference's log-probs are computed once, in other batches than
# those of training, so that a response has other padding there: with pads scored, the
# first log-ratios are not zero. `TinyDPOTrainer` refuses such a run at its first step
# (its message guesses at dropout, wrongly here); the run above had that guard taken off.

# %%
from dpo_tutorial.clinic import admitted
from dpo_tutorial.faults import pads_scored

with admitted(1, count=20, batch=pads_scored) as trainer:
    try:
        trainer.train()
    except RuntimeError as refusal:
        print(refusal)

# %% [markdown]
# **Averages with a beta for sums.** Dividing by the tokens makes the loss flatter by
# their number. A beta of 2 makes up for it.

# %%
name = "averages, beta for sums"
for treatment in ("planted", "beta for averages"):
    print(f"{treatment:>17}: {beside_healthy(clinic, name, treatment)}")

# %% [markdown]
# With the beta for sums the run is a slow one, and nothing says so but its small
# rewards and the loss that stays near ln 2; with a beta for averages it is not told
# apart from the healthy run.
#
# ## The page to take away
#
# Symptom, likely cause, check and repair, generated from these results. The repairs are
# those whose gain has an interval above zero; `docs/symptoms.md` in the repository,
# written by `scripts/symptoms.py`, has all of them with their numbers.


# %%
def page_row(name):
    table = before_and_after(clinic, name)
    judged = table[table["verdict"] != ""]
    helped = judged[judged["verdict"] == "helped"].index
    checks = [f"{k}: {x[0]}" for k, x in heard[name].items() if x]
    checks = [check for check in checks if "nothing" not in check]
    return {
        "symptom": CASES[name].see,
        "likely cause": CASES[name].cause,
        "check": "; ".join(checks),
        "repair that helped": ", ".join(helped) or "none told apart",
        "did not": ", ".join(judged.index.difference(helped)),
    }


pd.DataFrame([page_row(name) for name in CASES])

# %% [markdown]
# And all of them at a glance.


# %%
def effects(axis, name):
    table, by = before_and_after(clinic, name), CASES[name].by
    for place, (who, found) in enumerate(table[by].items()):
        role = {"healthy": "reference", "planted": "gold"}.get(who, "policy")
        bars = [[found.mean - found.low], [found.high - found.mean]]
        style = {"color": COLORS[role], "fmt": "o", "capsize": 3, "ms": 4}
        axis.errorbar(found.mean, -place, xerr=bars, **style)
    axis.set_yticks(range(0, -len(table), -1), table.index, fontsize=8)
    axis.set_title(f"{name}: {by}", fontsize=10)


figure, axes = plt.subplots(4, 2, figsize=(7.5, 8))
for axis, name in zip(axes.flat, CASES, strict=False):
    effects(axis, name)
axes[3, 1].axis("off")
figure.suptitle("Some of the usual repairs repair", fontsize=11)
plt.show()

# %% [markdown]
# *Figure: seven panels, one a case, each with the figure that tells it on the horizontal
# axis: the healthy runs, the planted ones and each repair, as means with intervals over
# three seeds.*

# %%
means = planted.groupby("case")[["words", "flattery", "parses", "gold"]].mean()
assert means.loc["verbosity", "words"] > 2 * means.loc["healthy", "words"]
assert means.loc["flattery", "flattery"] > means.loc["healthy", "flattery"] + 0.15
assert means.loc["collapse", "parses"] < 0.5 < means.loc["healthy", "parses"]
assert means.loc["labels swapped", "gold"] < means.loc["healthy", "gold"] - 0.4
for name, case in CASES.items():
    print(f"{name:>13}: {case.remember}")

# %% [markdown]
# ## What you did
#
# You read sixteen anonymous logs, committed yourself, and then saw the key; compared the
# instruments with it, and found which causes none of them heard; tried the repairs that
# articles name on seven causes, over three seeds, and kept the ones that failed on the
# page as well; read eight faults of the code and saw that one of them changes the
# metrics and not the policy (prompt scored), and one turns the policy round while its
# log looks sound (labels swapped).
#
# **What a toy shows, and what it does not.** Each cause is real and acted on a real
# policy, and every number above comes from a run. But the runs are short and the model
# is small: which repair is best depends on how hard the cause was planted, and three
# seeds tell large effects only. Flattery here is four sentences, which a filter finds;
# in English it is a manner. Nothing here is evasive: the review world has no refusals.
#
# ## Exercises
#
# 1. Two runs have the same falling loss and accuracy near 1 on held-out pairs. One is
#    the best you have had. What do you look at to tell which?
# 2. Your labels are swapped by a bug in the column names. Which single number, known
#    before training, would have told you?
# 3. Balance the lengths by dropping pairs until the *sum* of the extra words is zero.
#    Does it bring the words down further than balancing their signs?
# 4. Plant two causes at once, length bias and few pairs. Which of the two does the
#    diagnosis name?
#
# <details><summary>Answer to 1</summary>
#
# Samples, and a reward or a judge on them. Easy pairs give that log too; so does a bias
# that held-out labels share.
#
# </details>
#
# <details><summary>Answer to 2</summary>
#
# The mean r* (or a judge's score) of the chosen column less that of the rejected one.
# In this world: `gold_reward` on twenty pairs. Elsewhere: read twenty pairs.
#
# </details>
#
# <details><summary>Answer to 3</summary>
#
# No run here tells. Write a curator like `faults.balanced`, pass it as `curate` to
# `clinic.trial` on top of `CASES["verbosity"].plant`, for three seeds, and compare the
# words with those of "balance the lengths" above. Count the pairs that are left first.
#
# </details>
#
# <details><summary>Answer to 4</summary>
#
# `trial(1, **CASES["verbosity"].plant | CASES["overfitting"].plant)`, then
# `diagnose_training_issues` on its `history`. Expect the one that parts the curves; the
# bias is shared by the held-out labels, and no log shows it.
#
# </details>
#
# ## Further reading
#
# - Rafailov et al. 2023, DPO: [arXiv 2305.18290](https://arxiv.org/abs/2305.18290)
# - Park et al. 2024, length in DPO: [arXiv 2403.19159](https://arxiv.org/abs/2403.19159)
# - Sharma et al. 2023, sycophancy: [arXiv 2310.13548](https://arxiv.org/abs/2310.13548)
# - Pang et al. 2024, an SFT term beside DPO:
#   [arXiv 2404.19733](https://arxiv.org/abs/2404.19733)
# - Chowdhury et al. 2024, noisy labels: [arXiv 2403.00409](https://arxiv.org/abs/2403.00409)
# - Razin et al. 2024, likelihood displacement:
#   [arXiv 2410.08847](https://arxiv.org/abs/2410.08847)
# - Tajwar et al. 2024, on-policy data: [arXiv 2404.14367](https://arxiv.org/abs/2404.14367)
#
# Back: [10 · Recipes](10_recipes.ipynb) · Next: [12 · Scaling](12_scaling.ipynb)
