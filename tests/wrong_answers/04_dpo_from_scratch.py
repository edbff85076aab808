"""Answers to exercises 04 that people really give; what `WRONG` holds must be caught.

A task's entries are (who, code for its solution region, words of the hint).
"""

LOOP = """
pairs = sum(len(part["labels"]) // 2 for part in parts)
mean = 0.0
for part in parts:
    with torch.no_grad():
        before = compute_log_probs(reference, **part).chunk(2)
    now = compute_log_probs(policy, **part).chunk(2)
    losses, _, _ = dpo_loss(*now, *before, beta=beta)
    share = losses.sum() / pairs
    share.backward()
    mean += share.item()
return mean
"""


def loop(old: str, new: str) -> str:
    """The sound loop with one place changed."""
    assert LOOP.count(old) == 1
    return LOOP.replace(old, new)


MENDED = """
logits = model(input_ids, attention_mask=attention_mask).logits
logits, labels = logits[:, :-1], labels[:, 1:]
scored = labels != -100
targets = labels.masked_fill(~scored, 0)
token_logps = logits.log_softmax(-1).gather(-1, targets[..., None]).squeeze(-1)
return (token_logps * scored).sum(1)
"""


def mended(old: str, new: str) -> str:
    """The sound function with one place changed."""
    assert MENDED.count(old) == 1
    return MENDED.replace(old, new)


MEASURED = """
prediction = "a"
for name, run in runs.items():
    losses = [row["loss"] for row in run.history if "loss" in row]
    first[name], last[name] = losses[0], sum(losses[-5:]) / 5
    accuracy[name] = run.history[-1]["eval_rewards/accuracies"]
    said = sample_responses(run.model, tokenizer, asked, seed=1)
    rewards = [gold_reward(*row) for row in zip(asked, said, strict=True)]
    gold[name] = sum(rewards) / len(rewards)
conclusion = "c"
"""


def measured(old: str, new: str) -> str:
    """The sound measurement with one place changed."""
    assert MEASURED.count(old) == 1
    return MEASURED.replace(old, new)


WRONG = {
    "task1": [
        (
            "weight of the right sign's sigmoid",
            """
            right = math.exp(-loss)
            return right, math.log(right / (1 - right)) / beta
            """,
            "the sigmoid of which sign",
        ),
        (
            "beta multiplied in place of divided",
            """
            right = math.exp(-loss)
            return 1 - right, math.log(right / (1 - right)) * beta
            """,
            "the gap is asked for in nats",
        ),
        (
            "beta taken for outside the sigmoid",
            """
            right = math.exp(-loss / beta)
            return 1 - right, math.log(right / (1 - right))
            """,
            "all weights are 1/2",
        ),
        (
            "sign of the gap",
            """
            wrong = 1 - math.exp(-loss)
            return wrong, math.log(wrong / (1 - wrong)) / beta
            """,
            "belongs to a gap above zero",
        ),
        (
            "weight with beta in front",
            """
            right = math.exp(-loss)
            gap = math.log(right / (1 - right)) / beta
            return 1 / (1 + math.exp(gap)), gap
            """,
            "holds beta times h already",
        ),
    ],
    "task2": [
        (
            "mean of each part, divided by the number of parts",
            loop("losses.sum() / pairs", "losses.mean() / len(parts)"),
            "each part counts the same",
        ),
        (
            "mean of each part, not divided",
            loop("losses.sum() / pairs", "losses.mean()"),
            "too long by the number of parts",
        ),
        (
            "sum over pairs, not divided",
            loop("losses.sum() / pairs", "losses.sum()"),
            "divide by the number of all of them",
        ),
        (
            "divided by the rows, chosen and rejected",
            loop("// 2 for", "for"),
            "two rows for each pair",
        ),
        (
            "gradients cleared in the loop",
            loop(
                "    share.backward()", "    policy.zero_grad()\n    share.backward()"
            ),
            "what cleared the others",
        ),
        (
            "gradient through the reference",
            loop("with torch.no_grad():", "with torch.enable_grad():"),
            "the reference collected a gradient",
        ),
        (
            "beta outside the sigmoid",
            loop(
                "losses, _, _ = dpo_loss(*now, *before, beta=beta)",
                "h = now[0] - before[0] - now[1] + before[1]\n"
                "    losses = -beta * torch.nn.functional.logsigmoid(h)",
            ),
            "inside the sigmoid or outside",
        ),
        (
            "averaged log-probabilities",
            loop(
                "losses, _, _ = dpo_loss(*now, *before, beta=beta)",
                "n = (part['labels'] >= 0).sum(1).chunk(2) * 2\n"
                "    four = [x / k for x, k in zip((*now, *before), n, strict=True)]\n"
                "    losses, _, _ = dpo_loss(*four, beta=beta)",
            ),
            "Are log-probabilities sums",
        ),
        (
            "returns the last part's loss",
            loop("return mean", "return losses.mean().item()"),
            "the number returned is not the mean",
        ),
    ],
    "task3": [
        ("no prediction", measured('prediction = "a"', ""), "prediction first"),
        (
            "first loss of the mean of five",
            measured("losses[0]", "sum(losses[:5]) / 5"),
            "the loss of the first step",
        ),
        (
            "accuracy of the last training batch",
            measured(
                'run.history[-1]["eval_rewards/accuracies"]',
                '[r for r in run.history if "loss" in r][-1]["rewards/accuracies"]',
            ),
            "under its eval_ name",
        ),
        (
            "gold reward of the reference's samples",
            measured("sample_responses(run.model", "sample_responses(reference"),
            "scores no worse",
        ),
        (
            "takes the poor samples for a poor loss",
            measured('conclusion = "c"', 'conclusion = "b"'),
            "follow from the swapped run's numbers",
        ),
    ],
    "task4": [
        (
            "untouched",
            "return colleagues_log_probs(model, input_ids, attention_mask, labels)",
            "of 2 after 1",
        ),
        (
            "the shift alone",
            mended("labels != -100", "(labels != -100) & (labels != pad)"),
            "something that should be scored is not",
        ),
        (
            "EOS alone",
            mended("logits, labels = logits[:, :-1], labels[:, 1:]", ""),
            "predicted from itself",
        ),
        (
            "shifted the wrong way",
            mended("logits[:, :-1], labels[:, 1:]", "logits[:, 1:], labels[:, :-1]"),
            "of 2 after 1",
        ),
        (
            "a mean",
            mended(
                "(token_logps * scored).sum(1)",
                "(token_logps * scored).sum(1) / scored.sum(1)",
            ),
            "a sum, not a mean",
        ),
        (
            "the mask dropped, so that prompt and padding count as token 0",
            mended("token_logps * scored", "token_logps"),
            "of 2 after 1",
        ),
    ],
}

RIGHT = {
    "task1": [
        (
            "with expm1 and the sigmoid of minus beta h",
            """
            scaled = -math.log(math.expm1(loss))
            return 1 / (1 + math.exp(scaled)), scaled / beta
            """,
        ),
    ],
    "task2": [
        (
            "weights the parts' means, reference ahead of the loop",
            """
            with torch.no_grad():
                ahead = [compute_log_probs(reference, **p).chunk(2) for p in parts]
            sizes = torch.tensor([len(p["labels"]) for p in parts])
            total = torch.zeros(())
            for part, before, w in zip(parts, ahead, sizes / sizes.sum(), strict=True):
                now = compute_log_probs(policy, **part).chunk(2)
                loss = w * dpo_loss(*now, *before, beta=beta)[0].mean()
                loss.backward()
                total += loss.detach()
            return float(total)
            """,
        ),
    ],
    "task3": [
        ("the right prediction", measured('prediction = "a"', 'prediction = "c"'))
    ],
    "task4": [
        (
            "cross_entropy, as in the chapter",
            """
            logits = model(input_ids, attention_mask=attention_mask).logits
            loss = torch.nn.functional.cross_entropy(
                logits[:, :-1].mT, labels[:, 1:], reduction="none"
            )
            return -loss.sum(1)
            """,
        ),
    ],
}
