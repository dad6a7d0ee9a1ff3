"""Whole training runs of every task as processes, and what they leave behind."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import jaxrnn
from jaxrnn import checkpoint
from jaxrnn.runs import VOLATILE

TEXT = "the cat sat on the mat; a dog ate the hat. Ünï© 猫 " * 9
CHAR = (
    *("char", "--data", "text.txt", "--cell", "lstm", "--hidden-size", "6", "--num-layers", "2"),
    *("--embedding-size", "4", "--dropout", "0.3", "--batch-size", "3", "--seq-len", "5"),
    *("--steps", "20", "--schedule", "cosine", "--warmup-steps", "4", "--lr", "0.03"),
    *("--weight-decay", "0.01", "--optimizer", "adamw", "--log-every", "1"),
    *("--eval-every", "6", "--checkpoint-every", "10", "--preview-length", "12"),
)
SINE = (
    *("sine", "--data", "series.csv", "--target", "value", "--cell", "gru"),
    *("--hidden-size", "5", "--num-layers", "2"),
    *("--dropout", "0.2", "--batch-size", "2", "--seq-len", "4", "--steps", "15", "--clip", "0.3"),
    *("--schedule", "cosine", "--warmup-steps", "3", "--optimizer", "sgd", "--log-every", "2"),
    *("--eval-every", "9", "--checkpoint-every", "5"),
)
SERIES = (
    *("series", "--data", "series.csv", "--targets", "value", "--head", "recursive"),
    *("--distribution", "student_t", "--input-len", "8", "--horizon", "3", "--hidden-size", "5"),
    *("--steps", "12", "--batch-size", "4", "--dropout", "0.3", "--log-every", "1"),
    *("--eval-every", "5", "--checkpoint-every", "3", "--num-samples", "5"),
)
SKETCH = (
    *("sketch", "--data", "cats.ndjson", "--hidden-size", "6", "--encoder-size", "4"),
    *("--latent-size", "3", "--num-mixtures", "2", "--batch-size", "4", "--num-buckets", "2"),
    *("--steps", "12", "--log-every", "1", "--eval-every", "5", "--checkpoint-every", "3"),
    *("--preview-count", "2", "--mesh", "data=1"),
)
TASKS = {"char": CHAR, "series": SERIES, "sine": SINE, "sketch": SKETCH}


def write_data(folder: Path) -> None:
    """A file for each of the tasks."""
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    values = [f"{k},{(k * 7) % 13 + k / 10}" for k in range(90)]
    (folder / "series.csv").write_text("time,value\n" + "\n".join(values))
    rng = np.random.default_rng(3)
    lines = []
    for _ in range(40):
        strokes = [rng.integers(0, 255, (2, int(rng.integers(2, 6)))).tolist() for _ in range(2)]
        lines.append(json.dumps({"word": "cat", "drawing": strokes}))
    (folder / "cats.ndjson").write_text("\n".join(lines))


def environment() -> dict[str, str]:
    paths = [str(Path(jaxrnn.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "JAX_PLATFORMS": "cpu"}


NAMED = {"config.toml", "run.json", "loss.png"}  # files that hold the run's name


class Ended(NamedTuple):
    code: int
    stdout: str
    stderr: str
    events: list[str]


def work(folder: Path, argv: tuple[str, ...], **plan: Any) -> Ended:
    """A process of ``crash_worker``."""
    log = folder / "events.log"
    log.unlink(missing_ok=True)
    plan = {"argv": list(argv), "root": str(folder), "log": str(log), **plan}
    worker = Path(__file__).with_name("crash_worker.py")
    ended = subprocess.run(
        [sys.executable, str(worker), json.dumps(plan)],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    events = log.read_text().splitlines() if log.exists() else []
    return Ended(ended.returncode, ended.stdout, ended.stderr, events)


def state_of(run: Path, name: str):
    """All of a checkpoint, bit for bit, but for the time and the run's name for itself."""
    arrays, meta = checkpoint.read(run / "checkpoints" / f"{name}.safetensors")
    meta["progress"].pop("time_s")
    meta.pop("run")
    bits = {k: (a.dtype, a.shape, a.tobytes()) for k, a in arrays.items()}
    return bits, meta


def lines_of(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in VOLATILE} for line in lines]


def saved_step(run: Path) -> int:
    return checkpoint.read(run / "checkpoints" / "last.safetensors")[1]["step"]


def check_same(whole: Path, cut: Path, num_steps: int) -> None:
    for name in ("last", "best"):
        bits, meta = state_of(cut, name)
        expected_bits, expected_meta = state_of(whole, name)
        assert bits.keys() == expected_bits.keys()
        for key, value in expected_bits.items():
            assert bits[key] == value, f"{key} of {name}"
        assert meta == expected_meta
    parts = {key.split("/")[0] for key in expected_bits}
    assert {"step", "params", "moments"} <= parts <= {"step", "params", "moments", "carry"}
    assert lines_of(cut) == lines_of(whole)
    steps = [line["step"] for line in lines_of(cut)]
    assert steps == sorted(set(steps))
    assert steps[-1] == num_steps == saved_step(cut)
    assert {path.name for path in cut.iterdir()} == {path.name for path in whole.iterdir()}
    for path in cut.iterdir():  # drawings, samples, errors on the test part, pictures of forecasts
        if path.is_file() and path.name not in NAMED | {"metrics.jsonl"}:
            assert path.read_bytes() == (whole / path.name).read_bytes(), path.name
