"""What made AWD-LSTM strong: training steps beside a script in torch, with the same masks."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from awd_lstm import drawn, key_of, masks_of, objective, resets_of
from flax import nnx
from small_runs import assert_same_bits, char_config, steps_of
from tolerances import assert_close

from jaxrnn import train_step, training
from jaxrnn.dropout import Dropout, weight_drop
from jaxrnn.models import split
from jaxrnn.models.char_lm import CharLM, generate
from jaxrnn.tasks import TASKS

DROPOUT: dict[str, Any] = {"dropout": 0.4, "locked_dropout": True}
INPUT: dict[str, Any] = {"embedding_size": 6, "embedding_dropout": 0.3, "input_dropout": 0.2}
WEIGHTS: dict[str, Any] = {"weight_drop": 0.5}
AR: dict[str, Any] = {"activation_reg": 2.0, "temporal_reg": 1.0}
TIED: dict[str, Any] = {"embedding_size": 5, "tie_embeddings": True}
RESETS: dict[str, Any] = {"reset_probability": 0.4}
CASES: dict[str, dict[str, Any]] = {
    **{f"weight drop, {cell}": WEIGHTS | {"cell": cell} for cell in ("lstm", "gru", "rnn")},
    "weight drop, reference": WEIGHTS | {"backend": "reference"},
    "locked dropout": DROPOUT,
    "locked dropout, gru": DROPOUT | {"cell": "gru"},
    "dropout of the embedding": INPUT,
    "activations": AR | DROPOUT,
    "activations, gru": AR | {"cell": "gru"},
    "resets": RESETS,
    "tied": TIED,
    "all": DROPOUT | INPUT | WEIGHTS | TIED | AR | RESETS,
}


def config_of(text_file, **options):
    """Plain gradient descent: a step's change of a parameter is its gradient."""
    options = {"cell": "lstm", "num_layers": 2, "dtype": "float64", "mesh": "data=1"} | options
    return char_config(text_file, clip=0.0, optimizer="sgd", momentum=0.0, lr=1.0, **options)


@pytest.mark.parametrize("case", CASES)
def test_steps_are_those_of_torch(text_file, case):
    config = config_of(text_file, **CASES[case])
    task, data = TASKS["char"].load(config)
    skeleton, _, state = train_step.initial_state(task, config)
    step_fn = train_step.make_step(task.loss, skeleton, config, 3)
    members = state.carry if isinstance(state.carry, tuple) else (state.carry,)
    hidden = [torch.tensor(np.array(member)) for member in members]
    params = {k: torch.tensor(np.array(v)) for k, v in state.params.items()}
    resets = []
    for step in range(3):
        batch = data.train.batch_at(step)
        state, metrics = step_fn(state, *training.stack_batches(data, step, 1, 1), 1)
        params = {k: p.detach().requires_grad_() for k, p in params.items()}
        if config.reset_probability:
            kept = torch.tensor(resets_of(config, step))[None, :, None]
            hidden = [member * kept for member in hidden]
            resets.append(1 - kept.double().mean().item())
        masks = masks_of(config, step, task.vocabulary.size)
        nats, penalty, hidden = objective(
            params, batch.inputs, batch.targets, hidden, config, masks
        )
        (nats + penalty).backward()
        assert_close(metrics.loss[0], nats.item())  # without what is added to it
        params = {k: p.detach() - p.grad for k, p in params.items()}
        assert state.params.keys() == params.keys()
        for name, expected in params.items():
            assert_close(state.params[name], expected, what=f"{name} after step {step}")
        carry = state.carry if isinstance(state.carry, tuple) else (state.carry,)
        for ours, theirs in zip(carry, hidden, strict=True):
            assert_close(ours, theirs)
    assert not resets or 0 < np.mean(resets) < 1


@pytest.mark.parametrize("case", ["locked dropout, gru", "all"])
@pytest.mark.parametrize("seq_len", [9, 11])  # chunks of 3, and of 4, 4 and 3
def test_in_chunks_the_masks_are_those_of_the_whole(text_file, case, seq_len):
    options = CASES[case] | {"seq_len": seq_len, "temporal_reg": 0.0}
    state, metrics = steps_of(config_of(text_file, remat=True, **options))
    expected_state, expected = steps_of(config_of(text_file, **options))
    jax.tree.map(assert_close, metrics, expected)
    jax.tree.map(assert_close, state, expected_state)


@pytest.mark.parametrize("cell", ["lstm", "mingru"])
def test_masks_are_the_same_however_a_batch_is_shared(text_file, cell):
    options = DROPOUT | INPUT | AR | TIED | RESETS | {"cell": cell, "batch_size": 4}
    options |= WEIGHTS if cell == "lstm" else {}
    one, two = (config_of(text_file, **options | {"mesh": f"data={n}"}) for n in (1, 2))
    jax.tree.map(assert_close, steps_of(two), steps_of(one))


def test_nothing_is_drawn_where_nothing_is_dropped(text_file):
    """A hash of a mask, or threefry, has exclusive ors; such a program has none."""

    def operations(**options):
        config = config_of(text_file, num_layers=1, **options)
        task, data = TASKS["char"].load(config)
        skeleton, _, state = train_step.initial_state(task, config)
        step = train_step.make_step(task.loss, skeleton, config, 1)
        program = step.lower(state, *training.stack_batches(data, 0, 1, 1), 1).compile()
        return str(program.as_text()).count(" xor(")

    assert operations() == 0
    assert operations(weight_drop=0.5) > 0


def test_weight_drop_is_of_every_layer_and_direction_and_of_nothing_else():
    import jaxrnn

    lstm = jaxrnn.LSTM(4, 6, 2, bidirectional=True, proj_size=3, rngs=nnx.Rngs(0))
    _, params = split(lstm)
    key = jax.random.key(3)
    found = weight_drop(params, 0.25, key)
    assert list(found) == list(params)
    names = [name for name in params if name.startswith("weight_hh")]
    assert names == ["weight_hh_l0", "weight_hh_l0_reverse", "weight_hh_l1", "weight_hh_l1_reverse"]
    for name in params:
        if name not in names:
            np.testing.assert_array_equal(found[name], params[name])
    scales = [np.asarray(found[name] / params[name]) for name in names]
    for k, scale in enumerate(scales):
        expected = drawn(jax.random.fold_in(key, k), 0.25, 24, 3)
        np.testing.assert_allclose(scale, expected, rtol=1e-6)
        assert 0.6 < (scale != 0).mean() < 0.9
    assert not np.array_equal(scales[0], scales[1])
    assert not any(np.any(weight_drop(params, 1.0, key)[name]) for name in names)
    np.testing.assert_array_equal(weight_drop(params, 0.0, key)[names[0]], params[names[0]])


def test_weight_drop_of_cells_of_any_model(text_file):
    """Masks are found by the parameter's name, wherever in a model it is."""
    config = config_of(text_file, weight_drop=0.5)
    keys = {"rnn.weight_hh_l0", "rnn.weight_hh_l1"}
    task, _ = TASKS["char"].load(config)
    _, _, state = train_step.initial_state(task, config)
    found = weight_drop(state.params, 0.5, key_of(config, 0))
    changed = {k for k, v in found.items() if not np.array_equal(v, state.params[k])}
    assert changed == keys


@pytest.mark.parametrize("axis", [0, 1])
def test_places_along_a_shared_axis_have_one_mask(axis):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3, 40)))
    y = Dropout(0.5, rngs=nnx.Rngs(0), shared_axis=axis)(x, rngs=nnx.Rngs(locked=1))
    kept = np.asarray(y != 0)
    np.testing.assert_allclose(np.asarray(y)[kept], 2 * np.asarray(x)[kept])
    first = kept.take([0], axis)
    np.testing.assert_array_equal(kept, np.broadcast_to(first, kept.shape))
    assert 0.3 < first.mean() < 0.7


def test_blocks_of_minimal_cells_lock_their_dropout():
    """A text of one symbol and zero state, its convolutions warm: all steps are the same."""
    options: dict[str, Any] = {"hidden_size": 8, "num_layers": 2, "dropout": 0.5}
    ids = jnp.zeros((2, 30), jnp.int32)

    def steps(locked):
        from jaxrnn.models.min_blocks import MinCharLM

        model = MinCharLM(
            7, cell="mingru", locked_dropout=locked, rngs=nnx.Rngs(0),
            param_dtype=jnp.float64, **options,
        )  # fmt: skip
        logits, _ = model(ids, rngs=nnx.Rngs(dropout=1, locked=2))
        return np.abs(np.diff(np.asarray(logits)[:, -5:], axis=1)).max()

    assert steps(True) < 1e-3  # the state has come near its limit
    assert steps(False) > 0.1


def test_evaluation_and_generation_drop_nothing_and_keep_the_mode():
    sizes: dict[str, Any] = {"hidden_size": 6, "embedding_size": 4}
    plain = CharLM(7, rngs=nnx.Rngs(0), **sizes)
    model = CharLM(7, embedding_dropout=0.5, input_dropout=0.5, rngs=nnx.Rngs(0), **sizes)
    skeleton, _ = split(model)
    model = skeleton.merge(split(plain)[1])
    ids = jnp.arange(6)[None]
    prime = np.array([1, 2])
    key = jax.random.key(0)
    text = np.concatenate(list(generate(model, prime, length=20, key=key)))
    np.testing.assert_array_equal(
        text, np.concatenate(list(generate(plain, prime, length=20, key=key)))
    )
    assert not np.array_equal(model(ids)[0], plain(ids)[0])  # still in training
    model.eval()
    assert_same_bits(model(ids)[0], plain(ids)[0])


def test_dropout_of_an_embedding_that_is_not_there_is_refused():
    rngs = nnx.Rngs(0)
    with pytest.raises(ValueError, match=r"expected 0: embedding_size is 0"):
        CharLM(7, embedding_dropout=0.5, rngs=rngs)
    with pytest.raises(ValueError, match=r"expected 0: embedding_size is 0"):
        CharLM(7, input_dropout=0.5, rngs=rngs)


def test_a_tied_model_has_one_weight_that_starts_as_a_decoders():
    model = CharLM(7, hidden_size=6, embedding_size=6, tie_embeddings=True, rngs=nnx.Rngs(0))
    _, params = split(model)
    assert set(params) == {
        "embedding.weight",
        "decoder.bias",
        *(f"rnn.{name}_l0" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")),
    }
    largest = np.abs(np.asarray(params["embedding.weight"])).max()
    assert 0.8 * 6**-0.5 < largest <= 6**-0.5
    with pytest.raises(ValueError, match=r"embedding_size is 4, expected hidden_size=6"):
        CharLM(7, hidden_size=6, embedding_size=4, tie_embeddings=True, rngs=nnx.Rngs(0))
