"""Notebooks in an environment like Colab's: its versions, no trl, `google.colab` there.

Versions that Colab had when this was written: transformers 5.15, datasets 4.0.0. The
bootstrap cell is the notebook's own; only the repository's address becomes that of a
local clone with the tag that the cell asks for. Needs the package index.
"""

import ast
import os
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import nbformat
import pytest
from conftest import skip_or_fail
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
COLAB = ["transformers==5.15.0", "datasets==4.0.0", "ipykernel", "matplotlib", "pandas"]
AFTER = """
from importlib.metadata import version
print({name: version(name) for name in ("torch", "transformers", "datasets", "trl")})
"""


def run(*command, **options):
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, **options
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """The course as it is here, as a repository with the release's tag."""
    folder = tmp_path_factory.mktemp("clone") / "dpo-tutorial"
    left_out = shutil.ignore_patterns(
        ".git", ".venv*", "build", ".*_cache", "__pycache__"
    )
    shutil.copytree(ROOT, folder, ignore=left_out)
    tag = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    git = [
        "git",
        "-C",
        folder,
        "-c",
        "user.name=test",
        "-c",
        "user.email=test@localhost",
    ]
    run(*git, "init", "-q")
    run(*git, "add", "-A")
    run(*git, "commit", "-q", "-m", "release")
    run(*git, "tag", f"v{tag}")
    return folder


@pytest.fixture(scope="module")
def colab(tmp_path_factory):
    """A bare environment with Colab's versions, as a Jupyter kernel named "colab"."""
    folder = tmp_path_factory.mktemp("colab")
    run(sys.executable, "-m", "venv", folder / "env")
    python = folder / "env" / "bin" / "python"
    try:
        run(python, "-m", "pip", "install", "-q", "--upgrade", "pip")  # Colab's is new
    except AssertionError as error:
        skip_or_fail(f"the package index is out of reach: {error}")
    torch = "torch==" + version("torch").partition("+")[0]
    run(python, "-m", "pip", "install", "-q", torch)
    run(python, "-m", "pip", "install", "-q", *COLAB)
    run(python, "-m", "ipykernel", "install", f"--prefix={folder}", "--name=colab")
    [packages] = (folder / "env" / "lib").glob("python3.*/site-packages")
    (packages / "google" / "colab").mkdir(
        parents=True
    )  # as in Colab: a namespace's part
    (packages / "google" / "colab" / "__init__.py").touch()
    assert "trl" not in run(python, "-m", "pip", "list").split()
    return folder


def as_opened_in_colab(path, clone):
    """The notebook, with the clone's address, in a kernel that has google.colab."""
    book = nbformat.read(path, as_version=4)
    address = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
    cells = [
        c for c in book.cells if address["Repository"] in c.source and "pip" in c.source
    ]
    cells = [c for c in cells if c.cell_type == "code"]
    assert len(cells) == 1
    local = "file://" + str(clone)
    cells[0].source = cells[0].source.replace(address["Repository"], local)
    book.cells.insert(0, nbformat.v4.new_code_cell("import google.colab"))
    book.cells.append(nbformat.v4.new_code_cell(AFTER))
    book.metadata["kernelspec"]["name"] = "colab"
    return book


@pytest.mark.slow
def test_the_first_notebook_runs_where_colab_s_versions_are(
    colab, clone, tmp_path, monkeypatch
):
    monkeypatch.setenv("JUPYTER_PATH", str(colab / "share" / "jupyter"))
    monkeypatch.setenv("DPO_TUTORIAL_MODEL", "nano")
    monkeypatch.setenv("TQDM_DISABLE", "1")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    book = as_opened_in_colab(ROOT / "notebooks" / "00_start_here.ipynb", clone)
    client = NotebookClient(
        book, timeout=900, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute(
        env={**os.environ, "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    )
    [output] = book.cells[-1].outputs
    versions = ast.literal_eval(output.text)
    assert versions["torch"] == version("torch")  # left as it was
    assert versions["transformers"] == "5.15.0"  # datasets: as trl asks
    assert versions["trl"]
