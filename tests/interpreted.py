"""The persistent kernels without a GPU: JAX's interpreter, whose blocks are threads.

``python interpreted.py FILE`` runs every case, and writes what comes out as arrays. Blocks that
wait occupy threads of XLA's CPU client, which has as many as cores, or as NPROC says.

The blocks are those of one cluster, which the interpreter runs side by side; it has neither
counters in global memory nor transposed operands, so these come from here.
"""

import collections
import sys
import threading
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams
from jax.experimental import io_callback
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from recurrence_cases import Case, everything

from jaxrnn import recurrence
from jaxrnn.cells import CELLS
from jaxrnn.recurrence import Weights, persistent, persistent_kernels

I = 8
SECONDS = 100.0  # that a block waits for the others: more is a deadlock
MULTIPROCESSORS = 4


class Kind(NamedTuple):
    """What a case is made of."""

    cell: str
    reverse: bool
    batch_size: int
    masked: bool
    bias: bool
    dtype: str
    hidden_size: int = 64
    num_steps: int = 3
    backend: str = "persistent"


KINDS = {
    "lstm": Kind("lstm", False, 20, True, True, "bfloat16"),
    "lstm, reverse": Kind("lstm", True, 64, False, False, "float16", 192),
    "gru": Kind("gru", False, 64, False, False, "float16"),
    "gru, reverse": Kind("gru", True, 20, True, True, "bfloat16"),
    "rnn_tanh, two groups": Kind("rnn_tanh", False, 250, True, True, "bfloat16", 128),
    "rnn_relu, reverse": Kind("rnn_relu", True, 20, True, True, "bfloat16"),
    "lstm, clusters": Kind("lstm", False, 70, True, True, "bfloat16", 64, 3, "persistent-cluster"),
    "gru, reverse, a cluster": Kind(
        "gru", True, 20, True, True, "float16", 128, 4, "persistent-cluster"
    ),
}


def make(kind):
    """The arrays of a case, whose operands the dtype holds exactly, and its lengths."""
    cell, rng = CELLS[kind.cell], np.random.default_rng(0)
    hidden_size = kind.hidden_size
    gates, size = cell.num_gates * hidden_size, (kind.batch_size, hidden_size)

    def normal(*shape, scale=1.0):
        rounded = jnp.asarray(rng.normal(size=shape) * scale, kind.dtype)
        return rounded.astype(jnp.float32)

    biases = [normal(gates) if kind.bias else None for _ in range(2)]
    weights = Weights(
        normal(gates, I, scale=0.4), normal(gates, hidden_size, scale=hidden_size**-0.5), *biases
    )
    states = tuple(normal(*size) for _ in range(cell.num_states))
    num_steps = kind.num_steps
    x = normal(num_steps, kind.batch_size, I)
    loss_weights = normal(num_steps, *size), tuple(normal(*size) for _ in states)
    lengths = jnp.asarray(rng.integers(1, num_steps + 1, kind.batch_size)) if kind.masked else None
    return Case(cell, weights, x, states, *loss_weights), lengths


class Counters:
    """Of all groups of a kernel; every launch begins at zero."""

    def __init__(self, plan):
        self.blocks = plan.groups * plan.blocks
        self.entered = 0
        self.counts = collections.Counter()
        self.changed = threading.Condition()

    def enter(self):
        with self.changed:
            if self.entered % self.blocks == 0:
                self.counts.clear()
            self.entered += 1

    def add(self, group):
        with self.changed:
            self.counts[int(group)] += 1
            self.changed.notify_all()

    def wait(self, group, value):
        with self.changed:
            if not self.changed.wait_for(lambda: self.counts[int(group)] >= value, SECONDS):
                raise TimeoutError(f"{self.counts[int(group)]} signals of {value}")
        return np.int32(0)


def machine(cluster=False):
    """See ``persistent_kernels.Machine``."""

    def launch(groups, blocks):
        shape = {"cluster": (groups, blocks), "cluster_names": ("group", "block")}
        return {**shape, "interpret": InterpretGPUParams()}

    def counter(plan, group):
        counters = Counters(plan)
        io_callback(counters.enter, (), ordered=True)
        return counters, group

    def multiply(sums, a, b):
        def turned(memory):
            memory[...] = b[...].T
            plgpu.commit_smem()
            plgpu.wgmma(sums, a, memory)

        pl.run_scoped(turned, plgpu.SMEM(b.shape[::-1], b.dtype))

    # Callbacks of the interpreter follow each other by values, not by their order alone.
    def signal(counter, published):
        counters, group = counter
        io_callback(lambda group, _: counters.add(group), (), group, published[...], ordered=True)

    def wait(counter, value):
        counters, group = counter
        zero = jax.ShapeDtypeStruct((), jnp.int32)
        return io_callback(counters.wait, zero, group, value, ordered=True)

    return persistent_kernels.Machine(
        launch=launch,
        load=lambda ref, index: ref[index],
        zeros=lambda shape: jnp.zeros(shape, jnp.float32),
        multiply=multiply,
        counter=counter,
        signal=signal,
        wait=wait,
    )


def results(kind, backend):
    """Outputs, last states and every gradient, by name."""
    case, lengths = make(kind)
    options = {"reverse": kind.reverse, "lengths": lengths, "backend": backend}

    def run(weights, x, state):
        return recurrence.run(case.cell, weights, x.astype(kind.dtype), state, **options)

    return everything(case, run)


def main(path):
    jax.default_backend = lambda: "gpu"
    persistent.device = lambda: ("9.0", MULTIPROCESSORS)
    persistent_kernels.gpu = machine
    persistent_kernels.MAX_STAGES = 2  # fewer than the chunks of 192 units
    arrays = {}
    for name, kind in KINDS.items():
        found = results(kind, kind.backend)
        arrays |= {f"{name}: {k}": np.asarray(a, np.float32) for k, a in found.items()}
    np.savez(path, **arrays)


if __name__ == "__main__":
    main(sys.argv[1])
