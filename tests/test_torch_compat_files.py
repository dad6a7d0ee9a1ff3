"""Files that were cut, altered, or made to harm: refused in one line, or as good as they were.

Truncations are exhaustive; other corruptions are drawn, in all a few thousand. A format with
checksums (torch's zip, an exported directory) gives the very bits that were written or an error;
one without (bare safetensors, torch's old pickle) may give other finite values of the right shape,
as nobody could tell.
"""

import io
import json
import os
import pickle
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxrnn import cli
from jaxrnn.errors import InputError
from torch_compat import __main__ as command
from torch_compat import directory as directories
from torch_compat import files, import_run, modules
from torch_compat.convert import as_array

TWIN = modules.CharLM(3, "rnn", 2, vocabulary={"kind": "characters", "symbols": "abc"})
ARRAYS = {name: as_array(tensor).copy() for name, tensor in TWIN.state_dict().items()}


def saved(value, zipped=True):
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def exported():
    about = {"vocabulary": TWIN.vocabulary, "task": "char"}
    return directories.dump("CharLM", TWIN.arguments, ARRAYS, about)


LESSON = {
    "n_hidden": 2,
    "n_layers": 1,
    "state_dict": torch.nn.ModuleDict(
        {"lstm": torch.nn.LSTM(3, 2), "fc": torch.nn.Linear(2, 3)}
    ).state_dict(),
    "tokens": ("a", "b", "c"),
}
FORMS = {
    "zip": {"weights.pt": saved(TWIN.state_dict())},
    "zip-lesson": {"weights.pt": saved(LESSON)},
    "pickle": {"weights.pt": saved(TWIN.state_dict(), zipped=False)},
    "safetensors": {"weights.pt": safetensors.torch.save(TWIN.state_dict())},
    "directory-weights": exported(),
    "directory-config": exported(),
}
CHECKED = {"zip", "zip-lesson", "directory-weights", "directory-config"}
TARGET = {"directory-weights": directories.WEIGHTS, "directory-config": directories.CONFIG}


def read(form, data, directory):
    """The weights of a file of this form with this content; None if it is refused in one line."""
    target = TARGET.get(form, "weights.pt")
    for name, content in FORMS[form].items():
        (directory / name).write_bytes(data if name == target else content)
    try:
        return import_run.read(directory if form in TARGET else directory / target)
    except InputError as error:
        message = str(error)
    if "\n" in message or str(directory) not in message:
        raise AssertionError(message)
    return None


def original(form):
    return FORMS[form][TARGET.get(form, "weights.pt")]


def content(weights):
    arrays = {name: (a.shape, a.dtype, a.tobytes()) for name, a in weights.arrays.items()}
    return weights.name, weights.arguments, weights.carried, arrays


def assert_refused_or_whole(form, data, directory):
    weights = read(form, data, directory)
    if weights is None:
        return
    right = read(form, original(form), directory)
    assert right is not None
    if form in CHECKED:
        assert content(weights) == content(right)
        return
    assert {n: a.shape for n, a in weights.arrays.items()} == {
        n: a.shape for n, a in right.arrays.items()
    }
    assert all(np.isfinite(array).all() for array in weights.arrays.values())


@pytest.mark.parametrize("form", FORMS)
def test_a_whole_file_is_read(form, tmp_path):
    weights = read(form, original(form), tmp_path)
    assert weights is not None
    if form == "zip-lesson":
        assert weights.carried == {"vocabulary": {"kind": "characters", "symbols": "abc"}}
        return
    for name, array in weights.arrays.items():
        assert array.tobytes() == ARRAYS[name].tobytes()


@pytest.mark.parametrize("form", FORMS)
def test_a_file_cut_short_anywhere_is_refused(form, tmp_path):
    data = original(form)
    kept = [length for length in range(len(data)) if read(form, data[:length], tmp_path)]
    # JSON's last line break says nothing.
    assert kept == ([len(data) - 1] if form == "directory-config" else [])


@st.composite
def corruptions(draw):
    """Of a file's bytes, as a function: what disks, networks and people do to them."""
    kind = draw(st.sampled_from(["flip", "flip", "set", "zero", "insert", "delete", "swap"]))
    places = [draw(st.floats(0, 1, exclude_max=True)) for _ in range(2)]
    bit, value = draw(st.integers(0, 7)), draw(st.integers(0, 255))
    count = draw(st.integers(1, 40))

    def corrupt(data):
        data = bytearray(data)
        first, second = (int(place * len(data)) for place in places)
        if kind == "flip":
            data[first] ^= 1 << bit
        elif kind == "set":
            data[first] = value
        elif kind == "zero":
            data[first : first + count] = bytes(len(data[first : first + count]))
        elif kind == "insert":
            data[first:first] = bytes([value]) * count
        elif kind == "delete":
            del data[first : first + count]
        else:
            one, other = data[first : first + count], data[second : second + count]
            if len(one) == len(other):
                data[first : first + count], data[second : second + count] = other, one
        return bytes(data)

    return corrupt


@pytest.mark.parametrize("form", FORMS)
@given(corrupt=corruptions())
@settings(
    max_examples=400,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_an_altered_file_is_refused_or_whole(form, tmp_path, corrupt):
    assert_refused_or_whole(form, corrupt(original(form)), tmp_path)


@pytest.mark.parametrize("form", FORMS)
def test_the_command_writes_nothing_of_a_damaged_file(form, tmp_path, capsys):
    source, data = tmp_path / "source", original(form)
    source.mkdir()
    target = TARGET.get(form, "weights.pt")
    for length in (0, 7, len(data) // 2, len(data) - 2):
        for name, whole in FORMS[form].items():
            (source / name).write_bytes(data[:length] if name == target else whole)
        path = source if form in TARGET else source / target
        arguments = ["import", str(path), "--to", str(tmp_path / "deep" / "run")]
        assert cli.exit_code(lambda arguments=arguments: command.run_command(arguments)) == 2
        assert capsys.readouterr().err.count("\n") == 1
        assert [p.name for p in tmp_path.iterdir()] == ["source"]


# --- made to harm, or by mistake


def refused(path):
    with pytest.raises(InputError) as caught:
        files.read(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def safetensors_file(header: Any, data=b"", size=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "data",
    [
        safetensors_file({"a": F32 | {"shape": [3]}}, bytes(8)),
        safetensors_file({"a": F32 | {"shape": [2**62, 4]}}, bytes(8)),
        safetensors_file({"a": F32 | {"shape": [-2]}}, bytes(8)),
        safetensors_file({"a": F32 | {"data_offsets": [0, 800]}}, bytes(8)),
        safetensors_file({"a": F32 | {"data_offsets": [8, 0]}}, bytes(8)),
        safetensors_file({"a": F32, "b": F32}, bytes(8)),  # one place for two
        safetensors_file({"a": F32}, bytes(16)),  # more than is named
        safetensors_file({"a": F32 | {"dtype": "X9"}}, bytes(8)),
        safetensors_file({"a": F32}, bytes(8), size=2**63),
        safetensors_file({"a": F32}, bytes(8), size=5),
        safetensors_file(b'{"a":' + b"[" * 50_000),
        safetensors_file(b"{}" + b" " * 10 + b"x"),
        safetensors_file(
            b'{"a":' + json.dumps(F32).encode() + b',"a":%b}' % (json.dumps(F32).encode()), bytes(8)
        ),
    ],
    ids=range(13),
)
def test_a_safetensors_header_that_lies_is_refused(data, tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(data)
    assert "is not a whole safetensors file" in refused(path)


def test_a_dtype_without_floats_we_hold_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(2, dtype=torch.float8_e5m2)}, path)
    assert "holds tensors of the dtype" in refused(path)


class Harm:
    """What a pickle calls when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_no_pickle_runs_code(tmp_path):
    mark, path = tmp_path / "mark", tmp_path / "a.pt"
    for value in (Harm(mark), {"a": torch.zeros(2), "b": Harm(mark)}):
        for data in (pickle.dumps(value), saved(value), saved(value, zipped=False)):
            path.write_bytes(data)
            message = refused(path)
            assert "can't be read as weights alone" in message
            assert "weights_only" not in message  # torch advises to do without
            assert not mark.exists()


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (torch.zeros(2), "holds a Tensor, expected a state dict"),
        ([1, 2], "holds a list, expected a state dict"),
        ({}, "holds no state dict"),
        ({"a": 3}, "a is a int"),
        ({3: torch.zeros(2)}, "a name is a int"),
        ({"model": {"a": torch.zeros(2)}}, "model is a dict"),
        ({"a\nb": torch.zeros(2)}, r"a tensor has the name 'a\nb'"),
        ({"a": torch.zeros(2).to(torch.float8_e4m3fn)}, "a is no dense tensor of real numbers"),
        (
            {"a": torch.zeros(2, dtype=torch.complex64).conj()},
            "a is no dense tensor of real numbers",
        ),
        ({"a": torch.zeros(2).to_sparse()}, "a is no dense tensor of real numbers"),
        ({"a": torch.zeros(2, device="meta")}, "a is no dense tensor of real numbers"),
        ({"a": torch.zeros(1).expand(10**12)}, "a (1000000000000,) is larger than what the file"),
    ],
    ids=str,
)
def test_what_is_no_state_dict_of_dense_tensors_is_named(value, found, tmp_path):
    path = tmp_path / "a.pt"
    torch.save(value, path)
    assert found in refused(path)


def test_other_files_are_named_for_what_they_are(tmp_path):
    with warnings.catch_warnings(action="ignore"):
        script = torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2), check_trace=False)
        buffer = io.BytesIO()
        torch.jit.save(script, buffer)
    plain = io.BytesIO()
    with zipfile.ZipFile(plain, "w") as archive:
        archive.writestr("a.txt", "hello")
    packed = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(saved({"a": torch.zeros(10**6)}))) as source,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for name in source.namelist():
            archive.writestr(name, source.read(name))
    npz = io.BytesIO()
    np.savez(npz, a=np.zeros(2))
    for data, found in (
        (buffer.getvalue(), "is a TorchScript archive, which holds code"),
        (plain.getvalue(), "is a zip archive, but none that torch.save wrote"),
        (npz.getvalue(), "is a zip archive, but none that torch.save wrote"),
        (packed.getvalue(), "has compressed entries"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "is neither a safetensors file nor one that torch"),
        (b"", "is neither a safetensors file nor one that torch"),
        (b"PK", "is not a whole zip archive"),
    ):
        path = tmp_path / "file"
        path.write_bytes(data)
        assert found in refused(path)
    assert "can't read" in refused(tmp_path / "none")
    with pytest.raises(InputError, match=r"is not an exported model: it has no config\.json"):
        import_run.read(tmp_path)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_name_given_twice_in_a_pickle_is_refused(zipped, tmp_path):
    names = {"fc.bias": torch.zeros(2), "fc.bIas": torch.ones(2)}
    data = saved({"state_dict": names, "more": 1}, zipped).replace(b"fc.bIas", b"fc.bias")
    if zipped:  # with the checksum that the altered pickle has
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for entry in zipfile.ZipFile(io.BytesIO(saved({"state_dict": names}))).infolist():
                whole = zipfile.ZipFile(io.BytesIO(saved({"state_dict": names})))
                content = whole.read(entry).replace(b"fc.bIas", b"fc.bias")
                archive.writestr(entry.filename, content)
        data = packed.getvalue()
    (tmp_path / "a.pt").write_bytes(data)
    assert "is damaged: it has 'fc.bias' twice" in refused(tmp_path / "a.pt")


def test_what_is_no_regular_file_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "is neither a file nor a directory that export wrote" in refused(tmp_path / "pipe")
    assert "is neither a file" in refused(Path("/dev/zero"))


def test_an_archive_that_has_code_beside_weights_is_refused(tmp_path):
    data = io.BytesIO(saved({"a": torch.zeros(2)}))
    with zipfile.ZipFile(data, "a") as archive:
        root = archive.namelist()[0].partition("/")[0]
        archive.writestr(f"{root}/code/__torch__.py", "harm()")
    (tmp_path / "a.pt").write_bytes(data.getvalue())
    assert "is a TorchScript archive, which holds code" in refused(tmp_path / "a.pt")


def test_torch_reads_what_was_checked_and_nothing_around_it(tmp_path, monkeypatch):
    given = []

    def load(file, *arguments, load=torch.load, **options):
        assert options["weights_only"] is True
        given.append(file.getvalue())
        return load(file, *arguments, **options)

    data = io.BytesIO(saved({"a": torch.arange(2.0)}))
    with zipfile.ZipFile(data, "a") as archive:
        archive.comment = b"and more"
    (tmp_path / "a.pt").write_bytes(data.getvalue())
    monkeypatch.setattr(torch, "load", load)
    arrays, _ = files.read(tmp_path / "a.pt")
    np.testing.assert_array_equal(arrays["a"], np.arange(2.0))
    assert b"and more" in data.getvalue()
    assert b"and more" not in given[0]


def test_a_configuration_without_its_checksum_is_refused(tmp_path):
    for name, content in exported().items():
        (tmp_path / name).write_bytes(content)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["sha256"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="don't match their checksum"):
        import_run.read(tmp_path)


def test_an_entry_given_twice_is_refused(tmp_path):
    data = io.BytesIO(saved({"a": torch.zeros(2)}))
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(data, "a") as archive:
        archive.writestr(archive.namelist()[0], b"again")
    (tmp_path / "a.pt").write_bytes(data.getvalue())
    assert "it has an entry twice" in refused(tmp_path / "a.pt")


def test_a_torch_that_is_not_safe_is_not_used(tmp_path, monkeypatch):
    torch.save({"a": torch.zeros(2)}, tmp_path / "a.pt")
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    assert "install torch 2.10 or newer, or give safetensors" in refused(tmp_path / "a.pt")
