"""The slides, the instructor's pack and the quiz hold to what the notebooks show."""

from __future__ import annotations

import re
import sys
import tomllib
from functools import cache
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(Path(__file__).parent)]

import slides  # noqa: E402
from lxml import html  # noqa: E402
from test_site import browser, tab  # noqa: E402, F401  fixtures

DECKS = tomllib.loads(slides.TABLE.read_text("utf-8"))
PACK = [ROOT / "docs" / "instructor.md", ROOT / "docs" / "quiz.md"]
# `what a notebook prints or has in its source` (04)
QUOTE = re.compile(r"`([^`]+)` \((\d\d)\)")
QUESTION = re.compile(r"^\*\*Q(\d\d)\.(\d)\*\* .*?(?=^\*\*Q|^## |\Z)", re.M | re.S)
# A slide shown for measuring: its height, its width, formulas not drawn, dead pictures
FIT = """() => [...document.querySelectorAll('.slides > section > section')].map(s => {
  s.parentElement.style.display = s.style.display = 'block';
  const images = [...s.querySelectorAll('img')];
  return [s.scrollHeight, s.scrollWidth, s.querySelectorAll('merror').length
    + images.filter(i => !i.naturalWidth).length];
})"""


@pytest.fixture(scope="module")
def decks(tmp_path_factory) -> dict[str, Path]:
    pytest.importorskip("sphinx_revealjs", reason="pip install -e '.[site]'")
    pytest.importorskip("a11y_pygments", reason="pip install -e '.[site]'")
    written = slides.build(tmp_path_factory.mktemp("slides"))
    return {path.stem: path for path in written}


def loaded(tree: html.HtmlElement) -> list[str]:
    """What a page asks for when it is opened."""
    wanted = tree.xpath(
        "//@src | //@srcset | //@poster | //link/@href | //object/@data"
    )
    styles = " ".join(tree.xpath("//style/text() | //@style"))
    wanted += re.findall(r"url\(\s*['\"]?([^'\")]+)", styles)
    wanted += re.findall(r"@import\s+['\"]([^'\"]+)", styles)
    return [address for address in wanted if not address.startswith(("data:", "#"))]


@pytest.mark.parametrize("name", DECKS)
def test_a_deck_is_one_file_with_alt_texts(decks, name):
    tree = html.fromstring(decks[name].read_text("utf-8"))
    assert loaded(tree) == []
    found = tree.xpath("//div[@class='slides']/section")
    assert 12 <= len(found) <= 25
    assert all(section.xpath(".//h2") for section in found)
    figures = tree.xpath("//div[@class='slides']//img")
    wanted = [part for s in DECKS[name]["slides"] for part in s[1:]]
    assert len(figures) == sum(part.startswith("figure: ") for part in wanted)
    assert all(len(image.get("alt", "")) > 40 for image in figures)
    notes = tree.xpath("//aside[@class='notes']")
    assert len(notes) == len(found) - 1


def test_what_a_page_would_ask_for_is_seen():
    page = (
        "<html><link href='a.css'><img src='https://x.org/b.png'><script src='c.js'>"
        "</script><style>@import 'd.css'; p {background: url(e.png)}</style></html>"
    )
    assert sorted(loaded(html.fromstring(page))) == sorted(
        ["a.css", "https://x.org/b.png", "c.js", "d.css", "e.png"]
    )


def test_after_a_question_the_answer_waits(decks):
    """Where a slide says *Predict*, nothing that comes later is there at once."""
    tree = html.fromstring(decks["ninety_minutes"].read_text("utf-8"))
    (asked,) = tree.xpath("//section[.//h2[contains(., 'What beta does')]]/section")
    (waits,) = asked.xpath("./div[contains(@class, 'fragment')]")
    assert "beta 1.0: gain" in waits.text_content()
    assert "Predict" not in waits.text_content()


@pytest.mark.parametrize(
    "part",
    ["No block begins so", "figure: nothing", "code: import", "output: def fit("],
)
def test_words_that_name_no_block_or_several_are_an_error(part):
    chapter = slides.Chapter.read("01")
    with pytest.raises(ValueError, match="01_preferences"):
        list(slides.slide(chapter, [part]))


def test_blocks_keep_formulas_code_and_answers_whole():
    text = "# 04 · Title\n\nOne.\n\n$$a\n\nb$$\n\n```py\nx\n\ny\n```\n\n*Figure: a, b.*"
    cell = nbformat.v4.new_markdown_cell(text)
    found = [(b.kind, b.text) for b in slides.blocks_of(cell, 3)]
    assert found == [
        ("heading", "# 04 · Title"),
        ("prose", "One."),
        ("prose", "$$a\n\nb$$"),
        ("prose", "```py\nx\n\ny\n```"),
        ("caption", "*Figure: a, b.*"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", DECKS)
def test_a_deck_opens_offline_and_nothing_is_cut(decks, tab, name):  # noqa: F811
    tab.set_viewport_size({"width": 1280, "height": 720})
    tab.goto(decks[name].as_uri())
    tab.wait_for_selector("body[data-fitted]")
    measured = tab.evaluate(FIT)
    assert len(measured) == len(DECKS[name]["slides"]) + 1
    assert [row for row in measured if row[0] > 700 or row[1] > 1281 or row[2]] == []
    assert tab.heard == []


@cache
def words_of(number: str) -> str:
    """All that a notebook has in its cells and outputs, spaces made equal."""
    (path,) = sorted((ROOT / "notebooks").glob(f"{number}_*.ipynb"))
    texts = []
    for cell in nbformat.read(path, as_version=4).cells:
        texts.append(cell.source)
        for output in cell.get("outputs", []):
            texts += [
                output.get("text", ""),
                output.get("data", {}).get("text/plain", ""),
            ]
    return " ".join(" ".join(texts).split())


@pytest.mark.parametrize("path", PACK, ids=lambda path: path.stem)
def test_what_the_pack_quotes_is_in_the_notebooks(path):
    """`words` (04) are in notebook 04, in a cell or in what it printed."""
    quoted = QUOTE.findall(" ".join(path.read_text("utf-8").split()))
    assert len(quoted) > 20
    missing = [
        (number, words)
        for words, number in quoted
        if " ".join(words.split()) not in words_of(number)
    ]
    assert missing == []


def test_the_plans_name_the_decks_and_the_measured_minutes():
    text = PACK[0].read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \| ([\d, ]+) \|", text, re.M)
    chapters = {name: {s[0] for s in d["slides"]} for name, d in DECKS.items()}
    assert {name: set(numbers.split(", ")) for name, numbers in rows} == chapters
    readme = (ROOT / "README.md").read_text("utf-8")
    table = dict(
        re.findall(r"^\| \[(\d\d) ·.*?\| (?:about )?([\d.]+) \|", readme, re.M)
    )
    stated = re.findall(r"(\d\d): (?:about )?([\d.]+) min", text)
    assert len(stated) >= 10
    assert [(n, m) for n, m in stated if table[n] != m] == []
    chapters = re.findall(r"^### (\d\d) · ", text, re.M)
    assert chapters == [f"{n:02d}" for n in range(13)]


def test_each_question_has_one_answer_and_says_why_the_others_tempt():
    text = PACK[1].read_text("utf-8")
    found = {match[1]: [] for match in QUESTION.finditer(text)}
    for match in QUESTION.finditer(text):
        options = dict(re.findall(r"^- ([A-D])\. (.+)", match[0], re.M))
        assert sorted(options) == list("ABCD"), match[0][:80]
        unfolded = match[0].split("<summary>Answer</summary>")[1]
        (right,) = re.findall(r"^\*\*([A-D])\.\*\* ", unfolded, re.M)
        reasons = re.findall(r"^- ([A-D]) tempts", match[0], re.M)
        assert sorted([right, *reasons]) == list("ABCD"), match[0][:80]
        found[match[1]].append(right)
    assert sorted(found) == [f"{n:02d}" for n in range(1, 13)]
    assert all(len(rights) >= 2 for rights in found.values())
    answers = "".join(right for rights in found.values() for right in rights)
    assert max(map(answers.count, "ABCD")) <= len(answers) / 2  # no favourite letter
