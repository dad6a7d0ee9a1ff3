"""The task of drawings: its costs against the paper's sums, its data, whole runs."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import special
from small_runs import assert_same_bits, go_on, last_of, lines_of, train
from tolerances import assert_close

from jaxrnn import report
from jaxrnn.config import SketchConfig
from jaxrnn.data.sketch_npz import write_sketches
from jaxrnn.errors import InputError
from jaxrnn.mixture import offset_nats, split_outputs
from jaxrnn.tasks import TASKS
from jaxrnn.train_step import initial_state
from jaxrnn.training import evaluate

M = 2


def random_drawings(count, seed):
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        length = int(rng.integers(2, 12))
        drawing = np.zeros((length, 3), np.int16)
        drawing[:, :2] = rng.normal(size=(length, 2)) * 20
        drawing[:, 2] = rng.random(length) < 0.3
        drawing[-1, 2] = 1
        found.append(drawing)
    return found


def write_npz(path, counts=(14, 5, 3), seed=0):
    arrays = {}
    for k, (part, count) in enumerate(zip(("train", "valid", "test"), counts, strict=True)):
        drawings = random_drawings(count, seed + k)
        arrays[f"{part}_points"] = np.concatenate([*drawings, np.zeros((0, 3), np.int16)])
        arrays[f"{part}_lengths"] = np.array([len(d) for d in drawings], np.int64)
    np.savez(path, **arrays)
    return str(path)


@pytest.fixture
def cats(tmp_path):
    return write_npz(tmp_path / "cats.npz")


@pytest.fixture
def dogs(tmp_path):
    return write_npz(tmp_path / "dogs.npz", seed=10)


def config_of(*files, **options) -> SketchConfig:
    small: dict[str, Any] = {
        **{"hidden_size": 6, "encoder_size": 4, "latent_size": 3, "num_mixtures": M},
        **{"batch_size": 3, "preview_count": 0, "log_every": 1, "class_size": 2},
        "num_buckets": 1,
    }
    return SketchConfig(data=files, **(small | options))


def run_model(skeleton, params, inputs, seed=0):
    """Outputs and latent vectors, compiled once where plain calls compile every operation."""

    @jax.jit
    def run(params, strokes, lengths, classes):
        model = skeleton.merge(params)
        return model(strokes, lengths, classes, rngs=nnx.Rngs(latent=seed))

    return run(params, *map(jnp.asarray, inputs[:3]))


def loss_of(task, skeleton, inputs, seed, step):
    """The loss as a function of parameters."""

    def loss(params):
        rngs = nnx.Rngs(latent=seed)
        arrays = tuple(map(jnp.asarray, inputs))
        return task.loss(skeleton.merge(params), arrays, (), (), rngs, step)[0]

    return loss


def costs_by_hand(task, outputs, strokes):
    """Of offsets, pen and pen up to the end, (B,): equations 9 of the paper, summed in NumPy."""
    offset, pen, masked = np.zeros((3, len(strokes)))
    nats = np.asarray(offset_nats(split_outputs(outputs), jnp.asarray(strokes)[:, 1:, :2]))
    log_p = special.log_softmax(np.asarray(outputs[..., :3], np.float64), axis=-1)
    for b, row in enumerate(np.asarray(strokes)[:, 1:]):
        for t, point in enumerate(row):
            cost = -log_p[b, t, int(point[2:].argmax())]
            pen[b] += cost
            if not point[4]:
                masked[b] += cost
                offset[b] += nats[b, t]
    return offset / task.num_points, pen / task.num_points, masked / task.num_points


@pytest.mark.parametrize("conditional", [True, False])
def test_the_loss_is_the_papers(cats, conditional):
    config = config_of(cats, conditional=conditional, recurrent_dropout=0.0, kl_floor=0.0)
    task, data = TASKS["sketch"].load(config)
    skeleton, _, state = initial_state(task, config)
    inputs, targets, starts = data.train.batch_at(2)
    assert (targets, bool(starts)) == ((), False)
    outputs, latent = run_model(skeleton, state.params, inputs, seed=3)
    offset, pen, _ = costs_by_hand(task, outputs, inputs[0])
    expected = (offset + pen).mean()
    if latent is not None:
        mu, presig = np.asarray(latent.mu), np.asarray(latent.presig)
        kl = -0.5 * (1 + presig - mu**2 - np.exp(presig)).mean()
        weight = 0.5 - 0.49 * 0.99995**1000
        assert_close(task.kl_weight(1000), weight, "float32")
        expected += weight * kl
    loss = jax.jit(loss_of(task, skeleton, inputs, 3, 1000))(state.params)
    assert_close(loss, expected, "float32")


def test_the_latent_cost_is_not_lowered_below_its_floor(cats):
    config = config_of(cats, recurrent_dropout=0.0, kl_weight_start=0.5, kl_floor=0.2)
    task, data = TASKS["sketch"].load(config)
    skeleton, _, state = initial_state(task, config)
    inputs, _, _ = data.train.batch_at(0)
    loss = loss_of(task, skeleton, inputs, 0, 0)
    value, grads = jax.jit(jax.value_and_grad(loss))(state.params)
    outputs, _ = run_model(skeleton, state.params, inputs)
    offset, pen, _ = costs_by_hand(task, outputs, inputs[0])
    assert_close(value, (offset + pen).mean() + 0.5 * 0.2, "float32")  # at the start mu is near 0
    assert np.abs(np.asarray(grads["mu.weight"])).max() > 0  # through z


def test_magentas_arithmetic_pads_to_the_longest_of_all_and_has_its_floor(cats):
    config = config_of(cats, loss="magenta", recurrent_dropout=0.0, conditional=False)
    task, data = TASKS["sketch"].load(config)
    skeleton, _, state = initial_state(task, config)
    inputs, _, _ = data.train.batch_at(0)
    strokes, lengths, _ = map(jnp.asarray, inputs)
    assert strokes.shape == (3, task.num_points + 1, 5)
    ends = [strokes[b, length + 1 :] for b, length in enumerate(lengths)]
    np.testing.assert_array_equal(np.concatenate(ends), [[0, 0, 0, 0, 1]] * sum(map(len, ends)))
    outputs, _ = run_model(skeleton, state.params, inputs)
    nats = offset_nats(split_outputs(outputs), strokes[:, 1:, :2], magenta=True)
    drawn = np.asarray(strokes[:, 1:, 4] == 0)
    _, pen, _ = costs_by_hand(task, outputs, strokes)
    expected = np.where(drawn, nats, 0).sum(1) / task.num_points + pen
    loss = jax.jit(loss_of(task, skeleton, inputs, 0, 0))(state.params)
    assert_close(loss, expected.mean(), "float32")


@pytest.mark.parametrize("batch_size", [2, 5])
def test_what_is_held_out_is_measured_drawing_by_drawing(cats, batch_size):
    config = config_of(cats, batch_size=batch_size, conditional=False)
    task, data = TASKS["sketch"].load(config)
    _, skeleton, state = initial_state(task, config)
    assert data.held_out.num_counted == 5
    totals = np.zeros(3)
    for inputs, _, counted in data.held_out.windows(1, 1):
        outputs, _ = run_model(skeleton, state.params, inputs)
        totals += [cost[counted].sum() for cost in costs_by_hand(task, outputs, inputs[0])]
    offset, pen, masked = totals / 5
    found = evaluate(task, skeleton, state.params, data.held_out)
    assert_close(found["reconstruction"], offset + masked, "float32")
    assert_close(found["unmasked"], offset + pen, "float32")
    assert_close(found["loss"], offset + pen, "float32")


def test_what_is_held_out_gives_the_same_figures_in_any_batches(cats):
    found = []
    for batch_size in (2, 3):
        config = config_of(cats, batch_size=batch_size)
        task, data = TASKS["sketch"].load(config)
        _, skeleton, state = initial_state(task, config)
        # Away from zero, so that the latent vector's noise counts.
        params = {name: value + 0.3 for name, value in state.params.items()}
        found.append(evaluate(task, skeleton, params, data.held_out))
    for name, value in found[0].items():
        assert_close(found[1][name], value, "float32")


def test_a_drawing_begins_where_the_training_drawings_do(cats):
    config = config_of(cats)
    task, data = TASKS["sketch"].load(config)
    first = np.mean([drawing[0, :2] for drawing in random_drawings(14, 0)], axis=0) / task.scale
    assert_close(task.start, first, "float32")
    moved = np.array([[500.0, -7, 0], [1, 2, 1]], np.float32)
    placed = task.placed(moved)
    assert_close(placed, [[*task.start, 0], [1, 2, 1]], "float32")
    assert moved[0, 0] == 500
    older = {name: value for name, value in data.facts.items() if name != "start"}
    assert TASKS["sketch"].from_facts(config, older).start == (0, 0)


def test_the_loss_that_is_watched_has_the_final_weight(cats):
    task, _ = TASKS["sketch"].load(config_of(cats, kl_weight=0.25))
    found = task.metrics({"offset": 8.0, "pen": 4.0, "pen_masked": 2.0, "kl": 6.0}, 2)
    assert found == {"loss": 6.75, "reconstruction": 5.0, "unmasked": 6.0, "kl": 3.0}
    below = task.metrics({"offset": 8.0, "pen": 4.0, "pen_masked": 2.0, "kl": 0.2}, 2)
    assert below["loss"] == 6.0 + 0.25 * 0.2


def test_several_files_are_several_classes_and_the_scale_is_of_all(cats, dogs):
    config = config_of(dogs, cats)
    task, data = TASKS["sketch"].load(config)
    assert task.classes == ("cats", "dogs")
    drawings = [*random_drawings(14, 0), *random_drawings(14, 10)]
    assert_close(task.scale, np.concatenate(drawings)[:, :2].astype(float).std(), "float32")
    everything = [d for seed in (0, 1, 2, 10, 11, 12) for d in random_drawings(14, seed)[:14]]
    assert task.num_points <= max(map(len, everything))
    seen = np.concatenate([data.train.batch_at(k)[0][2] for k in range(9)])
    assert set(seen) == {0, 1}
    assert data.held_out.num_counted == 10
    facts = json.loads(json.dumps(data.facts))
    assert TASKS["sketch"].from_facts(config, facts) == task


def test_other_drawings_than_the_runs_are_refused(cats, dogs):
    _, data = TASKS["sketch"].load(config_of(cats))
    TASKS["sketch"].load(config_of(cats), data.facts)
    with pytest.raises(InputError, match="not what the run was made with"):
        TASKS["sketch"].load(config_of(dogs), data.facts)


def test_a_file_is_evaluated_by_its_test_part_in_the_runs_classes(cats, dogs, tmp_path):
    task, _ = TASKS["sketch"].load(config_of(cats, dogs))
    assert task.read_evaluation(dogs).num_counted == 3
    np.testing.assert_array_equal(task.read_evaluation(dogs).part.classes, [1, 1, 1])
    (tmp_path / "new").mkdir()
    untested = write_npz(tmp_path / "new" / "cats.npz", (12, 0, 0))
    assert task.read_evaluation(untested).num_counted == 12
    assert task.read_evaluation(untested).left_out == 0
    with pytest.raises(InputError, match="has the class 'birds', the run knows cats, dogs"):
        task.read_evaluation(write_npz(tmp_path / "birds.npz"))
    alone, _ = TASKS["sketch"].load(config_of(cats))
    np.testing.assert_array_equal(alone.read_evaluation(dogs).part.classes, [0, 0, 0])


def test_how_many_drawings_are_of_other_lengths_is_told(tmp_path, capsys):
    drawings = [random_drawings(1, 0)[0][[0] * n].astype(np.float32) for n in (3, 9, 8, 3, 9, 3)]
    write_sketches(tmp_path / "a.npz", drawings[:3], drawings[3:5], drawings[5:])
    task, data = TASKS["sketch"].load(config_of(str(tmp_path / "a.npz"), max_len=8, batch_size=2))
    assert "2 drawings to train on, 1 to validate, of at most 8 points (2 others" in data.summary
    write_sketches(tmp_path / "new.npz", [], [], [*drawings, np.zeros((0, 3), np.float32)])
    held_out = task.read_evaluation(str(tmp_path / "new.npz"))
    assert (held_out.num_counted, held_out.left_out) == (4, 3)
    report.evaluation(task, held_out, {"model": {"loss": 1.0}}, {})
    assert "over 4 drawings; 3 of other lengths left out" in capsys.readouterr().out


def test_batches_of_one_shape_are_dispatched_together_and_others_apart(cats):
    _, data = TASKS["sketch"].load(config_of(cats, batch_size=2, num_buckets=3))
    shapes = [data.train.batch_at(step)[0][0].shape for step in range(12)]
    for step in range(8):
        run = next((k for k in range(4) if shapes[step + k] != shapes[step]), 4)
        assert data.train.num_alike(step, 4) == run
    assert len(set(shapes)) > 1


@pytest.mark.parametrize("decoder", ["lstm", "layer_norm"])
def test_a_run_learns_and_resumes_to_the_same_bits(cats, dogs, tmp_path, decoder):
    options = {"decoder": decoder, "lr": 0.02, "eval_every": 7, "steps_per_dispatch": 3}
    options["conditional"] = decoder == "lstm"
    whole = config_of(cats, dogs, run=str(tmp_path / "whole"), steps=21, **options)
    run, outcome = train(whole, "sketch")
    assert outcome.reason == "done"
    losses = [line["loss"] for line in run.metrics()]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.1
    stops = iter([None] * 4 + ["SIGTERM"] * 99)
    cut, outcome = train(
        config_of(cats, dogs, run=str(tmp_path / "cut"), steps=21, **options),
        "sketch",
        stop_requested=lambda: next(stops),
    )
    assert outcome.reason == "SIGTERM"
    assert 0 < outcome.step < 21
    cut, _ = go_on(cut)
    assert_same_bits(last_of(cut)[0], last_of(run)[0])
    assert lines_of(cut) == lines_of(run)


def test_a_run_leaves_a_picture_of_its_drawings(cats, tmp_path):
    config = config_of(cats, run=str(tmp_path / "run"), steps=2, preview_count=4)
    run, _ = train(config, "sketch")
    text = (Path(run.path) / "drawings.svg").read_text()
    assert text.startswith("<svg ")
    assert text.count("<g ") == 4
