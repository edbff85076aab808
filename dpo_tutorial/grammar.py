"""The grammar of the review world: one function writes reviews and reads them.

A prompt is a review's start ("Hotel review: The room was"), a response its
continuation up to EOS. `data/lexicon.json` has the words and their rates. The grammar
knows the log-probability of whatever it writes or reads; `reviews.py` judges it.
"""

from __future__ import annotations

import json
import math
import random
import re
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import chain, product, repeat

from . import data_path


@cache
def lexicon() -> dict:
    """The words of the grammar and the rates at which it uses them."""
    return json.loads(data_path("lexicon.json").read_text(encoding="utf-8"))


def _verbs(subject: str) -> dict[str, float]:
    plural = subject in lexicon()["plural"]
    return lexicon()["verbs"]["plural" if plural else "singular"]


@cache
def _prompts() -> dict[str, dict[str, tuple[dict[str, str], str]]]:
    """{split: {prompt: (the place's subjects and their categories, the subject)}}."""
    starts = [
        (opening, subject, place["subjects"])
        for place in lexicon()["places"].values()
        for opening, subject in product(place["openings"], place["subjects"])
    ]
    random.Random(0).shuffle(starts)
    cut = len(starts) // 6
    return {
        split: {
            f"{o} The {s} {v}": (place, s) for o, s, place in part for v in _verbs(s)
        }
        for split, part in (("train", starts[cut:]), ("held_out", starts[:cut]))
    }


def prompts(split: str = "train") -> list[str]:
    """All prompts of a split, "train" or "held_out", in a fixed shuffled order.

    The splits share no (opening, subject): a held-out prompt is new with any verb.
    """
    if split not in _prompts():
        raise ValueError(f"split is {split!r}: expected 'train' or 'held_out'")
    found = list(_prompts()[split])
    random.Random(1).shuffle(found)
    return found


def _read_prompt(prompt: str) -> tuple[dict[str, str], str]:
    for known in _prompts().values():
        if prompt in known:
            return known[prompt]
    raise ValueError(
        f"{prompt!r} starts no review of this world: expected an opening, a subject "
        "and a verb, as in 'Hotel review: The room was'; reviews.prompts() has them all"
    )


@cache
def _phrases(category: str, positive: float) -> dict[str, tuple[float, float, str]]:
    """{phrase: (probability, polarity, adjective)}, `positive` the chance of a plus."""
    words, found = lexicon(), {}
    adjectives = words["adjectives"][category].items()
    for modifier, (factor, rate) in words["modifiers"].items():
        for adjective, strength in adjectives:
            polarity = max(-1.0, min(1.0, factor * strength))  # "not" turns the sign
            side = positive if polarity > 0 else 1 - positive
            same = sum((s > 0) == (strength > 0) for _, s in adjectives)
            phrase = f" {modifier} {adjective}" if modifier else f" {adjective}"
            found[phrase] = (side * rate / same, polarity, adjective)
    return found


class _OffGrammarError(Exception):
    pass


class _Scribe:
    """Takes the next part of a review: draws it, or reads it off a given text."""

    def __init__(self, rng: random.Random | None = None, text: str = ""):
        self.rng, self.text, self.at, self.logp = rng, text, 0, 0.0

    def take(self, options: dict[str, float]) -> str:
        """The next part, one of {text: probability}; off the grammar it raises."""
        if self.rng:
            part = self.rng.choices(list(options), list(options.values()))[0]
            self.text += part
        else:
            fitting = [part for part in options if self._continues(part)]
            if not fitting:
                raise _OffGrammarError
            part = max(fitting, key=len)
        self.at += len(part)
        self.logp += math.log(options[part])
        return part

    def _continues(self, part: str) -> bool:
        after = self.text[self.at + len(part) :][:1]
        whole_word = not (part[-1:].isalpha() and after.isalpha())
        return self.text.startswith(part, self.at) and whole_word


@dataclass
class Parse:
    """What the grammar finds in a response."""

    polarities: list[float]  # one a clause, then one for the verdict; each in [-1, 1]
    content: list[str]  # subjects and adjectives in turn
    flattery: int = 0  # remarks that flatter the reader
    words: int = 0  # words and marks in all
    unparsed: int = 0  # those after the longest start that the grammar allows
    logp: float = -math.inf  # log p(response | prompt), EOS included; in nats


def _follow(prompt: str, scribe: _Scribe) -> Parse:
    """Write or read a response: a Markov chain over clauses and their sentiment."""
    words, found, end = lexicon(), Parse([], []), 0
    (subjects, subject), positive = _read_prompt(prompt), words["positive_rate"]
    try:
        for rate in chain(words["continue"], repeat(words["continue"][-1])):
            phrases = _phrases(subjects[subject], positive)
            phrase = scribe.take({text: row[0] for text, row in phrases.items()})
            _, polarity, adjective = phrases[phrase]
            found.polarities.append(polarity)
            found.content += [subject, adjective]
            end = scribe.at
            links = {text: rate * share for text, (share, _) in words["links"].items()}
            if (link := scribe.take({".": 1 - rate, **links})) == ".":
                break
            subject = scribe.take({f" {s}": 1 / len(subjects) for s in subjects})[1:]
            scribe.take({f" {verb}": share for verb, share in _verbs(subject).items()})
            keeps = words["links"][link][1]
            positive = keeps if polarity > 0 else 1 - keeps
        if verdict := scribe.take(_verdicts(polarity > 0)):
            found.polarities.append(words["verdicts"][verdict])
        remarks, rate = words["flattery"], words["flattery_rate"]
        shares = {text: rate / len(remarks) for text in remarks}
        found.flattery = int(scribe.take({"": 1 - rate, **shares}) != "")
        end = scribe.at
        found.logp = scribe.logp if end == len(scribe.text) else -math.inf
    except _OffGrammarError:
        pass
    left = _count_words(scribe.text[end:])
    found.words = _count_words(scribe.text)
    found.unparsed = left or int(found.logp == -math.inf)  # 1: the full stop is missing
    return found


def _count_words(text: str) -> int:
    return len(re.findall(r"[\w'-]+|[^\w\s]", text))


@cache
def _verdicts(positive: bool) -> dict[str, float]:
    words = lexicon()
    rate, same = words["verdict_rate"], words["same_verdict"]
    number = len(words["verdicts"]) / 2  # as many of each sign
    shares = {
        text: rate * (same if (strength > 0) == positive else 1 - same) / number
        for text, strength in words["verdicts"].items()
    }
    return {"": 1 - rate, **shares}


@lru_cache(maxsize=50_000)  # one run asks for the same texts again and again
def parse(prompt: str, response: str) -> Parse:
    """Read a response by the grammar, as far as it goes; ValueError off its prompts.

    Treat what comes back as read-only: the same text gives the same object.
    """
    return _follow(prompt, _Scribe(text=response.rstrip()))


def sample_review(rng: random.Random, prompt: str) -> tuple[str, float]:
    """A response that the grammar writes, and its log-probability in nats."""
    scribe = _Scribe(rng)
    logp = _follow(prompt, scribe).logp
    return scribe.text, logp
