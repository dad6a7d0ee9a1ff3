import codecs
import importlib
import json
import os
import sys
import threading
import types
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import message

from jaxrnn.data import text as text_module
from jaxrnn.data.streams import windows
from jaxrnn.data.text import (
    BYTES,
    Vocabulary,
    default_text,
    load_evaluation_text,
    load_text,
    read_bytes,
    read_text,
)
from jaxrnn.errors import InputError

PROPERTY = settings(derandomize=True, deadline=None, max_examples=200)
ANY_TEXT = st.text(st.characters(categories=None), max_size=30)  # lone surrogates too


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def test_vocabulary_is_the_sorted_distinct_characters():
    vocabulary = Vocabulary.of("banana€\n😀")
    assert vocabulary == Vocabulary("characters", "\nabn€😀")
    assert vocabulary.size == 6
    ids = vocabulary.encode("nab😀\n")
    assert ids.dtype == np.int32
    np.testing.assert_array_equal(ids, [3, 1, 2, 5, 0])
    assert vocabulary.decode(ids) == "nab😀\n"
    assert vocabulary.encode("").shape == (0,)
    assert vocabulary.decode([]) == ""


def test_ids_are_places_also_where_symbols_are_not_sorted():
    vocabulary = Vocabulary("characters", "zax")
    np.testing.assert_array_equal(vocabulary.encode("xaz"), [2, 1, 0])
    assert vocabulary.decode(np.array([[0, 1], [2, 0]])) == "zaxz"


@PROPERTY
@given(ANY_TEXT)
def test_any_text_comes_back_from_characters(text):
    vocabulary = Vocabulary.of(text + "x")
    ids = vocabulary.encode(text)
    np.testing.assert_array_equal(ids, [vocabulary.symbols.index(c) for c in text])
    assert vocabulary.decode(ids) == text
    assert "".join(vocabulary.decoder().decode([k]) for k in ids) == text


@PROPERTY
@given(st.text(st.characters(codec="utf-8"), max_size=30), st.integers(1, 4))
def test_any_text_comes_back_from_bytes_whole_and_in_pieces(text, piece):
    ids = BYTES.encode(text)
    assert ids.dtype == np.int32
    np.testing.assert_array_equal(ids, list(text.encode()))
    assert BYTES.decode(ids) == text
    decoder = BYTES.decoder()
    pieces = [decoder.decode(ids[k : k + piece]) for k in range(0, len(ids), piece)]
    assert "".join(pieces) + decoder.decode([], final=True) == text


@PROPERTY
@given(ANY_TEXT)
def test_bytes_take_any_command_line_text(text):
    assert BYTES.encode(text).max(initial=0) < 256


def test_bytes_of_undecodable_arguments_are_the_original_bytes():
    argument = b"a\xff\xe2".decode("utf-8", errors="surrogateescape")
    np.testing.assert_array_equal(BYTES.encode(argument), [0x61, 0xFF, 0xE2])
    assert BYTES.size == 256


def test_broken_bytes_are_replaced_and_a_rest_is_given_out_at_the_end():
    assert BYTES.decode([0x61, 0xFF, 0x62]) == "a\ufffdb"
    decoder = BYTES.decoder()
    assert decoder.decode([0xE2, 0x82]) == ""
    assert decoder.decode([0xAC, 0xE2]) == "€"
    assert decoder.decode([], final=True) == "\ufffd"


def test_long_texts_are_encoded_in_chunks(monkeypatch):
    monkeypatch.setattr(text_module, "_CHUNK", 4)
    vocabulary = Vocabulary.of("abcdefgh\n")
    assert vocabulary.decode(vocabulary.encode("hgf\nedcba")) == "hgf\nedcba"
    assert "'X' at line 2, column 3" in message(vocabulary.encode, "hgf\nedXba")


def test_unknown_characters_are_named_with_their_place():
    vocabulary = Vocabulary.of("ab\n")
    assert message(vocabulary.encode, "ab\nbaé", "x.txt") == (
        "x.txt has 1 character that the vocabulary of 3 lacks: 'é' (the first is 'é' at line 2,"
        " column 3); remove them, or train with --tokens bytes"
    )
    many = message(vocabulary.encode, "a9876543")
    assert "the text has 7 characters" in many
    assert "lacks: '3', '4', '5', '6', '7', ... (the first is '9' at line 1, column 2)" in many
    assert r"'\ud800'" in message(vocabulary.encode, "a\ud800")
    assert r"'\U0010ffff'" in message(vocabulary.encode, "\U0010ffff")
    assert r"'\x00'" in message(vocabulary.encode, "\0")


def test_ids_outside_the_vocabulary_are_refused():
    for vocabulary, bad in (
        (BYTES, [0, 256]),
        (BYTES, [-1]),
        (Vocabulary("characters", "ab"), [2]),
    ):
        with pytest.raises(IndexError, match=r"expected 0\.\."):
            vocabulary.decode(bad)


def test_vocabulary_survives_json():
    for vocabulary in (BYTES, Vocabulary.of('\n"\\é😀')):
        values = json.loads(json.dumps(vocabulary.to_dict()))
        assert Vocabulary.from_dict(values) == vocabulary
    assert Vocabulary.of("ba").to_dict() == {"kind": "characters", "symbols": "ab"}
    assert BYTES.to_dict() == {"kind": "bytes", "symbols": ""}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (None, "the vocabulary is None, expected an object with kind and symbols"),
        ({"kind": "bytes"}, "the vocabulary is {'kind': 'bytes'}, expected an object with kind"),
        ({"kind": "words", "symbols": "a"}, "kind is 'words', expected characters or bytes"),
        ({"kind": ["bytes"], "symbols": ""}, "kind is ['bytes'], expected characters or bytes"),
        ({"kind": "characters", "symbols": [1]}, "symbols are [1], expected a string"),
        ({"kind": "characters", "symbols": ""}, "characters has no symbols, expected at least one"),
        ({"kind": "characters", "symbols": "aba"}, "has the symbol 'a' twice, expected it once"),
        ({"kind": "bytes", "symbols": "ab"}, "bytes has 2 symbols listed, expected none"),
        ({"x": "y" * 100}, "the vocabulary is {'x': '" + "y" * 50 + "..., expected"),
    ],
)
def test_a_broken_vocabulary_is_refused(values, expected):
    assert expected in message(Vocabulary.from_dict, values)


def test_read_text_has_newlines_as_open_and_drops_the_bom(tmp_path):
    path = write(tmp_path / "a.txt", codecs.BOM_UTF8 + "é\r\nb\rc\n\r\n\ufeff".encode())
    assert read_text(path) == "é\nb\nc\n\n\ufeff"
    with open(path, encoding="utf-8-sig") as file:
        assert read_text(path) == file.read()
    assert read_text(Path(path)) == read_text(path)


def test_read_bytes_is_the_file_as_it_is(tmp_path):
    content = codecs.BOM_UTF8 + bytes(range(256)) + b"\r\n"
    got = read_bytes(write(tmp_path / "a.bin", content))
    assert got.dtype == np.uint8
    assert got.tobytes() == content


@pytest.mark.parametrize("read", [read_text, read_bytes])
def test_files_that_cannot_be_read(tmp_path, monkeypatch, read):
    missing = tmp_path / "missing.txt"
    assert message(read, missing) == f"{missing}: no such file; check the path"
    assert message(read, tmp_path) == (
        f"{tmp_path} is a directory, expected a file; name a file in it"
    )
    empty = write(tmp_path / "empty.txt", b"")
    assert message(read, empty) == f"{empty} is empty, expected data; check the path"
    below = Path(empty, "below")
    assert "Not a directory" in message(read, below)
    assert "null" in message(read, "a\0b")

    def refuse(path, mode):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)  # a superuser may read everything
    assert message(read, empty) == f"{empty}: no permission to read it; make the file readable"


def test_text_that_is_not_utf8_says_where(tmp_path):
    path = write(tmp_path / "latin.txt", codecs.BOM_UTF8 + "é\r\nb\rc".encode() + b"\xff\xfe")
    assert message(read_text, path) == (
        f"{path} is not UTF-8: byte 0xff at offset 10, line 3; convert the file to UTF-8, or take"
        " it as it is with --tokens bytes"
    )
    path = write(tmp_path / "bom.txt", codecs.BOM_UTF8)
    assert message(read_text, path) == f"{path} is empty but for a byte order mark, expected data"


def test_a_device_is_not_read():
    for read in (read_text, read_bytes):
        assert message(read, "/dev/zero") == "/dev/zero is a device, expected a file"


@pytest.fixture
def topics(monkeypatch):
    module = types.ModuleType("pydoc_data.topics")
    monkeypatch.setitem(sys.modules, "pydoc_data", types.ModuleType("pydoc_data"))
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", module)
    return lambda values: setattr(module, "topics", values)


def test_default_text_is_cleaned(topics):
    shared = "One.\n   Two."
    topics(
        {
            "b": f"B\n*\n\n{shared}\n\nAlso:\n\n“b”—‘c’ – d…\n",
            "a": f"\nA  \n*\n\n\n\n{shared}\n\nAlso:\n\n   e \t\n   é°\xa0’\n\n\n",
        }
    )
    assert default_text() == (
        f"A\n*\n\n{shared}\n\nAlso:\n\n   e\n    '\n\nB\n*\n\nAlso:\n\n\"b\"--'c' - d...\n"
    )


def test_default_text_is_the_language_reference():
    text = default_text()
    assert text == default_text()
    assert text.startswith('The "assert" statement\n****')
    assert "Assert statements are a convenient way to insert debugging assertions" in text
    assert len(text) > 300_000
    assert text.isascii()
    assert Vocabulary.of(text).size < 97
    assert "\n\n\n" not in text
    assert " \n" not in text
    paragraphs = [p for p in text.split("\n\n") if "\n" in p]
    assert len(set(paragraphs)) == len(paragraphs)


def test_python_without_its_reference_needs_a_file(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(ImportError):
        importlib.import_module("pydoc_data.topics")
    expected = "pydoc_data.topics), which is the built-in text; give a text file with --data"
    assert expected in message(load_text, "", "characters", "next", 2, 3, 0.1)


def test_load_text_splits_as_the_lesson(tmp_path):
    path = write(tmp_path / "a.txt", "abcdefghijklmnopqrs\r\n")  # 20 characters
    data = load_text(path, "characters", "next", 2, 3, 0.25)  # 15 train: 14 positions, 2 batches
    assert data.vocabulary == Vocabulary.of("\nabcdefghijklmnopqrs")
    assert data.train.steps_per_epoch == 2
    batch = data.train.batch_at(1)
    assert batch.inputs.dtype == batch.targets.dtype == np.int32
    assert [data.vocabulary.decode(row) for row in batch.inputs] == ["def", "jkl"]
    assert [data.vocabulary.decode(row) for row in batch.targets] == ["efg", "klm"]
    assert data.vocabulary.decode(data.val_inputs) == "pqrs"
    assert data.vocabulary.decode(data.val_targets) == "qrs\n"
    (window,) = windows(data.val_inputs, data.val_targets, 1, 4)
    assert window.inputs.dtype == window.targets.dtype == np.int32


def test_load_text_has_the_lessons_batches(tmp_path):
    path = write(tmp_path / "a.txt", "abcdefghijklmnop")
    data = load_text(path, "characters", "lesson", 2, 3, 0.25)  # 12 train, all of them used
    assert data.train.steps_per_epoch == 2
    targets = data.train.batch_at(1).targets
    assert [data.vocabulary.decode(row) for row in targets] == ["efa", "klg"]


def test_load_text_of_bytes(tmp_path):
    path = write(tmp_path / "a.bin", b"\xff\r\n" * 4)
    data = load_text(path, "bytes", "next", 1, 5, 0.4)  # 7 train
    assert data.vocabulary == BYTES
    batch = data.train.batch_at(0)
    np.testing.assert_array_equal(batch.inputs, [[255, 13, 10, 255, 13]])
    assert batch.inputs.dtype == np.int32
    np.testing.assert_array_equal(data.val_inputs, [13, 10, 255, 13])
    np.testing.assert_array_equal(data.val_targets, [10, 255, 13, 10])


def test_load_text_of_the_built_in_text():
    text = default_text()
    characters = load_text("", "characters", "next", 4, 50, 0.1)
    num_train = int(len(text) * 0.9)
    assert characters.train.steps_per_epoch == (num_train - 1) // 200
    assert characters.vocabulary == Vocabulary.of(text)
    assert characters.vocabulary.decode(characters.train.batch_at(0).inputs[0]) == text[:50]
    assert characters.vocabulary.decode(characters.val_targets) == text[num_train + 1 :]
    of_bytes = load_text("", "bytes", "next", 4, 50, 0.1)
    assert BYTES.decode(of_bytes.train.batch_at(0).inputs[0]) == text[:50]
    inputs, targets = load_evaluation_text("", characters.vocabulary)
    assert characters.vocabulary.decode(inputs) == text[:-1]
    assert characters.vocabulary.decode(targets) == text[1:]


def test_ids_are_stored_as_narrow_as_they_fit(tmp_path):
    for size, dtype in ((256, "uint8"), (257, "uint16"), (65536, "uint16"), (65537, "int32")):
        text = "".join(chr(k) for k in range(0x10000, 0x10000 + size))
        path = write(tmp_path / "wide.txt", text)
        data = load_text(path, "characters", "next", 1, 2, 0.5)
        assert data.vocabulary.size == size
        assert data.val_inputs.dtype == dtype
        assert data.val_targets[-1] == size - 1
        assert data.train.batch_at(0).inputs.dtype == np.int32


def test_a_vocabulary_given_is_kept(tmp_path):
    path = write(tmp_path / "a.txt", "abcabcabc")
    wide = Vocabulary("characters", "xcba")
    data = load_text(path, "characters", "next", 1, 3, 0.0, wide)
    assert data.vocabulary == wide
    np.testing.assert_array_equal(data.train.batch_at(0).inputs, [[3, 2, 1]])
    narrow = Vocabulary("characters", "ab")
    expected = f"{path} has 1 character that the vocabulary of 2 lacks: 'c'"
    assert expected in message(load_text, path, "characters", "next", 1, 3, 0.0, narrow)
    assert expected in message(load_evaluation_text, path, narrow)
    assert message(load_text, path, "bytes", "next", 1, 3, 0.0, wide) == (
        "--tokens is bytes, but the vocabulary given is of characters; use --tokens characters"
    )


def test_nothing_is_kept_for_validation_where_the_fraction_is_zero(tmp_path):
    path = write(tmp_path / "a.txt", "abcdefg")
    data = load_text(path, "characters", "next", 2, 3, 0.0)
    assert data.train.steps_per_epoch == 1
    assert data.val_inputs.shape == data.val_targets.shape == (0,)


@pytest.mark.parametrize("tokens", ["characters", "bytes"])
def test_too_short_a_text_says_what_is_needed(tmp_path, tokens):
    path = write(tmp_path / "a.txt", "abcdefgh")
    assert message(load_text, path, tokens, "next", 2, 3, 0.25) == (
        f"the training part of {path} has 6 {tokens}, one batch needs 7 (--batch-size 2 times"
        " --seq-len 3 and one more for the last target); lower --batch-size or --seq-len"
    )
    assert message(load_text, path, tokens, "next", 2, 4, 0.0).startswith(
        f"{path} has 8 {tokens}, one batch needs 9"
    )
    assert "has 6 characters, one batch needs 8 (--batch-size 2 times --seq-len 4);" in message(
        load_text, path, "characters", "lesson", 2, 4, 0.25
    )
    assert message(load_text, path, tokens, "next", 2, 3, 0.125) == (
        f"the validation part of {path} has 1 of 8 {tokens}, expected at least 2;"
        " raise --val-fraction from 0.125, or set it to 0 for none"
    )


def test_evaluation_text_is_the_whole_file(tmp_path):
    path = write(tmp_path / "a.txt", "abca")
    inputs, targets = load_evaluation_text(path, Vocabulary.of("abc"))
    np.testing.assert_array_equal(inputs, [0, 1, 2])
    np.testing.assert_array_equal(targets, [1, 2, 0])
    inputs, targets = load_evaluation_text(path, BYTES)
    np.testing.assert_array_equal(inputs, [97, 98, 99])
    np.testing.assert_array_equal(targets, [98, 99, 97])
    path = write(tmp_path / "one.txt", "a")
    assert message(load_evaluation_text, path, BYTES) == f"{path} has 1 bytes, expected at least 2"


# --- files in pieces ---


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 7, 100])
def test_a_file_read_in_pieces_is_the_same(chunk, tmp_path, monkeypatch):
    content = codecs.BOM_UTF8 + "é\r\nb\rc\n\r\n\ufeff猫😀\r".encode()
    path = write(tmp_path / "a.txt", content)
    expected = "é\nb\nc\n\n\ufeff猫😀\n"
    monkeypatch.setattr(text_module, "_CHUNK", chunk)
    if chunk >= 3:  # a byte order mark is looked for in one piece
        assert read_text(path) == expected
    ids, vocabulary = text_module._load_ids(str(path), None)
    assert vocabulary.decode(ids).removeprefix("\ufeff") == expected
    broken = write(tmp_path / "b.txt", content + b"a\xff")
    assert "byte 0xff at offset 25, line 6; " in message(read_text, broken)
    with pytest.raises(
        InputError, match=r"has 2 characters .*the first is 'c' at line 3, column 1"
    ):
        text_module._load_ids(str(path), Vocabulary.of(expected.translate({99: "", 29483: ""})))


def test_a_large_file_of_bytes_is_mapped(tmp_path, monkeypatch):
    path = write(tmp_path / "a.bin", bytes(range(256)) * 4)
    monkeypatch.setattr(text_module, "_MAPPED", 1024)
    ids = read_bytes(path)
    assert isinstance(ids.base, np.memmap)
    assert ids.tobytes() == bytes(range(256)) * 4
    assert not isinstance(read_bytes(write(tmp_path / "b.bin", b"ab")).base, np.memmap)


def test_a_pipe_is_read_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    thread = threading.Thread(target=(tmp_path / "pipe").write_text, args=("abcab",))
    thread.start()
    ids, vocabulary = text_module._load_ids(str(tmp_path / "pipe"), None)
    thread.join()
    assert (ids.tolist(), vocabulary.symbols) == ([0, 1, 2, 0, 1], "abc")


@pytest.mark.parametrize("later", ["abcabcd", "abcabcc", "abcab", "ab"])
def test_a_file_that_changes_while_it_is_read(later, tmp_path, monkeypatch):
    texts = iter(["abcabc", later, later])
    monkeypatch.setattr(text_module, "_pieces", lambda path: iter([next(texts)]))
    path = str(write(tmp_path / "a.txt", b"abcabc"))
    with pytest.raises(InputError, match="changed while it was read"):
        text_module._load_ids(path, None)
