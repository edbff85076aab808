# %% [markdown]
# # 12 · Scaling: exercises
#
# BADGE
#
# Four tasks on [12 · Scaling](../12_scaling.ipynb), 46 minutes in all: how many cards
# sharding needs, many responses in one row, when length buckets pay, and a training
# step on two ranks that nobody should trust.
#
# Write your answer where a cell says `YOUR CODE HERE`, run it, then the check below it:
# silence means that it passed, a failed check gives a hint. The chapter is all you need,
# and no task needs another one. Keep the [solutions](../solutions/12_scaling.ipynb) for
# afterwards.

# %%
# BOOTSTRAP

# %% [markdown]
# ## Task 1 · How many cards?
#
# *Kind: mathematics on paper and in a cell · Level: medium · 10 minutes*
#
# In mixed precision a parameter takes 2 bytes as a weight, 2 as a gradient and 12 in the
# optimiser (a float32 copy and Adam's two averages); the frozen reference, kept beside
# it, takes 2 more. On $n$ cards, ZeRO 1 divides the optimiser by $n$; ZeRO 2 divides the
# gradients too; ZeRO 3 divides the weights too, those of the reference with them. What is
# not divided lies whole on every card. Activations and logits are left out here.
#
# On paper: for each stage, how many bytes a parameter stay on a card however many cards
# you buy? What must $n$ be, then, for a model of $N$ parameters on cards of $C$ bytes?
#
# In the cell: `cards_needed` returns the least number of cards on which these states
# fit, or `None` if no number of them is enough.


# %% nbgrader={"grade": false, "grade_id": "task1", "locked": false, "schema_version": 3, "solution": true, "task": false}
def cards_needed(parameters, stage, card):
    """Least number of cards of `card` bytes under ZeRO `stage` (1, 2 or 3), or None."""
    ### BEGIN SOLUTION
    whole = {1: 2 + 2 + 2, 2: 2 + 2, 3: 0}[stage]  # bytes a parameter on every card
    divided = 18 - whole
    free = card - whole * parameters
    # whole N + divided N / n <= C, so that n >= divided N / (C - whole N)
    return int(-(-divided * parameters // free)) if free > 0 else None
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "task1_check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
from dpo_tutorial.costs import memory
from dpo_tutorial.shapes import SHAPES, sizes

TINY = {"pairs": 1, "prompt_tokens": 8, "response_tokens": 8, "precision": "mixed"}


def held(name, stage, cards):  # the chapter's calculator: bytes of states on a card
    ways = {"sharding": f"zero{stage}", "devices": cards}
    m = memory(SHAPES[name], **TINY, **ways)
    return m.weights + m.gradients + m.optimizer + m.reference


def try_cards(name, stage, card):
    n = cards_needed(sizes(SHAPES[name]).parameters, stage, card)
    case = f"{name} under ZeRO {stage}, cards of {card / 1e9:g} GB, you say {n}. "
    if held(name, stage, 10**9) > card:
        assert n is None, case + (
            "A billion cards would not be enough: what lies whole on each of them?"
        )
        return
    assert n is not None, case + "Some number is enough: is what remains below a card?"
    assert n == max(1, int(n)), case + "Cards are counted: 1, 2, 3, …"
    assert held(name, stage, int(n)) <= card, case + (
        "It does not fit on so few: is every part counted, the reference among them, "
        "and what does this stage leave whole? A part of a card is bought as a card."
    )
    assert n == 1 or held(name, stage, int(n) - 1) > card, case + (
        "One card fewer is enough: which part does this stage divide that you kept whole?"
    )


for gigabytes in (80, 48, 24):
    for stage in (1, 2, 3):
        try_cards("Mistral-7B", stage, gigabytes * 1e9)
### BEGIN HIDDEN TESTS
for name, cards in (("Qwen2.5-1.5B", (8, 12, 16)), ("Llama-3-70B", (80, 141, 500))):
    for gigabytes in cards:
        for stage in (1, 2, 3):
            try_cards(name, stage, gigabytes * 1e9)
try_cards("nano", 3, 80e9)
### END HIDDEN TESTS

# %% [markdown]
# ## Task 2 · One prompt, many responses
#
# *Kind: implementation · Level: medium · 12 minutes*
#
# Best-of-n and online DPO score several responses to one prompt. The chapter puts a
# prompt and two responses into one row; write the layout for any number of them. The row
# is the prompt's tokens, then all tokens of the first response, of the second, and so
# on. Every response must get the log-probability that it gets when it stands alone after
# the prompt. `layout` returns four things:
#
# - `ids`: the row's tokens, (T,);
# - `sees`: may token i see token j? Booleans, (T, T);
# - `position`: each token's position, (T,);
# - `sources`: for each response a list with, for each of its tokens, the place in the
#   row whose logits predict it.

# %%
import torch

from dpo_tutorial.models import load_model

nano, tokenizer = load_model("nano")
nano.eval()
prompt = tokenizer("the soup was")["input_ids"]
texts = " fresh and warm .", " cold .", " fine , but the waiter was rude ."
responses = [tokenizer(text)["input_ids"] + [tokenizer.eos_token_id] for text in texts]
print(len(prompt), "tokens of prompt;", [len(ids) for ids in responses], "of responses")


# %% nbgrader={"grade": false, "grade_id": "task2", "locked": false, "schema_version": 3, "solution": true, "task": false}
def layout(prompt, responses):
    """(ids, sees, position, sources) of a list of token ids and a list of such lists."""
    ### BEGIN SOLUTION
    p = len(prompt)
    ids, part, position, sources = list(prompt), [0] * p, list(range(p)), []
    for k, response in enumerate(responses, 1):
        start, r = len(ids), len(response)
        sources.append([p - 1, *range(start, start + r - 1)])
        ids += response
        part += [k] * r
        position += range(p, p + r)
    part = torch.tensor(part)
    sees = torch.ones(len(ids), len(ids), dtype=torch.bool).tril()
    sees &= (part[None] == 0) | (part[None] == part[:, None])  # (T, T)
    return torch.tensor(ids), sees, torch.tensor(position), sources
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "task2_check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
@torch.no_grad()
def alone(prompt, response):  # the plain form, one response at a time
    line = torch.tensor([prompt + response])
    every = torch.ones_like(line)  # no padding
    logits = nano(line, attention_mask=every, use_cache=False).logits[0]
    logps = logits.log_softmax(-1)  # (T, V)
    places = torch.arange(len(prompt), line.shape[1])
    return logps[places - 1, line[0, places]].sum()


def try_layout(prompt, responses):
    ids, sees, position, sources = layout(list(prompt), [list(r) for r in responses])
    ids, position = torch.as_tensor(ids), torch.as_tensor(position)
    sees, p = torch.as_tensor(sees).bool(), len(prompt)
    row = prompt + [token for response in responses for token in response]
    assert ids.tolist() == row, (
        "ids: the prompt once, then the responses in their order"
    )
    assert sees.shape == (len(row),) * 2, "sees: a row and a column for each token"
    assert not sees.triu(1).any(), "sees: a token sees what comes later in the row"
    assert sees.diagonal().all(), "sees: each token sees itself"
    assert sees[p:, :p].all(), "sees: tokens of a response see all of the prompt"
    starts = [p + sum(map(len, responses[:k])) for k in range(len(responses))]
    for k, start in enumerate(starts):
        assert not sees[start : start + len(responses[k]), p:start].any(), (
            f"sees: tokens of response {k} see a response that stands before them in "
            "the row. Alone after the prompt, would they?"
        )
        assert position[start] == p, (
            f"position: response {k} begins at {int(position[start])}. Alone after the "
            "prompt, how many tokens would stand before it?"
        )
        assert len(sources[k]) == len(responses[k]), (
            "sources: one place for each token of the response, the first among them"
        )
        assert sources[k][0] < p, (
            f"sources: the first token of response {k} is predicted from place "
            f"{sources[k][0]}, outside the prompt. What has the model read, when this "
            "response stands alone, before it writes its first token?"
        )
    with torch.no_grad():
        options = {"position_ids": position[None], "use_cache": False}
        logits = nano(ids[None], attention_mask=sees[None, None], **options).logits[0]
    logps = logits.log_softmax(-1)  # (T, V)
    for k, response in enumerate(responses):
        found = logps[list(sources[k]), response].sum()
        assert abs(found - alone(prompt, response)) < 1e-3, (
            f"response {k} scores {found:.3f} in the row and "
            f"{alone(prompt, response):.3f} alone: logits at a place predict the token "
            "after it; and are positions and mask right at every token, not at the "
            "first only?"
        )


try_layout(prompt, responses)
try_layout(prompt, responses[::-1])
### BEGIN HIDDEN TESTS
try_layout(prompt, responses[:1])
try_layout(prompt + responses[1][:1], [[7], [9, 8], [5], [6, 6, 6, 4]])
try_layout(prompt[:1], [*responses, responses[0]])
### END HIDDEN TESTS

# %% [markdown]
# ## Task 3 · When do buckets pay?
#
# *Kind: experiment with a prediction · Level: medium · 9 minutes*
#
# A batch of rows is as wide as its longest, so it takes rows times longest **positions**.
# Here are the lengths of two data sets of 1,024 rows, made up so that mean and standard
# deviation are the same. In `spread`, lengths from 20 to 180 are equally frequent; in
# `tail`, all rows have 94 tokens but twenty, which have 424.
#
# Cut each into batches of `size` rows, once in the order given, which is random, and
# once sorted by length. Which data set saves the larger share of positions by sorting?
# Look at batches of 8 and of 32 rows. *Predict before you run*: `"spread"` at both
# sizes, `"tail"` at both sizes, or `"depends"`, one at 8 and the other at 32.
#
# Set `prediction`; it is not graded on being right. Then measure `saved`, a dict:
# `saved["spread", 8]` is the share of `spread`'s random positions that sorting saves in
# batches of 8, from 0 to 1, and so on for all four. `conclusion` is one of the three
# words, for what you measured.

# %%
import numpy as np

dice = np.random.default_rng(0)
lengths = {
    "spread": np.linspace(20, 180, 1024).round().astype(int),
    "tail": np.array([424] * 20 + [94] * 1004),
}
for name, values in lengths.items():
    print(f"{name}: mean {values.mean():.0f}, standard deviation {values.std():.0f}")
    lengths[name] = tuple(dice.permutation(values).tolist())  # in random order


# %% nbgrader={"grade": false, "grade_id": "task3", "locked": false, "schema_version": 3, "solution": true, "task": false}
# prediction, saved, conclusion
### BEGIN SOLUTION
prediction = "depends"


def positions(values, size):
    return sum(size * max(values[i : i + size]) for i in range(0, len(values), size))


saved = {
    (name, size): 1 - positions(sorted(values), size) / positions(values, size)
    for name, values in lengths.items()
    for size in (8, 32)
}
ahead = {max(lengths, key=lambda name: saved[name, size]) for size in (8, 32)}
conclusion = ahead.pop() if len(ahead) == 1 else "depends"
print({key: f"{share:.0%}" for key, share in saved.items()})
print(f"predicted: {prediction}; seen: {conclusion}")
# A rare long row spoils the batch that it falls into. Few batches of 8 meet one, and
# half of those of 32 do. Where lengths spread evenly, the longest of 8 is already near
# the longest there is, so larger batches add little. Mean and deviation do not tell.
# Sorting saves time and not the peak of memory: the widest batch stays as wide.
### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "task3_check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
choices = ("spread", "tail", "depends")
assert prediction in choices, f"set prediction to one of {choices}"
cases = [(name, size) for name in ("spread", "tail") for size in (8, 32)]
assert set(cases) <= set(saved), f"saved needs the keys {cases}"


def batches(values, size):  # (batches, size)
    return np.array(values).reshape(-1, size)


for name, size in cases:
    as_given = batches(lengths[name], size).max(1).sum()  # of the longest rows
    by_length = batches(sorted(lengths[name]), size).max(1).sum()
    assert 0 < saved[name, size] < 1, (
        f"saved[{name!r}, {size}] is {saved[name, size]:.2f}: a share of the random "
        "positions lies between 0 and 1; is one order compared with the other?"
    )
    gone = as_given - by_length
    assert abs(saved[name, size] * as_given - gone) < 0.004 * as_given, (
        f"saved[{name!r}, {size}]: each batch takes its rows times its longest row, "
        "sorted as well as random, and the saving is a share of the random positions"
    )
assert conclusion in choices, f"set conclusion to one of {choices}"
leads = [saved["spread", size] > saved["tail", size] for size in (8, 32)]
assert (conclusion == "depends") == (leads[0] != leads[1]), (
    "conclusion: which data set saves more at 8, and which at 32? Is it the same one?"
)
assert conclusion == "depends" or (conclusion == "spread") == leads[0], (
    "conclusion names the other data set than the one that saves more in `saved`"
)
### BEGIN HIDDEN TESTS
waste = {(n, s): batches(lengths[n], s).max(1).mean() for n, s in cases}
assert (saved["tail", 8] < saved["tail", 32]) == (
    waste["tail", 8] < waste["tail", 32]
), "saved: larger random batches meet the long rows more often"
### END HIDDEN TESTS

# %% [markdown]
# ## Task 4 · A step that nobody should trust
#
# *Kind: find the bug · Level: hard · 15 minutes*
#
# Ranks need not be costly to try. Below, each rank is a thread of this process, and the
# ranks of one group add tensors up as the chapter's processes do: each brings its own,
# waits for the others' and gets the sum. `launch` starts groups of the given sizes. `[2]`
# is what you wish for; `[1, 1]` is the launch that lies, two ranks of which each is
# alone. The two cells are machinery: look at what a `Rank` offers, and go on.

# %%
import threading


class Group:
    """Ranks that add tensors up: each brings one and waits for the others."""

    def __init__(self, size):
        self.size, self.left, self.news, self.sums = size, 0, threading.Condition(), {}

    def sum(self, call, tensor):
        with self.news:
            brought = self.sums.setdefault(call, [])
            brought.append(tensor.clone())
            self.news.notify_all()
            self.news.wait_for(lambda: len(brought) == self.size or self.left)
        if len(brought) < self.size or len({t.shape for t in brought}) > 1:
            raise TimeoutError("waits for a sum that another rank does not make")
        return torch.stack(brought).sum(0)

    def leave(self):
        with self.news:
            self.left += 1
            self.news.notify_all()


# %%
class Rank:
    """A rank has a `number`, an `environ`, and a `sum` that all of its group join."""

    def __init__(self, number, world_size, group):
        self.number, self.environ = number, {"WORLD_SIZE": str(world_size)}
        self.group, self.calls = group, 0

    def sum(self, tensor):
        """The sum of the group's tensors, a new tensor."""
        self.calls += 1
        return self.group.sum(self.calls, tensor)


def launch(step, groups, weights, pairs, expected, world_size):
    """What each rank's step gives: its weights, or the error that it raised."""
    teams = [group for size in groups for group in [Group(size)] * size]
    parts, results = pairs.chunk(len(teams)), [None] * len(teams)

    def work(number, group):
        rank = Rank(number, world_size, group)
        try:
            results[number] = step(rank, weights.clone(), parts[number], expected)
        except Exception as error:
            results[number] = error
        group.leave()

    threads = [threading.Thread(target=work, args=each) for each in enumerate(teams)]
    for act in (threading.Thread.start, threading.Thread.join):
        for thread in threads:
            act(thread)
    return results


# %% [markdown]
# The model has two weights, and a pair is two numbers whose product with the weights is
# the margin. A step is plain gradient descent at rate 1 on the mean loss of *all* pairs,
# its gradient clipped to a norm of 1, as in one process. The step below runs on two
# ranks that share the pairs equally. It has **two** bugs: one shows in the numbers, the
# other does not show where it should. Find them, and write `repaired`. Where not exactly
# `expected` ranks take part, **each** rank must raise a `RuntimeError`, and none may be
# left waiting.


# %%
def gradient(weights, pairs):
    """Of the mean of -log sigmoid(margin) over the pairs: (2,)."""
    return -((-(pairs @ weights)).sigmoid()[:, None] * pairs).mean(0)


def step(rank, weights, pairs, expected):
    """Weights after a step, from this rank's pairs: (B, 2) of the batch."""
    ranks = int(rank.environ["WORLD_SIZE"])
    if ranks != expected:
        raise RuntimeError(f"{ranks} ranks take part, expected {expected}")
    g = gradient(weights, pairs)
    g = g / max(1.0, g.norm().item())  # clipped to a norm of 1
    return weights - rank.sum(g) / ranks


start = torch.tensor([0.5, -0.5], dtype=torch.float64)
eight = [[-6.0, 1], [-5, 3], [-4, -2], [2, 7], [1, 1], [0, 2], [1, 0], [2, 1]]
eight = torch.tensor(eight, dtype=torch.float64)
whole = gradient(start, eight)
print("one process:", start - whole / max(1.0, whole.norm().item()))
for groups in ([2], [1, 1]):
    results = launch(step, groups, start, eight, expected=2, world_size=2)
    print(groups, *results)


# %% nbgrader={"grade": false, "grade_id": "task4", "locked": false, "schema_version": 3, "solution": true, "task": false}
def repaired(rank, weights, pairs, expected):
    """Weights after a step, from this rank's pairs: (B, 2) of the batch."""
    ### BEGIN SOLUTION
    # WORLD_SIZE says what was wished for; a sum of ones says who takes part.
    ranks = int(rank.sum(torch.ones(1)).item())  # in every rank, before any can leave
    if ranks != expected:
        raise RuntimeError(f"{ranks} ranks take part, expected {expected}")
    g = rank.sum(gradient(weights, pairs)) / ranks
    # The batch's gradient is clipped: a rank's own has another norm.
    return weights - g / max(1.0, g.norm().item())
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "task4_check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
def try_launch(groups, pairs, expected, world_size):
    took_part = [size for size in groups for _ in range(size)]  # seen by each rank
    results = launch(repaired, groups, start, pairs, expected, world_size)
    case = f"groups {groups}, expected {expected}, WORLD_SIZE {world_size}: "
    assert not any(isinstance(result, TimeoutError) for result in results), case + (
        "a rank waited for another that did not come: does every rank make the same "
        "sums, whatever its number?"
    )
    for number, (result, size) in enumerate(zip(results, took_part, strict=True)):
        if size != expected:
            assert not torch.is_tensor(result), case + (
                f"rank {number} took a step, though only {size} took part in its sums. "
                "Who set WORLD_SIZE, and when? And does each rank look, or rank 0 alone?"
            )
            assert isinstance(result, RuntimeError), case + (
                f"rank {number} gave {result!r}; wanted is a RuntimeError"
            )
            continue
        assert torch.is_tensor(result), case + (
            f"rank {number} gave {result!r}, though as many took part as expected"
        )
        g = gradient(start, pairs)
        apart = (result - start + g / max(1.0, g.norm().item())).abs().max()
        assert apart < 1e-6, case + (
            f"weights are {apart:.3f} from those of one process. Compare the two "
            "gradients before and after each line: what is averaged, and of what is the "
            "norm taken?"
        )


try_launch([2], eight, expected=2, world_size=2)
try_launch([2], eight / 20, expected=2, world_size=2)  # nothing to clip
try_launch([1, 1], eight, expected=2, world_size=2)
### BEGIN HIDDEN TESTS
more = torch.cat([eight, 3 * eight.flip(1), -eight])  # 24 pairs
try_launch([1], more, expected=2, world_size=1)
try_launch([1], more, expected=1, world_size=1)
try_launch([3], more, expected=3, world_size=3)
try_launch([4], more, expected=4, world_size=1)  # a variable that nobody set
try_launch([2, 1], more, expected=3, world_size=3)
### END HIDDEN TESTS
