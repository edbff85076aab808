"""Pairs, loading, templates, splits, tokens and batches; each trap has its test."""

import json
import warnings

import pytest
import torch
from tokenizers import ByteLevelBPETokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from dpo_tutorial import data_path
from dpo_tutorial.data import (
    PreferencePair,
    boundary_merges,
    collate,
    convert_to_dpo_format,
    load_preferences,
    pad_rows,
    split_by_prompt,
    tokenize_pair,
)
from dpo_tutorial.layouts import TEMPLATES

EOS, BOS, END = "<eos>", "<bos>", "<|im_end|>"
GOOD = {"prompt": "What is 2 + 2?", "chosen": "4", "rejected": "5, I think."}
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' "
    "+ message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def make_tokenizer(bos: bool = False, **options) -> PreTrainedTokenizerFast:
    """A byte-level BPE that has merged "the soup was" to three tokens."""
    bpe = ByteLevelBPETokenizer()
    special = [EOS, BOS, END, "<|im_start|>"]
    bpe.train_from_iterator(
        ["the soup was"] * 4, vocab_size=300, special_tokens=special
    )
    if bos:
        bpe._tokenizer.post_processor = TemplateProcessing(
            single=f"{BOS} $A", special_tokens=[(BOS, 1)]
        )
    options = {"eos_token": EOS, "pad_token": EOS, "bos_token": BOS} | options
    return PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, **options)


@pytest.fixture(scope="module")
def bpe():
    """No BOS of its own accord; padding and EOS are one token, as in GPT-2."""
    return make_tokenizer()


# --- a pair -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chosen": 4}, "chosen is 4, expected a string"),
        ({"prompt": None}, "prompt is None, expected"),
        ({"prompt": ["a", "b"]}, r"prompt is \['a', 'b'\], expected"),
        ({"chosen": [{"role": "assistant"}]}, "chosen is .*expected"),
        ({"chosen": [{"role": "assistant", "content": 4}]}, "chosen is .*expected"),
        ({"rejected": "  \n"}, "rejected is .*expected a text: drop"),
        ({"rejected": []}, "rejected is '', expected a text"),
        ({"rejected": "4"}, "both '4', expected two different.*drop"),
    ],
)
def test_a_bad_pair_says_what_is_wrong(change, message):
    with pytest.raises(ValueError, match=message):
        PreferencePair(**GOOD | change)


def test_a_pair_is_frozen_and_takes_messages():
    messages = [{"role": "user", "content": "Hi"}]
    pair = PreferencePair(messages, "a", "b", {"topic": "greeting"})
    assert pair.prompt == messages
    with pytest.raises(AttributeError):
        pair.prompt = "other"


# --- loading ------------------------------------------------------------------------


def write(folder, name, text):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "x", "chosen": "y"', r"bad.jsonl, line 3: not JSON \(.*column"),
        ('["x", "y", "z"]', "bad.jsonl, line 3: .*is a list, expected named fields"),
        ('{"prompt": "x", "chosen": "y"}', "bad.jsonl, line 3: no field 'rejected'"),
        ('{"chosen": "y", "rejected": "z"}', "bad.jsonl, line 3: no field 'prompt'"),
        (json.dumps(GOOD | {"chosen": 4}), "bad.jsonl, line 3: chosen is 4, expected"),
        (json.dumps(GOOD | {"rejected": "4"}), "bad.jsonl, line 3: .*both '4'"),
        (json.dumps(GOOD | {"chosen": " "}), "bad.jsonl, line 3: chosen is ' '"),
        (json.dumps(GOOD | {"metadata": "x"}), "bad.jsonl, line 3: .*'dict' and 'str'"),
    ],
)
def test_a_bad_line_is_reported_with_its_number(tmp_path, line, message):
    good = json.dumps(GOOD)
    path = write(tmp_path, "bad.jsonl", f"{good}\n\n{line}\n{good}\n")
    with pytest.raises(ValueError, match=message):
        load_preferences(path)
    with pytest.warns(UserWarning, match=f"skipped 1 of 3 rows.*\n  {message}"):
        pairs = load_preferences(str(path), on_error="skip")
    assert pairs == [PreferencePair(**GOOD)] * 2


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
@pytest.mark.parametrize("text", ["", "\n"])
def test_an_empty_file_is_an_error(tmp_path, name, text):
    path = write(tmp_path, name, text)
    with pytest.raises(ValueError, match=f"no pair in 0 rows of .*{name}"):
        load_preferences(path, on_error="skip")


def test_nothing_but_bad_rows_is_an_error_that_names_them():
    with pytest.raises(ValueError, match=r"no pair in 2 rows.*\n  rows\[0\].*\n  rows"):
        load_preferences([{"a": 1}, {"a": 2}], on_error="skip")


@pytest.mark.parametrize(
    ("name", "text", "error", "message"),
    [
        ("a.txt", "x", ValueError, "expected a .jsonl, .json, .csv or .parquet"),
        ("a.json", "{", ValueError, "a.json cannot be read"),
        ("a.parquet", "x", ValueError, "a.parquet cannot be read"),
        ("a.json", '{"data": []}', ValueError, r"rows\[0\]: 'data' is a str"),
        (None, "", FileNotFoundError, "no file .*none.jsonl"),
    ],
)
def test_an_unreadable_file_is_a_clear_error(tmp_path, name, text, error, message):
    path = write(tmp_path, name, text) if name else tmp_path / "none.jsonl"
    with pytest.raises(error, match=message):
        load_preferences(path)


def test_a_file_that_is_not_utf8_is_named(tmp_path):
    path = tmp_path / "latin.jsonl"
    path.write_bytes(
        json.dumps(GOOD | {"chosen": "café"}, ensure_ascii=False).encode("latin-1")
    )
    with pytest.raises(ValueError, match=r"latin\.jsonl cannot be read: 'utf-8'"):
        load_preferences(path)


def test_a_missing_relative_path_is_not_taken_for_a_hub_id(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no file data/pairs\.jsonl"):
        load_preferences("data/pairs.jsonl")


def test_a_hub_id_goes_to_datasets(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "datasets.load_dataset",
        lambda name, split: asked.append((name, split)) or [GOOD],
    )
    assert len(load_preferences("owner/name", split="test")) == 1
    assert asked == [("owner/name", "test")]


@pytest.mark.parametrize("option", ["raise", "skip"])
def test_the_same_rows_come_out_of_every_kind_of_file(tmp_path, option):
    import pandas

    rows = [GOOD, GOOD | {"chosen": 'four,\n"4"\u2028', "rejected": "drei"}]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    frame = pandas.DataFrame(rows)
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_parquet(tmp_path / "a.parquet")
    write(tmp_path, "a.jsonl", "\ufeff" + "\r\n".join(lines))
    write(tmp_path, "a.json", json.dumps(rows))
    expected = [PreferencePair(**row) for row in rows]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for suffix in ("csv", "parquet", "jsonl", "json"):
            assert (
                load_preferences(tmp_path / f"a.{suffix}", on_error=option) == expected
            )
        assert load_preferences(iter(rows), on_error=option) == expected


def test_csv_lines_are_counted_through_texts_that_span_several(tmp_path):
    text = 'prompt,chosen,rejected,topic\nx,"a\nb",c,t\ny,d, with a comma,e,t\nz,f\n'
    path = write(tmp_path, "a.csv", text)
    with pytest.raises(ValueError, match=r"a.csv, line 4: \['t'\] beyond the header"):
        load_preferences(path)
    with pytest.warns(UserWarning, match="a.csv, line 5: rejected is None"):
        pairs = load_preferences(path, on_error="skip")
    assert pairs == [PreferencePair("x", "a\nb", "c", {"topic": "t"})]


def test_unknown_options_are_errors():
    with pytest.raises(ValueError, match="on_error is 'ignore', expected 'raise' or"):
        load_preferences([GOOD], on_error="ignore")
    with pytest.raises(ValueError, match="layout is 'alpaca', expected 'auto' or trl"):
        load_preferences([GOOD], layout="alpaca")


# --- chat templates -----------------------------------------------------------------

TALK = PreferencePair(
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "2 + 2?"},
    ],
    [{"role": "assistant", "content": "4"}],
    [{"role": "assistant", "content": "4 {or} 5"}],
    {"topic": "arithmetic"},
)


def test_each_template_on_one_pair():
    rendered = {name: convert_to_dpo_format([GOOD], name)[0] for name in TEMPLATES}
    user, answer = GOOD["prompt"], GOOD["chosen"]
    assert rendered["chatml"]["prompt"] == (
        f"<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"
    )
    assert rendered["llama"]["prompt"] == (
        f"<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n{user}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    assert rendered["zephyr"]["prompt"] == f"<|user|>\n{user}</s>\n<|assistant|>\n"
    assert rendered["plain"]["prompt"] == f"user: {user}\n\nassistant:"
    assert [rendered[name]["chosen"] for name in TEMPLATES] == [
        answer + "<|im_end|>",
        answer + "<|eot_id|>",
        answer + "</s>",
        " " + answer,
    ]


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_conversation_keeps_its_turns_and_metadata(name):
    row = convert_to_dpo_format([TALK], name)[0]
    assert row["metadata"] == TALK.metadata
    places = [row["prompt"].index(m["content"]) for m in TALK.prompt]
    assert places == sorted(places)
    assert "4 {or} 5" in row["rejected"]
    assert "4 {or} 5" not in row["prompt"]


def test_unknown_template_lists_those_that_there_are():
    with pytest.raises(
        ValueError, match="'alpaca', expected chatml, llama, zephyr, pl"
    ):
        convert_to_dpo_format([GOOD], "alpaca")


def test_a_prompt_that_ends_with_the_assistant_is_an_error():
    prompt = [*TALK.prompt, *TALK.chosen]
    with pytest.raises(ValueError, match="ends with 'assistant', expected 'user'"):
        convert_to_dpo_format([GOOD | {"prompt": prompt}], "chatml")


def test_our_chatml_is_the_jinja_template_and_trl_agrees():
    from trl.data_utils import apply_chat_template

    own = make_tokenizer(eos_token=END, chat_template=CHATML)
    ours = convert_to_dpo_format([TALK], own)[0]
    assert ours == convert_to_dpo_format([TALK], "chatml")[0]
    trl = {"prompt": TALK.prompt, "chosen": TALK.chosen, "rejected": TALK.rejected}
    trl = apply_chat_template(trl, own)
    assert trl["prompt"] == ours["prompt"]
    # TRL keeps the newline that stands after the end of turn; nothing else differs.
    assert trl["chosen"] == ours["chosen"] + "\n"
    assert trl["rejected"] == ours["rejected"] + "\n"


def test_a_template_that_opens_a_thought_only_to_generate():
    thinking = CHATML.replace("assistant\n' }}", "assistant\n<think>' }}")
    own = make_tokenizer(eos_token=END, chat_template=thinking)
    assert convert_to_dpo_format([TALK], own) == convert_to_dpo_format([TALK], "chatml")


def test_the_end_of_turn_is_the_only_eos_where_it_is_eos(bpe):
    row = convert_to_dpo_format([GOOD], "chatml")[0]
    own = make_tokenizer(eos_token=END)
    ids = tokenize_pair(row, own)["chosen_ids"]
    assert ids.count(own.eos_token_id) == 1
    ids = tokenize_pair(row, bpe)["chosen_ids"]
    assert bpe.decode(ids) == f"4{END}{EOS}"


# --- splits (trap 20) ---------------------------------------------------------------


def test_no_prompt_is_on_both_sides():
    rows = [
        {"prompt": p, "chosen": f"yes {i}", "rejected": "no"}
        for i in range(40)
        for p in (f"Question {i % 10}?", f" question  {i % 10}?")
    ]
    train, test = split_by_prompt(rows, test_fraction=0.3, seed=3)
    sides = [{" ".join(r["prompt"].lower().split()) for r in s} for s in (train, test)]
    assert not sides[0] & sides[1]
    assert (len(sides[0]), len(sides[1])) == (7, 3)
    assert len(train) + len(test) == len(rows)
    assert train == [row for row in rows if row in train]


def test_the_seed_and_the_prompts_alone_decide_the_split():
    pairs = [PreferencePair(f"Question {i}?", "a", "b") for i in range(50)]
    train, test = split_by_prompt(pairs, seed=1)
    again = split_by_prompt(pairs[::-1], seed=1)
    assert (train, test) == (again[0][::-1], again[1][::-1])
    assert split_by_prompt(pairs, seed=2)[1] != test


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 0.01, 1.5])
def test_a_split_with_an_empty_side_is_an_error(fraction):
    pairs = [PreferencePair(f"Question {i}?", "a", "b") for i in range(5)]
    with pytest.raises(ValueError, match=f"test_fraction={fraction} of 5 prompts"):
        split_by_prompt(pairs, fraction)


# --- tokens (traps 8, 9, 10, 14) ----------------------------------------------------


def test_no_token_spans_the_boundary(bpe):
    prompt, chosen, rejected = "the so", "up was", "da"
    assert boundary_merges(prompt, chosen, bpe)
    assert not boundary_merges("the", " soup", bpe)
    row = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    ids = tokenize_pair(row, bpe)
    assert bpe.decode(ids["prompt_ids"]) == prompt
    assert bpe.decode(ids["chosen_ids"]) == chosen + EOS
    assert bpe.decode(ids["rejected_ids"]) == rejected + EOS
    joint = bpe(prompt + chosen, add_special_tokens=False)["input_ids"]
    assert ids["prompt_ids"] + ids["chosen_ids"][:-1] != joint


@pytest.mark.parametrize("ending", ["", EOS, EOS * 3])
def test_eos_ends_each_response_exactly_once(bpe, ending):
    row = {"prompt": "the", "chosen": " soup" + ending, "rejected": " was" + ending}
    ids = tokenize_pair(row, bpe)
    for side in ("chosen_ids", "rejected_ids"):
        assert ids[side].count(bpe.eos_token_id) == 1
        assert ids[side][-1] == bpe.eos_token_id
    assert bpe.eos_token_id not in ids["prompt_ids"]


@pytest.mark.parametrize("start", ["", BOS])
def test_bos_stands_once_and_never_in_a_response(start):
    adds = make_tokenizer(bos=True)
    row = {"prompt": start + "the", "chosen": " soup", "rejected": " was"}
    ids = tokenize_pair(row, adds)
    assert [ids[key].count(adds.bos_token_id) for key in ids] == [1, 0, 0]
    assert ids["prompt_ids"][0] == adds.bos_token_id


def test_a_tokenizer_without_the_habit_adds_no_bos(bpe):
    row = {"prompt": "the", "chosen": " soup", "rejected": " was"}
    assert bpe.bos_token_id not in tokenize_pair(row, bpe)["prompt_ids"]


def test_nothing_is_truncated(bpe):
    row = {"prompt": "the soup", "chosen": " was", "rejected": " was was was"}
    ids = tokenize_pair(row, bpe, max_length=6)
    assert [len(ids[key]) for key in ids] == [2, 2, 4]
    with pytest.raises(
        ValueError, match=r"prompt of 2 and response of 4.*max_length=5"
    ):
        tokenize_pair(row, bpe, max_length=5)


def test_a_response_without_tokens_is_an_error(bpe):
    for chosen in ("", EOS):
        row = {"prompt": "the", "chosen": chosen, "rejected": " was"}
        with pytest.raises(ValueError, match="expected a token at least"):
            tokenize_pair(row, bpe)


def test_messages_or_a_missing_eos_are_errors(bpe):
    with pytest.raises(
        ValueError, match="expected strings, as of convert_to_dpo_format"
    ):
        tokenize_pair(TALK, bpe)
    with pytest.raises(ValueError, match="eos_token_id is None"):
        tokenize_pair(GOOD, make_tokenizer(eos_token=None))


# --- batches (traps 9, 12, 13) ------------------------------------------------------


@pytest.fixture
def batch(bpe):
    rows = [
        {"prompt": "the soup", "chosen": " was", "rejected": " was soup was"},
        {"prompt": "the", "chosen": " soup was", "rejected": " was"},
    ]
    return collate([tokenize_pair(row, bpe) for row in rows], bpe.pad_token_id)


def test_the_batch_is_chosen_first_and_right_padded(batch, bpe):
    texts = [bpe.decode(row) for row in batch["input_ids"]]
    assert texts == [
        "the soup was" + EOS * 3,
        "the soup was" + EOS * 3,
        "the soup was soup was" + EOS,
        "the was" + EOS * 4,
    ]
    assert batch["attention_mask"].sum(1).tolist() == [4, 4, 6, 3]
    assert all(value.dtype == torch.int64 for value in batch.values())


def test_padding_and_prompt_are_not_scored_but_eos_is(batch, bpe):
    scored = [bpe.decode(row[row != -100]) for row in batch["labels"]]
    assert scored == [
        f" was{EOS}",
        f" soup was{EOS}",
        f" was soup was{EOS}",
        f" was{EOS}",
    ]


def test_padding_is_not_scored(batch):
    assert (batch["labels"][batch["attention_mask"] == 0] == -100).all()


def test_the_prompt_is_not_scored(batch):
    for row, prompt in zip(batch["labels"], [2, 1, 2, 1], strict=True):
        assert (row[:prompt] == -100).all()
        assert row[prompt] != -100


def test_labels_are_the_input_where_they_are_scored(batch):
    scored = batch["labels"] != -100
    assert (batch["labels"][scored] == batch["input_ids"][scored]).all()


def test_a_longer_neighbour_changes_only_the_padding(bpe):
    row = tokenize_pair({"prompt": "the", "chosen": " soup", "rejected": " was"}, bpe)
    alone = pad_rows([(row["prompt_ids"], row["chosen_ids"])], bpe.pad_token_id)
    long = (row["prompt_ids"] * 4, row["rejected_ids"])
    both = pad_rows([(row["prompt_ids"], row["chosen_ids"]), long], bpe.pad_token_id)
    width = alone["labels"].shape[1]
    assert (both["labels"][0, :width] == alone["labels"][0]).all()
    assert (both["labels"][0, width:] == -100).all()


def test_a_missing_pad_token_names_the_remedy(bpe):
    ids = tokenize_pair(GOOD, bpe)
    with pytest.raises(ValueError, match=r"tokenizer\.pad_token = tokenizer\.eos"):
        collate([ids], None)


# --- the course's own pairs ---------------------------------------------------------


def test_our_preferences_load_and_fit_every_template():
    pairs = load_preferences(data_path("preferences.jsonl"))
    assert all(pair.metadata["why"] for pair in pairs)
    for name in TEMPLATES:
        assert len(convert_to_dpo_format(pairs, name)) == len(pairs)
