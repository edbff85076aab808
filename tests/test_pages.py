"""What the pages of `docs/` say, held against what it is said of."""

import re
import tomllib
from pathlib import Path

import nbformat
import pytest
import torch
import torch.nn.functional as F
import yaml
from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from dpo_tutorial.data import collate, tokenize_pair

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
FIGURE = re.compile(
    r"\[(?!\d\d\])([−-]?\d[^\[\]]*(?:\[[^\]]*\])?)\]\(\.\./(notebooks/\S+?\.ipynb)#(\S+?)\)"
)
FIGURES = [
    pytest.param(*match.groups(), id=f"{page.stem}: {match[1]}")
    for page in sorted(DOCS.glob("*.md"))
    for match in FIGURE.finditer(page.read_text("utf-8"))
]


def slug(title):
    """The anchor that MyST, as GitHub, gives a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def printed_under(path, anchor):
    """What the cells under a heading print, up to the next heading of its level."""
    text, level = [], 0
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            for marks, title in re.findall(r"^(#+) (.*)$", cell.source, re.M):
                if slug(title) == anchor:
                    level = len(marks)
                elif level and len(marks) <= level:
                    return "\n".join(text)
        elif level:
            outputs = cell.get("outputs", [])
            data = [o.get("data", {}) for o in outputs]
            text += [o.get("text", "") for o in outputs]
            text += [
                d.get(kind, "") for d in data for kind in ("text/plain", "text/html")
            ]
    return "\n".join(text)


def test_pages_quote_figures():
    assert len(FIGURES) > 15


@pytest.mark.parametrize(("figure", "notebook", "anchor"), FIGURES)
def test_a_quoted_figure_is_printed_where_it_says(figure, notebook, anchor):
    assert figure in printed_under(ROOT / notebook, anchor)


def test_every_module_is_in_the_reference():
    listed = re.findall(
        r"^   dpo_tutorial\.(\w+)$", (DOCS / "api.md").read_text(), re.M
    )
    modules = [p.stem for p in (ROOT / "dpo_tutorial").glob("[!_]*.py")]
    assert sorted(listed) == sorted(modules)


def test_the_citation_names_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == VERSION
    assert f"Version {VERSION}" in (DOCS / "cite.md").read_text("utf-8")


@pytest.fixture
def logged(tiny_model, tokenizer, rows, tmp_path):
    """TRL's own log of a step and of an evaluation on one batch, at a rate of zero."""
    data, folders = Dataset.from_list(rows), {}
    for seed, name in enumerate(("policy", "reference")):
        folders[name] = tmp_path / name
        tiny_model(seed).save_pretrained(folders[name])
    settings = {
        "output_dir": str(tmp_path / "out"),
        "max_steps": 1,
        "per_device_train_batch_size": len(rows),
        "per_device_eval_batch_size": len(rows),
        "learning_rate": 0.0,
        "beta": 0.3,
        "logging_steps": 1,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "bf16": False,
        "gradient_checkpointing": None,
        "use_cpu": True,
        "disable_tqdm": True,
    }
    trainer = DPOTrainer(
        tiny_model(0),
        ref_model=tiny_model(1),
        args=DPOConfig(**settings),
        train_dataset=data,
        eval_dataset=data,
        processing_class=tokenizer,
    )
    trainer.train()
    log = trainer.state.log_history
    return next(x for x in log if "loss" in x), next(x for x in log if "eval_loss" in x)


@pytest.fixture
def by_hand(tiny_model, tokenizer, rows):
    """The same names by the page's formulas, at beta 0.3, from the models' scores."""
    ids = [tokenize_pair(row, tokenizer) for row in rows]
    batch = collate(ids, tokenizer.pad_token_id)
    labels = batch["labels"][:, 1:]
    kept = labels >= 0  # (2B, T - 1)
    sums = []
    for seed in (1, 0):  # the policy last
        with torch.no_grad():
            inputs = {k: batch[k] for k in ("input_ids", "attention_mask")}
            scores = tiny_model(seed)(**inputs).logits[:, :-1]
        logps = scores.log_softmax(-1)
        picked = logps.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
        sums.append((picked * kept).sum(1))
    won, lost = sums[1].chunk(2)
    rho_w, rho_l = (sums[1] - sums[0]).chunk(2)
    entropy = -(logps.exp() * logps).sum(-1)
    (c_kept, r_kept), (c, r) = kept.chunk(2), scores.mean(-1).chunk(2)
    first = (scores.argmax(-1) == labels).chunk(2)[0]
    return {
        "loss": -F.logsigmoid(0.3 * (rho_w - rho_l)).mean(),
        "rewards/chosen": 0.3 * rho_w.mean(),
        "rewards/rejected": 0.3 * rho_l.mean(),
        "rewards/margins": 0.3 * (rho_w - rho_l).mean(),
        "rewards/accuracies": (rho_w > rho_l).float().mean(),
        "logps/chosen": won.mean(),
        "logps/rejected": lost.mean(),
        "logits/chosen": c[c_kept].mean(),
        "logits/rejected": r[r_kept].mean(),
        "entropy": entropy[kept].mean(),
        "mean_token_accuracy": first[c_kept].float().mean(),
        "num_tokens": batch["attention_mask"].sum(),
    }


def test_the_page_of_trls_names_has_those_that_trl_logs(logged, by_hand):
    page = (DOCS / "trl_metrics.md").read_text("utf-8")
    names = set(re.findall(r"^\| `([\w/]+)` \|", page, re.M))
    step, evaluation = logged
    assert names == set(step) - {"step"}
    assert names - {"grad_norm", "learning_rate"} <= {
        name.removeprefix("eval_") for name in evaluation
    }
    assert names - set(by_hand) == {"grad_norm", "learning_rate", "epoch"}


def test_trls_numbers_are_the_pages_formulas(logged, by_hand):
    step, evaluation = logged
    assert 0 < by_hand["mean_token_accuracy"] + by_hand["rewards/accuracies"] < 2
    for name, value in by_hand.items():
        assert step[name] == pytest.approx(value.item(), rel=1e-3, abs=1e-4), name
        if name != "num_tokens":
            held_out = evaluation[f"eval_{name}"]
            assert held_out == pytest.approx(value.item(), rel=1e-3, abs=1e-4), name
