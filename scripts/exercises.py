"""Build and check the exercises.

    python scripts/exercises.py build [NN …]   source -> student copy, executed solution
    python scripts/exercises.py check [NN …]   solutions, student copies, wrong answers

A source, `notebooks/src/exercises/NN_topic.py`, holds tasks with their solutions
between nbgrader's markers. `notebooks/exercises/` gets the copy without them, made by
nbgrader's own preprocessors; `notebooks/solutions/` the whole, executed, which is what
nbgrader takes as an assignment's source. Wrong answers that people give are kept in
`tests/wrong_answers/NN_topic.py`; tests/test_exercises.py uses the functions below.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import os
import random
import re
import runpy
import tempfile
import textwrap
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from notebooks import ROOT, clean_outputs, execute, read_source, with_headers

SOURCES = ROOT / "notebooks" / "src" / "exercises"
WRONG = ROOT / "tests" / "wrong_answers"
KINDS = {
    "mathematics on paper and in a cell",
    "implementation",
    "experiment with a prediction",
    "find the bug",
}
TITLE = re.compile(r"\A# (\d\d) · .+: exercises$", re.M)
TASK = re.compile(
    r"^## Task (\d) · \S.*\n\n"
    r"\*Kind: (.+) · Level: (?:easy|medium|hard) · (\d+) minutes\*$",
    re.M,
)
SOLUTION = re.compile(
    r"^([ \t]*)### BEGIN SOLUTION\n(.*?)^[ \t]*### END SOLUTION$", re.M | re.S
)
HIDDEN = re.compile(
    r"^[ \t]*### BEGIN HIDDEN TESTS\n(.*?)^[ \t]*### END HIDDEN TESTS\n?", re.M | re.S
)
# What must not be in outputs: absolute paths, progress bars, rates, times of a run
LITTER = re.compile(r"/(?:home|root|tmp|work|Users)/|%\||\bit/s\b|\d ?ms\b|Wall time")


def chosen(numbers: list[str]) -> list[Path]:
    """The sources whose names start with one of `numbers`; all of them for none."""
    paths = sorted(SOURCES.glob("[0-9][0-9]_*.py"))
    if unknown := set(numbers) - {p.name[:2] for p in paths}:
        raise SystemExit(f"no exercises numbered {sorted(unknown)}: see {SOURCES}")
    return [p for p in paths if not numbers or p.name[:2] in numbers]


def complete(source: Path, folder: str = "solutions"):
    """A source as a notebook of `folder`: badge, bootstrap cell, title, stable ids."""
    text = with_headers(source.read_text(), f"{folder}/{source.stem}")
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / source.name
        path.write_text(text)
        book = read_source(path)
    del book.metadata["jupytext"]  # a copy that is saved must not write to the source
    if folder == "solutions":
        title = book.cells[0]
        title.source = title.source.replace(": exercises", ": solutions", 1)
    return book


def student_copy(source: Path):
    """The notebook that students get, made as `nbgrader generate_assignment` does."""
    from nbgrader import preprocessors as steps

    book = complete(source, "exercises")
    for name in (
        "LockCells",
        "ClearSolutions",
        "ClearOutput",
        "ClearHiddenTests",
        "ClearMarkScheme",
        "ComputeChecksums",
        "CheckCellMetadata",
    ):
        book, _ = getattr(steps, name)().preprocess(book, {})
    return book


def role(cell) -> tuple[str, str]:
    """("solution", "check" or "", the task's grade_id) by a cell's metadata."""
    marks = cell.metadata.get("nbgrader", {})
    if marks.get("solution"):
        return "solution", marks["grade_id"]
    if marks.get("grade"):
        return "check", marks["grade_id"].removesuffix("_check")
    return "", ""


def faults(source: Path) -> list[str]:
    """What a source lacks of the format that all chapters share; [] if nothing."""
    book, found = complete(source, "exercises"), []
    first, prose = book.cells[0].source, [c.source for c in book.cells]
    tasks = [match for text in prose if (match := TASK.search(text))]
    kinds = {kind.strip() for task in tasks for kind in task[2].split(",")}
    total = sum(int(task[3]) for task in tasks)
    title = TITLE.search(first)
    if not title or title[1] != source.name[:2]:
        found.append("title is not '# NN · Topic: exercises'")
    for link in (f"](../{source.stem}.ipynb)", f"](../solutions/{source.stem}.ipynb)"):
        if link not in first:
            found.append(f"first cell lacks the link {link}")
    if not re.search(rf"\b{total} minutes", first) or not 30 <= total <= 50:
        found.append(
            f"tasks take {total} minutes: want 30 to 50, said in the first cell"
        )
    if [int(task[1]) for task in tasks] != list(range(1, len(tasks) + 1)):
        found.append("tasks are not numbered 1, 2, …")
    if not 3 <= len(tasks) <= 5 or kinds != KINDS:
        found.append(f"{len(tasks)} tasks of kinds {sorted(kinds)}")
    roles = [role(cell) for cell in book.cells]
    graded = [this for this in roles if this[0]]
    pairs = itertools.pairwise(roles)
    if any(a[0] == "solution" and b != ("check", a[1]) for a, b in pairs):
        found.append("a check cell stands right after its solution cell")
    wanted = [(what, f"task{task[1]}") for task in tasks for what in ORDER]
    if graded != wanted:
        found.append(f"solution and check cells are {graded}, not {wanted}")
    return found + [fault for cell in book.cells for fault in cell_faults(cell)]


ORDER = ("solution", "check")


def cell_faults(cell) -> list[str]:
    """What is wrong with the markers and the metadata of one cell."""
    what, name = role(cell)
    found = []
    if len(SOLUTION.findall(cell.source)) != (what == "solution"):
        found.append(f"{name or cell.source[:40]!r}: one solution region in each")
    if bool(HIDDEN.search(cell.source)) != (what == "check"):
        found.append(f"{name or cell.source[:40]!r}: hidden tests in check cells")
    if what == "check" and cell.metadata.nbgrader.get("points", 0) <= 0:
        found.append(f"{name}: a check without points")
    hinted = re.sub(HIDDEN, "", cell.source)
    if what == "check" and "assert" not in hinted:
        found.append(f"{name}: no visible assert")
    return found


def answered(cell_source: str, code: str) -> str:
    """A solution cell with `code` in place of what stands between the markers."""

    def put(match: re.Match) -> str:
        return textwrap.indent(textwrap.dedent(code).strip("\n"), match[1])

    return SOLUTION.sub(put, cell_source, count=1)


@contextlib.contextmanager
def untouched_process() -> Iterator[None]:
    """For notebook code to run in: settings of torch and matplotlib come back."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    import torch

    dtype, threads, env = (
        torch.get_default_dtype(),
        torch.get_num_threads(),
        os.environ.copy(),
    )
    settings = matplotlib.rcParams.copy()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.filterwarnings("ignore", "FigureCanvasAgg is non-interactive")
            yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_num_threads(threads)
        plt.close("all")
        matplotlib.rcParams.update(settings)
        os.environ.clear()
        os.environ.update(env)


class Space(dict):
    """A notebook's global names, with a way back to how they and the dice were."""

    def run(self, source: str, name: str) -> Exception | None:
        """Execute one cell; what it raised, None if nothing."""
        try:
            exec(compile(source, name, "exec"), self)
        except Exception as error:
            return error
        return None

    def saved(self) -> tuple:
        """Names, what their tensors hold, and the state of three random generators."""
        import numpy as np
        import torch

        tensors = [v for v in self.values() if isinstance(v, torch.Tensor)]
        held = [(v, v.detach().clone(), v.requires_grad) for v in tensors]
        dice = random.getstate(), np.random.get_state(), torch.get_rng_state()
        return dict(self), held, *dice

    def restore(self, state: tuple) -> None:
        import numpy as np
        import torch

        names, held, plain, numpys, torchs = state
        self.clear()  # the same dict: functions made before keep seeing their globals
        self.update(names)
        for tensor, values, trained in held:  # an answer may have changed them in place
            tensor.requires_grad_(trained).detach().copy_(values)
        random.setstate(plain)
        np.random.set_state(numpys)
        torch.set_rng_state(torchs)


@dataclass
class Outcome:
    """What happened to one answer to one task, and whether it should have."""

    task: str
    who: str  # "solution", "untouched", "right: …" or "wrong: …"
    ok: bool
    note: str
    visible: bool = False  # a wrong answer that the students' own check catches too

    def __str__(self) -> str:
        return f"{'ok ' if self.ok else 'NOT'} {self.task:6} {self.who}: {self.note}"


def said(error: Exception | None) -> str:
    return "passes" if error is None else f"{type(error).__name__}: {error}"


def attempt(space: Space, state, name: str, answer: str, *checks: str) -> list:
    """What an answer raises, or each check after it; every one from the same state."""
    raised = []
    for check in checks:
        space.restore(state)
        before = space.run(answer, f"<{name}>")
        if before and not isinstance(before, NotImplementedError):
            before = RuntimeError(f"before the check, {said(before)}")
            raised.append(before)
        else:  # the untouched stub of an experiment: its check must fail by itself
            raised.append(space.run(check, f"<{name} check>"))
    return raised


def outcomes(source: Path) -> Iterator[Outcome]:
    """Every answer known for a chapter, each tried with no other task solved."""
    answers = runpy.run_path(str(WRONG / source.name))
    book, stubs = complete(source), student_copy(source)
    space = Space(__name__="__main__")
    for number, cell in enumerate(book.cells):
        what, task = role(cell)
        if cell.cell_type != "code" or what == "check":
            continue
        if not what:
            if error := space.run(cell.source, f"<{source.stem} cell {number}>"):
                raise RuntimeError(f"{source.stem}, cell {number}: {said(error)}")
            continue
        state = space.saved()
        check, bare = book.cells[number + 1].source, stubs.cells[number + 1].source

        def tried(answer, *checks, task=task, state=state):
            return attempt(space, state, task, answer, *checks)

        (error,) = tried(stubs.cells[number].source, bare)
        yield Outcome(task, "untouched", error is not None, said(error))
        for who, code, words in answers["WRONG"].get(task, []):
            full, seen = tried(answered(cell.source, code), check, bare)
            caught = isinstance(full, AssertionError) and words in str(full)
            where = "" if seen else " [by a hidden test alone]"
            note = f"{said(full)}{where}" + ("" if caught else f" (wanted: {words!r})")
            yield Outcome(task, f"wrong: {who}", caught, note, seen is not None)
        for who, code in answers.get("RIGHT", {}).get(task, []):
            (error,) = tried(answered(cell.source, code), check)
            yield Outcome(task, f"right: {who}", error is None, said(error))
        (error,) = tried(cell.source, check)
        yield Outcome(task, "solution", error is None, said(error))
        space.restore(state)


def litter(book) -> list[str]:
    """Outputs that differ from run to run or place to place, or are noise."""
    found = []
    for cell in book.cells:
        for output in cell.get("outputs", []):
            text = output.get("text", "") + output.get("data", {}).get("text/plain", "")
            if output.get("name") == "stderr" or LITTER.search(text):
                found.append(text[:200])
    return found


def build(numbers: list[str]) -> None:
    """Write the student copy and the executed solution of each source."""
    import nbformat

    for source in chosen(numbers):
        student, solution = student_copy(source), complete(source)
        seconds = execute(solution, ROOT / "notebooks" / "solutions")
        clean_outputs(solution)
        if bad := litter(solution):
            raise SystemExit(f"{source.stem}: to be kept out of outputs: {bad}")
        for folder, book in (("exercises", student), ("solutions", solution)):
            target = ROOT / "notebooks" / folder / f"{source.stem}.ipynb"
            target.parent.mkdir(exist_ok=True)
            nbformat.write(book, target)
        print(f"{source.stem}: student copy; solution executed in {seconds:.0f} s")


def check(numbers: list[str]) -> None:
    """Print what happens to each answer of each chapter; fail if one surprises."""
    surprises = 0
    for source in chosen(numbers):
        print(source.stem)
        bad, start = faults(source), time.perf_counter()
        with untouched_process():
            results = list(outcomes(source))
        for line in bad:
            print("NOT format:", line)
        print(*results, sep="\n")
        print(f"{len(results)} answers in {time.perf_counter() - start:.1f} s")
        surprises += len(bad) + sum(not result.ok for result in results)
    if surprises:
        raise SystemExit(f"{surprises} not as expected")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["build", "check"])
    parser.add_argument("numbers", nargs="*", help="such as 01 04; none: all")
    arguments = parser.parse_args()
    {"build": build, "check": check}[arguments.command](arguments.numbers)


if __name__ == "__main__":
    main()
