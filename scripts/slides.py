"""Build the slides: cells of the executed notebooks, as reveal.js, readable offline.

    python scripts/slides.py [folder]     the decks of docs/slides.toml, to build/slides
    python scripts/slides.py --list NN    what can be shown of a notebook

`docs/slides.toml` names what a slide shows by its chapter and first words, so that
cells may move; words that begin no block, or several, are an error. The prose around it
becomes the speaker's notes (key S), and what follows a *Predict* waits for a key. A
deck is one file: reveal.js and MathJax are inside, taken from the packages
sphinx-revealjs and sphinx-mathjax-offline.
"""

from __future__ import annotations

import argparse
import copy
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell, new_notebook

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "docs" / "slides.toml"
SLIDES = ROOT / "build" / "slides"
TEMPLATE = Path(__file__).with_suffix(".html.j2")
STYLE = "a11y-high-contrast-light"
# Blocks that hold empty lines: fenced code, displayed formulas, what can be unfolded
WHOLE = re.compile(r"```.*?```|\$\$.*?\$\$|<details>.*?</details>", re.S)
HEADING = re.compile(r"#{1,4} (?:\d\d · )?(.*)")
CAPTION = re.compile(r"\*Figure[^:*]*: (.*?)\*\Z", re.S)
KINDS = ("title", "code", "output", "figure")
BESIDE = re.compile(r"!?\[([^\]]*)\]\((?!https?:)[^)]*\)")  # links into the repository
SPENT = re.compile(r"\[!\[|(?:Back|Next): ")  # a badge, a chapter's neighbours
NOTES = 4  # blocks of prose in the notes of a slide, at most


@dataclass(frozen=True)
class Block:
    """A piece that can be shown: its cell's number, what it is, its text."""

    cell: int
    kind: str  # heading, prose, caption or code
    text: str


def blocks_of(cell: NotebookNode, number: int) -> list[Block]:
    """A cell's blocks; a code cell is one, markdown is cut at its empty lines."""
    if cell.cell_type == "code":
        return [Block(number, "code", cell.source)]
    kept: list[str] = []
    text = WHOLE.sub(lambda m: f"\0{kept.append(m[0]) or len(kept) - 1}\0", cell.source)
    found = []
    for part in filter(str.strip, re.split(r"\n\s*\n", text)):
        part = re.sub(r"\0(\d+)\0", lambda m: kept[int(m[1])], part.strip())
        kind = "heading" if HEADING.match(part) else "prose"
        found.append(Block(number, "caption" if CAPTION.match(part) else kind, part))
    return found


@dataclass(frozen=True)
class Chapter:
    """An executed notebook, and its blocks in order."""

    name: str
    cells: list[NotebookNode]
    blocks: list[Block]

    @classmethod
    def read(cls, number: str) -> Chapter:
        """The chapter of a number such as "04"; ValueError if there is not one."""
        paths = sorted((ROOT / "notebooks").glob(f"{number}_*.ipynb"))
        if len(paths) != 1:
            seen = f"{len(paths)} notebooks begin with {number}_"
            raise ValueError(f"{seen}, expected one: make outputs NB={number}")
        cells = nbformat.read(paths[0], as_version=4).cells
        parts = [b for i, cell in enumerate(cells) for b in blocks_of(cell, i)]
        return cls(paths[0].stem, cells, parts)

    def find(self, part: str) -> int:
        """The place of the one block that a part of a slide names."""
        kind, words = split_part(part)
        wanted = {"": "prose", "figure": "caption"}.get(kind, "code")
        hits = [
            i
            for i, block in enumerate(self.blocks)
            if block.kind == wanted and begins(block, words)
        ]
        if len(hits) != 1:
            seen = f"{len(hits)} blocks of {self.name} begin with {words!r} ({wanted})"
            raise ValueError(f"{seen}, expected one: see --list, change {TABLE.name}")
        return hits[0]

    def heading(self, place: int) -> int:
        """The place of the heading above a block (0 if there is none)."""
        above = [i for i in range(place) if self.blocks[i].kind == "heading"]
        return above[-1] if above else 0


def split_part(part: str) -> tuple[str, str]:
    """Kind and words of "figure: the loss", or "" and all of it."""
    kind, colon, words = part.partition(": ")
    return (kind, words) if colon and kind in KINDS else ("", part)


def begins(block: Block, words: str) -> bool:
    """Whether a block, a figure's caption or a line of code begins with the words."""
    if block.kind == "code":
        return any(line.strip().startswith(words) for line in block.text.splitlines())
    text = CAPTION.match(block.text)[1] if block.kind == "caption" else block.text
    text = " ".join(text.split())
    return text.startswith(words) or text.lstrip("*->|1. ").startswith(words)


def code_cell(cell: NotebookNode, code: bool, kinds: str) -> NotebookNode:
    """A copy of a code cell, with its code or not, with outputs of "text", "image"."""
    cell = copy.deepcopy(cell)
    cell.metadata["tags"] = [] if code else ["remove_input"]
    cell.outputs = [
        o
        for o in cell.outputs
        if ("image" if "image/png" in o.get("data", {}) else "text") in kinds
    ]
    return cell


def shown(chapter: Chapter, part: str) -> NotebookNode:
    """The cell of a slide that shows a part; ValueError if nothing is there to show."""
    kind = split_part(part)[0]
    block = chapter.blocks[chapter.find(part)]
    if kind == "code":
        return code_cell(chapter.cells[block.cell], True, "")
    if kind == "output":
        cell = code_cell(chapter.cells[block.cell], False, "text")
    elif kind == "figure":
        cell = code_cell(chapter.cells[block.cell - 1], False, "image")
    else:
        return new_markdown_cell(BESIDE.sub(r"\1", block.text))
    if not cell.outputs:
        raise ValueError(f"{chapter.name}: {part!r} has no output: run make outputs")
    for output in cell.outputs if kind == "figure" else []:
        output.metadata["image/png"] = {"alt": alt_text(block.text)}
    return cell


def alt_text(caption: str) -> str:
    """A caption's words without Markdown's marks."""
    return " ".join(re.sub(r"[`$*]", "", CAPTION.match(caption)[1]).split())


def notes(chapter: Chapter, places: list[int]) -> str:
    """Prose of the same section that stands around what is shown, for the speaker."""
    near = sorted({n for p in places for n in range(p - 2, p + 3)} - set(places))
    section = {chapter.heading(p) for p in places}
    said = [
        chapter.blocks[n].text
        for n in near
        if 0 <= n < len(chapter.blocks) and chapter.blocks[n].kind == "prose"
        if chapter.heading(n) in section and not SPENT.match(chapter.blocks[n].text)
    ]
    return BESIDE.sub(r"\1", "\n\n".join(said[:NOTES]))


def slide(chapter: Chapter, parts: list[str]) -> Iterator[NotebookNode]:
    """The cells of one slide, tagged as nbconvert's slides want them."""
    titles = [split_part(p)[1] for p in parts if split_part(p)[0] == "title"]
    parts = [p for p in parts if split_part(p)[0] != "title"]
    places = [chapter.find(part) for part in parts]
    above = HEADING.match(chapter.blocks[chapter.heading(places[0])].text)[1]
    first = new_markdown_cell(f"## {titles[0] if titles else above}")
    first.metadata["slideshow"] = {"slide_type": "slide"}
    yield first
    asked = False  # after a question, all but code waits for a key
    for part in parts:
        cell = shown(chapter, part)
        waits = asked and split_part(part)[0] != "code"
        cell.metadata["slideshow"] = {"slide_type": "fragment" if waits else "-"}
        asked = asked or "*Predict" in cell.source
        yield cell
    said = new_markdown_cell(f"*{chapter.name}*\n\n{notes(chapter, places)}")
    said.metadata["slideshow"] = {"slide_type": "notes"}
    yield said


def deck(title: str, slides: list[list[str]]) -> NotebookNode:
    """A notebook whose cells are a deck's slides."""
    chapters = {number: Chapter.read(number) for number in {s[0] for s in slides}}
    names = ", ".join(sorted(chapters))
    about = f"## {title}\n\nThe DPO tutorial, notebook {names}.\n\n"
    keys = "Keys: arrows; S for the notes, O for all slides, F for the whole screen."
    cells = [new_markdown_cell(about + keys)]
    cells[0].metadata["slideshow"] = {"slide_type": "slide"}
    for number, *parts in slides:
        cells += slide(chapters[number], parts)
    for number, cell in enumerate(cells):
        cell["id"] = f"s{number:03d}"
    return new_notebook(cells=cells)


def assets() -> dict:
    """Styles and scripts that a deck has inside, from the packages that bring them."""
    from pygments.formatters import HtmlFormatter

    files = distribution("sphinx-revealjs").locate_file("sphinx_revealjs")
    reveal = Path(files) / "_static" / "revealjs"
    files = distribution("sphinx-mathjax-offline").locate_file("sphinx-mathjax-offline")
    mathjax = Path(files) / "static" / "mathjax" / "tex-svg.js"
    scripts = [reveal / "dist" / "reveal.js", reveal / "plugin" / "notes" / "notes.js"]
    texts = [path.read_text("utf-8") for path in (*scripts, mathjax)]
    css = (reveal / "dist" / "reveal.css").read_text("utf-8")
    code = HtmlFormatter(style=STYLE).get_style_defs(".highlight")
    return {
        "styles": f"{css}\n{code}",
        "scripts": [text.replace("</script", "<\\/script") for text in texts],
    }


def render(book: NotebookNode, title: str) -> str:
    """A deck as one page of HTML, by nbconvert's exporter of slides."""
    from nbconvert import SlidesExporter
    from traitlets.config import Config

    config = Config()
    config.TagRemovePreprocessor.remove_input_tags = ("remove_input",)
    config.TagRemovePreprocessor.enabled = True
    exporter = SlidesExporter(config=config, raw_template=TEMPLATE.read_text("utf-8"))
    exporter.exclude_input_prompt = exporter.exclude_output_prompt = True
    exporter.exclude_anchor_links = True
    page, _ = exporter.from_notebook_node(book, {"deck": {"title": title, **assets()}})
    return page


def build(folder: Path) -> list[Path]:
    """Write every deck of the table; the files written."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, table in tomllib.loads(TABLE.read_text("utf-8")).items():
        path = folder / f"{name}.html"
        page = render(deck(table["title"], table["slides"]), table["title"])
        path.write_text(page, "utf-8")
        written.append(path)
        print(f"{path}: {len(table['slides']) + 1} slides")
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=SLIDES)
    parser.add_argument("--list", metavar="NN", help="a notebook's blocks")
    arguments = parser.parse_args()
    if arguments.list:
        for block in Chapter.read(arguments.list).blocks:
            words = " ".join(block.text.split())[:90]
            print(f"{block.cell:3} {block.kind:8} {words}")
    else:
        build(arguments.folder)


if __name__ == "__main__":
    main()
