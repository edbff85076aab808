"""The cost estimate against published counts, sums by hand, autograd, a process."""

import copy
import importlib.util
import inspect
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, OPTConfig

from dpo_tutorial import results_path
from dpo_tutorial.costs import (
    METHODS,
    SHAPES,
    Step,
    flops,
    memory,
    step_seconds,
    what_fits,
)
from dpo_tutorial.losses import compute_log_probs
from dpo_tutorial.shapes import saved, sizes

BATCH = {"pairs": 2, "prompt_tokens": 48, "response_tokens": 16}
LORA = {"trainable": "lora", "reference": "adapters off"}
GB = 1e9


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("nano", 932_864),
        ("distilgpt2", 81_912_576),
        ("SmolLM2-135M", 134_515_008),
        ("Qwen2.5-1.5B", 1_543_714_304),
        ("Mistral-7B", 7_241_732_096),
        ("Llama-3-70B", 70_553_706_496),
    ],
)
def test_a_shape_has_as_many_weights_as_was_published(name, count):
    assert sizes(SHAPES[name]).parameters == count


def test_the_smallest_shape_is_the_committed_model_s():
    from dpo_tutorial.models import load_model

    model = load_model("nano")[0]
    assert model.num_parameters() == sizes(SHAPES["nano"]).parameters
    for name in ("n_embd", "n_layer", "n_head", "n_positions", "vocab_size"):
        assert getattr(model.config, name) == getattr(SHAPES["nano"], name)


@pytest.mark.parametrize("name", ["distilgpt2", "SmolLM2-135M"])
def test_adapters_are_as_many_as_peft_makes(name):
    peft = pytest.importorskip("peft")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(SHAPES[name])
        options = {"target_modules": "all-linear", "task_type": "CAUSAL_LM"}
        model = peft.get_peft_model(model, peft.LoraConfig(r=16, **options))
    assert model.get_nb_trainable_parameters()[0] == sizes(SHAPES[name]).adapters(16)


def kept(name, layers, width, rank, padded):
    """Bytes that autograd saves in a forward pass, the model's weights apart."""
    config = copy.deepcopy(SHAPES[name])
    config.update({"num_hidden_layers": layers, "vocab_size": 50, "bos_token_id": 0})
    config.update({"eos_token_id": 0})
    dtype = {2: torch.bfloat16, 4: torch.float32}[width]
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    if rank:
        from peft import LoraConfig, get_peft_model

        options = {"target_modules": "all-linear", "task_type": "CAUSAL_LM"}
        options["fan_in_fan_out"] = config.model_type == "gpt2"
        settings = LoraConfig(r=rank, **options)
        model = get_peft_model(model, settings, autocast_adapter_dtype=False)
    ids = torch.randint(0, 50, (2, 48))
    mask = torch.ones_like(ids)
    mask[0, -1] = 1 - padded
    labels = ids.clone()
    labels[:, :40] = labels[:, -1] = -100
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    storages = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        compute_log_probs(model, ids, mask, labels)
    return sum(size for size, _ in storages.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "width", "rank", "padded"),
    [
        ("distilgpt2", 4, 0, False),
        ("distilgpt2", 4, 8, False),
        ("distilgpt2", 2, 0, True),
        ("SmolLM2-135M", 4, 0, False),
        ("SmolLM2-135M", 4, 8, True),
        ("SmolLM2-135M", 2, 0, False),
        ("SmolLM2-135M", 2, 8, False),
        ("Qwen2.5-1.5B", 2, 0, False),
    ],
)
def test_a_block_keeps_what_autograd_saves(name, width, rank, padded):
    case = (width, rank, padded)
    per_token = (kept(name, 3, *case) - kept(name, 2, *case)) / (2 * 48)
    expected = saved(SHAPES[name], width, rank, 48 if padded else 0).block
    assert expected == pytest.approx(per_token, rel=0.01)


def test_a_block_of_gpt_keeps_32_bytes_a_token_and_unit():
    """Korthikanti et al.: 34 with two dropout masks of a byte, in 16 bits."""
    config = GPT2Config(activation_function="gelu")
    heads = 4 * config.n_head  # the fused attention's own
    assert saved(config, 2).block == (34 - 2) * config.n_embd + heads


def test_seven_billion_weights_under_adam_take_16_bytes_each():
    """The well-known 112 GB for 7 billion, and DPO's reference on top."""
    found = memory(SHAPES["Mistral-7B"], precision="mixed", **BATCH)
    states = found.weights + found.gradients + found.optimizer
    assert states == 16 * 7_241_732_096
    assert found.reference == 2 * 7_241_732_096
    assert states / 7_241_732_096 * 7e9 == 112 * GB


def test_plain_float32_takes_16_bytes_too_and_pure_bf16_half():
    n = sizes(SHAPES["distilgpt2"]).parameters
    for precision, bytes_each in (("float32", 16), ("bfloat16", 8)):
        found = memory(SHAPES["distilgpt2"], precision=precision, **BATCH)
        assert found.weights + found.gradients + found.optimizer == bytes_each * n


@pytest.mark.parametrize(
    ("precision", "dtype"), [("float32", "float32"), ("bfloat16",) * 2]
)
def test_adam_s_state_is_as_large_as_torch_makes_it(precision, dtype):
    weight = torch.nn.Parameter(torch.ones(1000, dtype=getattr(torch, dtype)))
    adam = torch.optim.AdamW([weight])
    weight.grad = torch.ones_like(weight)
    adam.step()
    state = adam.state[weight]
    found = sum(state[x].nbytes for x in ("exp_avg", "exp_avg_sq")) / 1000
    n = sizes(SHAPES["nano"]).parameters
    assert memory(SHAPES["nano"], precision=precision, **BATCH).optimizer == found * n


def test_qlora_packs_the_blocks_matrices_into_4_127_bits():
    """QLoRA, section 3: 0.127 bits a weight for scales once these are quantised."""
    config = SHAPES["Mistral-7B"]
    n = sizes(config)
    words = {**BATCH, **LORA, "precision": "bfloat16", "trainable": "qlora"}
    packed = n.linear * (4 + 0.126953125) / 8
    rest = 2 * (n.parameters - n.linear + n.adapters(16))
    assert memory(config, **words).weights == pytest.approx(packed + rest)


def test_qlora_by_hand_for_the_recipe_of_notebook_05():
    """Weights, adapters with 8-bit Adam and checkpoints as its cells add them up."""
    words = {"pairs": 2, "prompt_tokens": 512, "response_tokens": 512}
    words |= {**LORA, "trainable": "qlora", "precision": "bfloat16", "logits": "tiles"}
    words |= {"checkpointing": True, "optimizer": "adamw_8bit"}
    found = memory(SHAPES["Mistral-7B"], **words)
    assert found.weights / GB == pytest.approx(3.60 + 0.52 + 0.08, abs=0.02)
    assert (found.gradients + found.optimizer) / GB == pytest.approx(0.17, abs=0.01)
    checkpoints = 2 * 4096 * 4096 * 32 / GB
    assert found.phases["loss"]["activations"] / GB == pytest.approx(
        checkpoints, rel=0.1
    )
    assert 6 < found.total / GB < 7.5


@pytest.mark.parametrize(
    ("sharding", "divided"),
    [
        ("zero1", ["optimizer"]),
        ("zero2", ["optimizer", "gradients"]),
        ("zero3", ["optimizer", "gradients", "weights", "reference"]),
        ("fsdp", ["optimizer", "gradients", "weights", "reference"]),
    ],
)
def test_sharding_divides_what_it_says_and_nothing_else(sharding, divided):
    config = SHAPES["Mistral-7B"]
    whole = memory(config, precision="mixed", **BATCH)
    shared = memory(config, precision="mixed", sharding=sharding, devices=8, **BATCH)
    for part in ("weights", "gradients", "optimizer", "reference", "activations"):
        share = 8 if part in divided else 1
        assert getattr(shared, part) == pytest.approx(getattr(whole, part) / share), (
            part
        )
    assert shared.total < whole.total


def test_zero_s_table_for_seven_and_a_half_billion_weights():
    """ZeRO, figure 1: 120 GB become 31.4, 16.6 and 1.9 on 64 devices."""
    config, per = SHAPES["Mistral-7B"], 7.5e9 / 7_241_732_096
    for sharding, gb in (("zero1", 31.4), ("zero2", 16.6), ("zero3", 1.9)):
        words = {"precision": "mixed", "reference": "precomputed", "devices": 64}
        found = memory(config, sharding=sharding, **words, **BATCH)
        states = found.weights + found.gradients + found.optimizer
        assert states * per / GB == pytest.approx(gb, rel=0.02)


@pytest.mark.parametrize("name", list(SHAPES))
def test_each_saving_saves(name):
    config = SHAPES[name]
    usual = memory(config, **BATCH)
    ahead = memory(config, reference="precomputed", **BATCH)
    assert usual.reference == 4 * sizes(config).parameters
    assert usual.total - ahead.total == usual.reference
    assert ahead.reference == 0
    less = memory(config, checkpointing=True, **BATCH)
    assert less.phases["loss"]["activations"] < usual.phases["loss"]["activations"] / 5
    assert less.activations < usual.activations
    assert memory(config, logits="everywhere", **BATCH).logits == 4 * usual.logits
    eight = memory(config, optimizer="adamw_8bit", **BATCH)
    assert eight.optimizer < usual.optimizer
    lora = memory(config, **LORA, **BATCH)
    assert lora.optimizer == 8 * sizes(config).adapters(16) < usual.optimizer
    qlora = memory(config, **{**LORA, "trainable": "qlora"}, **BATCH)
    assert qlora.weights < lora.weights


def test_more_work_takes_more():
    config = SHAPES["distilgpt2"]
    for word in BATCH:
        more = {**BATCH, word: 4 * BATCH[word]}
        assert flops(config, **more) > flops(config, **BATCH)
        assert memory(config, **more).activations > memory(config, **BATCH).activations
    assert memory(config, padded=True, **BATCH).total >= memory(config, **BATCH).total


def test_parts_of_the_peak_add_up():
    found = memory(SHAPES["SmolLM2-135M"], **BATCH)
    table = found.table()
    assert sum(found.at_peak.values()) == found.total
    assert table["total"].idxmax() == found.peak
    assert found.highest("loss", "head") <= found.highest(*found.phases) == found.total
    assert table["total"].max() * GB == pytest.approx(found.total)
    assert f"{found.total / GB:.2f} GB" in repr(found)
    assert "<table" in found._repr_html_()


def test_what_is_on_file_was_met_within_15_percent():
    """And belongs to the estimate as it is now: else run benchmarks/memory.py again."""
    report = json.loads(results_path("memory.json").read_text())
    rows = [row for row in report["cases"] if "not measured" not in row]
    assert {"distilgpt2", "SmolLM2-135M"} == {row["shape"] for row in rows}
    known = set(inspect.signature(Step).parameters)
    for row in rows:
        words = {k: v for k, v in row.items() if k in known}
        found = memory(SHAPES[row["shape"]], **words).total
        assert round(found) == row["estimate"], row["name"]
        assert abs(found / row["measured"] - 1) < 0.15, row["name"]


def test_accumulated_gradients_stay_in_every_phase():
    found = memory(SHAPES["nano"], accumulate=True, **BATCH)
    assert {p["gradients"] for p in found.phases.values()} == {found.gradients}


def test_operations_are_six_a_weight_and_token_and_two_for_the_reference():
    """Without attention's own part, and with logits everywhere."""
    config = SHAPES["Llama-3-70B"]
    n = sizes(config)
    tokens = 2 * 2 * 64
    words = {"logits": "everywhere", **BATCH}
    for reference, each in (("precomputed", 6), ("model", 8)):
        found = flops(config, reference=reference, **words)
        assert found == pytest.approx(each * (n.linear + n.head) * tokens, rel=0.01)
    again = flops(config, checkpointing=True, **words) - flops(config, **words)
    assert again == pytest.approx(2 * n.linear * tokens, rel=0.01)
    lora = flops(config, trainable="lora", reference="precomputed", **words)
    assert lora == pytest.approx(4 * (n.linear + n.head) * tokens, rel=0.02)


@pytest.mark.parametrize("name", ["distilgpt2", "SmolLM2-135M"])
def test_operations_are_those_that_torch_counts(name):
    from torch.utils.flop_counter import FlopCounterMode

    config = copy.deepcopy(SHAPES[name])
    config.update({"num_hidden_layers": 2})
    model = AutoModelForCausalLM.from_config(config).eval()
    ids = torch.randint(0, 100, (2, 24))
    labels = ids.clone()
    labels[:, :16] = -100
    with FlopCounterMode(display=False) as counter:
        compute_log_probs(model, ids, torch.ones_like(ids), labels).sum().backward()
    words = {"pairs": 1, "prompt_tokens": 16, "response_tokens": 8}
    expected = flops(config, reference="precomputed", **words)
    assert expected == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_seconds_are_operations_by_rate():
    config = SHAPES["nano"]
    found = step_seconds(config, flops_per_second=1e9, **BATCH)
    assert found == flops(config, **BATCH) / 1e9
    with pytest.raises(ValueError, match="flops_per_second is 0"):
        step_seconds(config, flops_per_second=0, **BATCH)


def test_what_fits_counts_cards():
    shapes = {n: SHAPES[n] for n in ("distilgpt2", "Mistral-7B", "Llama-3-70B")}
    table = what_fits(shapes=shapes)
    assert list(table.columns) == ["GB", "16 GB", "24 GB", "48 GB", "80 GB"]
    assert (table.loc["distilgpt2", "16 GB"] == 1).all()
    full, *_, lora, qlora = METHODS
    assert table.loc[("Mistral-7B", qlora), "16 GB"] == 1
    assert table.loc[("Mistral-7B", full), "80 GB"] > 1
    assert table.loc[("Llama-3-70B", lora), "80 GB"] > 1
    assert table.isna().any(axis=None)  # 64 cards of 16 GB hold no 70B, fully trained
    counts = table.drop(columns="GB").fillna(128)
    assert (counts.diff(axis=1).iloc[:, 1:] <= 0).all(axis=None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"trainable": "some"}, "trainable is 'some'"),
        ({"reference": "adapters off"}, "no adapters"),
        ({"optimizer": "sgd"}, "optimizer is 'sgd'"),
        ({"precision": "fp8"}, "precision is 'fp8'"),
        ({"sharding": "zero4"}, "sharding is 'zero4'"),
        ({"logits": "none"}, "logits is 'none'"),
        ({"devices": 4}, "sharding is 'none' on 4 devices"),
        ({"pairs": 0}, "pairs is 0"),
        ({"response_tokens": 0}, "response_tokens is 0"),
        ({"prompt_tokens": -1}, "prompt_tokens is -1"),
    ],
)
def test_what_makes_no_sense_is_an_error(words, message):
    with pytest.raises(ValueError, match=message):
        memory(SHAPES["nano"], **{**BATCH, **words})


def test_a_family_that_was_not_counted_is_an_error():
    with pytest.raises(ValueError, match="model_type is 'opt'"):
        memory(OPTConfig(), **BATCH)


def test_cards_that_make_no_sense_are_an_error():
    with pytest.raises(ValueError, match="usable 2"):
        what_fits(usable=2)


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="residence as Linux tells it"
)
@pytest.mark.parametrize(
    "words",
    [{"reference": "model"}, {**LORA, "pairs": 4, "prompt_tokens": 48}],
    ids=["full", "LoRA"],
)
def test_a_process_takes_what_was_estimated(words):
    path = Path(__file__).parent.parent / "benchmarks" / "memory.py"
    spec = importlib.util.spec_from_file_location("memory_benchmark", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    small = {"pairs": 2, "prompt_tokens": 16, "response_tokens": 16}
    case = {"name": "test", "shape": "distilgpt2", **small, **words}
    assert abs(benchmark.beside(case)["error"]) < 0.15
