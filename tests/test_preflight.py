"""preflight: a fault planted in a sound set-up is found, and no other beside it."""

import copy
import math

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from dpo_tutorial.data import collate, tokenize_pair
from dpo_tutorial.monitoring import Findings, preflight

LORA = LoraConfig(task_type="CAUSAL_LM", target_modules=["c_attn"], fan_in_fan_out=True)


@pytest.fixture
def sound(tiny_model, tokenizer, rows):
    """Arguments of `preflight` that leave nothing to say."""
    model = tiny_model()
    model.config._name_or_path = "some/path"
    reference = copy.deepcopy(model).requires_grad_(False)
    return {
        "model": model,
        "reference": reference,
        "tokenizer": tokenizer,
        "rows": rows,
        "batch": our_batch(rows, tokenizer),
    }


def our_batch(rows, tokenizer):
    ids = [tokenize_pair(row, tokenizer) for row in rows]
    return collate(ids, tokenizer.pad_token_id)


def trl_batch(batch):
    """The same in TRL's terms."""
    batch = dict(batch)
    return batch | {"completion_mask": (batch.pop("labels") != -100).long()}


def severity(report, check):
    return report.find(check).severity


def test_a_sound_set_up_has_no_problems(sound):
    report = preflight(**sound)
    assert report.problems == []
    assert len({f.check for f in report}) == len(report) >= 14
    assert "0.6931" in report.find("first loss").seen
    assert preflight(**sound | {"batch": None}).problems == []
    assert preflight(**sound | {"batch": trl_batch(sound["batch"])}).problems == []


def test_a_report_prints_and_displays_as_a_table(sound):
    report = preflight(**sound)
    assert isinstance(report, list)
    assert repr(report).splitlines()[0].split()[:3] == ["first", "loss", "ok"]
    assert report._repr_html_().count("<tr") == len(report) + 1
    assert repr(Findings()) == Findings()._repr_html_() == "no findings"


def test_nothing_is_changed(sound, tiny_model):
    policy = tiny_model(dropout=0.3).train()
    policy.transformer.h[0].eval()
    policy.transformer.wpe.requires_grad_(False)
    before = {k: v.clone() for k, v in policy.state_dict().items()}
    modes = [m.training for m in policy.modules()]
    flags = [p.requires_grad for p in policy.parameters()]
    random_state = torch.random.get_rng_state()
    preflight(**sound | {"model": policy})
    assert all(torch.equal(v, before[k]) for k, v in policy.state_dict().items())
    assert [m.training for m in policy.modules()] == modes
    assert [p.requires_grad for p in policy.parameters()] == flags
    assert all(p.grad is None for p in policy.parameters())
    assert torch.equal(torch.random.get_rng_state(), random_state)


def test_another_reference(sound, tiny_model):
    other = tiny_model(seed=1).requires_grad_(False)
    report = preflight(**sound | {"reference": other})
    assert [f.check for f in report.problems] == ["first loss"]
    assert severity(report, "first loss") == "error"


def test_dropout(sound, tiny_model):
    """Trap 11: on in train mode, and in eval mode if TRL is going to call train()."""
    model = tiny_model(dropout=0.3)
    reference = copy.deepcopy(model).requires_grad_(False)
    sound |= {"model": model, "reference": reference}
    report = preflight(**sound)
    assert report.problems == []
    assert "in train mode" in report.find("dropout").seen
    for change in (
        {"model": copy.deepcopy(model).train()},
        {"batch": trl_batch(sound["batch"])},
    ):
        found = {f.check: f.severity for f in preflight(**sound | change).problems}
        assert found == {"first loss": "error", "dropout": "error"}
    report = preflight(**sound | {"reference": reference.train()})
    assert [f.check for f in report.problems] == ["first loss"]
    assert "reference.eval()" in report.find("first loss").remedy


def test_eos_missing_twice_or_lost_to_the_mask(sound):
    """Trap 9."""
    batch, eos = sound["batch"], sound["tokenizer"].eos_token_id
    last = batch["attention_mask"].sum(1) - 1  # where EOS stands
    rows = torch.arange(len(last))
    for change in ("missing", "by id"):
        bad = {k: v.clone() for k, v in batch.items()}
        if change == "missing":  # another token in its place
            bad["input_ids"][rows, last] = bad["labels"][rows, last] = 7
        else:  # pad = EOS, and the mask goes by id
            bad["labels"][bad["input_ids"] == eos] = -100
        found = preflight(**sound | {"batch": bad}).find("eos")
        assert found.severity == "error", change
        assert "not scored in 8 of 8" in found.seen
        assert "pad is EOS" in found.remedy
    twice = {k: v.clone() for k, v in batch.items()}
    twice["input_ids"][rows, last - 1] = twice["labels"][rows, last - 1] = eos
    assert severity(preflight(**sound | {"batch": twice}), "eos") == "warning"


def test_no_eos_or_padding_token(sound):
    tokenizer = copy.deepcopy(sound["tokenizer"])
    tokenizer.pad_token = None
    assert severity(preflight(**sound | {"tokenizer": tokenizer}), "pads") == "error"
    tokenizer = copy.deepcopy(sound["tokenizer"])
    tokenizer.eos_token = None
    report = preflight(**sound | {"tokenizer": tokenizer, "batch": None})
    assert "no row" in report.find("first loss").seen
    report = preflight(**sound | {"tokenizer": tokenizer})
    assert severity(report, "eos") == "error"


def test_bos_twice(sound):
    """Trap 10."""
    tokenizer = copy.deepcopy(sound["tokenizer"])
    tokenizer.bos_token = "<|endoftext|>"
    start = torch.zeros(8, 2, dtype=torch.long)  # two of them, attended, not scored
    extra = {"input_ids": start, "attention_mask": start + 1, "labels": start - 100}
    twice = {k: torch.cat([extra[k], v], 1) for k, v in sound["batch"].items()}
    report = preflight(**sound | {"batch": twice, "tokenizer": tokenizer})
    assert severity(report, "bos") == "error"
    once = {k: v[:, 1:] for k, v in twice.items()}
    report = preflight(**sound | {"batch": once, "tokenizer": tokenizer})
    assert severity(report, "bos") == "ok"


def test_padding_scored(sound):
    """Trap 12, in either kind of batch."""
    batch = {k: v.clone() for k, v in sound["batch"].items()}
    pads = int((batch["attention_mask"] == 0).sum())
    batch["labels"][batch["attention_mask"] == 0] = sound["tokenizer"].pad_token_id
    for bad in (batch, trl_batch(batch)):
        found = preflight(**sound | {"batch": bad}).find("pads")
        assert (found.severity, found.seen) == ("error", f"{pads} are scored")


def test_prompt_scored(sound):
    """Trap 13: the whole prompt, and its last token only."""
    batch = sound["batch"]
    whole = torch.where(batch["attention_mask"] == 1, batch["input_ids"], -100)
    part, starts = batch["labels"].clone(), (batch["labels"] >= 0).int().argmax(1)
    for row, start in enumerate(starts):
        part[row, start - 1] = batch["input_ids"][row, start - 1]
    for labels in (whole, part):
        found = preflight(**sound | {"batch": batch | {"labels": labels}})
        assert severity(found, "scored") == "error"
    shuffled = {k: v.flip(0) for k, v in batch.items()}
    assert severity(preflight(**sound | {"batch": shuffled}), "scored") == "ok"


def test_a_row_with_nothing_scored(sound):
    """Trap 14: a truncated response; its loss would be NaN or a constant."""
    labels = sound["batch"]["labels"].clone()
    labels[3] = -100
    report = preflight(**sound | {"batch": sound["batch"] | {"labels": labels}})
    assert "rows [3]" in report.find("scored").seen
    assert severity(report, "scored") == severity(report, "first loss") == "error"


@pytest.mark.parametrize(
    ("row", "check", "rank"),
    [
        ({"prompt": "a", "chosen": "", "rejected": "b"}, "empty responses", "error"),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "rows", "error"),
        ({"prompt": "a", "chosen": "b"}, "rows", "error"),
        ({"prompt": "a", "chosen": 3, "rejected": "b"}, "rows", "error"),
        ({"prompt": "a" * 600, "chosen": "b", "rejected": "c"}, "truncation", "error"),
        (
            {"prompt": "the soup ", "chosen": "was", "rejected": "c"},
            "boundary",
            "warning",
        ),
    ],
)
def test_faults_of_rows(sound, row, check, rank):
    for batch in (sound["batch"], None):
        report = preflight(**sound | {"rows": [*sound["rows"], row], "batch": batch})
        assert severity(report, check) == rank
        assert severity(report, "first loss") == "ok"


def test_boundary_merges(sound, tokenizer):
    """Trap 8. "wa" + "s" is one token, so TRL would shorten the prompt."""
    row = {"prompt": "the soup wa", "chosen": "s good", "rejected": "s stale"}
    found = preflight(**sound | {"rows": [row]}).find("boundary")
    assert found.severity == "warning"
    assert "2 of 2" in found.seen


def test_no_rows_and_only_bad_rows(sound):
    report = preflight(**sound | {"rows": [], "batch": None})
    assert severity(report, "rows") == severity(report, "first loss") == "error"
    report = preflight(**sound | {"rows": [{}], "batch": None})
    assert severity(report, "rows") == severity(report, "first loss") == "error"


def test_truncation_goes_by_max_length_in_tokens(sound):
    assert preflight(**sound, max_length=40).problems == []
    assert severity(preflight(**sound, max_length=5), "truncation") == "error"


def test_length_skew(sound):
    rows = [
        {"prompt": f"p {i}", "chosen": "a b c d", "rejected": "e"} for i in range(40)
    ]
    assert severity(preflight(**sound | {"rows": rows}), "length skew") == "warning"


def test_leakage(sound):
    """Trap 20: a copy is an error, a prompt nearly alike a warning."""
    rows, other = sound["rows"], {"prompt": "quite new", "chosen": "x", "rejected": "y"}
    assert severity(preflight(**sound, eval_rows=[other]), "leakage") == "ok"
    assert severity(preflight(**sound, eval_rows=rows[:1]), "leakage") == "error"
    long = "the bread and the soup and the bread and the soup were"
    rows = [*rows, {"prompt": long + " good", "chosen": "x", "rejected": "y"}]
    near = [{"prompt": long + " stale", "chosen": "x", "rejected": "y"}]
    report = preflight(**sound | {"rows": rows}, eval_rows=near)
    assert severity(report, "leakage") == "warning"


def test_dtypes(sound, monkeypatch):
    half = copy.deepcopy(sound["reference"]).bfloat16()
    report = preflight(**sound | {"reference": half})
    assert "torch.bfloat16" in report.find("dtype").seen
    assert severity(report, "dtype") == "warning"
    policy = copy.deepcopy(sound["model"]).bfloat16()
    report = preflight(**sound | {"model": policy, "reference": half}, bf16=False)
    assert "lose small updates" in report.find("dtype").seen
    step = torch.tensor(0.02, dtype=torch.bfloat16)
    assert step - 5e-7 == step  # so they do


def test_bf16_by_imitation(sound, monkeypatch):
    """Trap 21: a T4 says yes to `is_bf16_supported()`, and imitates it."""
    for native in (True, False):
        monkeypatch.setattr(
            torch.cuda,
            "is_bf16_supported",
            lambda including_emulation=True, n=native: n or including_emulation,
        )
        rank = "ok" if native else "warning"
        assert severity(preflight(**sound, bf16=True), "dtype") == rank
        assert severity(preflight(**sound), "dtype") == "ok"  # float32, not asked


def test_trainable(sound):
    frozen = copy.deepcopy(sound["model"]).requires_grad_(False)
    assert severity(preflight(**sound | {"model": frozen}), "trainable") == "error"


def test_reference_that_would_move(sound):
    report = preflight(**sound | {"reference": sound["model"]})
    assert severity(report, "reference") == "error"
    open_ = copy.deepcopy(sound["reference"]).requires_grad_(True)
    report = preflight(**sound | {"reference": open_})
    assert severity(report, "reference") == "warning"
    trl = {"reference": open_, "batch": trl_batch(sound["batch"])}
    assert severity(preflight(**sound | trl), "reference") == "ok"  # never an update


def test_reference_without_a_path(sound):
    """Trap 16: TRL loads a reference that it is not given from the policy's path."""
    sound["reference"] = None
    assert preflight(**sound).problems == []
    sound["model"].config._name_or_path = ""
    assert severity(preflight(**sound), "reference") == "warning"


def test_lora(sound):
    """Trap 15: adapters off is the reference; a trained adapter is not in it."""
    model = get_peft_model(sound["model"], LORA)
    sound |= {"model": model, "reference": None}
    assert preflight(**sound).problems == []
    assert model.active_adapters == ["default"]
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    report = preflight(**sound)
    assert severity(report, "adapters") == severity(report, "first loss") == "error"
    assert "merge" in report.find("adapters").remedy
    merged = get_peft_model(model.merge_and_unload(), LORA)
    assert preflight(**sound | {"model": merged}).problems == []


def test_lora_with_a_reference_adapter(sound):
    """As TRL sets it up where it is given a trained adapter."""
    model = get_peft_model(sound["model"], LORA)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    model.add_adapter("ref", LORA)
    for name, weight in model.named_parameters():
        if ".default." in name:
            copied = model.get_parameter(name.replace(".default.", ".ref."))
            copied.data.copy_(weight.data)
    flags = [p.requires_grad for p in model.parameters()]
    report = preflight(**sound | {"model": model, "reference": None})
    assert report.problems == []
    assert model.active_adapters == ["default"]
    assert [p.requires_grad for p in model.parameters()] == flags


@pytest.mark.filterwarnings("ignore::UserWarning")  # PEFT's own, about the second time
def test_lora_put_on_twice(sound):
    """Trap 15: `get_peft_model` and `peft_config`."""
    model = get_peft_model(get_peft_model(sound["model"], LORA), LORA)
    report = preflight(**sound | {"model": model, "reference": None})
    assert report.find("adapters")[1:3] == ("error", "put on twice")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_lora_put_over_an_adapter_that_was_loaded(sound, tmp_path):
    """Trap 15 without a PeftModel inside: the first loss is ln 2, and stage 1 lost."""
    sound["model"].save_pretrained(tmp_path / "base")
    base = type(sound["model"]).from_pretrained(tmp_path / "base")
    stage1 = get_peft_model(base, copy.deepcopy(LORA))  # it writes in its path
    stage1.save_pretrained(tmp_path / "stage1")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "stage1")
    sound |= {"model": get_peft_model(loaded, LORA), "reference": None}
    report = preflight(**sound)
    assert [f.check for f in report.problems] == ["adapters"]
    assert report.find("adapters").severity == "error"
    assert "it is lost" in report.find("adapters").seen
    assert "merge" in report.find("adapters").remedy


def test_the_base_of_a_lora_model_is_no_reference(sound):
    """PEFT puts its layers into the base, so that it moves too."""
    base = sound["model"]
    report = preflight(
        **sound | {"model": get_peft_model(base, LORA), "reference": base}
    )
    assert severity(report, "reference") == "error"
    assert severity(report, "first loss") == "ok"  # which is what makes it hard to see


def test_precomputed_reference_log_probs(sound):
    batch = trl_batch(sound["batch"])
    batch |= {f"ref_{side}_logps": torch.zeros(4) for side in ("chosen", "rejected")}
    report = preflight(**sound | {"batch": batch, "reference": None})
    assert severity(report, "first loss") == "error"  # zeros are not log-probs


def test_ids_that_the_model_has_no_place_for(sound):
    wide = {k: v.repeat(1, 60) for k, v in sound["batch"].items()}
    high = sound["batch"] | {"input_ids": sound["batch"]["input_ids"] + 300}
    for batch, what in ((wide, "512 tokens"), (high, "300 kinds")):
        found = preflight(**sound | {"batch": batch}).find("first loss")
        assert found.severity == "error"
        assert what in found.seen


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"model": "distilgpt2"}, TypeError, "there is a str"),
        ({"model": None}, TypeError, "there is a NoneType"),
        ({"reference": "distilgpt2"}, TypeError, "there is a str"),
        ({"rows": ["a", "b"]}, TypeError, "there is a str"),
        ({"batch": {"input_ids": torch.ones(2, 3)}}, ValueError, "attention_mask"),
        ({"beta": 0}, ValueError, "beta is 0"),
    ],
)
def test_arguments_of_another_kind(sound, change, error, text):
    with pytest.raises(error, match=text):
        preflight(**sound | change)


def test_an_odd_batch(sound):
    batch = {k: v[:7] for k, v in sound["batch"].items()}
    with pytest.raises(ValueError, match="chosen rows"):
        preflight(**sound | {"batch": batch})


def test_ln_2_at_any_beta(sound):
    for beta in (0.01, 10.0):
        seen = preflight(**sound, beta=beta).find("first loss").seen
        assert seen.startswith(f"{math.log(2):.4f}")


def test_rows_of_messages(sound):
    tokenizer = copy.deepcopy(sound["tokenizer"])
    tokenizer.chat_template = (
        "{% for m in messages %}"
        "{{ m.role }}: {{ m.content }}{{ eos_token }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    rows = [
        {"prompt": "the soup was", "chosen": "good", "rejected": "stale"},
        {"prompt": "bread", "chosen": "no", "rejected": "was the soup good"},
    ]
    sides = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
    rows = [
        {k: [{"role": sides[k], "content": v}] for k, v in row.items()} for row in rows
    ]
    sound |= {"rows": rows, "batch": None}
    report = preflight(**sound | {"tokenizer": tokenizer})
    assert severity(report, "eos") == severity(report, "first loss") == "ok"
    report = preflight(**sound)  # no template to write them with
    assert severity(report, "first loss") == "error"


@pytest.fixture
def trl_trainer(tiny_model, tokenizer, rows, tmp_path):
    """Makes a real `DPOTrainer` of a saved model."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    def make(model=None, peft_config=None, **settings):
        if model is None:
            tiny_model(dropout=0.3).save_pretrained(tmp_path / "model")
            model = type(tiny_model()).from_pretrained(tmp_path / "model")
        config = DPOConfig(
            str(tmp_path / "run"),
            per_device_train_batch_size=4,
            gradient_checkpointing=None,
            report_to="none",
            use_cpu=True,
            bf16=False,
            **settings,
        )
        return DPOTrainer(
            model,
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=peft_config,
        )

    return make


def check_trl(trainer, rows, batch=None):
    if batch is None:
        batch = next(iter(trainer.get_train_dataloader()))
    tokenizer = trainer.processing_class
    return preflight(trainer.model, trainer.ref_model, tokenizer, rows, batch=batch)


@pytest.mark.slow
def test_real_trl_trainers(trl_trainer, rows):
    assert check_trl(trl_trainer(), rows).problems == []
    assert check_trl(trl_trainer(peft_config=LORA), rows).problems == []
    ahead = trl_trainer(precompute_ref_log_probs=True)
    assert check_trl(ahead, rows).problems == []
    noisy = check_trl(trl_trainer(disable_dropout=False), rows)
    assert [f.check for f in noisy.problems] == ["first loss", "dropout"]
    short = check_trl(trl_trainer(max_length=5), rows)
    assert severity(short, "eos") == "error"


@pytest.mark.slow
def test_a_real_trl_trainer_of_a_trained_adapter(trl_trainer, rows, sound):
    """Trap 15: TRL copies it to an adapter "ref"; with adapters off it is lost."""
    model = get_peft_model(sound["model"], LORA)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    before = preflight(**sound | {"model": model, "reference": None})
    assert severity(before, "adapters") == severity(before, "first loss") == "error"
    trainer = trl_trainer(model)
    assert check_trl(trainer, rows).problems == []
    trainer.train()  # preflight left it able to


@pytest.mark.slow
def test_a_real_trl_trainer_cannot_load_a_reference_without_a_path(
    trl_trainer, sound, tokenizer, rows
):
    """Trap 16, as preflight warned."""
    sound["model"].config._name_or_path = ""
    report = preflight(sound["model"], None, tokenizer, rows)
    assert severity(report, "reference") == "warning"
    with pytest.raises((OSError, ValueError)):
        trl_trainer(sound["model"])
