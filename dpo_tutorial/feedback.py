"""AI feedback: preference pairs out of prompts, a model and a judge, in one file.

A model answers each prompt at several temperatures, answers too alike are left out, and
a judge compares what remains (Bai et al. 2022, arXiv 2212.08073; Lee et al. 2023,
arXiv 2309.00267). Every candidate and every judgement is a line of a `Ledger`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from .candidates import different, digest, draw_candidates, fingerprint, pair_up
from .data import PreferencePair
from .endpoint import EndpointJudge
from .evaluator import judge_all, judge_name
from .judges import OUTCOMES, Judge, judge_pair
from .ledger import Ledger

__all__ = [
    "EndpointJudge",
    "FeedbackReport",
    "HeuristicJudge",
    "build_preference_dataset",
    "judge_pair",
    "score_response",
]


def score_response(
    prompt: str, response: str, words: tuple[int, int] = (5, 120)
) -> float:
    """A stand-in for a judgement, in [0, 1]: the mean of four marks of the surface.

    A length within `words` (falling off outside), the share of word pairs that are not
    repeats, whether it ends as a sentence does, and the share of the prompt's words of
    four letters or more that it takes up (half of them is full marks). It knows nothing
    of truth, use or tone: it lets a recipe run where no judge is at hand.
    """
    said = re.findall(r"[\w'-]+", response.lower())
    if not said:
        return 0.0
    length = min(1.0, len(said) / words[0], words[1] / len(said))
    parts = list(pairwise(said)) or said
    fresh = len(set(parts)) / len(parts)
    ends = bool(re.search(r"[.!?][\"')\]]*$", response.strip()))
    asked = {word for word in re.findall(r"[\w'-]+", prompt.lower()) if len(word) > 3}
    shared = min(1.0, 2 * len(asked & set(said)) / len(asked)) if asked else 1.0
    return (length + fresh + ends + shared) / 4


@dataclass(frozen=True)
class HeuristicJudge:
    """Names the response with the higher `score_response`: a stand-in for a judge.

    Scores that differ by `margin` or less are a tie.
    """

    margin: float = 0.02

    def __call__(self, prompt: str, response_a: str, response_b: str) -> str:
        a, b = (score_response(prompt, text) for text in (response_a, response_b))
        winner = "tie" if abs(a - b) <= self.margin else "A" if a > b else "B"
        return json.dumps({"winner": winner, "reason": f"marks {a:.2f} and {b:.2f}"})


@dataclass(frozen=True)
class FeedbackReport:
    """What became of the candidates and of the questions put to the judge.

    `cut`: candidates without an end or without text; `alike`: those too like another
    of the same prompt; `outcomes`: how many pairs came to each of `judges.OUTCOMES`.
    Pairs with a winner ("A" or "B") are used, all others are not.
    """

    prompts: int
    candidates: int
    cut: int
    alike: int
    outcomes: dict[str, int]

    @property
    def used(self) -> int:
        """How many pairs had a winner."""
        return self.outcomes["A"] + self.outcomes["B"]

    def __repr__(self) -> str:
        lost = ", ".join(f"{self.outcomes[name]} {name}" for name in OUTCOMES[2:])
        return (
            f"{self.prompts} prompts, {self.candidates} candidates: {self.cut} cut "
            f"off or empty, {self.alike} too alike; {sum(self.outcomes.values())} "
            f"pairs judged: {self.used} used; not used: {lost}"
        )


def build_preference_dataset(
    model,
    tokenizer,
    prompts: Sequence[str],
    judge: Judge,
    *,
    path: str | Path | None = None,
    temperatures: Sequence[float] = (0.7, 1.0, 1.3),
    max_similarity: float = 0.9,
    pairs_per_prompt: int = 1,
    seed: int = 0,
    swap: bool = True,
    workers: int = 1,
    as_input: Callable[[str], str] = str,
    batch_size: int = 64,
    **sampling: Any,
) -> tuple[list[PreferencePair], FeedbackReport]:
    """Preference pairs of the model's own answers, and a report on what was left out.

    One candidate a prompt and temperature is drawn by `sample_batch` (with `sampling`),
    `batch_size` prompts at a time. Left out is what `max_new_tokens` cut off (training
    would teach to stop there), what is empty, and what has a rapidfuzz ratio above
    `max_similarity` (0 to 1) to another candidate of its prompt. Of the others, up to
    `pairs_per_prompt` pairs are judged by `judge_pair`, `workers` at a time. `as_input`
    turns a prompt into what the model reads (a chat template); the judge sees the
    prompt. A pair's metadata has the temperatures and what the judge answered.

    With `path` each candidate and each judgement is a line of that file as soon as it
    is there: cut at any moment and called again, it goes on; pairs that failed are
    asked again. Raises ValueError for settings out of range, and for a file of another
    model (by its weights), judge, prompts or settings.
    """
    _check(prompts, temperatures, max_similarity, pairs_per_prompt)
    inputs = [as_input(prompt) for prompt in prompts]
    sampling |= {"seed": seed, "batch_size": batch_size}
    settings = {"model": fingerprint(model), "judge": judge_name(judge)}
    settings |= {"prompts": digest(text.encode() for text in (*prompts, *inputs))}
    settings |= {"swap": swap, "temperatures": [*temperatures]}
    settings |= {"filter": [max_similarity, pairs_per_prompt], "sampling": sampling}
    with Ledger(path, settings) as ledger:
        drawn = draw_candidates(
            model, tokenizer, inputs, temperatures, ledger, **sampling
        )
        whole = [[r for r in row if r["ended"] and r["text"].strip()] for row in drawn]
        kept = [different(rows, max_similarity) for rows in whole]
        picked = pair_up(kept, pairs_per_prompt, seed)
        asked = {f"judgement {key}": (prompts[i], *ab) for key, (i, *ab) in picked}
        texts = {key: (x, a["text"], b["text"]) for key, (x, a, b) in asked.items()}
        judged = judge_all(judge, texts, ledger, swap, workers)
    count, left, unlike = (sum(map(len, rows)) for rows in (drawn, whole, kept))
    found = Counter(row["outcome"] for row in judged)
    outcomes = {name: found[name] for name in OUTCOMES}
    report = FeedbackReport(len(prompts), count, count - left, left - unlike, outcomes)
    both = zip(asked.values(), judged, strict=True)
    return [_pair(*pair) for pair in both if pair[1]["outcome"] in ("A", "B")], report


def _check(prompts, temperatures, max_similarity: float, pairs: int) -> None:
    if isinstance(prompts, str) or not len(prompts):
        raise ValueError(f"prompts is {prompts!r}: expected a list with one at least")
    if len(temperatures) < 2 or min(temperatures) <= 0:
        raise ValueError(
            f"temperatures is {list(temperatures)}: expected two above 0 at least; "
            "each gives a prompt one candidate"
        )
    if not 0 < max_similarity <= 1 or pairs < 1:
        raise ValueError(
            f"max_similarity is {max_similarity}, pairs_per_prompt {pairs}: expected a "
            "similarity above 0 and up to 1, and one pair at least"
        )


def _pair(question: tuple[str, dict, dict], judged: dict) -> PreferencePair:
    prompt, *both = question
    won, lost = both if judged["outcome"] == "A" else both[::-1]
    about = {"temperatures": [won["temperature"], lost["temperature"]]}
    about["answers"] = judged["answers"]
    return PreferencePair(prompt, won["text"], lost["text"], about)
