"""Reads the items that lie beside this file, wherever the course is installed."""

import json
from pathlib import Path

from datasets import Dataset, DatasetDict


def items(name, **_):
    """The items of `name`.jsonl; a task gives the name as its `dataset_kwargs`."""
    text = (Path(__file__).parent / f"{name}.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    return DatasetDict({"test": Dataset.from_list(rows)})


def by_word(item, results):
    """What `weighted_perplexity` takes: nats, and the words they are for."""
    nats, _ = results[0]
    return {"word_perplexity": (nats, len(item["target"].split()))}
