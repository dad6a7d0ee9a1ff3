import json
from itertools import chain

import numpy as np
import pytest
from refusals import message
from sketch_cases import drawing, objects

from jaxrnn.data.sketch_npz import write_sketches
from jaxrnn.data.sketch_output import to_svg
from jaxrnn.data.sketches import read_sketches

CORNER = drawing([10, 20, 0], [30, 0, 0], [0, 10, 1])


def write_lines(path, count: int, **more) -> str:
    lines = [{"drawing": [[[k, 1], [2, 3]]], **more} for k in range(count)]
    path.write_text("\n".join(map(json.dumps, lines)))
    return str(path)


def test_an_archive_is_of_the_class_of_its_name_or_its_own(tmp_path):
    path = tmp_path / "aaron.sheep.npz"
    np.savez(path, train=objects([CORNER, CORNER]), test=objects([CORNER]))
    got = read_sketches(path)
    assert (len(got.train), len(got.valid), len(got.test)) == (2, 0, 1)
    assert got.classes == {"train": ["aaron.sheep"] * 2, "valid": [], "test": ["aaron.sheep"]}
    classes = {"train": ["cat"], "valid": ["dog"], "test": []}
    write_sketches(path, [CORNER], [CORNER], [], classes)
    got = read_sketches(path)
    assert got.classes == classes
    np.testing.assert_array_equal(got.valid[0], CORNER)


def test_lines_are_split_by_their_keys(tmp_path):
    path = write_lines(tmp_path / "a.ndjson", 3000, word="cat")
    got = read_sketches(path)
    sizes = [len(got.train), len(got.valid), len(got.test)]
    assert sum(sizes) == 3000
    assert sizes[1:] == [pytest.approx(150, abs=35)] * 2
    assert [len(got.classes[part]) for part in ("train", "valid", "test")] == sizes
    assert {name for names in got.classes.values() for name in names} == {"cat"}
    # The first offset is the line's place: whoever adds lines leaves the others where they are.
    valid = {int(d[0, 0]) for d in got.valid}
    fewer = read_sketches(write_lines(tmp_path / "b.ndjson", 1000))
    assert {int(d[0, 0]) for d in fewer.valid} == {k for k in valid if k < 1000}
    assert fewer.classes["train"][0] == "b"
    one_key = read_sketches(write_lines(tmp_path / "b.ndjson", 50, key_id="1"))
    assert sorted([len(one_key.train), len(one_key.valid), len(one_key.test)]) == [0, 0, 50]


def test_the_split_does_not_change_from_version_to_version(tmp_path):
    got = read_sketches(write_lines(tmp_path / "a.ndjson", 60))
    assert [int(d[0, 0]) for d in got.valid] == [1, 29, 51]
    assert [int(d[0, 0]) for d in got.test] == [2, 8, 28, 39]


def test_several_words_are_several_classes(tmp_path):
    path = tmp_path / "a.ndjson"
    lines = [{"word": word, "drawing": [[[1], [2]]]} for word in ("cat", "dog", "cat")]
    path.write_text("\n".join(map(json.dumps, lines)))
    got = read_sketches(path)
    assert sorted(chain(*got.classes.values())) == ["cat", "cat", "dog"]


def test_a_single_svg_trains(tmp_path):
    path = tmp_path / "cat.svg"
    path.write_text(to_svg(CORNER))
    got = read_sketches(path)
    np.testing.assert_array_equal(got.train[0], CORNER)
    assert (got.valid, got.test) == ([], [])
    assert got.classes == {"train": ["cat"], "valid": [], "test": []}


def test_a_directory_is_a_set_whose_folders_are_classes(tmp_path):
    root = tmp_path / "animals"
    for folder in ("", "cat", "dog"):
        (root / folder).mkdir(exist_ok=True)
        (root / folder / "notes.txt").write_text("not a drawing")
        for k in range(40):
            suffix = "SVG" if k == 1 else "svg"
            (root / folder / f"{k}.{suffix}").write_text(to_svg(CORNER + drawing([k, 0, 0])))
    got = read_sketches(root)
    assert len(got.train) + len(got.valid) + len(got.test) == 120
    assert got.valid
    assert got.test
    names = list(chain(*got.classes.values()))
    assert [names.count(name) for name in ("animals", "cat", "dog")] == [40, 40, 40]
    again = read_sketches(str(root))
    for one, other in zip(got.valid, again.valid, strict=True):
        np.testing.assert_array_equal(one, other)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert message(read_sketches, empty) == (
        f"{empty} has no .svg files in it, expected at least one"
    )
    (empty / "a.svg").write_text("<svg")
    assert message(read_sketches, empty).startswith(f"{empty / 'a.svg'}, line 1: not XML")


def test_other_suffixes_are_told_by_content(tmp_path):
    svg, lines, archive = (tmp_path / name for name in ("a.txt", "b.json", "c"))
    svg.write_text("\ufeff\n" + to_svg(CORNER))
    write_lines(lines, 30)
    write_sketches(archive, [CORNER], [], [])
    assert len(read_sketches(svg).train) == 1
    assert 20 < len(read_sketches(lines).train) < 30
    assert len(read_sketches(archive).train) == 1
    svg.write_text("hello")
    assert message(read_sketches, svg) == (
        f"{svg} is no file of drawings, expected .npz, .ndjson (a JSON object a line) or .svg"
    )
    upper = tmp_path / "A.NPZ"
    upper.write_bytes(archive.read_bytes())
    assert len(read_sketches(upper).train) == 1
    upper.write_text("hello")
    assert message(read_sketches, upper).startswith(f"{upper} is no whole .npz file")


def test_epsilon_is_passed_on(tmp_path):
    path = tmp_path / "a.svg"
    path.write_text('<svg><circle r="9"/></svg>')
    sizes = [len(read_sketches(path, epsilon).train[0]) for epsilon in (0.0, 2.0, 20.0)]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 3
    raw = tmp_path / "a.ndjson"
    stroke = [[0, 100, 200], [0, 5, 0], [0, 1, 2]]
    raw.write_text(json.dumps({"drawing": [stroke], "key_id": "a"}))
    for epsilon, expected in ((2.0, 3), (9.0, 2)):
        got = read_sketches(raw, epsilon)
        assert [len(d) for d in got.train + got.valid + got.test] == [expected]
    for bad in (-1.0, float("nan")):
        assert message(read_sketches, path, bad) == f"epsilon is {bad}, expected 0 or more"


def test_files_without_drawings(tmp_path):
    path = tmp_path / "a.npz"
    write_sketches(path, [], [], [])
    assert message(read_sketches, path) == f"{path} has no drawings, expected at least one"
    path = tmp_path / "a.ndjson"
    path.write_text("\n\n")
    assert message(read_sketches, path) == f"{path} has no drawings, expected at least one"
    for suffix in ("npz", "ndjson", "svg", "txt"):
        assert "no such file" in message(read_sketches, tmp_path / f"b.{suffix}")
        (tmp_path / f"c.{suffix}").write_text("")
        assert "is empty" in message(read_sketches, tmp_path / f"c.{suffix}")
