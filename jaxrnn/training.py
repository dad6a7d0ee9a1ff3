"""The training loop: groups of steps, validation, checkpoints; no arguments are parsed here.

Everything is a pure function of the options and the step: batches of the step, random keys by
``fold_in(key, step)``, the learning rate of the step. A checkpoint holds the state and the few
sums that a line of metrics is made of, so that a run killed anywhere and resumed gives the same
bits. Usage::

    outcome = train(task, data, run, display=Display())
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn import averaging, files, mesh, plots, processes, rules
from jaxrnn.config import MOST, TrainConfig
from jaxrnn.errors import InputError
from jaxrnn.models import Params, Skeleton
from jaxrnn.progress import Display
from jaxrnn.runs import Run
from jaxrnn.tasks import Data, Task, Validation
from jaxrnn.train_step import TrainState, initial_state, make_step, steps_per_dispatch
from jaxrnn.training_progress import Progress, read_progress

EVAL_CHUNK = 256  # steps of validation in one dispatch
MAX_SKIPPED = 10  # steps in a row that may be left out
PLOT_SECONDS = 30.0  # a new loss.png at most this often while training


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended: 'done', 'early stop', or the name of the signal that stopped it."""

    reason: str
    step: int
    progress: Progress
    metrics: dict[str, Any]  # the last line


class NotFiniteError(ArithmeticError):
    """A loss or gradient was not finite; the message names the last good checkpoint."""


class StoppedError(Exception):
    """A signal came while a validation was going on."""


def total_steps(config: TrainConfig, data: Data) -> int:
    """Optimizer steps in the whole run. Raises InputError for more than an int32 counts."""
    total = config.steps or config.epochs * data.train.steps_per_epoch
    if total > MOST["steps"]:
        raise InputError(
            f"--epochs is {config.epochs}, which are {total} steps, expected at most "
            f"{MOST['steps']}; lower it"
        )
    return total


def stack_batches(
    data: Data, step: int, count: int, capacity: int, rows: slice = slice(None)
) -> tuple[Any, ...]:
    """``capacity`` batches from ``step`` on, in arrays; from ``count`` on they are not read.

    Of each ``rows`` alone.
    """
    batches = [tuple(data.train.batch_at(step + k, rows)) for k in range(count)]
    batches += [batches[-1]] * (capacity - count)
    return jax.tree.map(lambda *parts: np.stack(parts), *batches)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _score(task, skeleton, params, carry, window):
    return task.score(skeleton.merge(params), *window, carry)


def evaluate(
    task: Task,
    skeleton: Skeleton,
    params: Params,
    held_out: Validation,
    num_streams: int = 1,
    chunk_len: int = EVAL_CHUNK,
    carry: Any = None,
    stop_requested: Callable[[], str | None] = lambda: None,
) -> dict[str, float]:
    """The task's metrics over every counted position, the state carried, dropout off.

    With ``num_streams`` > 1 the stream is cut and its parts run side by side, each warmed up on
    ``chunk_len`` or more positions before it; 1 is the plain definition. ``carry`` is the state
    that training ended with, for a stream that goes on from there; others start from zeros.

    Raises StoppedError as soon as ``stop_requested`` gives a signal's name.
    """
    model: Any = skeleton.merge(params)
    sums = []
    for window in held_out.windows(num_streams, chunk_len):
        if not sums and not held_out.continues:
            _, _, mask = window
            carry = task.initial_carry(model, len(mask))
        part, carry = _score(task, skeleton, params, carry, window)
        sums.append(part)
        if stop_requested():
            raise StoppedError
    totals = {k: math.fsum(float(part[k]) for part in sums) for k in sums[0]}
    return task.metrics(totals, held_out.num_counted)


def load_model(
    task: Task, run: Run, checkpoint: str = "auto"
) -> tuple[Skeleton, Params, dict[str, Any]]:
    """A run's model for inference: its skeleton, the best, last or default parameters, the meta.

    Where the run averages its parameters, they are the average.
    """
    _, skeleton, state = initial_state(task, run.config)
    return skeleton, *_load_evaluated(run, state, checkpoint)


def first_save(config: TrainConfig, data: Data) -> int:
    """The step of the first checkpoint: that of a validation, if that is before one is due."""
    total = total_steps(config, data)
    every = _Every(config, data, total)
    validated = [every.evaluate] if data.held_out.num_counted else []
    return min(total, every.save, *validated)


def load_carry(task: Task, run: Run, checkpoint: str = "auto") -> Any:
    """The recurrent state that a checkpoint's training was at."""
    _, _, state = initial_state(task, run.config)
    return _load_carry(run, state, checkpoint)


def _load_evaluated(
    run: Run, like: TrainState, checkpoint: str = "auto"
) -> tuple[Params, dict[str, Any]]:
    if like.average is None:
        params, meta = run.load_part("params", like.params, checkpoint)
    else:
        average, meta = run.load_part("average", like.average, checkpoint)
        params = average.params
    return jax.tree.map(jnp.array, params), meta


def _load_carry(run: Run, like: TrainState, checkpoint: str = "auto") -> Any:
    return jax.tree.map(jnp.array, run.load_part("carry", like.carry, checkpoint)[0])


def train(
    task: Task,
    data: Data,
    run: Run,
    *,
    display: Display,
    stop_requested: Callable[[], str | None] = lambda: None,
) -> Outcome:
    """Train to the end of the run, from its newest checkpoint where it has one.

    ``stop_requested`` gives the name of a signal once one has come: the loop then saves and ends.

    Raises NotFiniteError, and InputError for checkpoints that can't be read.
    """
    config, total = run.config, total_steps(run.config, data)
    train_skeleton, eval_skeleton, state = initial_state(task, config)
    progress = Progress()
    if (restored := run.load(state, read_progress)) is not None:
        state, meta, remark = restored
        progress = read_progress(run.path, meta)
        if remark:
            display.line(f"{remark}; going on from the checkpoint of step {meta['step']}")
    if restored and (damage := run.without_damaged_best(progress.best_step)):
        progress.best, progress.best_step = None, 0
        stalled = config.patience and progress.bad_validations >= config.patience
        is_over = (int(state.step) >= total or stalled) and not progress.unvalidated
        later = "the last checkpoint stands for it" if is_over else "the next validation gives"
        display.line(f"{damage}, {later}{'' if is_over else ' another'}")
    processes.wait_for_all("read")  # before the first of them changes anything
    run.write_config(config)  # only now: a run that can't be resumed keeps its own
    devices, rows = mesh.device_mesh(config), mesh.process_rows(config.batch_size)
    state = mesh.place(state, mesh.state_shardings(state, devices))
    step = int(state.step)
    if damage := run.cut_metrics(step):
        display.line(damage)

    train_steps = make_step(task.loss, train_skeleton, config, total)
    capacity = min(steps_per_dispatch(config, state.params), total)
    every = _Every(config, data, total)
    has_validation = data.held_out.num_counted > 0
    tokens = config.positions_per_step
    line: dict[str, Any] = {}
    began = plotted = ready = time.monotonic()  # ready: when the device had nothing to do, or
    time_before = progress.time_s  # the last group was done
    step_s: float | None = None
    wait = _DataWait()

    def record(first, count, metrics):
        """Fetch a dispatched group's metrics, check them, and write the lines that are due."""
        nonlocal line, ready, step_s
        fetched = [np.asarray(values)[:count] for values in metrics]
        now = time.monotonic()
        speed = tokens * count / max(now - ready, 1e-9)
        step_s = (now - ready) / count  # the first with compilation: it is soon corrected
        ready, progress.time_s = now, time_before + now - began
        for last, (loss, norm, lr) in enumerate(zip(*fetched, strict=True), start=first + 1):
            is_finite = bool(np.isfinite(loss) and np.isfinite(norm))
            if is_finite:
                progress.loss_sum += float(loss)
                progress.loss_count += 1
                progress.skipped_last = 0
                display.update(last, float(loss), speed)
            else:
                what = f"the loss is {loss}, the gradient's norm {norm}"
                skip(last, what)
            if last % every.log and last % every.evaluate and last != total:
                continue
            line = {
                "step": last,
                "epoch": round(last / data.train.steps_per_epoch, 4),
                "loss": progress.loss_sum / max(progress.loss_count, 1),
                "grad_norm": float(norm),
                "lr": float(lr),
                "tokens_per_s": round(speed, 1),
                "data_wait": wait.share(),
                "time_s": round(progress.time_s, 3),
            }
            if not progress.loss_count:  # JSON has no number for it
                del line["loss"]
            if not is_finite:
                del line["grad_norm"]
            if progress.skipped:
                line["skipped"] = progress.skipped
            progress.loss_sum, progress.loss_count = 0.0, 0
            if has_validation and (last % every.evaluate == 0 or last == total):
                progress.unvalidated = line
                if not complete():
                    return
            else:
                write(line)

    def stopping():
        """The name of a signal; what the processes compute together is done before they agree."""
        if processes.are_several():
            jax.block_until_ready(state)
        return processes.agreed_signal(stop_requested())

    def write(new):
        nonlocal line
        line = new
        run.append_metrics(line)
        display.log(line)

    def skip(step, what):
        """Leave a step out, as the options say, or end the run."""
        if config.not_finite == "stop":
            raise NotFiniteError(_not_finite(step, what, run))
        progress.skipped += 1
        progress.skipped_last += 1
        if progress.skipped_last == MAX_SKIPPED:
            what += f", and so were the {MAX_SKIPPED - 1} steps before it, all left out"
            raise NotFiniteError(_not_finite(step, what, run))
        display.line(f"step {step} is left out: {what}")

    def complete():
        """Validate for the line that awaits it, and write it; False where a signal broke it off."""
        begun = progress.unvalidated or {}
        try:
            found = validate(begun["step"])
        except StoppedError:
            return False
        progress.unvalidated = None
        write(begun | found)
        return True

    def validate(last):
        """Validation metrics and a sample, for the line of metrics; keeps the best in mind."""
        found: dict[str, Any] = evaluate(
            task,
            eval_skeleton,
            mesh.on_one_device(state.evaluated),
            data.held_out,
            getattr(config, "eval_streams", 1),
            carry=state.carry if devices.size == 1 else None,
            stop_requested=stopping,
        )
        # Another machine may round otherwise, and decide otherwise.
        found = json.loads(processes.done_by_first(functools.partial(json.dumps, found)))
        value = found[task.monitor]
        if not math.isfinite(value):
            raise NotFiniteError(_not_finite(last, f"the validation gives {value}", run))
        if config.average == "nt_asgd":
            await_stall(last, value)
        if progress.best is None or value < progress.best:
            progress.best, progress.best_step = value, last
        reference = progress.improved_on
        if reference is None or value < reference - config.min_delta:
            progress.improved_on, progress.bad_validations = value, 0
        else:
            progress.bad_validations += 1
        found = {f"val_{k}": v for k, v in found.items()}
        found |= {f"naive_{k}": v for k, v in data.held_out.baseline.items()}
        if sample := task.preview(eval_skeleton, mesh.on_one_device(state.evaluated), last):
            found["sample"] = sample
        return found

    def await_stall(last, value):
        """Begin the mean of NT-ASGD after the first validation that asks for it."""
        nonlocal state
        assert state.average is not None
        if int(state.average.start) != averaging.NEVER:
            return
        progress.validations.append(value)
        if averaging.has_stalled(progress.validations, config.asgd_patience):
            average = averaging.begun(state.average, last)
            start = mesh.place(average.start, mesh.batch_shardings(devices)[1])
            state = state._replace(average=average._replace(start=start))
            progress.validations = []
            display.line(f"the mean of the parameters begins after step {last}")

    def save():
        nonlocal plotted
        meta = {"progress": dataclasses.asdict(progress), "step": step}
        # A finite loss is that of the parameters before the step's update.
        saved = mesh.gathered(state)
        broken = [k for k, p in saved.params.items() if not np.isfinite(p).all()]
        if broken:
            raise NotFiniteError(
                _not_finite(step, f"after it {', '.join(broken)} is not finite", run)
            )
        run.save(saved, meta, best=progress.best_step == step > 0)
        if time.monotonic() - plotted > PLOT_SECONDS:
            illustrate(lambda: draw(run, task))
            plotted = time.monotonic()

    def illustrate(make):
        """Make pictures; a disk that has no room for them does not end the run."""
        if not run.is_written:
            return
        try:
            make()
        except OSError as error:
            display.line(f"can't write {error.filename or run.path}: {error.strerror or error}")
        except InputError as error:  # metrics that can't be read
            display.line(str(error))

    reason, pending = "done", None
    display.start(step, total)
    try:
        if progress.unvalidated:
            if complete():
                save()
            else:
                reason = stopping() or reason
        while step < total and not progress.unvalidated:
            if config.patience and progress.bad_validations >= config.patience:
                reason = "early stop"
                break
            timed = capacity if config.steps_per_dispatch else rules.steps_in_time(capacity, step_s)
            count = min(timed, every.next_event(step) - step)
            count = processes.from_first(data.train.num_alike(step, count))
            with wait.at_most(pending and pending[2].loss):
                batches = stack_batches(data, step, count, capacity, rows)
            batches = mesh.place_batches(batches, devices)
            state, metrics = train_steps(state, *batches, np.int32(count))
            if pending:  # fetched only now, so that the device had work meanwhile
                record(*pending)
            pending = (step, count, metrics)
            step += count
            if stopping() or step == total or step % every.save == 0 or step % every.evaluate == 0:
                record(*pending)
                stop = stopping()  # it may have come in the validation
                enough = config.patience and progress.bad_validations >= config.patience
                due = stop or enough or step == total or step % every.save == 0
                if due or progress.best_step == step:
                    save()
                pending, ready = None, time.monotonic()
                if stop and (step < total or progress.unvalidated):
                    reason = stop
                    break
    finally:
        display.stop()
        illustrate(lambda: draw(run, task))
    if reason in ("done", "early stop") and run.is_written:  # to others the file may be late
        params, _ = _load_evaluated(run, state)
        carry = _load_carry(run, state)
        illustrate(lambda: task.illustrate(eval_skeleton, params, carry, data, run.path))
    return Outcome(reason, step, progress, line)


class _Every:
    """At which steps something is due; 0 in the options means what is sensible."""

    def __init__(self, config: TrainConfig, data: Data, total: int):
        self.total = total
        self.log = config.log_every or max(1, total // 500)
        self.evaluate = config.eval_every or data.train.steps_per_epoch
        self.save = config.checkpoint_every or self.evaluate

    def next_event(self, step: int) -> int:
        """The first step after ``step`` at which the device must be waited for."""
        periods = (self.evaluate, self.save)
        return min(self.total, *((step // period + 1) * period for period in periods))


class _DataWait:
    """For which share of the time the device at most had to wait for batches."""

    def __init__(self):
        self._waited, self._since = 0.0, time.monotonic()

    @contextlib.contextmanager
    def at_most(self, before: jax.Array | None) -> Iterator[None]:
        """A block that makes batches; the device did not wait if ``before`` is not done by then."""
        began = time.monotonic()
        yield
        if before is None or before.is_ready():  # type: ignore[attr-defined]
            self._waited += time.monotonic() - began

    def share(self) -> float:
        """Since it was last asked for."""
        now = time.monotonic()
        share = self._waited / max(now - self._since, 1e-9)
        self._waited, self._since = 0.0, now
        return round(share, 4)


def draw(run: Run, task: Task) -> None:
    """``loss.png`` and ``samples.txt``, from the metrics so far."""
    lines = run.metrics()
    if not lines:
        return
    plots.loss(run.path / "loss.png", lines, task.monitor, f"{run.path.name}: {run.config.body}")
    samples = [f"--- step {m['step']} ---\n{m['sample']}\n" for m in lines if "sample" in m]
    if samples:
        content = "\n".join(samples).encode()
        files.write_atomically(run.path / "samples.txt", content, durably=False)


def _not_finite(step: int, what: str, run: Run) -> str:
    last = run.checkpoint_path("last")
    kept = f"the last good checkpoint is {last}" if last.exists() else "no checkpoint was made yet"
    advice = ["lower --lr", "set --clip or --warmup-steps", "change --seed"]
    if run.config.not_finite != "skip":
        advice.append("leave such steps out by --not-finite skip")
    return f"step {step}: {what}; {kept}; {', '.join(advice[:-1])}, or {advice[-1]}"
