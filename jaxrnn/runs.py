"""A run's directory: all that a training run leaves behind, and the only code that lays it out.

    config.toml       every option, as ``--config`` takes it
    run.json          format, task, facts pinned from the data (vocabulary, scaler), versions
    metrics.jsonl     one JSON object a line: step, loss, grad_norm, lr, val_..., time_s
    checkpoints/      last, previous and best .safetensors
    loss.png, samples.txt, prediction.png, test.json: made from the above

Usage::

    run = Run.create(path, "char", config, facts)
    run = Run.open(path)
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import platform
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from jaxrnn import checkpoint, files
from jaxrnn.config import TrainConfig
from jaxrnn.config_file import from_values, is_nested, read_toml, to_toml
from jaxrnn.errors import InputError, shown
from jaxrnn.version import __version__

FORMAT = 2
OLDER = {1: {"series": "sine"}}  # formats that are read, too: what their tasks are called now
MOST_FACTS, MOST_METRICS = 2**28, 2**30  # bytes of run.json and metrics.jsonl
VOLATILE = ("time_s", "tokens_per_s", "data_wait")  # what differs between two equal runs


@dataclasses.dataclass(frozen=True)
class Run:
    """An existing run directory."""

    path: Path
    task: str
    config: TrainConfig
    facts: dict[str, Any]  # the task's, pinned from the data
    about: dict[str, Any]  # an id, versions, git revision, command, time
    is_written: bool = True  # by this process; of several that train a run one alone writes

    @classmethod
    def create(cls, task: str, config: TrainConfig, facts: dict[str, Any]) -> Run:
        """Make the directory that ``config.run`` names, or ``runs/TASK-DATE-TIME``.

        Raises InputError for one that holds anything already, that this process works in, or that
        can't be written.
        """
        given = config.run
        path = Path(given or _free(f"runs/{task}-{time.strftime('%Y%m%d-%H%M%S')}"))
        try:
            if given and path.exists() and (not path.is_dir() or any(path.iterdir())):
                raise InputError(
                    f"--run {path} exists already; choose another, or go on with it by "
                    f"--resume {path}"
                )
            if path.exists() and path.samefile("."):
                # It would be replaced as a whole, and a shell be left in one that is gone.
                raise InputError(
                    f"--run is {config.run}, the directory that this works in, expected another; "
                    f"name one in it, as --run {path / task}"
                )
            about = _provenance()
            config = dataclasses.replace(config.with_absolute_data(), run=str(path))
            content = {"format": FORMAT, "task": task, "facts": facts, "about": about}
            text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
            with files.new_directory(path) as new:
                (new / "checkpoints").mkdir()
                files.write_atomically(new / "config.toml", to_toml(task, config).encode())
                files.write_atomically(new / "run.json", text.encode())
        except OSError as error:
            if not given and error.errno in (errno.EEXIST, errno.ENOTEMPTY):  # another was faster
                return cls.create(task, dataclasses.replace(config, run=""), facts)
            raise InputError(f"can't write the run directory {path}: {error.strerror}") from error
        return cls(path, task, config, facts, about)

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Read an existing one. Raises InputError for what is not a run directory."""
        path = Path(path)
        if not path.is_dir():
            raise InputError(f"no run directory {path}")
        try:
            content = json.loads(files.read_text(path / "run.json", MOST_FACTS))
            version, facts, about = content["format"], content["facts"], content["about"]
            if not (isinstance(facts, dict) and isinstance(about, dict)):
                raise TypeError("facts and about must be objects")
            if is_nested(content):
                raise RecursionError("nested too deep")
        except FileNotFoundError:
            raise InputError(f"{path} is not a run directory: it has no run.json") from None
        except OSError as error:
            raise InputError(f"can't read {path / 'run.json'}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(
                f"{path / 'run.json'} is damaged: {shown(error)}, expected an object with format, "
                "facts and about; put a copy of it back, or start a new run"
            ) from None
        if version not in (FORMAT, *OLDER):
            raise InputError(
                f"{path} has run format {shown(version)}, this version reads up to "
                f"{FORMAT}; it was made by another version of jaxrnn"
            )
        values = read_toml(path / "config.toml")
        renamed = OLDER.get(version, {})
        if (named := values.get("task")) in renamed:
            values["task"] = renamed[named]
        task, config = from_values(values, str(path / "config.toml"))
        return cls(path, task, dataclasses.replace(config, run=str(path)), facts, about)

    def write_config(self, config: TrainConfig) -> None:
        """Record the options."""
        if not self.is_written:
            return
        files.write_atomically(self.path / "config.toml", to_toml(self.task, config).encode())

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for this process alone; the system lets go when the process ends, however.

        Raises InputError where another process trains it.
        """
        with held(self.path) if self.is_written else contextlib.nullcontext():
            yield

    def checkpoint_path(self, name: str) -> Path:
        """``last``, ``previous`` or ``best``."""
        return self.path / "checkpoints" / f"{name}.safetensors"

    def save(self, tree: Any, meta: dict[str, Any], best: bool = False) -> None:
        """Save a checkpoint as the last one, keeping the one before; also as the best one.

        The metrics up to here are made durable before it. The best goes first: a crash in between
        resumes before it, and finds the same best again.
        """
        if not self.is_written:
            return
        if (self.path / "metrics.jsonl").exists():
            files.sync(self.path / "metrics.jsonl")
        meta = meta | ({"run": self.about["id"]} if "id" in self.about else {})
        if best:
            checkpoint.save(self.checkpoint_path("best"), tree, meta)
        last, previous = self.checkpoint_path("last"), self.checkpoint_path("previous")
        if last.exists():  # a second name, so that at no moment there is no last one
            beside = previous.with_name(f".{previous.name}.tmp")
            beside.unlink(missing_ok=True)
            try:
                os.link(os.path.realpath(last), beside)  # a link to it would name what is new
            except OSError:  # a filesystem without links
                shutil.copyfile(last, beside)
            os.replace(beside, previous)
        checkpoint.save(last, tree, meta)

    def load(
        self, like: Any, check: Callable[[Path, dict[str, Any]], Any] = lambda path, meta: None
    ) -> tuple[Any, dict[str, Any], str] | None:
        """The newest whole checkpoint, its meta, and a remark; None where there is none yet.

        ``check`` raises InputError for a file's meta that its reader can't use.

        Raises InputError where there are checkpoints, but none is whole.
        """
        remarks, is_damaged = [], False
        for name in ("last", "previous", "best"):
            path = self.checkpoint_path(name)
            if not path.exists():
                remarks += [f"{path} is missing"] if name == "last" else []
                continue
            try:
                tree, meta = checkpoint.load(path, like)
                self._check_own(path, meta)
                check(path, meta)
            except InputError as error:
                remarks.append(str(error))
                is_damaged = True
                continue
            last = self.checkpoint_path("last")
            if is_damaged and last.exists() and self.is_written:
                # Or the next save would put the damaged one in the whole one's place.
                os.replace(last, self.checkpoint_path("damaged"))
            return tree, meta, "; ".join(remarks)
        if is_damaged:
            raise InputError("; ".join(remarks))
        return None

    def _check_own(self, path: Path, meta: dict[str, Any]) -> None:
        """Raise InputError for a checkpoint that another run has made, or that has no step."""
        if meta.get("run", self.about.get("id")) != self.about.get("id"):
            raise InputError(
                f"{path} was made by another run than {self.path / 'run.json'}; put this run's own "
                "checkpoints there"
            )
        step = meta.get("step")
        if type(step) is not int or not 0 <= step < 2**31:
            raise InputError(
                f"{path} has the step {shown(step)}, expected a whole number; {checkpoint.ANOTHER}"
            )

    def without_damaged_best(self, best_step: int = 0) -> str:
        """Set a best checkpoint aside that can't be read; what is wrong with it, or nothing.

        ``best_step``: of the best one that should be there; 0: none need be.
        """
        best = self.checkpoint_path("best")
        if not best.exists():
            return f"{best} is missing" if best_step else ""
        try:
            self._check_own(best, checkpoint.read(best)[1])
        except InputError as error:
            if self.is_written:
                os.replace(best, self.checkpoint_path("damaged-best"))
            return f"{error}; it is set aside"
        return ""

    def load_part(self, part: str, like: Any, name: str = "auto") -> tuple[Any, dict[str, Any]]:
        """One part (``params``, ``carry``) of a checkpoint, with the structure of ``like``.

        ``name``: 'best', 'last', or 'auto': the best, or the last where nothing was validated.
        Gives the checkpoint's meta too, with its ``name`` in it.
        """
        if name == "auto":
            name = "best" if self.checkpoint_path("best").exists() else "last"
        path = self.checkpoint_path(name)
        if not path.exists():
            raise InputError(f"{self.path} has no checkpoint {path.name!r} yet")
        tree, meta = checkpoint.load(path, {part: like}, partial=True)
        self._check_own(path, meta)
        return tree[part], {**meta, "name": name}

    def append_metrics(self, line: dict[str, Any]) -> None:
        """Add a line to ``metrics.jsonl``."""
        if not self.is_written:
            return
        with open(self.path / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl``: each step once, without what was cut short or damaged."""
        return self._read_metrics()[0]

    def _read_metrics(self) -> tuple[list[dict[str, Any]], int]:
        """The lines, and how many before the last of them were of no use."""
        path = self.path / "metrics.jsonl"
        lines: list[dict[str, Any]] = []
        damaged = bad = 0
        try:
            content = files.read_text(path, MOST_METRICS, errors="replace") if path.exists() else ""
        except OSError as error:
            raise InputError(
                f"can't read {path}: {error.strerror}; move it away to go on without"
            ) from None
        for text in content.split("\n")[:-1]:
            line = _metrics_line(text)
            if line is None or (lines and line["step"] <= lines[-1]["step"]):
                bad += 1  # at the end it is what a crash cut short, or a power loss lost
                continue
            damaged = bad
            lines.append(line)
        return lines, damaged

    def cut_metrics(self, step: int) -> str:
        """Drop what was recorded after ``step``: it will be run again. Gives a remark on damage."""
        if not self.is_written:
            return ""
        lines, damaged = self._read_metrics()
        kept = [line for line in lines if line["step"] <= step]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept)
        files.write_atomically(self.path / "metrics.jsonl", text.encode())
        path = self.path / "metrics.jsonl"
        return f"{path} had {damaged} lines that were damaged; they are gone" if damaged else ""


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold a run's directory; see ``Run.locked``."""
    with open(path / "run.json", "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{path} is being trained by another process; wait for its end, stop it, or choose "
                "a run of another name"
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):
                raise
            # A filesystem without locks: nothing can be known of others.
        yield


def is_own(path: str | Path) -> bool:
    """Whether a path names what a run can't be without, which no output may replace."""
    path = Path(os.path.realpath(path))
    names = ("config.toml", "run.json", "metrics.jsonl")
    places = [path.parent] if path.name in names else []
    places += [above.parent for above in path.parents if above.name == "checkpoints"]
    return any((place / "run.json").exists() for place in places)


def _metrics_line(text: str) -> dict[str, Any] | None:
    """A line of ``metrics.jsonl``: numbers by name, and a sample; None for anything else."""
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(line, dict) or type(line.get("step")) is not int:
        return None
    numbers = (value for key, value in line.items() if key != "sample")
    if not all(type(x) is float or (type(x) is int and abs(x) < 2**63) for x in numbers):
        return None
    sample = line.get("sample", "")
    return line if isinstance(sample, str) and _is_unicode(sample) else None


def _is_unicode(text: str) -> bool:
    """Whether it can be written: JSON may hold half a character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _free(path: str) -> str:
    """The path, or with a number where another run has begun in the same second."""
    numbered = (path, *(f"{path}-{k}" for k in range(2, 1000)))
    return next(p for p in numbered if not Path(p).exists())


def _provenance() -> dict[str, Any]:
    packages = ("jax", "jaxlib", "flax", "optax", "numpy")
    versions = {name: metadata.version(name) for name in packages}
    versions |= {"jaxrnn": __version__, "python": platform.python_version()}
    return {
        "id": uuid.uuid4().hex,
        "versions": versions,
        "revision": _revision(Path(__file__).parents[1]),
        "command": sys.argv[1:],
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _revision(checkout: Path) -> str | None:
    """The git commit that this package runs from, if it runs from a checkout."""
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
