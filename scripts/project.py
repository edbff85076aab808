"""The final project: its data, its baselines, and the score of a policy.

    python scripts/project.py score FOLDER --name TEAM [--leaderboard FILE.csv]
    python scripts/project.py data        write data/project/pairs.jsonl again
    python scripts/project.py baselines   train and score the rows to beat

For teachers: the two faults, and a repair of each, stand below in plain sight. The
handout, notebook 13, names neither.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from dpo_tutorial import data_path, written_whole
from dpo_tutorial.data import PreferencePair
from dpo_tutorial.models import load_model, step_plan
from dpo_tutorial.project import enter, project_pairs, score_policy
from dpo_tutorial.reviews import Annotator, preference_pairs
from dpo_tutorial.training import TinyDPOTrainer

LEADERBOARD = data_path("project") / "leaderboard.csv"
TEAMS = {"harbour": 320, "station": 320, "museum": 320}
LIKING = 0.12  # fault 1: log-odds for each word more, in all labels
PLAN = {"steps": 40, "batch_size": 16, "seed": 1}
TURNED = "museum"  # fault 2: this team filled in the form upside down


def planted() -> Iterator[dict]:
    """The pairs with both faults, in a seeded order."""
    rows = []
    for seed, (team, count) in enumerate(TEAMS.items(), 71):
        annotator = Annotator(temperature=0.4, length_bias=LIKING, seed=seed)
        for pair in preference_pairs(count, annotator, seed=seed):
            row = pair if team != TURNED else turned(pair)
            rows.append({**_texts(row), "metadata": {"team": team}})
    random.Random(7).shuffle(rows)
    yield from rows


def turned(pair: PreferencePair) -> PreferencePair:
    """Chosen for rejected."""
    return PreferencePair(pair.prompt, pair.rejected, pair.chosen, pair.metadata)


def _texts(pair: PreferencePair) -> dict[str, str]:
    return {name: getattr(pair, name) for name in ("prompt", "chosen", "rejected")}


def repair_team(pairs: list[PreferencePair]) -> list[PreferencePair]:
    return [turned(p) if p.metadata["team"] == TURNED else p for p in pairs]


def repair_length(pairs: list[PreferencePair]) -> list[PreferencePair]:
    """Drop longer winners, the longest leads first, until leads average 0."""
    by_lead = sorted(pairs, key=_lead)
    while by_lead and sum(map(_lead, by_lead)) > 0:
        by_lead.pop()
    return [p for p in pairs if p in by_lead]


def _lead(pair: PreferencePair) -> int:
    """Words that the winner has more."""
    return _words(pair.chosen) - _words(pair.rejected)


def _words(text: str) -> int:
    return len(text.split())


def train(pairs: list[PreferencePair], **settings):
    """DPO on the pairs, from nano."""
    base, tokenizer = load_model("nano")
    plan = step_plan(base) | PLAN | settings
    trainer = TinyDPOTrainer(copy.deepcopy(base), tokenizer, pairs, **plan)
    trainer.train()
    return trainer.model, tokenizer


def baselines(file: Path) -> None:
    """Score nano, DPO on the file as it is, and with either or both faults mended."""
    ways: dict[str, Callable] = {
        "DPO on the file as it is": list,
        "one fault mended": repair_team,
        "the other fault mended": repair_length,
        "both mended (reference solution)": lambda p: repair_length(repair_team(p)),
    }
    print(score := score_policy(*load_model("nano"), "nano untrained"), flush=True)
    enter(score, file)
    for name, repair in ways.items():
        print(score := score_policy(*train(repair(project_pairs())), name), flush=True)
        enter(score, file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=("score", "data", "baselines"))
    parser.add_argument(
        "folder", nargs="?", help="a policy, as save_pretrained wrote it"
    )
    parser.add_argument("--name", help="how it stands in the leaderboard")
    parser.add_argument("--leaderboard", type=Path, default=LEADERBOARD)
    asked = parser.parse_args()
    if asked.action == "data":
        with written_whole(data_path("project") / "pairs.jsonl") as scratch:
            scratch.write_text("".join(json.dumps(row) + "\n" for row in planted()))
    elif asked.action == "baselines":
        baselines(asked.leaderboard)
    else:
        if not (asked.folder and asked.name):
            parser.error("score needs a FOLDER and --name TEAM")
        score = score_policy(*load_model(asked.folder), asked.name)
        print(score, enter(score, asked.leaderboard), sep="\n")


if __name__ == "__main__":
    main()
