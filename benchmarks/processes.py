"""One run in one process and in several: same losses, same weights, or an error.

Four steps of DPO on `nano` at one global batch: alone; two processes under DDP, FSDP2,
DeepSpeed ZeRO-2 and ZeRO-3; two agents of two processes. Then the launches that start
fewer processes than were asked for, a rank that is killed, and sharded checkpoints that
are put together again. Writes `benchmarks/results/processes.json`, which notebook 12
reads; `tests/test_processes.py` runs the same functions. About three minutes.

    python benchmarks/processes.py
"""

import json
import os
import platform
import re
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from dpo_tutorial import data_path, recipes_path, written_whole
from dpo_tutorial.launch import ENGINES, largest_difference, run, train
from dpo_tutorial.models import load_model
from dpo_tutorial.reviews import preference_pairs

RESULTS = Path(__file__).parent / "results" / "processes.json"
PACKAGES = ("torch", "accelerate", "transformers", "trl", "deepspeed")
FIELDS = ("prompt", "chosen", "rejected")
NANO = data_path("nano")
STEPS, EACH = 4, 4  # EACH: pairs a step of one process under `trl dpo`


def rows() -> list[dict[str, str]]:
    """The pairs of all runs: four steps of eight."""
    return [{k: getattr(p, k) for k in FIELDS} for p in preference_pairs(32, seed=1)]


def compared(engine: str, folder: Path, alone: dict | None = None) -> dict:
    """A run under `engine`, and how far it is from the one `alone`."""
    found = train(folder, rows(), engine)
    alone = alone or found
    pairs = zip(found["losses"], alone["losses"], strict=True)
    found["loss_difference"] = max(abs(a - b) for a, b in pairs)
    weights = found["weights"], alone["weights"]
    found["weight_difference"] = largest_difference(*weights)
    found["moved"] = largest_difference(found["weights"], saved_start(folder))
    return found


def saved_start(folder: Path) -> Path:
    """The weights before the first step, under the names of the last ones."""
    weights = load_model("nano")[0].state_dict()
    save_file({k: v.clone() for k, v in weights.items()}, folder / "start.safetensors")
    return folder / "start.safetensors"


def trap_config(folder: Path) -> Path:
    """`ddp.yaml` with one word changed, to the one that seems right on CPUs."""
    text = recipes_path("accelerate/ddp.yaml").read_text()
    path = folder / "multi_cpu.yaml"
    path.write_text(text.replace("MULTI_GPU", "MULTI_CPU"))
    return path


def trl_command(folder: Path, config: Path, *rest: str) -> dict:
    """A run of `trl dpo` itself: how many processes train together, by its own log.

    `together` is the pairs that a step took over those that a process takes; `finished`
    how many runs there were, each of which said that it was completed (the launcher's
    status is no sign: gloo's threads now and then abort a process that is done).
    """
    data, out = folder / "data", folder / "trl"
    data.mkdir(parents=True, exist_ok=True)
    (data / "train.jsonl").write_text("\n".join(map(json.dumps, rows())))
    command = [sys.executable, "-m", "trl.cli.main", "dpo", "--accelerate_config"]
    command += [str(config), "--config", str(recipes_path("dpo_nano.yaml"))]
    command += ["--model_name_or_path", str(NANO), "--dataset_name", str(data)]
    command += ["--output_dir", str(out), "--save_strategy", "no", *rest]
    command += ["--per_device_train_batch_size", str(EACH)]
    [(status, output)] = run([command], HF_DATASETS_CACHE=str(folder / "cache"))
    if not (finished := output.count("Training completed")):
        raise RuntimeError(f"trl dpo failed ({status}):\n{output[-3000:]}")
    epochs = float(re.findall(r"'epoch': '([\d.]+)'", output)[-1])
    together = round(epochs * len(rows()) / STEPS / EACH)
    return {"together": together, "finished": finished}


def launches(folder: Path) -> dict[str, dict]:
    """What `trl dpo` makes of "two processes", on CPUs, by the way it is asked."""
    ddp, cpu = recipes_path("accelerate/ddp.yaml"), ("--use_cpu", "true")
    asked = {
        "MULTI_CPU": (trap_config(folder), *cpu),
        "MULTI_GPU": (ddp,),
        "MULTI_GPU --use_cpu true": (ddp, *cpu),
    }
    return {
        name: trl_command(folder / str(i), *how)
        for i, (name, how) in enumerate(asked.items())
    }


def killed(folder: Path, alone: dict, engine: str = "agents") -> dict:
    """The last rank gets SIGKILL as step 3 begins; the run is taken up from step 2."""
    rank = 3 if engine == "agents" else 1
    try:
        train(folder, rows(), engine, kill=f"{rank}@3")
    except RuntimeError as error:
        said = str(error)
        stopped = time.time() - float((folder / "killed").read_text())
    else:
        raise RuntimeError(f"rank {rank} was killed at step 3, and the run went on")
    again = train(
        folder, rows(), engine, resume_from_checkpoint=folder / "checkpoint-2"
    )
    return {
        "engine": engine,
        "rank": rank,
        "step": 3,
        "said": "SIGKILL" in said,
        "seconds_to_stop": stopped,
        "ranks": again["ranks"],
        "weight_difference": largest_difference(again["weights"], alone["weights"]),
    }


def merged(engine: str, folder: Path) -> dict:
    """The sharded checkpoint of a run under `engine`, as one file, loaded again.

    DeepSpeed writes that as a pickle of tensors: with `--safe_serialization` it
    stops at tied weights, which `nano` has.
    """
    last, out = folder / "checkpoint-4", folder / "merged"
    if engine == "fsdp2":
        shards, name = last / "pytorch_model_fsdp_0", "model.safetensors"
        command = ["-m", "accelerate.commands.accelerate_cli", "merge-weights"]
        command += [str(shards), str(out)]
    else:
        shards, name = next(last.glob("global_step*")), "pytorch_model.bin"
        command = [str(last / "zero_to_fp32.py"), str(last), str(out)]
    [(status, output)] = run([[sys.executable, *command]])
    if status:
        raise RuntimeError(f"merging {shards} failed ({status}):\n{output[-3000:]}")
    gap = logits(out / name) - logits(folder / "final.safetensors")
    files = sum(path.is_file() for path in shards.iterdir())
    return {"files": files, "logit_difference": gap.abs().max().item()}


@torch.no_grad()
def logits(path: Path) -> torch.Tensor:
    """`nano`'s logits (B, T, V) on four prompts, with all weights from a file."""
    pickled = path.suffix == ".bin"
    weights = torch.load(path, weights_only=True) if pickled else load_file(path)
    model, tokenizer = load_model("nano")
    model.load_state_dict(weights)  # strict: an error if one is missing
    texts = [row["prompt"] for row in rows()[:4]]
    batch = tokenizer(texts, return_tensors="pt", padding=True).to(model.device)
    return model(**batch).logits.cpu()


def main() -> None:
    os.environ.update(TQDM_DISABLE="1", HF_HUB_OFFLINE="1")
    report = {
        "machine": f"{platform.machine()}, one thread a process",
        "versions": {name: version(name) for name in PACKAGES},
        "pairs": len(rows()),
        "steps": STEPS,
        "runs": {},
    }
    with tempfile.TemporaryDirectory() as name:
        top, alone = Path(name), None
        for engine in ENGINES:
            found = compared(engine, top / engine, alone)
            alone = alone or found
            report["runs"][engine] = found
            print(engine, {k: found[k] for k in ("ranks", "weight_difference")})
        report["launches"] = launches(top)
        report["killed"] = killed(top / "killed", alone)
        report["merged"] = {k: merged(k, top / k) for k in ("fsdp2", "zero3")}
        for found in report["runs"].values():
            found["weights"] = found["weights"].name
    with written_whole(RESULTS) as scratch:
        scratch.write_text(json.dumps(report, indent=1) + "\n")
    print(
        json.dumps({k: report[k] for k in ("launches", "killed", "merged")}, indent=1)
    )


if __name__ == "__main__":
    main()
