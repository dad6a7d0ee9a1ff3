"""Releases on PyPI: fetched by digest, and read without running code that weights hide.

Usage::

    folder = fetch("g2pM==0.1.2.5", "9e920b82...", Path("downloads"))
    weights = unpickle(folder / "g2pM/np_ckpt.pkl")
"""

from __future__ import annotations

import hashlib
import importlib.util
import pickle
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np

from jaxrnn.errors import InputError


def fetch(release: str, sha256: str, folder: Path) -> Path:
    """The unpacked archive with this SHA-256, which pip downloads unless ``folder`` has it.

    Raises InputError with pip's reason if that fails.
    """
    target = folder / release.replace("==", "-")
    target.mkdir(parents=True, exist_ok=True)
    archive = _find(sha256, target)
    if archive is None:
        _download(release, sha256, target)
        archive = _find(sha256, target)
    if archive is None:
        raise InputError(f"pip left no archive with SHA-256 {sha256} in {target}")
    unpacked = target / "unpacked"
    if archive.suffix == ".whl":
        shutil.unpack_archive(archive, unpacked, "zip")
    else:
        shutil.unpack_archive(archive, unpacked, filter="data")
    return unpacked


def _find(sha256: str, folder: Path) -> Path | None:
    files = (path for path in folder.iterdir() if path.is_file())
    return next((path for path in files if digest(path) == sha256), None)


def _download(release: str, sha256: str, folder: Path) -> None:
    """Of the release's archives the one with this digest, which pip checks before it opens it."""
    with tempfile.TemporaryDirectory() as scratch:
        pinned = Path(scratch, "pinned.txt")
        pinned.write_text(f"{release} --hash=sha256:{sha256}\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--require-hashes", "--requirement", str(pinned), "--dest", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = errors[-1] if errors else (done.stderr.strip() or "no reason").splitlines()[-1]
        raise InputError(f"pip could not download it: {reason.removeprefix('ERROR: ')}")


def digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _PlainUnpickler(pickle.Unpickler):
    """Admits NumPy arrays beside Python's own numbers, strings and containers; nothing else."""

    ADMITTED: Mapping[str, Any] = {
        "numpy.core.multiarray._reconstruct": np.empty(0).__reduce__()[0],
        "numpy.ndarray": np.ndarray,
        "numpy.dtype": np.dtype,
    }

    def find_class(self, module_name: str, global_name: str) -> Any:
        name = f"{module_name}.{global_name}"
        if name not in self.ADMITTED:
            raise InputError(f"refused a pickle that wants {name}")
        return self.ADMITTED[name]


def unpickle(path: Path) -> Any:
    """What a pickle of plain Python objects and NumPy arrays holds."""
    with path.open("rb") as file:
        return _PlainUnpickler(file).load()


def load_onnx(path: Path) -> tuple[Any, dict[str, np.ndarray]]:
    """A session of ONNX Runtime for a file, and the tensors in it by name."""
    import onnx
    import onnxruntime
    from onnx import numpy_helper

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors: it warns of initializers that it does not use
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    initializers = onnx.load(path).graph.initializer
    return session, {tensor.name: numpy_helper.to_array(tensor) for tensor in initializers}


def load_hdf5(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """The arrays of each layer in a Keras HDF5 file, by their names there (``kernel:0``)."""
    import h5py

    layers: dict[str, dict[str, np.ndarray]] = {}

    def visit(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset):
            layer, *_, array = name.split("/")
            layers.setdefault(layer, {})[array] = np.asarray(node)

    with h5py.File(path) as file:
        file.visititems(visit)
    return layers


def load_code(path: Path, name: str, stand_ins: Mapping[str, Any] | None = None) -> ModuleType:
    """The module in a file, with others standing in for those that it imports and does not use."""
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    modules = {**(stand_ins or {}), name: module}
    with mock.patch.dict(sys.modules, modules), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old escapes in strings
        spec.loader.exec_module(module)
    return module
