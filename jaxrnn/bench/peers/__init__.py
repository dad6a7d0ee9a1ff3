"""The libraries that are compared, a file each, imported only when it is asked for.

An adapter builds the model of a ``Workload`` with the same parameters and data as every other, and
gives a ``Session``: what is timed, and outputs and gradients by which all are compared first.
Usage::

    session = start("torch", workload)                         # raises UnsupportedError
    session.call()
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from jaxrnn.bench.workloads import Drawing, Workload

Arrays = dict[str, np.ndarray]

OURS = "jaxrnn"

PeerName = Literal[
    "torch",
    "torch-compile",
    "flax",
    "keras",
    "equinox",
    "jax-rnn",
    "jaxrnn-cudnn",
    "jaxrnn-kernel",
    "jaxrnn-cluster",
    "flashrnn",
    "haste",
]


class UnsupportedError(Exception):
    """A peer that is not installed or can't do this; the message has the reason."""


@dataclasses.dataclass(frozen=True)
class Session:
    """A model ready to be timed."""

    call: Callable[[], Any]  # runs and waits for the end
    steps_per_call: int = 1
    # Outputs and the loss's gradient by every parameter under torch's names, without dropout.
    check: Callable[[], tuple[np.ndarray, Arrays]] | None = None
    compile_s: float = 0.0
    # In MiB, once it was called. JAX: arguments, outputs and temporaries of the compiled program;
    # torch on a GPU: what its allocator gave. None where nobody counts it, as for torch on a CPU.
    peak_memory_mib: Callable[[], float | None] = lambda: None


class Peer(NamedTuple):
    """Where an adapter is, and what it needs."""

    module: str
    function: str
    package: str


PEERS: dict[str, Peer] = {
    OURS: Peer("ours", "session", "jax"),
    "torch": Peer("torch_nn", "eager", "torch"),
    "torch-compile": Peer("torch_nn", "compiled", "torch"),
    "flax": Peer("flax_nnx", "session", "flax"),
    "keras": Peer("keras_layers", "session", "keras"),
    "equinox": Peer("equinox_cell", "session", "equinox"),
    "jax-rnn": Peer("jax_cudnn", "session", "jax"),
    "jaxrnn-cudnn": Peer("ours", "by_cudnn", "jax"),
    "jaxrnn-kernel": Peer("ours_persistent", "by_grid", "jax"),
    "jaxrnn-cluster": Peer("ours_persistent", "by_clusters", "jax"),
    "flashrnn": Peer("gpu_kernels", "flashrnn", "flashrnn"),
    "haste": Peer("gpu_kernels", "haste", "haste_pytorch"),
}
"""Every library by its name, ours first."""

HALF = {OURS, "jaxrnn-kernel", "jaxrnn-cluster", "torch", "torch-compile", "flax"}
"""Whose adapters compute in bfloat16 and float16."""

SKETCH_PEERS: dict[str, Peer] = {
    OURS: Peer("ours_sketch", "session", "jax"),
    "torch": Peer("torch_sketch", "session", "torch"),
}
"""The adapters of a ``Drawing``; the other libraries have nothing of the kind."""

ONLY_NAMED = {
    "torch-compile": "only where --peers names it: it unrolls the steps and compiles for minutes"
}
"""Who does not take part by default, and why."""

DEFAULT: tuple[str, ...] = tuple(name for name in get_args(PeerName) if name not in ONLY_NAMED)


def installed(name: str) -> bool:
    """Whether the package that a peer needs is there."""
    return importlib.util.find_spec(PEERS[name].package) is not None


def start(name: str, workload: Workload) -> Session:
    """The session of a peer; raises UnsupportedError."""
    peer = PEERS[name]
    if not installed(name):
        raise UnsupportedError(f"{peer.package} is not installed")
    if isinstance(workload, Drawing):
        if name not in SKETCH_PEERS:
            raise UnsupportedError("no sketch-rnn is written with it")
        peer = SKETCH_PEERS[name]
    elif workload.precision in ("bfloat16", "float16") and name not in HALF:
        raise UnsupportedError(f"it is not set up for {workload.precision}")
    module = importlib.import_module(f"{__name__}.{peer.module}")
    return getattr(module, peer.function)(workload)


def reference(workload: Workload) -> Session:
    """What all are compared with where the workload is ``exact``: float64, JAX's own derivative."""
    from jaxrnn.bench.peers import ours

    return ours.reference(workload)


def precision_of(workload: Workload) -> AbstractContextManager[None]:
    """Within: JAX multiplies float32 as the workload says; the rest as it does by default."""
    import jax

    # By default products of float32 are in TF32 on a GPU. Asked for more of operands of 16 bits,
    # XLA would choose among fewer kernels.
    name = "highest" if workload.precision == "float32" else "default"
    return jax.default_matmul_precision(name)
