"""What the files around the course say of each other."""

import base64
import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import dpo_tutorial

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SOURCES = sorted((ROOT / "notebooks" / "src").glob("*.py"))
PINS = dict(
    line.split("==")
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if "==" in line
)


def requirements():
    extras = PROJECT["optional-dependencies"].values()
    return [Requirement(r) for r in sum(extras, PROJECT["dependencies"])]


def test_every_requirement_is_pinned_within_its_bounds():
    pins = {canonicalize_name(name): version for name, version in PINS.items()}
    for need in requirements():
        assert pins[canonicalize_name(need.name)] in need.specifier, need


def test_bounds_admit_what_colab_has():
    bounds = {r.name: r.specifier for r in requirements()}
    for name, version in [
        ("torch", "2.11.0"),
        ("transformers", "5.15.0"),
        ("datasets", "4.0.0"),
    ]:
        assert version in bounds[name], name
    assert all(v in SpecifierSet(PROJECT["requires-python"]) for v in ("3.11", "3.13"))


def test_conda_environment_agrees_with_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, rest = environment["dependencies"]
    assert SpecifierSet(python.split()[1]) == SpecifierSet(PROJECT["requires-python"])
    assert (environment["channels"], pip) == (["conda-forge"], "pip")
    assert rest["pip"] == [
        "--constraint constraints.txt",
        "torch",
        "--editable .[lab,test]",
    ]


def test_versions_agree():
    assert dpo_tutorial.__version__ == PROJECT["version"]


def test_import_is_light():
    code = "import sys, dpo_tutorial; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)
def test_badge_and_bootstrap_follow_the_address_in_pyproject(source):
    path = ROOT / "scripts" / "notebooks.py"
    spec = importlib.util.spec_from_file_location("notebooks", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    text = source.read_text()
    assert script.with_headers(text, source.stem) == text, "run: make headers"
    assert f"notebooks/{source.stem}.ipynb" in text
    assert (ROOT / "notebooks" / f"{source.stem}.ipynb").exists()


def test_the_address_stands_nowhere_else():
    address = PROJECT["urls"]["Repository"]
    readme = (ROOT / "README.md").read_text()
    hosts = r"https://(?:colab\.research\.google\.com/)?github(?:\.com)?/"
    path = address.removeprefix("https://github.com/")
    for found in re.findall(hosts + r"([\w-]+/[\w-]+)", readme):
        assert found == path


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)
def test_committed_notebook_is_built_from_its_source(source):
    jupytext = pytest.importorskip("jupytext")
    book = json.loads((ROOT / "notebooks" / f"{source.stem}.ipynb").read_text())
    cells = [(c["cell_type"], "".join(c["source"])) for c in book["cells"]]
    fresh = [(c.cell_type, c.source) for c in jupytext.read(source).cells]
    assert cells == fresh, "run: make outputs"


def test_the_readme_shows_a_figure_that_a_notebook_made():
    figure = "docs/00_start_here.png"
    assert f"]({figure})" in (ROOT / "README.md").read_text()
    book = (ROOT / "notebooks" / "00_start_here.ipynb").read_text()
    image = base64.b64encode((ROOT / figure).read_bytes()).decode()
    assert image in book.replace("\\n", "")


def test_modules_stay_thin_and_import_one_way():
    modules = {p.stem: p.read_text() for p in (ROOT / "dpo_tutorial").glob("*.py")}
    assert max(text.count("\n") for text in modules.values()) <= 200
    uses = {
        name: set(re.findall(r"^\s*from (?:dpo_tutorial)?\.(\w+) import", text, re.M))
        for name, text in modules.items()
    }
    assert uses["losses"] == set()
    assert uses["data"] <= {"layouts"}
    for top in ("evaluator", "experiments", "monitoring", "tax"):  # they draw, too
        uses[top] -= {"plotting"}
    assert not any({"plotting", "evaluation"} & used for used in uses.values())


def test_data_readme_gives_the_figures_of_nano():
    figures = json.loads((ROOT / "data" / "nano" / "figures.json").read_text())
    text = (ROOT / "data" / "README.md").read_text()
    for name in ("held_out_loss_nats", "grammar_entropy_nats", "loss_over_entropy"):
        assert f" {figures[name]} " in text, name
    assert f"{figures['share_of_samples_that_parse']:.1%}" in text
    assert figures["share_of_samples_that_parse"] >= 0.95
    assert figures["loss_over_entropy"] <= 1.05
    assert abs(figures["gold_reward_mean"]) < 0.15
