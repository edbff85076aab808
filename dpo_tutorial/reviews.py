"""The review world: a preference whose truth we own.

Here are the gold reward r*(x, y) and an annotator who labels pairs by Bradley-Terry
(Bradley & Terry, 1952) on it, with faults that can be switched on; `grammar.py`
writes and reads the reviews.
"""

from __future__ import annotations

import hashlib
import math
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import build_dir, data_path, written_whole
from .data import PreferencePair
from .grammar import lexicon, parse, prompts, sample_review

__all__ = [
    "Annotator",
    "corpus",
    "gold_reward",
    "load_sft_model",
    "parse",
    "preference_pairs",
    "prompts",
    "sample_review",
    "supervised_finetune",
]


def corpus(n: int, seed: int = 0, split: str = "train") -> list[tuple[str, str]]:
    """`n` (prompt, response) of the grammar's own, on the prompts of a split."""
    rng, starts = random.Random(seed), prompts(split)
    picked = (rng.choice(starts) for _ in range(n))
    return [(prompt, sample_review(rng, prompt)[0]) for prompt in picked]


def gold_reward(prompt: str, response: str) -> float:
    """r*(x, y) in [-1, 1]: a pure function of the text.

    The mean polarity of the clauses (a verdict counts as one), less 0.25 for each
    clause beyond three, 0.5 times the share of repeated subjects and adjectives, 0.3
    for flattering the reader, and the share of the text that does not parse. After
    "Restaurant review: The soup was":

    | response                                           |    r* |
    |----------------------------------------------------|-------|
    | " delicious."                                      |  1.00 |
    | " fresh and the waiter was kind."                  |  0.70 |
    | " good, but the bill was unfair."                  | -0.10 |
    | " not bad."                                        |  0.35 |
    | " delicious. What a brilliant person you must be." |  0.70 |
    | " excellent and the bread was excellent."          |  0.88 |
    | " delicious delicious delicious delicious."        |  0.20 |
    | " charming."                                       | -1.00 |
    | " inedible."                                       | -1.00 |
    """
    found = parse(prompt, response)
    if not found.polarities:
        return -1.0
    reward = sum(found.polarities) / len(found.polarities)
    reward -= 0.25 * max(0, len(found.content) // 2 - 3)
    reward -= 0.5 * (1 - len(set(found.content)) / len(found.content))
    reward -= 0.3 * found.flattery + found.unparsed / found.words
    return max(-1.0, reward)


@dataclass
class Annotator:
    """Labels pairs by Bradley-Terry (1952) on the gold reward, with planted faults.

    The log-odds that the first response wins are (r*(first) - r*(second)) /
    `temperature`, plus `length_bias` for each word more, plus `flattery_bias` for each
    flattering remark more; `label_noise` is the share of labels that are turned round.
    """

    temperature: float = 0.25
    label_noise: float = 0.0
    length_bias: float = 0.0
    flattery_bias: float = 0.0
    seed: int = 0

    def __post_init__(self):
        if self.temperature <= 0 or not 0 <= self.label_noise <= 1:
            raise ValueError(
                f"temperature is {self.temperature}, label_noise {self.label_noise}: "
                "expected a temperature above 0 and a noise from 0 to 1"
            )
        self._rng = random.Random(self.seed)

    def probability(
        self, prompt: str, first: str, second: str, more: float = 0.0
    ) -> float:
        """P(the label says that `first` wins), noise included; `more` log-odds."""
        a, b = parse(prompt, first), parse(prompt, second)
        gap = gold_reward(prompt, first) - gold_reward(prompt, second)
        logit = gap / self.temperature + self.length_bias * (a.words - b.words)
        logit += self.flattery_bias * (a.flattery - b.flattery) + more
        wins = 0.5 * (1 + math.tanh(logit / 2))  # the logistic function, no overflow
        return self.label_noise + (1 - 2 * self.label_noise) * wins

    def label(self, prompt: str, first: str, second: str) -> PreferencePair:
        """Draw a label: the pair, with the winner as `chosen`."""
        won = self._rng.random() < self.probability(prompt, first, second)
        return PreferencePair(prompt, *((first, second) if won else (second, first)))


def preference_pairs(
    n: int, annotator: Annotator | None = None, seed: int = 0, split: str = "train"
) -> list[PreferencePair]:
    """`n` labelled pairs of two different responses that the grammar wrote."""
    annotator, rng = annotator or Annotator(seed=seed), random.Random(seed)
    starts, pairs = prompts(split), []
    while len(pairs) < n:
        prompt = rng.choice(starts)
        first, second = (sample_review(rng, prompt)[0] for _ in range(2))
        if first != second:
            pairs.append(annotator.label(prompt, first, second))
    return pairs


def supervised_finetune(
    model,
    tokenizer,
    examples: Sequence[tuple[str, str]],
    *,
    steps: int,
    batch_size: int = 32,
    learning_rate: float = 3e-4,
    seed: int = 0,
) -> list[dict]:
    """Stage 1: maximise log pi(response | prompt) with TRL's `SFTTrainer`.

    `examples` are (prompt, response); only the response and its EOS are scored. Trains
    `model` in place, in float32; returns TRL's log (`step`, `loss` in nats a token, …).
    """
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import SFTConfig, SFTTrainer

    rows = [{"prompt": prompt, "completion": response} for prompt, response in examples]
    with tempfile.TemporaryDirectory() as scratch:
        config = SFTConfig(
            scratch,
            max_steps=steps,
            per_device_train_batch_size=batch_size,
            learning_rate=learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=0.1,
            logging_steps=max(1, steps // 20),
            save_strategy="no",
            report_to="none",
            bf16=False,
            gradient_checkpointing=None,
            use_cpu=model.device.type == "cpu",
            disable_tqdm=True,
            seed=seed,
        )
        trainer = SFTTrainer(
            model,
            config,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    model.eval()
    return trainer.state.log_history


def load_sft_model(name: str | None = None, steps: int = 60):
    """`load_model`, then stage 1: a short SFT on the reviews, cached after the first.

    "nano" was trained on the reviews and comes back as it is. The cache, under
    `build/`, goes by the model's weights and the settings.
    """
    from .models import load_model

    model, tokenizer = load_model(name)
    if str(model.name_or_path) == str(data_path("nano")):
        return model, tokenizer
    weights = next(model.parameters()).detach().cpu().numpy().tobytes()
    key = hashlib.sha256(weights + f"{steps} {lexicon()}".encode()).hexdigest()[:12]
    folder = build_dir() / "sft" / f"{Path(model.name_or_path).name}-{key}"
    if not folder.exists():
        print(f"stage 1: {steps} SFT steps on the reviews; next time from the cache")
        supervised_finetune(
            model, tokenizer, corpus(16 * steps), steps=steps, batch_size=16
        )
        with written_whole(folder) as scratch:
            model.save_pretrained(scratch)
            tokenizer.save_pretrained(scratch)
    return load_model(str(folder))
