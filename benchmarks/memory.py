"""Peak memory of real DPO steps, each in a process of its own, and the estimate.

Writes `benchmarks/results/memory.json`, which notebook 12 reads. Weights are random, of
a model's shape. A process imports everything and takes a step on a very small model;
what is resident then (`base`) belongs to the libraries. Then come two steps on the
shape, so that Adam's state exists; `measured` is the highest residence in the second
(Linux's VmHWM, set back before each phase) above `base`. glibc is told to give freed
blocks above 64 kB back at once; what a process takes whose allocator is left alone is
`measured_left_alone` in the rows of times. Dropout is 0 and the model in train mode:
in eval mode checkpointing does nothing. Seconds are predicted from the operations, at
the rate that the first case reached. `--check` measures one small case and stops at a
miss. About a quarter of an hour on two idle cores.

    python benchmarks/memory.py [--check]
"""

import argparse
import copy
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from dpo_tutorial import written_whole
from dpo_tutorial.costs import SHAPES, flops, memory
from dpo_tutorial.losses import IGNORE, compute_log_probs, dpo_loss

RESULTS = Path(__file__).parent / "results" / "memory.json"
RETURNS = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
USUAL = {"prompt_tokens": 64, "response_tokens": 32, "reference": "precomputed"}
LORA = {"trainable": "lora", "reference": "adapters off"}
LONG = {"prompt_tokens": 192, "response_tokens": 64}
VARIANTS = {
    "reference precomputed": {},
    "reference beside it": {"reference": "model"},
    "checkpointing": {"checkpointing": True},
    "logits everywhere": {"logits": "everywhere"},
    "LoRA": LORA,
    "LoRA, checkpointing": {**LORA, "checkpointing": True},
    "padding": {"padded": True},
    "bf16": {"precision": "bfloat16"},
}
PHASES = {  # what is measured at a time, in the estimate's phases
    "forward": ("loss",),
    "backward": ("loss", "head", "blocks", "end of backward"),
    "optimizer": ("optimizer",),
}
TIMED = ("reference precomputed", "reference beside it", "checkpointing", "LoRA")
FLOOR = 0.15  # the largest miss, as a share of what was measured


def cases() -> list[dict]:
    """Each: a name, a shape, and `Step`'s words."""
    found = []
    for shape, pairs in (("distilgpt2", 8), ("SmolLM2-135M", 4)):
        for name, words in VARIANTS.items():
            found.append(
                {"name": name, "shape": shape, **USUAL, "pairs": pairs, **words}
            )
        counts = (pairs // 4, pairs // 2)
        sizes = [(f"pairs: {n}", {"pairs": n}) for n in counts]
        for name, words in [*sizes, ("longer", {"pairs": pairs // 2, **LONG})]:
            found.append({"name": name, "shape": shape, **USUAL, **words})
    words = {**USUAL, "pairs": 4, "prompt_tokens": 248, "response_tokens": 8}
    found.append({"name": "prompts much longer", "shape": "distilgpt2", **words})
    return found


def words_of(case: dict) -> dict:
    """The part of a case that `memory` and `flops` read."""
    return {k: v for k, v in case.items() if k not in ("name", "shape")}


def resident(field: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at most since `forget_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(x for x in lines if x.startswith(field)).split()[1])


def forget_peak() -> None:
    """Set VmHWM back to what is resident now (man 5 proc, clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


def everywhere(model, input_ids, attention_mask, labels) -> torch.Tensor:
    """`compute_log_probs` in the common form, with logits at every position."""
    both = {"input_ids": input_ids, "attention_mask": attention_mask}
    logits = model(**both, use_cache=False).logits[:, :-1]  # (B, T-1, V)
    targets = labels[:, 1:].clamp(min=0)[..., None]
    logps = logits.float().log_softmax(-1).gather(2, targets).squeeze(2)
    return (logps * (labels[:, 1:] != IGNORE)).sum(1)


class Run:
    """A policy of a shape with random weights, its reference, Adam, and one batch."""

    def __init__(self, config, case: dict) -> None:
        self.case = case
        config = copy.deepcopy(config)
        for name in ("attn_pdrop", "resid_pdrop", "embd_pdrop"):
            setattr(config, name, 0.0)
        torch.manual_seed(0)
        half = case.get("precision") == "bfloat16"
        dtype = torch.bfloat16 if half else torch.float32
        self.policy = AutoModelForCausalLM.from_config(config, dtype=dtype).train()
        self.reference = None
        if case["reference"] == "model":
            self.reference = copy.deepcopy(self.policy).requires_grad_(False)
        if case.get("trainable") == "lora":
            self.policy = self._adapted(config)
        if case.get("checkpointing"):
            self.policy.gradient_checkpointing_enable()
        self.trained = [p for p in self.policy.parameters() if p.requires_grad]
        self.adam = torch.optim.AdamW(self.trained, lr=1e-5)
        common = case.get("logits", "responses") == "everywhere"
        self.log_probs = everywhere if common else compute_log_probs
        self.batch = self._batch(config.vocab_size)
        self.ahead = None
        if case["reference"] == "precomputed":
            self.ahead = self._reference()

    def _adapted(self, config):
        from peft import LoraConfig, get_peft_model

        turned = config.model_type == "gpt2"  # its matrices stand the other way round
        options = {"target_modules": "all-linear", "fan_in_fan_out": turned}
        return get_peft_model(
            self.policy, LoraConfig(r=16, task_type="CAUSAL_LM", **options)
        )

    def _batch(self, vocabulary: int) -> dict[str, torch.Tensor]:
        case = self.case
        length = case["prompt_tokens"] + case["response_tokens"]
        ids = torch.randint(0, vocabulary, (2 * case["pairs"], length))
        labels, mask = ids.clone(), torch.ones_like(ids)
        labels[:, : case["prompt_tokens"]] = IGNORE
        if case.get("padded"):
            labels[0, -2:], mask[0, -2:] = IGNORE, 0
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    @torch.no_grad()
    def _reference(self) -> torch.Tensor:
        if self.case["reference"] == "adapters off":
            with self.policy.disable_adapter():
                return self.log_probs(self.policy, **self.batch)
        return self.log_probs(self.reference or self.policy, **self.batch)

    def step(self) -> dict[str, int]:
        """One step of DPO; the highest residence in each of its phases, in bytes."""
        peaks = {}
        forget_peak()
        reference = self._reference() if self.ahead is None else self.ahead
        logps = self.log_probs(self.policy, **self.batch)
        loss = dpo_loss(*logps.chunk(2), *reference.chunk(2))[0].mean()
        del logps
        peaks["forward"] = resident("VmHWM")
        forget_peak()
        loss.backward()
        peaks["backward"] = resident("VmHWM")
        forget_peak()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.adam.step()
        self.adam.zero_grad()
        peaks["optimizer"] = resident("VmHWM")
        return peaks


def measure(case: dict) -> dict:
    """What this process, which is to be fresh, finds for a case."""
    config = SHAPES[case["shape"]]
    little = copy.deepcopy(config)
    little.update({"hidden_size": 64, "num_attention_heads": 1, "vocab_size": 500})
    if config.model_type != "gpt2":
        little.update(
            {"intermediate_size": 64, "num_key_value_heads": 1, "head_dim": 64}
        )
    tokens = {"pairs": 1, "prompt_tokens": 8, "response_tokens": 8}
    Run(little, {**case, **tokens}).step()
    base = resident("VmRSS")
    run = Run(config, case)
    run.step()
    seconds, peaks = [], {}
    for _ in range(case.get("timed", 1)):
        start = time.perf_counter()
        peaks = run.step()
        seconds.append(time.perf_counter() - start)
    added = {phase: peak - base for phase, peak in peaks.items()}
    best = round(min(seconds), 3)
    return {"base": base, "measured": max(added.values())} | {
        "phases": added,
        "seconds": best,
    }


def in_a_process(case: dict, environment: dict[str, str]) -> dict:
    """`measure` in a fresh interpreter."""
    command = [sys.executable, __file__, "--case", json.dumps(case)]
    known = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **os.environ, **environment}
    done = subprocess.run(command, env=known, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{case} stopped: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def beside(case: dict) -> dict:
    """A case, measured, and its estimate."""
    if (
        case.get("precision") == "bfloat16"
        and not torch.cpu._is_avx512_bf16_supported()
    ):
        return {**case, "not measured": "this processor has no bf16"}
    found = memory(SHAPES[case["shape"]], **words_of(case))
    row = {**case, **in_a_process(case, RETURNS)}
    del row["seconds"]
    row |= {"estimate": round(found.total), "peak": found.peak}
    row["estimates"] = {name: round(found.highest(*p)) for name, p in PHASES.items()}
    return {**row, "error": round(row["estimate"] / row["measured"] - 1, 4)}


def timed(case: dict, rate: float | None) -> dict:
    """Seconds of a step beside the estimate at a rate; memory when glibc is left alone.

    The rate is the first case's own where none is given, in operations a second.
    """
    found = in_a_process({**case, "timed": 2}, {})
    operations = flops(SHAPES[case["shape"]], **words_of(case))
    rate = rate or operations / found["seconds"]
    row = {**case, "seconds": found["seconds"], "flops": operations}
    row |= {"predicted_seconds": round(operations / rate, 3), "rate": rate}
    return {**row, "measured_left_alone": found["measured"]}


def line(row: dict) -> str:
    head = f"{row['shape']:13} {row['name']:22}"
    if "not measured" in row:
        return f"{head} not measured: {row['not measured']}"
    if "seconds" in row:
        both = f"{row['seconds']:8.2f} s, predicted {row['predicted_seconds']:6.2f} s"
        return f"{head} {both}"
    sizes = f"{row['measured'] / 1e6:8.0f} MB, estimate {row['estimate'] / 1e6:6.0f} MB"
    missed = [f"{row['estimates'][x] / row['phases'][x] - 1:+.1%}" for x in PHASES]
    return f"{head} {sizes} ({row['error']:+.1%}, {row['peak']}) {' '.join(missed)}"


def check() -> None:
    """Measure one small case; SystemExit if the estimate misses by more than FLOOR."""
    words = {"pairs": 2, "prompt_tokens": 16, "response_tokens": 16}
    case = {"name": "check", "shape": "distilgpt2", **words}
    row = beside({**case, "reference": "precomputed"})
    print(line(row))
    if abs(row["error"]) > FLOOR:
        raise SystemExit(
            f"the estimate misses by {row['error']:+.1%}: see dpo_tutorial/costs.py"
        )


def main() -> None:
    report = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread",
        "torch": torch.__version__,
        "baseline": "resident after imports and a step on a very small model",
        "cases": [],
        "times": [],
    }
    for case in cases():
        report["cases"].append(beside(case))
        print(line(report["cases"][-1]), flush=True)
    rate = None
    for case in cases():
        if case["name"] in TIMED:
            report["times"].append(timed(case, rate))
            rate = report["times"][0]["rate"]
            print(line(report["times"][-1]), flush=True)
    with written_whole(RESULTS) as scratch:
        scratch.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="one small case")
    parser.add_argument("--case", help=argparse.SUPPRESS)  # what a child is given
    given = parser.parse_args()
    if given.case:
        print(json.dumps(measure(json.loads(given.case))))
    else:
        check() if given.check else main()
