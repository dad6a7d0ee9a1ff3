"""The training step beside torch.optim's, alone, shared by devices and in chunks."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from small_runs import assert_same_bits, char_config, steps_of
from tolerances import assert_close

from jaxrnn import mesh, train_step, training
from jaxrnn.config import CharConfig
from jaxrnn.errors import InputError
from jaxrnn.tasks import TASKS

# --- the learning rate ---


def rates(total: int, **options: Any) -> list[float]:
    options = {"schedule": "constant", "warmup_steps": 0} | options
    rate = train_step.learning_rate(CharConfig(**options), total)
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


def test_an_exponential_falls_by_its_factor_towards_the_final_rate():
    options = {"lr": 1.0, "lr_final": 0.2, "lr_decay": 0.5, "schedule": "exponential"}
    np.testing.assert_allclose(rates(4, **options), [1.0, 0.6, 0.4, 0.3], rtol=1e-6)
    np.testing.assert_allclose(
        rates(5, **options, warmup_steps=2), [0.5, 1.0, 1.0, 0.6, 0.4], rtol=1e-6
    )


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
    transform = train_step.optimizer(config)
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
    skeleton, _, state = train_step.initial_state(task, config)
    # A state other than zeros, that the first batch must not see.
    state = state._replace(carry=jax.tree.map(lambda c: c + 3.0, state.carry))
    twin = torch_twin(state.params, task.vocabulary.size, config)
    optimizer = torch.optim.AdamW(twin.parameters(), lr=1.0, weight_decay=0.1)
    total = 5
    step_fn = train_step.make_step(task.loss, skeleton, config, total)
    rate = train_step.learning_rate(config, total)
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
        skeleton, _, state = train_step.initial_state(task, clipped)
        before = {k: np.array(v) for k, v in state.params.items()}
        step = train_step.make_step(task.loss, skeleton, clipped, 1)
        state, metrics = step(state, *training.stack_batches(data, 0, 1, 1), 1)
        after[clip] = {k: before[k] - np.asarray(v) for k, v in state.params.items()}
    assert_same_bits(after[0.0], after[1e6])
    scale = 0.01 / (float(metrics.grad_norm[0]) + 1e-6)
    for k, change in after[0.01].items():
        assert_close(change, scale * after[0.0][k], "float32")


def test_elements_of_a_gradient_are_clipped_as_torch_clips_them(text_file):
    config = char_config(text_file, clip=0.0, optimizer="sgd", momentum=0.0, lr=1.0)
    task, data = TASKS["char"].load(config)
    changes = {}
    for clip_value in (0.0, 0.01):
        clipped = dataclasses.replace(config, clip_value=clip_value)
        skeleton, _, state = train_step.initial_state(task, clipped)
        before = {k: np.array(v) for k, v in state.params.items()}
        step = train_step.make_step(task.loss, skeleton, clipped, 1)
        state, _ = step(state, *training.stack_batches(data, 0, 1, 1), 1)
        changes[clip_value] = {k: np.asarray(v) - before[k] for k, v in state.params.items()}
    parameters = [torch.nn.Parameter(torch.zeros(v.shape)) for v in changes[0.0].values()]
    for parameter, change in zip(parameters, changes[0.0].values(), strict=True):
        parameter.grad = torch.tensor(change)
    torch.nn.utils.clip_grad_value_(parameters, 0.01)
    for parameter, change in zip(parameters, changes[0.01].values(), strict=True):
        assert_close(change, parameter.grad, "float32")
    assert max(np.abs(change).max() for change in changes[0.0].values()) > 0.02


def test_the_state_is_zeroed_at_the_start_of_an_epoch_only(text_file):
    config = char_config(text_file)
    task, data = TASKS["char"].load(config)
    skeleton, _, state = train_step.initial_state(task, config)
    step = train_step.make_step(task.loss, skeleton, config, 10)
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
    skeleton, _, initial = train_step.initial_state(task, config)
    step_fn = train_step.make_step(task.loss, skeleton, config, 6)
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
    skeleton, _, state = train_step.initial_state(task, config)
    step_fn = train_step.make_step(task.loss, skeleton, config, 4)
    inputs, targets, _ = training.stack_batches(data, 0, 1, 4)
    _, metrics = step_fn(state, inputs, targets, np.array([True] * 4), 4)  # the same batch each
    assert len(set(np.asarray(metrics.loss).tolist())) == 4


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
    assert mesh.device_mesh(config).size == 2  # of the two devices that these tests have
    assert mesh.device_mesh(dataclasses.replace(config, batch_size=3)).size == 1
    with pytest.raises(
        InputError, match=r"--mesh is data=4, but JAX finds 2 devices; use --mesh auto"
    ):
        mesh.device_mesh(dataclasses.replace(config, mesh="data=4"))


@pytest.mark.parametrize("seq_len", [4, 9, 11])  # 2 x 2, 3 x 3, and 2 x 4 and a rest of 3
def test_in_chunks_of_sqrt_of_the_steps_the_same_is_learned(text_file, seq_len):
    options = {"cell": "lstm", "num_layers": 2, "seq_len": seq_len, "dtype": "float64"}
    state, metrics = steps_of(char_config(text_file, remat=True, **options))
    expected_state, expected = steps_of(char_config(text_file, **options))
    jax.tree.map(assert_close, metrics, expected)
    jax.tree.map(assert_close, state, expected_state)


def test_dropout_in_chunks_is_on_and_differs_from_chunk_to_chunk():
    seen = []

    def loss_of(params, batch, carry, key, step):
        jax.debug.callback(lambda bits: seen.append(int(bits)), jax.random.bits(key))
        return params * batch[0].mean(), carry

    chunked = train_step.in_chunks(loss_of)
    batch = (jnp.ones((2, 11)), jnp.ones((2, 11)))
    loss, _ = chunked(jnp.float64(3.0), batch, None, jax.random.key(0), 0)
    jax.effects_barrier()
    assert_close(loss, 3.0)
    assert len(seen) == len(set(seen)) == 3


def test_memory_grows_with_rows_and_steps_and_in_chunks_with_their_square_root(text_file):
    """Temporary buffers of a whole training step, as XLA plans them; nothing is run."""

    def temporary(seq_len, remat, rows=2):
        sizes = {"hidden_size": 32, "seq_len": seq_len, "batch_size": rows}
        config = char_config(text_file, **sizes, remat=remat)
        task, _ = TASKS["char"].load(dataclasses.replace(config, seq_len=4))
        skeleton, _, state = train_step.initial_state(task, config)
        step = train_step.make_step(task.loss, skeleton, config, 1)
        ids = jnp.zeros((1, rows, seq_len), jnp.int32)
        program = step.lower(state, ids, ids, jnp.zeros(1, bool), 1).compile()
        memory = program.memory_analysis()
        assert memory is not None
        return memory.temp_size_in_bytes

    plain, chunked = temporary(8192, False), temporary(8192, True)
    assert plain > 8 * chunked
    assert 1.9 < plain / temporary(4096, False) < 2.1
    assert 1.9 < temporary(4096, False, rows=4) / temporary(4096, False) < 2.1
