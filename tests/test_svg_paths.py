import math

import numpy as np
import pytest
from refusals import message

from jaxrnn.data.svg_paths import flatten, parse_numbers, parse_path


def parsed(data: str) -> list[list[list]]:
    return [[np.round(p, 9).tolist() for p in subpath] for subpath in parse_path(data, "a path")]


def test_numbers_need_no_separators():
    assert parse_numbers("1e-3,.5.5-1-2 +3. 4E2\n,\t-.5e+1", "x") == [
        0.001, 0.5, 0.5, -1, -2, 3, 400, -5,
    ]  # fmt: skip
    assert parse_numbers(" , ", "x") == []
    assert message(parse_numbers, "1 two", "x") == (
        "x: 'two' where a path command or a number was expected; correct it"
    )
    assert (
        message(parse_numbers, "1 -1e10", "x") == "x: the number -1e10, expected none above 1e+09"
    )
    assert "the number 1e999" in message(parse_numbers, "1e999", "x")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("M1 2 3 4L5 6 7 8", [[1, 2], [3, 4], [5, 6], [7, 8]]),
        ("m1,2 3,4l5,6-7,-8", [[1, 2], [4, 6], [9, 12], [2, 4]]),
        ("M1 2H5 6V9 8h-1-2v1.5.5", [[1, 2], [5, 2], [6, 2], [6, 9], [6, 8], [5, 8], [3, 8],
                                     [3, 9.5], [3, 10]]),
        ("M1 2L3 4 5 2z", [[1, 2], [3, 4], [5, 2], [1, 2]]),
        ("M1 2L3 4 1 2Z", [[1, 2], [3, 4], [1, 2]]),
        ("M.1.2l.1.1.1.1-.2-.2z", [[0.1, 0.2], [0.2, 0.3], [0.3, 0.4], [0.1, 0.2]]),
        ("M1 2z", [[1, 2]]),
        ("M1 2L1 2", [[1, 2], [1, 2]]),
    ],
)  # fmt: skip
def test_lines(data, expected):
    assert parsed(data) == [[[point] for point in expected]]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("M1 2L3 4M5 6m1 1L0 0", [[[1, 2], [3, 4]], [[6, 7], [0, 0]]]),
        ("M1 2L3 4 5 2zl1 1m1 1h1", [[[1, 2], [3, 4], [5, 2], [1, 2]], [[1, 2], [2, 3]],
                                     [[3, 4], [4, 4]]]),
        ("M1 2L3 4zz", [[[1, 2], [3, 4], [1, 2]]]),
        ("M1 2M3 4zM5 6", [[[3, 4]]]),
        ("", []),
        (" \n", []),
        ("M1 2", []),
    ],
)  # fmt: skip
def test_subpaths_begin_anew(data, expected):
    assert parsed(data) == [[[point] for point in subpath] for subpath in expected]


@pytest.mark.parametrize(
    ("data", "curves"),
    [
        ("M1 1C2 3 4 5 6 7", [[[2, 3], [4, 5], [6, 7]]]),
        ("M1 1c2 3 4 5 6 7 1 0 2 0 3 0", [[[3, 4], [5, 6], [7, 8]], [[8, 8], [9, 8], [10, 8]]]),
        ("M1 1C2 3 4 5 6 7S9 9 8 8", [[[2, 3], [4, 5], [6, 7]], [[8, 9], [9, 9], [8, 8]]]),
        ("M1 1c1 2 3 4 5 6s3 2 2 1", [[[2, 3], [4, 5], [6, 7]], [[8, 9], [9, 9], [8, 8]]]),
        ("M1 1S9 9 8 8", [[[1, 1], [9, 9], [8, 8]]]),
        ("M1 1Q4 1 4 4", [[[3, 1], [4, 2], [4, 4]]]),
        ("M1 1q3 0 3 3t3 3", [[[3, 1], [4, 2], [4, 4]], [[4, 6], [5, 7], [7, 7]]]),
        ("M1 1Q4 1 4 4T4 4", [[[3, 1], [4, 2], [4, 4]], [[4, 6], [4, 6], [4, 4]]]),
        ("M1 1T4 4", [[[1, 1], [2, 2], [4, 4]]]),
        ("M1 1Q4 1 4 4S5 5 6 6", [[[3, 1], [4, 2], [4, 4]], [[4, 4], [5, 5], [6, 6]]]),
        ("M1 1C2 3 4 1 4 4T7 7", [[[2, 3], [4, 1], [4, 4]], [[4, 4], [5, 5], [7, 7]]]),
    ],
)
def test_curves(data, curves):
    assert parsed(data) == [[[[1, 1]], *curves]]


@pytest.mark.parametrize(
    ("flags", "center", "degrees"),
    [("0 1", (0, 1), 90), ("0 0", (1, 0), -90), ("1 1", (1, 0), 270), ("1,0", (0, 1), -270)],
)
def test_arcs_of_a_circle(flags, center, degrees):
    (subpath,) = parse_path(f"M0 0A1 1 0 {flags} 1 1", "a path")
    assert len(subpath) - 1 == abs(degrees) // 90
    points = flatten(subpath, 1e-5, 0.0) - center
    np.testing.assert_allclose(np.hypot(*points.T), 1, atol=3e-4)
    np.testing.assert_array_equal(points[-1] + center, [1, 1])
    angles = np.unwrap(np.arctan2(points[:, 1], points[:, 0]))
    assert math.degrees(angles[-1] - angles[0]) == pytest.approx(degrees)


def test_arcs_of_an_ellipse_that_is_turned():
    (subpath,) = parse_path("M1 2a3 2 30 0110 0 5 1 0 11-1-9z", "a path")  # flags without spaces
    end = subpath[-2][-1]
    np.testing.assert_allclose(end, [10, -7], atol=1e-12)
    (subpath,) = parse_path("M1 2A6 2 30 0 1 4 3", "a path")
    points = flatten(subpath, 1e-5, 0.0) @ [[math.cos(math.pi / 6), -0.5], [0.5, 3**0.5 / 2]]
    points /= [6, 2]
    # On a unit circle whose center is as far from all of them.
    system = np.concatenate([2 * points, np.ones((len(points), 1))], axis=1)
    x, y, rest = np.linalg.lstsq(system, (points**2).sum(axis=1))[0]
    assert rest + x * x + y * y == pytest.approx(1, abs=2e-3)
    np.testing.assert_allclose(np.hypot(*(points - [x, y]).T), 1, atol=2e-3)


def test_arcs_without_room_or_without_radius():
    (subpath,) = parse_path("M0 0A1 1 0 0 1 6 0", "a path")  # half a circle of radius 3
    points = flatten(subpath, 1e-5, 0.0) - [3, 0]
    np.testing.assert_allclose(np.hypot(*points.T), 3, atol=1e-3)
    assert points[:, 1].min() == pytest.approx(-3, abs=1e-3)
    assert parsed("M1 2A0 5 0 0 1 6 0") == [[[[1, 2]], [[6, 0]]]]
    assert parsed("M1 2A5 5 0 0 1 1 2") == []
    assert parsed("M0 0A1e9 1e9 0 1 1 1e-3 0") == [[[[0, 0]], [[0, 0], [0.001, 0], [0.001, 0]]]]
    one, other = parse_path("M0 0A-2 5 20 0 1 3 1M0 0A2-5 20 0 1 3 1", "a path")
    np.testing.assert_array_equal(np.concatenate(one), np.concatenate(other))
    (positive,) = parse_path("M0 0A2 5 20 0 1 3 1", "a path")
    np.testing.assert_array_equal(np.concatenate(one), np.concatenate(positive))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("L1 2", "a path begins with 'L', expected M; correct the path"),
        ("z", "a path begins with 'z', expected M"),
        ("1 2", "'1 2' where a path command or a number was expected"),
        ("M1 2L3", "1 numbers follow 'L' in a path, expected 2 or a multiple; correct the path"),
        ("M1 2L", "0 numbers follow 'L' in a path, expected 2 or a multiple"),
        ("M1 2L3 4 5", "3 numbers follow 'L' in a path"),
        ("M1 2z3", "1 numbers follow 'z' in a path, expected 0; correct the path"),
        ("M1 2C1 2 3 4 5 6 7", "7 numbers follow 'C' in a path, expected 6 or a multiple"),
        ("M1 2A1 1 0 2 1 3 3", "3 numbers follow 'A' in a path, expected 7 or a multiple"),
        ("M1 2L3 4B5 6", "'B5 6' where a path command or a number was expected; correct it"),
        ("M1 2L3 4 nan 1", "'nan 1' where a path command"),
        ("M1 2L1e 4", "1 numbers follow 'L' in a path"),
        ("M1 2L1e11 4", "the number 1e11, expected none above 1e+09"),
    ],
)
def test_what_is_no_path(data, expected):
    assert message(parse_path, data, "cat.svg, line 3").startswith(f"cat.svg, line 3: {expected}")


def test_curves_are_flattened_by_their_bend():
    (subpath,) = parse_path("M0 0C0 100 100 100 100 0", "a path")
    lengths = []
    t = np.linspace(0, 1, 5001)[:, None]
    curve = np.concatenate([300 * t**2 * (1 - t) + 100 * t**3, 300 * t * (1 - t)], axis=1)
    for tolerance in (10.0, 1.0, 0.1):
        points = flatten(subpath, tolerance, 0.0)
        lengths.append(len(points))
        start, along = points[:-1], np.diff(points, axis=0)
        shares = ((curve[:, None] - start) * along).sum(-1) / (along**2).sum(-1)
        nearest = start + np.clip(shares, 0, 1)[..., None] * along
        assert np.hypot(*(curve[:, None] - nearest).T).min(axis=0).max() <= tolerance
    assert lengths == [5, 12, 34]
    (straight,) = parse_path("M0 0C1 0 2 0 3 0", "a path")
    assert flatten(straight, 0.1, 0.0).tolist() == [[0, 0], [3, 0]]


def test_only_curves_are_simplified_and_runs_of_them_as_one():
    (subpath,) = parse_path("M0 0L1 0 2 0C3 0 4 0 5 0S7 0 8 0L9 0", "a path")
    assert flatten(subpath, 0.1, 1.0).tolist() == [[0, 0], [1, 0], [2, 0], [8, 0], [9, 0]]
    (subpath,) = parse_path("M0 0C0 100 100 100 100 0", "a path")
    assert len(flatten(subpath, 0.1, 1.0)) == 16
    (dot,) = parse_path("M1 2z", "a path")
    assert flatten(dot, 0.1, 1.0).tolist() == [[1, 2]]
