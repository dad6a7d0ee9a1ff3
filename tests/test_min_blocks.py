"""The language model around MinGRU and MinLSTM: its equations, its state, and what trains it."""

import dataclasses
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from min_cases import IDS, LENGTHS, B, E, H, L, T, V, build, cells, state_of
from small_runs import assert_same_bits, char_config, go_on, last_of, lines_of, steps_of, train
from tolerances import assert_close
from twins import filled

from jaxrnn import training
from jaxrnn.config import CharConfig, SineConfig
from jaxrnn.errors import InputError
from jaxrnn.models import split
from jaxrnn.models.char_lm import CharLM, generate, next_symbol
from jaxrnn.models.min_blocks import CausalConv, MinCharLM, MinGRUBlocks
from jaxrnn.tasks import TASKS


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def normed(x, weight):
    return weight * x / np.sqrt((x**2).mean() + 1e-5)


def gelu(a):
    """The approximation by tanh (arXiv 1606.08415)."""
    return a / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (a + 0.044715 * a**3)))


def cell_step(cell, gates, h):
    gates = gates.reshape(-1, len(h))
    candidate = np.where(gates[-1] >= 0, gates[-1] + 0.5, sigmoid(gates[-1]))
    if cell == "mingru":
        z = sigmoid(gates[0])
        return (1 - z) * h + z * candidate
    f, i = sigmoid(gates[:2])
    return (f * h + i * candidate) / (f + i)


def one_symbol(cell, p, k, h, conv):
    """Logits of one symbol of one sequence; h (L, 2*H) and conv (L, 3, H) are changed."""
    x = p["embedding.weight"][k] if "embedding.weight" in p else np.eye(V)[k]
    x = p["rnn.input.weight"] @ x + p["rnn.input.bias"]
    for layer in range(len(h)):

        def of(name, layer=layer):
            return p[f"rnn.blocks.{layer}.{name}"]

        window = np.concatenate([conv[layer], normed(x, of("norm.weight"))[None]])
        conv[layer] = window[1:]
        read = (of("conv.weight")[:, 0].T * window).sum(0) + of("conv.bias")
        gates = of("rnn.weight_ih_l0") @ read + of("rnn.bias_ih_l0")
        h[layer] = cell_step(cell, gates, h[layer])
        x = x + of("out.weight") @ h[layer] + of("out.bias")
        inner = of("mlp_in.weight") @ normed(x, of("mlp_norm.weight")) + of("mlp_in.bias")
        x = x + of("mlp_out.weight") @ gelu(inner) + of("mlp_out.bias")
    return p["decoder.weight"] @ normed(x, p["rnn.norm.weight"]) + p["decoder.bias"]


@cells
@pytest.mark.parametrize("embedding_size", [0, E])
def test_logits_and_states_are_those_of_a_loop_in_numpy(cell, embedding_size):
    model = build(cell, embedding_size=embedding_size)
    params = {key: np.asarray(value) for key, value in split(model)[1].items()}
    h, conv = (np.array(s) for s in state_of(model))
    logits, last = model(IDS, state_of(model))
    for b in range(B):
        for t in range(T):
            expected = one_symbol(cell, params, int(IDS[b, t]), h[:, b], conv[:, b])
            assert_close(logits[b, t], expected)
    assert_close(last[0], h)
    assert_close(last[1], conv)


@cells
@pytest.mark.parametrize("backend", ["associative", "scan"])
def test_a_text_is_its_parts_and_its_symbols_with_the_state_carried(cell, backend):
    model = build(cell, backend=backend)
    skeleton, params = split(model)
    run = jax.jit(lambda params, ids, state: skeleton.merge(params)(ids, state))
    whole = run(params, IDS, state_of(model))
    for ends in ((2, 6), (1, 2, 3, 4, 5, 6)):  # parts shorter than the convolution too
        state, parts, first = state_of(model), [], 0
        for end in ends:
            logits, state = run(params, IDS[:, first:end], state)
            parts.append(logits)
            first = end
        jax.tree.map(assert_close, (jnp.concatenate(parts, axis=1), state), whole)
    zeros = model.rnn.initial_state(B)
    assert [s.shape for s in zeros] == [(L, B, 2 * H), (L, B, 3, H)]
    jax.tree.map(assert_close, model(IDS), model(IDS, zeros))


def test_gradients_through_both_ways_to_solve_the_recurrence_are_one():
    def gradient(backend):
        skeleton, params = split(build("minlstm", backend=backend))

        def loss(params, state):
            logits, (h, conv) = skeleton.merge(params)(IDS, state, lengths=LENGTHS)
            return jnp.sin(logits).sum() + jnp.cos(h).sum() + jnp.cos(conv).sum()

        state = state_of(skeleton.merge(params))
        return jax.jit(jax.grad(loss, argnums=(0, 1)))(params, state)

    found, expected = gradient("associative"), gradient("reference")
    assert all(np.abs(v).max() > 1e-3 for v in jax.tree.leaves(expected))
    jax.tree.map(assert_close, found, expected)


@cells
def test_a_state_is_that_of_the_text_cut_at_its_length(cell):
    model = build(cell)
    logits, last = model(IDS, state_of(model), lengths=LENGTHS)
    padded = np.arange(T)[None] >= np.asarray(LENGTHS)[:, None]
    other = jnp.where(padded, (IDS + 1) % V, IDS)
    again = model(other, state_of(model), lengths=LENGTHS)
    jax.tree.map(np.testing.assert_array_equal, again, (logits, last))
    for b, length in enumerate(np.asarray(LENGTHS)):
        row = slice(b, b + 1)
        alone, state = model(IDS[row, :length], tuple(s[:, row] for s in state_of(model)))
        assert_close(logits[row, :length], alone)
        jax.tree.map(assert_close, state, tuple(s[:, row] for s in last))
        np.testing.assert_array_equal(logits[b, length:] - model.decoder.bias[...][None], 0)


@cells
def test_no_symbol_has_influence_on_what_comes_before(cell):
    model = build(cell)
    logits, _ = model(IDS)
    for t in range(T):
        other, _ = model(IDS.at[:, t].set((IDS[:, t] + 1) % V))
        np.testing.assert_array_equal(other[:, :t], logits[:, :t])
        assert np.abs(np.asarray(other[:, t:] - logits[:, t:])).max(axis=(0, 2)).min() > 1e-6


def test_a_convolution_is_torchs():
    import torch

    conv = filled(lambda: CausalConv(H, rngs=nnx.Rngs(0), param_dtype=jnp.float64), "float64")
    twin = torch.nn.Conv1d(H, H, 4, groups=H).double()
    twin.load_state_dict({n: torch.tensor(np.asarray(p)) for n, p in split(conv)[1].items()})
    x = np.random.default_rng(2).normal(size=(T + 3, B, H))
    expected = twin(torch.tensor(x).permute(1, 2, 0)).permute(2, 0, 1)
    assert_close(conv(jnp.asarray(x)), expected.detach())


@cells
def test_generation_is_the_whole_text_read_again(cell):
    model = build(cell)
    prime, key = np.array([1, 5, 2]), jax.random.key(0)
    written = np.concatenate(list(generate(model, prime, length=40, key=key)))
    text = np.concatenate([prime, written])
    logits, _ = model(jnp.asarray(text, jnp.int32)[None])
    for k, symbol in enumerate(written):
        uniform = jax.random.uniform(jax.random.fold_in(key, k), (1,))
        assert next_symbol(logits[:, 2 + k], uniform)[0] == symbol
    assert len(set(written.tolist())) > 2


def test_dropout_is_on_all_that_blocks_add():
    options: Any = {"batch_first": True, "dtype": jnp.float64, "param_dtype": jnp.float64}
    options |= {"rngs": nnx.Rngs(0), "backend": "auto"}
    blocks = MinGRUBlocks(E, H, 1, dropout=1.0, **options)
    x = jnp.asarray(np.random.default_rng(3).normal(size=(B, T, E)))
    y, _ = blocks(x)
    assert_close(y, blocks.norm(blocks.input(x)))
    model = MinCharLM(V, cell="mingru", hidden_size=H, dropout=0.5, rngs=nnx.Rngs(0))
    one, two = (model(IDS, rngs=nnx.Rngs(dropout=seed))[0] for seed in (1, 2))
    assert not np.array_equal(one, two)
    assert model.rnn.blocks[0].dropout.rate == 0.5  # also of a single block
    model.eval()
    one, two = (model(IDS, rngs=nnx.Rngs(dropout=seed))[0] for seed in (1, 2))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(("cell", "num_gates"), [("mingru", 2), ("minlstm", 3)])
def test_the_papers_sizes_have_so_many_parameters(cell, num_gates):
    make = lambda: MinCharLM(  # noqa: E731
        65, cell=cell, hidden_size=384, num_layers=3, rngs=nnx.Rngs(0)
    )
    _, params = split_shapes(make)
    size = 384
    block = (
        2 * size  # two norms
        + 5 * size  # the convolution
        + num_gates * 2 * size * (size + 1)
        + (2 * size + 1) * size
        + (size + 1) * 4 * size
        + (4 * size + 1) * size
    )
    count = sum(math.prod(p.shape) for p in params.values())
    assert count == 65 * size + size + 3 * block + size + (size + 1) * 65
    assert count == {"mingru": 6263489, "minlstm": 7150529}[cell]


def split_shapes(make):
    model = nnx.eval_shape(make)
    state = nnx.to_flat_state(nnx.state(model, nnx.Param))
    return model, {".".join(map(str, path)): param for path, param in state}


# --- as a task


def config_of(text_file, **options):
    return char_config(text_file, **{"cell": "mingru", **options})


def test_the_cell_chooses_the_model(text_file):
    for cell, kind in (("lstm", CharLM), ("mingru", MinCharLM), ("minlstm", MinCharLM)):
        config = char_config(text_file, cell=cell)
        task, _ = TASKS["char"].load(config)
        assert type(nnx.eval_shape(lambda t=task: t.model(nnx.Rngs(0)))) is kind
    assert config.body == "minlstm, 1 x 5"


def test_options_that_do_not_fit_the_cell_are_refused(unchecked):
    assert CharConfig(cell="mingru", backend="associative").backend == "associative"
    backends = "auto, scan, reference, cudnn, persistent, persistent-cluster"
    expected = f"--backend is associative, expected one of {backends}"
    for make in (CharConfig, SineConfig):
        with pytest.raises(InputError, match=f"{expected}$"):
            make(backend="associative")
    with pytest.raises(
        InputError, match=r"--backend is cudnn, expected .*, reference, associative"
    ):
        CharConfig(cell="minlstm", backend="cudnn")
    with pytest.raises(InputError, match="--cell is 'mingru', expected one of lstm, gru, rnn"):
        SineConfig(cell="mingru")  # type: ignore[arg-type]


def test_devices_share_a_batch_and_chunks_of_steps_learn_the_same(text_file):
    options = {"batch_size": 4, "seq_len": 5, "dtype": "float64", "cell": "minlstm"}
    expected = steps_of(config_of(text_file, mesh="data=1", **options))
    for changes in ({"mesh": "data=2"}, {"remat": True, "backend": "associative"}):
        found = steps_of(config_of(text_file, **{"mesh": "data=1", **options, **changes}))
        jax.tree.map(assert_close, found, expected)
    for carried in expected[0].carry:
        assert np.abs(np.asarray(carried)).max() > 0


def test_stopped_and_resumed_gives_the_same_bits_and_evaluation_the_same_nats(tmp_path, text_file):
    options: dict[str, Any] = {"dropout": 0.3, "steps": 7, "checkpoint_every": 3, "eval_every": 4}
    config = config_of(text_file, preview_length=5, **options)
    whole, _ = train(dataclasses.replace(config, run=str(tmp_path / "whole")))
    calls = itertools.chain([""], itertools.repeat("SIGTERM"))
    cut, outcome = train(
        dataclasses.replace(config, run=str(tmp_path / "cut")),
        stop_requested=lambda: next(calls) or None,
    )
    assert outcome.reason == "SIGTERM"
    assert 0 < outcome.step < 7
    cut, outcome = go_on(cut)
    assert (outcome.reason, outcome.step) == ("done", 7)
    assert_same_bits(last_of(cut)[0], last_of(whole)[0])
    assert lines_of(cut) == lines_of(whole)
    assert {"carry/0", "carry/1"} <= set(last_of(whole)[0])

    task, data = TASKS["char"].load(config, whole.facts)
    skeleton, params, _ = training.load_model(task, whole, "last")
    found = [training.evaluate(task, skeleton, params, data.held_out, 1, n) for n in (256, 4)]
    assert_close(found[0]["nats"], found[1]["nats"], "float32")
    assert_close(found[0]["nats"], outcome.metrics["val_nats"], "float32")
