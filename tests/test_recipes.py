"""The recipes: TRL knows every key of them, and the small one runs."""

import json
import math
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from torch.distributed.run import get_args_parser as torchrun_parser
from trl.cli.main import main as trl_command
from trl.scripts.dpo import make_parser

from dpo_tutorial import data_path

FOLDER = Path(__file__).parent.parent / "recipes"
RECIPES = sorted(FOLDER.glob("dpo_*.yaml"))
LAUNCHES = sorted((FOLDER / "accelerate").glob("*.yaml"))
KEPT_OTHERWISE = ("report_to", "gradient_checkpointing")  # TRL makes a list, a bool


def parse(path):
    """A recipe as `trl dpo` reads it: four dataclasses."""
    on_cpu = ["--use_cpu", "true"]  # else a machine without a GPU refuses bf16
    return make_parser().parse_args_and_config(["--config", str(path), *on_cpu])


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda p: p.stem)
def test_trl_takes_every_key_and_its_value(recipe):
    settings = yaml.safe_load(recipe.read_text())
    fields = {k: v for part in parse(recipe) for k, v in vars(part).items()}
    assert len(settings) > 10
    assert set(settings) <= set(fields)
    read = {key: fields[key] for key in settings if key not in KEPT_OTHERWISE}
    assert read == {key: settings[key] for key in read}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda p: p.stem)
def test_a_misspelt_key_is_noticed(recipe, tmp_path):
    settings = yaml.safe_load(recipe.read_text())
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(yaml.safe_dump({f"{key}x": v for key, v in settings.items()}))
    with pytest.raises(ValueError, match="Unknown arguments from config") as error:
        parse(wrong)
    assert all(f"--{key}x" in str(error.value) for key in settings)


def test_the_command_stops_at_a_misspelt_key_and_the_bare_script_does_not(
    tmp_path, monkeypatch, capsys
):
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("learning_rte: 1.0e-6\nuse_cpu: true\n")
    with pytest.raises(SystemExit) as stopped:
        trl_command(["dpo", "--config", str(wrong)])
    assert stopped.value.code == 2
    assert "--learning_rte" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["dpo.py", "--config", str(wrong)])
    monkeypatch.delitem(sys.modules, "trl.scripts.dpo")
    with pytest.raises(ValueError, match="dataset_name"):  # it got past the key
        runpy.run_module("trl.scripts.dpo", run_name="__main__")


def test_the_7b_recipe_is_the_one_that_is_described():
    path = FOLDER / "dpo_mistral7b_qlora.yaml"
    assert path.read_text().startswith("# NOT EXECUTED HERE")
    _, training, model, _ = parse(path)
    assert (model.load_in_4bit, model.bnb_4bit_quant_type) == (True, "nf4")
    assert (model.use_peft, model.use_bnb_nested_quant) == (True, True)
    assert (model.dtype, training.bf16) == ("bfloat16", True)
    assert model.attn_implementation == "flash_attention_2"
    assert training.report_to == ["wandb"]


@pytest.mark.parametrize("path", LAUNCHES, ids=lambda p: p.stem)
def test_accelerate_takes_every_key(path, tmp_path):
    read = vars(load_config_from_file(str(path)))
    settings = yaml.safe_load(path.read_text())
    assert {k: read[k] for k in settings} == settings
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(yaml.safe_dump({**settings, "num_procceses": 2}))
    with pytest.raises(ValueError, match="num_procceses"):
        load_config_from_file(str(wrong))


@pytest.mark.parametrize("path", LAUNCHES, ids=lambda p: p.stem)
def test_accelerate_knows_what_stands_under_an_engine(path):
    """Its launcher takes them as options; one that it does not know, it drops."""
    settings = yaml.safe_load(path.read_text())
    options = vars(launch_command_parser().parse_args(["script.py"]))
    under = {**settings.get("fsdp_config", {}), **settings.get("deepspeed_config", {})}
    assert under.keys() <= options.keys()
    assert settings["distributed_type"] != "MULTI_CPU"
    assert bool(under) == (path.stem != "ddp")


def test_deepspeed_knows_what_stands_in_its_configuration():
    pytest.importorskip("deepspeed")
    from deepspeed.runtime import constants
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    settings = json.loads((FOLDER / "deepspeed_zero3.json").read_text())
    zero = settings["zero_optimization"]
    zero |= {k: 1 for k, v in zero.items() if v == "auto"}  # transformers fills it in
    config = DeepSpeedZeroConfig(**zero)
    assert (config.stage, config.offload_param.device) == (3, "cpu")
    fields = DeepSpeedZeroConfig.model_fields.items()
    assert zero.keys() <= {name for k, f in fields for name in (k, f.alias)}
    names = {value for value in vars(constants).values() if isinstance(value, str)}
    assert settings.keys() - {"zero_optimization"} <= names


def test_what_was_not_executed_says_so():
    text = (FOLDER / "slurm.sh").read_text()
    assert text.splitlines()[1].startswith("# NOT EXECUTED HERE")
    subprocess.run(["bash", "-n", str(FOLDER / "slurm.sh")], check=True)
    launch = text[text.index("srun torchrun") :].replace("\\\n", " ").split()[2:]
    known, rest = torchrun_parser().parse_known_args(launch)
    assert (known.training_script, rest) == ("recipes/train.py", [])
    assert (known.nproc_per_node, known.rdzv_backend) == ("4", "c10d")
    recipe = yaml.safe_load((FOLDER / "dpo_distilgpt2.yaml").read_text())
    given = dict(zip(*[iter(known.training_script_args)] * 2, strict=True))
    ranks, each = int(given["--expect_ranks"]), "per_device_train_batch_size"
    assert ranks * int(given[f"--{each}"]) == recipe[each]


@pytest.mark.slow
def test_the_small_recipe_runs_from_the_command_line(tmp_path, rows):
    data, out = tmp_path / "reviews", tmp_path / "out"
    data.mkdir()
    text = "\n".join(json.dumps(row) for row in rows)
    (data / "train.jsonl").write_text(text)
    command = [sys.executable, "-m", "trl.cli.main", "dpo"]
    command += ["--config", str(FOLDER / "dpo_distilgpt2.yaml"), "--use_cpu", "true"]
    command += ["--model_name_or_path", str(data_path("nano")), "--max_steps", "2"]
    command += ["--dataset_name", str(data), "--output_dir", str(out)]
    command += ["--num_processes", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    state = json.loads((out / "checkpoint-2" / "trainer_state.json").read_text())
    log = [row for row in state["log_history"] if "loss" in row]
    assert [row["step"] for row in log] == [1, 2]
    assert log[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert (out / "model.safetensors").exists()
