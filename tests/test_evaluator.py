"""Whole evaluations: cut and gone on, in threads, from lists and models, and drawn."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from dpo_tutorial.evaluation import sample_responses
from dpo_tutorial.evaluator import DPOEvaluator, Evaluation, plot_outcomes
from dpo_tutorial.judges import OUTCOMES, GoldJudge, JudgeError, create_judge_prompt
from dpo_tutorial.plotting import COLORS
from dpo_tutorial.reviews import prompts, sample_review


def responses(seed, n):
    rng = random.Random(seed)
    return [sample_review(rng, prompt)[0] for prompt in prompts()[:n]]


N = 24
PROMPTS, FIRST, SECOND = prompts()[:N], responses(0, N), responses(1, N)
FIRST[3] = SECOND[3]  # one pair that ties unasked


class Counting:
    """The gold judge, noting what it is asked; stops with `error` at call `at`."""

    def __init__(self, at=None, error=KeyboardInterrupt):
        self.at, self.error, self.asked = at, error, []
        self.judge = GoldJudge(sloppy=0.1)

    def __repr__(self):
        return f"Counting({self.judge})"

    def __call__(self, *question):
        self.asked.append(question)
        if len(self.asked) == self.at:
            raise self.error
        return self.judge(*question)


def evaluate(judge, path=None, **settings):
    evaluator = DPOEvaluator(FIRST, SECOND, None, judge)
    return evaluator.pairwise_evaluation(PROMPTS, path=path, **settings)


@pytest.fixture(scope="module")
def whole():
    """The evaluation as it is when nothing comes between."""
    return evaluate(GoldJudge(sloppy=0.1)).table


@pytest.fixture
def path(tmp_path):
    return tmp_path / "judgements.jsonl"


def test_a_row_a_pair_in_order_with_all_that_was_said(whole):
    assert list(whole["prompt"]) == PROMPTS
    assert list(whole["response_a"]) == FIRST
    assert list(whole["response_b"]) == SECOND
    assert set(whole["outcome"]) == {"A", "B", "tie", "unparseable"}
    assert whole["outcome"][3] == "tie"
    assert whole["answers"].map(len).tolist() == [2 * (i != 3) for i in range(N)]
    assert "key" not in whole


def test_with_a_file_the_table_is_the_same(whole, path):
    pd.testing.assert_frame_equal(evaluate(GoldJudge(sloppy=0.1), path).table, whole)
    assert len(path.read_text().splitlines()) == 1 + N


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_a_cut_run_goes_on_and_asks_nothing_twice(whole, path, workers, error):
    first = Counting(at=17, error=error)
    with pytest.raises(error):
        evaluate(first, path, workers=workers)
    done = [json.loads(line)["key"] for line in path.read_text().splitlines()[1:]]
    assert len(done) >= 8  # 17 calls, two a pair
    second = Counting()
    table = evaluate(second, path, workers=workers).table
    pd.testing.assert_frame_equal(table, whole)
    left = [i for i in range(N) if str(i) not in done and i != 3]
    asked = {PROMPTS.index(question[0]) for question in second.asked}
    assert asked == set(left)
    assert len(second.asked) == 2 * len(left)
    third = Counting()
    pd.testing.assert_frame_equal(evaluate(third, path).table, whole)
    assert third.asked == []


SLOW = """
import sys, time
from dpo_tutorial.evaluator import DPOEvaluator
from test_evaluator import FIRST, PROMPTS, SECOND, Counting

class Slow(Counting):
    def __call__(self, *question):
        time.sleep(0.03)
        return super().__call__(*question)

evaluator = DPOEvaluator(FIRST, SECOND, None, Slow())
evaluator.pairwise_evaluation(PROMPTS, path=sys.argv[1], workers=2)
"""


@pytest.mark.slow
def test_a_killed_process_is_gone_on_with(whole, path):
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, path], cwd=os.path.dirname(__file__)
    )
    while not (path.exists() and path.read_bytes().count(b"\n") > 5):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    lines = path.read_text().split("\n")[1:-1]
    assert 5 <= len(lines) < N
    judge = Counting()
    pd.testing.assert_frame_equal(evaluate(judge, path).table, whole)
    done = [int(json.loads(line)["key"]) for line in lines]
    assert len(judge.asked) == 2 * len(set(range(N)) - {3, *done})


def test_workers_give_the_same_table_and_ask_at_the_same_time(whole):
    waiting = threading.Barrier(4, timeout=30)
    calls = iter(range(4))

    class Meeting(Counting):
        def __call__(self, *question):
            if next(calls, None) is not None:
                waiting.wait()  # passes only once four are asking
            return super().__call__(*question)

    judge = Meeting()
    pd.testing.assert_frame_equal(evaluate(judge, workers=4).table, whole)
    assert len(judge.asked) == 2 * (N - 1)


def test_failed_pairs_are_kept_and_only_they_are_asked_again(whole, path):
    class Down(Counting):
        def __call__(self, *question):
            if PROMPTS.index(question[0]) in (2, 5):
                raise JudgeError("no answer")
            return super().__call__(*question)

        def __repr__(self):
            return repr(Counting())

    found = evaluate(Down(), path)
    assert found.counts["failed"] == 2
    assert list(found.table["error"][[2, 5]]) == ["no answer"] * 2
    assert sum(found.counts.values()) == N
    judge = Counting()
    pd.testing.assert_frame_equal(evaluate(judge, path).table, whole)
    assert {PROMPTS.index(question[0]) for question in judge.asked} == {2, 5}


@pytest.mark.parametrize(
    "change",
    [
        {"judge": GoldJudge(sloppy=0.2)},
        {"swap": False},
        {"first": [*FIRST[:-1], " good."]},
        {"prompts": PROMPTS[:-1]},
    ],
)
def test_a_file_of_another_evaluation_is_refused_and_left_alone(path, change):
    evaluate(GoldJudge(sloppy=0.1), path)
    before = path.read_bytes()
    asked = change.get("prompts", PROMPTS)
    evaluator = DPOEvaluator(
        change.get("first", FIRST)[: len(asked)],
        SECOND[: len(asked)],
        None,
        change.get("judge", GoldJudge(sloppy=0.1)),
    )
    with pytest.raises(ValueError, match="was made with"):
        evaluator.pairwise_evaluation(
            asked, path=path, swap=change.get("swap", True), workers=1
        )
    assert path.read_bytes() == before


def test_a_judge_goes_by_a_name_without_its_place_in_memory(path):
    class Asks:  # no repr of its own
        def __init__(self, question):
            self.question = question

        def __call__(self, *texts):
            return GoldJudge()(*texts)

    evaluate(Asks(create_judge_prompt), path)
    evaluate(Asks(create_judge_prompt), path)
    name = json.loads(path.read_text().splitlines()[0])["settings"]["judge"]
    assert name.endswith("Asks object>")
    assert "0x" not in name


def answer_a(*_):
    return '{"winner": "A"}'


def test_a_function_is_a_judge_and_without_swap_it_is_asked_once(path):
    found = evaluate(answer_a, path, swap=False)
    assert found.counts == {"A": N - 1, "tie": 1, "B": 0, "unparseable": 0, "failed": 0}
    assert '"judge": "answer_a"' in path.read_text()
    assert set(found.table["answers"].map(len)) == {0, 1}
    assert evaluate(answer_a).counts["tie"] == N  # the first in place: no winner


@pytest.mark.parametrize(
    ("first", "asked", "options", "message"),
    [
        (FIRST, [], {}, "0 prompts"),
        (FIRST[1:], PROMPTS, {}, f"{N - 1} responses to {N} prompts"),
        ("x" * N, PROMPTS, {}, "expected a list of texts"),
        ([*FIRST[1:], None], PROMPTS, {}, "expected a list of texts"),
        (FIRST, PROMPTS[0], {}, "expected a list of texts"),
        (FIRST, PROMPTS, {"workers": 0}, "0 workers"),
    ],
)
def test_what_cannot_be_judged_is_an_error_before_anything_runs(
    path, first, asked, options, message
):
    judge = Counting()
    evaluator = DPOEvaluator(first, SECOND, None, judge)
    with pytest.raises(ValueError, match=message):
        evaluator.pairwise_evaluation(asked, path=path, **options)
    assert not path.exists()
    assert judge.asked == []


def test_a_list_of_the_wrong_length_is_noticed_before_a_model_samples():
    class Model:
        def generate(self, **_):
            raise AssertionError("sampled")

    for sides in ((Model(), ["a"]), (["a"], Model())):
        with pytest.raises(ValueError, match="1 responses to 2 prompts"):
            DPOEvaluator(*sides, None, GoldJudge()).pairwise_evaluation(PROMPTS[:2])


def test_series_arrays_and_tuples_do_as_lists(whole):
    evaluator = DPOEvaluator(
        pd.Series(FIRST), tuple(SECOND), None, GoldJudge(sloppy=0.1)
    )
    found = evaluator.pairwise_evaluation(pd.Series(PROMPTS)).table
    pd.testing.assert_frame_equal(found, whole)


def test_models_sample_by_the_seed_each_side_its_own(tiny_model, tokenizer):
    model, asked = tiny_model(), ["the soup was", "bread"]
    options = {"max_new_tokens": 6, "temperature": 0.7}

    def table(seed):
        evaluator = DPOEvaluator(model, model, tokenizer, answer_a)
        return evaluator.pairwise_evaluation(asked, seed=seed, **options).table

    for seed in (0, 1):
        for side, name in enumerate(("response_a", "response_b")):
            expected = sample_responses(
                model, tokenizer, asked, seed=2 * seed + side, **options
            )
            assert list(table(seed)[name]) == expected
    sides = ("response_a", "response_b")
    assert len({tuple(table(seed)[name]) for seed in (0, 1) for name in sides}) == 4
    pd.testing.assert_frame_equal(table(0), table(0))


def evaluation(**counts):
    outcomes = [name for name, n in counts.items() for _ in range(n)]
    return Evaluation(pd.DataFrame({"outcome": outcomes}))


def test_the_summary_counts_ties_half_and_leaves_out_what_was_not_judged():
    found = evaluation(A=5, B=2, tie=3, unparseable=4, failed=1)
    assert found.win_rate.mean == pytest.approx(0.65)
    assert found.win_rate.low < 0.65 < found.win_rate.high
    assert list(found.counts) == list(OUTCOMES)
    assert repr(found).startswith("win rate 0.65 [")
    assert "over 10 pairs: 5 won, 2 lost, 3 tied" in repr(found)
    assert repr(found).endswith("4 unparseable, 1 failed")


def test_an_evaluation_without_a_judged_pair_says_so():
    found = evaluation(unparseable=2, failed=3)
    assert repr(found).startswith("win rate unknown over 0 pairs: 0 won")
    with pytest.raises(ValueError, match="none of 5 pairs was judged"):
        _ = found.win_rate


def test_the_figure_shows_every_outcome_that_there_is():
    found = {
        "judge over all": evaluation(A=5, B=2, tie=3),
        "sloppy": evaluation(A=1, B=1, unparseable=17, failed=1),
        "silent": evaluation(failed=2),
    }
    figure = plot_outcomes(found)
    (axis,) = figure.axes
    labels = [text.get_text() for text in axis.get_yticklabels()]
    assert labels[0] == f"judge over all\nwin rate {found['judge over all'].win_rate}"
    assert labels[2] == "silent\nwin rate unknown"
    (legend,) = figure.legends
    shown = [text.get_text() for text in legend.get_texts()]
    assert shown == ["won", "tied", "lost", "unparseable", "failed"]
    widths = [[bar.get_width() for bar in bars] for bars in axis.containers]
    assert widths[0] == pytest.approx([50, 5, 0])
    assert widths[3] == pytest.approx([0, 85, 0])
    assert [sum(row) for row in zip(*widths, strict=True)] == pytest.approx([100] * 3)
    assert axis.containers[0][0].get_facecolor()[:3] == pytest.approx(
        plt.matplotlib.colors.to_rgb(COLORS["policy"])
    )
    assert [text.get_text() for text in axis.texts if text.get_text()] == (
        ["5", "1", "3", "2", "1", "17", "1", "2"]
    )
    plt.close(figure)


def test_the_figure_leaves_out_what_nobody_has():
    figure = plot_outcomes({"gold": evaluation(A=5, B=2)})
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert shown == ["won", "lost"]
    plt.close(figure)
