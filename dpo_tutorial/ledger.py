"""Rows of a file that is only ever added to: a cut run goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import Any


class Ledger:
    """Rows by key, kept in a file of JSON lines as they come.

    The first line holds `settings`, what the rows were made with; each other is a row
    with its `key`. A row counts once its line is whole and ends in a newline: what a
    killed process left of its last line is cut off when the file is opened again, and
    a line that cannot be written (a full disk) is taken back. Without a `path` the
    rows are kept in memory only.

    Raises ValueError for a file whose settings differ, that is not of this kind, or
    that holds a broken line before its last; the file is left as it is. One process at
    a time may hold a file: BlockingIOError for a second one.
    """

    def __init__(
        self, path: str | Path | None = None, settings: Mapping[str, Any] | None = None
    ) -> None:
        self.path = None if path is None else Path(path)
        self.settings = json.loads(json.dumps(dict(settings or {})))  # as read back
        self._rows: dict[str, dict[str, Any]] = {}
        self._file = None if self.path is None else self._open(self.path)

    def _open(self, path: Path) -> FileIO:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b", buffering=0)  # nothing is left over to write later
        try:
            _lock(file, path)
            whole = self._read(file)
            if whole < file.seek(0, os.SEEK_END):
                file.truncate(whole)
            if not whole:
                _write(file, _line({"settings": self.settings}))
        except BaseException:
            file.close()
            raise
        return file

    def _read(self, file: FileIO) -> int:
        """Take up the rows; returns the number of bytes of whole lines."""
        file.seek(0)
        *lines, cut = file.read().split(b"\n")  # what follows the last newline
        self._check_start(lines[0] if lines else cut, torn=not lines)
        for number, line in enumerate(lines[1:], 2):
            row = _parsed(line)
            if row is None or not isinstance(row.get("key"), str):
                raise ValueError(
                    f"{self.path}, line {number} is {line[:60]!r}, expected a row with "
                    "its key: mend or remove that line"
                )
            self._rows[row["key"]] = row
        return file.tell() - len(cut)

    def _check_start(self, line: bytes, torn: bool) -> None:
        """The first line is that of these settings, or the torn start of it."""
        if torn and _line({"settings": self.settings}).startswith(line):
            return
        row = _parsed(line)
        if torn or row is None or "settings" not in row:
            raise ValueError(
                f"{self.path} begins with {line[:60]!r}, expected the settings of a "
                "ledger: give another file, or remove this one"
            )
        if row["settings"] != self.settings:
            raise ValueError(
                f"{self.path} was made with {row['settings']}, expected "
                f"{self.settings}: give another file, or the settings it was begun with"
            )

    def add(
        self, key: str, row: Mapping[str, Any], *, again: bool = False
    ) -> dict[str, Any]:
        """Keep a row and return it as it reads; on disk when this returns.

        Raises ValueError for a key that is no text or not the row's own, for one that
        is there already, unless `again` (the new row then counts, and the old line
        stays in the file), and once the file is closed.
        """
        if not isinstance(key, str) or row.get("key", key) != key:
            raise ValueError(f"key {key!r} of {row}: expected a text, the row's own")
        if key in self._rows and not again:
            raise ValueError(f"{key!r} is there already: expected a new key")
        line = _line({"key": key, **row})
        if self._file is not None:
            _write(self._file, line)
        elif self.path is not None:
            raise ValueError(f"{self.path} is closed: open a new Ledger to add rows")
        self._rows[key] = json.loads(line)
        return self._rows[key]

    def get(self, key: str) -> dict[str, Any] | None:
        """The row of a key, or None."""
        return self._rows.get(key)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._rows.values())

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file; the rows stay readable."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _lock(file: FileIO, path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows has none: two processes there are not noticed
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BlockingIOError(
            f"{path} is held by another process or object: expected to be alone; wait "
            "for it, close it, or give another file"
        ) from None
    except OSError:  # a file system without locks, as some mounted drives are
        return


def _line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row).encode() + b"\n"


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _write(file: FileIO, line: bytes) -> None:
    """Add a whole line, or nothing."""
    size, left = file.seek(0, os.SEEK_END), memoryview(line)
    try:
        while left:
            left = left[file.write(left) :]
        os.fsync(file.fileno())
    except BaseException:
        file.truncate(size)
        raise
