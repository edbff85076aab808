"""Build, execute and render the notebooks.

    python scripts/notebooks.py headers           write badge and bootstrap cells
    python scripts/notebooks.py outputs [NN …]    src/NN_*.py -> executed NN_*.ipynb
    python scripts/notebooks.py run [NN …]        execute into build/notebooks, as HTML

The sources in `notebooks/src` are jupytext percent files; the `.ipynb` files beside
them are made here and never edited by hand.
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import re
import shutil
import time
import tomllib
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "notebooks" / "src"
BUILD = ROOT / "build" / "notebooks"
WIDGET = "application/vnd.jupyter.widget-view+json"
README_FIGURE = ROOT / "docs" / "00_start_here.png"  # shown by README.md

BOOTSTRAP = """# %%
# In Colab this installs the course and leaves torch as it is; elsewhere, nothing.
import subprocess
import sys
from importlib.metadata import version

if "google.colab" in sys.modules:
    course = "dpo-tutorial @ git+{address}@v{version}"
    pip = [sys.executable, "-m", "pip", "install", "-q"]
    subprocess.check_call([*pip, course, "torch==" + version("torch")])
"""
BADGE = (
    "# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
    "({colab}/blob/main/notebooks/{name}.ipynb)"
)
BADGE_LINE = re.compile(r"^# (BADGE|\[!\[Open in Colab\].*)$", re.M)
BOOTSTRAP_CELL = re.compile(
    r"^# %%\n# (BOOTSTRAP|In Colab this installs).*?(?=^# %%|\Z)", re.M | re.S
)


def project() -> tuple[str, str]:
    """Repository address and version, as `pyproject.toml` has them."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table["urls"]["Repository"], table["version"]


def with_headers(text: str, name: str) -> str:
    """A source's text with its badge and bootstrap cell as they should read."""
    address, tag = project()
    colab = address.replace(
        "https://github.com", "https://colab.research.google.com/github"
    )
    badge = BADGE.format(colab=colab, name=name)
    cell = BOOTSTRAP.format(address=address, version=tag)
    for pattern, new in ((BADGE_LINE, badge), (BOOTSTRAP_CELL, cell + "\n")):
        text, count = pattern.subn(lambda _, new=new: new, text)
        if count != 1:
            raise ValueError(f"{name}: {count} matches of {pattern.pattern!r}, not 1")
    return text


def chosen_sources(numbers: list[str]) -> list[Path]:
    """The sources whose names start with one of `numbers`; all of them for none."""
    paths = sorted(SOURCES.glob("[0-9][0-9]_*.py"))
    if not numbers:
        return paths
    picked = [p for p in paths if p.name[:2] in numbers]
    if unknown := set(numbers) - {p.name[:2] for p in picked}:
        raise SystemExit(f"no notebook numbered {sorted(unknown)}: see notebooks/src")
    return picked


def execute(notebook, folder: Path) -> float:
    """Run every cell in a fresh kernel in `folder`; return the seconds it took."""
    from nbclient import NotebookClient

    quiet = {"TQDM_DISABLE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    env = {**os.environ, **quiet}  # no bars in the outputs
    if not shutil.which("nvidia-smi"):  # DeepSpeed prints what it finds, with the time
        env.setdefault("DS_ACCELERATOR", "cpu")
    start = time.perf_counter()
    client = NotebookClient(
        notebook,
        timeout=1200,
        store_widget_state=False,
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute(env=env)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of day: noise in a diff
    return time.perf_counter() - start


def read_source(path: Path):
    """A source as a notebook, paired with its source, python3 kernel, stable ids."""
    import jupytext

    notebook = jupytext.read(path)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = {
        "jupytext": {"formats": "ipynb,src//py:percent"},
        "kernelspec": kernel,
    }
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"c{number:02d}"
    return notebook


def smaller(png: str) -> str:
    """A figure with a palette of 128 colours: a third of the size, the same to see."""
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    buffer = io.BytesIO()
    image.quantize(128).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def clean_outputs(notebook) -> None:
    """Drop progress bars' widgets; join neighbouring pieces of one stream."""
    for cell in notebook.cells:
        joined: list = []
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if WIDGET in data:
                continue
            if "image/png" in data:
                data["image/png"] = smaller(data["image/png"])
            last = joined[-1] if joined else None
            if last and output.output_type == "stream" == last.output_type:
                last["text"] += output.text
            else:
                joined.append(output)
        if "outputs" in cell:
            cell["outputs"] = joined


def headers(numbers: list[str]) -> None:
    """Rewrite badge and bootstrap cell of each source."""
    for path in chosen_sources(numbers):
        path.write_text(with_headers(path.read_text(), path.stem))


def outputs(numbers: list[str]) -> None:
    """Rebuild the committed notebooks from their sources, executed."""
    import nbformat

    for path in chosen_sources(numbers):
        notebook = read_source(path)
        seconds = execute(notebook, ROOT / "notebooks")
        clean_outputs(notebook)
        target = ROOT / "notebooks" / f"{path.stem}.ipynb"
        nbformat.write(notebook, target)
        print(f"{path.stem}: {seconds:.0f} s, {target.stat().st_size // 1000} kB")
        if path.stem == README_FIGURE.stem:
            README_FIGURE.write_bytes(first_figure(notebook))


def first_figure(notebook) -> bytes:
    """The PNG of a notebook's first figure."""
    outputs = (o for cell in notebook.cells for o in cell.get("outputs", []))
    images = (
        o["data"]["image/png"] for o in outputs if "image/png" in o.get("data", {})
    )
    return base64.b64decode(next(images))


def run(numbers: list[str]) -> None:
    """Execute each committed notebook into `build/notebooks` and render it."""
    import nbformat
    from nbclient.exceptions import CellExecutionError
    from nbconvert import HTMLExporter

    BUILD.mkdir(parents=True, exist_ok=True)
    rows = []
    names = [p.stem for p in chosen_sources(numbers)]
    for count, name in enumerate(names, 1):
        print(f"[{count}/{len(names)}] {name} …", end=" ", flush=True)
        book = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
        start, result = time.perf_counter(), "passed"
        try:
            execute(book, ROOT / "notebooks")
        except CellExecutionError as error:
            reason = f"{error.ename}: {error.evalue}".splitlines()[0]
            result = f"FAILED: {reason[:70]}"
        seconds = time.perf_counter() - start
        clean_outputs(book)
        nbformat.write(book, BUILD / f"{name}.ipynb")
        page = BUILD / f"{name}.html"
        page.write_text(HTMLExporter().from_notebook_node(book)[0])
        rows.append((name, seconds, result, str(page.relative_to(ROOT))))
        print(f"{seconds:.0f} s, {result}", flush=True)
    print(f"\n{'notebook':<34}{'seconds':>8}  {'result':<10}read it in")
    for name, seconds, result, page in rows:
        print(f"{name:<34}{seconds:8.0f}  {result:<10}{page}")
    print(f"{'together':<34}{sum(r[1] for r in rows):8.0f}")
    if any(result != "passed" for *_, result, _ in rows):
        raise SystemExit(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["headers", "outputs", "run"])
    parser.add_argument("numbers", nargs="*", help="such as 00 04; none: all")
    arguments = parser.parse_args()
    {"headers": headers, "outputs": outputs, "run": run}[arguments.command](
        arguments.numbers
    )


if __name__ == "__main__":
    main()
