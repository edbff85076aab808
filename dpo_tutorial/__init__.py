"""Direct Preference Optimization, executed: the package behind the notebooks.

Importing it is cheap (no torch); import what you need from its modules.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__version__ = "0.1.0"


def data_path(name: str) -> Path:
    """Path of a file of the course's `data/`, in a checkout or an installed wheel."""
    return _shipped("_data", "data", name)


def results_path(name: str) -> Path:
    """Path of what a benchmark measured, as `data_path`; `benchmarks/` makes them."""
    return _shipped("_results", "benchmarks/results", name)


def recipes_path(name: str) -> Path:
    """Path of a file of `recipes/`, as `data_path`."""
    return _shipped("recipes", "recipes", name)


def _shipped(installed: str, checkout: str, name: str) -> Path:
    here = Path(__file__).parent
    path = here / installed / name
    return path if path.exists() else here.parent / checkout / name


def build_dir() -> Path:
    """Where the course caches what it computes; `make clean` forgets it.

    `DPO_TUTORIAL_BUILD` if set, else `build/` of the checkout, else the user's cache.
    """
    if chosen := os.environ.get("DPO_TUTORIAL_BUILD"):
        return Path(chosen).expanduser()
    root = Path(__file__).parent.parent
    if (root / "pyproject.toml").exists():
        return root / "build"
    return Path.home() / ".cache" / "dpo_tutorial"


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """Gives a place to write a file or folder; at the end it becomes `path`.

    After an error, or if the process is killed, `path` is as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        yield Path(scratch) / path.name
        os.replace(Path(scratch) / path.name, path)
