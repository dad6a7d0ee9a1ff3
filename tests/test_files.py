import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from failing_disk import break_at

from jaxrnn import files


@pytest.fixture
def synced(monkeypatch) -> list[Path]:
    found = []
    monkeypatch.setattr(files, "sync", found.append)
    return found


@pytest.mark.parametrize("moment", ["write", "fsync", "replace"])
def test_a_failure_while_writing_leaves_nothing_beside(moment, tmp_path):
    with pytest.MonkeyPatch.context() as monkeypatch:
        break_at(moment, monkeypatch)
        with pytest.raises(OSError, match=r"No space left|Input/output error"):
            files.write_atomically(tmp_path / "a.json", b"x" * 1000)
    assert os.listdir(tmp_path) == []


def test_a_part_that_a_kill_left_behind_is_written_over(tmp_path):
    (tmp_path / ".a.json.tmp").write_bytes(b"y" * 5000)
    files.write_atomically(tmp_path / "a.json", b"x" * 10)
    assert os.listdir(tmp_path) == ["a.json"]
    assert (tmp_path / "a.json").read_bytes() == b"x" * 10


def test_written_then_synced_then_renamed_then_the_directory_synced(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_bytes(b"old")
    events, fsync, replace = [], os.fsync, os.replace

    def watched_fsync(descriptor):
        status = os.fstat(descriptor)
        kind = "directory" if stat.S_ISDIR(status.st_mode) else f"{status.st_size} bytes"
        events.append(f"fsync {kind}, {path.read_bytes().decode()} is there")
        fsync(descriptor)

    def watched_replace(source, target):
        events.append(f"replace {Path(source).read_bytes().decode()}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    files.write_atomically(path, b"newer")
    assert events == [
        "fsync 5 bytes, old is there",
        "replace newer",
        "fsync directory, newer is there",
    ]


def test_a_link_stays_and_what_it_names_is_written(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "a.json").symlink_to(tmp_path / "there" / "b.json")
    files.write_atomically(tmp_path / "a.json", b"new")
    assert (tmp_path / "a.json").is_symlink()
    assert (tmp_path / "there" / "b.json").read_bytes() == b"new"
    assert files.is_same(tmp_path / "a.json", tmp_path / "there" / ".." / "there" / "b.json")
    assert not files.is_same(tmp_path / "a.json", tmp_path / "b.json")


def test_what_can_be_made_again_is_not_synced(tmp_path, synced, monkeypatch):
    monkeypatch.setattr(os, "fsync", pytest.fail)
    files.write_atomically(tmp_path / "a.png", b"new", durably=False)
    assert (tmp_path / "a.png").read_bytes() == b"new"
    assert synced == []


def listing(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def test_directories_are_made_from_the_top_and_made_to_last(tmp_path, synced):
    files.make_directory(tmp_path / "a" / "b" / "c")
    assert listing(tmp_path) == ["a", "a/b", "a/b/c"]
    assert synced == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]
    files.make_directory(tmp_path / "a" / "b" / "c")
    assert len(synced) == 3


@pytest.mark.parametrize("name", ["/", "a", ""])
def test_a_directory_is_not_written_over(name, tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    monkeypatch.setattr(files, "open", pytest.fail, raising=False)
    with pytest.raises(IsADirectoryError) as caught:
        files.write_atomically(tmp_path / name if name == "a" else Path(name), b"x")
    named = {"/": "/", "a": str(tmp_path / "a"), "": str(tmp_path / "a")}[name]
    assert str(caught.value) == f"[Errno 21] Is a directory: '{named}'"
    assert listing(tmp_path) == ["a"]


def test_a_new_directory_is_never_the_root():
    with pytest.raises(IsADirectoryError, match="Is a directory: '/'"):
        files.new_directory(Path("/")).__enter__()


def test_a_new_directory_is_made_where_a_link_names_it(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "a").symlink_to(tmp_path / "there")
    with files.new_directory(tmp_path / "a") as temporary:
        (temporary / "x").write_text("1")
    assert listing(tmp_path) == ["a", "there", "there/x"]
    assert (tmp_path / "a").is_symlink()


@pytest.mark.parametrize("is_there", [False, True])
def test_a_new_directory_appears_whole(is_there, tmp_path, synced):
    path = tmp_path / "deep" / "a"
    if is_there:
        path.mkdir(parents=True)
    with files.new_directory(path) as temporary:
        assert temporary.name.startswith(".a.tmp-")
        (temporary / "x").write_text("1")
        assert listing(path.parent) == [
            *([temporary.name, f"{temporary.name}/x"]),
            *(["a"] if is_there else []),
        ]
    assert listing(tmp_path) == ["deep", "deep/a", "deep/a/x"]
    assert synced[-1] == path.parent


def test_what_a_kill_left_is_in_no_directorys_way(tmp_path):
    names = set()
    for _ in range(3):
        with files.new_directory(tmp_path / "a") as temporary:
            names.add(temporary.name)
        (tmp_path / "a").rename(tmp_path / temporary.name)  # as if it had been left
    assert len(names) == 3


def test_a_new_directory_that_fails_leaves_nothing(tmp_path):
    def fails():
        with files.new_directory(tmp_path / "a") as temporary:
            (temporary / "x").write_text("1")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fails()
    assert listing(tmp_path) == []


def test_a_new_directory_never_takes_the_place_of_one_that_holds_something(tmp_path):
    def too_late():
        with files.new_directory(tmp_path / "a") as temporary:
            (temporary / "x").write_text("1")
            (tmp_path / "a").mkdir()
            (tmp_path / "a" / "thesis").write_text("years")

    with pytest.raises(OSError, match="not empty"):
        too_late()
    assert listing(tmp_path) == ["a", "a/thesis"]


def test_of_several_files_none_is_replaced_before_all_can_be(tmp_path):
    (tmp_path / "a").write_text("old")
    missing = tmp_path / "missing" / "b"
    with pytest.raises(FileNotFoundError) as raised:
        files.write_together({tmp_path / "a": b"new", missing: b"new"})
    assert raised.value.filename == str(missing)  # not that of the temporary file
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "old"
    files.write_together({tmp_path / "a": b"1", tmp_path / "b": b"2"})
    assert sorted((p.name, p.read_text()) for p in tmp_path.iterdir()) == [("a", "1"), ("b", "2")]


def test_a_pipe_is_written_to_and_stays(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        for name in ("pipe", "link"):
            files.write_atomically(tmp_path / name, b"abc")
            assert os.read(reader, 100) == b"abc"
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode)
    assert sorted(os.listdir(tmp_path)) == ["link", "pipe"]


def test_standard_output_is_written_to_also_where_it_is_a_file(tmp_path):
    code = (
        "from pathlib import Path; from jaxrnn import files; print('a', flush=True); "
        "files.write_atomically(Path('/dev/stdout'), b'b\\n'); print('c')"
    )
    with open(tmp_path / "out", "ab") as out:
        subprocess.run([sys.executable, "-c", code], stdout=out, check=True)
    assert (tmp_path / "out").read_text() == "a\nb\nc\n"
    assert os.listdir(tmp_path) == ["out"]


def test_no_more_is_read_than_may_be(tmp_path):
    (tmp_path / "a").write_bytes(b"\xff\r\nb")
    assert files.read_text(tmp_path / "a", 4, errors="replace") == "\ufffd\nb"
    with pytest.raises(OSError, match="File too large"):
        files.read_text(tmp_path / "a", 3)
    with pytest.raises(OSError, match="File too large"):
        files.read_text(Path("/dev/zero"), 1000)
