"""Our losses, gradients, tokens and metrics equal TRL's on the same rows.

TRL's come out of TRL: a real trainer on a real dataset, a batch of its own loader, its
`compute_loss`; no formula of TRL's is copied here. Ours come from the strings, by
`tokenize_pair`, `collate` and `compute_log_probs`. The policy is not the reference, so
that nothing is zero by itself, and TRL's policy has dropout, which TRL must switch off.
"""

import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from torch.testing import assert_close

from dpo_tutorial.data import boundary_merges, collate, pad_rows, tokenize_pair
from dpo_tutorial.losses import (
    compute_log_probs,
    dpo_loss,
    kto_loss,
    kto_reference_point,
    orpo_loss,
    simpo_loss,
)
from dpo_tutorial.training import TinyDPOTrainer

pytestmark = pytest.mark.slow  # importing TRL alone takes seconds
POLICY, REFERENCE = 0, 3  # seeds
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
ROOT = Path(__file__).parent.parent


def dpo_classes():
    from trl import DPOConfig, DPOTrainer

    return DPOConfig, DPOTrainer


def kto_classes():
    try:
        from trl import KTOConfig, KTOTrainer
    except ImportError:  # an older home
        from trl.experimental.kto import KTOConfig, KTOTrainer
    return KTOConfig, KTOTrainer


def orpo_classes():
    try:
        from trl.experimental.orpo import ORPOConfig, ORPOTrainer
    except ImportError:
        from trl import ORPOConfig, ORPOTrainer
    return ORPOConfig, ORPOTrainer


def cpo_classes():
    try:
        from trl.experimental.cpo import CPOConfig, CPOTrainer
    except ImportError:
        from trl import CPOConfig, CPOTrainer
    return CPOConfig, CPOTrainer


@pytest.fixture
def trl(tiny_model, tokenizer, rows, tmp_path, monkeypatch):
    """Runs one batch through a TRL trainer: loss, gradients, batch, metrics."""
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    monkeypatch.setenv("TQDM_DISABLE", "1")

    def run(
        classes, data=None, reference=REFERENCE, policy=POLICY, peft=None, **options
    ):
        config, trainer_class = classes()
        data = rows if data is None else data
        model = tiny_model(policy, dropout=0.3)
        models = {"model": model, "peft_config": peft}
        if reference is not None:
            models["ref_model"] = tiny_model(reference, dropout=0.3)
        settings = config(
            output_dir=str(tmp_path),
            per_device_train_batch_size=len(data),
            train_sampling_strategy="sequential",
            gradient_checkpointing=None,
            use_cpu=True,
            bf16=False,
            report_to="none",
            disable_tqdm=True,
            **options,
        )
        trainer = trainer_class(
            **models,
            args=settings,
            train_dataset=Dataset.from_list(data),
            processing_class=tokenizer,
        )
        batch = next(iter(trainer.get_train_dataloader()))
        trainer.model.train()  # as `trainer.train()` does
        loss = trainer.compute_loss(trainer.model, batch)
        loss.backward()
        metrics = getattr(trainer, "_metrics", {}).get("train", {})
        return SimpleNamespace(
            loss=loss.detach(),
            gradients=gradients(trainer.model),
            model=trainer.model,
            batch=batch,
            metrics={name: values[-1] for name, values in metrics.items()},
        )

    return run


@pytest.fixture
def ours(tiny_model, tokenizer, rows):
    """Our log-probs of the same rows: chosen, rejected, and the reference's."""

    def run(data=None, averaged=False, policy=POLICY, reference=REFERENCE):
        ids = [tokenize_pair(row, tokenizer) for row in data or rows]
        batch = collate(ids, tokenizer.pad_token_id)
        model = tiny_model(policy)
        logps = compute_log_probs(model, **batch)  # (2B,)
        with torch.no_grad():
            fixed = compute_log_probs(tiny_model(reference), **batch)
        count = (batch["labels"] != -100).sum(1) if averaged else 1
        both = [*(logps / count).chunk(2), *(fixed / count).chunk(2)]  # (B,) each
        return SimpleNamespace(model=model, logps=both, ids=ids, batch=batch)

    return run


def gradients(model):
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    return {name: p.grad.clone() for name, p in trained}


def assert_same(theirs, model, losses):
    """Equal loss and equal gradient of every parameter, which is not a small one."""
    loss = losses.mean()
    loss.backward()
    found = gradients(model)
    assert found.keys() == theirs.gradients.keys()
    assert max(g.abs().max() for g in found.values()) > 1e-2  # 1,000 tolerances
    assert_close(loss.detach(), theirs.loss, **CLOSE)
    for name, gradient in found.items():
        assert_close(gradient, theirs.gradients[name], **CLOSE, msg=name)


def trimmed(ids, mask):
    """The rows of a batch as lists, without padding, sorted."""
    rows = zip(ids.tolist(), mask.tolist(), strict=True)
    return sorted([i for i, m in zip(*row, strict=True) if m] for row in rows)


# name in TRL: (our loss_type, on averages, options of both)
DPO_LOSSES = {
    "sigmoid": ("sigmoid", False, {"beta": 0.1}),
    "hinge": ("hinge", False, {"beta": 0.3}),
    "ipo": ("ipo", True, {"beta": 0.5}),
    "robust": ("robust", False, {"beta": 0.1, "label_smoothing": 0.2}),
    "apo_zero": ("apo_zero", False, {"beta": 0.1}),
    "sigmoid_norm": ("sigmoid", True, {"beta": 2.0}),
}


@pytest.mark.parametrize("name", DPO_LOSSES)
def test_dpo_losses_and_gradients(trl, ours, name):
    loss_type, averaged, options = DPO_LOSSES[name]
    theirs = trl(dpo_classes, loss_type=[name], **options)
    mine = ours(averaged=averaged)
    losses, *_ = dpo_loss(*mine.logps, loss_type=loss_type, **options)
    assert_same(theirs, mine.model, losses)


def test_ipo_of_sums_is_not_trls(trl, ours):
    """Trap 3: the paper's sum and TRL's average are two losses; both are here."""
    theirs = trl(dpo_classes, loss_type=["ipo"], beta=0.5)
    summed, *_ = dpo_loss(*ours().logps, beta=0.5, loss_type="ipo")
    assert abs(summed.mean() - theirs.loss) > 1


def test_tokens_and_masks(trl, ours):
    theirs, mine = trl(dpo_classes).batch, ours().batch
    assert trimmed(theirs["input_ids"], theirs["attention_mask"]) == trimmed(
        mine["input_ids"], mine["attention_mask"]
    )
    assert trimmed(theirs["input_ids"], theirs["completion_mask"]) == trimmed(
        mine["input_ids"], mine["labels"] != -100
    )


def test_tokens_differ_where_they_merge_over_the_boundary(trl, ours, tokenizer):
    """Trap 8: TRL tokenises prompt and response together; `boundary_merges` tells."""
    row = {"prompt": "the so", "chosen": "up was good", "rejected": "up was bad"}
    assert boundary_merges(row["prompt"], row["chosen"], tokenizer)
    theirs, mine = trl(dpo_classes, [row, row]).batch, ours([row, row]).batch
    assert trimmed(theirs["input_ids"], theirs["attention_mask"]) != trimmed(
        mine["input_ids"], mine["attention_mask"]
    )


def test_cdpo_is_the_notes_formula_and_trls_sigmoid_ignores_it(trl, ours):
    """Trap 17. Mitchell's note on noisy preferences: -(1-eps) log p - eps log(1-p)."""
    beta, eps = 0.1, 0.3
    plain = trl(dpo_classes, loss_type=["sigmoid"], beta=beta)
    theirs = trl(dpo_classes, loss_type=["sigmoid"], beta=beta, label_smoothing=eps)
    assert torch.equal(theirs.loss, plain.loss)
    mine, formula = ours(), ours()
    losses, *_ = dpo_loss(*mine.logps, beta=beta, label_smoothing=eps)
    assert abs(losses.mean() - theirs.loss) > 0.01
    chosen, rejected, ref_chosen, ref_rejected = (x.double() for x in formula.logps)
    p = 1 / (1 + torch.exp(-beta * ((chosen - ref_chosen) - (rejected - ref_rejected))))
    noted = (-(1 - eps) * torch.log(p) - eps * torch.log(1 - p)).mean()
    noted.backward()
    expected = SimpleNamespace(
        loss=noted.detach().float(), gradients=gradients(formula.model)
    )
    assert_same(expected, mine.model, losses)


def test_metrics_have_trls_names_and_values(trl, tiny_model, tokenizer, rows):
    """Trap 18: `logps/*` are sums over the response, averaged over the pairs only."""
    theirs = trl(dpo_classes, beta=0.3)
    trainer = TinyDPOTrainer(
        tiny_model(POLICY),
        tokenizer,
        rows,
        reference=tiny_model(REFERENCE),
        beta=0.3,
        steps=1,
        batch_size=len(rows),
    )
    first = trainer.train()[0]
    assert first["loss"] == pytest.approx(theirs.loss.item(), abs=1e-5)
    names = [name for name in first if name.startswith(("rewards/", "logps/"))]
    assert len(names) == 6
    for name in names:
        assert first[name] == pytest.approx(theirs.metrics[name], rel=1e-5), name
    norm = torch.cat([g.flatten() for g in theirs.gradients.values()]).norm()
    assert first["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)


@pytest.mark.parametrize("name", ["ipo", "sigmoid_norm"])
def test_our_trainer_on_averages(trl, tiny_model, tokenizer, rows, name):
    loss_type, _, options = DPO_LOSSES[name]
    theirs = trl(dpo_classes, loss_type=[name], **options)
    trainer = TinyDPOTrainer(
        tiny_model(POLICY),
        tokenizer,
        rows,
        reference=tiny_model(REFERENCE),
        loss_type=loss_type,
        average_log_probs=True,
        steps=1,
        batch_size=len(rows),
        **options,
    )
    first = trainer.train()[0]
    norm = torch.cat([g.flatten() for g in theirs.gradients.values()]).norm()
    assert first["loss"] == pytest.approx(theirs.loss.item(), abs=1e-5)
    assert first["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)
    assert first["logps/chosen"] == pytest.approx(theirs.metrics["logps/chosen"])


def test_lora_has_the_base_as_its_reference(trl, ours, tiny_model):
    """Trap 15: adapters off are the weights that were wrapped, whatever adapters say"""
    from peft import LoraConfig, get_peft_model

    adapter = LoraConfig(
        r=4,
        target_modules=["c_attn"],
        fan_in_fan_out=True,
        init_lora_weights=False,  # B is not zero: the policy is not the reference
    )
    theirs = trl(dpo_classes, reference=None, peft=adapter)
    model = get_peft_model(tiny_model(POLICY), adapter).eval()
    model.load_state_dict(theirs.model.state_dict())
    base = ours(reference=POLICY)
    chosen, rejected = compute_log_probs(model, **base.batch).chunk(2)
    assert not torch.allclose(chosen, base.logps[2], atol=0.1)
    losses, *_ = dpo_loss(chosen, rejected, *base.logps[2:])
    assert_same(theirs, model, losses)


def thumbs(rows):
    """Unpaired and unbalanced: thumbs up, then down, the last prompt's left out."""
    return [
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
        for side in ("chosen", "rejected")
        for row in rows
    ][:-1]


def next_rows_prompts(ids, pad_token_id):
    """(x, y') where y' answers the row before, the last one's the first: TRL's choice.

    Rows of one prompt side by side would thus not be mismatched; these are.
    """
    sides = ("chosen_ids", "rejected_ids")
    rows = [(pair["prompt_ids"], pair[side]) for side in sides for pair in ids][:-1]
    met = [(x, rows[i - 1][1]) for i, (x, _) in enumerate(rows)]
    assert not any(pair in rows for pair in met)
    return pad_rows(met, pad_token_id)


@pytest.mark.parametrize("clamped", [False, True])
def test_kto_loss_and_gradient(trl, ours, rows, tiny_model, tokenizer, clamped):
    """Trap 5. With policy and reference swapped the KL estimate is below zero."""
    both = (REFERENCE, POLICY) if clamped else (POLICY, REFERENCE)
    seeds = dict(zip(("policy", "reference"), both, strict=True))
    options = {"beta": 0.2, "desirable_weight": 1.2, "undesirable_weight": 1.5}
    theirs, mine = trl(kto_classes, thumbs(rows), **seeds, **options), ours(**seeds)
    met = next_rows_prompts(mine.ids, tokenizer.pad_token_id)
    assert torch.equal(met["input_ids"], theirs.batch["KL_input_ids"])
    assert torch.equal(met["labels"] != -100, theirs.batch["KL_completion_mask"] == 1)
    fixed = tiny_model(seeds["reference"])
    z0 = kto_reference_point(
        compute_log_probs(mine.model, **met), compute_log_probs(fixed, **met)
    )
    assert (z0 == 0) if clamped else (z0 > 0.5)
    assert z0 == pytest.approx(theirs.metrics["kl"], abs=1e-5)
    policy, reference = (torch.cat(x)[:-1] for x in (mine.logps[:2], mine.logps[2:]))
    desirable = torch.tensor([row["label"] for row in thumbs(rows)])
    losses = kto_loss(policy, reference, desirable, z0, **options)
    assert_same(theirs, mine.model, losses)


def prompt_and_chosen_nll(model, batch):
    """The chosen's NLL per token over the batch, prompts included (trl#1676)."""
    rows = len(batch["labels"]) // 2
    ids, mask = batch["input_ids"][:rows], batch["attention_mask"][:rows]
    labels = ids.masked_fill(mask == 0, -100)
    count = (labels[:, 1:] != -100).sum()  # the first token is predicted by none
    return -compute_log_probs(model, ids, mask, labels).sum() / count


def test_orpo_loss_and_gradient(trl, ours):
    theirs = trl(orpo_classes, reference=None, beta=0.5)
    mine = ours(averaged=True)
    chosen, rejected, *_ = mine.logps
    nll = prompt_and_chosen_nll(mine.model, mine.batch)
    default = orpo_loss(chosen, rejected, beta=0.5).mean()
    assert abs(default - theirs.loss) > 0.01  # trap 6: TRL's NLL is another one
    losses = orpo_loss(chosen, rejected, beta=0.5, chosen_nll=nll)
    assert_same(theirs, mine.model, losses)


def test_orpo_needs_no_other_nll_where_the_prompt_is_one_token(trl, ours, tokenizer):
    row = {"prompt": "a", "chosen": " was good", "rejected": " bad and stale"}
    assert len(tokenize_pair(row, tokenizer)["prompt_ids"]) == 1
    theirs = trl(orpo_classes, [row], reference=None, beta=0.5)
    mine = ours([row], averaged=True)
    assert_same(theirs, mine.model, orpo_loss(*mine.logps[:2], beta=0.5))


def test_simpo_loss_and_gradient(trl, ours):
    options = {"loss_type": "simpo", "cpo_alpha": 0.0, "beta": 2.5, "simpo_gamma": 1.2}
    theirs = trl(cpo_classes, reference=None, **options)
    mine = ours(averaged=True)
    losses = simpo_loss(*mine.logps[:2], beta=2.5, gamma=1.2)
    assert_same(theirs, mine.model, losses)


def test_the_lowest_versions_tried_are_the_lowest_admitted():
    """`make test-lowest` runs this file with constraints-lowest.txt."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needs = [Requirement(text) for text in project["dependencies"]]
    lines = (ROOT / "constraints-lowest.txt").read_text().splitlines()
    split = [line.split("==") for line in lines if "==" in line]
    pins = {canonicalize_name(name): version for name, version in split}
    for need in needs:
        pin = pins[canonicalize_name(need.name)]
        assert pin in need.specifier, need
        if need.name in ("trl", "transformers", "peft", "accelerate"):
            assert str(need.specifier) == f">={pin.removesuffix('.0')}", need
