"""Lay out a hub cache that holds a distilgpt2-shaped checkpoint with random weights.

python tests/hub_cache.py FOLDER     then run with HF_HOME=FOLDER HF_HUB_OFFLINE=1
"""

import sys
from pathlib import Path

from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from dpo_tutorial import data_path
from dpo_tutorial.models import DISTILGPT2_REVISION, seed_everything


def write_distilgpt2(home: Path) -> None:
    """distilgpt2's true shape, under its id and pinned revision, in `home`/hub."""
    repo = home / "hub" / "models--distilgpt2"
    snapshot = repo / "snapshots" / DISTILGPT2_REVISION
    seed_everything(0)
    config = GPT2Config(n_layer=6, bos_token_id=0, eos_token_id=0)  # nano's EOS
    GPT2LMHeadModel(config).save_pretrained(snapshot)
    AutoTokenizer.from_pretrained(data_path("nano")).save_pretrained(snapshot)
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(DISTILGPT2_REVISION)


if __name__ == "__main__":
    write_distilgpt2(Path(sys.argv[1]))
