"""Drawings of several files, their classes, and what is too long."""

import numpy as np
import pytest

from jaxrnn.data.drawings import read_drawings
from jaxrnn.data.sketch_npz import write_sketches
from jaxrnn.errors import InputError


def drawings_of(lengths, value=1):
    return [np.array([[value, n, 0]] * (n - 1) + [[value, n, 1]], np.float32) for n in lengths]


def test_files_become_classes_in_the_order_of_their_names(tmp_path):
    for name, lengths in (("dogs", [2, 3]), ("cats", [4])):
        parts = (drawings_of(lengths), drawings_of([5]), drawings_of([6, 7]))
        write_sketches(tmp_path / f"{name}.npz", *parts)
    data = read_drawings([str(tmp_path / "dogs.npz"), str(tmp_path / "cats.npz")])
    assert data.classes == ("cats", "dogs")
    assert [len(d) for d in data.train.drawings] == [2, 3, 4]
    assert data.train.classes.tolist() == [1, 1, 0]
    assert data.valid.classes.tolist() == [1, 0]
    assert data.test.classes.tolist() == [1, 1, 0, 0]
    assert data.longest == 7


def test_what_is_too_long_is_left_out_with_its_class(tmp_path):
    parts = (drawings_of([2, 9, 3]), drawings_of([9]), [])
    classes = {"train": ["x", "y", "x"], "valid": ["y"], "test": []}
    write_sketches(tmp_path / "a.npz", *parts, classes=classes)
    data = read_drawings([str(tmp_path / "a.npz")], max_len=8)
    assert [len(d) for d in data.train.drawings] == [2, 3]
    assert data.train.classes.tolist() == [0, 0]
    assert data.valid.drawings == []
    assert data.longest == 3
    with pytest.raises(InputError, match=r"no drawing of .*a.npz has 1 to 1 points; raise --max"):
        read_drawings([str(tmp_path / "a.npz")], max_len=1)


def test_without_a_validation_part_every_tenth_is_held_out(tmp_path):
    write_sketches(tmp_path / "a.npz", drawings_of(range(1, 26)), [], [])
    data = read_drawings([str(tmp_path / "a.npz")])
    assert [len(d) for d in data.valid.drawings] == [10, 20]
    assert len(data.train.drawings) == 23
    assert len(data.valid.classes) == 2
    write_sketches(tmp_path / "few.npz", drawings_of(range(1, 10)), [], [])
    few = read_drawings([str(tmp_path / "few.npz")])
    assert (len(few.train.drawings), len(few.valid.drawings)) == (9, 0)


def test_the_built_in_drawings_are_omniglots():
    data = read_drawings([])
    counts = [len(part.drawings) for part in (data.train, data.valid, data.test)]
    assert counts == [6000, 300, 300]
    assert data.classes == ("omniglot",)
    assert data.longest == 157


def test_what_training_would_cut_is_refused_but_for_archives(tmp_path):
    write_sketches(tmp_path / "a.npz", [np.array([[6000, 1, 1]], np.float32)], [], [])
    assert read_drawings([str(tmp_path / "a.npz")]).train.drawings[0][0, 0] == 1000
    svg = '<svg xmlns="http://www.w3.org/2000/svg"><path d="M0 0L{} 0L0 90"/></svg>'
    (tmp_path / "a.svg").write_text(svg.format(1001))
    with pytest.raises(InputError, match=r"a.svg has points 1,001 units apart, expected at most 1"):
        read_drawings([str(tmp_path / "a.svg")])
    (tmp_path / "a.svg").write_text(svg.format(900))
    assert read_drawings([str(tmp_path / "a.svg")]).train.drawings[0][1, 0] == 900
