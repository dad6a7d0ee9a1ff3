"""Pickles that would run, fill memory or take for ever: refused, and nothing is left of them."""

import os
import pickle
import pickletools
import re
import struct
import tracemalloc

import numpy as np
import pytest
from refusals import message
from sketch_cases import (
    drawing,
    npy,
    object_npy,
    objects,
    python2_pickle,
    short_bytes,
    write_zip,
)

from jaxrnn.data import sketch_npz
from jaxrnn.data.sketch_npz import read_npz
from jaxrnn.errors import InputError

DRAWINGS = [drawing([1, -2, 0], [300, 4, 1]), drawing([-32768, 32767, 1])]


class _Attack:
    def __reduce__(self):
        return os.mkdir, ("was_here",)


@pytest.mark.parametrize(
    ("pickled", "name"),
    [
        (pickle.dumps(_Attack()), "posix.mkdir"),
        (pickle.dumps(objects([_Attack()])), "posix.mkdir"),
        (b"\x80\x02cbuiltins\neval\nU\x011\x85R.", "builtins.eval"),
        (b"\x80\x02cnumpy\nload\nU\x01a\x85R.", "numpy.load"),
        (b"\x80\x02cnumpy._core.multiarray\nfromfile\n.", "numpy._core.multiarray.fromfile"),
        (b"\x80\x04\x8c\x0d_codecs.x\x8c\x06encode\x93.", None),
        (b"\x80\x04\x8c\x05numpy\x8c\x0cndarray.dump\x93.", "numpy.ndarray.dump"),
        (b"(S'1'\nios\nsystem\n.", "os.system"),
    ],
)
def test_pickles_that_name_anything_else_are_refused(tmp_path, monkeypatch, pickled, name):
    monkeypatch.chdir(tmp_path)
    path = write_zip(tmp_path / "a.npz", [("train.npy", object_npy(pickled, "(1,)"))])
    got = message(read_npz, path)
    if name is None:
        assert "its pickle can't be read" in got
    else:
        assert got == (
            f"{path}, train holds code-bearing pickle objects: it asks for {name!r}, expected"
            " arrays of numbers only; don't load this file with anything else either"
        )
    assert not (tmp_path / "was_here").exists()


def traces() -> list:
    """All that a pickle could have altered."""
    stand_ins = list(sketch_npz._STAND_INS.values())
    kinds = [kind if isinstance(kind, type) else type(kind) for kind in stand_ins]
    own = [getattr(stand_in, "__dict__", None) for stand_in in stand_ins]
    return [stand_ins, *(dict(vars(kind)) for kind in kinds), *map(str, own)]


@pytest.mark.parametrize("name", [*map(" ".join, sketch_npz._STAND_INS), "_codecs encode"])
@pytest.mark.parametrize("has_dictionaries", [False, True])
def test_a_pickle_leaves_no_trace_in_this_program(tmp_path, monkeypatch, name, has_dictionaries):
    for code in (pickle.EMPTY_DICT, pickle.SETITEM) if has_dictionaries else ():
        load = pickle._Unpickler.dispatch[code[0]]
        monkeypatch.setitem(sketch_npz._Unpickler.dispatch, code[0], load)
    before = traces()
    found = b"\x80\x02c" + name.replace(" ", "\n").encode() + b"\n"
    names = (b"__call__", b"__new__", b"__setstate__", b"order", b"content", b"x")
    for attribute in names:
        state = b"}" + short_bytes(attribute) + b")s"
        state_in_unicode = b"}X" + struct.pack("<I", len(attribute)) + attribute + b")s"
        for built in (state, state_in_unicode):
            # As state of its dictionary, and as state of its slots.
            for pickled in (found + built + b"b.", found + b"N" + built + b"\x86b."):
                member = object_npy(pickled, "(1,)")
                path = write_zip(tmp_path / "a.npz", [("train.npy", member)])
                assert "its pickle can't be read" in message(read_npz, path)
                assert traces() == before


@pytest.mark.parametrize(
    "pickled",
    [
        b"]r\xff\xff\xff\x7f.",
        b"\x96\0\0\0\x10\0\0\0\0.",
        b"B\0\0\0\x10.",
        # The shape (10,000,000, "ab") instead of (1,).
        python2_pickle(DRAWINGS[:1]).replace(b"M\1\0\x85", b"J\x80\x96\x98\0U\2ab\x86", 1),
    ],
)
def test_a_pickle_takes_no_memory_for_what_it_does_not_hold(tmp_path, pickled):
    member = object_npy(b"\x80\x05" + pickled, "(0,)")
    path = write_zip(tmp_path / "a.npz", [("train.npy", member)])
    tracemalloc.start()
    try:
        assert "its pickle can't be read" in message(read_npz, path)
        assert tracemalloc.get_traced_memory()[1] < 10**7
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "pickled",
    [
        b"",
        b"garbage",
        pickle.dumps(objects(DRAWINGS))[:-40],
        pickle.dumps([1, 2]),
        pickle.dumps(DRAWINGS[0]),
        pickle.dumps(objects([1, 2])),
        pickle.dumps(objects([[1, 2, 3]])),
        pickle.dumps(objects(["a"])),
        pickle.dumps(np.array([["a", "b", "c"]] * 2, object).reshape(1, 2, 3)),
        pickle.dumps(objects([np.array(["a", "b"])])),
        pickle.dumps(objects([np.zeros(2, "M8[s]")])),
        pickle.dumps(objects([objects(DRAWINGS)])),
        pickle.dumps(objects([np.zeros(2, [("x", "i4")])])),
        pickle.dumps(np.empty((0, 2), object)),
        python2_pickle(DRAWINGS[:1]).replace(b"M\2\0M\3\0\x86", b"M\1\0M\3\0\x86"),
    ],
)
def test_pickles_of_other_things_are_refused(tmp_path, pickled):
    path = write_zip(tmp_path / "a.npz", [("train.npy", object_npy(pickled, "(1,)"))])
    got = message(read_npz, path)
    assert got.startswith(f"{path}, train: its pickle can't be read (")
    assert got.endswith("expected an array of arrays of (N, 3) numbers; fetch it again")


def test_an_array_that_is_named_many_times_is_no_way_around_the_limit(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    np.savez(path, train=objects([np.ones((100, 3))] * 50))
    monkeypatch.setattr(sketch_npz, "REPEATED_BYTES", 50 * 2400)
    assert len(read_npz(path)[0]["train"]) == 50
    monkeypatch.setattr(sketch_npz, "REPEATED_BYTES", 50 * 2400 - 1)
    assert path.stat().st_size < 10_000
    assert "its pickle can't be read (ValueError)" in message(read_npz, path)
    # As many bytes as it has itself a pickle may always hold.
    np.savez(path, train=objects([np.full((100, 3), k % 2) for k in range(50)]))
    assert len(read_npz(path)[0]["train"]) == 50


def test_a_text_that_is_encoded_many_times_is_no_way_around_the_limit(monkeypatch):
    once = b"c_codecs\nencode\n(V" + b"a" * 1000 + b"\nVlatin1\ntp0\nR"
    again = b"c_codecs\nencode\ng0\nR"
    data = b"(" + once + again * 49 + b"l."
    for limit, outcome in ((50_000, AttributeError), (49_999, ValueError)):
        monkeypatch.setattr(sketch_npz, "REPEATED_BYTES", limit)
        with pytest.raises(InputError, match=rf"can't be read \({outcome.__name__}\)"):
            sketch_npz._unpickle(data, "a", 1000)


ENCODE = b"c_codecs\nencode\n"
TEXT = b"X" + struct.pack("<I", 10**6) + b"a" * 10**6 + b"q\x01X\x06\0\0\0latin1q\x02"
DTYPE = b"cnumpy\ndtype\nU\x02O8\x85Rq\0"
LIST = b"](" + b"N" * 10**5 + b"eq\x01"
ARRAY = b"cnumpy\nndarray\n)R(K\x01K\x01\x85h\0\x89h\1tb"
BYTES = b"B" + struct.pack("<I", 10**6) + b"a" * 10**6 + b"q\x01"
BOMBS = {
    "a list that many arrays hold": DTYPE + LIST + ARRAY * 1000,
    "a budget set by BUILD": ENCODE
    + (b"N}X\x09\0\0\0_num_leftJ\xff\xff\xff\x7fs\x86bq\0" + TEXT + b"h\0h\1h\2\x86R" * 500),
    "a text encoded many times": ENCODE + b"q\0" + TEXT + b"h\0h\1h\2\x86R" * 500,
    "bytes that many dtypes hold": b"cnumpy\ndtype\nq\0" + BYTES + b"h\0h\1\x85R" * 500,
    "lists": b"]" * 10**7,
    "marks": b"(" * 10**7,
    "tuples": b")" + b"\x85" * 10**7,
    "dictionaries": b"}" * 10**7,
    "sets": b"\x8f" * 10**7,
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_small_file_takes_little_memory(tmp_path, bomb):
    pickled = b"\x80\x04" + BOMBS[bomb] + b"."
    path = write_zip(tmp_path / "a.npz", [("train.npy", object_npy(pickled, "(1,)"))])
    assert os.path.getsize(path) < 30_000
    tracemalloc.start()
    try:
        got = message(read_npz, path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert got.startswith(f"{path}, train: its pickle can't be read (")
    # Of which 10 MB and more are the file's, unpacked and as a part of it; 16 MiB are encoded.
    assert peak < 70 * 10**6


@pytest.mark.parametrize(
    ("after", "expected"), [(b"h\1R", "other arguments"), (b")R(K\1h\1h\0\x89]tb", "no shape")]
)
def test_a_long_tuple_named_again_and_again_takes_no_time(after, expected):
    pickled = DTYPE + b"cnumpy\nndarray\n(" + b"K\1" * 4 + b"tq\1" + b"cnumpy\nndarray\n" + after
    with pytest.raises(ValueError, match=expected):
        sketch_npz._Unpickler(pickled + b".", "a", 100).load()


@pytest.mark.parametrize("bomb", ["lengths", "classes", "cube", "numbers"])
def test_a_small_file_makes_few_drawings(tmp_path, monkeypatch, bomb):
    many = np.zeros(4 * 10**6, np.int8)
    arrays = {
        "lengths": {"train_points": np.ones((1, 3)), "train_lengths": many},
        "classes": {
            **{"train_points": np.ones((1, 3)), "train_lengths": np.ones(1, np.int8)},
            "train_classes": np.full(4 * 10**6, "ß"),
        },
        "cube": {"train": many[: 9 * 10**5].reshape(-1, 1, 3)},
        "numbers": {"train": many},
    }[bomb]
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    tracemalloc.start()
    try:
        got = message(read_npz, tmp_path / "a.npz")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert re.search(
        r"train(_\w+)? is of \d+ drawings, expected at most \d+ in so small a file", got
    )
    assert peak < 40 * 10**6


def test_the_size_unpacked_is_bounded_by_the_files(tmp_path, monkeypatch):
    path = write_zip(tmp_path / "a.npz", [("train.npy", npy(np.zeros((10**5, 1, 3), np.int8)))])
    packed, size = os.path.getsize(path), 3 * 10**5 + 128
    assert packed * 50 < size
    assert len(read_npz(path)[0]["train"]) == 10**5
    monkeypatch.setattr(sketch_npz, "SMALL_BYTES", size - 1)
    assert message(read_npz, path) == (
        f"{path} has {size} bytes unpacked, expected at most 50 times its own {packed}; if it is"
        " from a source you trust, write it anew with np.savez"
    )
    np.savez(path, train=np.zeros((10**5, 1, 3), np.int8))
    assert len(read_npz(path)[0]["train"]) == 10**5


def test_a_pickles_opcodes_are_counted(monkeypatch):
    data = pickle.dumps(objects(DRAWINGS), 2)
    number = len(list(pickletools.genops(data)))
    assert len(sketch_npz._unpickle(data, "a", number)) == 2
    with pytest.raises(InputError, match=r"can't be read \(ValueError\)"):
        sketch_npz._unpickle(data, "a", number - 1)
