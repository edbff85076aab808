"""Seconds of a full report on 60,000 pairs in two equal splits, 500 prompts leaked.

python benchmarks/validator.py
"""

import time

import numpy as np

from dpo_tutorial.validation import PreferenceDataValidator

SIZE, LEAKS = 60_000, 500
rng = np.random.default_rng(0)
words = np.array([f"{a}{b}" for a in "bdfklmnprst" for b in range(2000)])
weights = 1 / np.arange(1, len(words) + 1)  # Zipf's law, as in any language


def text(low: int, high: int) -> str:
    chosen = rng.choice(len(words), rng.integers(low, high), p=weights / weights.sum())
    return " ".join(words[chosen])


prompts = [text(16, 60) for _ in range(SIZE)]
for i in range(LEAKS):  # a copy with its last word changed
    prompts[-1 - i] = prompts[i].rsplit(" ", 1)[0] + " indeed"
rows = [
    {"prompt": p, "chosen": text(20, 200), "rejected": text(20, 200)} for p in prompts
]
splits = ["train"] * (SIZE // 2) + ["test"] * (SIZE // 2)
start = time.perf_counter()
report = PreferenceDataValidator(rows, splits).full_report(max_length=300)
print(f"{SIZE} pairs: {time.perf_counter() - start:.1f} s")
print(f"leaked rows found: {len(report.rows('leakage'))} of {LEAKS} planted")
