"""Sweeps: what is cached and by what, interruptions, bad settings, measurements."""

import importlib
import sys

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch

from dpo_tutorial import experiments
from dpo_tutorial.data import collate, tokenize_pair
from dpo_tutorial.evaluation import Estimate, mean_interval
from dpo_tutorial.experiments import (
    beta_sweep_analysis,
    choose_beta,
    dpo_run,
    measure,
    run_all,
    summary,
    with_intervals,
)
from dpo_tutorial.losses import compute_log_probs
from dpo_tutorial.models import load_model
from dpo_tutorial.plotting import plot_beta_sweep, plot_frontier

CALLS = []  # what ran in this process


def square(x, log=True):
    if log:
        CALLS.append(x)
    return x * x


def stops_at_three(x):
    if x == 3:
        raise KeyboardInterrupt
    return square(x)


def fails(x):
    raise ZeroDivisionError(f"no {x}")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A cache of its own, one process, nothing called yet; gives the cache's folder."""
    monkeypatch.setenv("DPO_TUTORIAL_BUILD", str(tmp_path))
    monkeypatch.setattr(experiments.os, "cpu_count", lambda: 1)
    CALLS.clear()
    return tmp_path / "runs"


def grid(*values):
    return [{"x": x} for x in values]


def test_results_come_in_order_and_a_second_call_only_reads(place):
    assert run_all(square, grid(3, 1, 2)) == [9, 1, 4]
    kept = {path: path.stat().st_mtime_ns for path in place.iterdir()}
    assert run_all(square, grid(2, 3, 1)) == [4, 9, 1]
    assert CALLS == [3, 1, 2]
    assert kept == {path: path.stat().st_mtime_ns for path in place.iterdir()}


def test_the_same_settings_twice_are_one_run():
    assert run_all(square, grid(5, 5)) == [25, 25]
    assert CALLS == [5]


def test_another_setting_is_another_run():
    run_all(square, grid(1, 2))
    run_all(square, grid(2, 2.5))
    run_all(square, [{"log": True, "x": 2}, {"x": 2, "log": True}])
    assert CALLS == [1, 2, 2.5, 2]


MODULE = """
FACTOR = 1
def helper(x):
    return x + 1
def wrapped(function):
    import functools
    return functools.wraps(function)(lambda x: function(x))
@wrapped
def decorated(x):
    return x
def run(x, loss=None):
    return sum([helper(decorated(y)) for y in [x]]) + (loss(x) if loss else 0)
def loss(x):
    return 10 * x
"""


@pytest.fixture
def version(tmp_path, monkeypatch):
    """Imports MODULE anew with some text replaced."""
    monkeypatch.syspath_prepend(tmp_path)
    number = iter(range(99))

    def make(old="", new=""):
        name = f"sweep_module_{next(number)}"
        (tmp_path / f"{name}.py").write_text(MODULE.replace(old, new))
        importlib.invalidate_caches()
        return importlib.import_module(name)

    yield make
    for name in [n for n in sys.modules if n.startswith("sweep_module_")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("old", "new", "runs"),
    [
        ("", "", 1),
        ("def run(x, loss=None):\n", "def run(x, loss=None):\n    # other\n", 2),
        ("return x + 1", "return x + 2", 2),
        ("    return x\n", "    return 1 * x\n", 2),
        ("def loss(x):\n    return 10", "def loss(x):\n    return 11", 2),
    ],
    ids=["unchanged", "itself", "in a comprehension", "decorated", "in a setting"],
)
def test_another_code_is_another_run(version, place, old, new, runs):
    for module in (version(), version(old, new)):
        (value,) = run_all(module.run, [{"x": 1, "loss": module.loss}])
        assert value == module.run(1, module.loss)
    assert len(list(place.iterdir())) == runs


def test_another_package_is_another_run(monkeypatch):
    run_all(square, grid(1))
    monkeypatch.setattr(experiments, "_code", lambda: "edited")
    run_all(square, grid(1))
    assert CALLS == [1, 1]


def test_the_package_is_its_code_its_words_and_nano(monkeypatch, tmp_path):
    def hashed():
        experiments._code.cache_clear()
        return experiments._code()

    found = [hashed()]
    for name in ("lexicon.json", "nano"):
        (tmp_path / "nano").mkdir(exist_ok=True)
        (tmp_path / name / "weights" if name == "nano" else tmp_path / name).touch()
        with monkeypatch.context() as patch:
            paths = {n: experiments.data_path(n) for n in ("lexicon.json", "nano")}
            paths[name] = tmp_path / name
            patch.setattr(experiments, "data_path", paths.get)
            found.append(hashed())
    for name in experiments._MODULES:
        others = tuple(m for m in experiments._MODULES if m != name)
        with monkeypatch.context() as patch:
            patch.setattr(experiments, "_MODULES", others)
            found.append(hashed())
    assert found[0] == hashed()
    assert len(set(found)) == 3 + len(experiments._MODULES)
    used = {"data", "grammar", "losses", "models", "reviews", "sampling", "training"}
    assert set(experiments._MODULES) == used


def test_an_interrupted_sweep_keeps_what_is_done(monkeypatch, place):
    with pytest.raises(KeyboardInterrupt):
        run_all(stops_at_three, grid(1, 2, 3, 4))
    assert CALLS == [1, 2]
    assert len(list(place.iterdir())) == 2
    assert run_all(stops_at_three, grid(1, 2, 4)) == [1, 4, 16]
    assert CALLS == [1, 2, 4]


def test_settings_that_do_not_fit_stop_before_any_run(place):
    with pytest.raises(
        ValueError, match=r"square cannot take .*'y': 2.*\(x, log=True\)"
    ):
        run_all(square, [{"x": 1}, {"y": 2}])
    assert CALLS == []
    assert not place.exists()


def test_a_run_that_fails_is_named(place):
    with pytest.raises(
        RuntimeError, match=r"fails .* \{'x': 7\}.*ZeroDivisionError.*no 7"
    ):
        run_all(fails, grid(7))
    assert not place.exists()


def test_a_setting_that_the_trainer_does_not_know_is_named():
    with pytest.raises(RuntimeError, match="unexpected keyword argument 'betta'"):
        run_all(dpo_run, [{"steps": 1, "batch_size": 2, "betta": 0.1}])


@pytest.mark.slow
def test_processes_of_their_own_give_the_same(monkeypatch):
    monkeypatch.setattr(experiments.os, "cpu_count", lambda: 2)
    assert run_all(square, grid(1, 2, 3)) == [1, 4, 9]
    assert CALLS == []  # they ran elsewhere


SOUP = "Restaurant review: The soup was"
KNOWN = [  # response, gold reward, words, share repeated, parses
    (" delicious.", 1.0, 2, 0.0, True),
    (" fresh and the waiter was kind.", 0.7, 7, 0.0, True),
    (" excellent and the bread was excellent.", 0.88, 7, 0.25, True),
    (" delicious delicious delicious delicious.", 0.2, 5, 0.0, False),
    (" inedible.", -1.0, 2, 0.0, True),
]


@pytest.fixture
def known_samples(monkeypatch):
    """nano, its tokenizer, and a sampler that always draws KNOWN, in two batches."""
    model, tokenizer = load_model("nano")

    def batch(rows):
        pairs = [{"prompt": SOUP, "chosen": r, "rejected": r} for r, *_ in rows]
        ids = [tokenize_pair(pair, tokenizer) for pair in pairs]
        both = collate(ids, tokenizer.pad_token_id)
        return {name: value[: len(rows)] for name, value in both.items()}

    drawn = [batch(KNOWN[:2]), batch(KNOWN[2:])]
    monkeypatch.setattr(experiments, "sample_batch", lambda *_, **__: drawn)
    return model, tokenizer, drawn


def test_measure_on_known_texts(known_samples):
    model, tokenizer, _ = known_samples
    found = measure(model, model, tokenizer, [SOUP] * 5)
    text, gold, words, repeated, parses = zip(*KNOWN, strict=True)
    assert found["text"] == list(text)
    assert found["gold"] == pytest.approx(gold, abs=0.006)
    assert found["words"] == list(words)
    assert found["repeated"] == pytest.approx(repeated)
    assert found["parses"] == list(parses)
    assert found["kl"] == [0.0] * 5


def test_kl_is_the_policys_log_prob_less_the_references(known_samples):
    reference, tokenizer, drawn = known_samples
    policy, _ = load_model("nano")
    with torch.no_grad():
        policy.transformer.ln_f.weight.mul_(1.5)
        each = [
            compute_log_probs(policy, **b) - compute_log_probs(reference, **b)
            for b in drawn
        ]
    found = measure(policy, reference, tokenizer, [SOUP] * 5)
    assert found["kl"] == pytest.approx(torch.cat(each).tolist())
    assert max(map(abs, found["kl"])) > 0.1


@pytest.mark.slow
def test_a_dpo_run_measures_and_is_decided_by_its_settings(monkeypatch):
    asked = experiments.prompts("held_out")[:8]
    monkeypatch.setattr(experiments, "prompts", lambda split: asked)
    first, again, other = (
        dpo_run(seed=seed, steps=2, batch_size=4, learning_rate=1e-3)
        for seed in (1, 1, 2)
    )
    assert first == again
    assert first["history"] != other["history"]
    assert [row["step"] for row in first["history"]] == [1, 2]
    assert {"eval_loss", "eval_rewards/accuracies", "eval_logps/chosen"} <= set(first)
    assert len(first["gold"]) == len(first["kl"]) == 8
    faulty = dpo_run(
        seed=1, steps=2, batch_size=4, learning_rate=1e-3, annotator={"label_noise": 1}
    )
    assert faulty["history"] != first["history"]


def result(gold, kl=1.0, **more):
    lists = {"gold": gold, "kl": [kl] * 2, "words": [2, 4], "repeated": [0.0, 0.5]}
    return {**lists, "parses": [True, False], **more}


def test_summary_averages_over_prompts():
    pairs = {"eval_loss": 0.5, "eval_rewards/accuracies": 0.75}
    table = summary(
        [{"beta": 0.1, "seed": 1}, {"beta": 1.0, "seed": 1}],
        [result([0.0, 1.0], **pairs), result([0.5, 0.5], kl=0.25, **pairs)],
    )
    assert table.to_dict("records")[0] == {
        "beta": 0.1,
        "seed": 1,
        "gold": 0.5,
        "kl": 1.0,
        "words": 3.0,
        "repeated": 0.25,
        "parses": 0.5,
        "accuracy": 0.75,
        "loss": 0.5,
    }
    assert table["kl"].tolist() == [1.0, 0.25]
    alone = summary([{"seed": 1}], [result([1.0, 1.0])])
    assert "loss" not in alone


def runs_at(gold):
    """A table of runs: {beta: gold reward of each seed}."""
    rows = [
        {"beta": beta, "seed": i, "gold": g, "kl": 1 / beta, "loss": 0.5}
        for beta, values in gold.items()
        for i, g in enumerate(values)
    ]
    return pd.DataFrame(rows)


def test_intervals_are_over_the_runs_of_a_beta():
    table = with_intervals(runs_at({0.1: [0.4, 0.5, 0.6], 1.0: [0.1, 0.2, 0.3]}))
    assert list(table.index) == [0.1, 1.0]
    assert list(table.columns) == ["gold", "kl", "loss"]
    assert table.loc[0.1, "gold"] == mean_interval([0.4, 0.5, 0.6])


@pytest.mark.parametrize(
    ("at_one", "chosen"),
    [([0.45, 0.46, 0.47], 1.0), ([0.40, 0.41, 0.42], 0.1), ([0.7, 0.8, 0.9], 1.0)],
    ids=["within an error of the best", "below it", "the best"],
)
def test_the_rule_takes_the_largest_beta_among_equals(at_one, chosen):
    gold = {0.01: [0.45, 0.5, 0.5], 0.1: [0.4, 0.5, 0.6], 1.0: at_one, 10.0: [0.1] * 3}
    assert choose_beta(runs_at(gold)) == chosen  # the best 0.5, its error 0.058


def test_a_sweep_runs_every_beta_with_every_seed_and_keeps_the_step_size(monkeypatch):
    asked = {}

    def fake(function, settings):
        asked["function"], asked["settings"] = function, settings
        return [result([0.0, 1.0], eval_loss=0.5) for _ in settings]

    monkeypatch.setattr(experiments, "run_all", fake)
    table = beta_sweep_analysis([0.1, 2.0], seeds=[1, 2], steps=3)
    assert asked["function"] is dpo_run
    assert table[["beta", "seed", "steps"]].values.tolist() == [
        [0.1, 1, 3],
        [0.1, 2, 3],
        [2.0, 1, 3],
        [2.0, 2, 3],
    ]
    assert (table["adam_epsilon"] / table["beta"]).tolist() == pytest.approx([0.01] * 4)
    assert (table["max_grad_norm"] / table["beta"]).tolist() == pytest.approx([10] * 4)
    assert beta_sweep_analysis([1.0], [1], adam_epsilon=0.5)["adam_epsilon"][0] == 0.5


def test_the_sweeps_figure_has_six_panels_over_a_log_axis():
    gold = {0.1: [0.4, 0.5, 0.6], 1.0: [0.1, 0.2, 0.3]}
    runs = runs_at(gold).assign(accuracy=0.7, words=5.0, repeated=0.1)
    figure = plot_beta_sweep(with_intervals(runs), before={"gold": -0.1})
    assert len(figure.axes) == 6
    assert {axis.get_xscale() for axis in figure.axes} == {"log"}
    drawn = figure.axes[0].containers[0].lines[0]
    assert drawn.get_xydata().tolist() == [[0.1, 0.5], [1.0, pytest.approx(0.2)]]
    plt.close(figure)


def test_the_frontier_draws_numbers_and_estimates():
    around = Estimate(1.0, 0.5, 2.0)
    curves = {
        "a": ("policy", "o-", [around], [Estimate(0.5, 0.4, 0.7)]),
        "b": ("gold", "s", [0.2, 0.6], [0.1, 0.3]),
    }
    figure = plot_frontier(curves)
    (axis,) = figure.axes
    across, up = (bar.get_segments()[0] for bar in axis.containers[0].lines[2])
    assert across[:, 0].tolist() == [0.5, 2.0]
    assert up[:, 1].tolist() == pytest.approx([0.4, 0.7])
    assert axis.containers[1].lines[0].get_xydata().tolist() == [[0.2, 0.1], [0.6, 0.3]]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["a", "b"]
    plt.close(figure)
