"""The endpoint judge: a real server, one that fails in every way, and the key."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
import types
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from dpo_tutorial import build_dir
from dpo_tutorial.endpoint import EndpointJudge
from dpo_tutorial.evaluator import DPOEvaluator
from dpo_tutorial.judges import JudgeError, create_judge_prompt, parse_verdict
from dpo_tutorial.reviews import corpus

SECRET = "sk-an-unlikely-secret-0123456789"
PROMPTS = ["the soup was", "the bread was", "the bill was"]
FIRST, SECOND = [" good.", " fine.", " fair."], [" bad.", " stale.", " wrong."]
BAD = 1  # the pair that a failing server fails on


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    for name in list(os.environ):
        if name.startswith("OPENAI_"):
            monkeypatch.delenv(name)


# --- a server that fails


def completion(content, **more):
    message = {"role": "assistant", "content": content, **more}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "judge",
        "choices": [choice],
    }


def verdict(winner):
    return completion(json.dumps({"winner": winner}))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, body, status=200, kind="application/json", **headers):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", headers.pop("length", str(len(body))))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        """Prefers the responses of FIRST, wherever they stand; fails where told to."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = asked["messages"][0]["content"]
        pair = next(i for i, prompt in enumerate(PROMPTS) if prompt in text)
        self.server.seen.append((pair, time.monotonic(), self.headers, asked))
        fails = self.server.fails[0] if self.server.fails else None
        if fails and pair == BAD:
            self.server.fails = self.server.fails[1:] or self.server.fails
            return fails(self)
        winner = "A" if text.index(FIRST[pair]) < text.index(SECOND[pair]) else "B"
        return self.reply(verdict(winner))


def status(code, **headers):
    return lambda h: h.reply({"error": {"message": "no"}}, code, **headers)


def ok(body, kind="application/json"):
    return lambda h: h.reply(body, kind=kind)


def hangs(h):
    h.server.released.wait(10)
    h.close_connection = True


def cut(h):
    whole = json.dumps(verdict("A")).encode()
    h.reply(whole[:20], length=str(len(whole)))
    h.close_connection = True


def hangs_up(h):
    h.close_connection = True
    h.connection.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def server():
    """A server on this machine; `fails` are what it does in turn, the last for ever."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.seen, server.fails, server.released = [], [], threading.Event()
    server.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


def judge_of(server, **settings):
    settings = {"timeout": 20.0, "max_retries": 1, **settings}
    return EndpointJudge("judge", server.url, **settings)


def evaluate(judge, path=None):
    evaluator = DPOEvaluator(FIRST, SECOND, None, judge)
    return evaluator.pairwise_evaluation(PROMPTS, path=path)


def asked(server, pair=BAD):
    return sum(seen[0] == pair for seen in server.seen)


def test_the_request_is_one_question_with_its_settings(server):
    judge = judge_of(server, temperature=0.5, max_tokens=7)
    reply = judge(PROMPTS[0], FIRST[0], SECOND[0])
    assert parse_verdict(reply) == "A"
    [(_, _, headers, body)] = server.seen
    question = create_judge_prompt(PROMPTS[0], FIRST[0], SECOND[0])
    assert body["messages"] == [{"role": "user", "content": question}]
    settings = {name: value for name, value in body.items() if name != "messages"}
    assert settings == {"model": "judge", "temperature": 0.5, "max_tokens": 7}
    assert headers["Authorization"] == "Bearer no-key"
    bare = judge_of(server, temperature=None, max_tokens=None)
    bare(PROMPTS[0], FIRST[0], SECOND[0])
    assert set(server.seen[1][3]) == {"model", "messages"}


def test_another_question_is_put_and_marks_the_file(server, tmp_path):
    def question(prompt, a, b):
        return f"{prompt}|{a}|{b}"

    judge = judge_of(server, question=question)
    evaluate(judge, tmp_path / "rows")
    assert server.seen[0][3]["messages"][0]["content"] == "the soup was| good.| bad."
    with pytest.raises(ValueError, match="was made with"):
        evaluate(judge_of(server), tmp_path / "rows")


RETRIED = {
    "429 with Retry-After": status(429, Retry_After="0.05"),
    "429 without": status(429),
    "500": status(500),
    "503 in HTML": lambda h: h.reply(b"<html>busy</html>", 503, "text/html"),
    "408": status(408),
    "silent": hangs,
    "cut in the body": cut,
    "cut at once": hangs_up,
}
NOT_RETRIED = {
    "400": status(400),
    "401": status(401),
    "404 in HTML": lambda h: h.reply(b"<html>no</html>", 404, "text/html"),
    "429 to come back tomorrow": status(429, Retry_After="86400"),
    "HTML": ok(b"<html><body>Welcome</body></html>", "text/html"),
    "HTML called JSON": ok(b"<html><body>Welcome</body></html>"),
    "truncated JSON": ok(json.dumps(verdict("A")).encode()[:-9]),
    "nested JSON": ok(b"[" * 200_000),
    "bytes": ok(b"\xff\xfe\x00"),
    "empty body": ok(b""),
    "null": ok(None),
    "a list": ok([1]),
    "a text": ok("fine"),
    "an error with status 200": ok({"error": {"message": "overloaded"}}),
    "no choices": ok({**verdict("A"), "choices": []}),
    "choices null": ok({**verdict("A"), "choices": None}),
    "choices an object": ok({**verdict("A"), "choices": {}}),
    "a choice null": ok({**verdict("A"), "choices": [None]}),
    "no message": ok({**verdict("A"), "choices": [{"index": 0}]}),
    "content null": ok(completion(None)),
    "a refusal": ok(completion(None, refusal="I cannot")),
    "content a list": ok(completion([{"type": "text", "text": "A"}])),
}


@pytest.mark.parametrize("fault", [*RETRIED, *NOT_RETRIED])
def test_a_failure_is_retried_or_not_and_marks_its_pair_only(server, tmp_path, fault):
    server.fails, path = [{**RETRIED, **NOT_RETRIED}[fault]], tmp_path / "rows"
    patience = 1.0 if fault == "silent" else 20.0
    found = evaluate(judge_of(server, timeout=patience), path)
    assert list(found.table["outcome"]) == ["A", "failed", "A"]
    assert found.table["error"][BAD].startswith(f"judge at {server.url}: ")
    assert list(found.table["answers"])[BAD] == []
    assert asked(server) == (2 if fault in RETRIED else 1)
    assert len(path.read_text().splitlines()) == 4  # every pair has its line

    server.seen.clear()  # still down: asked once more, and nothing else is
    hasty = judge_of(server, max_retries=0, timeout=patience)
    assert evaluate(hasty, path).counts["failed"] == 1
    assert len(server.seen) == asked(server) == 1

    server.fails, server.seen = [], []
    judge = judge_of(server)
    assert list(evaluate(judge, path).table["outcome"]) == ["A"] * 3
    assert len(server.seen) == asked(server) == 2  # both ways round
    server.seen.clear()
    assert list(evaluate(judge, path).table["outcome"]) == ["A"] * 3
    assert server.seen == []


@pytest.mark.parametrize("fault", RETRIED)
def test_a_failure_that_passes_costs_nothing(server, fault):
    server.fails = [RETRIED[fault], ok(verdict("tie"))]
    found = evaluate(judge_of(server, timeout=1.0 if fault == "silent" else 20.0))
    assert list(found.table["outcome"]) == ["A", "tie", "A"]
    assert asked(server) == 3


def test_pauses_are_the_servers_or_grow(server):
    def pauses(fails):
        server.fails, server.seen = [fails], []
        with pytest.raises(JudgeError):
            judge_of(server, max_retries=2)(PROMPTS[BAD], FIRST[BAD], SECOND[BAD])
        times = [seen[1] for seen in server.seen]
        assert len(times) == 3
        return times[1] - times[0], times[2] - times[1]

    assert min(pauses(status(429, Retry_After="0.4"))) >= 0.4
    first, second = pauses(status(500))
    assert first >= 0.3
    assert second >= 0.7


@pytest.mark.parametrize("content", ['{"winner": "C"}', '{"winner": "A', "A", ""])
def test_what_is_no_verdict_is_unparseable_and_not_asked_again(
    server, tmp_path, content
):
    server.fails, path = [ok(completion(content))], tmp_path / "rows"
    found = evaluate(judge_of(server), path)
    assert list(found.table["outcome"]) == ["A", "unparseable", "A"]
    assert found.table["answers"][BAD] == [content] * 2
    assert found.table["verdicts"][BAD] == [None] * 2
    assert asked(server) == 2
    server.seen.clear()
    again = evaluate(judge_of(server), path)
    assert again.counts == found.counts
    assert server.seen == []


def test_the_second_order_may_fail_alone(server, tmp_path):
    server.fails = [ok(verdict("A")), status(400)]
    found = evaluate(judge_of(server), tmp_path / "rows")
    assert found.counts["failed"] == 1
    assert found.table["answers"][BAD] == [json.dumps({"winner": "A"})]


def test_no_server_at_all(server):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        judge = EndpointJudge(
            "judge", f"http://127.0.0.1:{free.getsockname()[1]}/v1", max_retries=0
        )
        with pytest.raises(JudgeError, match="APIConnectionError"):
            judge("x", "a", "b")


# --- the key


@pytest.fixture
def colab(monkeypatch):
    """Gives a stand-in of Colab's secrets; set `answer` to a key or an exception."""
    userdata = types.ModuleType("google.colab.userdata")
    userdata.SecretNotFoundError = type("SecretNotFoundError", (Exception,), {})
    userdata.NotebookAccessError = type("NotebookAccessError", (Exception,), {})
    userdata.answer = SECRET

    def get(name):
        assert name == "OPENAI_API_KEY"
        if isinstance(userdata.answer, str):
            return userdata.answer
        raise userdata.answer

    userdata.get = get
    module = types.ModuleType("google.colab")
    module.userdata = userdata
    monkeypatch.setitem(sys.modules, "google.colab", module)
    monkeypatch.setitem(sys.modules, "google.colab.userdata", userdata)
    return userdata


def sent(judge):
    return judge._client.api_key


def test_the_key_of_the_environment_comes_first(monkeypatch, colab):
    monkeypatch.setenv("OPENAI_API_KEY", "  sk-from-the-environment\n")
    assert sent(EndpointJudge("m")) == "sk-from-the-environment"
    assert sent(EndpointJudge("m", "http://localhost:1/v1")) == (
        "sk-from-the-environment"
    )


def test_then_that_of_colab(colab):
    assert sent(EndpointJudge("m")) == SECRET
    assert sent(EndpointJudge("m", "http://localhost:1/v1")) == "no-key"


@pytest.mark.parametrize("error", ["SecretNotFoundError", "NotebookAccessError", ""])
def test_without_a_key_the_error_says_where_to_put_it(colab, error):
    colab.answer = getattr(colab, error)() if error else ""
    with pytest.raises(ValueError, match=r"no OPENAI_API_KEY for https://api\.openai"):
        EndpointJudge("m")


def test_outside_colab_the_error_is_the_same(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", " ")
    with pytest.raises(ValueError, match="expected it in the environment"):
        EndpointJudge("m", "https://models.example.org/v1")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_a_server_on_this_machine_needs_no_key(host):
    assert sent(EndpointJudge("m", f"http://{host}:8000/v1")) == "no-key"


@pytest.mark.parametrize("address", ["localhost:8000/v1", "", "/v1", "ftp://x/v1"])
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(ValueError, match=r"base_url is .*: expected an address"):
        EndpointJudge("m", address)


@pytest.mark.parametrize(
    "echo",
    [
        lambda h, key: h.reply({"error": {"message": f"bad key {key}"}}, 401),
        lambda h, key: h.reply(f"<html>{key * 20}</html>".encode(), 403, "text/html"),
        lambda h, key: h.reply(("x" * 280 + key).encode(), 400, "text/plain"),
        lambda h, key: h.reply(completion([key])),
        lambda h, key: h.reply(completion(f"your key is {key}")),
        lambda h, key: h.reply(json.dumps({"winner": key}).encode()[:-1]),
    ],
)
def test_a_key_that_the_server_sends_back_is_shown_nowhere(
    server, tmp_path, monkeypatch, capfd, echo
):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    server.fails = [lambda h: echo(h, h.headers["Authorization"].split()[1])]
    judge, path = judge_of(server), tmp_path / "rows"
    found = evaluate(judge, path)
    assert server.seen[0][2]["Authorization"] == f"Bearer {SECRET}"
    shown = [repr(judge), str(judge), path.read_text(), found.table.to_csv()]
    shown += [repr(found), *capfd.readouterr()]
    try:
        text = judge(PROMPTS[BAD], FIRST[BAD], SECOND[BAD])
    except JudgeError as error:
        text = str(error)
    assert len(text) < 400
    assert not any(SECRET[:12] in part for part in [*shown, text])


def test_a_word_in_the_keys_place_is_no_secret(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "e")
    assert judge_of(server)(PROMPTS[0], FIRST[0], SECOND[0]) == '{"winner": "A"}'


def test_the_repr_is_the_settings_and_a_changed_one_is_another_judge():
    judge = EndpointJudge("m", "http://localhost:1/v1")
    assert "model='m', base_url='http://localhost:1/v1', temperature=0.0" in repr(judge)
    assert judge == EndpointJudge("m", "http://localhost:1/v1")
    assert judge != EndpointJudge("m", "http://localhost:2/v1")


# --- a real server: `transformers serve`

ALWAYS_A = '{"winner": "A"}'
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QUESTIONS = [(*pair, " not bad.") for pair in corpus(8)]


@pytest.fixture(scope="module")
def always_a(tmp_path_factory):
    """The folder of a Llama of one layer, trained to say ALWAYS_A to all questions."""
    folder, bpe = tmp_path_factory.mktemp("always-a"), ByteLevelBPETokenizer()
    special = ["<|im_start|>", "<|im_end|>"]
    bpe.train_from_iterator([ALWAYS_A] * 4, vocab_size=320, special_tokens=special)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer,
        bos_token=special[0],
        eos_token=special[1],
        pad_token=special[1],
        chat_template=CHATML,
    )
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=len(tokenizer), num_attention_heads=2, **size, **ids)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    answer = tokenizer(ALWAYS_A + special[1])["input_ids"]
    for step in range(300):
        asked = create_judge_prompt(*QUESTIONS[step % 4])
        start = tokenizer.apply_chat_template(
            [{"role": "user", "content": asked}],
            add_generation_prompt=True,
            return_dict=False,
        )
        labels = torch.tensor([[-100] * len(start) + answer])
        loss = model(torch.tensor([start + answer]), labels=labels).loss
        if loss < 0.01:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.01
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def serving(tmp_path_factory):
    """The address of `transformers serve`, without a model until one is asked for."""
    pytest.importorskip("fastapi", reason="needs transformers[serving]")
    pytest.importorskip("uvicorn", reason="needs transformers[serving]")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = Path(sys.executable).with_name("transformers")
    options = ("--device", "cpu", "--dtype", "float32")
    log = tmp_path_factory.mktemp("serve") / "log"
    with log.open("w") as out:
        server = subprocess.Popen(
            [command, "serve", "--host", "127.0.0.1", "--port", str(port), *options],
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            stdout=out,
            stderr=out,
        )
    try:
        wait_until_healthy(server, f"http://127.0.0.1:{port}/health", log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.kill()
        server.wait()


def wait_until_healthy(server, address, log, seconds=180):
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=5) as reply:
                assert json.load(reply) == {"status": "ok"}
                return
        except OSError:
            time.sleep(0.3)
    raise AssertionError(f"no server after {seconds} s:\n{log.read_text()[-2000:]}")


@pytest.mark.slow
def test_a_real_server_is_asked_and_its_verdicts_are_read(serving, always_a, tmp_path):
    judge = EndpointJudge(always_a, serving, max_tokens=40)
    prompts, first, second = map(list, zip(*QUESTIONS, strict=True))
    evaluator = DPOEvaluator(first, second, None, judge)
    once = evaluator.pairwise_evaluation(prompts, swap=False, workers=2)
    assert set(once.table["answers"].map(tuple)) == {(ALWAYS_A,)}
    assert once.counts["A"] == len(prompts)  # whatever stands first wins …
    twice = evaluator.pairwise_evaluation(prompts, path=tmp_path / "rows")
    assert twice.counts["tie"] == len(prompts)  # … and the swap unmasks it
    assert set(twice.table["answers"].map(tuple)) == {(ALWAYS_A,) * 2}


@pytest.mark.slow
def test_a_real_server_says_what_it_cannot_do(serving, always_a, tmp_path):
    """A cut reply is unparseable; a model that is not there fails the pair."""
    short = EndpointJudge(always_a, serving, max_tokens=2)
    found = DPOEvaluator([" a."], [" b."], None, short).pairwise_evaluation(["x"])
    assert found.counts["unparseable"] == 1
    assert all(ALWAYS_A.startswith(reply) for reply in found.table["answers"][0])
    absent = EndpointJudge(str(tmp_path / "none"), serving, max_retries=0)
    found = DPOEvaluator([" a."], [" b."], None, absent).pairwise_evaluation(["x"])
    assert found.counts["failed"] == 1
    assert f"none at {serving}: " in found.table["error"][0]


@pytest.mark.slow
def test_smollm2_behind_a_real_server(serving, tmp_path):
    """What it says is its own affair; none of it is lost, and none asked twice."""
    folder = build_dir() / "models" / "smollm2"
    if not folder.exists():
        pytest.skip("load_model('smollm2') was not called here")
    judge = EndpointJudge(str(folder), serving, max_tokens=40, max_retries=0)
    evaluator = DPOEvaluator([" delicious."], [" inedible."], None, judge)
    path, prompts = tmp_path / "rows", ["Restaurant review: The soup was"]
    found = evaluator.pairwise_evaluation(prompts, path=path)
    assert found.counts["failed"] == 0
    [answers], [verdicts] = found.table["answers"], found.table["verdicts"]
    assert len(answers) == 2
    assert all(answers)
    assert parse_verdict(answers[0]) == verdicts[0]
    evaluator.judge = EndpointJudge(str(folder), serving, max_tokens=40, max_retries=0)
    again = evaluator.pairwise_evaluation(prompts, path=path)
    assert again.table.equals(found.table)
