import contextlib
import hashlib
import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from failing_disk import break_at
from refusals import message

from jaxrnn import checkpoint
from jaxrnn.errors import InputError


def assert_same_bits(got, expected):
    got, expected = np.asarray(got), np.asarray(expected)
    assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
    assert got.tobytes() == expected.tobytes()


TREE = {
    "params": {"rnn.weight_ih_l0": np.arange(12, dtype=np.float32).reshape(3, 4)},
    "step": np.int32(7),
    "carry": (np.array([[1.5, -0.0]]), np.zeros((0, 3), np.float32)),
}
META = {"step": 7, "progress": {"best": 1 / 3, "name": "ü"}}


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("saved") / "a.safetensors"
    checkpoint.save(path, TREE, META)
    return path.read_bytes()


@pytest.mark.parametrize(
    "array",
    [
        np.array([True, False]),
        np.array([-(2**31), 2**31 - 1], np.int32),
        np.array([-(2**63), 2**63 - 1]),
        np.array([2**32 - 1], np.uint32),
        np.array([65504, 6e-8, np.nan], np.float16),
        np.array([1.5, -np.inf, 3e38], ml_dtypes.bfloat16),
        np.array([np.nan, -0.0, 1e-45], np.float32),
        np.array([5e-324, np.inf, 1 / 3]),
        np.float32(2.5),
        np.zeros((2, 0, 3), np.float32),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(12.0)[::-2],
    ],
    ids=lambda a: f"{a.dtype}{a.shape}",
)
def test_every_bit_comes_back(array, tmp_path):
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, {"a": jnp.asarray(array)}, {})
    loaded, meta = checkpoint.load(path, {"a": array})
    assert_same_bits(loaded["a"], array)
    assert meta == {}
    checkpoint.save(path, {"a": array}, {})
    assert_same_bits(checkpoint.load(path, {"a": array})[0]["a"], array)


def test_trees_come_back_with_their_structure_and_meta(tmp_path):
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, TREE, META)
    like = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, TREE))
    for given in (TREE, like):
        loaded, meta = checkpoint.load(path, given)
        jax.tree.map(assert_same_bits, loaded, TREE)
        assert meta == META
    arrays, _ = checkpoint.read(path)
    assert set(arrays) == {"params/rnn.weight_ih_l0", "step", "carry/0", "carry/1"}


def test_any_reader_of_safetensors_can_read_it(saved):
    arrays = safetensors.numpy.load(saved)
    assert_same_bits(arrays["params/rnn.weight_ih_l0"], TREE["params"]["rnn.weight_ih_l0"])


def test_one_part_can_be_loaded_alone(tmp_path):
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, TREE, META)
    like = {"carry": TREE["carry"]}
    jax.tree.map(
        assert_same_bits, checkpoint.load(path, like, partial=True)[0]["carry"], TREE["carry"]
    )
    assert "step is not expected" in message(checkpoint.load, path, like)


def test_all_differences_are_named_at_once(tmp_path):
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, TREE, META)
    like = {
        "params": {"rnn.weight_ih_l0": np.zeros((3, 5), np.float32), "extra": np.zeros(2)},
        "carry": (TREE["carry"][0].astype(np.float32), TREE["carry"][1]),
    }
    assert message(checkpoint.load, path, like) == (
        f"{path} was made by other options: params/extra is missing; step is not expected; "
        "carry/0 is float64(1, 2), expected float32(1, 2); "
        "params/rnn.weight_ih_l0 is float32(3, 4), expected float32(3, 5)"
    )


def test_cut_short_anywhere_it_is_refused(saved, tmp_path):
    path = tmp_path / "a.safetensors"
    for size in range(len(saved)):
        path.write_bytes(saved[:size])
        text = message(checkpoint.read, path)
        assert text.startswith(f"{path} is not a whole checkpoint ("), size
    for more in (b"\0", b"more"):
        path.write_bytes(saved + more)
        message(checkpoint.read, path)


@pytest.mark.parametrize("flip", [0x01, 0x20, 0x80, 0xFF])
def test_with_any_byte_altered_it_is_refused(flip, saved, tmp_path):
    path = tmp_path / "a.safetensors"
    harmless = 0
    for k in range(len(saved)):
        altered = bytearray(saved)
        altered[k] ^= flip
        path.write_bytes(altered)
        if not saved[k : k + 1].isspace():  # blanks fill the header up
            assert str(path) in message(checkpoint.read, path), k
            continue
        with contextlib.suppress(InputError):
            arrays, meta = checkpoint.load(path, TREE)
            harmless += 1
            jax.tree.map(assert_same_bits, arrays, TREE)
            assert meta == META
    assert harmless < 8


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    assert message(checkpoint.read, path) == (
        f"can't read the checkpoint {path}: No such file or directory"
    )
    assert message(checkpoint.read, tmp_path).endswith("Is a directory")
    for content in (b"", b"text, text, text", b"\xff" * 64, b"\0" * 64):
        path.write_bytes(content)
        assert "is not a whole checkpoint" in message(checkpoint.read, path)
    safetensors.numpy.save_file({"a": np.zeros(3)}, path)  # no checksum in it
    assert "is not a whole checkpoint" in message(checkpoint.read, path)
    metadata = {"format": "2", "meta": "{}", "sha256": ""}
    safetensors.numpy.save_file({"a": np.zeros(3)}, path, metadata=metadata)
    assert message(checkpoint.read, path) == (
        f"{path} has checkpoint format 2, this version reads 1"
    )


def test_what_it_could_not_read_again_is_not_saved(tmp_path):
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, TREE, META)
    for dtype in (np.uint8, np.int16, np.uint64):
        try:
            checkpoint.save(path, {"a": np.ones(2, dtype)}, {})
        except (ValueError, TypeError):
            checkpoint.load(path, TREE)  # the old file is whole
        else:
            assert_same_bits(checkpoint.read(path)[0]["a"], np.ones(2, dtype))
            checkpoint.save(path, TREE, META)


@pytest.mark.parametrize("moment", ["write", "fsync", "replace"])
def test_a_failure_while_writing_leaves_the_old_file_whole(moment, tmp_path):
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, TREE, META)
    newer = jax.tree.map(lambda a: np.asarray(a + 1, a.dtype), TREE)
    with pytest.MonkeyPatch.context() as monkeypatch:
        break_at(moment, monkeypatch)
        with pytest.raises(OSError, match=r"No space left|Input/output error"):
            checkpoint.save(path, newer, META)
    jax.tree.map(assert_same_bits, checkpoint.load(path, TREE)[0], TREE)
    checkpoint.save(path, newer, META)
    jax.tree.map(assert_same_bits, checkpoint.load(path, TREE)[0], newer)
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_meta_is_kept_as_it_was(tmp_path):
    path = tmp_path / "a.safetensors"
    meta = {"best": None, "loss": 0.1 + 0.2, "large": 1e300, "name": 'a "b"\n\u2028 😀', "n": 2**60}
    checkpoint.save(path, {"a": np.zeros(1)}, meta)
    assert checkpoint.read(path)[1] == meta
    size = int.from_bytes(path.read_bytes()[:8], "little")
    header = json.loads(path.read_bytes()[8 : 8 + size])
    assert set(header["__metadata__"]) == {"format", "meta", "sha256"}


@pytest.mark.parametrize("meta", [[1], 3, "a", None])
def test_a_meta_that_is_no_object_is_refused(meta, tmp_path):
    path, text = tmp_path / "a.safetensors", json.dumps(meta)
    header = {"format": "1", "meta": text, "sha256": hashlib.sha256(text.encode()).hexdigest()}
    path.write_bytes(safetensors.numpy.save({}, metadata=header))
    assert message(checkpoint.read, path) == (
        f"{path} has the meta {text!r}, expected a JSON object; put another copy of the file there"
    )


@pytest.mark.parametrize("size", [-1, 1, 2**36])
def test_of_another_size_than_its_header_says_it_is_not_read(size, saved, tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    path.write_bytes(saved)
    with open(path, "r+b") as file:
        file.truncate(len(saved) + size)
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail("read"))
    assert message(checkpoint.read, path) == (
        f"{path} is not a whole checkpoint (by its size): it was cut short or is another file"
    )
