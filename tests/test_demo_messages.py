import json

import numpy as np
import pytest
from demo_cases import wish

from jaxrnn.data.sketch_output import from_json
from jaxrnn.data.sketch_svg import read_svg
from jaxrnn.demo.artist import Wish
from jaxrnn.demo.messages import RefusedError, read_fields, read_file, read_lines, read_wish

CLASSES = ("cat", "dog")
LINES = [[[10, 20], [40, 20], [40, 30.5]], [[45, 35]]]


def refusal(call, *args) -> tuple[str, str, int]:
    with pytest.raises(RefusedError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return caught.value.field, str(caught.value), caught.value.status


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"temperature": NaN}', "NaN is no number of JSON"),
        (b'{"temperature": -Infinity}', "-Infinity is no number of JSON"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "is not JSON"),
        (b"[1]", "is a list, expected an object"),
        (b"null", "is a NoneType, expected an object"),
    ],
)
def test_a_body_that_is_no_object_is_refused(body, reason):
    field, message, status = refusal(read_fields, body)
    assert (field, status) == ("body", 400)
    assert reason in message


def test_how_to_draw_is_read():
    assert read_fields(b'{"seed": 7}') == {"seed": 7}
    assert read_wish(wish(count=9, seed=2**32 - 1), CLASSES) == Wish(9, 0.4, 2**32 - 1, 0)
    assert read_wish(wish(temperature=2) | {"class": "dog"}, CLASSES) == Wish(1, 2.0, 3, 1)
    assert read_wish(wish(temperature=0.01, seed=0), CLASSES) == Wish(1, 0.01, 0, 0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("count", v) for v in (0, 10, -1, 1.0, True, "3", None, [1])),
        *(("temperature", v) for v in (0, 0.009, 2.001, -1, True, "1", None, {})),
        *(pytest.param(name, 10**400, id=f"{name}-huge") for name in ("count", "temperature")),
        *(("temperature", v) for v in (float("inf"), float("nan"))),
        *(("seed", v) for v in (-1, 2**32, 1.5, False, "x")),
        *(("class", v) for v in ("bird", 0, None, ["cat"], "x" * 9999)),
    ],
)
def test_what_is_out_of_range_is_named(name, value):
    field, message, status = refusal(read_wish, wish() | {name: value}, CLASSES)
    assert (field, status) == (name, 422)
    assert message.startswith(f"{name} is ")
    assert "expected" in message
    assert len(message) < 120


@pytest.mark.parametrize("name", ["count", "temperature", "seed"])
def test_what_is_missing_is_named(name):
    fields = {k: v for k, v in wish().items() if k != name}
    assert refusal(read_wish, fields, CLASSES) == (name, f"{name} is missing", 422)


def test_the_least_count_is_the_callers():
    assert read_wish(wish(count=5), CLASSES, 5).count == 5
    assert "expected a whole number in 5..9" in refusal(read_wish, wish(count=4), CLASSES, 5)[1]


def test_lines_are_read():
    first, second = read_lines({"lines": LINES}, "lines")
    np.testing.assert_array_equal(first, [[10, 20], [40, 20], [40, 30.5]])
    np.testing.assert_array_equal(second, [[45, 35]])
    assert [line.shape for line in read_lines({"lines": [[]]}, "lines")] == [(0, 2)]
    assert len(read_lines({"lines": [[[0, 0]] * 500] * 2}, "lines", 1)) == 2


@pytest.mark.parametrize(
    ("value", "field", "reason"),
    [
        (None, "lines", "is no list of lines"),
        ({}, "lines", "is no list of lines"),
        ("ab", "lines", "is no list of lines"),
        ([[[1, 2]], 3], "lines", "is no list of lines"),
        ([[[1, 2]], [[1, 2], [3]]], "lines[1][1]", "is [3], expected [x, y]"),
        ([[[1, 2, 3]]], "lines[0][0]", "is [1, 2, 3]"),
        ([[7]], "lines[0][0]", "is 7"),
        ([[["1", 2]]], "lines[0][0]", 'is ["1", 2]'),
        ([[[True, 2]]], "lines[0][0]", "is [true, 2]"),
        ([[[None, 2]]], "lines[0][0]", "is [null, 2]"),
        ([[[1, 100_001]]], "lines[0][0]", "in +-100000"),
        ([[[1, float("inf")]]], "lines[0][0]", "expected [x, y]"),
        ([[[1, float("nan")]]], "lines[0][0]", "expected [x, y]"),
        ([[[1, -(10**400)]]], "lines[0][0]", "expected [x, y]"),
        ([[[0, 0]] * 1001], "lines", "has 1001 points, expected 1 to 1000"),
        ([[[0, 0]] * 500, [[0, 0]] * 501], "lines", "has 1001 points, expected 1 to 1000"),
        ([[]], "lines", "has 0 points, expected 1 to 1000"),
    ],
)
def test_what_are_no_lines_is_refused(value, field, reason):
    found, message, status = refusal(read_lines, {"lines": value}, "lines", 1)
    assert (found, status) == (field, 422)
    assert reason in message


def test_lines_that_are_missing_are_named():
    assert refusal(read_lines, {}, "first") == ("first", "first is missing", 422)


ENDINGS = [[[[50, 50], [60, 70]]], [[[0, 0], [5, 5]], [[7, 7]]]]
DRAWINGS = [
    [[10, 20, 0], [30, 0, 0], [0, 10.5, 1], [5, 4.5, 1], [5, 15, 0], [10, 20, 1]],
    [
        *([10, 20, 0], [30, 0, 0], [0, 10.5, 1], [5, 4.5, 1]),
        *([-45, -35, 0], [5, 5, 1], [2, 2, 1]),
    ],
]


@pytest.mark.parametrize(
    ("endings", "expected"),
    [([], [DRAWINGS[0][:4]]), (ENDINGS[:1], DRAWINGS[:1]), (ENDINGS, DRAWINGS)],
)
def test_a_json_file_holds_whole_drawings(endings, expected):
    text, media_type = read_file({"form": "json", "lines": LINES, "endings": endings})
    assert media_type == "application/json"
    assert json.loads(text) == expected
    for got, points in zip(from_json(text), expected, strict=True):
        np.testing.assert_array_equal(got, np.array(points, np.float32))


def test_an_svg_file_is_read_back_and_shows_whose_lines_are_whose(tmp_path):
    text, media_type = read_file({"form": "svg", "lines": LINES, "endings": ENDINGS[:1]})
    assert media_type == "image/svg+xml"
    (tmp_path / "a.svg").write_text(text)
    got = read_svg(tmp_path / "a.svg", 0.0)
    np.testing.assert_allclose(got, DRAWINGS[0], atol=0.01)
    colors = ['stroke="#d6336c"' in line for line in text.splitlines() if "<path" in line]
    assert colors == [True, True, False]
    several, _ = read_file({"form": "svg", "lines": LINES, "endings": ENDINGS})
    assert several.count("<g ") == 2


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"form": "png"}, "form"),
        ({"form": ["svg"]}, "form"),
        ({"form": {}}, "form"),
        ({"lines": 3}, "lines"),
        ({"endings": {}}, "endings"),
        ({"endings": [[]] * 10}, "endings"),
        ({"endings": [[], [[[1]]]]}, "endings[1][0][0]"),
        ({"endings": [[], 5]}, "endings[1]"),
    ],
)
def test_a_file_of_anything_else_is_refused(changes, field):
    fields = {"form": "svg", "lines": LINES, "endings": []} | changes
    assert refusal(read_file, fields)[0] == field
