"""Writes the items of the local lm-evaluation-harness tasks: `data/tasks/*.jsonl`.

The review tasks come from the grammar and its held-out prompts; the sums are drawn
here; `facts.jsonl` is written by hand and left alone.
"""

import json
import random
from pathlib import Path

from dpo_tutorial.grammar import lexicon, parse, prompts, sample_review

FOLDER = Path(__file__).parent.parent / "data" / "tasks"
CATEGORIES = ("food", "people", "place", "thing")


def agreement(rng: random.Random) -> dict:
    """A review cut after a later subject; the verb that its number asks for."""
    plurals = lexicon()["plural"]
    while True:
        prompt = rng.choice(prompts("held_out"))
        adjective = rng.choice(list(lexicon()["adjectives"]["event"]))
        subjects = next(
            place["subjects"]
            for place in lexicon()["places"].values()
            if any(prompt.startswith(opening) for opening in place["openings"])
        )
        plural = rng.random() < 0.5
        fitting = [s for s in subjects if (s in plurals) == plural]
        if fitting:
            text = f"{prompt} {adjective} and the {rng.choice(fitting)}"
            return {"text": text, "target": " were" if plural else " was"}


def category(rng: random.Random) -> dict:
    """A review's start; of four adjectives of one strength, the one that fits."""
    adjectives = lexicon()["adjectives"]
    own = {
        name: {
            strength: word
            for word, strength in adjectives[name].items()
            if all(
                word not in adjectives[other] for other in adjectives if other != name
            )
        }
        for name in CATEGORIES
    }
    kinds = {
        subject: kind
        for place in lexicon()["places"].values()
        for subject, kind in place["subjects"].items()
    }
    while True:
        prompt = rng.choice(prompts("held_out"))
        kind = kinds[prompt.rsplit(" The ", 1)[1].rsplit(" ", 1)[0]]
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


def distinct(make, count: int) -> list[dict]:
    """`count` different items, the same each time."""
    rng, found = random.Random(0), {}
    while len(found) < count:
        item = make(rng)
        found.setdefault(item["text"] + str(item.get("choices", "")), item)
    return list(found.values())


def main() -> None:
    sizes = {agreement: 200, category: 200, neutral: 150, addition: 100}
    for make, count in sizes.items():
        lines = [json.dumps(item) for item in distinct(make, count)]
        path = FOLDER / f"{make.__name__}.jsonl"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{path.name}: {count} items, such as {lines[0]}")


if __name__ == "__main__":
    main()
