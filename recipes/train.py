"""What each process runs: `trl dpo`'s run, its ranks counted, with a report at the end.

    accelerate launch --config_file recipes/accelerate/ddp.yaml recipes/train.py \
        --config recipes/dpo_nano.yaml --expect_ranks 2

It takes the keys of `trl dpo`, and `--expect_ranks`, without which it does not start.
On a machine without GPUs it does of itself what README.md says of `trl dpo` there.
"""

import json
import os
import resource
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from datasets import load_dataset
from safetensors.torch import save_file
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer, ModelConfig, ScriptArguments, TrlParser

from dpo_tutorial.launch import assert_ranks


@dataclass
class Checks:
    """What is checked of a run, and what is done to it on purpose."""

    expect_ranks: int = field(metadata={"help": "processes that must take part"})
    kill: str = field(default="", metadata={"help": "RANK@STEP: SIGKILL as it begins"})


class Kill(TrainerCallback):
    """A rank that dies as a rank does that runs out of memory: without a word."""

    def __init__(self, when: str) -> None:
        self.rank, self.step = map(int, when.split("@"))

    def on_step_begin(self, args, state, control, **_) -> None:
        if (args.process_index, state.global_step + 1) == (self.rank, self.step):
            (Path(args.output_dir) / "killed").write_text(str(time.time()))
            os.kill(os.getpid(), signal.SIGKILL)


def join_on_cpu() -> None:
    """Form the group, and say what it is for, as accelerate would do on GPUs.

    On CPUs it drops FSDP without a word: it knows it of GPUs and their like alone. And
    with a DeepSpeed file it takes each process for the only one.
    """
    state = PartialState(cpu=True)
    if "ACCELERATE_USE_FSDP" in os.environ:
        state.distributed_type = DistributedType.MULTI_GPU
    if {"--deepspeed", "ACCELERATE_USE_DEEPSPEED"} & {*sys.argv, *os.environ}:
        import deepspeed

        # It would compile an all-reduce of its own; gloo has one.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        deepspeed.init_distributed("gloo")
        state.distributed_type = DistributedType.DEEPSPEED


def local(tensor: torch.Tensor) -> torch.Tensor:
    """The part of a tensor that lies in this process."""
    if hasattr(tensor, "ds_tensor") and not tensor.numel():
        return tensor.ds_tensor  # DeepSpeed's ZeRO-3
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor  # FSDP2


def held(trainer: DPOTrainer) -> dict[str, float]:
    """Shares of the weights and of Adam's averages that lie in this process."""
    weights = list(trainer.model.parameters())
    total = sum(getattr(p, "ds_numel", p.numel()) for p in weights)
    adam = trainer.optimizer
    while hasattr(adam, "optimizer"):
        adam = adam.optimizer
    averages = [state["exp_avg"] for state in adam.state.values()]
    parts = {"weights": weights, "adam": averages}
    return {k: sum(local(t).numel() for t in ts) / total for k, ts in parts.items()}


def report(trainer: DPOTrainer, ranks: int, seconds: float) -> None:
    """Write rankN.json and, from rank 0, the whole weights as final.safetensors."""
    out, rank = Path(trainer.args.output_dir), trainer.args.process_index
    log = [row for row in trainer.state.log_history if "loss" in row]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux
    found = {"ranks": ranks, "engine": trainer.accelerator.distributed_type.value}
    found |= {"losses": [row["loss"] for row in log]}
    found |= {"grad_norms": [row["grad_norm"] for row in log]}
    found |= {"held": held(trainer), "memory_mb": peak / 1024, "seconds": seconds}
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if rank == 0:
        weights = {k: v.cpu().clone().contiguous() for k, v in weights.items()}
        save_file(weights, out / "final.safetensors")
    (out / f"rank{rank}.json").write_text(json.dumps(found))


def main() -> None:
    parser = TrlParser((ScriptArguments, DPOConfig, ModelConfig, Checks))
    if not torch.accelerator.is_available():
        join_on_cpu()
        parser.set_defaults(accelerator_config={"use_configured_state": True})
    script, args, model, checks = parser.parse_args_and_config(
        fail_with_unknown_args=False
    )
    ranks = assert_ranks(checks.expect_ranks)
    args.model_init_kwargs = {"dtype": model.dtype, "revision": model.model_revision}
    rows = load_dataset(script.dataset_name)[script.dataset_train_split]
    trainer = DPOTrainer(model.model_name_or_path, args=args, train_dataset=rows)
    if checks.kill:
        trainer.add_callback(Kill(checks.kill))
    start = time.perf_counter()
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    report(trainer, ranks, time.perf_counter() - start)
    trainer.accelerator.wait_for_everyone()  # before one takes the group apart
    trainer.end()
    # All is written. An interpreter that ends while gloo's threads do is now and then
    # aborted (torch 2.13), and the launcher would call that a failure.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
