import shutil

import numpy as np
import pytest
from refusals import message
from run_cases import new_run, tree, value_of

from jaxrnn import checkpoint
from jaxrnn.errors import InputError
from jaxrnn.runs import Run


@pytest.fixture
def run(tmp_path) -> Run:
    return new_run(tmp_path / "a")


def test_last_previous_and_best(run):
    assert run.load(tree(0)) is None
    for value, best in ((1.0, True), (2.0, True), (3.0, False)):
        run.save(tree(value), {"step": int(value)}, best=best)
    loaded = run.load(tree(0))
    assert loaded is not None
    meta = {"step": 3, "run": run.about["id"]}
    assert (value_of(loaded), loaded[1], loaded[2]) == (3.0, meta, "")
    for name, value in (("last", 3.0), ("previous", 2.0), ("best", 2.0)):
        got = checkpoint.load(run.checkpoint_path(name), tree(0))
        assert (value_of(got), got[1]["step"]) == (value, value)


def test_parts_are_of_the_best_or_the_last_where_none_is_better(run):
    assert "has no checkpoint 'last.safetensors' yet" in message(
        run.load_part, "params", tree(0)["params"]
    )
    run.save(tree(1.0), {"step": 0})
    assert run.load_part("params", tree(0)["params"])[0]["w"][0, 0] == 1
    assert "has no checkpoint 'best.safetensors' yet" in message(
        run.load_part, "params", tree(0)["params"], "best"
    )
    run.save(tree(2.0), {"step": 0}, best=True)
    run.save(tree(3.0), {"step": 0})
    assert run.load_part("params", tree(0)["params"])[0]["w"][0, 0] == 2
    assert run.load_part("params", tree(0)["params"], "last")[0]["w"][0, 0] == 3
    np.testing.assert_array_equal(run.load_part("carry", tree(0)["carry"], "last")[0], [-3, -3])


def test_a_last_checkpoint_cut_short_gives_the_previous_and_says_so(run):
    run.save(tree(1.0), {"step": 1})
    run.save(tree(2.0), {"step": 2})
    last = run.checkpoint_path("last")
    last.write_bytes(last.read_bytes()[:-1])
    loaded = run.load(tree(0))
    assert loaded is not None
    assert (value_of(loaded), loaded[1]["step"]) == (1.0, 1)
    assert loaded[2].startswith(f"{last} is not a whole checkpoint (")


def test_where_last_and_previous_are_gone_the_best_is_gone_on_from(run):
    for value, best in ((1.0, True), (2.0, False), (3.0, False)):
        run.save(tree(value), {"step": int(value)}, best=best)
    last, previous = run.checkpoint_path("last"), run.checkpoint_path("previous")
    last.unlink()
    loaded = run.load(tree(0))
    assert (value_of(loaded), loaded and loaded[2]) == (2.0, f"{last} is missing")
    previous.write_bytes(b"cut")
    loaded = run.load(tree(0))
    assert value_of(loaded) == 1.0
    assert loaded is not None
    assert loaded[2].startswith(f"{last} is missing; {previous} is not a whole checkpoint")


def test_checkpoints_of_another_run_are_refused(run, tmp_path):
    run.save(tree(1.0), {"step": 1}, best=True)
    other = new_run(tmp_path / "b")
    shutil.rmtree(other.path / "checkpoints")
    shutil.copytree(run.path / "checkpoints", other.path / "checkpoints")
    expected = f"was made by another run than {other.path / 'run.json'}; put this run's own"
    assert message(other.load, tree(0)).count(expected) == 2
    assert expected in message(other.load_part, "params", tree(0)["params"])
    copy = tmp_path / "copy"
    shutil.copytree(run.path, copy)
    assert value_of(Run.open(copy).load(tree(0))) == 1


def test_a_damaged_best_is_set_aside(run):
    assert run.without_damaged_best() == ""
    run.save(tree(1.0), {"step": 1}, best=True)
    best = run.checkpoint_path("best")
    assert run.without_damaged_best() == ""
    content = bytearray(best.read_bytes())
    content[-1] ^= 1
    best.write_bytes(content)
    assert "best.safetensors is damaged: its content does not" in run.without_damaged_best()
    assert not best.exists()
    assert run.checkpoint_path("damaged-best").read_bytes() == content


def test_a_best_that_is_missing_is_said_where_there_should_be_one(run):
    assert run.without_damaged_best(3) == f"{run.checkpoint_path('best')} is missing"
    run.save(tree(1.0), {"step": 3}, best=True)
    assert run.without_damaged_best(3) == ""


@pytest.mark.parametrize("step", [None, -1, 1.0, True, "1", 2**31])
def test_a_checkpoint_without_its_step_gives_the_previous(run, step):
    run.save(tree(1.0), {"step": 1})
    run.save(tree(2.0), {} if step is None else {"step": step})
    last = run.checkpoint_path("last")
    said = f"{last} has the step {step!r}, expected a whole number; put another copy of the file"
    assert message(run.load_part, "params", tree(0)["params"]).startswith(said)
    loaded = run.load(tree(0))
    assert value_of(loaded) == 1.0
    assert loaded[2].startswith(said)


def test_a_checkpoint_whose_meta_a_reader_refuses_gives_the_previous(run):
    def check(path, meta):
        if meta["step"] == 2:
            raise InputError(f"{path} is of step 2")

    run.save(tree(1.0), {"step": 1})
    run.save(tree(2.0), {"step": 2})
    last = run.checkpoint_path("last")
    loaded = run.load(tree(0), check)
    assert (value_of(loaded), loaded[2]) == (1.0, f"{last} is of step 2")
    assert run.checkpoint_path("damaged").exists()


def test_without_a_whole_checkpoint_each_is_named(run):
    run.save(tree(1.0), {"step": 0})
    run.save(tree(2.0), {"step": 0})
    for name in ("last", "previous"):
        run.checkpoint_path(name).write_bytes(b"")
    text = message(run.load, tree(0))
    assert str(run.checkpoint_path("last")) in text
    assert str(run.checkpoint_path("previous")) in text


def fail(*_):
    raise KeyboardInterrupt


def test_a_kill_between_the_rename_and_the_save_loses_nothing(run, monkeypatch):
    run.save(tree(1.0), {"step": 0}, best=False)
    monkeypatch.setattr(checkpoint, "save", fail)
    with pytest.raises(KeyboardInterrupt):
        run.save(tree(2.0), {"step": 0})
    assert value_of(run.load(tree(0))) == 1
    assert run.load_part("params", tree(0)["params"])[0]["w"][0, 0] == 1  # what sample does


def test_a_damaged_last_never_takes_the_place_of_a_whole_previous(run, monkeypatch):
    run.save(tree(1.0), {"step": 0})
    run.save(tree(2.0), {"step": 0})
    run.checkpoint_path("last").write_bytes(b"cut short")
    assert value_of(run.load(tree(0))) == 1
    monkeypatch.setattr(checkpoint, "save", fail)
    with pytest.raises(KeyboardInterrupt):
        run.save(tree(3.0), {"step": 0})
    assert value_of(run.load(tree(0))) == 1


def test_a_linked_checkpoint_leaves_the_one_before_it(run, tmp_path):
    run.save(tree(1.0), {"step": 0})
    last = run.checkpoint_path("last")
    last.rename(tmp_path / "elsewhere")
    last.symlink_to(tmp_path / "elsewhere")
    run.save(tree(2.0), {"step": 0})
    (tmp_path / "elsewhere").write_bytes(b"damaged")
    assert value_of(run.load(tree(0.0))) == 1.0
