"""Text as token ids: a file of UTF-8 or of any bytes, its vocabulary, its batches.

Characters are Unicode code points, with newlines as Python's ``open`` gives them; bytes are the
file as it is, with 256 symbols. A vocabulary is JSON:
``{"kind": "characters", "symbols": "\\n abc"}``, the id of a symbol being its place.

Usage: ``load_text("book.txt", "characters", "next", 32, 64, 0.1).train.batch_at(step)``.
"""

from __future__ import annotations

import codecs
import dataclasses
import functools
import importlib
import io
import itertools
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Integer, UInt8
from numpy.typing import ArrayLike, DTypeLike

from jaxrnn.data.streams import Streams, lesson_targets, next_targets
from jaxrnn.errors import InputError, shown

_CHUNK = 1 << 20  # bytes read, and characters encoded, at a time: 12 bytes of each are in work
_MAPPED = 1 << 26  # bytes from which on a file is mapped rather than read


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The symbols that a model knows; a symbol's id is its place in ``symbols``.

    Raises InputError for symbols that are missing, repeated, or given for bytes.
    """

    kind: Literal["characters", "bytes"]
    symbols: str = ""  # of characters; bytes have none to list

    def __post_init__(self):
        if self.kind == "bytes" and self.symbols:
            raise InputError(
                f"the vocabulary of bytes has {len(self.symbols)} symbols listed, expected none"
            )
        if self.kind == "characters" and not self.symbols:
            raise InputError("the vocabulary of characters has no symbols, expected at least one")
        if len(set(self.symbols)) < len(self.symbols):
            twice = next(s for s in self.symbols if self.symbols.count(s) > 1)
            raise InputError(f"the vocabulary has the symbol {twice!r} twice, expected it once")

    @classmethod
    def of(cls, text: str) -> Vocabulary:
        """The distinct characters of a text, sorted."""
        return cls("characters", "".join(sorted(set(text))))

    @classmethod
    def from_dict(cls, values: Any) -> Vocabulary:
        """The vocabulary that ``to_dict`` gave; raises InputError for anything else."""
        if not isinstance(values, dict) or set(values) != {"kind", "symbols"}:
            raise InputError(
                f"the vocabulary is {shown(values)}, expected an object with kind and symbols"
            )
        if values["kind"] not in ("characters", "bytes"):
            raise InputError(
                f"the vocabulary's kind is {shown(values['kind'])}, expected characters or bytes"
            )
        if not isinstance(values["symbols"], str):
            raise InputError(
                f"the vocabulary's symbols are {shown(values['symbols'])}, expected a string"
            )
        return cls(values["kind"], values["symbols"])

    def to_dict(self) -> dict[str, str]:
        """As JSON can hold it."""
        return {"kind": self.kind, "symbols": self.symbols}

    @property
    def size(self) -> int:
        """V, the number of symbols."""
        return 256 if self.kind == "bytes" else len(self.symbols)

    def encode(self, text: str, name: str = "the text") -> Integer[np.ndarray, " N"]:
        """The ids of a text, int32.

        Raises InputError, with ``name`` for the text, where it has characters unknown here.
        """
        return self._encode(text, np.int32, name)

    def decode(self, ids: ArrayLike) -> str:
        """The text of ids; bytes that are not UTF-8 become U+FFFD."""
        if self.kind == "bytes":
            return self._to_bytes(ids).decode("utf-8", errors="replace")
        codes = self._code_points[self._checked(ids)]
        return codes.tobytes().decode("utf-32-le", errors="surrogatepass")

    def decoder(self) -> Decoder:
        """A decoder for ids that come in pieces."""
        return Decoder(self)

    @functools.cached_property
    def _code_points(self) -> np.ndarray:
        return _code_points(self.symbols)

    @functools.cached_property
    def _ids(self) -> np.ndarray:
        """The id of every code point, -1 if unknown; the last entry is for all beyond."""
        ids = np.full(int(self._code_points.max()) + 2, -1, np.int32)
        ids[self._code_points] = np.arange(self.size, dtype=np.int32)
        return ids

    def _encode(self, text: str, dtype: DTypeLike, name: str) -> np.ndarray:
        if self.kind == "bytes":
            return np.frombuffer(_to_utf8(text), np.uint8).astype(dtype, copy=False)
        return self._encode_pieces(lambda: iter([text]), set(text), len(text), dtype, name)

    def _encode_pieces(
        self,
        pieces: Callable[[], Iterator[str]],
        symbols: set[str],
        count: int,
        dtype: DTypeLike,
        name: str,
    ) -> np.ndarray:
        """Of a text in pieces, which has these symbols and so many characters."""
        if unknown := sorted(symbols - set(self.symbols)):
            raise InputError(self._unknown(pieces(), unknown, name))
        encoded, filled = np.empty(count, dtype), 0
        for piece in pieces():
            for first in range(0, len(piece), _CHUNK):
                ids = self._ids.take(_code_points(piece[first : first + _CHUNK]), mode="clip")
                part = encoded[filled : filled + len(ids)]
                if len(part) < len(ids) or ids.min() < 0:
                    raise InputError(_changed(name))
                part[:] = ids
                filled += len(ids)
        if filled < count:
            raise InputError(_changed(name))
        return encoded

    def _unknown(self, pieces: Iterator[str], unknown: list[str], name: str) -> str:
        shown = ", ".join(map(repr, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
        pattern = re.compile(f"[{''.join(map(re.escape, unknown))}]")
        line, column = 1, 0  # before the piece
        for piece in pieces:
            found = pattern.search(piece)
            before = piece[: found.start()] if found else piece
            line += before.count("\n")
            tail = before.rpartition("\n")
            column = len(tail[2]) + (0 if tail[1] else column)
            if found:
                return (
                    f"{name} has {len(unknown)} character{'s' * (len(unknown) > 1)} that the "
                    f"vocabulary of {self.size} lacks: {shown} (the first is {found[0]!r} at line "
                    f"{line}, column {column + 1}); remove them, or train with --tokens bytes"
                )
        return _changed(name)

    def _checked(self, ids: ArrayLike) -> np.ndarray:
        checked = np.asarray(ids, np.int64).reshape(-1)
        if checked.size and not 0 <= checked.min() <= checked.max() < self.size:
            raise IndexError(
                f"ids in {checked.min()}..{checked.max()}, expected 0..{self.size - 1}"
            )
        return checked

    def _to_bytes(self, ids: ArrayLike) -> bytes:
        return self._checked(ids).astype(np.uint8).tobytes()


BYTES = Vocabulary("bytes")
"""The 256 bytes: takes any file."""


class Decoder:
    """Text of ids that come in pieces; a character split between pieces comes out whole."""

    def __init__(self, vocabulary: Vocabulary):
        self._vocabulary = vocabulary
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def decode(self, ids: ArrayLike, final: bool = False) -> str:
        """The text that is complete with these ids; ``final`` gives out what is left as well."""
        if self._vocabulary.kind == "bytes":
            return self._utf8.decode(self._vocabulary._to_bytes(ids), final)
        return self._vocabulary.decode(ids)


@dataclasses.dataclass(frozen=True)
class TextData:
    """A text split into training batches and validation positions.

    Validation arrays are in their storage's dtype (uint8, uint16 or int32) and are meant for
    ``streams.windows``, which gives int32; they are empty where nothing is kept for validation.
    """

    vocabulary: Vocabulary
    train: Streams
    val_inputs: Integer[np.ndarray, " N"]
    val_targets: Integer[np.ndarray, " N"]


def load_text(
    path: str,
    tokens: Literal["characters", "bytes"],
    batches: Literal["next", "lesson"],
    batch_size: int,
    seq_len: int,
    val_fraction: float,
    vocabulary: Vocabulary | None = None,
) -> TextData:
    """The data of a character model: the first ``int(N * (1 - val_fraction))`` symbols train.

    An empty path is ``default_text()``. A vocabulary not given is that of the whole text, its
    validation part included, as in Udacity's lesson.

    Raises InputError for a file that can't be read, unknown characters, or too few of them.
    """
    if vocabulary is not None and vocabulary.kind != tokens:
        raise InputError(
            f"--tokens is {tokens}, but the vocabulary given is of {vocabulary.kind};"
            f" use --tokens {vocabulary.kind}"
        )
    ids, vocabulary = _load_ids(path, BYTES if tokens == "bytes" else vocabulary)
    num_train = int(len(ids) * (1 - val_fraction))
    source = path or "the built-in text"
    cut = {"next": next_targets, "lesson": lesson_targets}[batches]
    name = f"the training part of {source}" if val_fraction else source
    train = cut(ids[:num_train], batch_size, seq_len, name, tokens)
    val = ids[num_train:]
    if len(val) < 2 and val_fraction > 0:
        raise InputError(
            f"the validation part of {source} has {len(val)} of {len(ids)} {tokens}, expected at"
            f" least 2; raise --val-fraction from {val_fraction}, or set it to 0 for none"
        )
    return TextData(vocabulary, train, val[:-1], val[1:])


def load_evaluation_text(
    path: str, vocabulary: Vocabulary
) -> tuple[Integer[np.ndarray, " N"], Integer[np.ndarray, " N"]]:
    """Inputs and next-symbol targets of a whole file, for ``streams.windows``.

    An empty path is ``default_text()``. Dtypes are as in ``TextData``. Raises InputError for a
    file that can't be read, unknown characters, or fewer than two symbols.
    """
    ids, _ = _load_ids(path, vocabulary)
    if len(ids) < 2:
        raise InputError(f"{path} has {len(ids)} {vocabulary.kind}, expected at least 2")
    return ids[:-1], ids[1:]


def _load_ids(path: str, vocabulary: Vocabulary | None) -> tuple[np.ndarray, Vocabulary]:
    """The ids of a file, as narrow as they fit: 1 GB of ASCII stays 1 GB.

    A file is read twice, in pieces: for its symbols, then for their ids.
    """
    if vocabulary == BYTES:
        ids = read_bytes(path) if path else np.frombuffer(_to_utf8(default_text()), np.uint8)
        return ids, BYTES
    name = path or "the built-in text"

    def pieces() -> Iterator[str]:
        return _pieces(path) if whole is None else iter([whole])

    whole = None
    if not path or not os.path.isfile(path):  # a pipe can be read but once
        whole = read_text(path) if path else default_text()
    symbols: set[str] = set()
    count = 0
    for piece in pieces():
        symbols.update(piece)
        count += len(piece)
    vocabulary = vocabulary or Vocabulary("characters", "".join(sorted(symbols)))
    dtype = next((d for d in (np.uint8, np.uint16) if vocabulary.size - 1 <= np.iinfo(d).max), None)
    ids = vocabulary._encode_pieces(pieces, symbols, count, dtype or np.int32, name)
    return ids, vocabulary


def _changed(name: str) -> str:
    return f"{name} changed while it was read; read a copy of it"


def _pieces(path: str | os.PathLike[str]) -> Iterator[str]:
    """A UTF-8 file piece by piece; see ``read_text``."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    newlines = io.IncrementalNewlineDecoder(decoder, translate=True)
    offset, line, is_empty = 0, 1, True

    def decoded(chunk: bytes, final: bool) -> str:
        rest, held = decoder.getstate()[0], "\r" * (newlines.getstate()[1] & 1)
        try:
            return newlines.decode(chunk, final)
        except UnicodeDecodeError as error:
            place = offset - len(rest) + error.start
            before = _universal_newlines(held + error.object[: error.start].decode())
            raise InputError(
                f"{path} is not UTF-8: byte 0x{error.object[error.start]:02x} at offset {place}, "
                f"line {line + before.count(chr(10))}; convert the file to UTF-8, or take it as it "
                "is with --tokens bytes"
            ) from None

    for chunk in itertools.chain(_chunks(path), [b""]):
        piece = decoded(chunk, not chunk)
        if not offset:  # a chunk holds a byte order mark whole
            piece = piece.removeprefix("\ufeff")
        offset += len(chunk)
        line += piece.count("\n")
        is_empty = is_empty and not piece
        if piece:
            yield piece
    if is_empty:
        raise InputError(f"{path} is empty but for a byte order mark, expected data")


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a UTF-8 file, as ``open`` gives it: newlines are ``\\n``; a BOM is dropped.

    Raises InputError for a file that is missing, unreadable, empty or not UTF-8.
    """
    return "".join(_pieces(path))


def read_bytes(path: str | os.PathLike[str]) -> UInt8[np.ndarray, " N"]:
    """The bytes of a file, a large one mapped into memory.

    Raises InputError for one that is missing, unreadable or empty.
    """
    try:
        if os.path.isfile(path) and os.path.getsize(path) >= _MAPPED:
            return np.asarray(np.memmap(path, np.uint8, mode="r"))
    except (OSError, ValueError):  # which reading it will say in words
        pass
    return np.frombuffer(read_file(path), np.uint8)


def read_file(path: str | os.PathLike[str], most: int | None = None) -> bytes:
    """The content of a file; raises InputError for one that is missing, unreadable or empty.

    So it does for one of more than ``most`` bytes, once it has read as many.
    """
    chunks, size = [], 0
    for chunk in _chunks(path):
        chunks.append(chunk)
        size += len(chunk)
        if most is not None and size > most:
            raise InputError(
                f"{path} has more than {most:,} bytes, expected at most as many; give a part of it"
            )
    return b"".join(chunks)


def _chunks(path: str | os.PathLike[str]) -> Iterator[bytes]:
    is_empty = True
    if Path(path).is_char_device():
        raise InputError(f"{path} is a device, expected a file")
    try:
        with Path(path).open("rb") as file:
            while chunk := file.read(_CHUNK):
                is_empty = False
                yield chunk
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a directory, expected a file; name a file in it") from None
    except PermissionError:
        raise InputError(f"{path}: no permission to read it; make the file readable") from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise InputError(f"{path}: can't read it ({error}), expected a file") from error
    if is_empty:
        raise InputError(f"{path} is empty, expected data; check the path")


def decode_utf8(content: bytes, path: str | os.PathLike[str], advice: str) -> str:
    """The text of a file's content, newlines as ``\\n``, without BOM.

    Raises InputError, ending in ``advice``, where it is not UTF-8 or is a BOM alone.
    """
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = _universal_newlines(content[: error.start].decode("utf-8")).count("\n") + 1
        raise InputError(
            f"{path} is not UTF-8: byte 0x{content[error.start]:02x} at offset {error.start},"
            f" line {line}; {advice}"
        ) from None
    text = _universal_newlines(text.removeprefix("\ufeff"))
    if not text:
        raise InputError(f"{path} is empty but for a byte order mark, expected data")
    return text


def _universal_newlines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def default_text() -> str:
    """The Python language reference that ships with Python, about 400,000 characters.

    It is the topics of ``pydoc_data.topics``, sorted by name, and so differs a little from one
    Python to the next. Topics repeat each other: a paragraph of several lines is kept where it
    first stands, otherwise a good part of the validation text would have been trained on.
    Typographic quotes and dashes become ASCII, and the few characters that are still not ASCII
    are dropped, so that the vocabulary is small.

    Raises InputError where Python comes without that module.
    """
    try:
        topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    except ImportError:
        raise InputError(
            "this Python lacks its language reference (the module pydoc_data.topics), which is"
            " the built-in text; give a text file with --data"
        ) from None
    seen: set[str] = set()
    kept = []
    for topic in sorted(topics):
        text = re.sub(r"[ \t]+$", "", topics[topic].strip("\n"), flags=re.MULTILINE)
        for paragraph in re.split(r"\n{2,}", text):
            if paragraph not in seen or "\n" not in paragraph:
                kept.append(paragraph)
            seen.add(paragraph)
    text = "\n\n".join(kept) + "\n"
    return text.translate(_TO_ASCII).encode("ascii", errors="ignore").decode("ascii")


_TO_ASCII = str.maketrans(
    {"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "--", "…": "...", "\xa0": " "}
)


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), "<u4")


def _to_utf8(text: str) -> bytes:
    """UTF-8 of a text that may hold lone surrogates, as undecodable command-line bytes become."""
    try:
        return text.encode("utf-8", errors="surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", errors="surrogatepass")
