import json
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import message
from sketch_cases import drawing, random_drawing, stretched

from jaxrnn.data.sketch_output import from_json, to_json, to_svg
from jaxrnn.data.sketch_svg import read_svg

PROPERTY = settings(derandomize=True, deadline=None, max_examples=60)
PREFIX_COLOR = "#d6336c"
CORNER = drawing([10, 20, 0], [30, 0, 0], [0, 10, 1], [5, 5, 1])


def elements(svg: str, tag: str) -> list:
    return list(ElementTree.fromstring(svg).iter(f"{{http://www.w3.org/2000/svg}}{tag}"))


def paths(svg: str) -> list[str]:
    return [path.attrib["d"] for path in elements(svg, "path")]


def test_one_drawing_is_in_its_own_coordinates():
    svg = to_svg(CORNER)
    assert paths(svg) == ["M10 20L40 20 40 30", "M45 35z"]
    root = ElementTree.fromstring(svg)
    # 35 wide, 15 high: a square of 35 and a twentieth at each side, around the middle.
    box = [float(v) for v in root.attrib["viewBox"].split()]
    assert box == pytest.approx([27.5 - 19.25, 27.5 - 19.25, 38.5, 38.5])
    assert (root.attrib["width"], root.attrib["height"]) == ("256", "256")
    assert "<animate" not in svg
    assert PREFIX_COLOR not in svg


@PROPERTY
@given(st.integers(0, 2**32), st.sampled_from([0.001, 1.0, 37.3, 1e5]), st.booleans())
def test_what_is_drawn_is_read_back(tmp_path_factory, seed, scale, animated):
    rng = np.random.default_rng(seed)
    given = random_drawing(rng, int(rng.integers(1, 40)))
    given[:, :2] *= scale
    path = tmp_path_factory.mktemp("svg") / "a.svg"
    path.write_text(to_svg(given, seconds=2.0 if animated else 0.0))
    got = read_svg(path, 2.0)
    np.testing.assert_array_equal(got[:, 2], given[:, 2])
    side = np.ptp(np.cumsum(given[:, :2], axis=0, dtype=np.float64), axis=0).max()
    np.testing.assert_allclose(got, given, atol=2e-4 * max(side, 1e-3))


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_coordinates_that_are_not_finite_are_refused(bad):
    drawings = [CORNER, drawing([1, 2, 0], [3, bad, 1])]
    expected = (
        f"drawing 2 of 2 has the point [3.0, {bad}, 1.0], expected finite offsets; lower --span, or"
        " the coordinates of the file that was given"
    )
    assert message(to_svg, drawings) == message(to_json, drawings) == expected
    assert message(to_svg, drawings[1]) == expected.replace("2 of 2", "1 of 1")


@pytest.mark.parametrize("size", [1e-37, 1e37])
def test_the_least_and_largest_that_float32_holds_are_drawn(size):
    given = drawing([size, 0, 0], [0, size, 1], [size, size, 1])
    assert len(paths(to_svg(given))) == 2


def test_several_are_fitted_into_a_grid(tmp_path):
    drawings = [stretched(CORNER, k + 1.0) for k in range(5)]
    svg = to_svg(drawings)
    root = ElementTree.fromstring(svg)
    assert root.attrib["viewBox"] == "0 0 768 512"
    assert (root.attrib["width"], root.attrib["height"]) == ("768", "512")
    assert len(paths(svg)) == 10
    path = tmp_path / "a.svg"
    path.write_text(svg)
    got = read_svg(path, 0.0)
    points = np.cumsum(got[:, :2], axis=0).reshape(5, 4, 2)
    cells = np.array([[0, 0], [256, 0], [512, 0], [0, 256], [256, 256]])
    for cell, placed in zip(cells, points, strict=True):
        np.testing.assert_allclose(placed - cell, points[0], atol=0.01)
        assert placed[:, 0].min() - cell[0] == pytest.approx(256 * 0.05 / 1.1, abs=0.01)
        assert placed[:, 0].max() - cell[0] == pytest.approx(256 * 1.05 / 1.1, abs=0.01)
        assert (placed.min(axis=0) + placed.max(axis=0))[1] / 2 - cell[1] == pytest.approx(
            128, abs=0.01
        )
    root = ElementTree.fromstring(to_svg(drawings, num_columns=1))
    assert root.attrib["viewBox"] == "0 0 256 1280"


@pytest.mark.parametrize(
    ("num_prefix", "expected"),
    [
        (0, [("M10 20L40 20 40 30", False), ("M45 35z", False)]),
        (1, [("M10 20z", True), ("M10 20L40 20 40 30", False), ("M45 35z", False)]),
        (2, [("M10 20L40 20", True), ("M40 20L40 30", False), ("M45 35z", False)]),
        (3, [("M10 20L40 20 40 30", True), ("M45 35z", False)]),
        (4, [("M10 20L40 20 40 30", True), ("M45 35z", True)]),
        (9, [("M10 20L40 20 40 30", True), ("M45 35z", True)]),
    ],
)
def test_a_prefix_is_of_another_colour(num_prefix, expected):
    for svg in (to_svg(CORNER, num_prefix=num_prefix), to_svg([CORNER], num_prefix=num_prefix)):
        got = [
            (path.attrib["d"], path.attrib.get("stroke") == PREFIX_COLOR)
            for path in elements(svg, "path")
        ]
        assert got == expected


def test_strokes_appear_one_after_the_other():
    svg = to_svg([CORNER, CORNER[:2]], seconds=3.0)
    assert "<script" not in svg
    times = [
        (path.attrib["pathLength"], [float(t) for t in moved.attrib["keyTimes"].split(";")])
        for path in elements(svg, "path")
        for moved in path.iter()
        if "keyTimes" in moved.attrib
    ]
    # Three of four points, one of four, two of two, each in 3 of 4 seconds.
    assert times == [
        ("1", [0, 0, 0.5625, 1]),
        ("1", [0, 0.5625]),
        ("1", [0, 0, 0.75, 1]),
    ]
    assert set(re.findall(r'dur="([^"]*)"', svg)) == {"4s"}
    assert set(re.findall(r'attributeName="([^"]*)"', svg)) == {
        "stroke-dasharray",
        "stroke-dashoffset",
        "stroke-opacity",
    }


def test_drawings_without_points_or_size():
    assert paths(to_svg(drawing())) == []
    assert paths(to_svg([drawing(), drawing([3, 4, 1])])) == ["M3 4z"]
    assert ElementTree.fromstring(to_svg([])).attrib["viewBox"] == "0 0 256 0"
    assert paths(to_svg(drawing([-1e-9, 0, 0], [1, 1, 1]))) == ["M0 0L1 1"]


def test_json_is_short_and_comes_back_to_the_bit():
    drawings = [drawing([1, -2, 0], [0.1, 1e-7, 1]), drawing(), drawing([1 / 3, 2**24, 1])]
    text = to_json(drawings)
    assert text == "[[[1,-2,0],[0.1,1e-07,1]],[],[[0.33333334,16777216,1]]]"
    got = from_json(text)
    assert [d.dtype for d in got] == [np.float32] * 3
    for one, other in zip(got, drawings, strict=True):
        np.testing.assert_array_equal(one, other)
    assert from_json("[]") == []
    assert from_json(json.dumps([[[1, 2, 0], [3, 4, True]]]))[0].tolist() == [[1, 2, 0], [3, 4, 1]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[[[1,2", "a.json: not JSON (Expecting"),
        ("[" * 100_000, "a.json: not JSON (maximum recursion"),
        ("{}", "a.json: no list of drawings, each a list of [dx, dy, pen]"),
        ("[1]", "a.json[0] is an array of int64 of shape ()"),
        ("[[[1,2,1]],[[1,2]]]", "a.json[1] is an array of int64 of shape (1, 2)"),
        ("[[[1,2,0],[1,2]]]", "a.json[0] is an array of object"),
        ('[[["1","2","1"]]]', "a.json[0] is an array of <U1"),
        ("[[[1,2,null]]]", "a.json[0] is an array of object"),
        ("[[[1,2,0.5]]]", "a.json[0] has the point [1.0, 2.0, 0.5], expected finite offsets"),
        ("[[[1,NaN,1]]]", "a.json[0] has the point [1.0, nan, 1.0], expected finite offsets"),
    ],
)
def test_json_of_other_things_is_refused(text, expected):
    assert message(from_json, text, "a.json").startswith(expected)
