"""Direct Preference Optimization, executed: the package behind the notebooks.

Importing it is cheap (no torch); import what you need from its modules.
"""

import os
from pathlib import Path

__version__ = "0.1.0"


def data_path(name: str) -> Path:
    """Path of a file of the course's `data/`, in a checkout or an installed wheel."""
    here = Path(__file__).parent
    installed = here / "_data" / name
    return installed if installed.exists() else here.parent / "data" / name


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
