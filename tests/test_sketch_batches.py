import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import message
from sketch_cases import drawing, random_drawing, stretched

from jaxrnn.data.sketch_batches import SketchBatch, SketchBatches, bucket_bounds, held_out_batches
from jaxrnn.data.strokes import to_stroke3

PROPERTY = settings(derandomize=True, deadline=None, max_examples=60)
LENGTHS = [3, 9, 4, 4, 12, 5, 6, 7, 30, 3, 8, 11, 10, 25, 5, 4, 3]  # 17 drawings


def numbered(lengths=LENGTHS) -> list[np.ndarray]:
    """Drawings of these lengths, whose first dx is 1, 2, ..."""
    rng = np.random.default_rng(0)
    drawings = [random_drawing(rng, length) for length in lengths]
    for k, points in enumerate(drawings):
        points[0, 0] = k + 1
    return drawings


def ids(drawings) -> np.ndarray:
    return 100 + np.arange(len(drawings))


def plain(drawings, batch_size=4, seed=0, **options) -> SketchBatches:
    """Batches without augmentation."""
    options = {"scale": 1.0, "max_len": 30, "num_buckets": 3} | options
    return SketchBatches(
        drawings,
        ids(drawings),
        batch_size,
        seed=seed,
        random_scale=0.0,
        drop_probability=0.0,
        **options,
    )


def epoch_of(batches: SketchBatches, epoch: int) -> list[SketchBatch]:
    first = epoch * batches.steps_per_epoch
    return [batches.batch_at(first + k) for k in range(batches.steps_per_epoch)]


def test_a_batch_has_its_drawings_padded_to_its_bound():
    drawings = numbered()
    batches = plain(drawings, scale=2.0)
    assert batches.steps_per_epoch == 4
    for step in range(8):
        strokes, lengths, classes = batches.batch_at(step)
        assert (strokes.dtype, lengths.dtype, classes.dtype) == (np.float32, np.int32, np.int32)
        assert strokes.shape == (4, batches.bound_at(step) + 2, 5)
        np.testing.assert_array_equal(strokes[:, -1], [[0, 0, 0, 0, 1]] * 4)
        assert batches.bound_at(step) in batches.bounds
        for row, length, name in zip(strokes, lengths, classes, strict=True):
            expected = stretched(drawings[name - 100], 0.5)
            assert length == len(expected)
            np.testing.assert_array_equal(row[0], [0, 0, 1, 0, 0])
            np.testing.assert_array_equal(to_stroke3(row), expected)
            np.testing.assert_array_equal(row[length + 1 :, 4], 1)


def test_an_epoch_has_each_drawing_once_less_what_is_below_a_batch():
    batches = plain(numbered())
    bounds = []
    left_out = set()
    for epoch in range(12):
        names = np.concatenate([batch.classes for batch in epoch_of(batches, epoch)])
        assert len(names) == len(set(names)) == 16
        left_out |= set(range(100, 117)) - set(names.tolist())
        steps = range(epoch * 4, epoch * 4 + 4)
        bounds.append([batches.bound_at(step) for step in steps])
    assert len(left_out) > 1  # of the longest, another one each time
    assert {tuple(sorted(b)) for b in bounds} == {tuple(sorted(bounds[0]))}
    assert len({tuple(b) for b in bounds}) > 1  # in another order


def test_what_is_left_over_in_a_bucket_leads_the_next():
    # Buckets of 3 (bound 2), 6 (bound 5) and 3 (bound 9): batches of 4 take 3 + 1, 4, 1 + 3.
    batches = plain(numbered([2] * 3 + [5] * 6 + [9] * 3))
    assert batches.bounds.tolist() == [2, 5, 9]
    for epoch in range(3):
        found = sorted(sorted(batch.lengths.tolist()) for batch in epoch_of(batches, epoch))
        assert found == [[2, 2, 2, 5], [5, 5, 5, 5], [5, 9, 9, 9]]
        shapes = sorted(batch.strokes.shape[1] for batch in epoch_of(batches, epoch))
        assert shapes == [7, 7, 11]


def test_a_batch_is_a_function_of_seed_and_step():
    drawings = numbered()
    given = {"batch_size": 4, "scale": 3.0, "max_len": 30}
    batches = SketchBatches(drawings, ids(drawings), seed=5, **given)
    in_order = [batches.batch_at(step) for step in range(13)]
    again = SketchBatches(drawings, ids(drawings), seed=5, **given)
    for step in (12, 0, 7, 12):
        for got, expected in zip(again.batch_at(step), in_order[step], strict=True):
            np.testing.assert_array_equal(got, expected)
    other = SketchBatches(drawings, ids(drawings), seed=6, **given)
    assert any((other.batch_at(step).classes != in_order[step].classes).any() for step in range(4))
    epochs = [np.concatenate([batch.classes for batch in epoch_of(batches, e)]) for e in range(2)]
    assert (epochs[0] != epochs[1]).any()


def test_batches_are_augmented_anew_at_each_step():
    drawings = [drawing(*[[2, 6, 0]] * 40, [2, 6, 1]) for _ in range(4)]
    batches = SketchBatches(drawings, ids(drawings), 4, 2.0, 0, 50)
    lengths, factors = [], []
    for step in range(30):
        batch = batches.batch_at(step)
        assert batch.strokes.shape == (4, 43, 5)
        lengths += batch.lengths.tolist()
        for row, length in zip(batch.strokes, batch.lengths, strict=True):
            np.testing.assert_array_equal(row[length + 1 :, 4], 1)
            factors.append(row[1, :2] / [1, 3])
    assert np.mean(lengths) == pytest.approx(41 - 3.7, abs=0.5)
    assert len(set(lengths)) > 4
    factors = np.array(factors)
    assert len(np.unique(factors)) == factors.size
    assert np.abs(factors - 1).max() == pytest.approx(0.15, abs=0.01)
    unstretched = SketchBatches(drawings, ids(drawings), 4, 2.0, 0, 50, random_scale=0.0)
    np.testing.assert_array_equal(unstretched.batch_at(0).strokes[:, 1, :2], [[1, 3]] * 4)


def test_what_cannot_make_a_batch_is_refused():
    drawings = numbered([3, 4, 5])
    assert message(plain, drawings) == (
        "there are 3 drawings of at most 30 points to train on, one batch needs 4; lower"
        " --batch-size, or raise --max-len"
    )
    assert message(plain, drawings, 2, max_len=4) == (
        "a drawing has 5 points, expected 1 to 4; leave out what strokes.prepare leaves out"
    )
    assert "has 0 points" in message(plain, [*drawings, drawing()], 2)
    with pytest.raises(ValueError, match="3 drawings, but 2 classes"):
        SketchBatches(drawings, np.zeros(2, int), 2, 1.0, 0, 30)
    assert plain(drawings, 3).steps_per_epoch == 1


def padding(lengths, bounds) -> int:
    return int(sum(min(b for b in bounds if b >= length) - length for length in lengths))


@PROPERTY
@given(st.lists(st.integers(1, 12), min_size=1, max_size=40), st.integers(1, 4))
def test_bounds_are_the_best_of_all(lengths, num_buckets):
    bounds = bucket_bounds(np.array(lengths), num_buckets).tolist()
    assert bounds == sorted(set(bounds))
    assert bounds[-1] == max(lengths)
    distinct = sorted(set(lengths))
    assert len(bounds) == min(num_buckets, len(distinct))
    choices = itertools.combinations(distinct[:-1], len(bounds) - 1)
    best = min(padding(lengths, [*choice, distinct[-1]]) for choice in choices)
    assert padding(lengths, bounds) == best


def test_bounds_of_many_lengths_are_among_their_hundredths():
    lengths = np.arange(1, 2001)
    bounds = bucket_bounds(lengths, 4)
    assert padding(lengths, bounds) < 499_000 * 1.001  # of quarters: 500, 1000, 1500, 2000
    hundredths = np.quantile(lengths, np.linspace(0, 1, 101), method="higher")
    assert set(bounds.tolist()) <= set(hundredths.tolist())


def test_held_out_drawings_come_once_in_order_padded_alike():
    drawings = numbered()
    batches = list(held_out_batches(drawings, ids(drawings), 5, 4.0, 30))
    assert [batch.counted.tolist() for batch in batches] == [[True] * 5] * 3 + [
        [True, True, False, False, False]
    ]
    assert np.concatenate([batch.places for batch in batches]).tolist() == [*range(17), 16, 16, 16]
    for batch in batches:
        assert batch.lengths.dtype == batch.classes.dtype == batch.places.dtype == np.int32
        assert batch.strokes.shape == (5, 30 + 2, 5)
        np.testing.assert_array_equal(batch.classes, 100 + batch.places)
        np.testing.assert_array_equal(batch.lengths, np.array(LENGTHS)[batch.places])
        np.testing.assert_array_equal(batch.strokes[:, -1], [[0, 0, 0, 0, 1]] * 5)
        for row, place in zip(batch.strokes, batch.places, strict=True):
            np.testing.assert_array_equal(to_stroke3(row), stretched(drawings[place], 0.25))


def test_held_out_drawings_of_less_than_a_batch_or_none():
    drawings = numbered([4, 2])
    (batch,) = held_out_batches(drawings, ids(drawings), 3, 1.0, 30)
    assert batch.classes.tolist() == [100, 101, 101]
    assert batch.counted.tolist() == [True, True, False]
    assert list(held_out_batches([], np.zeros(0, int), 3, 1.0, 30)) == []
    assert "has 4 points, expected 1 to 3" in message(
        list, held_out_batches(drawings, ids(drawings), 3, 1.0, 3)
    )
