"""Runs that earlier versions made: they are read, go on, and give what they gave."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from small_runs import go_on, last_of

from jaxrnn import sample
from jaxrnn.config import SineConfig
from jaxrnn.errors import InputError
from jaxrnn.runs import Run
from jaxrnn.tasks import TASKS
from jaxrnn.training import load_model

GOLDEN = Path(__file__).parent / "golden" / "format_1"


def test_the_one_step_task_was_called_series(tmp_path):
    shutil.copytree(GOLDEN / "series", tmp_path / "series")
    run = Run.open(tmp_path / "series")
    assert (run.task, type(run.config)) == ("sine", SineConfig)
    before, metrics = last_of(run)[0], run.metrics()
    assert json.loads((run.path / "run.json").read_text())["format"] == 1
    assert [line["step"] for line in metrics] == [1, 2, 3]
    run, outcome = go_on(run, SineConfig(**{**vars(run.config), "steps": 6}))
    assert (outcome.reason, outcome.step) == ("done", 6)
    assert [line["step"] for line in run.metrics()] == [1, 2, 3, 4, 5, 6]
    assert run.metrics()[:3] == metrics
    np.testing.assert_allclose([line["loss"] for line in run.metrics()[3:]], LOSSES, rtol=1e-5)
    assert before.keys() == last_of(run)[0].keys()
    assert Run.open(run.path).config == run.config  # whose task has its new name by now
    assert (run.path / "config.toml").read_text().startswith('task = "sine"\n')


LOSSES = [1.08045614, 0.29346597, 1.02250612]  # of the version that made the run, going on with it


@pytest.mark.usefixtures("as_users_have_it")
def test_a_text_is_still_sampled(capsys):
    run = GOLDEN / "char"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    argv = [str(run), "--length", "30", "--seed", "3", "--prime", "a"]
    assert sample.run_command(argv) == 0
    assert capsys.readouterr().out == SAMPLE
    task = TASKS["char"].from_facts(Run.open(run).config, Run.open(run).facts)
    _, params, meta = load_model(task, Run.open(run))
    assert (meta["step"], meta["name"]) == (3, "best")
    assert params["embedding.weight"].shape == (task.vocabulary.size, 2)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


SAMPLE = "a #?>zG5Nz:4)T2;.FG:H~PG_(,YwEO\n"


def test_a_format_to_come_is_refused(tmp_path):
    shutil.copytree(GOLDEN / "char", tmp_path / "char")
    content = json.loads((tmp_path / "char" / "run.json").read_text())
    (tmp_path / "char" / "run.json").write_text(json.dumps(content | {"format": 3}))
    with pytest.raises(InputError, match="has run format 3, this version reads up to 2"):
        Run.open(tmp_path / "char")
