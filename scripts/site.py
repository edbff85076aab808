"""Build the site from `docs/` and the executed notebooks.

    python scripts/site.py [folder]      into build/site, without network

copies `docs/` and the notebooks into `build/site-src`, where a figure's caption becomes
its alt text and a link to a file of the repository becomes its address there, and calls
Sphinx, for which a warning is an error. Nothing is executed.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import re
import shutil
import sys
import tomllib
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "build" / "site"
FOLDERS = ("notebooks", "notebooks/exercises", "notebooks/solutions")
MAP = "<!-- the table of README.md -->"
CODE = re.compile(r"(```(?!{(?!eval-rst)).*?```|`[^`\n]*`)", re.S)  # directives are not
CONTENTS = re.compile(r"(```{toctree}\n(?::[^\n]*\n)*)\n(.*?)```", re.S)
PAGES = (".md", ".ipynb")
LINK = re.compile(r"\]\(([^)\s]+)\)")
BADGE = re.compile(r"^\[!\[Open in Colab\]\([^)]*\)\]\(([^)]*)\)$", re.M)
CAPTION = re.compile(r"\*Figure[^:*]*: (.*?)\*(?:\n\n|\Z)", re.S)


def address() -> str:
    """Of the repository's files on the web, up to the path."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project["urls"]["Repository"] + "/{kind}/main/{path}"


def page_of(path: str) -> str | None:
    """Where a file of the repository lies in the site's sources, if it is a page."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    folder, name = os.path.split(path)
    return path if folder in FOLDERS and name.endswith(".ipynb") else None


def new_target(link: str, source: str) -> str:
    """A link of the file `source`, as the site has it; ValueError if it is broken."""
    if re.match(r"[a-z]+:|#", link):
        return link
    path, hash_sign, anchor = link.partition("#")
    path = os.path.normpath(os.path.join(os.path.dirname(source), path))
    if not (ROOT / path).exists():
        raise ValueError(f"{source} links to {link}: expected a file, found no {path}")
    if page := page_of(path):
        start = os.path.dirname(page_of(source) or "")
        return os.path.relpath(page, start or ".") + hash_sign + anchor
    kind = "tree" if (ROOT / path).is_dir() else "blob"
    return address().format(kind=kind, path=path) + hash_sign + anchor


def with_links(text: str, source: str) -> str:
    """Markdown with its links, those in code left alone, as the site has them."""
    parts = CODE.split(text)
    for i in range(0, len(parts), 2):
        parts[i] = LINK.sub(lambda m: f"]({new_target(m[1], source)})", parts[i])
    return "".join(parts)


def alt_text(caption: str) -> str:
    """A caption's words without Markdown's marks."""
    words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", caption)
    return " ".join(re.sub(r"[`$]", "", words).split())


def figures(cell) -> int:
    kinds = (kind for o in cell.get("outputs", []) for kind in o.get("data", {}))
    return sum(kind.startswith("image/") for kind in kinds)


def describe_figures(cells: list, source: str) -> None:
    """Give each figure the caption below it as alt text; ValueError without one."""
    for number, cell in enumerate(cells):
        if not figures(cell):
            continue
        below = cells[number + 1].source if number + 1 < len(cells) else ""
        caption = CAPTION.search(below)
        if caption is None:
            seen = f"{source}: a figure of cell {number} has no caption"
            raise ValueError(f"{seen}: expected '*Figure: …*' in the cell below it")
        cell.metadata["mystnb"] = {"image": {"alt": alt_text(caption[1])}}


def prepare_notebook(path: Path, target: Path) -> None:
    """A copy with alt texts, the site's links, a plain link for the badge's picture."""
    notebook = nbformat.read(path, as_version=4)
    source = path.relative_to(ROOT).as_posix()
    describe_figures(notebook.cells, source)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            text = BADGE.sub(r"[Open in Colab](\1)", cell.source)
            cell.source = with_links(text, source)
        elif cell.source.startswith("# In Colab this installs"):
            cell.metadata["tags"] = ["hide-cell"]
    target.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, target)


def pages() -> list[Path]:
    """The notebooks that the site shows."""
    return [p for f in FOLDERS for p in sorted((ROOT / f).glob("[0-9]*.ipynb"))]


def course_map() -> str:
    """The README's table of the notebooks, without its badges."""
    text = (ROOT / "README.md").read_text("utf-8").split("## The notebooks")[1]
    rows = [line for line in text.split("##")[0].splitlines() if line.startswith("|")]
    plain = [re.sub(r" \[!\[Open in Colab.*?\)\]\([^)]*\)", "", row) for row in rows]
    return with_links("\n".join(plain), "README.md")


def with_contents_that_exist(text: str, sources: Path) -> str:
    """Markdown without the entries of tables of contents that no page answers to."""
    files = [p.relative_to(sources) for p in sources.rglob("*.*")]
    names = [p.with_suffix("").as_posix() for p in files if p.suffix in PAGES]

    def block(match: re.Match) -> str:
        kept = [e for e in match[2].split() if fnmatch.filter(names, e)]
        return "\n".join([match[1], *kept, "```"]) if kept else ""

    return CONTENTS.sub(block, text)


def prepare(sources: Path) -> None:
    """Fill the folder of Sphinx's sources."""
    shutil.copytree(ROOT / "docs", sources)
    for path in pages():
        prepare_notebook(path, sources / path.relative_to(ROOT))
    for path in sources.rglob("*.md"):
        source = "docs/" + path.relative_to(sources).as_posix()
        text = with_links(path.read_text("utf-8"), source)
        text = with_contents_that_exist(text.replace(MAP, course_map()), sources)
        path.write_text(text, "utf-8")


def build(site: Path) -> int:
    """Prepare and call Sphinx; its exit code."""
    from sphinx.cmd.build import build_main

    sources, doctrees = (site.with_name(site.name + end) for end in ("-src", "-trees"))
    for folder in (site, sources, doctrees):
        shutil.rmtree(folder, ignore_errors=True)
    prepare(sources)
    options = ["-b", "html", "-W", "--keep-going", "-q", "-j", "auto"]
    folders = ["-c", ROOT / "docs", "-d", doctrees, sources, site]
    if code := build_main([*options, *map(str, folders)]):
        return code
    for path in pages():  # what is downloaded is the repository's file
        shutil.copy(path, site / "_sources" / path.relative_to(ROOT))
    print(f"open {site / 'index.html'}")
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=SITE)
    sys.exit(build(parser.parse_args().folder.resolve()))


if __name__ == "__main__":
    main()
