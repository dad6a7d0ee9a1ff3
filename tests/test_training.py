import dataclasses
import io
import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from rich.console import Console
from tolerances import assert_close

from jaxrnn import checkpoint, training
from jaxrnn.config import CharConfig, SeriesConfig, TrainConfig
from jaxrnn.errors import InputError
from jaxrnn.models import split
from jaxrnn.progress import Display
from jaxrnn.runs import VOLATILE, Run
from jaxrnn.tasks import TASKS

TEXT = "the cat sat on the mat; a dog ate the hat. " * 8


def quiet() -> Display:
    return Display(Console(file=io.StringIO(), soft_wrap=True))


def assert_same_bits(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert a.tobytes() == b.tobytes()


@pytest.fixture(scope="module")
def text_file(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT)
    return str(path)


def char_config(text_file: str, **options) -> CharConfig:
    small: dict[str, Any] = {
        **{"cell": "rnn", "hidden_size": 5, "batch_size": 3, "seq_len": 4, "log_every": 1},
        **{"data": text_file, "preview_length": 0, "lr": 0.05},
        **{"embedding_size": 0, "schedule": "constant", "warmup_steps": 0},
    }
    return CharConfig(**(small | options))


def train(config: TrainConfig, task_name: str = "char", **options):
    task, data = TASKS[task_name].load(config)
    run = Run.create(task_name, config, data.facts)
    return run, training.train(task, data, run, display=quiet(), **options)


def go_on(run: Run, config: TrainConfig | None = None, display: Display | None = None, **options):
    task, data = TASKS[run.task].load(config or run.config, run.facts)
    run = Run(run.path, run.task, config or run.config, run.facts, run.about)
    return run, training.train(task, data, run, display=display or quiet(), **options)


def last_of(run: Run, name: str = "last"):
    arrays, meta = checkpoint.read(run.checkpoint_path(name))
    meta["progress"].pop("time_s")
    return arrays, meta


def lines_of(run: Run) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k not in VOLATILE} for line in run.metrics()]


# --- the learning rate ---


def rates(total: int, **options: Any) -> list[float]:
    options = {"schedule": "constant", "warmup_steps": 0} | options
    rate = training.learning_rate(CharConfig(**options), total)
    return [float(rate(jnp.int32(step))) for step in range(total)]


def test_a_constant_rate():
    np.testing.assert_allclose(rates(3, lr=0.5), [0.5] * 3)


def test_the_warm_up_rises_in_equal_steps():
    np.testing.assert_allclose(
        rates(6, lr=0.8, warmup_steps=4), [0.2, 0.4, 0.6, 0.8, 0.8, 0.8], rtol=1e-6
    )


def test_half_a_cosine_from_the_peak_to_the_final_rate():
    got = rates(5, lr=1.0, lr_final=0.2, schedule="cosine")
    cos45 = math.sqrt(0.5)
    expected = [1.0, 0.6 + 0.4 * cos45, 0.6, 0.6 - 0.4 * cos45, 0.2]
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_the_cosine_begins_where_the_warm_up_ends():
    got = rates(7, lr=1.0, schedule="cosine", warmup_steps=2)
    expected = [0.5, 1.0, *((1 + math.cos(math.pi * k / 4)) / 2 for k in range(5))]
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-7)


def test_a_cosine_shorter_than_its_warm_up_stays_finite():
    got = rates(3, lr=1.0, schedule="cosine", warmup_steps=5)
    np.testing.assert_allclose(got, [0.2, 0.4, 0.6], rtol=1e-6)
    assert rates(1, lr=1.0, schedule="cosine") == [1.0]


# --- the optimizers ---

OPTIMIZERS = [
    ("adam", 0.0, lambda p: torch.optim.Adam(p, lr=0.03)),
    ("adam", 0.1, lambda p: torch.optim.Adam(p, lr=0.03, weight_decay=0.1)),
    ("adamw", 0.1, lambda p: torch.optim.AdamW(p, lr=0.03, weight_decay=0.1)),
    ("adamw", 0.0, lambda p: torch.optim.AdamW(p, lr=0.03, weight_decay=0.0)),
    ("sgd", 0.0, lambda p: torch.optim.SGD(p, lr=0.03, momentum=0.8)),
    ("sgd", 0.1, lambda p: torch.optim.SGD(p, lr=0.03, momentum=0.8, weight_decay=0.1)),
]


@pytest.mark.parametrize(("name", "weight_decay", "theirs"), OPTIMIZERS)
def test_optimizers_are_torchs(name, weight_decay, theirs):
    rng = np.random.default_rng(0)
    start = {"a": rng.normal(size=(3, 4)), "b": rng.normal(size=5)}
    config = CharConfig(optimizer=name, weight_decay=weight_decay, momentum=0.8)
    transform = training.optimizer(config)
    params = {k: jnp.asarray(v) for k, v in start.items()}
    moments = transform.init(params)
    twins = {k: torch.nn.Parameter(torch.tensor(v)) for k, v in start.items()}
    optimizer = theirs(list(twins.values()))
    for step in range(6):
        scale = (1.0, 1e-4, 1e3)[step % 3]
        grads = {k: scale * rng.normal(size=v.shape) for k, v in start.items()}
        updates, moments = transform.update(jax.tree.map(jnp.asarray, grads), moments, params)
        params = jax.tree.map(lambda p, u: p - 0.03 * u, params, updates)
        for k, twin in twins.items():
            twin.grad = torch.tensor(grads[k])
        optimizer.step()
        for k, twin in twins.items():
            assert_close(params[k], twin.detach(), what=f"{k} after step {step}")


# --- a training step ---


def torch_twin(params, num_symbols: int, config: CharConfig) -> torch.nn.ModuleDict:
    rnn = torch.nn.LSTM(num_symbols, config.hidden_size, config.num_layers, batch_first=True)
    twin = torch.nn.ModuleDict(
        {"rnn": rnn, "decoder": torch.nn.Linear(config.hidden_size, num_symbols)}
    ).double()
    twin.load_state_dict({k: torch.tensor(np.array(v)) for k, v in params.items()})
    return twin


def test_training_steps_are_torchs(text_file):
    """Loss, gradient norm, clipping, AdamW, schedule and the carried, detached state."""
    config = char_config(
        text_file,
        cell="lstm",
        num_layers=2,
        dtype="float64",
        optimizer="adamw",
        weight_decay=0.1,
        clip=0.05,
        schedule="cosine",
        warmup_steps=2,
    )
    task, data = TASKS["char"].load(config)
    skeleton, _, state = training.initial_state(task, config)
    # A state other than zeros, that the first batch must not see.
    state = state._replace(carry=jax.tree.map(lambda c: c + 3.0, state.carry))
    twin = torch_twin(state.params, task.vocabulary.size, config)
    optimizer = torch.optim.AdamW(twin.parameters(), lr=1.0, weight_decay=0.1)
    total = 5
    step_fn = training.make_step(task, skeleton, config, total)
    rate = training.learning_rate(config, total)
    hidden: Any = None
    for step in range(total):
        batch = data.train.batch_at(step)
        state, metrics = step_fn(state, *training.stack_batches(data, step, 1, 1), 1)
        x = torch.nn.functional.one_hot(torch.tensor(batch.inputs).long(), task.vocabulary.size)
        y, hidden = twin["rnn"](x.double(), hidden)
        logits = twin["decoder"](y).flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(batch.targets).long().ravel())
        hidden = tuple(h.detach() for h in hidden)
        optimizer.param_groups[0]["lr"] = float(rate(step))
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(twin.parameters(), config.clip)
        assert norm > config.clip
        optimizer.step()
        assert_close(metrics.loss[0], loss.item())
        assert_close(metrics.grad_norm[0], norm.item())
        assert_close(metrics.lr[0], float(rate(step)))
        for k, p in twin.state_dict().items():
            assert_close(state.params[k], p, what=f"{k} after step {step}")
        for ours, theirs in zip(state.carry, hidden, strict=True):
            assert_close(ours, theirs, what=f"state after step {step}")
    assert int(state.step) == total


def test_a_gradient_within_the_limit_is_not_clipped(text_file):
    config = char_config(text_file, clip=0.0, optimizer="sgd", momentum=0.0, lr=1.0)
    task, data = TASKS["char"].load(config)
    after = {}
    for clip in (0.0, 1e6, 0.01):
        clipped = dataclasses.replace(config, clip=clip)
        skeleton, _, state = training.initial_state(task, clipped)
        before = {k: np.array(v) for k, v in state.params.items()}
        step = training.make_step(task, skeleton, clipped, 1)
        state, metrics = step(state, *training.stack_batches(data, 0, 1, 1), 1)
        after[clip] = {k: before[k] - np.asarray(v) for k, v in state.params.items()}
    assert_same_bits(after[0.0], after[1e6])
    scale = 0.01 / (float(metrics.grad_norm[0]) + 1e-6)
    for k, change in after[0.01].items():
        assert_close(change, scale * after[0.0][k], "float32")


def test_the_state_is_zeroed_at_the_start_of_an_epoch_only(text_file):
    config = char_config(text_file)
    task, data = TASKS["char"].load(config)
    skeleton, _, state = training.initial_state(task, config)
    step = training.make_step(task, skeleton, config, 10)
    inputs, targets, _ = training.stack_batches(data, 1, 1, 1)

    def loss_from(offset, starts):
        given = jax.tree.map(jnp.array, state)._replace(carry=state.carry + offset)
        new, metrics = step(given, inputs, targets, np.array([starts]), 1)
        return float(metrics.loss[0]), np.asarray(new.carry)

    zeros, zeros_carry = loss_from(0.0, False)
    assert loss_from(0.9, False)[0] != zeros
    loss, carry = loss_from(0.9, True)
    assert loss == zeros
    assert_same_bits(carry, zeros_carry)


def test_grouped_steps_give_the_same_bits(text_file):
    config = char_config(text_file, num_layers=2, dropout=0.4, schedule="cosine", warmup_steps=2)
    task, data = TASKS["char"].load(config)
    skeleton, _, initial = training.initial_state(task, config)
    step_fn = training.make_step(task, skeleton, config, 6)
    ends, losses = [], []
    for capacity, counts in ((1, [1] * 6), (4, [4, 2]), (4, [1, 3, 2])):
        state, step, values = jax.tree.map(jnp.array, initial), 0, []
        for count in counts:
            batches = training.stack_batches(data, step, count, capacity)
            state, metrics = step_fn(state, *batches, count)
            values += np.asarray(metrics.loss)[:count].tolist()
            step += count
        ends.append(state)
        losses.append(values)
    for end, values in zip(ends[1:], losses[1:], strict=True):
        assert_same_bits(end, ends[0])
        assert values == losses[0]
    assert len(set(losses[0])) == 6


def test_dropout_draws_other_masks_each_step_and_by_the_seed(text_file):
    config = char_config(text_file, dropout=0.5, lr=1e-30)
    task, data = TASKS["char"].load(config)
    skeleton, _, state = training.initial_state(task, config)
    step_fn = training.make_step(task, skeleton, config, 4)
    inputs, targets, _ = training.stack_batches(data, 0, 1, 4)
    _, metrics = step_fn(state, inputs, targets, np.array([True] * 4), 4)  # the same batch each
    assert len(set(np.asarray(metrics.loss).tolist())) == 4


def steps_of(config, count=3):
    """Losses, gradient norms and the state after some steps."""
    task, data = TASKS["char"].load(config)
    skeleton, _, state = training.initial_state(task, config)
    state = jax.device_put(state, training.shardings(training.data_mesh(config))[0])
    step = training.make_step(task, skeleton, config, count)
    state, metrics = step(state, *training.stack_batches(data, 0, count, count), count)
    return state, metrics


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_devices_that_share_a_batch_do_what_one_does(text_file, cell):
    options = {"cell": cell, "num_layers": 2, "dropout": 0.4, "batch_size": 4, "dtype": "float64"}
    one, two = (char_config(text_file, mesh=f"data={n}", **options) for n in (1, 2))
    state, metrics = steps_of(two)
    assert len(state.params["decoder.weight"].sharding.device_set) == 2
    carry = jax.tree.leaves(state.carry)[0]
    assert {shard.data.shape[1] for shard in carry.addressable_shards} == {2}  # rows of 4
    expected_state, expected = steps_of(one)
    jax.tree.map(assert_close, metrics, expected)  # the masks too are those of one device
    jax.tree.map(assert_close, state, expected_state)


def test_a_mesh_as_large_as_the_machine_and_not_larger(text_file):
    config = char_config(text_file, batch_size=32)
    assert training.data_mesh(config).size == 2  # of the two devices that these tests have
    assert training.data_mesh(dataclasses.replace(config, batch_size=3)).size == 1
    with pytest.raises(
        InputError, match=r"--mesh is data=4, but JAX finds 2 devices; use --mesh auto"
    ):
        training.data_mesh(dataclasses.replace(config, mesh="data=4"))


@pytest.mark.parametrize("seq_len", [4, 9, 11])  # 2 x 2, 3 x 3, and 2 x 4 and a rest of 3
def test_in_chunks_of_sqrt_of_the_steps_the_same_is_learned(text_file, seq_len):
    options = {"cell": "lstm", "num_layers": 2, "seq_len": seq_len, "dtype": "float64"}
    state, metrics = steps_of(char_config(text_file, remat=True, **options))
    expected_state, expected = steps_of(char_config(text_file, **options))
    jax.tree.map(assert_close, metrics, expected)
    jax.tree.map(assert_close, state, expected_state)


def test_dropout_in_chunks_is_on_and_differs_from_chunk_to_chunk():
    seen = []

    def loss_of(params, batch, carry, key):
        jax.debug.callback(lambda bits: seen.append(int(bits)), jax.random.bits(key))
        return params * batch[0].mean(), carry

    chunked = training.in_chunks(loss_of)
    batch = (jnp.ones((2, 11)), jnp.ones((2, 11)))
    loss, _ = chunked(jnp.float64(3.0), batch, None, jax.random.key(0))
    jax.effects_barrier()
    assert_close(loss, 3.0)
    assert len(seen) == len(set(seen)) == 3


def test_memory_in_chunks_grows_with_the_square_root_of_the_steps(text_file):
    """Temporary buffers of a whole training step, as XLA plans them; nothing is run."""

    def temporary(seq_len, remat):
        config = char_config(text_file, hidden_size=32, seq_len=seq_len, remat=remat, batch_size=2)
        task, _ = TASKS["char"].load(dataclasses.replace(config, seq_len=4))
        skeleton, _, state = training.initial_state(task, config)
        step = training.make_step(task, skeleton, config, 1)
        ids = jnp.zeros((1, 2, seq_len), jnp.int32)
        program = step.lower(state, ids, ids, jnp.zeros(1, bool), 1).compile()
        memory = program.memory_analysis()
        assert memory is not None
        return memory.temp_size_in_bytes

    plain, chunked = temporary(8192, False), temporary(8192, True)
    assert plain > 8 * chunked
    assert 1.9 < plain / temporary(4096, False) < 2.1


def test_stacked_batches_are_those_of_the_steps(text_file):
    _, data = TASKS["char"].load(char_config(text_file))
    inputs, targets, starts = training.stack_batches(data, 3, 2, 4)
    assert inputs.shape == (4, 3, 4)
    for k, step in enumerate((3, 4)):
        np.testing.assert_array_equal(inputs[k], data.train.batch_at(step).inputs)
        np.testing.assert_array_equal(targets[k], data.train.batch_at(step).targets)
    assert starts.tolist()[:2] == [False, False]


def test_steps_and_steps_in_a_dispatch(text_file):
    config = char_config(text_file, epochs=3)
    _, data = TASKS["char"].load(config)
    assert training.total_steps(config, data) == 3 * data.train.steps_per_epoch
    assert training.total_steps(char_config(text_file, steps=5), data) == 5
    params = {"w": jnp.zeros((100, 100))}
    options: dict[str, Any] = {"batch_size": 10, "seq_len": 10}
    assert training.steps_per_dispatch(char_config(text_file, **options), params) == 100
    options = {"batch_size": 1000, "seq_len": 9999}  # 6 * 1e4 * 1000 * 9999 = 6e11
    assert training.steps_per_dispatch(char_config(text_file, **options), params) == 1
    options["seq_len"] = 900
    assert training.steps_per_dispatch(char_config(text_file, **options), params) == 11
    assert training.steps_per_dispatch(char_config(text_file, steps_per_dispatch=7), params) == 7


# --- whole runs ---

PINNED = [2.2406, 1.6186, 1.3008, 1.0406, 0.93, 0.7325, 0.5924, 0.5593, 0.4693, 0.3935]


def test_pinned_losses(tmp_path, text_file):
    config = char_config(
        text_file, steps=80, run=str(tmp_path / "a"), log_every=10, val_fraction=0.0
    )
    run, outcome = train(config)
    losses = [round(line["loss"], 4) for line in run.metrics()]
    assert (outcome.reason, outcome.step) == ("done", 80)
    assert losses[-1] < losses[0] - 1
    np.testing.assert_allclose(
        losses,
        PINNED,
        rtol=2e-3,
        err_msg=f"training has changed. If it was meant to, set PINNED = {losses}",
    )


def test_a_run_leaves_what_it_promises(tmp_path, text_file):
    config = char_config(
        text_file, steps=8, eval_every=4, run=str(tmp_path / "a"), preview_length=20
    )
    run, outcome = train(config)
    assert {path.name for path in run.path.iterdir()} == {
        *("config.toml", "run.json", "metrics.jsonl", "checkpoints", "loss.png", "samples.txt")
    }
    assert (run.path / "loss.png").read_bytes().startswith(b"\x89PNG")
    lines = run.metrics()
    assert [line["step"] for line in lines] == list(range(1, 9))
    validated = [line for line in lines if "val_nats" in line]
    assert [line["step"] for line in validated] == [4, 8]
    steps_per_epoch = len(TEXT[: int(len(TEXT) * 0.9)]) // 12
    for line in lines:
        assert line["epoch"] == round(line["step"] / steps_per_epoch, 4)
        assert line["lr"] == pytest.approx(0.05)
        assert line["grad_norm"] > 0
        assert line["tokens_per_s"] > 0
    for line in validated:
        assert line["val_bits"] == pytest.approx(line["val_nats"] / math.log(2))
        assert line["val_perplexity"] == pytest.approx(math.exp(line["val_nats"]))
        assert len(line["sample"]) == 20
    samples = (run.path / "samples.txt").read_text()
    assert samples.startswith(f"--- step 4 ---\n{validated[0]['sample']}\n")
    assert f"--- step 8 ---\n{validated[1]['sample']}\n" in samples
    assert outcome.metrics == lines[-1]
    json.loads((run.path / "metrics.jsonl").read_text().splitlines()[0], parse_constant=pytest.fail)


def test_the_loss_of_a_line_is_the_mean_since_the_last_one(tmp_path, text_file):
    options: dict[str, Any] = {"steps": 7, "val_fraction": 0.0, "steps_per_dispatch": 2}
    every, _ = train(char_config(text_file, run=str(tmp_path / "a"), **options))
    third, _ = train(char_config(text_file, run=str(tmp_path / "b"), log_every=3, **options))
    losses = [line["loss"] for line in every.metrics()]
    expected = [np.mean(losses[:3]), np.mean(losses[3:6]), losses[6]]
    assert [line["step"] for line in third.metrics()] == [3, 6, 7]
    np.testing.assert_allclose([line["loss"] for line in third.metrics()], expected)


def validations(monkeypatch, values: dict[int, float]) -> None:
    """Validation gives these values, in order."""
    left = list(values.values())

    def evaluate(*_, **__):
        nats = left.pop(0)
        return {"nats": nats, "bits": nats, "perplexity": nats}

    monkeypatch.setattr(training, "evaluate", evaluate)


def test_early_stop_and_the_best_checkpoint(tmp_path, text_file, monkeypatch):
    validations(monkeypatch, {2: 3.0, 4: 2.0, 6: 2.5, 8: 1.95, 10: 9.0})
    config = char_config(
        text_file, steps=40, eval_every=2, patience=2, min_delta=0.1, run=str(tmp_path / "a")
    )
    run, outcome = train(config)
    assert (outcome.reason, outcome.step) == ("early stop", 8)
    assert (outcome.progress.best, outcome.progress.best_step) == (1.95, 8)
    assert [line["step"] for line in run.metrics()] == list(range(1, 9))
    assert last_of(run, "best")[1]["step"] == 8  # better, if by less than min_delta
    assert last_of(run, "last")[1]["step"] == 8
    assert last_of(run, "previous")[1]["step"] == 6
    run, outcome = go_on(run)
    assert (outcome.reason, outcome.step) == ("early stop", 8)


def test_an_early_stop_saves_where_it_stopped(tmp_path, text_file, monkeypatch):
    validations(monkeypatch, {2: 1.0, 4: 2.0, 6: 2.0, 8: 2.0})
    config = char_config(
        text_file,
        steps=40,
        eval_every=2,
        checkpoint_every=5,
        patience=3,
        run=str(tmp_path / "a"),
    )
    run, outcome = train(config)
    assert (outcome.reason, outcome.step) == ("early stop", 8)
    assert last_of(run)[1]["step"] == 8
    assert last_of(run, "best")[1]["step"] == 2


def test_the_best_is_kept_whenever_it_was(tmp_path, text_file, monkeypatch):
    """Also where validations and checkpoints fall on different steps."""
    validations(monkeypatch, {4: 1.0, 8: 2.0, 10: 3.0})
    config = char_config(
        text_file, steps=10, eval_every=4, checkpoint_every=3, run=str(tmp_path / "a")
    )
    run, outcome = train(config)
    assert outcome.progress.best_step == 4
    assert last_of(run)[1]["step"] == 10
    assert run.checkpoint_path("best").exists()
    assert last_of(run, "best")[1]["step"] == 4


def test_best_and_last_hold_the_parameters_of_their_steps(tmp_path, text_file, monkeypatch):
    validations(monkeypatch, {2: 1.0, 4: 2.0})
    run, _ = train(char_config(text_file, steps=4, eval_every=2, run=str(tmp_path / "a")))
    validations(monkeypatch, {2: 1.0})
    short, _ = train(char_config(text_file, steps=2, eval_every=2, run=str(tmp_path / "b")))
    assert_same_bits(last_of(run, "best")[0], last_of(short, "last")[0])
    assert int(last_of(run, "last")[0]["step"]) == 4


def stop_at(call: int):
    """A request to stop that comes at a call, as a signal does."""
    calls = iter(range(1, 10**6))
    return lambda: "SIGTERM" if next(calls) >= call else None


def test_stopped_and_resumed_gives_the_same_bits(tmp_path):
    """In one process, and its end moved; ``test_resume`` kills processes."""
    config = SeriesConfig(
        hidden_size=4, steps=14, eval_every=5, log_every=3, run=str(tmp_path / "a")
    )
    whole, _ = train(dataclasses.replace(config, steps_per_dispatch=1), "series")
    config = dataclasses.replace(config, run=str(tmp_path / "b"), steps_per_dispatch=3)
    cut, outcome = train(config, "series", stop_requested=stop_at(3))
    assert (outcome.reason, outcome.step) == ("SIGTERM", 8)  # after groups of 3, 2, 3
    assert last_of(cut)[1]["step"] == 8
    cut, outcome = go_on(cut)
    assert (outcome.reason, outcome.step) == ("done", 14)
    assert_same_bits(last_of(cut)[0], last_of(whole)[0])
    assert last_of(cut)[1] == last_of(whole)[1]
    assert_same_bits(last_of(cut, "best")[0], last_of(whole, "best")[0])
    assert lines_of(cut) == lines_of(whole)
    assert [line["step"] for line in lines_of(cut)] == [3, 5, 6, 9, 10, 12, 14]
    # A finished run gone on with to more steps, as if it had been meant so from the start.
    longer, _ = go_on(cut, dataclasses.replace(cut.config, steps=16))
    config = dataclasses.replace(config, steps=16, run=str(tmp_path / "c"))
    straight, _ = train(config, "series")
    assert_same_bits(last_of(longer)[0], last_of(straight)[0])


def test_a_shared_batch_resumes_to_the_bit_and_on_other_devices_to_rounding(tmp_path, text_file):
    options: dict[str, Any] = {"batch_size": 4, "dropout": 0.3, "steps": 9, "checkpoint_every": 4}
    config = char_config(text_file, mesh="data=2", dtype="float64", **options)
    whole, _ = train(dataclasses.replace(config, run=str(tmp_path / "whole")))
    for mesh in ("data=2", "data=1"):
        run = str(tmp_path / mesh)
        cut, outcome = train(dataclasses.replace(config, run=run), stop_requested=stop_at(3))
        assert outcome.reason == "SIGTERM"
        assert outcome.step < 9
        cut, outcome = go_on(cut, dataclasses.replace(cut.config, mesh=mesh))
        assert (outcome.reason, outcome.step) == ("done", 9)
        jax.tree.map(assert_close, last_of(cut)[0], last_of(whole)[0])
        if mesh == "data=2":
            assert_same_bits(last_of(cut)[0], last_of(whole)[0])


def test_a_damaged_last_checkpoint_is_said_and_the_one_before_it_gone_on_from(tmp_path, text_file):
    config = char_config(text_file, steps=9, checkpoint_every=3, run=str(tmp_path / "a"))
    run, _ = train(config)
    whole = last_of(run)
    last = run.checkpoint_path("last")
    last.write_bytes(last.read_bytes()[:-10])
    out = io.StringIO()
    run, outcome = go_on(run, display=Display(Console(file=out, soft_wrap=True, width=80)))
    said = [line for line in out.getvalue().splitlines() if str(last) in line]
    assert len(said) == 1
    assert said[0].endswith("going on from the checkpoint before it")
    assert (outcome.reason, outcome.step) == ("done", 9)
    assert_same_bits(last_of(run)[0], whole[0])
    assert [line["step"] for line in run.metrics()] == list(range(1, 10))


# --- losses that are not finite ---


def test_a_loss_that_is_not_finite_ends_the_run_with_the_last_good_checkpoint(
    tmp_path, text_file, monkeypatch
):
    original = training.stack_batches
    config = SeriesConfig(
        hidden_size=4, steps=9, checkpoint_every=2, eval_every=100, run=str(tmp_path / "a")
    )

    def poisoned(data, step, count, capacity):
        inputs, targets, starts = original(data, step, count, capacity)
        for k in range(count):
            if step + k == 5:
                targets[k] = np.nan
        return inputs, targets, starts

    monkeypatch.setattr(training, "stack_batches", poisoned)
    task, data = TASKS["series"].load(config)
    run = Run.create("series", config, data.facts)
    last = run.checkpoint_path("last")
    with pytest.raises(training.NotFiniteError) as caught:
        training.train(task, data, run, display=quiet())
    assert str(caught.value).startswith("step 6: the loss is nan, the gradient's norm ")
    assert f"the last good checkpoint is {last}" in str(caught.value)
    assert "\n" not in str(caught.value)
    arrays, meta = last_of(run)
    assert meta["step"] == 4
    assert all(np.isfinite(array).all() for array in arrays.values())
    assert all(line["step"] <= 5 for line in run.metrics())
    monkeypatch.setattr(training, "stack_batches", original)
    _, outcome = go_on(run)  # the checkpoint is good to go on from
    assert outcome.step == 9


def test_without_a_checkpoint_none_is_named(tmp_path, text_file, monkeypatch):
    original = training.stack_batches

    def poisoned(*arguments):
        inputs, targets, starts = original(*arguments)
        return inputs, np.full_like(targets, np.inf), starts

    monkeypatch.setattr(training, "stack_batches", poisoned)
    config = SeriesConfig(hidden_size=4, steps=9, run=str(tmp_path / "a"))
    with pytest.raises(training.NotFiniteError, match=r"step 1: .* no checkpoint was made yet"):
        train(config, "series")
    assert list((tmp_path / "a" / "checkpoints").iterdir()) == []


def test_parameters_that_are_not_finite_are_not_saved(tmp_path, text_file):
    """The loss of a step is that before its update: its parameters may be worse."""
    config = char_config(
        text_file,
        steps=6,
        checkpoint_every=1,
        run=str(tmp_path / "a"),
        optimizer="sgd",
        lr=3e38,
        clip=0.0,
        val_fraction=0.0,
        weight_decay=5.0,
    )
    with pytest.raises(training.NotFiniteError):
        train(config)
    for path in Path(tmp_path / "a" / "checkpoints").iterdir():
        arrays, _ = checkpoint.read(path)
        for name, array in arrays.items():
            assert np.isfinite(array).all(), f"{name} in {path.name}"


def test_a_validation_that_is_not_finite_is_never_the_best(tmp_path, text_file, monkeypatch):
    validations(monkeypatch, {2: math.nan, 4: 2.0, 6: 3.0})
    config = char_config(text_file, steps=6, eval_every=2, run=str(tmp_path / "a"))
    try:
        run, outcome = train(config)
    except training.NotFiniteError:
        return  # to stop is as good
    assert (outcome.progress.best, outcome.progress.best_step) == (2.0, 4)
    assert last_of(run, "best")[1]["step"] == 4


def test_models_of_a_run_are_loaded_for_inference(tmp_path, text_file, monkeypatch):
    validations(monkeypatch, {2: 1.0, 4: 2.0})
    config = char_config(text_file, steps=4, eval_every=2, dropout=0.5, run=str(tmp_path / "a"))
    run, _ = train(config)
    task = TASKS["char"].from_facts(run.config, run.facts)
    for name, expected in (("auto", "best"), ("best", "best"), ("last", "last")):
        skeleton, params, meta = training.load_model(task, run, name)
        assert meta["name"] == expected
        arrays = last_of(run, expected)[0]
        for k, value in params.items():
            assert_same_bits(value, arrays[f"params/{k}"])
        _, again = split(skeleton.merge(params))
        assert_same_bits(again, params)
    carry = training.load_carry(task, run, "last")
    assert_same_bits(carry, last_of(run)[0]["carry"])
