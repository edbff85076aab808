"""The file of rows: cut, killed, held twice, full disk, foreign files, bad rows."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from dpo_tutorial.ledger import Ledger

SETTINGS = {
    "judge": "gold",
    "swap": True,
    "shares": (0.5, 1),
}  # a tuple: a list in JSON


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new" / "rows.jsonl"


def fill(path, *keys, settings=SETTINGS):
    with Ledger(path, settings) as ledger:
        for key in keys:
            ledger.add(key, {"n": len(ledger), "text": "naïve\n"})


def test_rows_come_back_in_order_as_they_were(path):
    fill(path, "c", "a", "b")
    with Ledger(path, SETTINGS) as ledger:
        assert [row["key"] for row in ledger] == ["c", "a", "b"]
        assert ledger.get("a") == {"key": "a", "n": 1, "text": "naïve\n"}
        assert ledger.get("d") is None
        assert len(ledger) == 3


def test_what_add_returns_is_what_a_later_reader_gets(path):
    with Ledger(path) as ledger:
        now = ledger.add("a", {"pair": (1, 2)})
        assert now is ledger.get("a")
    with Ledger(path) as ledger:
        assert ledger.get("a") == now == {"key": "a", "pair": [1, 2]}


def test_a_row_is_on_disk_when_add_returns(path):
    ledger = Ledger(path)
    ledger.add("a", {"n": 1})
    last = path.read_bytes().splitlines(keepends=True)[-1]
    ledger.close()
    assert last == b'{"key": "a", "n": 1}\n'


def test_opening_again_writes_nothing(path):
    fill(path, "a", "b")
    before = path.read_bytes(), path.stat().st_mtime_ns
    fill(path)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_a_key_is_added_once_or_again_on_purpose(path):
    with Ledger(path) as ledger:
        ledger.add("a", {"n": 1})
        ledger.add("b", {"n": 2})
        with pytest.raises(ValueError, match="'a' is there already"):
            ledger.add("a", {"n": 3})
        ledger.add("a", {"n": 4}, again=True)
    with Ledger(path) as ledger:
        assert [(row["key"], row["n"]) for row in ledger] == [("a", 4), ("b", 2)]
    assert len(path.read_text().splitlines()) == 4  # the old line stays


@pytest.mark.parametrize(("key", "row"), [(1, {}), ("a", {"key": "b"}), (None, {})])
def test_a_key_is_a_text_and_the_rows_own(path, key, row):
    with Ledger(path) as ledger, pytest.raises(ValueError, match="expected a text"):
        ledger.add(key, row)
    assert len(path.read_text().splitlines()) == 1


def test_a_row_that_is_no_json_leaves_no_trace(path):
    with Ledger(path) as ledger:
        with pytest.raises(TypeError):
            ledger.add("a", {"n": object()})
        assert len(ledger) == 0
        ledger.add("a", {"n": 1})
    with Ledger(path) as ledger:
        assert len(ledger) == 1


def test_a_closed_ledger_reads_and_refuses_new_rows(path):
    ledger = Ledger(path)
    ledger.add("a", {})
    ledger.close()
    ledger.close()
    assert len(ledger) == 1
    with pytest.raises(ValueError, match="is closed"):
        ledger.add("b", {})
    assert len(ledger) == 1


def test_without_a_path_rows_are_kept_in_memory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Ledger() as ledger:
        ledger.add("a", {"n": (1,)})
        assert list(ledger) == [{"key": "a", "n": [1]}]
    assert list(tmp_path.iterdir()) == []


def test_a_torn_last_line_is_cut_off_wherever_it_was_torn(path):
    fill(path, "a", "b")
    whole = path.read_bytes()
    *_, last = whole.splitlines(keepends=True)
    for left in range(len(last)):
        path.write_bytes(whole[: len(whole) - len(last) + left])
        with Ledger(path, SETTINGS) as ledger:
            assert [row["key"] for row in ledger] == ["a"]
            ledger.add("b", json.loads(last))
        assert path.read_bytes() == whole


def test_a_torn_first_line_is_begun_again(path):
    fill(path)
    whole = path.read_bytes()
    for left in range(len(whole)):
        path.write_bytes(whole[:left])
        fill(path)
        assert path.read_bytes() == whole


ROW = b'{"key": "a", "n": 1}\n'


@pytest.mark.parametrize(
    "line",
    [
        b'{"key": "x", "n"\n',
        b'{"key": 1}\n',
        b'{"settings": {}}\n',
        b"[1]\n",
        b"{}\n",
        b"\n",
        b"\xff\n",
        b"[" * 9999 + b"\n",
    ],
)
def test_a_broken_line_is_an_error_that_says_where(path, line):
    fill(path)
    path.write_bytes(broken := path.read_bytes() + ROW + line + ROW.replace(b"a", b"b"))
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 3 .* expected a row"):
        Ledger(path, SETTINGS)
    assert path.read_bytes() == broken


@pytest.mark.parametrize(
    "text",
    [
        b"a diary without a newline",
        b"a diary\n",
        b"\x89PNG\x00\x01",
        ROW,
        ROW[:-1],
        b"[1]\n",
        b'{"settings": {}}',
        b'{"settings": {"judge": "silv',
    ],
)
def test_a_file_that_is_no_ledger_is_left_alone(path, text):
    path.parent.mkdir()
    path.write_bytes(text)
    with pytest.raises(ValueError, match="expected the settings of a ledger"):
        Ledger(path, SETTINGS)
    assert path.read_bytes() == text


@pytest.mark.parametrize("other", [None, {}, {**SETTINGS, "swap": False}, {"x": 1}])
def test_other_settings_are_refused_and_named(path, other):
    fill(path, "a")
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"was made with .*gold.*, expected"):
        Ledger(path, other)
    assert path.read_bytes() == before
    fill(path, "b")  # an error lets go of the file


def test_a_second_holder_is_turned_away(path):
    with Ledger(path, SETTINGS) as ledger:
        ledger.add("a", {})
        with pytest.raises(BlockingIOError, match="held by another"):
            Ledger(path, SETTINGS)
        code = f"from dpo_tutorial.ledger import Ledger; Ledger({str(path)!r})"
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )
        assert "BlockingIOError" in done.stderr
        ledger.add("b", {})
    with Ledger(path, SETTINGS) as ledger:
        assert len(ledger) == 2


FULL = """
import resource, sys
from dpo_tutorial.ledger import Ledger
ledger = Ledger(sys.argv[1])
ledger.add("a", {"n": 1})
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
size = ledger.path.stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, hard))  # room for 10 bytes more
for _ in range(2):
    try:
        ledger.add("b", {"n": 2})
    except OSError:
        print(ledger.path.stat().st_size - size, len(ledger))
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
ledger.add("b", {"n": 3})
ledger.close()
"""


def test_a_write_that_fails_half_way_loses_nothing_and_doubles_nothing(path):
    pytest.importorskip("resource")
    done = subprocess.run(
        [sys.executable, "-c", FULL, path], capture_output=True, text=True, check=True
    )
    assert done.stdout == "0 1\n0 1\n"  # the ten bytes that found room are taken back
    with Ledger(path) as ledger:
        assert [(row["key"], row["n"]) for row in ledger] == [("a", 1), ("b", 3)]
    assert len(path.read_text().splitlines()) == 3


WRITER = """
import sys
from dpo_tutorial.ledger import Ledger
with Ledger(sys.argv[1], {"seed": 0}) as ledger:
    print("open", flush=True)
    for i in range(int(sys.argv[2])):
        if ledger.get(str(i)) is None:
            ledger.add(str(i), {"square": i * i, "text": "x" * (i % 7000)})
"""


@pytest.mark.slow
def test_killed_twenty_times_no_row_is_lost_or_doubled(path):
    """SIGKILL at random moments of a process that writes; the last one may finish."""
    rng, total, grown, known = random.Random(0), 10**6, 0, []
    for _ in range(20):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, path, str(total)], stdout=subprocess.PIPE
        )
        process.stdout.readline()  # it has the file
        time.sleep(rng.uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        process.stdout.close()
        whole = path.read_bytes().split(b"\n")[1:-1]  # what follows them may be torn
        rows = [json.loads(line) for line in whole]
        assert rows[: len(known)] == known
        grown += len(rows) > len(known)
        known = rows
    assert grown >= 10  # it was killed while it wrote, not before
    total = len(known) + 5
    subprocess.run([sys.executable, "-c", WRITER, path, str(total)], check=True)
    rows = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    assert [row["key"] for row in rows] == [str(i) for i in range(total)]
    assert all(row["square"] == int(row["key"]) ** 2 for row in rows)


def test_a_file_system_without_locks_is_no_error(path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def refuses(*_):
        raise OSError(95, os.strerror(95))

    monkeypatch.setattr(fcntl, "flock", refuses)
    fill(path, "a")
    assert len(path.read_text().splitlines()) == 2
