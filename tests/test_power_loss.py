import shutil
from pathlib import Path

import numpy as np
from power_loss import Recorder, aftermaths, lay_out

from jaxrnn.config import CharConfig
from jaxrnn.errors import InputError
from jaxrnn.runs import Run

FACTS = {"vocabulary": {"kind": "characters", "symbols": "ab"}, "digest": "00"}


def tree(step: int) -> dict:
    return {"params": {"w": np.full((2, 3), step, np.float32)}, "carry": np.full(2, -float(step))}


def test_after_a_power_loss_at_any_moment_the_last_checkpoint_that_was_saved_is_there(tmp_path):
    disk, scratch = tmp_path / "disk", tmp_path / "scratch"
    disk.mkdir()
    saved = {}  # by the number of moments before: the step whose checkpoint counts by then
    with Recorder(disk) as recorder:
        run = Run.create("char", CharConfig(run=str(disk / "runs" / "a")), FACTS)
        saved[len(recorder.moments)] = 0
        run.write_config(run.config)
        run.cut_metrics(0)
        for step in range(1, 10):
            run.append_metrics({"step": step})
            if step % 3 == 0:
                run.save(tree(step), {"step": step}, best=step != 6)
                saved[len(recorder.moments)] = step
        again = Run.open(disk / "runs" / "a")
        again.write_config(run.config)
        again.cut_metrics(9)
        again.append_metrics({"step": 10})
        again.save(tree(10), {"step": 10})
        saved[len(recorder.moments)] = 10
    states = list(aftermaths(recorder.moments))
    assert len(states) > 100
    for now, what, files in states:
        least = max((step for moment, step in saved.items() if moment <= now), default=None)
        lay_out(files, scratch)
        check(what, scratch / "runs" / "a", least)
        shutil.rmtree(scratch)


def check(what: str, path: Path, least: int | None) -> None:
    if not path.exists():
        assert least is None, what
        return
    run = Run.open(path)
    try:
        loaded = run.load(tree(0))
    except InputError as error:
        raise AssertionError(what) from error
    step = 0 if loaded is None else loaded[1]["step"]
    assert step >= (least or 0), what
    if loaded is not None:
        assert loaded[0]["params"]["w"][0, 0] == step, what
        # The best goes first: before the first last there may be it alone.
        assert loaded[2] in ("", f"{run.checkpoint_path('last')} is missing"), what
    if path.joinpath("metrics.jsonl").exists() or step:
        assert [line["step"] for line in run.metrics()][:step] == list(range(1, step + 1)), what
    run.cut_metrics(step)
    assert [line["step"] for line in run.metrics()] == list(range(1, step + 1)), what
    if run.checkpoint_path("best").exists():
        run.load_part("params", tree(0)["params"], "best")
