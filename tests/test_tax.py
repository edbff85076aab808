"""The local tasks against the grammar, their scores against plain torch, the tax."""

import importlib.util
import json
import logging
import math
import random
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from transformers.utils import logging as hf_logging

from dpo_tutorial import build_dir, data_path
from dpo_tutorial.grammar import lexicon, parse, prompts
from dpo_tutorial.losses import compute_log_probs
from dpo_tutorial.models import load_model
from dpo_tutorial.tax import (
    ENGLISH_TASKS,
    REVIEW_TASKS,
    alignment_tax,
    plot_tax,
    run_tasks,
)

SCRIPT = Path(__file__).parent.parent / "scripts" / "build_tasks.py"
GREEDY = "dpo_agreement_greedy"


def items(name):
    text = (data_path("tasks") / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def nano():
    return load_model("nano")


@pytest.fixture(scope="module")
def scored(nano):
    return run_tasks(*nano, (*REVIEW_TASKS, GREEDY))


# --- the items


def test_the_shipped_items_are_those_of_the_script(tmp_path):
    spec = importlib.util.spec_from_file_location("build_tasks", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.main(tmp_path)
    made = sorted(tmp_path.iterdir())
    assert len(made) == 5
    for path in made:
        assert path.read_bytes() == (data_path("tasks") / path.name).read_bytes()
        texts = [json.dumps(item) for item in items(path.stem)]
        assert len(set(texts)) == len(texts) == script.SIZES[getattr(script, path.stem)]


def split(text):
    """(prompt, the start of a response) of an item's text."""
    prompt = max((p for p in prompts("held_out") if text.startswith(p)), key=len)
    return prompt, text[len(prompt) :]


def test_a_phrase_has_one_ending_only():
    found = items("phrase")
    words = {item["target"] for item in found}
    assert len(words) >= 6
    for item in found:
        prompt, start = split(item["text"])
        parses = {w for w in words if not parse(prompt, f"{start}{w}.").unparsed}
        assert parses == {item["target"]}


def test_the_verb_that_is_asked_for_is_the_only_one_that_parses():
    words = {a for adjectives in lexicon()["adjectives"].values() for a in adjectives}
    for item in items("agreement"):
        prompt, start = split(item["text"])
        parses = [
            any(not parse(prompt, f"{start}{verb} {a}.").unparsed for a in words)
            for verb in item["choices"]
        ]
        assert parses == [item["answer"] == 0, item["answer"] == 1]


def test_of_four_adjectives_one_suits_and_all_are_equally_strong():
    strengths = {
        a: s for words in lexicon()["adjectives"].values() for a, s in words.items()
    }
    for item in items("category"):
        found = [parse(item["text"], choice) for choice in item["choices"]]
        assert [not f.unparsed for f in found].index(True) == item["answer"]
        assert sum(not f.unparsed for f in found) == 1
        assert len({strengths[c[1:-1]] for c in item["choices"]}) == 1


def test_neutral_reviews_are_neutral_and_sums_are_right():
    for item in items("neutral"):
        found = parse(item["text"], item["target"])
        assert not found.unparsed
        assert max(map(abs, found.polarities)) <= 0.35
    for item in items("addition"):
        a, b = item["text"].rsplit("\n", 1)[1].removesuffix(" =").split(" + ")
        assert int(item["target"]) == int(a) + int(b)


def test_facts_have_four_choices_and_their_answers_no_favourite_place():
    found = items("facts")
    assert all(len(set(item["choices"])) == 4 for item in found)
    assert {item["answer"] for item in found} == set(range(4))
    share = [item["answer"] for item in found].count(1) / len(found)
    assert share < 0.4


# --- the scores


def log_probs(model, tokenizer, text, target):
    """log p(target | text), prompt and target tokenised apart."""
    ids = [
        tokenizer(part, add_special_tokens=False)["input_ids"]
        for part in (text, target)
    ]
    whole = torch.tensor([ids[0] + ids[1]])
    labels = whole.clone()
    labels[:, : len(ids[0])] = -100
    with torch.no_grad():
        return compute_log_probs(model, whole, torch.ones_like(whole), labels).item()


def test_perplexity_is_that_of_plain_torch(nano, scored):
    row, found = scored.loc["dpo_neutral"], items("neutral")
    for item, (nats, words) in list(zip(found, row["each"], strict=True))[::10]:
        assert nats == pytest.approx(log_probs(*nano, **item), abs=1e-3)
        assert words == len(item["target"].split())
    nats, words = map(sum, zip(*row["each"], strict=True))
    assert row["score"] == pytest.approx(math.exp(-nats / words))
    assert (row["metric"], row["items"], row["higher"]) == (
        "word_perplexity",
        150,
        False,
    )


@pytest.mark.parametrize("task", ["agreement", "category"])
def test_choices_are_ranked_by_log_prob(tiny_model, nano, task):
    """By a model that knows nothing, so that right and wrong both occur."""
    model, tokenizer = tiny_model(), nano[1]
    model.resize_token_embeddings(len(tokenizer))
    found = run_tasks(model, tokenizer, [f"dpo_{task}"]).loc[f"dpo_{task}"]
    assert 0 < found["score"] < 1
    for item, right in list(zip(items(task), found["each"], strict=True))[::10]:
        ranked = [log_probs(model, tokenizer, item["text"], c) for c in item["choices"]]
        assert right == (ranked.index(max(ranked)) == item["answer"])


def test_nano_knows_its_world(scored):
    accuracies = scored[scored["metric"] == "acc"]
    assert (accuracies["score"] > 0.9).all()
    assert (accuracies["low"] < accuracies["score"]).all()  # 200 of 200 is no certainty
    assert list(scored.index) == [*REVIEW_TASKS, GREEDY]


def told(tokenizer, *words):
    ids = [tokenizer(word)["input_ids"] for word in words]
    assert all(len(found) == 1 for found in ids)
    return [found[0] for found in ids]


def test_another_right_word_costs_the_greedy_task_and_not_the_ranked_one(nano, scored):
    model, tokenizer = nano
    (looked,) = told(tokenizer, " looked")

    def fond(_, args, logits):
        logits[..., looked] += 20
        return logits

    handle = model.lm_head.register_forward_hook(fond)
    try:
        after = run_tasks(model, tokenizer, ["dpo_agreement", GREEDY])
    finally:
        handle.remove()
    tax = alignment_tax(scored.loc[after.index], after)["tax"]
    assert tax[GREEDY] > 0.9
    assert abs(tax["dpo_agreement"]) < 0.05


def test_a_lost_skill_is_found(nano, scored):
    model, tokenizer = nano
    was, were = told(tokenizer, " was", " were")

    def confused(_, args, logits):
        logits[..., [was, were]] = logits[..., [were, was]]
        return logits

    handle = model.lm_head.register_forward_hook(confused)
    try:
        after = run_tasks(model, tokenizer)
    finally:
        handle.remove()
    tax = alignment_tax(scored.loc[list(REVIEW_TASKS)], after)
    assert tax.loc["dpo_agreement", "low"] > 0.8
    assert tax.loc["dpo_neutral", "low"] > 0.05
    assert abs(tax.loc["dpo_category", "tax"]) < 0.05


def test_running_tasks_leaves_no_trace(nano):
    model, tokenizer = nano
    levels = logging.getLogger("lm_eval").level, hf_logging.get_verbosity()
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    expected = random.random(), np.random.rand(), torch.rand(1).item()
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    model.train()
    try:
        run_tasks(model, tokenizer, ["dpo_category"])
        assert model.training
    finally:
        model.eval()
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected
    assert (logging.getLogger("lm_eval").level, hf_logging.get_verbosity()) == levels


@pytest.mark.parametrize("tasks", [["mmlu"], [], "dpo_category", ["dpo_facts", "x"]])
def test_tasks_that_are_not_there(nano, tasks):
    with pytest.raises(ValueError, match="expected a list of some of"):
        run_tasks(*nano, tasks)


def test_a_limit_takes_the_first_items(nano, scored):
    found = run_tasks(*nano, ["dpo_neutral"], limit=10, batch_size=3).loc["dpo_neutral"]
    assert found["items"] == 10
    expected = [nats for nats, _ in scored.loc["dpo_neutral", "each"][:10]]
    assert [nats for nats, _ in found["each"]] == pytest.approx(expected, abs=1e-3)


def test_every_shipped_task_is_named():
    found = {path.stem for path in data_path("tasks").glob("*.yaml")}
    assert {f"dpo_{name}" for name in found} == {*REVIEW_TASKS, *ENGLISH_TASKS, GREEDY}


@pytest.mark.slow
@pytest.mark.skipif(
    not (build_dir() / "models" / "smollm2").exists(), reason="smollm2 is not here"
)
def test_smollm2_knows_facts_and_sums():
    found = run_tasks(*load_model("smollm2"), ENGLISH_TASKS)
    assert found.loc["dpo_facts", "low"] > 0.25  # chance
    assert found.loc["dpo_addition", "score"] > 0.1


# --- the tax


def table(each, metric="acc", task="skill"):
    score = sum(each) / len(each) if metric == "acc" else None
    if metric != "acc":
        nats, words = map(sum, zip(*each, strict=True))
        score = math.exp(-nats / words)
    row = {"task": task, "metric": metric, "score": score, "items": len(each)}
    return pd.DataFrame([row | {"each": each}]).set_index("task")


def tax(before, after, metric="acc"):
    return alignment_tax(table(before, metric), table(after, metric)).loc["skill"]


def test_a_fall_of_accuracy_and_a_rise_of_perplexity_are_losses():
    found = tax([1] * 80 + [0] * 20, [1] * 60 + [0] * 40)
    assert (found["before"], found["after"]) == (0.8, 0.6)
    assert found["tax"] == pytest.approx(0.25)
    assert found["low"] < 0.25 < found["high"]
    gained = tax([1] * 60 + [0] * 40, [1] * 80 + [0] * 20)
    assert gained["tax"] == pytest.approx(-1 / 3)
    assert gained["high"] < 0
    ten = [(-3.0, 2), (-4.0, 3), (-5.0, 5)] * 20  # nats, words
    more = [(nats - 0.1 * words, words) for nats, words in ten]
    worse = tax(ten, more, "word_perplexity")
    assert worse["before"] == pytest.approx(math.exp(12 / 10))
    assert worse["tax"] == pytest.approx(math.exp(0.1) - 1)
    assert tax(more, ten, "word_perplexity")["high"] < 0


def test_no_change_is_no_tax_with_an_interval_that_knows_its_items():
    for n in (20, 200):
        found = tax([1] * n, [1] * n)
        assert found["tax"] == 0
        assert found["high"] == -found["low"] == pytest.approx(1.96 / (n + 2), rel=1e-3)
    half = [1, 0] * 50
    assert tax(half, half)["high"] == pytest.approx(2 * 1.96 / 102, rel=1e-3)


def test_nothing_known_before_is_nothing_to_lose():
    assert math.isnan(tax([0] * 5, [1] * 5)["tax"])


def test_items_are_compared_with_themselves():
    """Half lost and half gained is a wide interval; nothing changed, a narrow one."""
    before = [1] * 50 + [0] * 50
    turned, same = tax(before, before[::-1]), tax(before, before)
    assert turned["tax"] == same["tax"] == 0
    assert turned["high"] > 5 * same["high"]


def test_the_intervals_cover():
    """1,000 evaluations of known taxes, on 200 accuracies and on 150 perplexities."""
    rng, hits = np.random.default_rng(0), {"acc": 0, "word_perplexity": 0}
    for _ in range(1000):
        was = rng.random(200) < 0.9
        now = np.where(was, rng.random(200) < 0.92, rng.random(200) < 0.2)
        found = tax(was.astype(int).tolist(), now.astype(int).tolist())
        hits["acc"] += found["low"] <= 0.08 - 0.2 * 0.1 / 0.9 <= found["high"]
        words = rng.integers(1, 15, 150)
        then = rng.normal(-2 * words, 1)
        change = rng.normal(-0.05 * words, 0.3 * words**0.5)
        rows = [
            list(zip(nats.tolist(), words.tolist(), strict=True))
            for nats in (then, then + change)
        ]
        found = tax(*rows, "word_perplexity")
        hits["word_perplexity"] += found["low"] <= math.expm1(0.05) <= found["high"]
    assert all(925 <= count <= 975 for count in hits.values()), hits


def test_tables_of_other_tasks_or_items_are_refused():
    one, two = table([1, 0]), table([1, 0], task="other")
    for other in (two, table([1, 0, 1])):
        with pytest.raises(ValueError, match="expected the same tasks and items"):
            alignment_tax(one, other)


def test_the_figure_has_a_line_a_task_a_dot_a_run_and_the_rule():
    index = pd.MultiIndex.from_product([(0.1, 1.0), (1, 2)], names=["beta", "seed"])
    taxes = pd.DataFrame({"skill": [0.4, 0.2, 0.1, 0.0]}, index=index)
    (axes,) = plot_tax(taxes, rule=0.07).axes
    line, dots, rule = axes.lines
    assert line.get_ydata().tolist() == pytest.approx([30, 5])
    assert dots.get_ydata().tolist() == pytest.approx([40, 20, 10, 0])
    assert rule.get_ydata() == pytest.approx([7, 7])
    assert (axes.get_xscale(), axes.get_ylabel()) == ("log", "tax (%)")
    plt.close("all")
