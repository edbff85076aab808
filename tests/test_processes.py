"""Several processes do one run, and a launch that starts fewer is an error.

The slow tests use the functions of `benchmarks/processes.py`; what each asserts is
counted or compared by the processes themselves.
"""

import importlib.util
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dpo_tutorial import launch

ROOT = Path(__file__).parent.parent
DDP = ROOT / "recipes" / "accelerate" / "ddp.yaml"
# Counted twice: before there is a group, each is alone; then all are together.
SCRIPT = """
import os, sys
from pathlib import Path
from torch import distributed
from dpo_tutorial.launch import assert_ranks, count_ranks
folder, expected = Path(sys.argv[1]), int(sys.argv[2])
alone = count_ranks()
if "RANK" in os.environ:
    distributed.init_process_group("gloo")
    name = "rank" + os.environ["RANK"]
else:
    name = "lonely"
(folder / name).write_text(f"{alone} {count_ranks()}")
assert_ranks(expected)
(folder / (name + ".passed")).touch()
if "RANK" in os.environ:
    distributed.barrier()
    os._exit(0)  # as recipes/train.py does, and for the same reason
"""


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return path


def found(folder):
    return {p.name: p.read_text() for p in folder.iterdir() if p.suffix != ".py"}


def test_ranks_are_counted_from_inside(script, tmp_path):
    """As many as take part, whatever the environment says of their number."""
    [(status, said)] = launch.run(launch.agent_commands(1, 2, script, tmp_path, 2))
    assert status == 0, said
    one_two = {f"rank{i}": "1 2" for i in range(2)}
    assert found(tmp_path) == one_two | {f"rank{i}.passed": "" for i in range(2)}


def test_too_few_ranks_are_an_error_in_each(script, tmp_path):
    [(status, said)] = launch.run(launch.agent_commands(1, 2, script, tmp_path, 3))
    assert status != 0
    assert "2 rank(s) take part, expected 3" in said
    assert found(tmp_path) == {f"rank{i}": "1 2" for i in range(2)}  # none passed


def test_without_a_group_one_rank_takes_part():
    assert launch.count_ranks() == launch.assert_ranks(1) == 1
    with pytest.raises(RuntimeError, match=r"1 rank.*expected 2.*distributed_type"):
        launch.assert_ranks(2)


@pytest.mark.slow
def test_the_recipe_starts_two_processes_and_its_look_alike_one(script, tmp_path):
    look_alike = tmp_path / "multi_cpu.yaml"
    look_alike.write_text(DDP.read_text().replace("MULTI_GPU", "MULTI_CPU"))
    for config, ranks in ((DDP, 2), (look_alike, 1)):
        out = tmp_path / str(ranks)
        out.mkdir()
        command = launch.accelerate_command(config, script, out, 2)
        [(status, said)] = launch.run([command])
        if ranks == 2:
            assert status == 0, said
            assert set(found(out)) == {"rank0", "rank1", "rank0.passed", "rank1.passed"}
        else:
            assert status != 0
            assert "1 rank(s) take part, expected 2" in said
            assert found(out) == {"lonely": "1 1"}


@pytest.mark.slow
def test_accelerate_drops_fsdp_on_cpus_without_a_word(tmp_path):
    """Why recipes/train.py says what the group is for; else it could go."""
    path = tmp_path / "script.py"
    path.write_text(
        "import os\nfrom accelerate import Accelerator\n"
        "accelerator = Accelerator(cpu=True)\n"
        "line = f'engine: {accelerator.distributed_type.value}\\n'\n"
        "os.write(1, line.encode())  # in one piece: two ranks share the pipe\n"
        "accelerator.wait_for_everyone()\nos._exit(0)\n"
    )
    config = DDP.with_name("fsdp2.yaml")
    [(status, said)] = launch.run([launch.accelerate_command(config, path)])
    assert status == 0, said
    assert said.count("engine: MULTI_CPU") == 2


def test_what_runs_too_long_is_stopped(tmp_path):
    code = (
        "import pathlib, sys, time; time.sleep(60); pathlib.Path(sys.argv[1]).touch()"
    )
    slow = [sys.executable, "-c", code, str(tmp_path / "late")]
    start = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        launch.run([slow, [sys.executable, "-c", ""]], timeout=1)
    assert time.monotonic() - start < 50
    assert not (tmp_path / "late").exists()


def test_files_of_other_tensors_are_not_compared(tmp_path):
    import torch
    from safetensors.torch import save_file

    paths = [tmp_path / name for name in ("a", "b", "c")]
    for path, tensors in zip(paths, ({"w": 0.0}, {"w": 0.5}, {"v": 0.0}), strict=True):
        save_file({k: torch.full((2,), v) for k, v in tensors.items()}, path)
    assert launch.largest_difference(*paths[:2]) == 0.5
    with pytest.raises(ValueError, match="other tensors"):
        launch.largest_difference(*paths[1:])


@pytest.fixture(scope="module")
def benchmark():
    path = ROOT / "benchmarks" / "processes.py"
    spec = importlib.util.spec_from_file_location("processes", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def alone(benchmark, tmp_path_factory):
    """The run in one process, and that it went somewhere."""
    run = benchmark.compared("one", tmp_path_factory.mktemp("one"))
    assert run["ranks"] == [1]
    assert run["moved"] > 20 * 1e-4  # else equal weights would say nothing
    assert len(run["losses"]) == 4
    assert max(abs(loss - run["losses"][0]) for loss in run["losses"]) > 20 * 1e-4
    return run


ENGINES = {  # ranks, accelerate's name, shares of weights and of Adam's averages
    "ddp": (2, "MULTI_CPU", 1, 1),
    "fsdp2": (2, "FSDP", 0.5, 0.5),
    "zero3": (2, "DEEPSPEED", 0.934, 0.5),  # but the embedding all is small
    "zero3_json": (2, "DEEPSPEED", 0.504, 0.5),
    "agents": (4, "MULTI_CPU", 1, 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_the_same_run_in_several_processes(engine, alone, benchmark, tmp_path):
    run = benchmark.compared(engine, tmp_path / engine, alone)
    ranks, name, weights, adam = ENGINES[engine]
    assert (run["ranks"], run["engine"]) == ([ranks] * ranks, name)
    for held in run["held"]:  # sharded indeed, and not merely named so
        assert held["weights"] == pytest.approx(weights, abs=0.01)
        assert held["adam"] == pytest.approx(adam, abs=0.01)
    assert run["loss_difference"] < 1e-4
    assert run["weight_difference"] < 1e-4
    if engine in ("fsdp2", "zero3"):
        whole = benchmark.merged(engine, tmp_path / engine)
        assert whole["files"] > ranks
        assert whole["logit_difference"] < 1e-6


@pytest.mark.slow
def test_a_rank_killed_midway_stops_the_run_which_is_resumed(
    alone, benchmark, tmp_path
):
    found = benchmark.killed(tmp_path, alone, "ddp")
    assert found["said"]
    assert found["seconds_to_stop"] < 60
    assert found["ranks"] == [2, 2]
    assert found["weight_difference"] < 1e-4


@pytest.mark.slow
def test_trl_dpo_starts_two_processes_by_the_recipe_only(benchmark, tmp_path):
    assert benchmark.launches(tmp_path) == {
        "MULTI_CPU": {"together": 1, "finished": 1},
        "MULTI_GPU": {"together": 1, "finished": 2},  # twice the same run
        "MULTI_GPU --use_cpu true": {"together": 2, "finished": 1},
    }
