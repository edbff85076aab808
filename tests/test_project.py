"""The final project: its data has both faults, its score keeps to its budget."""

import dataclasses
import importlib.util
import json
from pathlib import Path

import pandas as pd
import pytest

from dpo_tutorial import data_path, project
from dpo_tutorial.project import Score, enter, project_pairs, score_policy

ROOT = Path(__file__).parent.parent
spec = importlib.util.spec_from_file_location("maker", ROOT / "scripts/project.py")
maker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(maker)
SCORE = Score("ours", 0.3, 0.3, 0.2, 0.4, 2.0, 0.1, 7.0)


def test_the_pairs_are_what_the_script_makes():
    stored = (data_path("project") / "pairs.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in stored] == list(maker.planted())


def mean_lead(pairs):
    """Words that winners have more, on average."""
    return sum(map(maker._lead, pairs)) / len(pairs)


def test_each_repair_removes_its_fault_and_not_the_other():
    pairs = project_pairs()
    teams = {
        team: [p for p in pairs if p.metadata["team"] == team] for team in maker.TEAMS
    }
    turned = teams.pop(maker.TURNED)
    assert mean_lead(turned) < -1
    assert min(map(mean_lead, teams.values())) > 1
    assert mean_lead(maker.repair_team(pairs)) > 1
    mended = maker.repair_length(maker.repair_team(pairs))
    assert -0.2 < mean_lead(mended) <= 0
    assert len(mended) > len(pairs) / 2


def test_points_take_off_what_is_beyond_the_budget(monkeypatch):
    frame = pd.DataFrame({"tax": [0.1, 0.9]})
    sample = {"gold": [0.2, 0.4], "kl": [5.0, 7.0], "words": [3, 5]}
    monkeypatch.setattr(project, "measure", lambda *_: sample)
    monkeypatch.setattr(project, "run_tasks", lambda *_: None)
    monkeypatch.setattr(project, "alignment_tax", lambda *_: frame)
    score = score_policy(None, None, "ours")
    assert score.gold == pytest.approx(0.3)
    assert score.points == pytest.approx(0.3 - 0.1 * 2.0 - 0.5 * 0.4)
    assert (score.kl, score.tax, score.words) == (6.0, 0.9, 4.0)


@pytest.mark.parametrize("name", ["", " ", "a,b", 'a"b', "a\nb"])
def test_a_name_that_breaks_the_file_is_an_error(name):
    with pytest.raises(ValueError, match="expected one line"):
        score_policy(None, None, name)


def test_the_leaderboard_keeps_each_name_at_its_best(tmp_path):
    file = tmp_path / "board.csv"
    enter(SCORE, file)
    enter(dataclasses.replace(SCORE, name="theirs", points=0.4), file)
    table = enter(dataclasses.replace(SCORE, points=0.1), file)
    assert table["name"].tolist() == ["theirs", "ours"]
    assert table["points"].tolist() == [0.4, 0.3]
    pd.testing.assert_frame_equal(table, pd.read_csv(file))


def test_another_file_is_left_as_it_was(tmp_path):
    file = tmp_path / "board.csv"
    file.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="name another file"):
        enter(SCORE, file)
    assert file.read_text() == "a,b\n1,2\n"


def test_the_course_s_leaderboard_shows_that_both_faults_matter():
    board = pd.read_csv(data_path("project") / "leaderboard.csv").set_index("name")
    over = 0.1 * (board["kl"] - project.KL_BUDGET).clip(lower=0)
    over += 0.5 * (board["tax"] - project.TAX_BUDGET).clip(lower=0)
    assert (board["points"] - (board["gold"] - over)).abs().max() < 1e-3
    both = board.loc["both mended (reference solution)"]
    assert both["gold_low"] > board.drop(both.name)["gold_high"].max()
    assert board.loc["DPO on the file as it is", "gold"] < 0
