"""Each speed-up gives the plain form's log-probs and gradients; what it refuses.

The plain form: a forward a side, logits at every position, padded further than needed.
"""

from itertools import islice, pairwise

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.testing import assert_close
from transformers import LlamaConfig, LlamaForCausalLM

from dpo_tutorial import speed
from dpo_tutorial.data import collate, tokenize_pair
from dpo_tutorial.losses import compute_log_probs
from dpo_tutorial.sharing import shared_prompts
from dpo_tutorial.speed import bucketed, fuse_gelu, preference_log_probs
from dpo_tutorial.training import TinyDPOTrainer

PLAIN = {"concatenate": False, "logits": "all", "pad_to": 60}
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
LENGTHS = [(9, 4, 7), (1, 1, 5), (14, 12, 1), (5, 6, 6)]  # prompt, chosen, rejected
WAYS = [
    {},
    {"logits": "all"},
    {"logits": "chunks"},
    {"concatenate": False},
    {"concatenate": False, "logits": "chunks"},
    {"pad_to": 60},
    {"share_prompt": True},
    {"share_prompt": True, "logits": "all"},
    {"share_prompt": True, "logits": "chunks"},
]


def llama(attention="sdpa"):
    torch.manual_seed(0)
    sizes = {"vocab_size": 300, "hidden_size": 16, "intermediate_size": 40}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(
        num_hidden_layers=2,
        initializer_range=0.3,
        attn_implementation=attention,
        **sizes,
        **heads,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def ids():
    """Rows that `tokenize_pair` could have made, of unlike lengths."""
    draw = torch.Generator().manual_seed(1)
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    return [
        {
            k: torch.randint(1, 300, (n,), generator=draw).tolist()
            for k, n in zip(names, row, strict=True)
        }
        for row in LENGTHS
    ]


def both(model, rows, **way):
    """Log-probs (2B,), and the gradients of a sum in which each has its own weight."""
    model.zero_grad()
    logps = preference_log_probs(model, rows, 0, **way)
    (logps * torch.linspace(-1, 1, len(logps))).sum().backward()
    trained = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    return logps.detach(), trained


def assert_same(model, rows, way, other=None):
    logps, gradients = both(other or model, rows, **way)
    true, plain = both(model, rows, **PLAIN)
    assert true.abs().min() > 1
    assert_close(logps, true, **CLOSE)
    largest = max(g.abs().max() for g in plain.values())
    assert largest > 0.5
    for name, gradient in gradients.items():
        assert_close(
            gradient, plain[name], rtol=0, atol=1e-5 * float(largest), msg=name
        )


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_exact_in_log_probs_and_gradients(tiny_model, ids, kind, way):
    assert_same(tiny_model() if kind == "gpt2" else llama(), ids, way)


def test_chunks_of_any_size(tiny_model, ids, monkeypatch):
    monkeypatch.setattr(speed, "CHUNK", 5)
    assert_same(tiny_model(), ids, {"share_prompt": True, "logits": "chunks"})


def test_a_shared_prompt_with_eager_attention(ids):
    assert_same(llama("eager"), ids, {"share_prompt": True})


@pytest.mark.parametrize("logits", speed.LOGITS)
def test_a_shared_prompt_under_lora(tiny_model, ids, logits):
    options = {"target_modules": ["c_attn", "c_fc"], "init_lora_weights": False}
    config = LoraConfig(r=4, fan_in_fan_out=True, task_type="CAUSAL_LM", **options)
    model = get_peft_model(tiny_model(), config).eval()
    assert_same(model, ids, {"share_prompt": True, "logits": logits})


def test_the_defaults_are_compute_log_probs_to_the_bit(tiny_model, ids):
    model = tiny_model()
    with torch.no_grad():
        found = preference_log_probs(model, ids, 0)
        assert torch.equal(found, compute_log_probs(model, **collate(ids, 0)))


def test_a_row_of_both_responses_by_hand(tiny_model):
    rows = [
        {"prompt_ids": [7, 8], "chosen_ids": [3, 4, 0], "rejected_ids": [5, 0]},
        {"prompt_ids": [9], "chosen_ids": [6, 0], "rejected_ids": [0]},
    ]
    layout = shared_prompts(rows, 1, tiny_model())
    assert layout.inputs["input_ids"].tolist() == [[7, 8, 3, 4, 5], [1, 1, 1, 9, 6]]
    assert layout.inputs["position_ids"].tolist() == [[0, 1, 2, 3, 2], [0, 0, 0, 0, 1]]
    seen = layout.inputs["attention_mask"][0, 0].int().tolist()
    assert seen == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 0, 0, 1],  # rejected: the prompt and itself, and nothing of chosen
    ]
    scored = zip(*(x.tolist() for x in layout[1:]), strict=True)
    assert sorted(scored) == [  # row, place, token, response
        (0, 1, 3, 0),
        (0, 1, 5, 2),
        (0, 2, 4, 0),
        (0, 3, 0, 0),
        (0, 4, 0, 2),
        (1, 3, 0, 3),
        (1, 3, 6, 1),
        (1, 4, 0, 1),
    ]


def test_what_the_other_response_says_changes_nothing(tiny_model, ids):
    model, other = tiny_model(), [dict(row) for row in ids]
    for row in other:
        row["chosen_ids"] = [t % 299 + 1 for t in row["chosen_ids"]]
    with torch.no_grad():
        before, after = (
            preference_log_probs(model, rows, 0, share_prompt=True).chunk(2)
            for rows in (ids, other)
        )
    assert_close(before[1], after[1])
    assert not torch.allclose(before[0], after[0], atol=0.1)


def test_one_kernel_for_gelu(tiny_model, ids):
    fused = tiny_model()
    assert fuse_gelu(fused) == 2
    assert fuse_gelu(fused) == 0
    assert_same(tiny_model(), ids, {}, other=fused)
    assert fuse_gelu(llama()) == 0
    config = LoraConfig(r=4, fan_in_fan_out=True, target_modules=["c_fc"])
    assert fuse_gelu(get_peft_model(tiny_model(), config)) == 2


@pytest.mark.parametrize(
    ("way", "words"),
    [
        ({"logits": "some"}, "logits is 'some': expected one of"),
        ({"share_prompt": True, "pad_to": 60}, "expected True and 0"),
        ({"share_prompt": True, "concatenate": False}, "expected True and 0"),
    ],
)
def test_arguments_that_do_not_fit(tiny_model, ids, way, words):
    with pytest.raises(ValueError, match=words):
        preference_log_probs(tiny_model(), ids, 0, **way)


def test_models_that_do_not_fit(ids):
    flash, scaled, blind = llama(), llama(), llama()
    flash.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="attention is 'flash_attention_2'"):
        preference_log_probs(flash, ids, 0, share_prompt=True)
    scaled.config.logits_scaling = 8.0
    with pytest.raises(ValueError, match="scale the logits: use 'responses'"):
        preference_log_probs(scaled, ids, 0, logits="chunks")
    blind.forward = lambda input_ids, attention_mask: None
    with pytest.raises(ValueError, match="takes no position_ids"):
        preference_log_probs(blind, ids, 0, share_prompt=True)


@pytest.mark.parametrize("size", [2, 3, 7, 50])
def test_buckets_hold_an_epoch_and_resume_anywhere(ids, size):
    rows = [
        {"prompt_ids": [1] * (i * 7 % 20), "chosen_ids": [1], "rejected_ids": [1, 2]}
        for i in range(50)
    ]
    count = -(-50 // size)
    stream = list(islice(bucketed(rows, size, seed=3), 3 * count))
    for start in range(0, 3 * count, count):
        epoch = stream[start : start + count]
        assert sorted(i for batch in epoch for i in batch) == list(range(50))
        spans = [[len(rows[i]["prompt_ids"]) for i in batch] for batch in epoch]
        spans = sorted((min(span), max(span)) for span in spans)
        for (_, high), (low, _) in pairwise(spans):
            assert high <= low  # no batch reaches into the next one's lengths
    if count > 2:
        assert stream[:count] != stream[count : 2 * count]
    for start in (0, 1, count, 2 * count - 1):
        assert (
            list(islice(bucketed(rows, size, 3, start), 2))
            == (stream * 2)[start : start + 2]
        )


FAST = {"share_prompt": True, "fused": True, "logits": "chunks"}


@pytest.mark.parametrize("options", [{"share_prompt": True}, FAST], ids=str)
def test_a_run_is_the_same_run(tiny_model, tokenizer, rows, options):
    same = {"steps": 5, "batch_size": 2, "learning_rate": 1e-3, "adam_epsilon": 1e-3}
    plain, fast = (
        TinyDPOTrainer(tiny_model(), tokenizer, rows, **same, **way).train()
        for way in ({}, options)
    )
    assert abs(plain[-1]["loss"] - plain[0]["loss"]) > 0.01
    for name in ("loss", "grad_norm", "logps/chosen", "rewards/margins"):
        assert [r[name] for r in fast] == pytest.approx(
            [r[name] for r in plain], rel=1e-4, abs=1e-4
        ), name


def test_a_run_with_shared_prompts_is_given_fewer_tokens(tiny_model, tokenizer, rows):
    given = {}
    for share in (False, True):
        model = tiny_model()
        seen = given[share] = []
        model.transformer.wte.register_forward_hook(
            lambda module, inputs, output, seen=seen: seen.append(inputs[0].numel())
        )
        options = {"steps": 2, "batch_size": 4, "share_prompt": share}
        TinyDPOTrainer(model, tokenizer, rows, **options).train()
    assert len(given[True]) == len(given[False]) == 3  # the reference ahead, two steps
    assert max(given[True]) < min(given[False])


def test_a_bucketed_run_resumes(tiny_model, tokenizer, rows, tmp_path):
    options = {"steps": 6, "batch_size": 3, "bucket": True, "share_prompt": True}
    whole = TinyDPOTrainer(tiny_model(), tokenizer, rows, **options).train()
    first = TinyDPOTrainer(tiny_model(), tokenizer, rows, **options)
    first.train(until=3)
    first.save(tmp_path)
    second = TinyDPOTrainer(tiny_model(seed=7), tokenizer, rows, **options)
    second.resume(tmp_path)
    assert second.train() == whole
    other = TinyDPOTrainer(tiny_model(), tokenizer, rows, **options | {"bucket": False})
    with pytest.raises(ValueError, match="make the trainer with those settings"):
        other.resume(tmp_path)


def test_lower_precision_is_near_and_not_equal(tiny_model, tokenizer, rows, tmp_path):
    options = {"steps": 3, "batch_size": 4, "learning_rate": 1e-3}
    low = TinyDPOTrainer(
        tiny_model(), tokenizer, rows, autocast=torch.bfloat16, **options
    )
    full = TinyDPOTrainer(tiny_model(), tokenizer, rows, **options)
    gap = (low.train_reference - full.train_reference).abs()
    assert 1e-3 < gap.max() < 1
    assert low.train()[-1]["loss"] == pytest.approx(full.train()[-1]["loss"], abs=0.1)
    assert {p.dtype for p in low.model.parameters()} == {torch.float32}
    low.save(tmp_path)
    low.resume(tmp_path)
    with pytest.raises(ValueError, match="make the trainer with those settings"):
        full.resume(tmp_path)


def test_one_kernel_for_adamw(tiny_model, tokenizer, rows):
    found = [
        TinyDPOTrainer(tiny_model(), tokenizer, rows, fused=fused).adam.defaults[
            "fused"
        ]
        for fused in (False, True)
    ]
    assert found == [None, True]


def test_a_prompt_ends_where_the_tokenizer_is_told(tiny_model, tokenizer):
    """Responses may begin alike, and the pair still has one prompt and two firsts."""
    row = {"prompt": "the soup was", "chosen": " good", "rejected": " good and bad"}
    assert_same(tiny_model(), [tokenize_pair(row, tokenizer)], {"share_prompt": True})
