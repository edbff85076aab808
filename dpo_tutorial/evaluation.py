"""What judging a policy takes, in one place: samples, KL, judges, win rates, faults."""

from .evaluator import DPOEvaluator, Evaluation, plot_outcomes
from .judges import create_judge_prompt
from .pathologies import check_for_pathologies
from .sampling import (
    Estimate,
    mean_interval,
    sample_batch,
    sample_responses,
    sequence_kl,
)
from .winrates import length_controlled_win_rate, win_rate

__all__ = [
    "DPOEvaluator",
    "Estimate",
    "Evaluation",
    "check_for_pathologies",
    "create_judge_prompt",
    "length_controlled_win_rate",
    "mean_interval",
    "plot_outcomes",
    "sample_batch",
    "sample_responses",
    "sequence_kl",
    "win_rate",
]
