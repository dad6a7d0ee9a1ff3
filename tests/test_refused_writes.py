"""Training where the system refuses to write: one line, and nothing but whole files is left."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from crashes import environment

LIMITED = """
import resource, sys
from jaxrnn import train
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)),) * 2)
sys.exit(train.main())
"""


def trained(folder: Path, limit: int = resource.RLIM_INFINITY) -> tuple[int, str]:
    """Exit code and standard error of a run in a folder, whose files may be so large."""
    argv = ["sine", "--cell", "rnn", "--hidden-size", "9", "--steps", "2", "--mesh", "data=1"]
    ended = subprocess.run(
        [sys.executable, "-c", LIMITED, str(limit), *argv, "--run", str(folder / "a")],
        env=environment() | {"JAX_ENABLE_COMPILATION_CACHE": "false"},  # it is written, too
        capture_output=True,
        text=True,
        timeout=120,
    )
    return ended.returncode, ended.stderr


@pytest.mark.parametrize(("limit", "code"), [(20, 2), (3000, 1)])
def test_a_limit_of_a_files_size_is_said(tmp_path, limit, code):
    (tmp_path / "runs").mkdir()
    found = trained(tmp_path / "runs", limit)
    run = tmp_path / "runs" / "a"
    what = f"the run directory {run}" if code == 2 else str(run)
    assert found == (code, f"error: can't write {what}: File too large\n")
    left = sorted(path.name for path in run.rglob("*") if path.is_file())
    assert left == ([] if code == 2 else ["config.toml", "metrics.jsonl", "run.json"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_is_read_only_is_said(tmp_path):
    (tmp_path / "runs").mkdir(mode=0o500)
    run = tmp_path / "runs" / "a"
    assert trained(tmp_path / "runs") == (
        2,
        f"error: can't write the run directory {run}: Permission denied\n",
    )
    assert list((tmp_path / "runs").iterdir()) == []
