import os

import pytest
from run_cases import new_run, tree

from jaxrnn import files
from jaxrnn.runs import Run


@pytest.fixture
def run(tmp_path) -> Run:
    return new_run(tmp_path / "a")


def test_metrics_come_back_line_by_line(run):
    assert run.metrics() == []
    lines = [
        {"step": 1, "loss": 0.1 + 0.2, "sample": "a\n\u2028\x85\r\x00ü😀\ufffd"},
        {"step": 2, "loss": 1e-300},
    ]
    for line in lines:
        run.append_metrics(line)
    assert run.metrics() == lines
    assert (run.path / "metrics.jsonl").read_bytes().count(b"\n") == 2


def test_metrics_cut_short_anywhere_give_the_whole_lines(run):
    lines = [{"step": step, "sample": "ü€"} for step in (1, 2, 3)]
    for line in lines:
        run.append_metrics(line)
    path = run.path / "metrics.jsonl"
    content = path.read_bytes()
    for size in range(len(content) + 1):
        path.write_bytes(content[:size])
        assert run.metrics() == lines[: content[:size].count(b"\n")], size
    path.write_bytes(content[:-5])
    run.cut_metrics(3)
    run.append_metrics({"step": 3})
    assert [line["step"] for line in run.metrics()] == [1, 2, 3]


def test_metrics_after_a_step_are_dropped(run):
    for step in (2, 4, 6):
        run.append_metrics({"step": step, "sample": "ü"})
    before = (run.path / "metrics.jsonl").read_bytes()
    run.cut_metrics(6)
    assert (run.path / "metrics.jsonl").read_bytes() == before
    run.cut_metrics(5)
    assert (run.path / "metrics.jsonl").read_bytes() == before[: 2 * len(before) // 3]
    run.cut_metrics(0)
    assert run.metrics() == []


@pytest.mark.parametrize(
    "lost", [b"\0" * 30 + b"\n", b"{}\n", b"7\n", b'{"step": "4"}\n', b'{"step": 3, "lo\n']
)
def test_what_a_power_loss_left_of_the_metrics_is_left_out(run, lost):
    for step in (1, 2):
        run.append_metrics({"step": step})
    path = run.path / "metrics.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + lost)
    assert run.metrics() == [{"step": 1}, {"step": 2}]
    assert run.cut_metrics(2) == ""
    path.write_bytes(whole + lost + b'{"step": 9}\n')
    assert run.cut_metrics(2) == f"{path} had 1 lines that were damaged; they are gone"
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "damaged",
    [b'{"step": 2, "loss": "abc"}', b'{"step": 2, "loss": [1]}', b'{"step": 2, "\xff": null}',
     b'{"step": 1}', b"[" * 100_000, b'{"step": 2, "sample": 3}', b'{"step": true}',
     b'{"step": 2, "sample": "\\ud800"}', b'{"step": 2, "loss": 1%s}' % (b"0" * 400)],
)  # fmt: skip
def test_a_damaged_line_of_metrics_takes_no_other_with_it(run, damaged):
    for step in (1, 2, 3, 4):
        run.append_metrics({"step": step, "loss": step / 2, "sample": "x"})
    path = run.path / "metrics.jsonl"
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], damaged, *lines[2:]]))
    assert [line["step"] for line in run.metrics()] == [1, 3, 4]
    assert "had 1 lines" in run.cut_metrics(3)
    assert path.read_bytes() == lines[0] + b"\n" + lines[2] + b"\n"


def test_the_metrics_outlive_what_the_checkpoint_after_them_outlives(run, monkeypatch):
    order, sync, replace = [], files.sync, os.replace

    def watched_sync(path):
        order.append(f"sync {path.name}")
        sync(path)

    def watched_replace(source, target):
        order.append(f"replace {target.name}")
        replace(source, target)

    monkeypatch.setattr(files, "sync", watched_sync)
    monkeypatch.setattr(os, "replace", watched_replace)
    run.save(tree(1.0), {"step": 0}, best=True)
    run.append_metrics({"step": 1})
    first = ["replace best.safetensors", "sync checkpoints"]
    last = ["replace last.safetensors", "sync checkpoints"]
    assert order == [*first, *last]
    order.clear()
    run.save(tree(2.0), {"step": 0}, best=True)
    assert order == ["sync metrics.jsonl", *first, "replace previous.safetensors", *last]
