"""The shapes preference data come in: files, public datasets' layouts, chat templates.

Field names are those of the hub's data cards (Anthropic/hh-rlhf, openbmb/UltraFeedback,
stanfordnlp/SHP, OpenAssistant/oasst1, Intel/orca_dpo_pairs) and of TRL's page on
dataset formats. Of several rated answers the best and the worst make the pair.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

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
        seen = f"{name} is {text!r} ({type(text).__name__})"
        wanted = "expected a string or a list of {'role', 'content'} messages"
        raise ValueError(f"{seen}, {wanted}: quote it, or drop the row") from None


def read_rows(source: Any, split: str = "train") -> list[tuple[str, Any]]:
    """(place, row) of each row; a line that cannot be read stands as its ValueError."""
    path = Path(str(source))
    if not isinstance(source, str | Path):
        rows = enumerate(source)
    elif path.is_file():
        try:
            rows = list(_read_file(path))
        except ValueError as error:
            raise ValueError(f"{path} cannot be read: {error}") from error
    elif re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)) and not path.parent.is_dir():
        from datasets import load_dataset

        rows = enumerate(load_dataset(source, split=split))
    else:
        raise FileNotFoundError(
            f"no file {source}, expected a path or a hub owner/name"
        )
    places = [(f"rows[{p}]" if isinstance(p, int) else p, row) for p, row in rows]
    if not places:
        raise ValueError(f"{source} is empty, expected at least one row")
    return list(_ranked_replies(places))


def _read_file(path: Path) -> Iterator[tuple[str | int, Any]]:
    """Where a row stands (a line, else an index) and the row, for each row of a file."""
    if path.suffix == ".parquet":
        from pyarrow.parquet import read_table

        yield from enumerate(read_table(path).to_pylist())
    elif path.suffix == ".json":
        yield from enumerate(json.loads(path.read_bytes() or "[]"))
    elif path.suffix not in (".csv", ".jsonl"):
        raise ValueError("expected a name in .jsonl, .json, .csv or .parquet")
    else:
        with path.open(encoding="utf-8-sig", newline="") as file:
            read = _read_csv if path.suffix == ".csv" else _read_jsonl
            for number, row in read(file):
                yield f"{path.name}, line {number}", row


def _read_csv(file: Iterable[str]) -> Iterator[tuple[int, Any]]:
    reader, start = csv.DictReader(file), 2
    for row in reader:
        extra = row.get(None)
        fault = ValueError(f"{extra} beyond the header: quote a text that has a comma")
        yield start, fault if extra else row
        start = reader.line_num + 1  # a quoted text may span lines


def _read_jsonl(file: Iterable[str]) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(file, 1):
        try:
            if line.strip():
                yield number, json.loads(line)
        except ValueError as error:
            yield number, ValueError(f"not JSON ({error}), expected an object a line")


def to_fields(row: Any, layout: str = "auto") -> dict[str, Any]:
    """One row's prompt, chosen, rejected and, of all other fields, metadata."""
    if not isinstance(row, Mapping):
        fault = ValueError(f"{row!r} is a {type(row).__name__}, expected named fields")
        raise row if isinstance(row, ValueError) else fault
    guess = next((MARKS[key] for key in MARKS if key in row), "trl")
    name = guess if layout == "auto" else layout
    if name not in LAYOUTS:
        raise ValueError(f"layout is {name!r}, expected 'auto' or {', '.join(LAYOUTS)}")
    try:
        prompt, chosen, rejected = LAYOUTS[name](row)
    except (KeyError, TypeError, AttributeError) as error:
        wrong = f"no field {error}" if isinstance(error, KeyError) else str(error)
        remedy = f"expected layout {name!r}: rename the field, or name another layout"
        raise ValueError(f"{wrong} in a row of {list(row)}, {remedy}") from error
    rest = {key: value for key, value in row.items() if key not in TEXTS}
    if isinstance(rest.get("metadata"), dict | None):
        rest |= rest.pop("metadata", None) or {}
    texts = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    return texts | {"metadata": rest or None}


def _trl(row: Mapping) -> tuple:
    prompt, chosen, rejected = row.get("prompt"), row["chosen"], row["rejected"]
    if isinstance(chosen, list) and not isinstance(prompt, list):
        return _implicit(row)
    if prompt is None and chosen.startswith("\n\nHuman:"):
        return _hh_rlhf(row)
    return row["prompt"], chosen, rejected


def _implicit(row: Mapping) -> tuple:
    chosen, rejected = row["chosen"], row["rejected"]
    both = zip(chosen, rejected, strict=False)  # characters or messages
    cut = len(list(takewhile(lambda pair: pair[0] == pair[1], both)))
    if isinstance(chosen, str):  # in front of a word, not within it
        cut = len(chosen[:cut].rpartition(" ")[0])
    return chosen[:cut], chosen[cut:], rejected[cut:]


def _hh_rlhf(row: Mapping) -> tuple:
    start, mark, best = row["chosen"].rpartition("\n\nAssistant:")
    same, _, worst = row["rejected"].rpartition("\n\nAssistant:")
    if not mark or start != same:
        raise ValueError(
            "the conversations differ before the last answer: drop the row"
        )
    parts = re.split(r"\n\n(Human|Assistant):", start)[1:]
    turns = zip(parts[::2], parts[1::2], strict=True)
    prompt = [{"role": ROLES[who], "content": text.strip()} for who, text in turns]
    return prompt, *(as_messages(text.strip(), "assistant") for text in (best, worst))


def _ultrafeedback(row: Mapping) -> tuple:
    if "completions" not in row:  # the binarized form
        return _trl(row)
    # The mean of four ratings, since overall_score can contradict its own critique.
    keys, answers = ("fine-grained_score", "overall_score"), row["completions"]
    scores = [next(a[k] for k in keys if a.get(k) is not None) for a in answers]
    if not scores or min(scores) == max(scores):
        raise ValueError(f"scores are {scores}, expected two that differ: drop the row")
    ends = scores.index(max(scores)), scores.index(min(scores))
    return row["instruction"], *(answers[i]["response"] for i in ends)


def _shp(row: Mapping) -> tuple:
    answers = {1: row["human_ref_A"], 0: row["human_ref_B"]}
    return row["history"], answers[row["labels"]], answers[1 - row["labels"]]


def _orca(row: Mapping) -> tuple:
    system = as_messages(row["system"], "system") if row.get("system") else []
    answers = (as_messages(row[key], "assistant") for key in ("chosen", "rejected"))
    return system + as_messages(row["question"]), *answers


def _ranked_replies(rows: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """OASST's trees, or its table of messages, as scored lists; other rows unchanged."""
    nodes, lists = {}, {}
    for place, row in rows:
        if not isinstance(row, Mapping) or "message_tree_id" not in row:
            yield place, row
            continue
        tree = [{"parent_id": None, **row.get("prompt", row)}]
        for node in tree:  # which grows by the replies
            key, role = node["message_id"], ROLES.get(node["role"], node["role"])
            nodes[key] = node["parent_id"], {"role": role, "content": node["text"]}
            tree += [{**reply, "parent_id": key} for reply in node.get("replies") or ()]
            if role == "assistant" and node.get("rank") is not None:
                scored = {"response": [nodes[key][1]], "overall_score": -node["rank"]}
                lists.setdefault(node["parent_id"], []).append(scored)
    for parent, completions in lists.items():
        prompt, key = [], parent
        while key in nodes:
            key, message = nodes[key]
            prompt.insert(0, message)
        if len(completions) > 1:
            row = {"instruction": prompt, "completions": completions}
            yield f"replies to message {parent}", row


TEXTS = {"prompt", "chosen", "rejected", "instruction", "completions", "history"}
TEXTS |= {"human_ref_A", "human_ref_B", "system", "question", "messages"}
MARKS = {"prompt": "trl", "completions": "ultrafeedback", "human_ref_A": "shp"}
MARKS |= {"question": "orca"}
LAYOUTS = {"trl": _trl, "implicit": _implicit, "hh-rlhf": _hh_rlhf, "shp": _shp}
LAYOUTS |= {"ultrafeedback": _ultrafeedback, "oasst": _ultrafeedback, "orca": _orca}
