import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import message
from sketch_cases import drawing, random_drawing, stretched

from jaxrnn.data.strokes import (
    as_drawings,
    augment,
    drop_points,
    fits,
    from_lines,
    prepare,
    random_scale,
    scale_factor,
    simplify,
    to_lines,
    to_stroke3,
    to_stroke5,
    typical_extent,
)

PROPERTY = settings(derandomize=True, deadline=None, max_examples=200)
SEEDS = st.integers(0, 2**32)


def any_drawing(seed: int, least: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return random_drawing(rng, int(rng.integers(least, 30)))


def test_arrays_of_numbers_become_drawings():
    arrays = [
        np.array([[1, -2, 0], [3, 4, 1]], np.int16),
        np.zeros((0, 3), np.uint8),
        np.array([[0.5, 1e3, 1.0]], ">f8"),
    ]
    got = as_drawings(arrays, "x")
    assert [d.dtype for d in got] == [np.float32] * 3
    np.testing.assert_array_equal(got[0], [[1, -2, 0], [3, 4, 1]])
    assert got[1].shape == (0, 3)
    np.testing.assert_array_equal(got[2], [[0.5, 1000, 1]])
    assert as_drawings([], "x") == []


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        (np.zeros((2, 4)), "is an array of float64 of shape (2, 4), expected (N, 3) numbers"),
        (np.zeros(3), "is an array of float64 of shape (3,), expected (N, 3) numbers"),
        (np.array([["1", "2", "1"]]), "is an array of <U1 of shape (1, 3), expected"),
        (np.array([[1, np.nan, 1]]), "has the point [1.0, nan, 1.0], expected finite offsets"),
        (np.array([[0, 0, 0], [-np.inf, 0, 1]]), "has the point [-inf, 0.0, 1.0], expected"),
        (np.array([[1e39, 0, 1]]), "has the point [inf, 0.0, 1.0], expected finite offsets"),
        (np.array([[1, 2, 2]]), "has the point [1.0, 2.0, 2.0], expected finite offsets and a pen"),
    ],
)
def test_what_is_no_drawing_is_named_by_its_place(bad, expected):
    good = np.ones((2, 3), np.int8)
    assert message(as_drawings, [good, np.zeros((0, 3)), bad, good], "x.npz, train").startswith(
        f"x.npz, train[2] {expected}"
    )


def test_stroke5_has_start_points_and_ends():
    got = to_stroke5(drawing([3, -4, 0], [5, 6, 1]), 4)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(
        got,
        [[0, 0, 1, 0, 0], [3, -4, 1, 0, 0], [5, 6, 0, 1, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 1]],
    )


def test_a_drawing_as_long_as_stroke5_has_no_end():
    full = drawing([3, -4, 0], [5, 6, 1])
    got = to_stroke5(full, 2)
    np.testing.assert_array_equal(got, [[0, 0, 1, 0, 0], [3, -4, 1, 0, 0], [5, 6, 0, 1, 0]])
    np.testing.assert_array_equal(to_stroke3(got), full)
    assert message(to_stroke5, full, 1) == (
        "a drawing has 2 points, expected at most 1; drop longer ones, or raise max_len"
    )


def test_stroke3_stops_at_the_first_end():
    stroke5 = to_stroke5(drawing([1, 2, 0], [3, 4, 1], [5, 6, 1]), 3)
    stroke5[2] = [7, 7, 0, 0, 1]
    np.testing.assert_array_equal(to_stroke3(stroke5), [[1, 2, 0]])
    stroke5[1, 2:] = [0, 0, 1]
    assert to_stroke3(stroke5).shape == (0, 3)
    assert to_stroke3(stroke5.astype(np.float64)).dtype == np.float32


@PROPERTY
@given(SEEDS)
def test_stroke5_and_lines_give_the_drawing_back(seed):
    given = any_drawing(seed)
    np.testing.assert_array_equal(to_stroke3(to_stroke5(given, 30)), given)
    np.testing.assert_array_equal(from_lines(to_lines(given)), given)


def test_lines_are_strokes_in_absolute_coordinates():
    lines = to_lines(drawing([1, 2, 0], [3, 4, 1], [5, 6, 1], [-1, 0, 0], [0, -1, 0]))
    assert [line.tolist() for line in lines] == [
        [[1, 2], [4, 6]],
        [[9, 12]],
        [[8, 12], [8, 11]],
    ]
    assert to_lines(drawing()) == []


def test_lines_without_points_are_left_out():
    empty = np.zeros((0, 2))
    lines = [empty, np.array([[1, 2], [4, 6]], np.float32), empty, np.array([[9.5, 12]])]
    got = from_lines(lines)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, [[1, 2, 0], [3, 4, 1], [5.5, 6, 1]])
    assert from_lines([empty]).shape == from_lines([]).shape == (0, 3)


def distance(point, start, end) -> float:
    """Of a point to a segment, in complex numbers."""
    point, start, end = (complex(*p) for p in (point, start, end))
    if start == end:
        return abs(point - start)
    share = ((point - start) / (end - start)).real
    return abs(point - start - min(max(share, 0), 1) * (end - start))


def simplified(line, epsilon) -> list:
    """What ``simplify`` promises, by recursion."""
    distances = [distance(point, line[0], line[-1]) for point in line[1:-1]]
    if max(distances, default=0) <= epsilon:
        return line[:: max(len(line) - 1, 1)]
    k = 1 + int(np.argmax(distances))
    return simplified(line[: k + 1], epsilon)[:-1] + simplified(line[k:], epsilon)


@PROPERTY
@given(SEEDS, st.floats(0.1, 60))
def test_simplifying_moves_no_point_farther_than_epsilon(seed, epsilon):
    # Odd fractions, so that no two distances are equal.
    line = np.cumsum(any_drawing(seed, least=1)[:, :2] * np.array([0.731, 1.137]), axis=0)
    got = simplify(line, epsilon)
    np.testing.assert_array_equal(got, simplified(line.tolist(), epsilon))
    segments = list(itertools.pairwise(got)) or [(got[0], got[0])]
    for point in line:
        assert min(distance(point, *segment) for segment in segments) <= epsilon * (1 + 1e-9)


def test_simplifying_takes_the_farthest_point_first():
    line = np.array([[0, 0], [1, 1.4], [2, -1.5], [3, 1], [4, 0]], np.float64)
    # 1.5 at (2, -1.5); then (1, 1.4) is 1.72 off its part's line and (3, 1) 1.4 off.
    np.testing.assert_array_equal(simplify(line, 1.6), line[[0, 4]])
    np.testing.assert_array_equal(simplify(line, 1.45), line[[0, 1, 2, 4]])
    np.testing.assert_array_equal(simplify(line, 1.3), line)


def test_a_stroke_that_turns_back_beyond_its_end_keeps_the_turn():
    line = np.array([[0, 0], [30, 0], [10, 0]], np.float64)
    np.testing.assert_array_equal(simplify(line, 2.0), line)
    closed = np.array([[0, 0], [9, 0], [9, 9], [0, 0]], np.float64)
    np.testing.assert_array_equal(simplify(closed, 2.0), closed)
    np.testing.assert_array_equal(simplify(line[:1], 2.0), line[:1])
    np.testing.assert_array_equal(simplify(line[[0, 0]], 2.0), line[[0, 0]])


def test_simplifying_long_lines_needs_no_deep_stack():
    x = np.arange(3000.0)
    zigzag = np.stack([x, x**2 % 2 * x], axis=1)  # each split takes off one point
    assert len(simplify(zigzag, 0.1)) == 3000


def test_preparing_drops_and_clamps_as_magenta():
    drawings = [
        drawing([2000, -3000, 0], [999, 5, 1]),
        drawing(),
        drawing([1, 1, 0], [1, 1, 0], [1, 1, 1], [2, 2, 1]),
        drawing([-1, 1000.5, 1]),
    ]
    assert fits(drawings, 2).tolist() == [True, False, False, True]
    got = prepare(drawings, max_len=2)
    assert [d.dtype for d in got] == [np.float32] * 2
    np.testing.assert_array_equal(got[0], [[1000, -1000, 0], [999, 5, 1]])
    np.testing.assert_array_equal(got[1], [[-1, 1000, 1]])
    np.testing.assert_array_equal(prepare(drawings, limit=2.5)[0][:, :2], [[2.5, -2.5], [2.5, 2.5]])
    assert len(prepare(drawings)) == 3
    assert drawings[0][0, 0] == 2000
    assert prepare([drawing(*[[1, 1, 1]] * 251)]) == []
    assert fits([]).shape == (0,)


def test_scale_is_the_deviation_of_both_offsets_together():
    drawings = [drawing([1, 2, 0], [3, 4, 1]), drawing([100, 0, 1])]
    offsets = [1, 2, 3, 4, 100, 0]
    mean = sum(offsets) / 6
    expected = (sum((v - mean) ** 2 for v in offsets) / 6) ** 0.5
    assert scale_factor(drawings) == pytest.approx(expected, rel=1e-12)
    assert message(scale_factor, [drawing([2, 2, 0], [2, 2, 1])]) == (
        "the offsets of 1 drawings have a standard deviation of 0, expected drawings that move the"
        " pen"
    )
    assert "of 0 drawings" in message(scale_factor, [])


def test_random_scale_stretches_each_axis():
    given = drawing([10, 20, 0], [-30, 40, 1])
    rng = np.random.default_rng(0)
    factors = []
    for _ in range(300):
        got = random_scale(given, rng, 0.5)
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got[:, 2], given[:, 2])
        np.testing.assert_allclose(got[1, :2] / given[1, :2], got[0, :2] / given[0, :2], rtol=1e-6)
        factors.append(got[0, :2] / given[0, :2])
    factors = np.array(factors)
    assert (factors.min(axis=0) < 0.53).all()
    assert (factors.min(axis=0) >= 0.5).all()
    assert (factors.max(axis=0) > 1.47).all()
    assert (factors.max(axis=0) <= 1.5).all()
    assert abs(np.corrcoef(factors.T)[0, 1]) < 0.2
    assert given[0, 0] == 10
    np.testing.assert_array_equal(random_scale(given, rng, 0.0), given)
    default = [random_scale(given, rng)[0, 0] / given[0, 0] for _ in range(100)]
    assert np.abs(np.array(default) - 1).max() == pytest.approx(0.15, abs=0.01)


def dropped_one_by_one(points, uniforms, probability):
    """What ``drop_points`` promises, a point at a time."""
    kept, index = [], 0
    for (dx, dy, pen), uniform in zip(points.tolist(), uniforms, strict=True):
        if index >= 3 and not pen and uniform < probability:
            kept[-1][0] += dx
            kept[-1][1] += dy
        else:
            kept.append([dx, dy, pen])
        index = 0 if pen else index + 1
    return np.array(kept, np.float32).reshape(-1, 3)


@PROPERTY
@given(SEEDS, st.floats(0, 1))
def test_points_are_dropped_inside_strokes(seed, probability):
    given = any_drawing(seed, least=1)
    got = drop_points(given, np.random.default_rng(seed), probability)
    rng = np.random.default_rng(seed)
    rng.uniform(size=2)  # the factors, 1 here
    expected = dropped_one_by_one(given, rng.random(len(given)), probability)
    np.testing.assert_array_equal(got, expected)
    assert [line[-1].tolist() for line in to_lines(got)] == [
        line[-1].tolist() for line in to_lines(given)
    ]


def test_all_that_can_go_goes():
    stroke = [[1, 10, 0], [2, 20, 0], [3, 30, 0], [4, 40, 0], [5, 50, 0], [6, 60, 1]]
    got = drop_points(drawing(*stroke, *stroke[:3]), np.random.default_rng(0), 1.0)
    np.testing.assert_array_equal(
        got, [[1, 10, 0], [2, 20, 0], [12, 120, 0], [6, 60, 1], [1, 10, 0], [2, 20, 0], [3, 30, 0]]
    )
    whole = drawing(*stroke)
    np.testing.assert_array_equal(drop_points(whole, np.random.default_rng(0), 0.0), whole)
    many = drawing(*[[1, 1, 0]] * 10_000)
    assert len(drop_points(many, np.random.default_rng(0))) == pytest.approx(9000, abs=100)


def test_drawings_of_a_batch_keep_to_themselves():
    unlifted = drawing(*[[1, 1, 0]] * 5)
    drawings = [unlifted, drawing(), stretched(unlifted, 10.0), drawing()]
    got = augment(drawings, np.random.default_rng(0), 0.0, 1.0)
    assert [d.tolist() for d in got] == [
        [[1, 1, 0], [1, 1, 0], [3, 3, 0]],
        [],
        [[10, 10, 0], [10, 10, 0], [30, 30, 0]],
        [],
    ]
    scaled = augment([unlifted, unlifted], np.random.default_rng(0), 0.5, 0.0)
    assert len({float(d[0, axis]) for d in scaled for axis in (0, 1)}) == 4
    assert (unlifted == drawing(*[[1, 1, 0]] * 5)).all()


def test_the_typical_extent_is_the_median_of_the_larger_sides():
    drawings = [
        drawing([0, 0, 0], [3, 1, 0], [-9, 0, 1]),  # 9 wide, 1 high
        drawing([5, 5, 0], [0, 4, 0], [1, 0, 1]),  # 4 high: the first offset is no part of it
        drawing([0, 0, 0], [0, 7, 1]),
        *[drawing([3, 4, 1])] * 5,
    ]
    assert typical_extent(drawings) == 7
    assert "5 drawings are dots" in message(typical_extent, drawings[3:])
