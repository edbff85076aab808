"""Several processes: starting them, counting them, comparing what they trained.

A launcher can start one process where several were asked for, and say nothing. So the
ranks are counted from inside, by summing a one from each, and not by `WORLD_SIZE`,
which only says what was wished for.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from . import data_path, recipes_path

RANKS = {"one": 1, "ddp": 2, "fsdp2": 2, "zero2": 2, "zero3": 2, "zero3_json": 2}
RANKS["agents"] = 4  # two agents of two
ENGINES = tuple(RANKS)
PACKAGE = Path(__file__).parent


def count_ranks() -> int:
    """How many processes take part in this run; call it in each of them."""
    import torch
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return 1
    one = torch.ones(1, device="cuda" if distributed.get_backend() == "nccl" else "cpu")
    distributed.all_reduce(one)
    return int(one.item())


def assert_ranks(expected: int) -> int:
    """`count_ranks()`; RuntimeError, in each process, if it is not `expected`."""
    if (seen := count_ranks()) != expected:
        raise RuntimeError(
            f"{seen} rank(s) take part, expected {expected}: the launcher started one "
            "process, or each of them trains alone. Look at its distributed_type "
            "(recipes/README.md), then at the device and backend of each process"
        )
    return seen


def free_port() -> int:
    """A TCP port on this machine that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def accelerate_command(config: str | Path, script: str | Path, *rest: Any) -> list[str]:
    """`accelerate launch` of a script under an accelerate config file.

    How many processes that gives is the file's affair: its `num_processes`, unless its
    `distributed_type` is MULTI_CPU, which gives one.
    """
    launcher = [sys.executable, "-m", "accelerate.commands.launch"]
    return [*launcher, "--config_file", *map(str, (config, script, *rest))]


def agent_commands(
    hosts: int, ranks: int, script: str | Path, *rest: Any
) -> list[list[str]]:
    """A torchrun agent per "host", each of `ranks` processes, that meet on loopback."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--rdzv_backend=c10d"]
    meeting = [f"--rdzv_endpoint=127.0.0.1:{free_port()}", "--rdzv_id=dpo"]
    sizes = [f"--nnodes={hosts}", f"--nproc_per_node={ranks}", "--local_addr=127.0.0.1"]
    return [[*launcher, *meeting, *sizes, *map(str, (script, *rest))]] * hosts


def run(
    commands: Iterable[Sequence[str]], timeout: float = 300.0, **environment: str
) -> list[tuple[int, str]]:
    """Start all commands at once, on CPUs and one thread a process: (status, output).

    What is still running after `timeout` seconds is stopped, and
    `subprocess.TimeoutExpired` raised.
    """
    quiet = {
        "PYTHONPATH": str(PACKAGE.parent),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    quiet |= {"DS_ACCELERATOR": "cpu", "TOKENIZERS_PARALLELISM": "false"}
    options = {"env": {**os.environ, **quiet, **environment}, "text": True}

    def finish(process: subprocess.Popen) -> tuple[int, str]:
        """Wait for one of them, and leave nothing of it running."""
        try:
            output, _ = process.communicate(timeout=timeout)
        finally:
            _stop(process)
        return process.returncode, output

    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    started = [subprocess.Popen(c, **streams, **options) for c in commands]
    with ThreadPoolExecutor(len(started)) as pool:
        return list(pool.map(finish, started))


def _stop(process: subprocess.Popen) -> None:
    """End a launcher; asked politely, it takes its ranks with it."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


def train(
    folder: str | Path,
    rows: Iterable[Mapping[str, str]],
    engine: str = "ddp",
    timeout: float = 300.0,
    **settings: Any,
) -> dict[str, Any]:
    """Four steps of 8 pairs on `nano` under one of `ENGINES`, by `recipes/train.py`.

    `rows` (prompt, chosen, rejected) are taken in order; `settings` are further keys of
    `trl dpo`. Returns what the ranks wrote to `folder`: `ranks` as each counted them,
    `losses` and `grad_norms` a step, `held` (the shares of weights and of Adam's
    averages that lie in each rank), `memory_mb` (peak of each), `weights` (a file), and
    the `seconds` from launch to end. RuntimeError with the end of the output if a
    process failed.
    """
    folder, start = Path(folder), time.perf_counter()
    (folder / "data").mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(dict(row)) + "\n" for row in rows)
    (folder / "data" / "train.jsonl").write_text(text)
    options = {"config": recipes_path("dpo_nano.yaml"), "output_dir": folder}
    options |= {
        "dataset_name": folder / "data",
        "model_name_or_path": data_path("nano"),
    }
    options |= {"per_device_train_batch_size": 8 // RANKS[engine]}
    options |= {"expect_ranks": RANKS[engine], **settings}
    arguments = [str(x) for k, v in options.items() for x in (f"--{k}", v)]
    local = {"LOCAL_SIZE": "2", "HF_DATASETS_CACHE": str(folder / "cache")}
    done = run(engine_commands(engine, *arguments), timeout, **local)
    if any(status for status, _ in done):
        said = "\n".join(output[-3000:] for status, output in done if status)
        raise RuntimeError(f"{engine} failed: {[s for s, _ in done]}\n{said}")
    return {**_reports(folder), "seconds": time.perf_counter() - start}


def engine_commands(engine: str, *arguments: str) -> list[list[str]]:
    """The commands that start `recipes/train.py` under one of `ENGINES`."""
    script = str(recipes_path("train.py"))
    if engine == "one":
        return [[sys.executable, script, *arguments]]
    if engine == "agents":
        return agent_commands(2, 2, script, *arguments)
    if engine == "zero3_json":
        launcher = [sys.executable, "-m", "deepspeed.launcher.runner", "--num_gpus=2"]
        launcher += ["--no_local_rank", f"--master_port={free_port()}"]
        config = ["--deepspeed", str(recipes_path("deepspeed_zero3.json"))]
        return [[*launcher, script, *arguments, *config]]
    config = recipes_path(f"accelerate/{engine}.yaml")
    return [accelerate_command(config, script, *arguments)]


def _reports(folder: Path) -> dict[str, Any]:
    """What the ranks of a run wrote, in their order."""
    paths = sorted(folder.glob("rank*.json"), key=lambda p: int(p.stem[4:]))
    ranks = [json.loads(path.read_text()) for path in paths]
    each = {k: [rank[k] for rank in ranks] for k in ("ranks", "held", "memory_mb")}
    first = {k: ranks[0][k] for k in ("engine", "losses", "grad_norms")}
    return {**each, **first, "weights": folder / "final.safetensors"}


def largest_difference(one: str | Path, other: str | Path) -> float:
    """max |a - b| over two safetensors files; ValueError for other names or shapes."""
    from safetensors.torch import load_file

    a, b = load_file(one), load_file(other)
    if {k: v.shape for k, v in a.items()} != {k: v.shape for k, v in b.items()}:
        raise ValueError(f"{one} and {other} hold other tensors: expected one shape")
    return max((a[k] - b[k]).abs().max().item() for k in a)
