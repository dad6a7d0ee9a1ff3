"""Directories that appear as a whole or not at all, and never in the place of others."""

import os
from pathlib import Path

import pytest
from exports import export, listing, series_run

from jaxrnn.errors import InputError
from torch_compat import export_run, output


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    return series_run(tmp_path_factory.mktemp("sine") / "run")


def test_a_failing_disk_is_one_line_and_leaves_nothing(series, tmp_path, capsys, monkeypatch):
    def full(path, data):
        path.write_bytes(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export_run, "write_atomically", full)
    out = tmp_path / "deep" / "out"
    assert export(series, "--to", out) == 2
    assert (
        capsys.readouterr().err == f"error: --to {out} can't be written: No space left on device\n"
    )
    assert listing(tmp_path) == []


def test_a_link_to_nowhere_is_a_name_that_is_taken(series, tmp_path, capsys):
    (tmp_path / "link").symlink_to(tmp_path / "none")
    assert export(series, "--to", tmp_path / "link") == 2
    assert "exists already" in capsys.readouterr().err
    assert listing(tmp_path) == ["link"]


def test_what_appears_meanwhile_is_not_replaced(tmp_path):
    with (  # noqa: PT012
        pytest.raises(InputError, match="exists already"),
        output.appearing(tmp_path / "out", False, lambda path: []) as temporary,
    ):
        (temporary / "a").write_text("new")
        (tmp_path / "out").mkdir()
    assert listing(tmp_path) == ["out"]


@pytest.mark.parametrize("fails_at", [1, 2])
def test_the_old_one_is_there_until_the_new_one_is(fails_at, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").write_text("old")
    renames = []

    def rename(path, target, rename=Path.rename):
        renames.append(target)
        if len(renames) == fails_at:
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    with (
        pytest.raises(InputError, match="Input/output error"),
        output.appearing(tmp_path / "out", True, lambda path: []) as temporary,
    ):
        (temporary / "a").write_text("new")
    assert (tmp_path / "out" / "a").read_text() == "old"
    assert listing(tmp_path) == ["out", "out/a"]


def test_a_path_through_a_link_is_the_one_that_was_checked(series, tmp_path):
    (tmp_path / "other" / "real").mkdir(parents=True)
    (tmp_path / "exp").mkdir()
    (tmp_path / "exp" / "thesis.txt").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "other" / "real")
    assert export(series, "--to", tmp_path / "link" / ".." / "exp") == 0  # other/exp
    assert listing(tmp_path / "exp") == ["thesis.txt"]
    assert "model.safetensors" in listing(tmp_path / "other" / "exp")


def test_what_others_have_left_beside_it_stays(tmp_path):
    for word in ("old", "tmp"):
        (tmp_path / f".out.{os.getpid()}.{word}").mkdir()
    left = listing(tmp_path)
    with output.appearing(tmp_path / "out", False, lambda path: []) as temporary:
        (temporary / "a").write_text("new")
    assert listing(tmp_path) == [*left, "out", "out/a"]


def test_a_disk_that_fails_after_the_rename_is_said(tmp_path, monkeypatch):
    def fails(path):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(output.files, "sync", fails)
    with (
        pytest.raises(InputError, match="was written, but may not outlive a power loss"),
        output.appearing(tmp_path / "out", False, lambda path: []) as temporary,
    ):
        (temporary / "a").write_text("new")
    assert listing(tmp_path) == ["out", "out/a"]


def test_the_rename_is_made_to_last(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(output.files, "sync", synced.append)
    with output.appearing(tmp_path / "out", False, lambda path: []):
        assert synced == []
    assert synced == [tmp_path]


def test_where_no_directory_can_be_made_is_one_line(series, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert export(series, "--to", tmp_path / "file" / "out") == 2
    printed = capsys.readouterr().err
    assert printed == f"error: --to {tmp_path / 'file' / 'out'} can't be written: Not a directory\n"
