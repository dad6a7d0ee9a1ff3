"""Archives of drawings, as NumPy writes them and as they are in the wild."""

import contextlib
import io
import pickle
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import message
from sketch_cases import (
    drawing,
    npy,
    object_npy,
    objects,
    python2_pickle,
    random_drawing,
    write_zip,
)

from jaxrnn.data import sketch_npz
from jaxrnn.data.sketch_npz import read_npz, write_sketches
from jaxrnn.errors import InputError

FEW = settings(derandomize=True, deadline=None, max_examples=200)
DRAWINGS = [drawing([1, -2, 0], [300, 4, 1]), drawing([-32768, 32767, 1])]


def assert_same(got, expected):
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        assert one.dtype == np.float32
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("dtype", ["<i2", ">i2", "i1", "u4", "f2", "f4", ">f8"])
def test_object_arrays_as_numpy_saves_them(tmp_path, dtype):
    parts = {
        "train": [drawing([1, 2, 0], [3, 4, 1]), drawing([5, 6, 1])],
        "valid": [drawing([7, 8, 1])],
        "test": [],
    }
    arrays = {name: objects([d.astype(dtype) for d in part]) for name, part in parts.items()}
    path = tmp_path / "a.npz"
    np.savez(path, allow_pickle=True, **arrays)
    drawings, classes = read_npz(path)
    assert classes == {}
    for name, part in parts.items():
        assert_same(drawings[name], part)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_every_protocol_and_name_of_numpys_functions(tmp_path, protocol, module):
    in_columns = np.asfortranarray(DRAWINGS[0].astype("i2"))
    assert not in_columns.flags.c_contiguous
    content = pickle.dumps(objects([in_columns, DRAWINGS[1]]), protocol)
    if protocol < 4:  # later names have their lengths before them
        content = content.replace(b"numpy._core.multiarray", module)
    path = write_zip(tmp_path / "a.npz", [("train.npy", object_npy(content, "(2,)"))])
    drawings, _ = read_npz(path)
    assert_same(drawings["train"], DRAWINGS)
    assert drawings["valid"] == drawings["test"] == []


def test_python_2s_pickles_and_headers(tmp_path):
    rng = np.random.default_rng(0)
    many = [*DRAWINGS, random_drawing(rng, 100)]
    member = object_npy(python2_pickle(many), "(3L,)")
    path = write_zip(tmp_path / "a.npz", [("train.npy", member)], zipfile.ZIP_STORED)
    assert_same(read_npz(path)[0]["train"], many)
    # NumPy itself reads it so.
    member = io.BytesIO(object_npy(python2_pickle(many), "(3,)"))
    assert_same(
        [d.astype(np.float32) for d in np.load(member, None, True, encoding="latin1")], many
    )


def test_drawings_of_one_length_that_numpy_took_for_one_array(tmp_path):
    cube = np.array([[[1, -2, 0], [3, 4, 1]], [[5, 6, 0], [7, 8, 1]]], np.int16)
    scalars = np.empty(cube.shape, object)
    for place in np.ndindex(cube.shape):
        scalars[place] = cube[place]
    for array in (cube, cube.astype(object), scalars, np.asfortranarray(cube)):
        np.savez(tmp_path / "a.npz", train=array)
        assert_same(read_npz(tmp_path / "a.npz")[0]["train"], cube.astype(np.float32))


def test_what_is_written_comes_back_without_pickles(tmp_path):
    path = tmp_path / "a.npz"
    fractions = [drawing([0.1, -2.5, 0], [1e6, 3, 1]), drawing()]
    classes = {"train": ["cat", "é dog"], "valid": ["dog", "cat"], "test": []}
    write_sketches(path, DRAWINGS, fractions, [], classes)
    drawings, found = read_npz(path)
    assert_same(drawings["train"], DRAWINGS)
    assert_same(drawings["valid"], fractions)
    assert drawings["test"] == []
    assert found == classes
    with np.load(path, allow_pickle=False) as arrays:
        assert arrays["train_points"].dtype == np.int16
        assert arrays["train_points"].tolist()[1] == [300, 4, 1]
        assert arrays["train_lengths"].tolist() == [2, 1]
        assert arrays["valid_points"].dtype == np.float32
        assert arrays["valid_lengths"].tolist() == [2, 0]
    write_sketches(path, [drawing([32768, 1e10, 1])], [], [])
    with np.load(path, allow_pickle=False) as arrays:
        assert arrays["train_points"].dtype == np.float32
        assert "train_classes" not in arrays


def test_what_cannot_be_written(tmp_path):
    missing = tmp_path / "missing" / "a.npz"
    expected = f"{missing}: can't write it ([Errno 2] No such file or directory:"
    assert message(write_sketches, missing, DRAWINGS, [], []).startswith(expected)
    path = tmp_path / "a.npz"
    bad = drawing([1, np.nan, 1])
    assert message(write_sketches, path, [], [bad], []).startswith("valid[0] has the point")
    with pytest.raises(ValueError, match="1 train classes, 2 drawings"):
        write_sketches(path, DRAWINGS, [], [], {"train": ["cat"], "valid": [], "test": []})
    assert not path.exists()


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_set_of_quick_draw_is_read(tmp_path, protocol):
    rng = np.random.default_rng(0)
    counts = {"train": 7000, "valid": 250, "test": 250}  # of ten times as many
    parts = {
        name: [random_drawing(rng, n) for n in rng.integers(1, 250, count)]
        for name, count in counts.items()
    }
    members = []
    for name, drawings in parts.items():
        if protocol == 2:
            content = python2_pickle(drawings)
        else:
            content = pickle.dumps(objects([d.astype("i2") for d in drawings]), protocol)
        members.append((f"{name}.npy", object_npy(content, f"({len(drawings)},)")))
    read, _ = read_npz(write_zip(tmp_path / "a.npz", members))
    for name, drawings in parts.items():
        assert_same(read[name], drawings)


def test_lists_within_an_array_are_not_made_into_numbers():
    array = sketch_npz._Array()
    array.shape, array.content = (1, 1, 1), [[1.0, 2.0]]
    with pytest.raises(ValueError, match="other things than numbers"):
        array.inner_arrays(1000)


def test_drawings_of_wrong_shape_or_value_are_named(tmp_path):
    for bad, expected in (
        (np.zeros((2, 4)), "train[1] is an array of float64 of shape (2, 4), expected (N, 3)"),
        (np.array([[1, np.inf, 1]]), "train[1] has the point [1.0, inf, 1.0], expected finite"),
        (np.array([[1, 2, 3]]), "train[1] has the point [1.0, 2.0, 3.0], expected finite"),
    ):
        np.savez(tmp_path / "a.npz", train=objects([DRAWINGS[0], bad]))
        expected = f"{tmp_path / 'a.npz'}, {expected}"
        assert message(read_npz, tmp_path / "a.npz").startswith(expected)


def test_arrays_that_are_none_of_drawings(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=np.zeros(3))
    assert message(read_npz, path) == (
        f"{path} has none of the arrays train and train_points, expected one of them; is it a file"
        " of drawings?"
    )
    np.savez(path, train=np.array(["a"]))
    assert "train[0] is an array of <U1 of shape ()" in message(read_npz, path)
    np.savez(path, train=np.array(3))
    assert "train[0] is an array of int64 of shape ()" in message(read_npz, path)
    np.savez(path, train=np.zeros(2, complex))
    assert message(read_npz, path) == f"{path}, train is an array of complex128, expected numbers"


@pytest.mark.parametrize(
    "lengths",
    [[1, 1], [4], [4, -1], [[3]], [1.5, 1.5], [2**62, 2**62, 2**62, 2**62, 3], ["3"], None],
)
def test_lengths_that_do_not_divide_the_points(tmp_path, lengths):
    arrays = {"train_points": np.ones((3, 3))}
    if lengths is not None:
        arrays["train_lengths"] = np.array(lengths)
    np.savez(tmp_path / "a.npz", allow_pickle=True, **arrays)
    assert message(read_npz, tmp_path / "a.npz") == (
        f"{tmp_path / 'a.npz'}: train_lengths does not divide train_points, expected whole numbers"
        " that add up to its rows; write the file anew"
    )


def test_classes_must_be_as_many_as_drawings(tmp_path):
    arrays = {"train_points": np.ones((3, 3)), "train_lengths": np.array([3])}
    np.savez(tmp_path / "a.npz", **arrays, train_classes=np.array(["a", "b"]))
    assert "has 2 names in train_classes, expected 1" in message(read_npz, tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("member", "expected"),
    [
        (b"", "no .npy header (ValueError)"),
        (b"\x93NUMPY\x01", "no .npy header (ValueError)"),
        (b"\x93NUMPY\x03\x00" + npy(np.ones(3))[8:], "no .npy header (KeyError)"),
        (npy(np.ones(3))[:-1], "has 23 bytes, expected float64 of shape (3,); fetch it again"),
        (npy(np.ones(3)) + b"x", "has 25 bytes, expected float64 of shape (3,)"),
        (object_npy(b"", "(1000000000000000,)", "<f8"), "has 0 bytes, expected float64 of shape"),
        (object_npy(b"\0" * 48, "(-2, -3)", "<f8"), "has 48 bytes, expected float64 of shape"),
        (object_npy(b"", "(1000000000000000,)", "<U0"), "has 0 bytes, expected <U0 of shape"),
        (object_npy(b"", "(1000000000000000, 0, 3)", "<f8"), "has 0 bytes, expected float64 of"),
        (object_npy(b"", "(((((", "<f8"), "no .npy header ("),
    ],
)
def test_damaged_arrays(tmp_path, member, expected):
    path = write_zip(tmp_path / "a.npz", [("train.npy", member)])
    got = message(read_npz, path)
    assert got.startswith(f"{path}, train")
    assert expected in got


def test_damaged_and_tricky_archives(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    good = [("train.npy", npy(np.ones((2, 5, 3))))]
    whole = Path(write_zip(path, good)).read_bytes()
    for damaged in (b"x", whole[:50], whole[:-30], whole[:60] + b"????" + whole[64:]):
        path.write_bytes(damaged)
        got = message(read_npz, path)
        assert got.startswith(f"{path} is no whole .npz file (")
        assert got.endswith("), expected a zip archive of arrays; fetch it again")
    path.write_bytes(b"")
    assert message(read_npz, path) == f"{path} is empty, expected data; check the path"
    assert "no such file" in message(read_npz, tmp_path / "b.npz")
    for name in ("../train.npy", "/train.npy", "a/train.npy", "train", "train.npy\n"):
        write_zip(path, [*good, (name, b"")])
        assert "expected names such as 'train.npy'" in message(read_npz, path)
    with pytest.warns(UserWarning, match="Duplicate name"):
        write_zip(path, good * 2)
    assert message(read_npz, path) == f"{path} has 'train.npy' twice, expected it once"
    write_zip(path, good, zipfile.ZIP_LZMA)
    assert "train.npy: packed by method 14, expected 0 or 8" in message(read_npz, path)
    size = len(good[0][1])
    write_zip(path, [*good, ("more.npy", b"0" * 10)])
    monkeypatch.setattr(sketch_npz, "MAX_BYTES", size + 9)
    assert message(read_npz, path) == (
        f"{path} has {size + 10} bytes unpacked, expected at most {size + 9}; divide it into"
        " several files"
    )
    monkeypatch.setattr(sketch_npz, "MAX_BYTES", size + 10)
    assert len(read_npz(path)[0]["train"]) == 2


def test_a_size_that_is_declared_too_small_unpacks_no_more(tmp_path):
    path = tmp_path / "a.npz"
    whole = Path(write_zip(path, [("train.npy", b"0" * 3 * 10**7)])).read_bytes()
    content = bytearray(whole)
    entry = content.rindex(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = struct.pack("<I", 100)
    path.write_bytes(content)
    tracemalloc.start()
    try:
        assert "Bad CRC-32" in message(read_npz, path)
        assert tracemalloc.get_traced_memory()[1] < 10**7
    finally:
        tracemalloc.stop()


@FEW
@given(st.data())
def test_no_damage_ends_in_another_exception(tmp_path_factory, data):
    whole = object_npy(pickle.dumps(objects(DRAWINGS), 2), "(2,)")
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = write_zip(tmp_path_factory.mktemp("npz") / "a.npz", [("train.npy", bytes(damaged))])
    with contextlib.suppress(InputError):
        read_npz(path)
