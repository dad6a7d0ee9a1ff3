import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrnn.data.streams import Streams, lesson_targets, next_targets, windows
from jaxrnn.errors import InputError

PROPERTY = settings(derandomize=True, deadline=None, max_examples=200)


def get_batches(arr, batch_size, seq_length):
    """The lesson's loop, kept as it stands there."""
    n_batches = len(arr) // (batch_size * seq_length)
    arr = arr[: n_batches * batch_size * seq_length].reshape((batch_size, -1))
    for n in range(0, arr.shape[1], seq_length):
        x = arr[:, n : n + seq_length]
        y = np.zeros_like(x)
        try:
            y[:, :-1], y[:, -1] = x[:, 1:], arr[:, n + seq_length]
        except IndexError:
            y[:, :-1], y[:, -1] = x[:, 1:], arr[:, 0]
        yield x, y


def test_rows_are_contiguous_and_continue_from_batch_to_batch():
    streams = next_targets(np.arange(27), batch_size=3, seq_len=4)  # 26 positions: 2 batches of 12
    assert streams.steps_per_epoch == 2
    first, second = streams.batch_at(0), streams.batch_at(1)
    np.testing.assert_array_equal(first.inputs, [[0, 1, 2, 3], [8, 9, 10, 11], [16, 17, 18, 19]])
    np.testing.assert_array_equal(second.inputs, [[4, 5, 6, 7], [12, 13, 14, 15], [20, 21, 22, 23]])
    np.testing.assert_array_equal(first.targets, first.inputs + 1)
    np.testing.assert_array_equal(second.targets, second.inputs + 1)


def test_a_batch_is_a_pure_function_of_the_step():
    streams = next_targets(np.arange(40), batch_size=2, seq_len=5)
    assert streams.steps_per_epoch == 3
    assert [bool(streams.batch_at(step).starts) for step in range(7)] == [
        True,
        False,
        False,
    ] * 2 + [True]
    assert isinstance(streams.batch_at(1).starts, np.bool_)
    for step in (7, 4, 1):
        np.testing.assert_array_equal(streams.batch_at(step).inputs, streams.batch_at(1).inputs)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_batches_are_contiguous_copies(batch_size):
    values = np.arange(30.0).reshape(30, 1)
    streams = next_targets(values, batch_size=batch_size, seq_len=4)
    batch = streams.batch_at(0)
    assert batch.inputs.shape == batch.targets.shape == (batch_size, 4, 1)
    for array in batch[:2]:
        assert array.flags.c_contiguous
        array[:] = -1
    np.testing.assert_array_equal(values[:, 0], np.arange(30))


def test_dtypes_are_the_arrays_but_stored_ids_become_int32():
    for given_dtype, expected in [
        *(("uint8", "int32"), ("uint16", "int32"), ("int32", "int32"), ("int64", "int64")),
        *(("float32", "float32"), ("float64", "float64")),
    ]:
        values = np.arange(10, dtype=given_dtype)
        batch = next_targets(values, batch_size=2, seq_len=3).batch_at(0)
        window = next(windows(values[:-1], values[1:], num_streams=2, chunk_len=3))
        for array in (batch.inputs, batch.targets, window.inputs, window.targets):
            assert array.dtype == expected


def test_inputs_and_targets_may_differ_in_shape_and_dtype():
    inputs, targets = np.ones((12, 2), np.float32), np.arange(12)
    batch = Streams(inputs, targets, batch_size=3, seq_len=4).batch_at(0)
    assert batch.inputs.shape == (3, 4, 2)
    np.testing.assert_array_equal(batch.targets, np.arange(12).reshape(3, 4))


@PROPERTY
@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 60), st.integers(0, 30))
def test_next_targets_are_the_values_that_follow(batch_size, seq_len, extra, step):
    values = np.arange(batch_size * seq_len + 1 + extra)
    streams = next_targets(values, batch_size, seq_len)
    assert streams.steps_per_epoch == (len(values) - 1) // (batch_size * seq_len)
    batch = streams.batch_at(step)
    np.testing.assert_array_equal(batch.targets, batch.inputs + 1)
    epoch = [streams.batch_at(k).inputs for k in range(streams.steps_per_epoch)]
    flat = np.concatenate(epoch, axis=1).reshape(-1)
    np.testing.assert_array_equal(flat, np.arange(len(flat)))


@PROPERTY
@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 60))
def test_lesson_targets_are_the_lessons(batch_size, seq_len, extra):
    values = np.arange(batch_size * seq_len + extra)
    streams = lesson_targets(values, batch_size, seq_len)
    expected = list(get_batches(values, batch_size, seq_len))
    assert streams.steps_per_epoch == len(expected)
    for step, (x, y) in enumerate(expected):
        batch = streams.batch_at(step)
        np.testing.assert_array_equal(batch.inputs, x)
        np.testing.assert_array_equal(batch.targets, y)


def test_the_lessons_last_target_of_a_row_is_the_rows_first():
    last = lesson_targets(np.arange(24), batch_size=2, seq_len=4).batch_at(2)
    np.testing.assert_array_equal(last.targets, [[9, 10, 11, 0], [21, 22, 23, 12]])


def test_less_than_one_batch_says_what_there_is_and_what_is_needed():
    assert next_targets(np.arange(13), 3, 4).steps_per_epoch == 1
    with pytest.raises(InputError) as caught:
        next_targets(np.arange(12), 3, 4, name="book.txt", unit="characters")
    assert str(caught.value) == (
        "book.txt has 12 characters, one batch needs 13 (--batch-size 3 times --seq-len 4 and one"
        " more for the last target); lower --batch-size or --seq-len"
    )
    assert lesson_targets(np.arange(12), 3, 4).steps_per_epoch == 1
    for cut in (lesson_targets, lambda v, b, t: Streams(v, v, b, t, unit="values")):
        with pytest.raises(InputError) as caught:
            cut(np.arange(11), 3, 4)
        assert str(caught.value) == (
            "the data has 11 values, one batch needs 12 (--batch-size 3 times --seq-len 4);"
            " lower --batch-size or --seq-len"
        )
    for cut in (next_targets, lesson_targets):
        with pytest.raises(InputError, match="has 0 values, one batch needs"):
            cut(np.arange(0), 3, 4)


def test_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="12 inputs, but 11 targets"):
        Streams(np.arange(12), np.arange(11), 1, 2)
    with pytest.raises(ValueError, match="12 inputs, but 11 targets"):
        next(windows(np.arange(12), np.arange(11), 1, 2))


def test_windows_by_hand():
    inputs = np.arange(1, 9)  # 8 positions, 5 counted: segments of 3 from position 3 on
    chunks = list(windows(inputs, -inputs, 2, chunk_len=3, counted_from=3, num_context=2))
    rows = np.concatenate([chunk.inputs for chunk in chunks], axis=1)
    mask = np.concatenate([chunk.mask for chunk in chunks], axis=1)
    np.testing.assert_array_equal(rows, [[2, 3, 4, 5, 6, 0], [5, 6, 7, 8, 0, 0]])
    np.testing.assert_array_equal(mask, [[0, 0, 1, 1, 1, 0], [0, 0, 1, 1, 0, 0]])
    np.testing.assert_array_equal(np.concatenate([c.targets for c in chunks], axis=1), -rows)


def test_a_row_with_less_context_goes_on_past_its_segment_uncounted():
    (window,) = windows(np.arange(1, 7), np.arange(1, 7), 3, chunk_len=4, num_context=2)
    np.testing.assert_array_equal(window.inputs, [[1, 2, 3, 4], [1, 2, 3, 4], [3, 4, 5, 6]])
    np.testing.assert_array_equal(window.mask, [[1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]])


def test_windows_of_one_position_and_of_none():
    (window,) = windows(np.array([7.0]), np.array([8.0]), num_streams=5, chunk_len=3)
    np.testing.assert_array_equal(window.inputs, [[7, 0, 0]])
    np.testing.assert_array_equal(window.targets, [[8, 0, 0]])
    np.testing.assert_array_equal(window.mask, [[True, False, False]])
    assert list(windows(np.zeros(0), np.zeros(0), 2, 3)) == []
    assert list(windows(np.zeros(4), np.zeros(4), 2, 3, counted_from=4)) == []


def test_context_longer_than_any_row_has_adds_no_padding():
    chunks = list(windows(np.arange(6), np.arange(6), 1, 6, counted_from=4, num_context=1000))
    assert len(chunks) == 1
    np.testing.assert_array_equal(chunks[0].inputs, [np.arange(6)])
    np.testing.assert_array_equal(chunks[0].mask, [[0, 0, 0, 0, 1, 1]])


@PROPERTY
@given(
    num_positions=st.integers(1, 40),
    num_streams=st.integers(1, 12),
    chunk_len=st.integers(1, 9),
    counted_from=st.integers(0, 40),
    num_context=st.integers(0, 50),
    features=st.sampled_from([(), (2,)]),
)
def test_windows_count_each_position_once_after_its_context(
    num_positions, num_streams, chunk_len, counted_from, num_context, features
):
    index = np.arange(1, num_positions + 1)
    inputs = np.broadcast_to(index.reshape(-1, *[1] * len(features)), (num_positions, *features))
    chunks = list(windows(inputs, -inputs, num_streams, chunk_len, counted_from, num_context))
    num_counted = max(0, num_positions - counted_from)
    assert bool(chunks) is bool(num_counted)
    if not chunks:
        return
    num_rows = len(chunks[0].mask)
    assert num_rows <= min(num_streams, num_counted)
    assert {chunk.inputs.shape for chunk in chunks} == {(num_rows, chunk_len, *features)}
    rows = np.concatenate([c.inputs for c in chunks], axis=1).reshape(num_rows, -1, *features)
    targets = np.concatenate([c.targets for c in chunks], axis=1)
    np.testing.assert_array_equal(targets, -rows)
    rows = rows if not features else rows[..., 0]
    mask = np.concatenate([chunk.mask for chunk in chunks], axis=1)

    np.testing.assert_array_equal(np.sort(rows[mask]), index[counted_from:])
    segment_len = -(-num_counted // num_streams)
    for r, (row, row_mask) in enumerate(zip(rows, mask, strict=True)):
        real = row[row > 0]
        np.testing.assert_array_equal(row[len(real) :], 0)  # real data first, then only padding
        np.testing.assert_array_equal(real, np.arange(row[0], row[0] + len(real)))
        assert row_mask.any()
        first_counted = row[row_mask][0]
        assert first_counted == counted_from + r * segment_len + 1
        before = first_counted - row[0]
        assert before >= min(num_context, first_counted - 1)
        assert before <= num_context
