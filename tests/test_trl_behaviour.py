"""What the course says of TRL, asked of TRL itself; what of ours depends on it.

Where a later TRL behaves in another way a test fails here, and notebook 05 has to say
so. The traps are numbered as in the course's list.
"""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM
from trl import DPOConfig, DPOTrainer

from dpo_tutorial import reviews
from dpo_tutorial.data import collate, tokenize_pair
from dpo_tutorial.losses import compute_log_probs
from dpo_tutorial.training import TinyDPOTrainer

LN2 = math.log(2)
LORA = {"r": 4, "target_modules": ["c_attn"], "fan_in_fan_out": True}


def lora():
    return LoraConfig(**LORA, task_type="CAUSAL_LM")


@pytest.fixture
def base(tiny_model, tokenizer, tmp_path):
    """A model that was loaded from a folder, and so knows where it came from."""
    tiny_model(dropout=0.1).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return AutoModelForCausalLM.from_pretrained(tmp_path / "base").eval()


@pytest.fixture
def build(tokenizer, rows, tmp_path):
    """Makes a `DPOTrainer` of one step on CPU, at a rate of zero."""

    def make(model, peft_config=None, **changes):
        settings = {
            "output_dir": str(tmp_path / "out"),
            "max_steps": 1,
            "per_device_train_batch_size": 4,
            "learning_rate": 0.0,
            "train_sampling_strategy": "sequential",
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "bf16": False,
            "gradient_checkpointing": None,
            "use_cpu": True,
            "disable_tqdm": True,
        }
        return DPOTrainer(
            model,
            args=DPOConfig(**(settings | changes)),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=peft_config,
        )

    return make


def log(trainer):
    trainer.train()
    return [row for row in trainer.state.log_history if "loss" in row]


@pytest.fixture
def logps(tokenizer, rows):
    """Takes a model; summed log-probabilities (8,) of the chosen, then the rejected."""
    ids = [tokenize_pair(row, tokenizer) for row in rows]
    batch = collate(ids, tokenizer.pad_token_id)

    @torch.no_grad()
    def of(model):
        return compute_log_probs(model.eval(), **batch)

    return of


def close(a, b):
    return torch.allclose(a, b, atol=1e-4)


def moved(model):
    """A copy whose adapters, or else whose weights, are no longer at the start."""
    model = copy.deepcopy(model)
    names = dict(model.named_parameters())
    chosen = {n: p for n, p in names.items() if "lora_B" in n} or names
    torch.manual_seed(1)
    for weight in chosen.values():
        weight.data += 0.3 * torch.randn_like(weight)
    return model


@pytest.fixture
def stage1(base, tmp_path):
    """A model after a LoRA stage 1, and the folder of its adapters."""
    model = moved(get_peft_model(copy.deepcopy(base), lora()))
    model.save_pretrained(tmp_path / "stage1")
    return model, tmp_path / "stage1"


# Trap 15: the reference under LoRA


def test_adapters_off_is_the_base_and_not_stage_1(base, stage1, logps):
    model, _ = stage1
    with model.disable_adapter():
        assert close(logps(model), logps(base))
    assert not close(logps(model), logps(base))


def test_new_adapters_start_at_the_base_and_refer_to_it(base, build, logps):
    trainer = build(copy.deepcopy(base), lora())
    B = [p for n, p in trainer.model.named_parameters() if "lora_B" in n]
    assert B
    assert not any(p.any() for p in B)
    assert trainer.ref_model is None
    assert log(trainer)[0]["loss"] == pytest.approx(LN2, abs=1e-6)


def test_after_training_adapters_off_is_still_the_base(base, build, logps):
    trainer = build(copy.deepcopy(base), lora(), max_steps=3, learning_rate=0.1)
    log(trainer)
    assert not close(logps(trainer.model), logps(base))
    with trainer.model.disable_adapter():
        assert close(logps(trainer.model), logps(base))


def test_merged_stage_1_is_both_start_and_reference(base, stage1, build, logps):
    before, folder = stage1
    merged = PeftModel.from_pretrained(copy.deepcopy(base), folder).merge_and_unload()
    trainer = build(merged, lora())
    assert close(logps(trainer.model), logps(before))
    with trainer.model.disable_adapter():
        assert close(logps(trainer.model), logps(before))
    assert log(trainer)[0]["loss"] == pytest.approx(LN2, abs=1e-6)


def test_a_peft_model_without_a_config_gets_a_frozen_copy(base, stage1, build, logps):
    before, folder = stage1
    model = PeftModel.from_pretrained(copy.deepcopy(base), folder, is_trainable=True)
    trainer = build(model)
    assert set(trainer.model.peft_config) == {"default", "ref"}
    assert close(logps(trainer.model), logps(before))
    trained = [n for n, p in trainer.model.named_parameters() if p.requires_grad]
    assert trained
    assert all(".default." in name for name in trained)
    row = log(trainer)[0]
    assert row["loss"] == pytest.approx(LN2, abs=1e-6)
    assert row["rewards/chosen"] == pytest.approx(0, abs=1e-4)


def test_a_peft_model_with_a_config_is_refused(stage1, build):
    with pytest.raises(ValueError, match="PeftModel"):
        build(stage1[0], lora())


def test_adapters_wrapped_again_are_lost_at_a_first_loss_of_ln_2(
    base, stage1, build, logps
):
    before, folder = stage1
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert close(logps(loaded), logps(before))
    with pytest.warns(UserWarning, match="second time"):
        trainer = build(loaded, lora())
    assert close(logps(trainer.model), logps(base))  # stage 1 is gone
    assert log(trainer)[0]["loss"] == pytest.approx(LN2, abs=1e-6)


def test_our_trainer_refers_to_stage_1(stage1, tokenizer, rows, logps):
    model, _ = stage1
    before = logps(model)
    trainer = TinyDPOTrainer(model, tokenizer, rows, batch_size=4, steps=1)
    assert close(trainer.train_reference.T.flatten(), before)
    assert trainer.train()[0]["loss"] == pytest.approx(LN2, abs=1e-5)


def test_dropout_of_the_adapters_is_switched_off_too(base, build):
    config = LoraConfig(**LORA, task_type="CAUSAL_LM", lora_dropout=0.5)
    modules = build(copy.deepcopy(base), config).model.modules()
    assert {m.p for m in modules if isinstance(m, torch.nn.Dropout)} == {0}


# Trap 16: the reference without LoRA


def test_the_reference_is_loaded_again_from_the_path(base, build, logps):
    trainer = build(moved(base))
    assert close(logps(trainer.ref_model), logps(base))
    assert abs(log(trainer)[0]["rewards/chosen"]) > 1e-2


def test_a_model_without_a_path_fails(base, build):
    base.config._name_or_path = ""
    with pytest.raises(OSError, match=r"(?i)repo id"):
        build(base)


def test_precomputed_the_reference_is_the_policy_as_it_is(base, build, logps):
    policy = moved(base)
    policy.config._name_or_path = ""
    expected = logps(policy)
    trainer = build(policy, precompute_ref_log_probs=True)
    assert trainer.ref_model is None
    data = trainer.train_dataset.with_format("torch")
    found = [data["ref_chosen_logps"][:], data["ref_rejected_logps"][:]]
    assert close(torch.cat(found), expected)
    assert log(trainer)[0]["loss"] == pytest.approx(LN2, abs=1e-6)


def test_stage_1_comes_back_under_a_name_that_leads_to_it(
    base, build, tmp_path, monkeypatch
):
    """Or TRL would take the model before stage 1 as the reference."""
    monkeypatch.setenv("DPO_TUTORIAL_BUILD", str(tmp_path / "build"))
    model, _ = reviews.load_sft_model(base.name_or_path, steps=2)
    reference = build(model).ref_model.state_dict()
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, reference[name]), name


# Trap 17: cDPO, silently off


def test_sigmoid_ignores_label_smoothing_and_robust_does_not(base, build):
    def loss(**changes):
        return log(build(moved(base), **changes))[0]["loss"]

    assert loss(label_smoothing=0.3) == pytest.approx(loss(), abs=1e-6)
    robust = loss(loss_type=["robust"], label_smoothing=0.3)
    assert abs(robust - loss()) > 1e-3


# Trap 18: what the names mean


def test_logps_are_sums_over_a_response_in_trl_and_in_ours(
    base, build, tokenizer, rows
):
    sums = {"chosen": [], "rejected": []}
    for row in rows:
        ids = tokenize_pair(row, tokenizer)
        for side, values in sums.items():
            tokens = torch.tensor([ids["prompt_ids"] + ids[f"{side}_ids"]])
            scores = F.log_softmax(base(tokens).logits[0].double(), dim=-1)
            start = len(ids["prompt_ids"])
            picked = scores[start - 1 : -1].gather(1, tokens[0, start:, None])
            values.append(picked.sum().item())
    theirs = log(build(copy.deepcopy(base)))[0]
    ours = TinyDPOTrainer(base, tokenizer, rows, batch_size=4, steps=1).train()[0]
    for side, values in sums.items():
        expected = sum(values) / len(values)
        assert theirs[f"logps/{side}"] == pytest.approx(expected, abs=1e-3)
        assert ours[f"logps/{side}"] == pytest.approx(expected, abs=1e-3)


def test_accuracy_at_one_pair_a_batch_is_zero_or_one(base, build):
    trainer = build(moved(base), per_device_train_batch_size=1, max_steps=4)
    wins = [row["rewards/accuracies"] for row in log(trainer)]
    assert len(wins) == 4
    assert set(wins) <= {0.0, 1.0}


# Trap 21: bf16


def test_bf16_is_on_unless_told_otherwise(tmp_path):
    quiet = {"output_dir": str(tmp_path), "use_cpu": True, "report_to": "none"}
    assert DPOConfig(**quiet).bf16 is True
    assert DPOConfig(**quiet, bf16=False).bf16 is False


def test_support_of_bf16_counts_emulation(monkeypatch):
    """An old GPU, played by three answers: PyTorch says yes unless asked precisely."""

    class Old:
        major = 7

    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Old)
    monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda _: True)
    assert torch.cuda.is_bf16_supported() is True
    assert torch.cuda.is_bf16_supported(including_emulation=False) is False


def test_stage_1_computes_in_32_bits(tiny_model, tokenizer, rows, logps):
    model = tiny_model()
    examples = [(row["prompt"], row["chosen"]) for row in rows]
    tokens = sum(len(tokenizer(text)["input_ids"]) + 1 for _, text in examples)
    expected = -logps(model)[:4].sum().item() / tokens
    history = reviews.supervised_finetune(
        model, tokenizer, examples, steps=1, batch_size=4
    )
    assert history[0]["loss"] == pytest.approx(expected, abs=2e-5)
