"""How a training state and its batches lie on the devices.

A mesh has two axes: ``data``, along which the rows of each batch are shared, and ``hidden``, along
which every parameter, its moments and its mean are cut into equal parts; XLA moves what a device
needs of the others' parts. Usage::

    mesh = device_mesh(config)
    state = place(state, state_shardings(state, mesh))
"""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxrnn import rules
from jaxrnn.config import GPU_BACKENDS, TrainConfig
from jaxrnn.errors import InputError

AXES = ("data", "hidden")
AUTO = (AxisType.Auto, AxisType.Auto)


def device_mesh(config: TrainConfig) -> Mesh:
    """The devices that train, as ``config.mesh`` says or the rules for this machine.

    Where several processes train, a process's devices are neighbours along ``data``.

    Raises InputError for more devices than there are, not all of several processes', or more than
    one for a backend that has no parts.
    """
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    num_processes = jax.process_count()
    if config.mesh != "auto":
        shape = config.mesh_shape
    elif num_processes > 1:
        shape = (len(devices), 1)
    elif config.backend in GPU_BACKENDS:
        shape = (1, 1)
    else:
        shape = (rules.data_shards(jax.default_backend(), len(devices), config.batch_size), 1)
    count = math.prod(shape)
    if count > 1 and config.backend in GPU_BACKENDS:
        raise InputError(
            f"--backend is {config.backend}, which trains on one device, not on {count}; use "
            "--backend auto, or --mesh data=1 in one process"
        )
    if count > len(devices):
        raise InputError(
            f"--mesh is {config.mesh}, but JAX finds {len(devices)} devices; use --mesh auto"
        )
    if num_processes == 1:
        return jax.make_mesh(shape, AXES, AUTO, devices=devices[:count])
    if count < len(devices) or shape[0] % num_processes or config.batch_size % shape[0]:
        raise InputError(
            f"--mesh is data={shape[0]},hidden={shape[1]} for {num_processes} processes with "
            f"{len(devices)} devices and --batch-size {config.batch_size}, expected all devices, "
            "the same number of rows for each process, and a batch that divides into them"
        )
    return Mesh(np.array(devices).reshape(shape), AXES, AUTO)


def batch_shardings(mesh: Mesh) -> tuple[NamedSharding, NamedSharding]:
    """Of stacked batches (K, B, ...), and of what lies whole on every device."""
    return NamedSharding(mesh, P(None, "data")), NamedSharding(mesh, P())


def state_shardings(state: Any, mesh: Mesh) -> Any:
    """Of a ``TrainState``: all by ``hidden``, but the carried state by ``data``."""
    rows, everywhere = batch_shardings(mesh)
    num_parts = mesh.shape["hidden"]

    def cut(array: Any) -> NamedSharding:
        axes = [k for k, size in enumerate(array.shape) if size % num_parts == 0]
        if num_parts == 1 or not axes:
            return everywhere
        return NamedSharding(mesh, P(*[None] * axes[0], "hidden"))

    names = ("params", "moments", "average")
    found = {name: jax.tree.map(cut, getattr(state, name)) for name in names}
    carry = jax.tree.map(lambda _: rows, state.carry)
    return state._replace(step=everywhere, carry=carry, **found)


def place(tree: Any, shardings: Any) -> Any:
    """Arrays that every process has, as copies of their own on the devices."""
    if jax.process_count() == 1:  # copies: a step donates what it is given
        return jax.device_put(jax.tree.map(jax.numpy.array, tree), shardings)

    def put(array, sharding):
        array = np.asarray(array)
        return jax.make_array_from_callback(array.shape, sharding, lambda part: array[part])

    return jax.tree.map(put, tree, shardings)


def place_batches(batches: tuple[Any, Any, Any], mesh: Mesh) -> tuple[Any, Any, Any]:
    """Stacked inputs, targets and starts, of which each process has its own rows."""
    if jax.process_count() == 1:
        return batches
    rows, everywhere = batch_shardings(mesh)
    inputs, targets, starts = batches
    of_rows = [
        jax.tree.map(lambda a: jax.make_array_from_process_local_data(rows, a), part)
        for part in (inputs, targets)
    ]
    return *of_rows, place(starts, everywhere)


def process_rows(batch_size: int) -> slice:
    """Which rows of a batch this process reads."""
    size = batch_size // jax.process_count()
    return slice(jax.process_index() * size, (jax.process_index() + 1) * size)


def gathered(tree: Any) -> Any:
    """Whole NumPy arrays, in every process; all of them have to ask."""

    def gather(array):
        if not isinstance(array, jax.Array) or array.is_fully_addressable:
            return np.asarray(array)
        if array.is_fully_replicated:
            return np.asarray(array.addressable_data(0))
        return multihost_utils.process_allgather(array, tiled=True)

    return jax.tree.map(gather, tree)


def on_one_device(tree: Any) -> Any:
    """Whole arrays on the first device of this process; all processes have to ask."""

    def whole(array):
        if array.is_fully_replicated:
            return array.addressable_data(0)
        return jax.numpy.asarray(gathered(array))

    return jax.tree.map(whole, tree)
