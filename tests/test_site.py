"""The site, built and read in a real Chromium, from `file://` with the network off."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlparse

import pytest
from conftest import skip_or_fail
from lxml import html
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output

ROOT = Path(__file__).resolve().parent.parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
COLAB = "https://colab.research.google.com/github/dpo-tutorial/dpo-tutorial/blob/main/"
REMOTE = re.compile("(https?:)?//")
DARK = (
    "index.html",
    "notebooks/04_dpo_from_scratch.html",
    "api/dpo_tutorial.losses.html",
)
OFFLINE = ["--host-resolver-rules=MAP * ~NOTFOUND", "--proxy-server=127.0.0.1:9"]
LOCAL, BAD = re.compile("(file|data|blob|about):"), ("error",)
PHONE, DESK = {"width": 360, "height": 740}, {"width": 1280, "height": 900}

# What a reader would see wrong on the page as it stands, as a list of words.
LOOK = r"""() => {
  const faults = [];
  for (const m of document.querySelectorAll('.math'))
    if (!m.querySelector('mjx-container svg') || m.querySelector('mjx-merror, merror'))
      faults.push('formula not drawn: ' + m.textContent.slice(0, 60));
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const code = 'pre, code, script, style, mjx-container, .cell_output';
  const raw = /\$[^$]+\$|\\[(\[]|\\(frac|log|pi)\b/;
  for (let n = walker.nextNode(); n; n = walker.nextNode())
    if (raw.test(n.data) && !n.parentElement.closest(code))
      faults.push('raw formula: ' + n.data.trim().slice(0, 60));
  for (const i of document.images) {
    const name = i.src.slice(-40);
    if (!i.complete || !i.naturalWidth) faults.push('picture not loaded: ' + name);
    if (i.closest('article') && !i.alt.trim()) faults.push('no alt text: ' + name);
    if (i.closest('article') && /^(https?:|.*\.png$)/.test(i.alt))
      faults.push('alt text is a file name: ' + i.alt.slice(-40));
  }
  return faults;
}"""
WIDE = """() => {
  const root = document.documentElement, room = root.clientWidth;
  if (Math.max(root.scrollWidth, document.body.scrollWidth) <= room) return [];
  const scrolls = e => e && (/auto|scroll|hidden/.test(getComputedStyle(e).overflowX)
    || scrolls(e.parentElement));
  const ends = e => e.getBoundingClientRect().right;
  const over = [...document.querySelectorAll('article *')]
    .filter(e => ends(e) > room + 1 && !scrolls(e.parentElement))
    .map(e => e.outerHTML.slice(0, 90));
  return [`wider than the screen: ${root.scrollWidth} of ${room}: ${over[0]}`];
}"""
# Of the words that look alike (colour, ground, size, weight) axe is shown the first.
CONTRAST = """async () => {
  const grounds = new Map([[null, '']]), first = new Map();
  const ground = e => {
    if (!grounds.has(e)) {
      const own = getComputedStyle(e).backgroundColor;
      grounds.set(e, own === 'rgba(0, 0, 0, 0)' ? ground(e.parentElement) : own);
    }
    return grounds.get(e);
  };
  for (const e of document.querySelectorAll('body *')) {
    const words = [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
    if (!words || !e.checkVisibility()) continue;
    const look = getComputedStyle(e);
    const key = [look.color, ground(e), look.fontSize, look.fontWeight, look.opacity];
    if (!first.has(key.join())) first.set(key.join(), e);
  }
  const found = await axe.run({include: [...first.values()]}, {
    runOnly: ['color-contrast'], resultTypes: ['violations'], elementRef: true
  });
  return found.violations.flatMap(v => v.nodes).map(
    n => `contrast: ${n.html.slice(0, 90)} ${n.any[0].message.slice(0, 140)}`);
}"""


def browser_path() -> str:
    """A Chromium of the system; without one the tests are skipped."""
    if found := next(filter(None, map(shutil.which, BROWSERS)), None):
        return found
    message = f"no browser, looked for {BROWSERS}: apt-get install chromium"
    skip_or_fail(message)


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="pip install -e '.[site]'")
    path = browser_path()
    with api.sync_playwright() as playwright:
        options = ["--no-sandbox", *OFFLINE]
        chromium = playwright.chromium.launch(executable_path=path, args=options)
        yield chromium
        chromium.close()


@pytest.fixture
def tab(browser):
    """A page; `tab.heard` is what its console and its network complain of."""
    context = browser.new_context(viewport=PHONE, offline=True)
    page = context.new_page()
    page.heard = []
    page.on("console", lambda m: m.type in BAD and page.heard.append(m.text))
    page.on("pageerror", lambda e: page.heard.append(str(e)))
    page.on("request", lambda r: LOCAL.match(r.url) or page.heard.append(r.url))
    page.on("requestfailed", lambda r: page.heard.append(f"failed: {r.url}"))
    yield page
    context.close()


def axe() -> str:
    """axe-core, as the package that brings it has it."""
    import axe_playwright_python

    return (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()


def faults_of(tab, path: Path, script: str) -> list[str]:
    """What is wrong with a page, on a phone's width and on a desk's."""
    tab.heard.clear()
    tab.set_viewport_size(PHONE)
    tab.goto(path.as_uri())
    tab.evaluate("() => window.MathJax?.startup?.promise")
    found = tab.evaluate(LOOK) + tab.evaluate(WIDE)
    tab.set_viewport_size(DESK)
    tab.evaluate(script)
    return found + tab.evaluate(CONTRAST) + list(tab.heard)


def dark_faults(tab, path: Path, script: str) -> list[str]:
    """What of a page cannot be read by those who prefer it dark."""
    tab.emulate_media(color_scheme="dark")
    tab.goto(path.as_uri())
    assert tab.locator("html").get_attribute("data-theme") == "dark"
    tab.add_style_tag(content="* {transition: none !important}")
    tab.wait_for_timeout(500)  # colours that were fading have come to rest
    tab.evaluate(script)
    return tab.evaluate(CONTRAST)


def broken_links(pages: dict[Path, html.HtmlElement]) -> list[str]:
    """Links to a file or an anchor that is not there; what is loaded from elsewhere."""
    ids = {p: set(tree.xpath("//@id | //a/@name")) for p, tree in pages.items()}
    faults = []
    for page, tree in pages.items():
        loaded = tree.xpath("//@src | //link/@href")
        faults += [f"{page.name} loads {x}" for x in loaded if REMOTE.match(x)]
        for link in {*tree.xpath("//a/@href"), *loaded}:
            if REMOTE.match(link) or link.startswith(("mailto:", "data:")):
                continue
            path, anchor = urldefrag(link)
            target = Path(os.path.normpath(page.parent / unquote(urlparse(path).path)))
            target = target if path else page
            if not target.exists() or (anchor and anchor not in ids.get(target, ())):
                faults.append(f"{page.name}: broken link {link}")
    return faults


def wrong_homes(site: Path, pages: dict[Path, html.HtmlElement]) -> list[str]:
    """Notebooks whose launch or download is not the repository's file."""
    faults = []
    for page, tree in pages.items():
        name = page.relative_to(site).with_suffix(".ipynb").as_posix()
        if name.startswith("notebooks/"):
            links = tree.xpath("//a/@href")
            committed, offered = ROOT / name, site / "_sources" / name
            if f"{COLAB}{name}" not in links:
                faults.append(f"{name}: no launch in Colab")
            if not any(link.endswith(f"_sources/{name}") for link in links):
                faults.append(f"{name}: no download")
            if committed.read_bytes() != offered.read_bytes():
                faults.append(f"{name}: the download is another file")
    return faults


def found_by_search(tab, site: Path, word: str) -> list[str]:
    """Pages that the search finds for a reader who types a word on the home page."""
    tab.set_viewport_size(DESK)
    tab.goto((site / "index.html").as_uri())
    tab.keyboard.press("Control+k")
    tab.keyboard.type(word)
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#search-results li a")
    tab.wait_for_function("document.body.innerText.includes('Search finished')")
    links = tab.locator("#search-results li a").all()
    return [urldefrag(link.get_attribute("href")).url for link in links]


@pytest.mark.slow
def test_the_site_reads_offline(tab, tmp_path):
    """Sphinx takes no warning; then every page is opened, and a word searched for."""
    site = tmp_path / "site"
    build = [sys.executable, str(ROOT / "scripts" / "site.py"), str(site)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    paths = [p for p in sorted(site.rglob("*.html")) if "_static" not in p.parts]
    pages = {p: html.fromstring(p.read_bytes()) for p in paths}
    names = {p.relative_to(site).as_posix() for p in paths}
    for folder in ("notebooks", "notebooks/exercises", "notebooks/solutions"):
        notebooks = (ROOT / folder).glob("[0-9]*.ipynb")
        assert {f"{folder}/{p.stem}.html" for p in notebooks} <= names
    faults = broken_links(pages) + wrong_homes(site, pages)
    script = axe()
    for path in paths:
        seen = faults_of(tab, path, script)
        faults += [f"{path.relative_to(site)}: {fault}" for fault in seen]
    found = found_by_search(tab, site, "beta")
    faults += [] if any("07_beta" in x for x in found) else [f"beta: found {found}"]
    faults += tab.heard
    for name in DARK:
        faults += [f"{name}, dark: {x}" for x in dark_faults(tab, site / name, script)]
    assert not faults, "\n".join(faults)


BAD_PAGE = """<!doctype html><html data-theme="light"><body style="background: white">
<article><p>A formula $\\beta h$ left raw, <span class="math">\\(x\\)</span></p>
<p style="color: #bbb">Words too pale to read.</p>
<img src="none.png" alt=""><div style="width: 700px">Too wide.</div></article>
<script>console.error("oh"); document.write('<img src="https://example.org/a.png">');
undefined_name()</script></body></html>"""


@pytest.mark.slow
def test_each_check_sees_its_fault(tab, tmp_path):
    """A page with a fault of each kind: none of the checks lets everything pass."""
    page = tmp_path / "page.html"
    page.write_text(BAD_PAGE)
    seen = faults_of(tab, page, axe())
    for fault in (
        "raw formula",
        "formula not drawn",
        "picture not loaded",
        "no alt text",
        "wider than the screen",
        "contrast: <p style",
        "oh",
        "undefined_name is not defined",
        "https://example.org/a.png",
    ):
        assert any(fault in words for words in seen), (fault, seen)


def test_links_and_homes_are_checked(tmp_path):
    (tmp_path / "notebooks").mkdir()
    sources = tmp_path / "_sources" / "notebooks"
    sources.mkdir(parents=True)
    name = "04_dpo_from_scratch"
    (sources / f"{name}.ipynb").write_text("{}")
    texts = {
        "index": '<a id="here" href="#here">a</a><a href="notebooks/x.html">b</a>'
        '<a href="#there">c</a><script src="https://example.org/x.js"></script>',
        f"notebooks/{name}": '<a href="../index.html#here">a</a>',
    }
    pages = {tmp_path / f"{k}.html": html.fromstring(v) for k, v in texts.items()}
    for path in pages:
        path.touch()
    links = sorted(broken_links(pages))
    words = "loads https", "broken link #there", "broken link notebooks/x.html"
    assert [w in x for w, x in zip(words, links, strict=True)] == [True] * 3
    assert len(wrong_homes(tmp_path, pages)) == 3


@pytest.fixture(scope="module")
def builder():
    path = ROOT / "scripts" / "site.py"
    spec = importlib.util.spec_from_file_location("build_site", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_links_lead_to_pages_or_to_the_repository(builder):
    here = "notebooks/exercises/01_x.ipynb"
    chapter = "../04_dpo_from_scratch.ipynb#the-loss"
    assert builder.new_target(chapter, here) == chapter
    assert builder.new_target("symptoms.md", "docs/index.md") == "symptoms.md"
    assert builder.new_target("../../data", here).endswith("/tree/main/data")
    assert builder.new_target("../README.md", "docs/x.md").endswith("main/README.md")
    assert builder.with_links("`[a](b.md)`", "docs/x.md") == "`[a](b.md)`"
    with pytest.raises(ValueError, match=r"found no docs/none\.md"):
        builder.with_links("[a](none.md)", "docs/x.md")


def test_a_figure_has_its_caption_as_alt_text_or_is_refused(builder):
    figure = new_code_cell(outputs=[new_output("display_data", {"image/png": "x"})])
    caption = new_markdown_cell(
        "*Figure: the `loss` against\n[steps](a.ipynb).*\n\nMore."
    )
    builder.describe_figures([figure, caption], "here")
    assert figure.metadata.mystnb == {"image": {"alt": "the loss against steps."}}
    with pytest.raises(ValueError, match="no caption"):
        builder.describe_figures([figure, new_markdown_cell("More.")], "here")
