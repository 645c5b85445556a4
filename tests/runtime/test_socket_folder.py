"""Sockets can be opened with a temporary folder of any name, and two temporary folders have different socket
folders."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.socket_folder import MOST_SOCKET_PATH_BYTES, is_socket_folder, new_socket_folder, socket_folders
from tests.support.council_command import council
from tests.support.running_council import Up

# The longest name of a temporary folder in /tmp with which the socket of the folder "7" fits.
_FITS = MOST_SOCKET_PATH_BYTES - len("/tmp/" + "/council-7-xxxxxxxx/redis.sock")


@contextlib.contextmanager
def temporary_folder(length: int) -> Iterator[Path]:
    """TMPDIR for this process: a folder in /tmp with a name of so many bytes. The folder itself is new."""
    before, path = tempfile.tempdir, Path("/tmp", "d" * length)
    path.mkdir()
    tempfile.tempdir = str(path)
    try:
        yield path
    finally:
        tempfile.tempdir = before
        shutil.rmtree(path)


@given(st.integers(1, 200) | st.sampled_from((_FITS - 1, _FITS, _FITS + 1)))
def test_a_socket_opens_in_a_folder_of_any_length(length: int) -> None:
    """In the temporary folder if its path is not too long there."""
    with temporary_folder(length) as temporary, socket.socket(socket.AF_UNIX) as tried:
        folder = new_socket_folder("7")
        try:
            tried.bind(str(folder / "redis.sock"))
            assert (folder.parent == temporary) is (length <= _FITS)
            assert socket_folders("7") == [folder]
            assert is_socket_folder(folder, "7")
        finally:
            shutil.rmtree(folder)


def test_two_long_temporary_folders_have_different_socket_folders_in_tmp() -> None:
    with temporary_folder(150):
        one = new_socket_folder("7")
    try:
        for length in (151, 20):
            with temporary_folder(length):
                assert socket_folders("7") == []
                assert not is_socket_folder(one, "7")
    finally:
        shutil.rmtree(one)


def test_folders_that_others_may_open_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    own, others = new_socket_folder("7"), new_socket_folder("7")
    try:
        others.chmod(0o755)
        assert socket_folders("7") == [own]
    finally:
        shutil.rmtree(own)
        shutil.rmtree(others)


def test_a_council_with_a_long_temporary_folder_is_found_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a short one: `ask` finds the council of `up`, else it starts its own; neither leaves a folder in /tmp."""
    long, name = tmp_path / ("d" * 100), str(os.getuid())
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    with contextlib.closing(Up(long)):
        (folder,) = socket_folders(name)
        assert folder.parent == Path("/tmp")
        outcome = council("ask", "hi", "--max-tokens", "3", "--json", TMPDIR=str(long))
        assert outcome.code == 0, outcome.said
        assert outcome.lines[-1]["session"] in council("sessions", TMPDIR=str(long)).out
    assert socket_folders(name) == []
    alone = council("ask", "hi", "--models", "ngram:char-6", "--max-tokens", "3", TMPDIR=str(long))
    assert alone.code == 0, alone.said
    assert socket_folders(name) == []
