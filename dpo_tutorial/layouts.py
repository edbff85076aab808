"""The shapes preference data come in: files, public datasets' layouts, chat templates.

Field names are those of TRL's page on dataset formats and of the hub's data cards. Of
several rated answers to a prompt the best and the worst make the pair.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pyarrow.parquet import read_table

ROLES = {"Human": "user", "Assistant": "assistant", "prompter": "user"}
LLAMA3 = "<|start_header_id|>{role}<|end_header_id|>\n\n"
TEMPLATES = {  # what stands before the first turn, before each turn and after each
    "chatml": ("", "<|im_start|>{role}\n", "<|im_end|>\n"),
    "llama": ("<|begin_of_text|>", LLAMA3, "<|eot_id|>"),
    "zephyr": ("", "<|{role}|>\n", "</s>\n"),
    "plain": ("", "{role}: ", "\n\n"),
}


def render(messages: list, template: Any, answer_next: bool = False) -> str:
    """A conversation as text; `answer_next` adds the header of the answer to come."""
    if hasattr(template, "apply_chat_template"):
        options = {"tokenize": False, "add_generation_prompt": answer_next}
        return template.apply_chat_template(messages, **options)
    if template not in list(TEMPLATES):
        known = f"{', '.join(TEMPLATES)} or a tokenizer with a chat template"
        raise ValueError(f"chat_template is {template!r}, expected {known}")
    start, header, end = TEMPLATES[template]
    turns = [header.format(**turn) + turn["content"] + end for turn in messages]
    # A header's last space is left to the answer: it belongs to the first token.
    last = header.format(role="assistant").rstrip(" ") if answer_next else ""
    return start + "".join(turns) + last


def as_messages(text: Any, role: str = "user") -> list:
    """Messages as they are, anything else as one message of `role`."""
    return text if isinstance(text, list) else [{"role": role, "content": text}]


def plain_text(text: Any, name: str = "text") -> str:
    """A string as it is, messages by line; ValueError for anything else."""
    try:
        return "\n".join(m["role"][:0] + m["content"] for m in as_messages(text))
    except (KeyError, TypeError):
        remedy = "expected a string or {'role', 'content'} messages: write it so"
        raise ValueError(f"{name} is {text!r}, {remedy}") from None


def read_rows(source: Any, split: str = "train") -> list[tuple[str, Any]]:
    """(place, row) of each row; a line that cannot be read stands as its ValueError."""
    if not isinstance(source, str | Path):
        rows = enumerate(source)
    elif (path := Path(source)).is_file():
        rows = _read_file(path)
    elif re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)) and not path.parent.is_dir():
        from datasets import load_dataset

        rows = enumerate(load_dataset(source, split=split))
    else:
        raise FileNotFoundError(f"no file {source}, expected a path or hub owner/name")
    places = [(f"rows[{p}]" if isinstance(p, int) else p, row) for p, row in rows]
    return list(_ranked_replies(places))


def _read_file(path: Path) -> Iterable[tuple[str | int, Any]]:
    if path.suffix not in (".jsonl", ".json", ".csv", ".parquet"):
        raise ValueError(f"{path}: expected a .jsonl, .json, .csv or .parquet file")
    try:
        if path.suffix == ".parquet":
            return enumerate(read_table(path).to_pylist())
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".json":
            return enumerate(json.loads(text.strip() or "[]"))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    rows = _read_csv(text) if path.suffix == ".csv" else _read_jsonl(text)
    return ((f"{path.name}, line {n}", row) for n, row in rows)


def _read_jsonl(text: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        try:
            if line.strip():
                yield number, json.loads(line)
        except ValueError as error:
            yield number, ValueError(f"not JSON ({error}), expected an object a line")


def _read_csv(text: str) -> Iterator[tuple[int, Any]]:
    reader, start = csv.DictReader(line + "\n" for line in text.split("\n")), 2
    for row in reader:
        fault = f"{row.get(None)} beyond the header: quote a text that has a comma"
        yield start, ValueError(fault) if None in row else row
        start = reader.line_num + 1  # a quoted text may span lines


def to_fields(row: Any, layout: str = "auto") -> tuple[Any, Any, Any, dict | None]:
    """One row's prompt, chosen, rejected and, of its other fields, metadata."""
    if not isinstance(row, Mapping):
        fault = ValueError(f"{row!r} is a {type(row).__name__}, expected named fields")
        raise row if isinstance(row, ValueError) else fault
    guess = next((MARKS[k] for k in MARKS if k in row and "prompt" not in row), "trl")
    name = guess if layout == "auto" else layout
    if name not in LAYOUTS:
        raise ValueError(f"layout is {name!r}, expected 'auto' or {', '.join(LAYOUTS)}")
    try:
        rest = {key: value for key, value in row.items() if key not in TEXTS}
        return *LAYOUTS[name](row), rest | (row.get("metadata") or {}) or None
    except (KeyError, TypeError, AttributeError) as error:
        wrong = f"no field {error}" if isinstance(error, KeyError) else str(error)
        remedy = f"expected layout {name!r}: rename the field, or name another layout"
        raise ValueError(f"{wrong} in a row of {list(row)}, {remedy}") from error


def _trl(row: Mapping) -> tuple:
    if isinstance(row["chosen"], list) and not isinstance(row.get("prompt"), list):
        return _implicit(row)
    if "prompt" not in row and row["chosen"].startswith("\n\nHuman:"):
        return _hh_rlhf(row)
    return row["prompt"], row["chosen"], row["rejected"]


def _implicit(row: Mapping) -> tuple:
    chosen, rejected = row["chosen"], row["rejected"]
    differ = [a != b for a, b in zip(chosen, rejected, strict=False)] + [True]
    cut = differ.index(True)  # characters or messages
    if isinstance(chosen, str):  # in front of a word, not within it
        cut = len(chosen[:cut].rpartition(" ")[0])
    return chosen[:cut], chosen[cut:], rejected[cut:]


def _hh_rlhf(row: Mapping) -> tuple:
    start, mark, best = row["chosen"].rpartition("\n\nAssistant:")
    same, _, worst = row["rejected"].rpartition("\n\nAssistant:")
    if not mark or start != same:
        raise ValueError("the conversations part before the last answer: drop the row")
    parts = re.split(r"\n\n(Human|Assistant):", start)[1:]
    turns = zip(parts[::2], parts[1::2], strict=True)
    prompt = [{"role": ROLES[who], "content": text.strip()} for who, text in turns]
    return prompt, *(as_messages(text.strip(), "assistant") for text in (best, worst))


def _ultrafeedback(row: Mapping) -> tuple:
    # The mean of four ratings first: overall_score can contradict its own critique.
    answers = row["completions"]
    scores = [a.get("fine-grained_score") or a["overall_score"] for a in answers]
    if not scores or min(scores) == max(scores):
        raise ValueError(f"scores are {scores}, expected two that differ: drop the row")
    ends = scores.index(max(scores)), scores.index(min(scores))
    return row["instruction"], *(answers[i]["response"] for i in ends)


def _shp(row: Mapping) -> tuple:
    if row["labels"] not in (0, 1):
        raise ValueError(f"labels is {row['labels']!r}, expected 1 (A is chosen) or 0")
    answers = {1: row["human_ref_A"], 0: row["human_ref_B"]}
    return row["history"], answers[row["labels"]], answers[1 - row["labels"]]


def _orca(row: Mapping) -> tuple:
    system = as_messages(row["system"], "system") if row.get("system") else []
    answers = (as_messages(row[key], "assistant") for key in ("chosen", "rejected"))
    return system + as_messages(row["question"]), *answers


def _ranked_replies(rows: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """OASST's trees, or its table of messages, as scored lists; other rows as is."""
    threads, lists = {None: []}, {}  # by message: the talk up to it, its rated replies
    for place, row in rows:
        if not isinstance(row, Mapping) or "message_tree_id" not in row:
            yield place, row
            continue
        tree = [{"parent_id": None, **row.get("prompt", row)}]
        for node in tree:  # which grows by the replies
            key, above = node.get("message_id"), node.get("parent_id")
            role = ROLES.get(node.get("role"), "assistant")
            answer = as_messages(node.get("text"), role)
            threads[key] = threads.setdefault(above, [{}]) + answer  # {}: no such row
            tree += [{**reply, "parent_id": key} for reply in node.get("replies") or ()]
            if role == "assistant" and node.get("rank") is not None:
                rated = {"response": answer, "overall_score": -node["rank"]}
                lists.setdefault(above, []).append(rated)
    for key, rated in lists.items():
        if len(rated) > 1:
            yield f"message {key}", {"instruction": threads[key], "completions": rated}


MARKS = {"completions": "ultrafeedback", "human_ref_A": "shp", "question": "orca"}
LAYOUTS = {"trl": _trl, "implicit": _implicit, "hh-rlhf": _hh_rlhf, "shp": _shp}
LAYOUTS |= {"ultrafeedback": _ultrafeedback, "oasst": _ultrafeedback, "orca": _orca}
TEXTS = {*MARKS, "prompt", "chosen", "rejected", "instruction", "history", "system"}
TEXTS |= {"human_ref_B", "messages", "metadata"}
