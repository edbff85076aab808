# %% [markdown]
# # 02 · From RLHF to DPO
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/dpo-tutorial/dpo-tutorial/blob/main/notebooks/02_from_rlhf_to_dpo.ipynb)
#
# You will check to ten decimal places that a loss which samples nothing and has no
# reward model shares its optimum with reinforcement learning from human feedback
# (RLHF), and you will see where that promise ends.
#
# **You will**
#
# - evaluate RLHF's objective exactly and assert its optimum $\pi^*$;
# - turn $\pi^*$ inside out, watch $Z(x)$ cancel, and arrive at the DPO loss;
# - assert the gradient of that loss against its closed form;
# - reach $\pi^*$ twice, by gradient descent on DPO and by PPO;
# - watch PPO exploit a flawed reward once the KL term is gone;
# - measure what finite data costs, and find the cases that DPO cannot decide.
#
# **You need** notebook 01, PyTorch's autograd, and expectations; no reinforcement
# learning. Measured on two CPU cores: about 8 seconds and 0.5 GB of memory; allow
# ninety minutes for reading.
#
# Back: [01 · Preferences and reward models](01_preferences_and_reward_models.ipynb) ·
# Next: [03 · Preference data](03_preference_data.ipynb)

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
# ## A world small enough to list
#
# The trouble with checking RLHF's theory on a language model is a sum over all
# responses that nobody can carry out. So take a world in which you can: three prompts
# $x$, seven responses $y$ each. A true reward $r(x, y)$ depends on the prompt (a *cold*
# beer is good, a cold soup is not). The reference policy $\pi_\mathrm{ref}(y \mid x)$
# is where training starts, as an SFT model would be: mostly sensible, seldom a
# flatterer, and not uniform, since a uniform one would hide half of the mathematics.

# %%
import pandas as pd
import torch
from torch.nn.functional import logsigmoid

torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)

# %%
prompts = ["The soup was", "The beer was", "The room was"]
responses = ["lovely.", "warm.", "fine.", "cold.", "dear, and yet not dear."]
responses += ["lovely lovely was.", "perfect, like all you do."]
soup = [1.0, 0.7, 0.2, -0.8, -0.1, -0.9, -0.5]
beer = [0.9, -0.7, 0.1, 0.8, -0.2, -1.0, -0.4]
room = [0.8, 0.6, 0.3, -0.6, -0.3, -0.8, -0.5]
r = torch.tensor([soup, beer, room])  # (prompts, responses)
percent = torch.tensor(
    [[20, 15, 30, 15, 10, 7, 3], [15, 10, 30, 20, 15, 6, 4], [20, 10, 35, 10, 15, 5, 5]]
)
assert (percent.sum(-1) == 100).all()
log_ref = (percent / 100).log()  # (prompts, responses), in nats
pd.DataFrame(log_ref.exp().T, responses, prompts).map("{:.0%}".format)

# %% [markdown]
# ## Step 1: what RLHF maximises
#
# $$J(\pi) = \mathbb{E}_{x}\Big[\mathbb{E}_{y \sim \pi(\cdot \mid x)}[r(x, y)]
# - \beta\, \mathrm{KL}\big(\pi(\cdot \mid x)\,\|\,\pi_\mathrm{ref}(\cdot \mid x)\big)
# \Big]$$
#
# The distance is the Kullback-Leibler divergence, the mean log-ratio under $\pi$, in
# *nats*, since the logarithm is the natural one:
# $\mathrm{KL}(\pi \| \pi_\mathrm{ref}) = \sum_y \pi(y) \log(\pi(y) /
# \pi_\mathrm{ref}(y))$. Earn reward, then, but pay $\beta$ for each nat. Here every
# expectation is a sum, so $J$ is exact. Staying at the reference costs nothing; the cell
# says what it earns.


# %%
BETA = 0.5


def kl(log_p, log_q):
    return (log_p.exp() * (log_p - log_q)).sum(-1)  # (..., prompts)


def objective(log_pi, reward=r, beta=BETA):
    return (log_pi.exp() * reward).sum(-1) - beta * kl(log_pi, log_ref)


print("J of the reference, per prompt:", objective(log_ref).numpy().round(3))

# %% [markdown]
# ## Step 2: the optimum in closed form
#
# Weigh each response of the reference by its exponentiated reward and renormalise:
#
# $$\pi^*(y \mid x) = \frac{1}{Z(x)}\, \pi_\mathrm{ref}(y \mid x)\, e^{r(x, y)/\beta},
# \qquad Z(x) = \sum_y \pi_\mathrm{ref}(y \mid x)\, e^{r(x, y)/\beta}$$
#
# If that is the optimum, inserting it into $J$ leaves $\beta \log Z(x)$, one number a
# prompt. The helper `same` prints the largest difference and fails above $10^{-10}$.


# %%
def same(a, b, tolerance=1e-10):
    worst = (a - b).abs().max().item()
    assert worst < tolerance, f"largest difference {worst}"
    print(f"the same: largest difference {worst:.0e}, allowed {tolerance:.0e}")


def optimum(reward, beta):
    return (log_ref + reward / beta).log_softmax(-1)


# %%
log_star = optimum(r, BETA)
log_z = (log_ref + r / BETA).logsumexp(-1)  # (prompts,)
same(objective(log_star), BETA * log_z)

# %% [markdown]
# A value is not yet a proof of being the best. The proof is one line, for *any* policy
# $\pi$. Write $r$ as $\beta \log e^{r/\beta}$, take it into the KL's logarithm, and
# recognise $\pi_\mathrm{ref}\, e^{r/\beta} = Z \pi^*$:
#
# $$J(\pi) = \beta\, \mathbb{E}_{\pi}\Big[\log
# \frac{\pi_\mathrm{ref}\, e^{r/\beta}}{\pi}\Big]
# = \beta \log Z - \beta\, \mathrm{KL}(\pi \,\|\, \pi^*)$$
#
# A KL is never negative, and zero only at $\pi = \pi^*$. Try the line on a thousand
# random policies.

# %%
generator = torch.Generator().manual_seed(0)
log_random = torch.randn(1000, 3, 7, generator=generator).mul(2).log_softmax(-1)
shortfall = objective(log_star) - objective(log_random)  # (1000, prompts)
same(shortfall, BETA * kl(log_random, log_star))
assert shortfall.min() > 0
print(f"the best of 1000 falls short by {shortfall.mean(-1).min():.3f}")

# %% [markdown]
# So maximising RLHF's objective *is* minimising a KL to $\pi^*$: not to the largest
# reward, but to a compromise set by $\beta$. **Predict:** does a larger $\beta$ move
# $\pi^*$ towards the reference or away from it? A widely read course had it the wrong way
# round ([smol-course #307](https://github.com/huggingface/smol-course/pull/307)).

# %%
optima = {beta: optimum(r, beta) for beta in (0.1, 0.5, 2.0)}
distances = [kl(best, log_ref).mean().item() for best in optima.values()]
print("KL to the reference, nats:", [round(d, 2) for d in distances])
assert distances[0] > distances[1] > distances[2]

# %%
import matplotlib.pyplot as plt

from dpo_tutorial.plotting import COLORS, use_style

use_style()
fig, axis = plt.subplots()
place = torch.arange(7)
axis.plot(log_ref[0].exp(), place, "s", c=COLORS["reference"], label="reference")
looks = (("^", "full", -0.25), ("D", "left", 0.13), ("o", "none", 0.32))
for (beta, best), (marker, fill, lift) in zip(optima.items(), looks, strict=True):
    look = {"c": COLORS["policy"], "fillstyle": fill, "label": f"$\\beta$ = {beta}"}
    axis.plot(best[0].exp(), place + lift, marker, **look)
axis.set(xlabel="probability after “The soup was”", xlim=(-0.02, 1.02))
axis.set_yticks(place, responses)
axis.set_title("A larger $\\beta$ keeps the optimum closer to the reference")
axis.invert_yaxis()
axis.legend(loc="lower right")
plt.show()

# %% [markdown]
# *Figure: probabilities of the seven responses to “The soup was”. At beta 2 (hollow
# circles) the optimum lies near the reference's grey squares; at 0.1 (triangles) nearly
# all mass is on “lovely.”.*
#
# The formula says it too. As $\beta \to \infty$, $e^{r/\beta} \to 1$ and only the
# reference is left; as $\beta \to 0$, the best response outweighs all others.
#
# ## Step 3: turn the formula inside out
#
# Take logarithms and solve for the reward. Nothing is lost: the optimal policy *knows*
# the reward, up to $Z$.
#
# $$r(x, y) = \beta \log\frac{\pi^*(y \mid x)}{\pi_\mathrm{ref}(y \mid x)}
# + \beta \log Z(x)$$

# %%
implicit = BETA * (log_star - log_ref)  # (prompts, responses): the implicit reward
same(implicit + BETA * log_z[:, None], r)

# %% [markdown]
# For a language model $Z(x)$ is the sum that nobody can carry out. Were it needed, this
# would be the end of the road.
#
# ## Step 4: comparisons do not need Z
#
# Bradley-Terry, from notebook 01, has
# $p(y_1 \succ y_2 \mid x) = \sigma(r(x, y_1) - r(x, y_2))$. Both responses answer the
# *same* prompt, so $\beta \log Z(x)$ stands on both sides and drops out. The 21 pairs
# of each prompt say so.

# %%
first, second = torch.triu_indices(7, 7, offset=1)  # every unordered pair, once
p_true = (r[:, first] - r[:, second]).sigmoid()  # (prompts, pairs)
same((implicit[:, first] - implicit[:, second]).sigmoid(), p_true)

# %% [markdown]
# Hence the usual demand that chosen and rejected share a prompt. Compare instead a
# response about soup with one about beer: a remainder is left, and it is the two $Z$.
#
# The other side of this coin: preferences cannot tell $r(x, y)$ from $r(x, y) + f(x)$.
# It does no harm, since both have the same optimal policy.

# %%
by_reward = r[0, 0] - r[1, 0]
by_policy = implicit[0, 0] - implicit[1, 0]
print(f"across prompts: reward {by_reward:.3f}, implicit reward {by_policy:.3f}")
same(by_reward - by_policy, BETA * (log_z[0] - log_z[1]))
shift = torch.tensor([[7.0], [-3.0], [100.0]])  # f(x): (prompts, 1)
same(optimum(r + shift, BETA), log_star)

# %% [markdown]
# ## Step 5: the DPO loss
#
# Bradley-Terry's likelihood, with the implicit reward of the policy $\pi_\theta$ in
# training put in place of $r$, for a chosen $y_w$ and a rejected $y_l$:
#
# $$\mathcal{L} = -\log \sigma(\beta h), \qquad
# h = \log\frac{\pi_\theta(y_w \mid x)}{\pi_\mathrm{ref}(y_w \mid x)}
# - \log\frac{\pi_\theta(y_l \mid x)}{\pi_\mathrm{ref}(y_l \mid x)}$$
#
# No reward model, no $Z$, no sampling. **Predict** the loss of the reference itself,
# whose log-ratios are all zero.


# %%
def dpo(h):
    return -logsigmoid(BETA * h)


def gaps(log_pi):
    ratio = log_pi - log_ref  # (..., prompts, responses)
    return ratio[..., first] - ratio[..., second]  # (..., prompts, pairs)


same(dpo(gaps(log_ref)), torch.tensor(2.0).log())

# %% [markdown]
# It is $\ln 2$, whatever $\beta$: with this sigmoid loss, and with dropout off, the first
# loss of every sound run. The package's `dpo_loss` takes the four log-probabilities
# apart, as one has them in training. It must agree with the function that you have just
# written.

# %%
from dpo_tutorial.losses import dpo_loss

some = log_random[0]
logps = some[:, first], some[:, second], log_ref[:, first], log_ref[:, second]
values, chosen_rewards, rejected_rewards = dpo_loss(*logps, beta=BETA)
same(values, dpo(gaps(some)))
same(chosen_rewards - rejected_rewards, BETA * gaps(some))

# %% [markdown]
# Now its expectation. If the first of two responses wins with probability $p$, the pair
# contributes $p$ times the loss one way round and $1 - p$ times the other way. The
# weights `wins` and `defeats` may be probabilities or, later, counts.


# %%
def expected_loss(per_pair, log_pi, wins, defeats):
    h = gaps(log_pi)
    total = wins * per_pair(h) + defeats * per_pair(-h)  # (..., prompts, pairs)
    return total.sum((-2, -1)) / (wins + defeats).sum((-2, -1))


# %%
entropy = -(p_true * p_true.log() + (1 - p_true) * (1 - p_true).log()).mean()
same(expected_loss(dpo, log_star, p_true, 1 - p_true), entropy)
elsewhere = expected_loss(dpo, log_random, p_true, 1 - p_true)  # (1000,)
assert (elsewhere > entropy).all()
print(f"at the optimum {entropy:.4f}, best random policy {elsewhere.min():.4f}")

# %% [markdown]
# At $\pi^*$ the loss equals the entropy of the preferences, the floor below which no
# prediction of coin flips can go. With repeated noisy labels that is the floor of
# training too. With one label a pair the training loss can fall to zero, and the loss on
# fresh labels is what to watch (Step 11).
#
# ## Step 6: the gradient
#
# With $\hat r = \beta \log(\pi_\theta / \pi_\mathrm{ref})$ the paper gives
#
# $$\nabla_\theta \mathcal{L} = -\beta\,
# \underbrace{\sigma(\hat r(y_l) - \hat r(y_w))}_{\text{how wrong we are}}
# \big(\nabla_\theta \log \pi_\theta(y_w) - \nabla_\theta \log \pi_\theta(y_l)\big)$$
#
# Autograd can judge it, here for every ordered pair $(w, v)$ of every prompt, $v$ being
# the rejected one.

# %%
theta = log_random[1].clone().requires_grad_()
log_pi = theta.log_softmax(-1)
r_hat = BETA * (log_pi - log_ref)
w, v = torch.cat([first, second]), torch.cat([second, first])  # every ordered pair


def gradients(values):  # one gradient for each value: (values, prompts, responses)
    flat = values.flatten()
    return torch.stack(
        [torch.autograd.grad(u, theta, retain_graph=True)[0] for u in flat]
    )


weight = (r_hat[:, v] - r_hat[:, w]).sigmoid().flatten()[:, None, None]
closed = -BETA * weight * (gradients(log_pi[:, w]) - gradients(log_pi[:, v]))
same(gradients(-logsigmoid(r_hat[:, w] - r_hat[:, v])), closed)

# %% [markdown]
# Push the chosen up and the rejected down, more firmly where the implicit reward still
# ranks them wrongly. In this table the direction has two entries: the logit of $y_w$
# rises exactly as much as that of $y_l$ falls.
#
# ## Step 7: descend
#
# Plain gradient descent from the reference, given the exact preferences. The step is
# large because this loss is flat: it averages over all pairs and carries $\beta^2$ in
# its curvature. **Predict** where it ends.


# %%
def descend(per_pair, wins, defeats, start=log_ref, steps=300, rate=100.0):
    theta = (start + torch.zeros_like(wins[..., :1])).requires_grad_()
    for _ in range(steps):
        loss = expected_loss(per_pair, theta.log_softmax(-1), wins, defeats).sum()
        (gradient,) = torch.autograd.grad(loss, theta)
        with torch.no_grad():
            theta -= rate * gradient
    return theta.detach().log_softmax(-1)


log_dpo = descend(dpo, p_true, 1 - p_true)
same(log_dpo, log_star)

# %% [markdown]
# **The optimum of DPO is the optimum of RLHF.** The descent saw neither a reward, nor
# $Z$, nor a sample of the policy. Three premises carried it: preferences that follow
# Bradley-Terry and are never quite certain, all responses compared, and a policy able
# to take any shape (a table can; a network is held to its parameters). Step 11 takes
# away the first two.
#
# ## Step 8: the same place by reinforcement learning
#
# RLHF reaches $\pi^*$ without knowing the formula, by the policy gradient
#
# $$\nabla_\theta J = \mathbb{E}_{y \sim \pi_\theta}\big[A(x, y)\,
# \nabla_\theta \log \pi_\theta(y \mid x)\big], \qquad
# A = r - \beta \log\frac{\pi_\theta}{\pi_\mathrm{ref}} - b(x)$$
#
# The weight $A$ is called the **advantage**. Two things look missing. The derivative of
# the $\log \pi_\theta$ inside $A$, and the effect of the baseline $b(x)$, which may be
# anything that does not depend on $y$, are both multiples of
# $\mathbb{E}_{\pi_\theta}[\nabla \log \pi_\theta] = \sum_y \nabla \pi_\theta(y)$.
# Probabilities sum to one whatever $\theta$ is, so that this is zero. Autograd, through
# Step 6's `gradients`, agrees.

# %%
theta = log_random[2].clone().requires_grad_()
log_pi = theta.log_softmax(-1)
for baseline in (0.0, 7.0):
    advantage = (r - BETA * (log_pi - log_ref) - baseline).detach()
    weighted = log_pi.exp().detach() * advantage * log_pi  # the expectation, summed
    same(gradients(weighted.sum()), gradients(objective(log_pi).sum()))

# %% [markdown]
# PPO estimates that expectation from samples and takes several steps on each batch. As
# the policy then leaves the one that drew the batch, each sample is reweighted by the
# ratio of the two, and clipping removes the incentive to let the ratio stray. The
# baseline here is each prompt's mean score; on a language model, with one sample or so a
# prompt, PPO trains a *value model* that predicts the score to come. Eight seeds run side
# by side as the first axis.


# %%
def clipped_loss(log_pi, old, y, advantage, clip=0.2):
    ratio = (log_pi - old).gather(-1, y).exp()  # (seeds, prompts, samples)
    cautious = ratio.clamp(1 - clip, 1 + clip) * advantage
    return -torch.minimum(ratio * advantage, cautious).mean(-1).sum()


# %%
def ppo(reward, beta, baseline=1, iterations=300, seeds=8, samples=64):
    torch.manual_seed(0)
    theta = log_ref.repeat(seeds, 1, 1).requires_grad_()  # (seeds, prompts, responses)
    optimizer = torch.optim.SGD([theta], lr=1.0)
    history = []
    for _ in range(iterations):
        old = theta.detach().log_softmax(-1)
        history.append(old)
        draw = torch.distributions.Categorical(logits=old).sample((samples,))
        y = draw.movedim(0, -1)  # (seeds, prompts, samples)
        score = (reward - beta * (old - log_ref)).gather(-1, y)
        advantage = score - baseline * score.mean(-1, keepdim=True)
        for _ in range(4):
            optimizer.zero_grad()
            clipped_loss(theta.log_softmax(-1), old, y, advantage).backward()
            optimizer.step()
    return torch.stack(history)  # (iterations, seeds, prompts, responses)


# %% [markdown]
# Each number that follows is a mean over seeds with its 95 % interval. PPO is handed
# the true reward, free of the errors that a fitted reward model would add.

# %%
from scipy.stats import t as student


def interval(values):  # half width, over the last axis
    n = values.shape[-1]
    return student.ppf(0.975, n - 1) * values.std(-1) / n**0.5


run = ppo(r, BETA)
distance = kl(run, log_star).mean(-1)  # (iterations, seeds)
for i in (0, 10, 50, 299):
    value = f"{distance[i].mean():.1e} ± {interval(distance[i]):.0e}"
    print(f"iteration {i:3d}: KL(ppo || optimum) {value}")
assert (distance[-1] < 1e-4).all()
print(f"samples drawn and scored in each run: {300 * 64 * 3:,}")

# %% [markdown]
# **The same $\pi^*$, by another road.** The noise dies out at the optimum, and Step 3
# says why: there $r - \beta \log(\pi^*/\pi_\mathrm{ref})$ is the constant
# $\beta \log Z(x)$, so that every advantage is zero.
#
# The road differs in what it needs. PPO on language models holds four: a policy and a
# value model, both trained, a reward model and a reference, both frozen; and it
# generates all the time (notebook 01 counts the bytes). DPO holds two, trains one, and
# generates nothing. What PPO has in exchange is fresh samples, scored where the policy
# now is.
#
# ### A flawed reward
#
# Suppose the reward model has a liking for flattery: it scores “perfect, like all you
# do.” above all else. **Predict** what PPO does with this proxy when $\beta$ is zero.

# %%
proxy = r.clone()
proxy[:, -1] = 1.6
runs = {beta: ppo(proxy, beta) for beta in (0.0, BETA)}
for beta, run in runs.items():
    gold = (run.exp() * r).sum(-1).mean(-1)  # (iterations, seeds)
    top = run[-1].exp().max(-1).values  # the likeliest response: (seeds, prompts)
    peak = gold.mean(-1).max().item()
    after = f"{gold[-1].mean():.2f} ± {interval(gold[-1]):.3f}"
    path = f"{gold[0].mean():.2f}, peak {peak:.2f}, end {after}"
    print(f"beta {beta}: true reward {path}; top response at least {top.min():.2f}")
    assert peak > gold[-1].mean() + 0.1  # at either beta
    assert ((gold[-1] > gold[0]) == (beta > 0)).all()
    assert ((top > 0.95) == (beta == 0)).all()
print(f"optimum for the true reward: {(log_star.exp() * r).sum(-1).mean():.2f}")
same(runs[BETA][-1].exp(), optimum(proxy, BETA).exp(), tolerance=0.01)

# %%
fig, axes = plt.subplots(1, 2, sharey=True)
looks = {"proxy": (proxy, "--", "proxy reward"), "gold": (r, "-", "true reward")}
for axis, beta in zip(axes, runs, strict=True):
    for name, (reward, style, label) in looks.items():
        value = (runs[beta].exp() * reward).sum(-1).mean(-1)  # (iterations, seeds)
        mean, half = value.mean(-1), interval(value)
        axis.plot(mean, style, color=COLORS[name], label=label)
        axis.fill_between(
            range(len(mean)), mean - half, mean + half, color=COLORS[name], alpha=0.3
        )
    axis.set(xlabel="PPO iteration", title=f"$\\beta$ = {beta}")
axes[0].set_ylabel("expected reward")
axes[1].legend(loc="upper right")
fig.suptitle("The true reward peaks, then falls; KL limits how far")
plt.show()

# %% [markdown]
# *Figure: expected proxy and true reward over PPO iterations, means of eight seeds with
# 95 % bands. At beta 0 both rise at first; then the proxy climbs to its maximum while
# the true reward turns and drops below zero, some seeds later than others, hence the
# wide band in the middle. At beta 0.5 the true reward peaks within a few iterations,
# falls back part of the way and settles above its start.*
#
# Without KL the policy ends on one response. This is **reward hacking**, and its onset
# misleads: for a few iterations the true reward rises as well. With KL the same thing
# happens, to a smaller degree: the true reward peaks and falls, ends above its start, and
# far below what its own optimum earns. KL limits the damage and does not repair the
# proxy, whose optimum PPO duly found. DPO is no refuge,
# since pairs labelled by a judge with that liking lead to the same flawed optimum
# (Exercise 4).
#
# ## Step 9: a family with two famous members
#
# Azar et al. write the objective with preferences in place of rewards: maximise
# $\mathbb{E}[\Psi(p(y \succ y'))] - \tau\,\mathrm{KL}(\pi \| \pi_\mathrm{ref})$, with
# $y \sim \pi$ and an opponent $y' \sim \mu$. The optimum is
# $\pi_\mathrm{ref} \exp(\mathbb{E}_{y' \sim \mu}[\Psi] / \tau) / Z$. **Psi = log-odds**
# returns RLHF and DPO, since Bradley-Terry's log-odds are $r(y) - r(y')$. **Psi =
# identity** gives IPO, whose loss pulls the raw gap to a finite target:
# $(h - \frac{1}{2\tau})^2$, with no $\beta$ before $h$ (TRL calls $\tau$ `beta`). Take
# $\mu$ uniform, as when all pairs are compared equally often.

# %%
TAU = 0.25
p = (r[:, :, None] - r[:, None, :]).sigmoid()  # (prompts, y, y')


def ipo(h):
    return (h - 1 / (2 * TAU)) ** 2


same(dpo_loss(*logps, beta=TAU, loss_type="ipo")[0], ipo(gaps(some)))
same(optimum(p.logit().mean(-1), BETA), log_star)
log_ipo = optimum(p.mean(-1), TAU)  # E[identity(p)] = p(y beats mu)
same(descend(ipo, p_true, 1 - p_true, rate=4.0), log_ipo)
print(f"but KL(ipo || dpo) = {kl(log_ipo, log_star).mean():.3f}")

# %% [markdown]
# Is that another goal, or another scale? Near even odds a preference is almost linear in
# the reward gap, with slope $\sigma'(0) = 1/4$, which makes $\tau = \beta / 4$ the first
# guess. Scan $\tau$. Then multiply rewards and $\beta$ by one factor: $\pi^*$ stays where
# it is, while the preferences approach certainty. **Predict** whether some $\tau$ still
# fits.

# %%
off = kl(optimum(p.mean(-1), BETA / 4), log_star).mean()
print(f"tau = beta / 4 = {BETA / 4}: KL(ipo || dpo) {off:.4f}")
grid, least = torch.linspace(0.05, 0.3, 251).tolist(), [0.0]
for factor in (1, 4, 16):
    sharp = (factor * p.logit()).sigmoid().mean(-1)
    scan = [kl(optimum(sharp, tau), log_star).mean().item() for tau in grid]
    least.append(min(scan))
    best = grid[scan.index(least[-1])]
    print(f"rewards and beta × {factor:2}: best tau {best:.3f}, KL {least[-1]:.4f}")
assert least == sorted(least)
assert off < kl(log_ipo, log_star).mean() / 10

# %% [markdown]
# Most of the KL was scale. At $\tau = \beta/4$ the two policies nearly coincide, and a
# slightly smaller $\tau$ does better still, as $\sigma$ flattens away from zero. They part
# where preferences approach certainty: $p$ stops at 1 while the log-odds go on, and no
# $\tau$ makes up for that. A $\tau$ and a $\beta$ of the same value are on different
# scales, whatever an option is called. (A response is one symbol here, so whether IPO
# sums or averages over tokens does not arise. Notebook 08 takes up that dispute.)
#
# ## Step 10: finite data
#
# So far the preferences were probabilities. An annotator gives you $n$ labels. Draw
# pairs uniformly, let Bradley-Terry decide each, and fit DPO to the counts, twenty data
# sets for each $n$. **Predict** the slope on log-log axes, remembering how the error of
# notebook 01's rewards fell.

# %%
import numpy as np

rng = np.random.default_rng(0)
chances = torch.cat([p_true, 1 - p_true], -1).numpy().ravel() / p_true.numel()


def sample_counts(n, data_sets=20):
    counts = torch.tensor(rng.multinomial(n, chances, data_sets)).double()
    return counts.reshape(data_sets, 3, 2, 21).unbind(-2)  # wins, defeats


# %%
sizes = np.array([250, 500, 1000, 2000, 4000, 8000, 16000, 32000])
fits = [descend(dpo, *sample_counts(n), steps=1000) for n in sizes]
log_error = torch.stack([kl(fit, log_star).mean(-1).log() for fit in fits])

# %%
slopes = torch.tensor(np.polyfit(np.log(sizes), log_error, 1)[0])  # (data sets,)
slope = f"{slopes.mean():.2f} ± {interval(slopes):.2f}"
assert -1.2 < slopes.mean() < -0.8
mean, half = log_error.mean(-1), interval(log_error)
fig, axis = plt.subplots()
bars = torch.stack([mean.exp() - (mean - half).exp(), (mean + half).exp() - mean.exp()])
axis.errorbar(sizes, mean.exp(), bars, fmt="o-", color=COLORS["policy"], capsize=3)
axis.set(xscale="log", yscale="log", xlabel="labelled pairs $n$")
axis.set_ylabel("KL(DPO || optimum), nats")
axis.set_title(f"Four times the data, a quarter of the KL (slope {slope})")
plt.show()

# %% [markdown]
# *Figure: KL from the DPO fit to the optimum against the number of labelled pairs, both
# axes logarithmic, geometric means of twenty data sets with 95 % intervals. The points
# scatter about a straight line that falls with the slope in the title.*
#
# Rewards err like $1/\sqrt n$; a KL is quadratic in small errors, hence $1/n$. A toy:
# three prompts, every pair compared. In text the errors also depend on how far a
# network carries a comparison to responses it never saw.
#
# ## Step 11: where it fails
#
# **A response that no one compared.** Remove the flattering response from all pairs and
# descend twice: from the reference, and from a policy that flatters more at the outset.

# %%
kept = ((first != 6) & (second != 6)).double()
ends = {"optimum": log_star}
for name, extra in (("from the reference", 0.0), ("from a flatterer", 2.0)):
    start = log_ref.clone()
    start[:, 6] += extra
    ends[name] = descend(dpo, p_true * kept, (1 - p_true) * kept, start)
_, a, b = ends.values()
same(*[expected_loss(dpo, x, p_true * kept, (1 - p_true) * kept) for x in (a, b)])
same(a[:, :6].log_softmax(-1), log_star[:, :6].log_softmax(-1))
flattery = {name: fit[:, 6].exp() for name, fit in ends.items()}
pd.DataFrame(flattery, prompts).map("{:.1%}".format)

# %% [markdown]
# The two losses agree to the last digit, as do the shares of the responses that *were*
# compared, and the probabilities of flattery do not: the loss is blind to a response
# that no pair mentions, so the start decides. RLHF would be helped only by a reward
# that knows the response; a reward table fitted to the same pairs would leave that
# entry at its own start.
#
# **Preferences without noise.** Now let the better response win every time. The loss
# has no minimum any more: a larger margin is always better. **Predict** whether $\beta$
# still holds the policy near the reference. The drift is the largest
# $|\log(\pi_\theta/\pi_\mathrm{ref})|$ of any response; its last two checkpoints tell
# growth from rest. All three runs take steps of one rate.

# %%
certain = (p_true > 0.5).double()
losses_by_name = {"DPO, beta 0.5": dpo, "DPO, beta 2": lambda h: -logsigmoid(2 * h)}
losses_by_name["IPO, tau 0.25"] = ipo
checkpoints = [0, 1, 3, 10, 30, 100, 300, 1000, 3000]
drift, ended = {}, {}
for name, per_pair in losses_by_name.items():
    fit, drift[name] = log_ref, [0.0]
    for steps in np.diff(checkpoints):
        fit = descend(per_pair, certain, 1 - certain, fit, steps, rate=6.25)
        drift[name].append((fit - log_ref).abs().max().item())
    ended[name] = fit

# %%
for name, fit in ended.items():
    seen = expected_loss(losses_by_name[name], fit, certain, 1 - certain)
    fresh = expected_loss(losses_by_name[name], fit, p_true, 1 - p_true)
    losses = f"loss {seen:.4f}, on fresh noisy votes {fresh:.2f}"
    print(f"{name:13}: KL {kl(fit, log_ref).mean():.2f}, {losses}")
    assert fresh > 2 * entropy
largest = -log_ref[range(3), r.argmax(-1)].mean()
print(f"all mass on the best response: KL {largest:.2f}")

# %%
fig, axis = plt.subplots()
colors = (COLORS["policy"], COLORS["policy"], COLORS["accent"])
looks = zip(drift.items(), colors, ("o-", "s--", "^:"), strict=True)
for (name, values), color, style in looks:
    axis.plot(checkpoints[1:], values[1:], style, color=color, label=name)
    print(f"{name}: {values[-2]:.2f} nats, then {values[-1]:.2f}")
    assert (values[-1] - values[-2] > 1) == name.startswith("DPO")
axis.set(xscale="log", xlabel="gradient steps", ylabel="largest drift, nats")
axis.set_title("Certain preferences: DPO drifts on at either $\\beta$, IPO settles")
axis.legend()
plt.show()

# %% [markdown]
# *Figure: largest log-ratio to the reference against gradient steps (log axis). Both
# DPO curves keep climbing; the one at beta 2 leads at first and soon falls far behind.
# IPO's is flat early on.*
#
# A larger $\beta$ slows the flight and does not end it: the KL term is hidden inside
# the loss and needs disagreement to push back. Where the first of a pair wins with
# probability $p$, the gradient vanishes at $\sigma(\beta h) = p$: a finite $h$ for
# $p < 1$, none for $p = 1$. IPO's target is finite, so it stays. The drift is mostly one
# response on its way to probability zero. The KL, which weighs responses by what is left
# of them, nears that of a policy with all mass on the best response.
#
# The usual data set, each pair labelled once and no response in two pairs, *is* this
# case. Its training loss can fall to zero even where its labels were coin flips, and the
# loss on fresh votes, far above Step 5's floor, shows what that costs. (IPO's loss is a
# square, on a scale of its own.) What stops a real run is that it stops: few
# epochs, a small learning rate.
#
# **A success that looks like a failure.** Last, compare the average log-probability of
# chosen responses before and after the perfect fit of Step 7. **Predict** the sign of
# the change.


# %%
def mean_logp(log_pi, chance):  # chance: that the first of the pair is meant
    return (chance * log_pi[:, first] + (1 - chance) * log_pi[:, second]).mean()


sides = (p_true, 1 - p_true)
change = [mean_logp(log_star, side) - mean_logp(log_ref, side) for side in sides]
print(f"changes in nats: chosen {change[0]:.2f}, rejected {change[1]:.2f}")
assert change[1] < change[0] < 0

# %% [markdown]
# The chosen log-probability **fell**, and the rejected one further, so that the margin
# grew: at the exact optimum. Only differences enter the loss, and mass that gathers on
# the best response leaves the middling ones, which are chosen often too. With a network
# it can go further, and to harmful places; notebook 06 returns to it.
#
# ## What you did
#
# - You evaluated RLHF's objective exactly and asserted its optimum $\pi^*$.
# - You turned $\pi^*$ inside out, saw $Z(x)$ cancel within a prompt and not across, and
#   arrived at the DPO loss, which the package's `dpo_loss` reproduces.
# - You asserted its gradient against the closed form.
# - You reached $\pi^*$ twice, by gradient descent on DPO and by PPO.
# - You watched PPO exploit a flawed reward without KL, and saw what KL leaves broken.
# - You measured how KL to the optimum falls with data, and found two cases that DPO
#   cannot decide: a response not compared, and preferences without noise.

# %% [markdown]
# ## Exercises
#
# **1.** Fit a reward table to one draw of `sample_counts(1000)` by Bradley-Terry's
# likelihood, and put it into `optimum`. How far is the result from DPO's fit to the
# same counts?
#
# <details><summary>Answer</summary>
#
# Zero, to rounding. Call <code>descend</code> with
# <code>lambda h: -logsigmoid(h)</code> and a rate of <code>100 * BETA**2</code>; the
# fit minus <code>log_ref</code> is the reward table up to a constant per prompt. DPO is
# the same likelihood in other coordinates. With networks the two part, as a reward
# network and a policy network generalise differently.
# </details>
#
# **2.** Repeat Step 10 with DPO's $\beta$ halved. The labels stay, the target becomes
# `optimum(r, BETA / 2)`. Is the KL to it at a given $n$ larger or smaller?
#
# <details><summary>Answer</summary>
#
# Larger. The labels fix the reward to the same accuracy, and an error in the reward is
# divided by beta on its way into the log-probabilities; the KL grows with its square.
# It grows by less than four times, for the sharper optimum weighs fewer responses. Measure
# how many times:
#
# ```python
# def half(h):
#     return -logsigmoid(BETA / 2 * h)
#
#
# fits = [descend(half, *sample_counts(n), steps=1000, rate=400.0) for n in sizes]
# goal = optimum(r, BETA / 2)
# error = torch.stack([kl(fit, goal).mean(-1).log() for fit in fits])
# ratio = (error - log_error).mean(0).exp()  # (data sets,)
# print(f"{ratio.mean():.2f} ± {interval(ratio):.2f} times")
# ```
# </details>
#
# **3.** Split the responses into two groups and drop all pairs across them. How many
# numbers per prompt does the DPO loss leave open?
#
# <details><summary>Answer</summary>
#
# One: how the mass is shared between the groups. Odds within each group are those of
# the optimum. In general, the number of connected groups minus one.
# </details>
#
# **4.** Let the annotator label by `proxy`. Where does DPO end, and what does a larger
# $\beta$ do for the true reward?
#
# <details><summary>Answer</summary>
#
# At <code>optimum(proxy, BETA)</code>, PPO's optimum for the flawed reward. A larger
# beta cuts the flattery and the gain alike. There is a best value inside, and below some
# beta the true reward ends under its start. Find both:
#
# ```python
# print(f"start: {(log_ref.exp() * r).sum(-1).mean():.2f}")
# for beta in (0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.0, 4.0):
#     earned = (optimum(proxy, beta).exp() * r).sum(-1).mean()
#     print(f"beta {beta}: true reward {earned:.2f}")
# ```
#
# Notebook 07 looks for such a value on a language model.
# </details>
#
# **5.** `ppo(r, BETA, baseline=0)` leaves the baseline out. Run PPO with the baseline and
# without it, each on `r` and on `r + shift`, Step 4's shift by prompt. Which of the four
# runs end far from the optimum, and why?
#
# <details><summary>Answer</summary>
#
# With the baseline the shift changes nothing, to rounding: the mean score takes it away.
# Without the baseline the expected gradient is the same, but its noise grows with the size
# of the scores: a little on <code>r</code>, and so much on <code>r + shift</code> that a
# run of the same length ends far from the optimum.
#
# ```python
# for baseline in (1, 0):
#     for reward in (r, r + shift):
#         end = kl(ppo(reward, BETA, baseline)[-1], log_star).mean(-1)  # (seeds,)
#         print(baseline, f"KL {end.min():.0e} to {end.max():.0e}")
# ```
# </details>
#
# ## Further reading
#
# - Rafailov et al. 2023, *Direct Preference Optimization: Your Language Model is
#   Secretly a Reward Model*, [arXiv 2305.18290](https://arxiv.org/abs/2305.18290):
#   equations 3 to 7 are Steps 1 to 5.
# - Azar et al. 2023, *A General Theoretical Paradigm to Understand Learning from Human
#   Preferences*, [arXiv 2310.12036](https://arxiv.org/abs/2310.12036): Psi, IPO, and
#   certain preferences.
# - Schulman et al. 2017, *Proximal Policy Optimization Algorithms*,
#   [arXiv 1707.06347](https://arxiv.org/abs/1707.06347).
# - Ziegler et al. 2019, *Fine-Tuning Language Models from Human Preferences*,
#   [arXiv 1909.08593](https://arxiv.org/abs/1909.08593): PPO with the KL term inside
#   the reward.
# - Korbak, Perez and Buckley 2022, *RL with KL penalties is better viewed as Bayesian
#   inference*, [arXiv 2205.11275](https://arxiv.org/abs/2205.11275): $\pi^*$ as a
#   posterior, and why its absence collapses the policy.
# - Razin et al. 2024, *Unintentional Unalignment: Likelihood Displacement in Direct
#   Preference Optimization*, [arXiv 2410.08847](https://arxiv.org/abs/2410.08847).
