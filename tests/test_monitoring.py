"""Recorder, dashboard and diagnosis: on both trainers, on stored runs, on bad logs."""

import gzip
import json
import math
import random
import signal
import subprocess
import sys
from collections import Counter
from functools import cache

import matplotlib.pyplot as plt
import numpy as np
import pytest
from transformers import PrinterCallback, TrainerCallback

from dpo_tutorial import data_path
from dpo_tutorial.diagnosis import REMEDIES
from dpo_tutorial.monitoring import (
    MetricsRecorder,
    diagnose_training_issues,
    read_history,
)
from dpo_tutorial.plotting import plot_dpo_training_metrics
from dpo_tutorial.training import TinyDPOTrainer

LN2 = math.log(2)
SOUND = {  # a healthy run: metrics by the share of it that is done
    "loss": lambda t: LN2 - 0.2 * t,
    "rewards/chosen": lambda t: -0.1 * t,
    "rewards/rejected": lambda t: -0.6 * t,
    "rewards/margins": lambda t: 0.5 * t,
    "rewards/accuracies": lambda t: 0.5 + 0.2 * t,
    "logps/chosen": lambda t: -20 - t,
    "logps/rejected": lambda t: -20 - 6 * t,
}


def log(changes=(), steps=30, every=5, first=1):
    """A made-up log, `eval_*` rows every few steps and like the training ones."""
    changes, rows = dict(changes), []
    held_out = {f"eval_{k}": changes.get(k, v) for k, v in SOUND.items()}
    held_out |= {k: v for k, v in changes.items() if k.startswith("eval_")}
    train = SOUND | {k: v for k, v in changes.items() if k not in held_out}
    for i in range(steps):
        step, share = first + i, (i + first - 1) / (steps + first - 2)
        rows.append({"step": step, **{k: f(share) for k, f in train.items()}})
        if step % every == 0:
            rows.append({"step": step, **{k: f(share) for k, f in held_out.items()}})
    return rows


def causes(history):
    return [issue.cause for issue in diagnose_training_issues(history)]


PLANTED = {
    "wrong reference": {
        "rewards/chosen": lambda t: 0.02 - 0.1 * t,
        "loss": lambda t: 0.71 - 0.2 * t,
    },
    "not learning": {k: lambda t, f=SOUND[k]: f(0.001 * t) for k in SOUND},
    "overfitting": {
        "rewards/accuracies": lambda t: min(1.0, 0.5 + t),
        "eval_rewards/accuracies": lambda t: 0.6,
        "loss": lambda t: LN2 - 0.6 * t,
        "eval_loss": lambda t: LN2 + 0.2 * t,
    },
    "both rewards drifting": {
        "rewards/chosen": lambda t: -3 * t,
        "rewards/rejected": lambda t: -3.2 * t,
        "rewards/margins": lambda t: 0.2 * t,
        "logps/chosen": lambda t: -20 - 30 * t,
    },
    "displacement": {
        "rewards/chosen": lambda t: -2.5 * t,
        "rewards/rejected": lambda t: -5 * t,
        "rewards/margins": lambda t: 2.5 * t,
        "logps/chosen": lambda t: -20 - 25 * t,
    },
    "diverging": {"loss": lambda t: LN2 + 3 * t},
    "too early a divergence": {
        "loss": lambda t: LN2 - 0.3 * t,
        "eval_loss": lambda t: LN2 + 0.3 * t,
    },
    "reward scale exploding": {
        "rewards/chosen": lambda t: -5 * t,
        "rewards/rejected": lambda t: -15 * t,
        "rewards/margins": lambda t: 10 * t,
    },
}


def test_a_healthy_log_has_no_issues():
    assert causes(log()) == []
    assert causes(log(every=1000)) == []  # no held-out rows


@pytest.mark.parametrize("cause", REMEDIES)
def test_each_cause_comes_first_in_a_log_that_shows_it(cause):
    issues = diagnose_training_issues(log(PLANTED[cause]))
    assert issues[0].cause == cause
    assert 0.5 <= issues[0].confidence <= 1
    assert any(c.isdigit() for c in issues[0].evidence)
    assert issues[0].remedy == REMEDIES[cause]
    ranks = [issue.confidence for issue in issues]
    assert ranks == sorted(ranks, reverse=True)


@cache
def stored_runs():
    with gzip.open(data_path("histories.json.gz")) as file:
        return json.load(file)


def test_planted_causes_are_named_and_healthy_runs_left_alone():
    """On seeds that set no threshold: 60 runs with a planted cause, 20 without."""
    score = Counter()
    for stored in stored_runs():
        if stored["split"] == "test":
            named = (causes(stored["history"]) or ["healthy"])[0]
            score[stored["cause"] != "healthy", named == stored["cause"]] += 1
    assert score[True, True] + score[True, False] == 60
    assert score[False, True] + score[False, False] == 20
    assert score[True, True] >= 0.85 * 60
    assert score[False, False] <= 0.10 * 20


def test_stored_runs_are_what_they_say():
    seeds = {"calibration": set(), "test": set()}
    for stored in stored_runs():
        seeds[stored["split"]].add(stored["seed"])
        assert stored["cause"] in (*REMEDIES, "healthy")
        assert len([row for row in stored["history"] if "loss" in row]) == 30
    assert seeds["calibration"].isdisjoint(seeds["test"])
    assert data_path("histories.json.gz").stat().st_size <= 400_000


def test_displacement_is_named_only_past_a_threshold():
    """Trap 19: usual in DPO; a few nats are no finding, many are, and are named so."""
    for nats, named in ((7, []), (25, ["displacement"])):
        changes = {
            "rewards/chosen": lambda t, n=nats: -0.1 * n * t,
            "logps/chosen": lambda t, n=nats: -20 - n * t,
            "rewards/rejected": lambda t, n=nats: -0.3 * n * t,
            "rewards/margins": lambda t, n=nats: 0.2 * n * t,
        }
        assert causes(log(changes)) == named
    issue = diagnose_training_issues(log(changes))[0]
    assert "usual" in issue.remedy
    assert "fell by 25.0 nats, from -20.0" in issue.evidence


def test_sums_per_sequence_and_not_averages():
    """Trap 18: `logps/*` are sums; a fall of 25 nats is not one of 25 a token."""
    short = {k: lambda t, f=f: f(t) / 25 for k, f in PLANTED["displacement"].items()}
    assert "displacement" not in causes(log(short))


def test_accuracy_of_single_pairs_is_averaged():
    """Trap 18: at batch size 1 the accuracy is 0 or 1; the last one says nothing."""
    coin = {"rewards/accuracies": lambda t: float(round(29 * t) % 3 > 0)}
    history = log(coin | {"eval_rewards/accuracies": lambda t: 0.66})
    assert history[-2]["rewards/accuracies"] == 1.0
    assert causes(history) == []


def test_the_first_loss_counts_at_the_first_step_only():
    """TRL logs the mean of `logging_steps` steps: its first row is not step 1."""
    assert causes(log(first=10)) == []
    late = {"loss": lambda t: 1.1 - 0.2 * t, "rewards/chosen": lambda t: 0.5}
    issue = diagnose_training_issues(log(late, first=10)).find("wrong reference")
    assert issue.confidence <= 0.55
    assert "not step 1" in issue.evidence


def test_other_losses_start_elsewhere():
    """IPO's first loss is 1 / (2 beta)^2, with rewards of zero."""
    assert causes(log({"loss": lambda t: 25 - 10 * t})) == []
    only_loss = [{"step": 1, "loss": 0.75}, {"step": 2, "loss": 0.7}]
    assert causes(only_loss) == ["wrong reference"]


@pytest.mark.parametrize("cause", [None, *PLANTED])
def test_order_repetition_and_other_rows_change_nothing(cause):
    history = log(PLANTED.get(cause, {}))
    expected = diagnose_training_issues(history)
    mixed = random.Random(0).sample(history, len(history))
    assert diagnose_training_issues(mixed) == expected
    resumed = [*history[:20], *history[10:]]  # from a checkpoint: steps logged twice
    assert diagnose_training_issues(resumed) == expected
    summary = {"step": 30, "train_runtime": 3.0, "train_loss": 0.6, "note": "text"}
    assert diagnose_training_issues([*history, summary]) == expected
    single = [{k: np.float32(v) for k, v in row.items()} for row in history]
    assert [i.cause for i in diagnose_training_issues(single)] == [
        i.cause for i in expected
    ]


def test_a_step_that_is_no_number():
    history = log()
    history[10]["loss"] = float("nan")
    issue = diagnose_training_issues(history)[0]
    assert (issue.cause, issue.evidence[-2:]) == ("diverging", f"{history[10]['step']}")
    history[3]["grad_norm"] = float("inf")
    assert diagnose_training_issues(history)[0].evidence.endswith("step 4")


@pytest.mark.parametrize(
    "history",
    [
        [],
        log()[:1],
        [{"step": 1}],
        [{"loss": 0.69}, {"loss": 0.6}],
        [{"step": None, "loss": None}],
        [row for row in log() if "eval_loss" in row],
        [{"step": i + 1, "loss": LN2 - i / 100} for i in range(9)],
        [{"step": i, "rewards/chosen": 0.0} for i in range(1, 9)],
    ],
)
def test_little_to_go_by_is_no_issue(history):
    assert causes(history) == []


def test_held_out_rows_alone_suffice():
    history = log(PLANTED["displacement"])
    held_out = [row for row in history if "eval_loss" in row]
    assert causes(held_out) == ["displacement"]


@pytest.mark.parametrize("history", ["text", {"step": 1}, [3], [[1, 2]]])
def test_history_of_another_kind(history):
    with pytest.raises(TypeError, match="expected rows of metrics"):
        diagnose_training_issues(history)


# --- the recorder ---------------------------------------------------------------


def tiny_trainer(tiny_model, tokenizer, rows, **options):
    options = {"steps": 6, "batch_size": 2, "learning_rate": 1e-3} | options
    return TinyDPOTrainer(tiny_model(), tokenizer, rows, **options)


@pytest.fixture
def trl_trainer(tiny_model, tokenizer, rows, tmp_path):
    """Makes a real `DPOTrainer` that logs and evaluates each step."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    def make(*callbacks, **settings):
        config = DPOConfig(
            str(tmp_path / "run"),
            per_device_train_batch_size=2,
            max_steps=6,
            logging_steps=1,
            eval_strategy="steps",
            eval_steps=2,
            gradient_checkpointing=None,
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            bf16=False,
            **settings,
        )
        trainer = DPOTrainer(
            tiny_model(),
            ref_model=tiny_model(),
            args=config,
            train_dataset=Dataset.from_list(rows),
            eval_dataset=Dataset.from_list(rows[:2]),
            processing_class=tokenizer,
            callbacks=list(callbacks),
        )
        trainer.remove_callback(PrinterCallback)
        return trainer

    return make


class StopAt(TrainerCallback):
    """A reader who presses stop."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


def test_recorder_on_our_trainer(tiny_model, tokenizer, rows, tmp_path):
    recorder = MetricsRecorder(tmp_path / "new" / "log.jsonl")
    options = {"eval_rows": rows[:2], "eval_every": 2, "on_log": recorder}
    trainer = tiny_trainer(tiny_model, tokenizer, rows, **options)
    trainer.train()
    assert recorder.history == trainer.history
    assert read_history(tmp_path / "new" / "log.jsonl") == trainer.history


@pytest.mark.slow
def test_recorder_on_trl(trl_trainer, tmp_path):
    recorder = MetricsRecorder(tmp_path / "log.jsonl")
    trainer = trl_trainer(recorder)
    trainer.train()
    train = [row for row in recorder.history if "loss" in row]
    held_out = [row for row in recorder.history if "eval_loss" in row]
    assert [row["step"] for row in train] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in held_out] == [2, 4, 6]
    assert train[0]["loss"] == pytest.approx(LN2, abs=1e-5)
    assert not any("train_runtime" in row for row in recorder.history)
    assert recorder.summary["train_runtime"] > 0
    logged = [r for r in trainer.state.log_history if "train_runtime" not in r]
    assert recorder.history == logged == read_history(tmp_path / "log.jsonl")
    assert causes(recorder.history) == causes(trainer.state.log_history)


@pytest.mark.slow
def test_an_interrupted_trl_run_keeps_its_history(trl_trainer, tmp_path):
    recorder = MetricsRecorder(tmp_path / "log.jsonl")
    trainer = trl_trainer(recorder, StopAt(4))
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    steps = [row["step"] for row in recorder.history if "loss" in row]
    assert steps == [1, 2, 3]  # step 4 was cut before it was logged
    assert read_history(tmp_path / "log.jsonl") == recorder.history


KILLED = """
import os, signal, sys
from dpo_tutorial.monitoring import MetricsRecorder
recorder = MetricsRecorder(sys.argv[1])
for step in range(1, 100):
    recorder({"step": step, "loss": 0.69})
    if step == 7:
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_a_killed_process_keeps_its_history(tmp_path):
    path = tmp_path / "log.jsonl"
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert [row["step"] for row in read_history(path)] == [1, 2, 3, 4, 5, 6, 7]


def test_a_line_that_was_cut_is_left_out_and_makes_way(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1, "loss": 0.69}\n{"step": 2, "lo')
    recorder = MetricsRecorder(path)
    assert recorder.history == [{"step": 1, "loss": 0.69}]  # taken up
    recorder({"step": 2, "loss": 0.6, "text": "left out"})
    assert [row["step"] for row in recorder.history] == [1, 2]
    assert read_history(path) == recorder.history
    assert [json.loads(x) for x in path.read_text().splitlines()] == recorder.history
    assert read_history(tmp_path / "none.jsonl") == []


def test_a_first_line_that_was_cut(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"st')
    recorder = MetricsRecorder(path)
    assert recorder.history == []
    recorder({"step": 1})
    assert path.read_text() == '{"step": 1}\n'


def test_a_whole_line_that_only_lacks_its_newline_is_kept(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n\n{"step": 2}')
    recorder = MetricsRecorder(path)
    recorder({"step": 3})
    assert read_history(path) == [{"step": 1}, {"step": 2}, {"step": 3}]


@pytest.mark.parametrize(
    "line", [b'{"step": 2, "lo', b"Traceback", b"[2]", b"2", b"\xff\xfe"]
)
@pytest.mark.parametrize("after", [b'{"step": 3}\n', b""])
def test_any_other_line_that_is_no_row(line, after, tmp_path):
    """Not the last, or with a newline: no kill left it, and a row may be lost."""
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 1}\n' + line + b"\n" + after)
    with pytest.raises(ValueError, match=r"log\.jsonl, line 2, is b'.*JSON object"):
        read_history(path)
    with pytest.raises(ValueError, match="mend the line"):
        MetricsRecorder(path)


def test_nan_survives_the_file(tmp_path):
    recorder = MetricsRecorder(tmp_path / "log.jsonl")
    recorder({"step": 1, "loss": float("nan")})
    assert causes(read_history(tmp_path / "log.jsonl")) == ["diverging"]


class FakePlace:
    """Stands for the handle that IPython's `display` gives."""

    def __init__(self):
        self.figures = []

    def update(self, figure):
        self.figures.append(figure)


def test_live_draws_in_one_place(tiny_model, tokenizer, rows, monkeypatch):
    import IPython.display

    shown, place = [], FakePlace()

    def display(figure, display_id):
        shown.append(figure)
        return place

    monkeypatch.setattr(IPython.display, "display", display)
    recorder = MetricsRecorder(live=True, every=2)
    recorder.show()  # nothing to show yet
    tiny_trainer(tiny_model, tokenizer, rows, on_log=recorder).train()
    assert len(shown) == 1
    assert len(place.figures) == 2  # at steps 3 and 5
    recorder.show()
    assert len(place.figures) == 3
    assert plt.get_fignums() == []  # none left for the notebook to show once more


NOTEBOOK = """
from dpo_tutorial.monitoring import MetricsRecorder
recorder = MetricsRecorder(live=True, every=2)
for step in range(1, 5):
    recorder({"step": step, "loss": 0.69})
print("drawn up to", recorder._drawn)
"""
INTERRUPTED = "recorder({'step': 5, 'loss': 0.69})\nraise KeyboardInterrupt"
AFTER = "recorder._drawn, recorder._waits"


@pytest.mark.slow
def test_a_notebook_keeps_one_figure(monkeypatch):
    """The last row is in it, though it was logged between two redraws."""
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient")
    monkeypatch.delenv("MPLBACKEND", raising=False)
    cells = [
        nbformat.v4.new_code_cell(c) for c in (NOTEBOOK, AFTER, INTERRUPTED, AFTER)
    ]
    book = nbformat.v4.new_notebook(cells=cells)
    client.NotebookClient(book, timeout=120, allow_errors=True).execute()
    figure, text = book.cells[0].outputs
    assert "image/png" in figure.data
    assert text.text == "drawn up to 3\n"
    assert book.cells[1].outputs[0].data["text/plain"] == "(4, False)"
    assert [o.output_type for o in book.cells[2].outputs] == ["error"]
    assert book.cells[3].outputs[0].data["text/plain"] == "(5, False)"


@pytest.mark.parametrize("every", [0, -1])
def test_every_is_a_number_of_steps(every):
    with pytest.raises(ValueError, match="expected a number of steps"):
        MetricsRecorder(every=every)


# --- the dashboard --------------------------------------------------------------


def titles(history):
    figure = plot_dpo_training_metrics(history)
    figure.canvas.draw()
    plt.close(figure)
    return [axis.get_title() for axis in figure.axes]


def test_dashboard_has_the_four_panels_and_more_where_logged():
    four = {"loss", "rewards/margins", "rewards/chosen", "rewards/accuracies", "step"}
    basic = [{k: v for k, v in row.items() if k in four} for row in log(every=99)]
    assert [t.split(":")[0] for t in titles(basic)] == [
        "Loss",
        "Margin",
        "Rewards",
        "Accuracy",
    ]
    assert titles(log())[4].startswith("Log-probs")
    assert titles([row | {"kl": row["step"] / 10} for row in log()])[5] == (
        "KL: 2.75 at the end"
    )


def test_dashboard_titles_come_from_the_run():
    found = titles(log(steps=31, every=99))
    assert (
        found[0]
        == f"Loss: {LN2 - 0.2 * np.mean(np.arange(25, 31) / 30):.2f} at the end"
    )
    assert "and" in found[2]


def test_dashboard_levels():
    figure = plot_dpo_training_metrics(log())
    dotted = [line.get_ydata()[0] for a in figure.axes[:4] for line in a.lines[-1:]]
    assert dotted == [pytest.approx(LN2), 0.0, 0.0, 0.5]
    plt.close(figure)


def test_dashboard_puts_rows_in_order_and_the_later_of_two_counts():
    history = log(every=99)
    mixed = [{**history[4], "loss": 9.0}, *history[::-1]]
    figure = plot_dpo_training_metrics(mixed)
    line = figure.axes[0].lines[0]
    assert list(line.get_xdata()) == list(range(1, 31))
    assert list(line.get_ydata()) == [row["loss"] for row in history]
    plt.close(figure)


@pytest.mark.parametrize(
    "history",
    [
        [],
        [{"step": 1, "loss": 0.69}],
        [{"loss": 0.69}],
        [{"step": 1, "loss": float("nan")}, {"step": 2, "loss": None}],
        [row for row in log() if "eval_loss" in row],
    ],
)
def test_dashboard_of_little(history):
    assert len(titles(history)) >= 4


def test_a_single_row_can_be_seen():
    figure = plot_dpo_training_metrics([{"step": 1, "loss": 0.69}])
    assert figure.axes[0].lines[0].get_marker() == "."
    plt.close(figure)
