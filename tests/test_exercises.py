"""Exercises: solutions pass, untouched copies fail, wrong answers are caught."""

import importlib
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "scripts"))  # exercises.py imports its neighbour

exercises = importlib.import_module("exercises")
NAMES = [
    path.stem
    for path in sorted((ROOT / "notebooks" / "src").glob("[0-9][0-9]_*.py"))
    if path.stem[:2] not in ("00", "13")  # the tour and the project have none
]
each_chapter = pytest.mark.parametrize("name", NAMES)


def source(name):
    path = exercises.SOURCES / f"{name}.py"
    assert path.exists(), f"chapter {name} has no exercises: write {path}"
    return path


def committed(folder, name):
    path = ROOT / "notebooks" / folder / f"{name}.ipynb"
    assert path.exists(), f"run: python scripts/exercises.py build {name[:2]}"
    return nbformat.read(path, as_version=4)


def texts(book):
    return [(cell.cell_type, cell.source) for cell in book.cells]


@each_chapter
def test_source_keeps_to_the_format(name):
    assert exercises.faults(source(name)) == []


@each_chapter
def test_every_answer_does_what_it_should(name):
    """Solutions pass; untouched cells and each wrong answer fail, with the hint."""
    with exercises.untouched_process():
        results = list(exercises.outcomes(source(name)))
    assert not [str(result) for result in results if not result.ok]
    tasks = {result.task for result in results}
    assert len(tasks) >= 3
    for task in tasks:
        mine = [result for result in results if result.task == task]
        assert {"untouched", "solution"} <= {result.who for result in mine}
        wrong = [result for result in mine if result.who.startswith("wrong")]
        assert len({result.who for result in wrong}) >= 2, f"{task}: two wrong answers"
        assert any(result.visible for result in wrong), (
            f"{task}: students never see hidden tests, so a visible one must catch one"
        )


@each_chapter
def test_wrong_answers_name_tasks_that_exist(name):
    answers = runpy.run_path(str(exercises.WRONG / f"{name}.py"))
    book = exercises.complete(source(name))
    tasks = {exercises.role(cell)[1] for cell in book.cells} - {""}
    assert set(answers["WRONG"]) == tasks
    assert set(answers.get("RIGHT", {})) <= tasks


@each_chapter
def test_committed_copies_are_built_from_the_source(name):
    redo = f"run: python scripts/exercises.py build {name[:2]}"
    student = exercises.student_copy(source(name))
    assert committed("exercises", name) == nbformat.from_dict(student), redo
    solution = committed("solutions", name)
    assert texts(solution) == texts(exercises.complete(source(name))), redo
    assert exercises.litter(solution) == []
    code = [cell for cell in solution.cells if cell.cell_type == "code"]
    counts = [cell.execution_count for cell in code if cell.source]
    assert counts == list(range(1, len(counts) + 1)), "one clean run, in order"
    for folder in ("exercises", "solutions"):
        book = committed(folder, name)
        assert f"/blob/main/notebooks/{folder}/{name}.ipynb)" in book.cells[0].source


@each_chapter
def test_student_copies_hold_no_solution(name):
    """Against an oracle of our own: what stands between the markers is nowhere."""
    text = source(name).read_text()
    student = committed("exercises", name)
    assert not any(cell.get("outputs") for cell in student.cells)
    assert not any(cell.get("execution_count") for cell in student.cells)
    everything = json.dumps([cell.source for cell in student.cells])
    assert "BEGIN" not in everything
    assert "SOLUTION" not in everything
    assert "HIDDEN" not in everything
    for kind in ("SOLUTION", "HIDDEN TESTS"):
        pattern = rf"### BEGIN {kind}\n(.*?)[ \t]*### END {kind}"
        blocks = re.findall(pattern, text, re.S)
        assert len(blocks) >= 3
        for block in blocks:
            assert json.dumps(block.strip("\n"))[1:-1] not in everything
            lines = [line for line in block.splitlines() if line.strip()]
            first = json.dumps("\n".join(lines[:3]))[1:-1]
            assert first not in everything, "the answer starts elsewhere in the copy"


@each_chapter
def test_nbgrader_accepts_both_copies(name):
    from nbgrader.nbgraderformat import MetadataValidator

    for folder in ("exercises", "solutions"):
        book = committed(folder, name)
        nbformat.validate(book)
        MetadataValidator().validate_nb(book)  # schema, unique grade_ids, cell types
        marks = [c.metadata.nbgrader for c in book.cells if "nbgrader" in c.metadata]
        ids = [mark["grade_id"] for mark in marks]
        assert len(ids) == len(set(ids)) >= 6
        assert all(mark["points"] > 0 for mark in marks if mark["grade"])


def test_no_exercises_without_a_chapter():
    for folder, suffix in (
        ("src/exercises", "py"),
        ("exercises", "ipynb"),
        ("solutions", "ipynb"),
    ):
        found = {p.stem for p in (ROOT / "notebooks" / folder).glob(f"*.{suffix}")}
        assert found <= set(NAMES), folder
    assert {p.stem for p in exercises.WRONG.glob("*.py")} <= set(NAMES)


def test_nbmake_runs_solutions_and_leaves_student_copies_alone():
    options = ["--nbmake", "--collect-only", "-q", "notebooks"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert f"notebooks/solutions/{NAMES[0]}.ipynb" in done.stdout
    assert "notebooks/exercises/" not in done.stdout


def test_nbgrader_itself_makes_the_same_student_copy(tmp_path, monkeypatch):
    """`nbgrader generate_assignment` on a solution, gradebook and all."""
    from nbgrader.apps import NbGraderAPI
    from traitlets.config import Config

    tools = Path(sys.executable).parent  # nbgrader starts alembic by name
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    name = NAMES[0]
    folder = tmp_path / "source" / "dpo"
    folder.mkdir(parents=True)
    nbformat.write(committed("solutions", name), folder / f"{name}.ipynb")
    config = Config()
    config.CourseDirectory.root = str(tmp_path)
    config.Exchange.root = str(tmp_path / "exchange")
    config.CourseDirectory.db_url = f"sqlite:///{tmp_path / 'gradebook.db'}"
    done = NbGraderAPI(config=config).generate_assignment("dpo")
    assert done["success"], done
    released = nbformat.read(tmp_path / "release" / "dpo" / f"{name}.ipynb", 4)
    ours = committed("exercises", name)
    assert texts(released)[1:] == texts(ours)[1:]  # the first has title and badge
    for theirs, mine in zip(released.cells[1:], ours.cells[1:], strict=True):
        assert theirs.metadata == mine.metadata


def marks(grade_id, check=False):
    table = {"grade": check, "grade_id": grade_id, "locked": check, "points": 1}
    table |= {"schema_version": 3, "solution": not check, "task": False}
    return f"nbgrader={json.dumps(table)}"


TINY = f"""# %% [markdown]
# # 01 · Tiny: exercises
#
# BADGE

# %%
# BOOTSTRAP

# %%
import torch

given = torch.ones(2)

# %% {marks("task1")}
def double(x):
    ### BEGIN SOLUTION
    return 2 * x
    ### END SOLUTION

# %% {marks("task1_check", check=True)}
assert double(3) == 6, "twice, not squared"
assert given.sum() == 2, "given has changed"
### BEGIN HIDDEN TESTS
assert double(2) == 4, "twice"
### END HIDDEN TESTS

# %% {marks("task2")}
### BEGIN SOLUTION
total = given.sum()
### END SOLUTION

# %% {marks("task2_check", check=True)}
assert total == 2, "sum, not product"
### BEGIN HIDDEN TESTS
assert total == given.sum(), "of what was given"
### END HIDDEN TESTS
"""
TINY_WRONG = """WRONG = {
    "task1": [
        ("squares", "return x**2", "not squared"),
        ("in place", "given.mul_(2)\\nreturn 2 * x", "given has changed"),
    ],
    "task2": [("product", "total = given.prod()", "not product")],
}"""


@pytest.mark.parametrize(
    ("old", "new", "surprises"),
    [
        ("", "", []),
        ("return 2 * x", "return 3 * x", ["task1 solution"]),
        ("total = given", "total = double(1) * given", ["task2 solution"]),
        ('== 6, "twice', '> 5, "twice', ["task1 wrong: squares"]),
        ("not product", "think", ["task2 wrong: product"]),
        ("given =", "total = 2\ngiven =", ["task2 untouched"]),
        ("given.sum() == 2", "True", ["task1 wrong: in place"]),
    ],
)
def test_surprises_are_noticed(tmp_path, monkeypatch, old, new, surprises):
    """What the tests above rely on: each broken exercise is told from a sound one."""
    path, answers = tmp_path / "01_tiny.py", tmp_path / "wrong"
    path.write_text(TINY.replace(old, new) if old else TINY)
    answers.mkdir()
    (answers / path.name).write_text(TINY_WRONG)
    monkeypatch.setattr(exercises, "WRONG", answers)
    with exercises.untouched_process():
        results = list(exercises.outcomes(path))
    assert len(results) == 7
    assert [f"{r.task} {r.who}" for r in results if not r.ok] == surprises
