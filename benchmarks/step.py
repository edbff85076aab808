"""A step of our trainer beside one of TRL's: seconds, memory, and what each gain gives.

    python benchmarks/step.py
    python benchmarks/step.py --device cuda --dtype bfloat16

writes `benchmarks/results/step.json` (on a GPU: its part of that file). A trainer has a
process of its own and takes its steps on command, in turn with the others, so that
memory is per trainer and a busy machine slows all alike. All train the same weights on
the same rows in the same order, and their losses are compared at every step. Weights
are random: time and memory do not depend on them.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import gc
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import version
from itertools import islice, pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
)
from transformers.activations import ACT2FN

from dpo_tutorial import data_path, results_path, written_whole
from dpo_tutorial.data import tokenize_pair
from dpo_tutorial.losses import dpo_loss
from dpo_tutorial.models import seed_everything, shuffled
from dpo_tutorial.shapes import SHAPES, sizes
from dpo_tutorial.speed import bucketed, fuse_gelu, preference_log_probs
from dpo_tutorial.training import TinyDPOTrainer

ADAM = {"learning_rate": 1e-5, "adam_epsilon": 1e-6, "max_grad_norm": 1.0}
BEST = {"share_prompt": True, "fused": True}  # and `fuse_gelu`, where there is one
LORA = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear"}
CLOSE = {"float32": 1e-4, "bfloat16": 0.05}  # of the losses
MIB = 2**20
ON_GPU = ("SmolLM2-135M", "Qwen2.5-1.5B")


def text_rows(tokenizer: Any, count: int, prompt: int, response: int) -> list[dict]:
    """Pairs of exactly so many tokens, the response's EOS included."""
    words = [token.replace("Ġ", " ") for token in sorted(tokenizer.get_vocab())]
    words = [w for w in words if w[:1] == " " and w[1:].isalpha()]
    rng = random.Random(0)
    whole = {"prompt": prompt, "chosen": response - 1, "rejected": response - 1}
    rows = [
        {k: "".join(rng.choices(words, k=n)) for k, n in whole.items()}
        for _ in range(count)
    ]
    ids = tokenize_pair(rows[0], tokenizer)
    assert [len(v) for v in ids.values()] == [prompt, response, response]
    return rows


def build_model(shape: str, folder: str, vocabulary: int | None = None) -> None:
    """Random weights of a shape, with a tokenizer, where both trainers find them."""
    seed_everything(0)
    config = copy.deepcopy(SHAPES[shape])
    config.vocab_size = vocabulary or config.vocab_size
    config.bos_token_id = config.eos_token_id = 0  # nano's tokenizer goes with all
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(data_path("nano")).save_pretrained(folder)


def load(folder: str, device: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device)


def with_lora(model: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    transposed = model.config.model_type == "gpt2"
    config = LoraConfig(**LORA, fan_in_fan_out=transposed, task_type="CAUSAL_LM")
    return same_adapters(get_peft_model(model, config))


def same_adapters(model: Any) -> Any:
    """Draw each A again, by name, so that two trainers start with the same ones."""
    for name, weight in sorted(model.named_parameters()):
        if "lora_A" in name:
            generator = torch.Generator().manual_seed(len(name))
            weight.data.copy_(torch.randn(weight.shape, generator=generator) * 0.02)
    return model


# --- memory -------------------------------------------------------------------------


def start_of_memory(device: str) -> float:
    """Forget the peak so far; MiB in use now."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / MIB
    with suppress(OSError, AttributeError):  # else freed memory still counts as used
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM is VmRSS again
    return _status("VmRSS")


def peak_memory(device: str) -> float:
    """MiB at the most, since `start_of_memory`."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / MIB
    return _status("VmHWM")


def _status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(x for x in lines if x.startswith(field)).split()[1]) / 1024


# --- a trainer in a process of its own ------------------------------------------------


class Meter:
    """Takes commands from standard input; answers each with a step's cost."""

    def __init__(self, device: str, answers: Any) -> None:
        self.device, self.answers, self.before = device, answers, None

    def begin(self) -> None:
        if self.before is None:
            self.before = start_of_memory(self.device)
            self.say("ready")
        assert json.loads(sys.stdin.readline()) == "step"
        self.clock = self._clock()

    def end(self) -> None:
        spent = [b - a for a, b in zip(self.clock, self._clock(), strict=True)]
        self.spent = dict(zip(("seconds", "cpu_seconds"), spent, strict=True))

    def loss(self, loss: float) -> None:
        added = peak_memory(self.device) - self.before
        self.say({**self.spent, "added_mib": added, "loss": loss})

    def say(self, what: Any) -> None:
        print(json.dumps(what), file=self.answers, flush=True)

    def _clock(self) -> tuple[float, float]:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter(), time.process_time()


def run_ours(job: dict, rows: list[dict], tokenizer: Any, meter: Meter) -> None:
    model = load(job["folder"], job["device"])
    model = with_lora(model) if job["lora"] else model
    fuse_gelu(model)
    low = None if job["dtype"] == "float32" else torch.bfloat16
    sizes = {"steps": job["steps"], "batch_size": job["pairs"], "warmup": 0.0}
    sizes["logits"] = job["logits"]
    trainer = TinyDPOTrainer(
        model, tokenizer, rows, autocast=low, **sizes, **ADAM, **BEST
    )
    for step in range(job["steps"]):
        meter.begin()
        history = trainer.train(until=step + 1)
        meter.end()
        meter.loss(history[-1]["loss"])


def run_trl(job: dict, rows: list[dict], tokenizer: Any, meter: Meter) -> None:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import PrinterCallback, TrainerCallback
    from trl import DPOConfig, DPOTrainer

    class OnCommand(TrainerCallback):
        on_step_begin = staticmethod(lambda *a, **k: meter.begin())
        on_step_end = staticmethod(lambda *a, **k: meter.end())

        def on_log(self, args, state, control, logs, **kwargs):
            if "loss" in logs:
                meter.loss(logs["loss"])

    model = load(job["folder"], job["device"])
    options = {"fan_in_fan_out": model.config.model_type == "gpt2", **LORA}
    peft = LoraConfig(**options, task_type="CAUSAL_LM") if job["lora"] else None
    settings = {
        "output_dir": job["folder"] + "-out",
        "per_device_train_batch_size": job["pairs"],
        "max_steps": job["steps"],
        "precompute_ref_log_probs": job["trl"] == "precomputed",
        "train_sampling_strategy": "sequential",
        "weight_decay": 0.0,
        "max_length": None,
        "logging_steps": 1,
        "gradient_checkpointing": None,
        "bf16": job["dtype"] == "bfloat16",
        "use_cpu": job["device"] == "cpu",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    order = shuffled(len(rows), 0)  # ours
    data = Dataset.from_list([rows[next(order)] for _ in rows])
    trainer = DPOTrainer(
        model,
        args=DPOConfig(**settings, **ADAM),
        train_dataset=data,
        processing_class=tokenizer,
        peft_config=peft,
        callbacks=[OnCommand()],
    )
    if job["lora"]:
        same_adapters(trainer.model)
    trainer.remove_callback(PrinterCallback)
    trainer.train()


def work(job: dict) -> None:
    """The child: one job, a step each time it is told."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes elsewhere
    torch.set_num_threads(job["threads"])
    tokenizer = AutoTokenizer.from_pretrained(job["folder"])
    size = job["pairs"] * job["steps"]
    rows = text_rows(tokenizer, size, job["prompt"], job["response"])
    run = run_ours if job["trl"] is None else run_trl
    run(job, rows, tokenizer, Meter(job["device"], answers))


class Child:
    """The parent's end of a trainer's process."""

    def __init__(self, **job: Any) -> None:
        command = [sys.executable, __file__, "--child", json.dumps(job)]
        quiet = {"TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        env = os.environ | quiet | {"OMP_NUM_THREADS": str(job["threads"])}
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (as long as the child)
        self.process = subprocess.Popen(command, env=env, stderr=self.errors, **pipes)
        assert self.hear() == "ready"

    def step(self) -> dict:
        self.tell("step")
        return self.hear()

    def tell(self, what: Any) -> None:
        print(json.dumps(what), file=self.process.stdin, flush=True)

    def hear(self) -> Any:
        if line := self.process.stdout.readline():
            return json.loads(line)
        self.errors.seek(0)
        raise RuntimeError(f"a trainer stopped:\n{self.errors.read()[-2000:]}")

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


# --- comparisons ----------------------------------------------------------------------


def ratios(ours: list[dict], theirs: list[dict], field: str = "seconds") -> list[float]:
    """[median, lowest, highest] of ours over theirs, round by round."""
    found = [a[field] / b[field] for a, b in zip(ours, theirs, strict=True)]
    return [median(found), min(found), max(found)]


def summed_up(steps: list[dict]) -> dict[str, float]:
    """Medians after the first step, which warms up; the peak over all."""
    timed = {k: median(s[k] for s in steps[1:]) for k in ("seconds", "cpu_seconds")}
    return timed | {"added_mib": max(s["added_mib"] for s in steps)}


def in_turn(children: dict[str, Child], steps: int) -> dict[str, list[dict]]:
    """Steps of each child, A B C A B C: no two at once."""
    taken: dict[str, list[dict]] = {name: [] for name in children}
    for _ in range(steps):
        for name, child in children.items():
            taken[name].append(child.step())
    return taken


def compare(taken: dict[str, list[dict]], job: dict) -> list[dict]:
    """A row for each trainer of TRL's against ours; AssertionError if losses differ."""
    rows, ours = [], taken["ours"]
    for name in taken.keys() - {"ours"}:
        theirs = taken[name]
        gap = max(abs(a["loss"] - b["loss"]) for a, b in zip(ours, theirs, strict=True))
        assert gap <= CLOSE[job["dtype"]], f"losses differ by {gap} ({job}, TRL {name})"
        both = {"ours": summed_up(ours), "theirs": summed_up(theirs)}
        memory = both["ours"]["added_mib"] / both["theirs"]["added_mib"]
        rows.append(
            {
                k: job[k]
                for k in (
                    "shape",
                    "lora",
                    "pairs",
                    "prompt",
                    "response",
                    "dtype",
                    "logits",
                )
            }
            | {"trl": name, "status": "measured", **both}
            | {"time_ratio": ratios(ours[1:], theirs[1:]), "memory_ratio": memory}
            | {"cpu_ratio": ratios(ours[1:], theirs[1:], "cpu_seconds")}
            | {"largest_loss_gap": gap, "losses": [s["loss"] for s in ours]}
        )
    return sorted(rows, key=lambda row: row["trl"])


def comparison(
    job: dict, kinds: tuple = ("live", "precomputed"), vocabulary: int | None = None
) -> list[dict]:
    """Fresh processes, in turn."""
    with tempfile.TemporaryDirectory() as folder:
        job = job | {"folder": folder + "/model"}
        build_model(job["shape"], job["folder"], vocabulary)
        names = {"ours": None} | {kind: kind for kind in kinds}
        children = {name: Child(**job, trl=kind) for name, kind in names.items()}
        taken = in_turn(children, job["steps"])
        for child in children.values():
            child.close()
    for row in (rows := compare(taken, job)):
        show(row)
    return rows


def show(row: dict) -> None:
    name = f"{row['shape']} {'LoRA' if row['lora'] else 'full'} {row['pairs']} pairs"
    name += f" {row['logits']}"
    time_, memory = row["time_ratio"], row["memory_ratio"]
    span = f"{time_[0]:.2f} ({time_[1]:.2f} to {time_[2]:.2f})"
    print(f"{name}, TRL {row['trl']}: time {span}, memory {memory:.2f}", flush=True)


GROWTH = {  # one of them at a time, the rest as in the middle
    "pairs": (2, 4, 8),
    "prompt": (32, 64, 128),
    "response": (16, 32, 64),
    "vocabulary": (12_500, 25_000, 50_257),
}


def growth(job: dict) -> list[dict]:
    """Ours and TRL with the reference ahead, along each axis."""
    found = []
    for axis, values in GROWTH.items():
        for value in values:
            now, vocabulary = job | {"steps": 3}, None
            if axis == "vocabulary":
                vocabulary = value
            else:
                now |= {axis: value}
            print(axis, value, end=": ")
            (row,) = comparison(now, ("precomputed",), vocabulary)
            found.append({"axis": axis, "value": value, **row})
    return found


# --- each gain, alone -----------------------------------------------------------------

PLAIN = {"concatenate": False, "logits": "all", "share_prompt": False, "pad_to": 0}
PLAIN |= {"live": True, "gelu": False, "fused": False, "lora": False, "low": False}
LADDER = {  # each on top of those before it
    "one forward for both sides": {"concatenate": True},
    "logits at responses alone": {"logits": "responses"},
    "reference ahead": {"live": False},
    "prompt encoded once": {"share_prompt": True},
    "GELU in one kernel": {"gelu": True},
    "AdamW in one kernel": {"fused": True},
}
ASIDE = {  # each on top of the whole ladder, and of none of the others
    "logits in chunks": {"logits": "chunks"},
    "LoRA": {"lora": True},
    "bfloat16 by autocast": {"low": True},
}


class Bench:
    """One set of weights on which a step is taken in one way or another."""

    def __init__(self, folder: str) -> None:
        self.reference = load(folder, "cpu").eval().requires_grad_(False)
        full, small = load(folder, "cpu").eval(), with_lora(load(folder, "cpu")).eval()
        self.models = {False: full, True: small}  # by "lora"
        self.adams = {}
        for lora, model in self.models.items():  # a rate of 0: the weights stay
            trained = [p for p in model.parameters() if p.requires_grad]
            self.adams[lora] = torch.optim.AdamW(trained, lr=0.0, weight_decay=0.0)
        gc.freeze()  # what is here stays: no need to look through it at each step

    def log_probs(self, model: Any, rows: list[dict], way: dict) -> torch.Tensor:
        names = ("concatenate", "logits", "share_prompt", "pad_to")
        with torch.autocast("cpu", torch.bfloat16, enabled=way["low"]):
            return preference_log_probs(model, rows, 0, **{k: way[k] for k in names})

    def step(self, rows: list[dict], way: dict, ahead: torch.Tensor) -> tuple:
        """Its cost; the log-probs (2B,) and the gradient, which it leaves behind."""
        model, adam = self.models[way["lora"]], self.adams[way["lora"]]
        for block in [m for m in model.modules() if "act" in dict(m.named_children())]:
            block.act = ACT2FN["gelu_pytorch_tanh" if way["gelu"] else "gelu_new"]
        adam.param_groups[0]["fused"] = way["fused"]
        before = start_of_memory("cpu")
        clock = time.perf_counter(), time.process_time()
        if way["live"]:
            with torch.no_grad():
                ahead = self.log_probs(self.reference, rows, way)
        logps = self.log_probs(model, rows, way)
        losses, *_ = dpo_loss(*logps.chunk(2), *ahead.chunk(2))
        losses.mean().backward()
        adam.step()
        cost = {"seconds": time.perf_counter() - clock[0]}
        cost |= {"cpu_seconds": time.process_time() - clock[1]}
        cost["added_mib"] = peak_memory("cpu") - before
        gradient = [p.grad for p in model.parameters() if p.requires_grad]
        adam.zero_grad()
        return cost, logps.detach(), gradient


def gains(job: dict, rounds: int) -> list[dict]:
    """Each way's cost over that of the way before it, steps taken in turn."""
    ways, now = {"plain": PLAIN}, PLAIN
    for name, change in LADDER.items():
        ways[name] = now = now | change
    before = dict(zip(LADDER, ways, strict=False))  # the name of the way one short
    ways |= {name: now | change for name, change in ASIDE.items()}
    before |= dict.fromkeys(ASIDE, list(LADDER)[-1])
    with tempfile.TemporaryDirectory() as folder:
        build_model(job["shape"], folder)
        bench, tokenizer = Bench(folder), AutoTokenizer.from_pretrained(folder)
    rows = text_rows(tokenizer, job["pairs"], job["prompt"], job["response"])
    ids = [tokenize_pair(row, tokenizer) for row in rows]
    with torch.no_grad():
        ahead = bench.log_probs(bench.reference, ids, PLAIN)
    costs: dict[str, list[dict]] = {name: [] for name in ways}
    exact, true = {}, None
    for _ in range(rounds + 1):
        for name, way in ways.items():
            cost, *found = bench.step(ids, way, ahead)
            costs[name].append(cost)
            true = true or found
            exact[name] = _gaps(found, true)
        found = None
    return [
        gain_row(name, over, job["shape"], costs[name][1:], costs[over][1:])
        | exact[name]
        for name, over in before.items()
    ]


def _gaps(found: list, true: list) -> dict[str, float | None]:
    """The largest differences from the plain way; none where other weights train."""
    gap = {"exact_log_probs": (found[0] - true[0]).abs().max().item()}
    both = list(zip(found[1], true[1], strict=False))
    if len(found[1]) != len(true[1]):
        return gap | {"exact_gradients": None}
    return gap | {"exact_gradients": max((a - b).abs().max().item() for a, b in both)}


def padding(job: dict) -> list[dict]:
    """An epoch of pairs of many lengths: padded to the longest, by batch, by bucket."""
    with tempfile.TemporaryDirectory() as folder:
        build_model(job["shape"], folder)
        bench, tokenizer = Bench(folder), AutoTokenizer.from_pretrained(folder)
    rng, ids = random.Random(0), []
    for _ in range(6 * job["pairs"]):  # 16 to 64 tokens, and 8 to 56
        row = text_rows(tokenizer, 1, rng.randint(16, 64), rng.randint(8, 56))[0]
        ids.append(tokenize_pair(row, tokenizer))
    longest = max(len(r["prompt_ids"]) + len(r["chosen_ids"]) for r in ids)
    order = list(islice(shuffled(len(ids), 0), len(ids)))
    size = job["pairs"]
    drawn = [order[i : i + size] for i in range(0, len(order), size)]
    buckets = list(islice(bucketed(ids, size, 0), len(drawn)))
    way = PLAIN | {"concatenate": True, "logits": "responses", "live": False}
    forms = {
        "padded to the longest": (drawn, way | {"pad_to": longest}),
        "padded by the batch": (drawn, way),
        "batches by length": (buckets, way),
        "prompt encoded once, batches by length": (
            buckets,
            way | {"share_prompt": True},
        ),
    }
    ahead, warm = torch.zeros(2 * size), [ids[k] for k in drawn[0]]
    bench.step(warm, way, ahead)
    epochs: dict[str, list[dict]] = {name: [] for name in forms}
    for _ in range(2):
        for name, (batches, way) in forms.items():
            costs = [bench.step([ids[k] for k in b], way, ahead)[0] for b in batches]
            total = {k: sum(c[k] for c in costs) for k in ("seconds", "cpu_seconds")}
            peak = max(c["added_mib"] for c in costs)
            epochs[name].append(total | {"added_mib": peak})
    names = list(forms)
    return [
        gain_row(name, before, job["shape"], epochs[name], epochs[before])
        for before, name in pairwise(names)
    ]


def gain_row(name: str, over: str, shape: str, new: list, old: list) -> dict:
    """The costs of a way and of the one before it, and their ratios."""
    best = [{k: median(c[k] for c in costs) for k in costs[0]} for costs in (new, old)]
    row = {"name": name, "over": over, "shape": shape, "with": best[0]}
    row |= {"without": best[1], "time_ratio": ratios(new, old)}
    row |= {"cpu_ratio": ratios(new, old, "cpu_seconds")}
    memory = [max(c["added_mib"] for c in costs) for costs in (new, old)]
    row["memory_ratio"] = memory[0] / memory[1]
    time_ = row["time_ratio"]
    span = f"{time_[0]:.2f} ({time_[1]:.2f} to {time_[2]:.2f})"
    print(f"{name}, over {over}: time {span}, memory {row['memory_ratio']:.2f}")
    return row


# --- all of it ------------------------------------------------------------------------


def machine(device: str, threads: int) -> dict[str, Any]:
    """What it was measured on, named generically."""
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    native = [f for f in ("amx_bf16", "avx512_bf16") if f in flags]
    libraries = ("torch", "transformers", "trl", "peft")
    return {
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "threads": threads,
        "bfloat16": native[0] if native else "emulated",
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "python": platform.python_version(),
        **{name: version(name) for name in libraries},
    }


def on_gpu(job: dict, shapes: list[str], peak: float) -> list[dict]:
    """Full fine-tuning against TRL; a row that says so for each that was not run."""
    rows = []
    for shape in shapes:
        if job["device"] != "cuda":
            status = "not measured: no GPU was at hand"
            rows.append({"shape": shape, "dtype": "bfloat16", "status": status})
            continue
        found = comparison(job | {"shape": shape})
        weights = sizes(SHAPES[shape]).parameters
        tokens = 2 * job["pairs"] * (job["prompt"] + job["response"])
        for row in found:
            for side in ("ours", "theirs"):
                rate = tokens / row[side]["seconds"]
                row[side]["tokens_per_second"] = rate
                row[side]["share_of_peak"] = 6 * weights * rate / peak
        rows += found
    return rows


def on_cpu(job: dict, rounds: int) -> Iterator[tuple[str, list[dict]]]:
    """The parts that a CPU can measure, each with its name as soon as it is there."""
    changed = [
        {},
        {"logits": "chunks"},
        {"pairs": 8},
        {"lora": True},
        {"shape": "nano"},
        {"shape": "nano", "lora": True},
    ]
    yield "growth", growth(job)
    yield "comparisons", [row for new in changed for row in comparison(job | new)]
    small = gains(job | {"shape": "nano"}, 3 * rounds)
    yield "gains", gains(job, rounds) + padding(job) + small


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--dtype", default="float32", choices=tuple(CLOSE))
    parser.add_argument(
        "--shapes", default="SmolLM2-135M,Qwen2.5-1.5B", help="of the GPU's part"
    )
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--peak", type=float, default=989e12, help="FLOP/s, bfloat16")
    parser.add_argument("--out", type=Path, default=results_path("step.json"))
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        return work(asked.child)
    torch.set_num_threads(asked.threads)
    job = {"shape": "distilgpt2", "lora": False, "pairs": asked.pairs, "prompt": 64}
    job |= {"response": 32, "steps": asked.rounds + 1, "threads": asked.threads}
    job |= {"device": asked.device, "dtype": asked.dtype, "logits": "responses"}
    old = json.loads(asked.out.read_text()) if asked.out.exists() else {}
    result = {"goal": {"time_ratio": 0.5, "memory_ratio": 0.6}, "settings": job | ADAM}
    gpu = on_gpu(job, asked.shapes.split(","), asked.peak)
    if asked.device == "cuda":
        here = {"gpu": gpu, "gpu_machine": machine(asked.device, asked.threads)}
        result = result | old | here
    else:
        result |= {"machine": machine(asked.device, asked.threads), "gpu": gpu}
        result = old | result
        for name, part in on_cpu(job, asked.rounds):
            save(result := result | {name: part}, asked.out)
    save(result, asked.out)


def save(result: dict, path: Path) -> None:
    with written_whole(path) as scratch:
        scratch.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
