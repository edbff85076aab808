"""Reads the items that lie beside this file, wherever the course is installed."""

import json
from pathlib import Path

from datasets import Dataset, DatasetDict


def _items(name):
    text = (Path(__file__).parent / f"{name}.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    return DatasetDict({"test": Dataset.from_list(rows)})


def phrase(**_):
    return _items("phrase")


def agreement(**_):
    return _items("agreement")


def category(**_):
    return _items("category")


def neutral(**_):
    return _items("neutral")


def addition(**_):
    return _items("addition")


def facts(**_):
    return _items("facts")


def by_word(item, results):
    """What `weighted_perplexity` takes: nats, and the words they are for."""
    nats, _ = results[0]
    return {"word_perplexity": (nats, len(item["target"].split()))}
