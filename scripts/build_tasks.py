"""Writes the items of the local lm-evaluation-harness tasks: `data/tasks/*.jsonl`.

    python scripts/build_tasks.py [FOLDER]

The review tasks come from the grammar and its held-out prompts; the sums are drawn
here; `facts.jsonl` is written by hand and left alone.
"""

import json
import random
import sys
from pathlib import Path

from dpo_tutorial.grammar import lexicon, parse, prompts, sample_review

FOLDER = Path(__file__).parent.parent / "data" / "tasks"
CATEGORIES = ("food", "people", "place", "thing")
VERBS = (" was", " were")


def phrase(rng: random.Random) -> dict:
    """A review cut before the last word of a fixed phrase, which only it can end."""
    fixed = [*lexicon()["verdicts"], *lexicon()["flattery"]]
    starts = [text.rpartition(" ")[0] for text in fixed]
    while True:
        prompt = rng.choice(prompts("held_out"))
        review, _ = sample_review(rng, prompt)
        ending = next((text for text in fixed if review.endswith(text)), None)
        if ending and starts.count(ending.rpartition(" ")[0]) == 1:
            text, _, last = (prompt + review).rpartition(" ")
            return {"text": text, "target": f" {last[:-1]}"}


def subjects_of(prompt: str) -> dict[str, str]:
    """The subjects of a prompt's place, with their categories."""
    places = lexicon()["places"].values()
    return next(
        p["subjects"] for p in places if prompt.startswith(tuple(p["openings"]))
    )


def first_subject(prompt: str) -> str:
    return prompt.rsplit(" The ", 1)[1].rsplit(" ", 1)[0]


def agreement(rng: random.Random) -> dict:
    """A review cut after a later subject; the verb that its number asks for."""
    while True:
        prompt = rng.choice(prompts("held_out"))
        subjects = subjects_of(prompt)
        words = lexicon()["adjectives"][subjects[first_subject(prompt)]]
        adjective = rng.choice(list(words))
        plural = rng.random() < 0.5
        fitting = [s for s in subjects if (s in lexicon()["plural"]) == plural]
        if fitting:
            text = f"{prompt} {adjective} and the {rng.choice(fitting)}"
            return {"text": text, "choices": list(VERBS), "answer": int(plural)}


def fitting_adjectives() -> dict[str, dict[float, str]]:
    """By category, the adjective of each strength that no other category has."""
    adjectives = lexicon()["adjectives"]
    return {
        name: {
            strength: word
            for word, strength in adjectives[name].items()
            if sum(word in words for words in adjectives.values()) == 1
        }
        for name in CATEGORIES
    }


def category(rng: random.Random) -> dict:
    """A review's start; of four adjectives of one strength, the one that fits."""
    own = fitting_adjectives()
    while True:
        prompt = rng.choice(prompts("held_out"))
        kind = subjects_of(prompt)[first_subject(prompt)]
        strength = rng.choice((1.0, 0.7, -0.7, -1.0))
        if kind in own and all(strength in own[name] for name in CATEGORIES):
            choices = [f" {own[name][strength]}." for name in CATEGORIES]
            right = choices[CATEGORIES.index(kind)]
            rng.shuffle(choices)
            return {
                "text": prompt,
                "choices": choices,
                "answer": choices.index(right),
                "positive": strength > 0,
            }


def neutral(rng: random.Random) -> dict:
    """A review without an opinion to speak of: every polarity within 0.35 of zero."""
    while True:
        prompt = rng.choice(prompts("held_out"))
        response, _ = sample_review(rng, prompt)
        if max(map(abs, parse(prompt, response).polarities)) <= 0.35:
            return {"text": prompt, "target": response}


def addition(rng: random.Random) -> dict:
    """A sum of two numbers below 20, after two worked ones."""
    a, b = rng.randrange(20), rng.randrange(20)
    return {"text": f"2 + 5 = 7\n11 + 3 = 14\n{a} + {b} =", "target": f" {a + b}"}


SIZES = {phrase: 200, agreement: 200, category: 200, neutral: 150, addition: 100}


def distinct(make, count: int) -> list[dict]:
    """`count` different items, the same each time."""
    rng, found = random.Random(0), {}
    while len(found) < count:
        item = make(rng)
        found.setdefault(item["text"] + str(item.get("choices", "")), item)
    return list(found.values())


def main(folder: Path = FOLDER) -> None:
    for make, count in SIZES.items():
        lines = [json.dumps(item) for item in distinct(make, count)]
        path = folder / f"{make.__name__}.jsonl"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{path.name}: {count} items, such as {lines[0]}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
