"""What the course measured, quoted line by line from the executed notebooks.

Notebook 12 sets DPO beside RLHF and says what was measured at each point. It reads the
quotations, so that nothing is typed twice. Writes `benchmarks/results/course.json`;
a test fails when a notebook prints something else.

    python benchmarks/course.py
"""

import json
import re
from pathlib import Path

import nbformat

from dpo_tutorial import written_whole

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
RESULTS = Path(__file__).parent / "results" / "course.json"

# What is quoted: its name, the notebook, and what a printed line must match.
QUOTED = {
    "models in memory": ("01", r"^(PPO|DPO).*GB .*GB .*GB"),
    "samples": ("02", r"^samples drawn"),
    "ppo gets there": ("02", r"^iteration 299"),
    "finite data": ("02", r"^DPO, beta.*KL|^IPO, tau 0.25: KL|^all mass"),
    "one nat": ("07", r"^(policy gradient|best-of-n|DPO|optimum).*\["),
    "learnt reward": ("07", r"^seed \d: gold turns"),
    "beta": ("07", r"^0.03 one standard|^0.01 best gold|^1.00 best acc|^0.30 lowest"),
    "displacement": ("06", r"^chosen -\d.*rejected -"),
    "variants": ("08", r"^\w+ against DPO: .*"),
    "judges": ("09", r"^likes the first  +0.9|^likes length  +0.6|^truth"),
    "tax": ("09", r"^dpo_\w+ +\d.*(True|False)$"),
    "ai feedback": ("10", r"^(gold|length-biased), by "),
    "rounds": ("10", r"^rounds, fixed less one|^four arms"),
    "silent faults": ("11", r"^(preflight|diagnosis|pathologies) said|^nothing from"),
}


def printed_lines(path: Path) -> list[str]:
    """All lines of text that an executed notebook shows, in order."""
    lines = []
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", []):
            text = output.get("text") or output.get("data", {}).get("text/plain", "")
            lines += text.splitlines()
    return lines


def quotations(quoted: dict[str, tuple[str, str]] = QUOTED) -> dict[str, dict]:
    """The lines quoted, by name; ValueError where a notebook prints no such line."""
    found = {}
    for name, (number, pattern) in quoted.items():
        (path,) = NOTEBOOKS.glob(f"{number}_*.ipynb")
        lines = [line for line in printed_lines(path) if re.search(pattern, line)]
        if not lines:
            seen = f"{path.name} prints no line like {pattern!r}, quoted as {name!r}"
            raise ValueError(f"{seen}: give QUOTED the line that it prints now")
        found[name] = {"notebook": path.stem, "lines": lines}
    return found


if __name__ == "__main__":
    with written_whole(RESULTS) as scratch:
        scratch.write_text(
            json.dumps(quotations(), indent=1, ensure_ascii=False) + "\n"
        )
    print(f"{RESULTS.name}: {len(QUOTED)} quotations")
