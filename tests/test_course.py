"""What is quoted from the notebooks is what they print."""

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
spec = importlib.util.spec_from_file_location("course", ROOT / "benchmarks/course.py")
course = importlib.util.module_from_spec(spec)
spec.loader.exec_module(course)


def test_the_quotations_are_what_the_notebooks_print():
    stored = json.loads(course.RESULTS.read_text(encoding="utf-8"))
    assert stored == course.quotations(), "run: python benchmarks/course.py"


def test_a_line_that_no_notebook_prints_is_an_error():
    with pytest.raises(ValueError, match="prints no line like"):
        course.quotations({"nothing": ("01", "^never printed")})
