import json

import numpy as np
import pytest
from refusals import message

from jaxrnn.data.sketch_ndjson import read_ndjson
from jaxrnn.data.strokes import from_lines, simplify


@pytest.fixture
def lines_file(tmp_path):
    def write(*lines) -> str:
        path = tmp_path / "cats.ndjson"
        texts = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
        path.write_bytes(b"\n".join(texts) + b"\n")
        return str(path)

    return write


def test_simplified_drawings_are_read_as_they_are(lines_file):
    path = lines_file(
        {"word": "cat", "key_id": "17", "drawing": [[[0, 5, 6], [1, 2, 4]], [[9], [7]]]},
        b"  ",
        {"word": "ice cream", "key_id": 18, "drawing": [[[1.5, 2], [0, -3]]]},
        {"drawing": [[[], []], [[3, 3, 3], [4, 4, 5]]]},
        {"word": "", "key_id": None, "drawing": []},
    )
    got = read_ndjson(path, epsilon=100.0)
    assert [(key, word) for key, word, _ in got] == [
        ("17", "cat"),
        ("18", "ice cream"),
        ("4", "cats"),
        ("5", "cats"),
    ]
    assert [drawing.tolist() for _, _, drawing in got] == [
        [[0, 1, 0], [5, 1, 0], [1, 2, 1], [3, 3, 1]],
        [[1.5, 0, 0], [0.5, -3, 1]],
        [[3, 4, 0], [0, 0, 0], [0, 1, 1]],
        [],
    ]
    assert all(drawing.dtype == np.float32 for _, _, drawing in got)


def test_raw_drawings_are_moved_scaled_simplified_and_rounded(lines_file):
    # 510 wide and 100 high from (-10, 40): the scale is 1/2. The third point is 1.5 off, scaled.
    strokes = [
        [[-10, 90, 190, 500], [40, 40, 43, 40], [0, 9, 20, 31]],
        [[101], [140], [50]],
    ]
    path = lines_file({"word": "cat", "drawing": strokes})
    ((_, _, drawing),) = read_ndjson(path, epsilon=2.0)
    assert drawing.tolist() == [[0, 0, 0], [255, 0, 1], [-199, 50, 1]]
    ((_, _, drawing),) = read_ndjson(path, epsilon=1.2)
    # 1.5 rounds to the even 2, 55.5 to 56.
    assert drawing.tolist() == [[0, 0, 0], [100, 2, 0], [155, -2, 1], [-199, 50, 1]]


def test_a_raw_drawing_is_simplified_stroke_by_stroke(lines_file):
    rng = np.random.default_rng(0)
    strokes = [np.cumsum(rng.normal(size=(2, 50)) * 9, axis=1) for _ in range(3)]
    everything = np.concatenate(strokes, axis=1)
    low = everything.min(axis=1, keepdims=True)
    scale = 255 / (everything.max(axis=1, keepdims=True) - low).max()
    expected = [np.round(simplify(((s - low) * scale).T, 6.0)) for s in strokes]
    path = lines_file({"drawing": [[*s.tolist(), list(range(50))] for s in strokes]})
    ((_, _, drawing),) = read_ndjson(path, epsilon=6.0)
    np.testing.assert_array_equal(drawing, from_lines(expected))
    assert 10 < len(drawing) < 140


def test_a_raw_dot_has_no_size_to_scale(lines_file):
    path = lines_file({"drawing": [[[], [], []], [[70.5], [3], [0]]]})
    ((_, _, drawing),) = read_ndjson(path, epsilon=2.0)
    assert drawing.tolist() == [[0, 0, 1]]


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        (b'{"drawing": [[[1, 2], [3, 4]]]', "line 2: not JSON (Expecting ',' delimiter)"),
        (b"{} {}", "line 2: not JSON (Extra data)"),
        (b'{"drawing": "\xff"}', "line 2: not JSON ('utf-8' codec can't decode byte 0xff"),
        (b"[" * 100_000, "line 2: not JSON (maximum recursion depth exceeded"),
        ([1], "line 2: no object with a list named drawing; correct or remove the line"),
        ({"word": "cat"}, "line 2: no object with a list named drawing"),
        ({"drawing": {"a": 1}}, "line 2: no object with a list named drawing"),
        ({"drawing": [[[1], [2]], [[1, 2], [3]]]}, "line 2, stroke 1: not two lists, of x and"),
        ({"drawing": [[[1, 2]]]}, "line 2, stroke 0: not two lists"),
        ({"drawing": [[[1], [2], [3], [4]]]}, "line 2, stroke 0: not two lists"),
        ({"drawing": [[1, 2]]}, "line 2, stroke 0: not two lists"),
        ({"drawing": [[["1"], ["2"]]]}, "line 2, stroke 0: not two lists"),
        ({"drawing": [[[None], [2]]]}, "line 2, stroke 0: not two lists"),
        ({"drawing": [[[10**30], [2]]]}, "line 2, stroke 0: not two lists"),
        ({"drawing": [7]}, "line 2, stroke 0: not two lists"),
        ({"drawing": [{"a": 1}]}, "line 2, stroke 0: not two lists"),
        ({"drawing": ["ab"]}, "line 2, stroke 0: not two lists"),
        ({"drawing": [[[np.nan], [2]]]}, "line 2: coordinates that are not finite or beyond"),
        ({"drawing": [[[1, 2], [3, -2e9]]]}, "line 2: coordinates that are not finite or beyond"),
    ],
)
def test_a_bad_line_is_named(lines_file, bad, expected):
    path = lines_file({"drawing": [[[1], [2]]]}, bad)
    assert message(read_ndjson, path, 2.0).startswith(f"{path}, {expected}")


def test_a_file_that_cannot_be_read(tmp_path):
    assert "no such file" in message(read_ndjson, tmp_path / "a.ndjson", 2.0)
