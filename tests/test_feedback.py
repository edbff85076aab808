"""AI feedback: the stand-in judge, candidates, pairs, a file that survives kills."""

import json
import math
import os
import subprocess
import sys

import pytest
import torch

from dpo_tutorial import iterative
from dpo_tutorial.candidates import different, draw, fingerprint, pair_up
from dpo_tutorial.feedback import (
    HeuristicJudge,
    build_preference_dataset,
    judge_pair,
    score_response,
)
from dpo_tutorial.iterative import on_policy_share
from dpo_tutorial.judges import GoldJudge, JudgeError, parse_verdict
from dpo_tutorial.models import load_model
from dpo_tutorial.reviews import gold_reward, prompts

QUESTION = "Which planet of the solar system is the largest?"
RIGHT = "The largest planet of the solar system is Jupiter, a giant of gas."
ASKED = prompts("train")[:6]


@pytest.fixture(scope="module")
def nano():
    return load_model("nano")


@pytest.fixture
def build(nano):
    def made(judge, asked=ASKED, **changes):
        options = {"temperatures": (0.7, 1.3), "batch_size": 4} | changes
        return build_preference_dataset(*nano, asked, judge, **options)

    return made


# --- the stand-in -----------------------------------------------------------


@pytest.mark.parametrize(
    "worse",
    [
        RIGHT[:-1],  # no end
        "It is Jupiter, a giant made of gas, as far as I know.",  # other words
        " ".join([RIGHT] * 2),  # repeats
        "Jupiter.",  # too short
        " ".join(f"{RIGHT[:-1]} {n}" for n in range(20)) + ".",  # too long
    ],
)
def test_each_mark_counts(worse):
    assert score_response(QUESTION, worse) < score_response(QUESTION, RIGHT) == 1


def test_marks_by_hand():
    # 4 of 5 words; pairs the-the, the-the, the-soup: 2 of 3; an end; "soup" of 1
    found = score_response("soup?", "The the the soup.")
    assert found == pytest.approx((4 / 5 + 2 / 3 + 1 + 1) / 4)
    assert score_response("soup?", " ...") == 0


def test_a_wrong_answer_scores_like_a_right_one():
    assert score_response(QUESTION, RIGHT.replace("Jupiter", "Mercury")) == 1


def test_the_heuristic_judge_speaks_json_and_has_no_favourite_place():
    judge = HeuristicJudge()
    assert parse_verdict(judge(QUESTION, RIGHT, "no")) == "A"
    assert judge_pair(judge, QUESTION, "no", RIGHT).outcome == "B"
    assert judge_pair(judge, QUESTION, RIGHT, RIGHT[:-1] + "!").outcome == "tie"


# --- candidates -------------------------------------------------------------


def test_a_trained_model_has_another_fingerprint(tiny_model):
    model = tiny_model()
    before = fingerprint(model)
    assert fingerprint(tiny_model()) == before
    with torch.no_grad():
        next(model.parameters())[0, 0] += 1e-3
    assert fingerprint(model) != before
    fingerprint(model.to(torch.bfloat16))


def test_draw_says_which_candidates_came_to_an_end(nano):
    long = draw(*nano, ASKED, temperature=1.0, seed=1)
    cut = draw(*nano, ASKED, temperature=1.0, seed=1, max_new_tokens=2)
    assert all(row["ended"] for row in long)
    assert not any(row["ended"] for row in cut)
    assert all(a["text"].startswith(b["text"]) for a, b in zip(long, cut, strict=True))


def test_of_candidates_too_alike_the_first_is_kept():
    texts = ["the soup was fresh.", "the bill was high.", "the soup was fresh!"]
    rows = [{"text": text} for text in texts]
    assert different(rows, 0.9) == rows[:2]
    assert different(rows, 1.0) == rows  # equal texts have a ratio of 1, not more


def test_pairs_are_of_two_candidates_each_once_in_either_order():
    kept = [[{"text": c} for c in "abc"]] * 40 + [[{"text": "alone"}], []]
    found = dict(pair_up(kept, 2, seed=0))
    assert found == dict(pair_up(kept, 2, seed=0)) != dict(pair_up(kept, 2, seed=1))
    assert len(found) == 80
    sets = [frozenset((a["text"], b["text"])) for _, a, b in found.values()]
    assert all(len(s) == 2 for s in sets)
    assert all(a != b for a, b in zip(sets[::2], sets[1::2], strict=True))
    first = sum(a["text"] < b["text"] for _, a, b in found.values())
    assert 20 < first < 60


# --- the dataset ------------------------------------------------------------


def test_pairs_are_the_verdicts_of_the_judge(build):
    sure = GoldJudge(temperature=1e-6)
    pairs, report = build(sure, temperatures=(0.7, 1.0, 1.3), pairs_per_prompt=3)
    assert len(pairs) == report.used > 6
    assert report.candidates == 18
    for pair in pairs:
        better, worse = (
            gold_reward(pair.prompt, y) for y in (pair.chosen, pair.rejected)
        )
        assert better > worse
        assert set(pair.metadata["temperatures"]) <= {0.7, 1.0, 1.3}
        assert all(parse_verdict(answer) for answer in pair.metadata["answers"])


def test_what_is_no_verdict_is_counted_and_not_used(build):
    def first(*question):
        return '{"winner": "A"}'

    def prose(*question):
        return "Response A is better."

    def down(*question):
        raise JudgeError("no answer")

    for judge, name in ((first, "tie"), (prose, "unparseable"), (down, "failed")):
        pairs, report = build(judge)
        assert pairs == []
        assert report.used == 0
        assert report.outcomes[name] == sum(report.outcomes.values()) == 6
        assert f"6 {name}" in repr(report)
    pairs, report = build(first, swap=False)
    assert len(pairs) == report.used == 6


def test_candidates_that_were_cut_off_are_not_used(build):
    pairs, report = build(GoldJudge(), max_new_tokens=2)
    assert (pairs, report.cut, report.used) == ([], 12, 0)


def test_similar_candidates_are_not_judged(build):
    _, every = build(GoldJudge(), max_similarity=1.0)
    _, report = build(GoldJudge(), max_similarity=0.3)
    assert report.alike > every.alike
    assert sum(report.outcomes.values()) == 6 - report.alike


def test_the_model_reads_the_input_and_the_judge_the_prompt(build):
    seen = set()

    def judge(prompt, a, b):
        seen.add(prompt)
        return '{"winner": "tie"}'

    plain = [f"number {i}" for i in range(6)]
    build(judge, asked=plain, as_input=lambda prompt: ASKED[plain.index(prompt)])
    assert seen == set(plain)


def test_a_failed_pair_is_asked_again_and_nothing_else(build, tmp_path):
    state = {"down": True, "calls": 0}

    def judge(prompt, a, b):
        state["calls"] += 1
        if state["down"] and prompt == ASKED[2]:
            raise JudgeError("429")
        return GoldJudge(temperature=1e-6)(prompt, a, b)

    path = tmp_path / "rows.jsonl"
    _, report = build(judge, path=path)
    assert report.outcomes["failed"] == 1
    state.update(down=False, calls=0)
    pairs, report = build(judge, path=path)
    assert report.outcomes["failed"] == 0
    assert state["calls"] == 2
    assert pairs == build(judge)[0]


def test_an_error_of_the_judge_passes_and_loses_nothing(build, tmp_path):
    calls = []

    def judge(*question):
        calls.append(question)
        if len(calls) == 7:
            raise ConnectionError
        return GoldJudge()(*question)

    path = tmp_path / "rows.jsonl"
    with pytest.raises(ConnectionError):
        build(judge, path=path)
    assert build(judge, path=path)[0] == build(judge)[0]
    keys = [json.loads(line).get("key") for line in path.read_text().splitlines()]
    assert len(keys) == len(set(keys)) == 1 + 12 + 6


def test_many_workers_give_the_same_data(build, tmp_path):
    many = build(GoldJudge(), path=tmp_path / "rows.jsonl", workers=8)[0]
    assert many == build(GoldJudge())[0]


def test_a_file_of_other_settings_is_refused(build, tmp_path, nano):
    path = tmp_path / "rows.jsonl"
    build(GoldJudge(), path=path)
    before = path.read_bytes()
    others = [
        {"judge": GoldJudge(length_bias=0.1)},
        {"judge": GoldJudge(), "asked": ASKED[:5]},
        {"judge": GoldJudge(), "temperatures": (0.7, 1.2)},
        {"judge": GoldJudge(), "seed": 1},
        {"judge": GoldJudge(), "max_similarity": 0.8},
        {"judge": GoldJudge(), "max_new_tokens": 32},
        {"judge": GoldJudge(), "as_input": lambda prompt: ASKED[0]},
    ]
    for changes in others:
        with pytest.raises(ValueError, match="was made with"):
            build(path=path, **changes)
    moved = load_model("nano")[0]
    with torch.no_grad():
        next(moved.parameters()).mul_(1.001)
    same = {"temperatures": (0.7, 1.3), "batch_size": 4, "path": path}
    with pytest.raises(ValueError, match="was made with"):
        build_preference_dataset(moved, nano[1], ASKED, GoldJudge(), **same)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "changes",
    [
        {"asked": []},
        {"asked": ASKED[0]},
        {"temperatures": (1.0,)},
        {"temperatures": (0.0, 1.0)},
        {"max_similarity": 0},
        {"max_similarity": 90},
        {"pairs_per_prompt": 0},
    ],
)
def test_settings_out_of_range_are_refused(build, changes):
    with pytest.raises(ValueError, match="expected"):
        build(GoldJudge(), **changes)


# --- rounds -----------------------------------------------------------------


def test_the_on_policy_share_is_the_overlap_of_two_distributions():
    q, pi = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.1, 0.3, 0.6])
    drawn = torch.tensor([0] * 5 + [1] * 3 + [2] * 2)  # as q has it
    share = on_policy_share(pi.log()[drawn], q.log()[drawn])
    assert share == pytest.approx(torch.minimum(pi, q).sum().item())
    assert on_policy_share(q.log(), q.log()) == 1


@pytest.mark.slow
def test_rounds_keep_one_adapter_and_the_reference_that_was_asked_for(monkeypatch):
    seen = []

    class Watched(iterative.TinyDPOTrainer):
        def __post_init__(self):
            super().__post_init__()
            seen.append(self)

    monkeypatch.setattr(iterative, "TinyDPOTrainer", Watched)
    short = {"steps": 2, "batch_size": 4}
    for moved in (False, True):
        seen.clear()
        rows = iterative.iterative_run(moved=moved, rates=(2e-2, 2e-2, 2e-2), **short)
        assert len({id(trainer.model) for trainer in seen}) == 1
        assert len({trainer.rows[0].prompt for trainer in seen}) > 1
        losses = [trainer.history[0]["loss"] for trainer in seen]
        at_ln_2 = [abs(loss - math.log(2)) < 1e-4 for loss in losses]
        assert at_ln_2 == [True, moved, moved]
        assert rows[-1]["kl"] != rows[0]["kl"]
    spent = [(row["labels"], row["steps"]) for row in rows]
    one = iterative.offline_run(**short)
    assert spent == [(row["labels"], row["steps"]) for row in one]
    assert spent == [(8, 2), (16, 4), (24, 6)]


# Forks of one process do the work, so that each kill costs no import of torch.
KILLED = """
import os, random, signal, sys, time
from pathlib import Path
from dpo_tutorial.feedback import build_preference_dataset
from dpo_tutorial.iterative import on_policy_share
from dpo_tutorial.judges import GoldJudge
from dpo_tutorial.models import load_model
from dpo_tutorial.reviews import prompts

model, tokenizer = load_model("nano")
gold = GoldJudge()

def judge(*question):
    time.sleep(0.005)
    return gold(*question)

def build(path):
    options = {"batch_size": 8, "pairs_per_prompt": 3, "path": path}
    return build_preference_dataset(model, tokenizer, asked, judge, **options)

def size():
    return path.stat().st_size if path.exists() else 0

asked, rng = prompts("train")[:32], random.Random(int(sys.argv[2]))
path, kills, sizes = Path(sys.argv[1]), 0, []
while kills < 20:
    before, child = size(), os.fork()
    if not child:
        try:
            build(path)
        finally:
            os._exit(0)
    while size() == before and kills % 4:  # each fourth may die before any row
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            break
        time.sleep(0.001)
    time.sleep(rng.uniform(0, 0.04))
    os.kill(child, signal.SIGKILL)
    kills += os.WIFSIGNALED(os.waitpid(child, 0)[1])
    sizes.append(size())
whole = path.with_suffix(".whole")
print(build(path) == build(whole), path.read_bytes() == whole.read_bytes())
print(kills, len(set(sizes)), sizes[-1] < size())
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_killed_twenty_times_it_ends_with_the_same_rows(tmp_path):
    env = os.environ | {"OMP_NUM_THREADS": "1"}  # a fork inherits no thread
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        KILLED,
        str(tmp_path / "rows"),
        "7",
    ]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    same, end = done.stdout.splitlines()[-2:]
    assert same == "True True"
    kills, moments, before_the_end = end.split()
    assert (kills, before_the_end) == ("20", "True")
    assert int(moments) >= 10
