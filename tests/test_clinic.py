"""The clinic: faults are what they say and leave with the run; the page is fresh."""

import inspect
import json
import runpy
from math import log
from pathlib import Path

import pandas as pd
import pytest
import torch

from dpo_tutorial import clinic as clinic_module
from dpo_tutorial import faults, training
from dpo_tutorial.cases import BUGS, CASES, LESS, SEEDS, vitals, wards
from dpo_tutorial.clinic import admitted, before_and_after, overheard, stop_early, trial
from dpo_tutorial.data import PreferencePair, collate, tokenize_pair
from dpo_tutorial.evaluation import Estimate
from dpo_tutorial.findings import Finding, Findings
from dpo_tutorial.losses import dpo_loss
from dpo_tutorial.models import load_model
from dpo_tutorial.reviews import Annotator, parse, preference_pairs
from dpo_tutorial.training import TinyDPOTrainer

ROOT = Path(__file__).parent.parent
SMALL = {"count": 12, "steps": 2, "batch_size": 4, "eval_every": 1}
REMARK = " You have wonderful taste, dear reader."


@pytest.fixture(scope="module")
def examples():
    _, tokenizer = load_model("nano")
    rows = preference_pairs(6, seed=3)
    return [tokenize_pair(row, tokenizer) for row in rows], tokenizer


def pair(chosen, rejected):
    return PreferencePair("Hotel review: The room was", chosen, rejected)


# --- faults of batches


def test_without_eos_only_the_last_label_goes(examples):
    ids, tokenizer = examples
    right, wrong = (f(ids, tokenizer.pad_token_id) for f in (collate, faults.no_eos))
    eos = tokenizer.eos_token_id
    assert ((right["labels"] == eos).sum(1) == 1).all()
    assert not (wrong["labels"] == eos).any()
    counts = [(batch["labels"] >= 0).sum(1) for batch in (right, wrong)]
    assert torch.equal(counts[0] - 1, counts[1])


def test_pads_and_prompts_are_scored_where_they_are(examples):
    ids, tokenizer = examples
    right = collate(ids, pad := tokenizer.pad_token_id)
    pads, prompts = faults.pads_scored(ids, pad), faults.prompt_scored(ids, pad)
    padding = right["attention_mask"] == 0
    assert padding.any()
    assert (pads["labels"][padding] == pad).all()
    assert torch.equal(pads["labels"][~padding], right["labels"][~padding])
    assert torch.equal(prompts["labels"][~padding], right["input_ids"][~padding])
    assert (prompts["labels"][padding] == -100).all()


# --- faults and repairs of the loss

LOGPS = [torch.tensor([x]) for x in (-3.0, -5.0, -4.0, -4.5)]


def test_an_own_reference_leaves_ln_2_and_a_gradient():
    won, lost = (x.clone().requires_grad_() for x in LOGPS[:2])
    losses, *rewards = faults.own_reference(None, None, 0.5)(won, lost, *LOGPS[2:])
    losses.sum().backward()
    assert losses.item() == pytest.approx(log(2))
    assert [r.item() for r in rewards] == [0, 0]
    assert (won.grad.item(), lost.grad.item()) == pytest.approx((-0.25, 0.25))


def test_reversed_beta_divides():
    losses, won, _ = faults.divided_by_beta(None, None, 0.5)(*LOGPS)
    assert losses.item() == pytest.approx(dpo_loss(*LOGPS, beta=2.0)[0].item())
    assert won.item() == pytest.approx(2.0)  # (-3 + 4) / 0.5


def test_an_sft_term_adds_the_chosen_log_prob():
    plain, *rewards = dpo_loss(*LOGPS, beta=0.5)
    losses, *same = faults.sft_term(None, None, 0.5)(*LOGPS)
    assert (losses - plain).item() == pytest.approx(3 * faults.SFT_WEIGHT)
    assert same == rewards


def test_the_corpus_counts_in_training_and_not_in_evaluation():
    nano, tokenizer = load_model("nano")
    loss, plain = faults.corpus_mixed_in(nano, tokenizer, 0.5), dpo_loss(*LOGPS, 0.5)[0]
    with torch.no_grad():
        assert torch.equal(loss(*LOGPS)[0], plain)
    first, second = (loss(*LOGPS)[0] for _ in range(2))
    nll = [(x - plain).item() / faults.SFT_WEIGHT for x in (first, second)]
    assert all(8 < x < 30 for x in nll)  # nano: 16 nats a review
    assert nll[0] != nll[1]  # other reviews each step
    first.sum().backward()
    assert all(p.grad is not None for p in nano.parameters())


# --- faults and repairs of the pairs


def test_lengths_are_balanced():
    long, short, same = pair(" a b c.", " a."), pair(" a.", " a b."), pair(" a.", " b.")
    kept = faults.balanced([long, long, same, short, long], None)
    assert kept == [long, short, same]
    far = pair(" a b c d e f.", " a.")
    assert faults.no_long_winners([far, long, short], None) == [long, short]


def test_flattery_is_dropped_or_countered():
    flatters, plain = pair(f" good.{REMARK}", " bad."), pair(" good.", f" bad.{REMARK}")
    assert faults.no_flattery([flatters, plain], None) == [plain]
    *kept, more = faults.counter_examples([flatters, plain], None)
    assert kept == [flatters, plain]
    assert (more.chosen, more.rejected) == (" good.", f" good.{REMARK}")


def test_agreed_labels_are_three_times_the_same():
    sure = preference_pairs(40, Annotator(temperature=1e-3), seed=1)
    assert len(faults.agreed(sure, Annotator(temperature=1e-3))) > 30  # but for ties
    coin = Annotator(label_noise=0.5, seed=2)
    kept = faults.agreed(sure, coin)
    assert 2 <= len(kept) <= 20  # a quarter of 40, in expectation
    assert all(p in sure for p in kept)


def test_makers_write_what_they_say():
    for made in faults.scrambled(20, Annotator(), seed=1):
        assert made.chosen != made.rejected
        assert sorted(made.chosen.split()) == sorted(made.rejected.split())
        assert not parse(made.prompt, made.chosen).unparsed
    own = faults.on_policy(20, Annotator(), seed=1, split="held_out")
    assert len(own) == 20
    assert len({p.prompt for p in own}) > 5
    assert sum(not parse(p.prompt, p.chosen).unparsed for p in own) > 14  # nano's: 98 %


def test_swapped_pairs_are_swapped():
    assert faults.swapped([pair(" a.", " b.")], None) == [pair(" b.", " a.")]


# --- runs


def test_a_fault_leaves_the_trainer_when_the_run_does():
    with admitted(1, batch=faults.prompt_scored, **SMALL) as faulty:
        assert training.collate is faults.prompt_scored
    with (
        pytest.raises(ZeroDivisionError),
        admitted(1, batch=faults.no_eos, **SMALL),
    ):
        raise ZeroDivisionError
    assert training.collate is collate
    with admitted(1, **SMALL) as sound:
        pass
    assert (faulty.train_reference < sound.train_reference - 1).all()


def test_the_trainer_refuses_scored_pads_unless_its_guard_is_off():
    settings = {"batch": faults.pads_scored, **SMALL}
    with (
        admitted(1, **settings) as trainer,
        pytest.raises(RuntimeError, match="log-ratios"),
    ):
        trainer.train()
    with admitted(1, guard=False, **settings) as trainer:
        assert abs(trainer.train()[0]["loss"] - log(2)) > 1e-4


def test_a_trial_tells_what_it_was_asked():
    calls = []

    def check(model, reference, tokenizer, rows, **others):
        calls.append((reference is model, len(rows), sorted(others)))
        return "checked"

    loss = {"loss": faults.own_reference}
    found = trial(1, check=check, tasks=lambda *models: len(models), **loss, **SMALL)
    assert calls == [(True, 12, ["batch", "beta", "eval_rows"])]
    assert (found["check"], found["tasks"]) == ("checked", 2)
    assert len(found["history"]) == 4
    assert {len(found[k]) for k in ("text", "gold", "flattery", "words")} == {96}


def test_early_stopping_goes_back_to_the_best_weights():
    hot = {**SMALL, "steps": 6, "learning_rate": 0.03, "warmup": 0.5}
    with admitted(1, **hot) as trainer:
        stop_early(trainer)
    losses = [r["eval_loss"] for r in trainer.history if "eval_loss" in r]
    assert losses[-1] > min(losses)
    assert len(losses) < 6
    assert trainer.evaluate()["loss"] == pytest.approx(min(losses), abs=1e-4)


def test_every_case_is_planted_and_each_repair_tried_over_all_seeds():
    table, trainers = pd.DataFrame(wards()), inspect.signature(TinyDPOTrainer)
    known = {*inspect.signature(trial).parameters, *trainers.parameters}
    known |= {*inspect.signature(admitted).parameters}
    for name, case in {**CASES, **BUGS}.items():
        ours = table[table["case"] == name]
        assert set(ours["treatment"]) == {"planted", *case.repairs}
        seeds = SEEDS if name in CASES else SEEDS[:1]
        assert all(tuple(r["seed"]) == seeds for _, r in ours.groupby("treatment"))
        for settings in ours["settings"]:
            assert set(settings) <= known
            assert None not in settings.values()
    rows = table.set_index(["case", "treatment", "seed"])["settings"]
    cooler = rows["collapse", "lower the rate", 2]
    assert cooler == rows["healthy", "planted", 2]  # one run, not two


# --- what is made of them


def result(gold, held_out=(0.6, 0.5), text=" good.", problems=()):
    history = [{"step": i, "loss": 0.69 - i / 50} for i in range(6)]
    history += [{"step": i, "eval_loss": x} for i, x in enumerate(held_out)]
    same = {"gold": [gold] * 4, "kl": [1.0] * 4, "words": [3] * 4, "parses": [True] * 4}
    check = Findings(Finding(x, "error", x, "") for x in problems)
    found = {"text": [text] * 4, "flattery": [0, 0, 1, 0], "history": history}
    return {**same, **found, "check": check, "tasks": None}


def a_clinic():
    """Nothing trained: gold by treatment, a little apart by seed."""
    gold = {"planted": 0.1, "careful labels": 0.4, "keep agreed labels": 0.14}
    gold["sample on policy"] = -0.4
    rows = [r for r in wards() if r["case"] in ("healthy", "noisy labels")]
    for row in rows:
        level = 0.5 if row["case"] == "healthy" else gold[row["treatment"]]
        wave = (-1) ** row["seed"] * (0.05 if "agreed" in row["treatment"] else 0.01)
        text = " good." if level > 0.2 else f" good.{REMARK}"
        faulty = ["eos"] if row["treatment"] == "planted" and level < 0.2 else []
        row["result"] = result(level + wave, text=text, problems=["leak", *faulty])
        row |= vitals(row["settings"], row["result"])
    return pd.DataFrame(rows)


def test_the_verdict_goes_by_the_interval_of_the_paired_change():
    table = before_and_after(a_clinic(), "noisy labels")
    assert table["verdict"].to_dict() == {
        "healthy": "",
        "planted": "",
        "careful labels": "helped",
        "keep agreed labels": "not told apart",
        "sample on policy": "harmed",
    }
    assert table.loc["careful labels", "gain"].mean == pytest.approx(0.3)
    assert clinic_module.verdict(Estimate(1, 0.1, 2)) == "helped"


def test_what_was_said_is_what_the_healthy_run_was_not_told():
    heard = overheard(a_clinic(), "noisy labels")
    assert heard["preflight"] == ["eos (eos)"]
    assert heard["diagnosis"][0].endswith("(3 of 3)")
    assert heard["pathologies"] == ["sycophantic (100%)"]


def test_vitals_take_the_loss_of_the_weights_that_are_kept():
    found = result(0.3, held_out=(0.6, 0.4, 0.5))
    assert vitals({}, found)["held-out loss"] == 0.5
    assert vitals({"early": True}, found)["held-out loss"] == 0.4
    assert vitals({}, found)["flattery"] == 0.25
    assert "held-out loss" in LESS


# --- the page


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(ROOT / "scripts" / "symptoms.py"))


@pytest.fixture
def results():
    return json.loads((ROOT / "docs" / "symptoms.json").read_text(encoding="utf-8"))


def test_the_page_is_what_the_results_generate(script, results):
    committed = (ROOT / "docs" / "symptoms.md").read_text(encoding="utf-8")
    assert committed == script["page"](results)
    for name, case in results["cases"].items():
        assert f"## {name.capitalize()}" in committed
        for row in case["rows"].values():
            assert row[case["by"]] in committed


def test_the_results_are_of_the_cases_as_they_are(results):
    assert list(results["cases"]) == list(CASES)
    assert list(results["bugs"]) == list(BUGS)
    for name, case in CASES.items():
        kept = results["cases"][name]
        assert set(kept["rows"]) == {"healthy", "planted", *case.repairs}
        fields = ("see", "cause", "by", "remember")
        assert [kept[f] for f in fields] == [getattr(case, f) for f in fields]


def test_a_repair_that_failed_is_on_the_page(script, results):
    case = results["cases"]["noisy labels"]
    case["rows"]["careful labels"]["verdict"] = "harmed"
    line = next(x for x in script["page"](results).split("\n") if "careful" in x)
    assert "| harmed |" in line
