"""The persistent kernels at the sizes of use: ``python sizes_of_use.py NAME``, on a GPU.

In a process of its own, which says what it is doing: kernels that wait for each other for ever
would never end in a test's.
"""

import sys
import time

import interpreted
import jax
import numpy as np
from interpreted import Kind
from recurrence_cases import everything

from jaxrnn import recurrence

BEGUN, SECONDS = time.monotonic(), 120.0
SIZES = {
    "lstm-B64-H512-lengths": Kind("lstm", False, 64, True, True, "bfloat16", 512, 512),
    "lstm-B16-H768-reverse": Kind("lstm", True, 16, False, True, "bfloat16", 768, 1024),
    "gru-B64-H1024-float16": Kind("gru", False, 64, False, True, "float16", 1024, 512),
    "lstm-B256-H1024": Kind("lstm", False, 256, False, True, "bfloat16", 1024, 256),
}
CLUSTERS = ("lstm-B64-H512-lengths",)
SIZES |= {f"{n}-clusters": SIZES[n]._replace(backend="persistent-cluster") for n in CLUSTERS}
SIZES["gru-B300-H256-reverse-clusters"] = Kind(
    "gru", True, 300, True, True, "float16", 256, 512, "persistent-cluster"
)


def say(what):
    print(f"{time.monotonic() - BEGUN:.1f} s: {what}", flush=True)


def staged(function):
    """``jax.jit`` that says how far it is."""

    def call(*arguments):
        say("lower")
        lowered = jax.jit(function).lower(*arguments)
        say("compile")
        compiled = lowered.compile()
        say("run")
        found = jax.block_until_ready(compiled(*arguments))
        say("has run")
        return found

    return call


def found(kind, backend, case, lengths):
    options = {"reverse": kind.reverse, "lengths": lengths, "backend": backend}

    def run(weights, x, state):
        return recurrence.run(case.cell, weights, x.astype(kind.dtype), state, **options)

    results = everything(case, run, staged)
    return {name: np.asarray(value, np.float32) for name, value in results.items()}


def main(name, tolerance=1e-2):
    """Raises AssertionError where it is not scan, or not the same bits a second time."""
    kind = SIZES[name]
    case, lengths = interpreted.make(kind)
    say(f"{kind.backend}")
    first, second = (found(kind, kind.backend, case, lengths) for _ in range(2))
    say("scan")
    for what, value in found(kind, "scan", case, lengths).items():
        error = np.linalg.norm(first[what] - value) / np.linalg.norm(value)
        say(f"{what} differs by {error:.1e} of its norm")
        assert error <= tolerance
        np.testing.assert_array_equal(first[what], second[what])


if __name__ == "__main__":
    main(sys.argv[1])
