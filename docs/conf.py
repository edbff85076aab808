"""Sphinx's settings; `scripts/site.py` prepares the sources and calls Sphinx."""

import re
import tomllib
from importlib.metadata import distribution
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
_TABLE = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
_MATHJAX = distribution("sphinx-mathjax-offline").locate_file("sphinx-mathjax-offline")

_ARXIV = r"`arXiv \1 <https://arxiv.org/abs/\1>`__"

project = "The DPO tutorial"
html_title = project
author = "The authors of the DPO tutorial"
copyright = "text CC BY 4.0, code Apache-2.0"
release = version = _TABLE["version"]
language = "en"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
]
templates_path = ["_templates"]
exclude_patterns = ["_templates", "_static"]

# Notebooks and Markdown: the outputs that are there, never a new execution.
nb_execution_mode = "off"
nb_merge_streams = True
nb_ipywidgets_js = {}  # no scripts from elsewhere
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

# The package, from its docstrings: a name in backticks is linked where it is known.
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autosummary_ignore_module_all = False

# Everything that a page needs lies beside it: MathJax draws with SVG, without fonts.
mathjax_path = "mathjax/tex-svg.js"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_search_summary = False  # it would fetch pages, which file:// forbids
html_use_index = False  # the search finds the names
html_domain_indices = False
html_theme = "sphinx_book_theme"
html_theme_options = {
    "repository_url": _TABLE["urls"]["Repository"],
    "repository_branch": "main",
    "path_to_docs": "",
    "use_repository_button": True,
    "use_download_button": True,
    "use_fullscreen_button": False,
    "launch_buttons": {
        "binderhub_url": "https://mybinder.org",
        "colab_url": "https://colab.research.google.com",
        "notebook_interface": "jupyterlab",
    },
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
    "show_toc_level": 2,
    "navbar_persistent": [],  # the search is in the sidebar
}
html_context = {"default_mode": "auto"}


def _plain_to_rest(app, what, name, obj, options, lines: list[str]) -> None:
    """The docstrings' plain text as reST: `names` linked, tables kept as they stand."""
    table = False
    found: list[str] = []
    for line in lines:
        if line.startswith("|"):
            found += [] if table else ["::", ""]
            table = True
            found.append("   " + line)
            continue
        found += [""] if table else []
        table = False
        parts = re.split(r"(`[^`]+`)", line)
        parts[::2] = [re.sub(r"([*|]|_(?!\w))", r"\\\1", text) for text in parts[::2]]
        parts[1::2] = [rf":py:obj:{name}\ " for name in parts[1::2]]
        found.append(re.sub(r"arXiv (\d{4}\.\d{5})", _ARXIV, "".join(parts)))
    lines[:] = [*found, ""]


def _copy_mathjax(app, error) -> None:
    """The one file of MathJax that the pages load; 2 MB of the package's 24."""
    if error is None:
        target = Path(app.outdir) / "_static" / mathjax_path
        target.parent.mkdir(parents=True, exist_ok=True)
        source = Path(_MATHJAX) / "static" / mathjax_path
        target.write_bytes(source.read_bytes())


def setup(app) -> None:
    app.connect("autodoc-process-docstring", _plain_to_rest)
    app.connect("build-finished", _copy_mathjax)
