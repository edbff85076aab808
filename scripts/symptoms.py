"""Write `docs/symptoms.md`, "symptom -> likely cause -> check -> repair".

    python scripts/symptoms.py

takes the clinic's runs (notebook 11's; trained where they are not under `build/`),
writes what they came to into `docs/symptoms.json`, and the page from that.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from dpo_tutorial.cases import BUGS, CASES
from dpo_tutorial.clinic import before_and_after, beside_healthy, open_clinic, overheard

DOCS = Path(__file__).parent.parent / "docs"
HEAD = """# Symptom, likely cause, check, repair

Written by `scripts/symptoms.py` from the runs of
[notebook 11](../notebooks/11_failure_modes.ipynb): `nano`, 20 steps of 10 pairs, the
review world, {seeds} seeds. Each cause was planted; the instruments were not told. In
brackets: 95 % intervals over seeds. "Helped" and "harmed" are said where the interval
of the change leaves out zero, "not told apart" where it does not. Small runs of a small
model: take the page as a list of what to look at, in which order. Two rows of
overfitting flatter or blur: "stop early" is judged by the held-out pairs that chose its
end, and the held-out loss of "smooth the labels" is the smoothed one.
"""
BUG_HEAD = """## Faults of the code

One run each, beside the healthy run of the same seed; changes of the gold reward r*
with 95 % intervals over {prompts} prompts. The repair is to mend the code.

| symptom | cause | preflight | diagnosis | pathologies | r* against healthy |
|---|---|---|---|---|---|
"""


def results(clinic: pd.DataFrame) -> dict[str, Any]:
    """What the page says, as numbers and words that JSON holds."""
    cases = {}
    for name, case in CASES.items():
        table = before_and_after(clinic, name)
        rows = json.loads(table.map(str).to_json(orient="index"))
        words = {"see": case.see, "cause": case.cause, "by": case.by}
        cases[name] = words | {"remember": case.remember, "rows": rows}
        cases[name]["said"] = overheard(clinic, name)
    bugs = {
        name: {
            "see": bug.see,
            "said": overheard(clinic, name),
            "change": str(beside_healthy(clinic, name)),
        }
        for name, bug in BUGS.items()
    }
    prompts = len(clinic["result"].iloc[0]["text"])
    sizes = {"seeds": clinic["seed"].nunique(), "prompts": prompts}
    return {**sizes, "cases": cases, "bugs": bugs}


def heard(said: dict[str, list[str]], instrument: str) -> str:
    return "; ".join(said[instrument]) or "nothing"


def section(name: str, case: dict[str, Any]) -> str:
    """A case: its symptom in numbers, what was said, a row a repair."""
    by, rows = case["by"], dict(case["rows"])
    planted, healthy = rows.pop("planted"), rows.pop("healthy")
    figures = [f"{by} {planted[by]}, in healthy runs {healthy[by]}"]
    if by != "gold":
        figures += [f"gold reward r* {planted['gold']}, healthy {healthy['gold']}"]
    lines = [f"## {name.capitalize()}: {case['see']}", ""]
    lines += [f"- **Symptom**: {'; '.join(figures)}"]
    lines += [f"- **Likely cause** (here: planted): {case['cause']}"]
    checks = [f"{k}: {heard(case['said'], k)}" for k in case["said"]]
    lines += [f"- **Check**: {'. '.join(checks)}", "- **Repair**:", ""]
    lines += [f"| tried | {by} | better by | | r* |", "|---|---|---|---|---|"]
    for repair, row in rows.items():
        cells = repair, row[by], row["gain"], row["verdict"], row["gold"]
        lines += [f"| {' | '.join(cells)} |"]
    return "\n".join([*lines, "", f"Remember: {case['remember']}", ""])


def page(results: dict[str, Any]) -> str:
    """The page in Markdown, from `results` alone."""
    parts = [HEAD.format(**results)]
    parts += [section(*case) for case in results["cases"].items()]
    rows = [
        " | ".join([f"| {bug['see']}", name, *heard_all, f"{bug['change']} |\n"])
        for name, bug in results["bugs"].items()
        for heard_all in [[heard(bug["said"], k) for k in bug["said"]]]
    ]
    return "\n".join(parts) + "\n" + BUG_HEAD.format(**results) + "".join(rows)


def main() -> None:
    found = results(open_clinic())
    text = json.dumps(found, indent=1, ensure_ascii=False)
    (DOCS / "symptoms.json").write_text(text + "\n", encoding="utf-8")
    (DOCS / "symptoms.md").write_text(page(found), encoding="utf-8")


if __name__ == "__main__":
    main()
