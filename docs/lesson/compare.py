"""The lesson's two nets trained in jaxrnn and in torch side by side, from the same initial weights.

    python docs/lesson/compare.py char --data anna.txt --epochs 2 --dropout 0
    python docs/lesson/compare.py char --data anna.txt --steps 20 --seeds 5
    python docs/lesson/compare.py sine
    python docs/lesson/compare.py char --data anna.txt --run runs/lesson

``char`` is the preset ``lesson`` (see it for the options), ``sine`` the 75 steps of Simple_RNN.
The torch side is a plain script: ``torch.nn``, ``clip_grad_norm_``, ``torch.optim.Adam``, a loop.
Both see the same batches in the same order. Without dropout the losses can differ by rounding
alone; with it each side draws masks of its own, and only their distribution is the same: of several
seeds the mean difference should be as large as its standard error.
Validation is the lesson's: the last tenth in rows of the same batches, states from zeros, dropout
off, the mean of the batches' losses. ``--run`` validates a run of the preset so, by its best
checkpoint, on both sides, or, with ``--again``, trains it again from the one before its last and
validates every ten steps in jaxrnn. ``--json`` adds a line for every step to a file.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import torch
import tyro
from torch import nn
from torch.nn.functional import one_hot

from jaxrnn import checkpoint, cli, rules
from jaxrnn.config import CharConfig, SineConfig
from jaxrnn.config_file import from_toml
from jaxrnn.data.streams import Streams, lesson_targets
from jaxrnn.mesh import device_mesh, place, state_shardings
from jaxrnn.runs import Run
from jaxrnn.tasks import TASKS
from jaxrnn.train import find_config
from jaxrnn.train_step import initial_state, make_step
from jaxrnn.training import stack_batches


@dataclasses.dataclass(frozen=True)
class Options:
    """Train the lesson's net in jaxrnn and in torch, and compare the losses."""

    lesson: Annotated[Literal["char", "sine"], tyro.conf.Positional]
    """which net"""
    data: Annotated[str, tyro.conf.arg(metavar="FILE")] = ""
    """anna.txt, for char"""
    epochs: int = 1
    """passes over the training part"""
    steps: int = 0
    """above 0: so many steps in place of epochs"""
    dropout: float = 0.5
    """of char; 0: the curves must agree step by step"""
    dtype: Literal["float32", "float64"] = "float32"
    """on both sides"""
    seed: int = 0
    """of the initial weights and of both sides' masks"""
    seeds: int = 1
    """how many, from --seed on, one after the other"""
    run: Annotated[str, tyro.conf.arg(metavar="RUN")] = ""
    """of the preset lesson: validate its best checkpoint as the lesson does, and train nothing"""
    again: bool = False
    """of --run: train again from the checkpoint before its last, and validate every ten steps"""
    json: Annotated[str, tyro.conf.arg(metavar="FILE")] = ""
    """add lines of JSON here"""


class TorchCharRNN(nn.Module):
    """LSTM over one-hot characters, dropout, linear."""

    def __init__(self, num_symbols: int, hidden_size: int, num_layers: int, dropout: float):
        super().__init__()
        self.num_symbols = num_symbols
        self.rnn = nn.LSTM(num_symbols, hidden_size, num_layers, batch_first=True, dropout=dropout)
        self.dropout = nn.Dropout(dropout)
        self.decoder = nn.Linear(hidden_size, num_symbols)

    def forward(self, ids: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        """ids (B, T) -> logits (B, T, V) and the state."""
        x = one_hot(ids, self.num_symbols).to(self.decoder.weight.dtype)
        y, state = self.rnn(x, state)
        return self.decoder(self.dropout(y)), state


class TorchSimpleRNN(nn.Module):
    """RNN over the values of a series, linear."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.rnn = nn.RNN(1, hidden_size, 1, batch_first=True)
        self.decoder = nn.Linear(hidden_size, 1)

    def forward(self, x: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        """x (B, T, 1) -> predictions (B, T, 1) and the state."""
        y, state = self.rnn(x, state)
        return self.decoder(y), state


class TorchTrainer:
    """The lesson's loop, a step at a time."""

    def __init__(self, net: nn.Module, params: dict[str, Any], lr: float, clip: float):
        self.net = net
        self.net.load_state_dict({k: torch.tensor(np.asarray(v)) for k, v in params.items()})
        # As a float32, which is what jaxrnn's schedules compute in.
        self.optimizer = torch.optim.Adam(net.parameters(), lr=float(np.float32(lr)))
        self.clip = clip
        self.state: Any = None

    def loss(self, inputs: np.ndarray, targets: np.ndarray, state: Any) -> tuple[Any, Any]:
        """The mean loss of a batch, and the state after it."""
        output, state = self.net(torch.tensor(inputs), state)
        if np.issubdtype(targets.dtype, np.floating):
            return nn.functional.mse_loss(output, torch.tensor(targets)), state
        ids = torch.tensor(targets.ravel(), dtype=torch.long)
        return nn.functional.cross_entropy(output.flatten(0, 1), ids), state

    def step(self, inputs: np.ndarray, targets: np.ndarray, starts: bool) -> float:
        """Train on a batch; gives its loss."""
        self.net.train()
        state = None if starts else self.state
        self.optimizer.zero_grad()
        loss, state = self.loss(inputs, targets, state)
        loss.backward()
        if self.clip:
            nn.utils.clip_grad_norm_(self.net.parameters(), self.clip)
        self.optimizer.step()
        if isinstance(state, tuple):
            self.state = tuple(s.detach() for s in state)
        else:
            self.state = state.detach()
        return loss.item()

    @torch.no_grad()
    def validate(self, batches: list[Any]) -> float:
        """The mean of the batches' losses, the state carried."""
        self.net.eval()
        state, losses = None, []
        for inputs, targets, _ in batches:
            loss, state = self.loss(inputs, targets, state)
            losses.append(loss.item())
        return float(np.mean(losses))


class JaxTrainer:
    """jaxrnn's step, one batch a dispatch."""

    def __init__(self, task: Any, config: Any, data: Any, total: int):
        self.data = data
        skeleton, eval_skeleton, state = initial_state(task, config)
        self.params = state.params
        self.train_steps = make_step(task.loss, skeleton, config, total)
        self.state = place(state, state_shardings(state, device_mesh(config)))

        self.task, self.skeleton = task, eval_skeleton

    def step(self, number: int) -> float:
        """Train on the batch of a step; gives its loss."""
        batches = stack_batches(self.data, number, 1, 1)
        self.state, metrics = self.train_steps(self.state, *batches, np.int32(1))
        return float(metrics.loss[0])

    def validate(self, batches: list[Any]) -> float:
        """As ``TorchTrainer.validate``."""
        return validate(self.task, self.skeleton, jax.device_get(self.state.params), batches)


def validate(task: Any, skeleton: Any, params: Any, batches: list[Any]) -> float:
    """As ``TorchTrainer.validate``, in jaxrnn."""

    @jax.jit
    def loss_of(params, inputs, targets, carry):
        return task.loss(skeleton.merge(params), inputs, targets, carry, None, 0)

    params = jax.tree.map(jnp.asarray, params)
    carry = task.initial_carry(skeleton.merge(params), len(batches[0][0]))
    losses = []
    for inputs, targets, _ in batches:
        loss, carry = loss_of(params, inputs, targets, carry)
        losses.append(float(loss))
    return float(np.mean(losses))


def set_up(options: Options) -> tuple[Any, Any, Any, nn.Module, list[Any]]:
    """The options, the task, its data, the torch net, and the batches to validate on."""
    if options.lesson == "sine":
        config: Any = SineConfig(seed=options.seed, dtype=options.dtype)
        task, data = TASKS["sine"].load(config)
        return config, task, data, TorchSimpleRNN(config.hidden_size), []
    _, base = from_toml(find_config("lesson"))
    assert isinstance(base, CharConfig)
    config = dataclasses.replace(
        base,
        data=options.data,
        dropout=options.dropout,
        epochs=options.epochs,
        steps=options.steps,
        seed=options.seed,
        dtype=options.dtype,
    )
    task, data = TASKS["char"].load(config)
    return config, task, data, *torch_side(task, data)


def torch_side(task: Any, data: Any) -> tuple[TorchCharRNN, list[Any]]:
    """The torch net of a character model, and the lesson's batches to validate on."""
    config = task.config
    size = (config.hidden_size, config.num_layers, config.dropout)
    ids = np.append(data.held_out.inputs, data.held_out.targets[-1])
    val = lesson_targets(ids, config.batch_size, config.seq_len)
    batches = [val.batch_at(k) for k in range(val.steps_per_epoch)]
    return TorchCharRNN(task.vocabulary.size, *size), batches


def main() -> None:
    """Each seed, and what they say together."""
    options = tyro.cli(Options, description=__doc__)
    batch_size = 128 if options.lesson == "char" else 1
    shards = rules.data_shards("cpu", cli.num_cores(), batch_size)
    cli.use_device("cpu", options.dtype, shards)
    torch.set_default_dtype(getattr(torch, options.dtype))
    if options.run:
        if options.again:
            write(options, trained_again(options))
            return
        found = validated(options.run, options.data)
        print(f"the lesson's validation: {', '.join(f'{k} {v:.4f}' for k, v in found.items())}")
        return
    seeds = range(options.seed, options.seed + options.seeds)
    runs = [compare(dataclasses.replace(options, seed=seed)) for seed in seeds]
    if len(runs) > 1:
        print(summary(runs))


def validated(path: str, data_file: str) -> dict[str, float]:
    """The lesson's validation of a run's best checkpoint."""
    task, skeleton, params, run = cli.open_model(path, "best", "cpu")
    config = dataclasses.replace(run.config, data=data_file or run.config.data)
    net, batches = torch_side(task, type(task).load(config, run.facts)[1])
    theirs = TorchTrainer(net, params, run.config.lr, run.config.clip)
    ours = validate(task, skeleton, params, batches)
    return {"jaxrnn": ours, "torch": theirs.validate(as_long(batches))}


def trained_again(options: Options) -> list[dict[str, float]]:
    """The lesson's validation in jaxrnn every ten steps, from a run's checkpoint before the last.

    Raises ArithmeticError where the end is not the run's own last parameters.
    """
    run = Run.open(options.run)
    config = dataclasses.replace(run.config, data=options.data or run.config.data)
    task, data = TASKS[run.task].load(config, run.facts)
    total = config.steps or config.epochs * data.train.steps_per_epoch
    ours, (_, batches) = JaxTrainer(task, config, data, total), torch_side(task, data)
    state, meta = checkpoint.load(run.checkpoint_path("previous"), ours.state)
    ours.state = place(state, state_shardings(state, device_mesh(config)))
    lines = []
    for step in range(meta["step"] + 1, total + 1):
        loss = ours.step(step - 1)
        if step % 10 == 0 or step == total:
            lines.append({"step": step, "loss": loss, "val_nats": ours.validate(batches)})
            print("  ".join(f"{k} {v:.6g}" for k, v in lines[-1].items()), flush=True)
    last = checkpoint.load(run.checkpoint_path("last"), ours.state)[0]
    for name, value in last.params.items():
        if not np.array_equal(value, ours.state.params[name]):
            raise ArithmeticError(f"{name} is not that of {options.run} after its last step")
    return lines


def summary(runs: list[list[dict[str, Any]]]) -> str:
    """The mean loss of the last half of each run's steps: of both sides, and how they differ."""
    halves = [run[len(run) // 2 :] for run in runs]
    ours, theirs = (
        np.array([np.mean([line[side] for line in half]) for half in halves])
        for side in ("jaxrnn", "torch")
    )
    differences = ours - theirs
    error = differences.std(ddof=1) / len(runs) ** 0.5
    return (
        f"mean loss of the last {len(halves[0])} steps, {len(runs)} seeds: "
        f"jaxrnn {ours.mean():.5f}, torch {theirs.mean():.5f}, "
        f"difference {differences.mean():+.5f}, its standard error {error:.5f}"
    )


def compare(options: Options) -> list[dict[str, Any]]:
    """Both sides in turn, a step at a time; a line for each step."""
    torch.manual_seed(options.seed)
    config, task, data, net, val = set_up(options)
    per_epoch = data.train.steps_per_epoch
    total = config.steps or config.epochs * per_epoch
    ours = JaxTrainer(task, config, data, total)
    theirs = TorchTrainer(net, ours.params, config.lr, config.clip)
    dtype = np.dtype(options.dtype)
    about = {"lesson": options.lesson, "dropout": options.dropout, "seed": options.seed}
    if options.lesson == "sine":
        del about["dropout"]
    lines: list[dict[str, Any]] = []
    worst = 0.0
    for step in range(total):
        inputs, targets, starts = data.train.batch_at(step)
        if isinstance(data.train, Streams):
            inputs = inputs.astype(np.int64)
        else:
            inputs, targets = inputs.astype(dtype), targets.astype(dtype)
        line = {"step": step + 1, "jaxrnn": ours.step(step), "torch": 0.0}
        line["torch"] = theirs.step(inputs, targets, bool(starts))
        worst = max(worst, abs(line["jaxrnn"] / line["torch"] - 1))
        if (step + 1) % per_epoch == 0 and val:
            line |= {"val_jaxrnn": ours.validate(val), "val_torch": theirs.validate(as_long(val))}
        lines.append(line)
        if (step + 1) % max(1, total // 15) == 0 or "val_torch" in line or step < 3:
            values = "  ".join(f"{k} {v:.7g}" for k, v in line.items())
            print(f"{values}  largest relative difference so far {worst:.1e}", flush=True)
    write(options, [{**about, "dtype": options.dtype, **line} for line in lines])
    return lines


def write(options: Options, lines: list[dict[str, Any]]) -> None:
    """Add them to the file of ``--json``."""
    if options.json:
        with Path(options.json).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)


def as_long(batches: list[Any]) -> list[Any]:
    """Ids as torch's one_hot takes them."""
    return [(inputs.astype(np.int64), targets, starts) for inputs, targets, starts in batches]


if __name__ == "__main__":
    sys.exit(cli.exit_code(main))
