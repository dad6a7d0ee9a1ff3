"""Two GPU kernels: all steps of a layer in one launch, and all of them backwards.

A block of threads keeps the recurrent weights of ``units`` hidden units in shared memory, and has
these units of ``rows`` sequences. At each step it multiplies what all blocks have published of the
step before (the states; backwards, the gradients of the gates) by its weights, does the
element-wise work in registers, where the state stays, publishes its own part in global memory, and
says so. It waits until all have: the one barrier of a step, of two kinds. Blocks of a grid count
one up in global memory. All of them must run at once, so there are never more than multiprocessors,
and no other kernel may hold some of these for good, as another of this kind would that runs beside
it. Blocks of a cluster, which are sixteen at most, have a barrier of the hardware, and a cluster
runs as a whole or not yet: any number of them may wait for their turn.

Arrays over time are of rows, ``stride`` a step and ``margin`` more at both ends. Products and
element-wise work are of tiles of ``rows`` of them: of a smaller batch, the rows of a step and some
of steps that run later. What is published are the rows of the step alone; what a block writes for
itself spoils those of later ones, and is written when their time comes.

In Pallas for Mosaic GPU (wgmma: compute capability 9). What touches the machine other than by its
documented primitives goes through a ``Machine``, so that the same kernels run under JAX's
interpreter, whose blocks are threads.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxlib.mlir.dialects import nvvm
from jaxtyping import Array, Float, Int

from jaxrnn.recurrence.persistent_cells import STEPS

SHARED_BYTES = 220 * 1024  # of a block, of 227 KiB that a multiprocessor of Hopper lends to one
CLUSTERS = (2, 4, 8, 16)  # blocks of one: more than eight where the device lends them
MAX_STAGES = 8
MAX_SUMS = 128 * 128  # of a block's product: 128 registers of each of its threads


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a layer is shared among blocks."""

    rows: int  # sequences of a block: whole wgmma tiles of 64
    units: int  # hidden units of a block
    groups: int  # of blocks with the same sequences
    blocks: int  # of a group
    chunk: int  # columns of what is published that are loaded at a time
    stages: int  # chunks in shared memory at once
    stride: int  # rows of a step
    cluster: bool = False  # the blocks of a group are one

    @property
    def published(self) -> int:
        """Rows of a block's tile that are of its step."""
        return min(self.rows, self.stride)

    @property
    def margin(self) -> int:
        """Rows of a tile that are of other steps."""
        return self.groups * self.rows - self.stride

    def over_time(self, num_steps: int) -> int:
        """Rows of an array over so many steps."""
        return num_steps * self.stride + 2 * self.margin


class Machine(NamedTuple):
    """How blocks are launched, read global memory, and wait for each other."""

    launch: Callable[[int, int], dict[str, Any]]  # options of a kernel of (groups, blocks)
    load: Callable[[Any, Any], Array]  # (reference, index) -> (rows, units), as products give it
    zeros: Callable[[tuple[int, int]], Array]  # laid out as what is loaded
    multiply: Callable[[Any, Any, Any], None]  # (sums, a, b): sums += a @ b.T
    counter: Callable[[Plan, Any], Any]  # of a group: the same for all of its blocks, from zero
    signal: Callable[[Any, Any], None]  # one more, once what is published in a reference is there
    wait: Callable[[Any, Any], Any]  # until it is at least so many: gives 0, for what is read then


def gpu(cluster: bool = False) -> Machine:
    """A GPU itself; the blocks of a group are a cluster, or of a grid."""

    needs_index = inspect.signature(plgpu.load).parameters["idx"].default is inspect.Parameter.empty

    def load(ref, where):
        index = {"idx": ()} if needs_index else {}  # jax 0.10; later deprecated
        return plgpu.load(ref.at[where], **index, layout=plgpu.Layout.WGMMA, optimized=False)

    def semaphores(plan):
        return pl.get_global(plgpu.SemaphoreType.REGULAR((plan.groups,)))

    def before_bulk_copies(context):
        nvvm.fence_proxy(nvvm.ProxyKind.async_global)

    fence: Callable[[], None] = plgpu.inline_mgpu()(before_bulk_copies)

    def signal(counter, published):
        plgpu.semaphore_signal(counter, memory_scope="gpu")

    def wait(counter, value):
        plgpu.semaphore_wait(counter, value, decrement=False, memory_scope="gpu")
        fence()
        return 0

    grid = Machine(
        launch=lambda groups, blocks: {
            "grid": (groups, blocks),
            "grid_names": ("group", "block"),
        },
        load=load,
        zeros=lambda shape: plgpu.layout_cast(jnp.zeros(shape, jnp.float32), plgpu.Layout.WGMMA),
        multiply=lambda sums, a, b: plgpu.wgmma(sums, a, b.T),
        counter=lambda plan, group: semaphores(plan).at[group],
        signal=signal,
        wait=wait,
    )
    if not cluster:
        return grid

    def arrival(context):
        nvvm.cluster_arrive()  # of every thread, with release

    def joining(context):
        nvvm.cluster_wait()  # with acquire

    arrive: Callable[[], None] = plgpu.inline_mgpu()(arrival)
    join: Callable[[], None] = plgpu.inline_mgpu()(joining)

    def wait_for_all(counter, value):
        @pl.when(value > 0)
        def _():
            join()
            fence()

        return 0

    return grid._replace(
        launch=lambda groups, blocks: {
            "grid": (groups,),
            "grid_names": ("group",),
            "cluster": (blocks,),
            "cluster_names": ("block",),
        },
        counter=lambda plan, group: None,
        signal=lambda counter, published: arrive(),
        wait=wait_for_all,
    )


def plan(
    num_gates: int, hidden_size: int, batch_size: int, multiprocessors: int, cluster: bool = False
) -> Plan | None:
    """The most blocks that run at once, or are a cluster, and whose weights fit, or None."""
    chunk = 128 if hidden_size % 128 == 0 else 64
    for rows in (64, 128):
        for units in (16, 32, 64):
            groups, blocks = -(-batch_size // rows), hidden_size // units
            weights = 2 * num_gates * hidden_size * units
            published = 2 * rows * units * (num_gates + 1)
            stages = (SHARED_BYTES - weights - published) // (2 * rows * chunk)
            fits = stages >= 2 and rows * units * num_gates <= MAX_SUMS
            at_once = blocks if cluster else groups * blocks
            of_a_size = not cluster or blocks in CLUSTERS
            if fits and of_a_size and at_once <= multiprocessors:
                stages = min(stages, MAX_STAGES, hidden_size // chunk)
                # Bulk copies begin at whole tiles of 8 rows.
                stride = groups * rows if groups > 1 else -(-batch_size // 8) * 8
                return Plan(rows, units, groups, blocks, chunk, stages, stride, cluster)
    return None


def _shared(shape: Sequence[int], dtype: Any) -> Any:
    """Of a block: tiled for products and bulk copies, as far as rows of ``shape`` go."""
    bits = jnp.finfo(dtype).bits
    swizzle = plgpu.find_swizzle(shape[-1] * bits)
    tiling = plgpu.TilingTransform((8, 8 * swizzle // bits))
    return plgpu.SMEM(shape, dtype, transforms=(tiling, plgpu.SwizzleTransform(swizzle)))


class _Block:
    """What a block of either kernel has and does."""

    def __init__(self, machine: Machine, plan: Plan, num_steps: int, reverse: bool, lengths: Any):
        self.machine, self.plan, self.num_steps, self.reverse = machine, plan, num_steps, reverse
        group, self.index = jax.lax.axis_index("group"), jax.lax.axis_index("block")
        self.first_row = group * plan.rows
        self.rows = pl.ds(self.first_row, plan.rows)  # of its sequences, in arrays without time
        self.of_tile = pl.ds(plan.margin if reverse else 0, plan.published)
        self.units = self.columns(0, 0)
        self.counter = machine.counter(plan, group)
        self.lengths = None
        if lengths is not None:
            self.lengths = machine.load(lengths, (self.rows, pl.ds(0, plan.units)))

    def columns(self, part: int, hidden_size: int) -> Any:
        """Its units, in the part of an array that has ``hidden_size`` columns for each."""
        return pl.ds(part * hidden_size + self.index * self.plan.units, self.plan.units)

    def time(self, s: Any) -> Any:
        """The step that runs as number ``s``."""
        return self.num_steps - 1 - s if self.reverse else s

    def slot(self, s: Any) -> Any:
        """Where the state before the step that runs as number ``s`` is, of T + 1."""
        return self.num_steps - s if self.reverse else s

    def at(self, t: Any) -> Any:
        """The rows of a step, of arrays over time; those of other steps are of later ones."""
        first = t * self.plan.stride + self.first_row
        return pl.ds(first if self.reverse else first + self.plan.margin, self.plan.rows)

    def of_step(self, t: Any) -> Any:
        """Of these, the rows of the step itself, which are ``of_tile`` in the tile."""
        return pl.ds(self.at(t).start + self.of_tile.start, self.plan.published)

    def load(self, ref: Any, *index: Any) -> Array:
        return self.machine.load(ref, index).astype(jnp.float32)

    def parts(self, ref: Any, t: Any, count: int, hidden_size: int) -> list[Array]:
        return [self.load(ref, self.at(t), self.columns(k, hidden_size)) for k in range(count)]

    def kept(self, t: Any, new: Sequence[Array], old: Sequence[Array]) -> tuple[Array, ...]:
        """New where the sequence has a step ``t``, else old."""
        if self.lengths is None:
            return tuple(new)
        valid = t < self.lengths
        return tuple(jnp.where(valid, n, o) for n, o in zip(new, old, strict=True))

    def publish(self, values: Sequence[Array], staged: Any, targets: Sequence[Any]) -> None:
        """Write them from shared memory, and count up when they can be read."""
        for k, value in enumerate(values):
            staged[k] = value.astype(staged.dtype)
        plgpu.commit_smem()
        for k, target in enumerate(targets):
            plgpu.copy_smem_to_gmem(staged.at[k, self.of_tile], target)
        plgpu.wait_smem_to_gmem(0)
        self.machine.signal(self.counter, targets[-1])

    def after(self, count: Any, index: Any) -> Any:
        """``index``, once all blocks of its group have published so many times."""
        return index + self.machine.wait(self.counter, count * self.plan.blocks)

    def leave(self, count: Any) -> None:
        """At the end: of a cluster, no block before all have published so many times."""
        if self.plan.cluster:
            self.after(count, 0)


def _product(
    block: _Block, published: Any, t: Any, weight: Any, ring: Any, arrived: Any, when: Any
) -> Array:
    """``published @ weight.T`` of a step, (rows, N): zeros where ``when`` is False.

    Chunks of columns of what is published come by turns into the ring. The rows of a tile that are
    of other steps are whatever was there.
    """
    stages, rows, chunk = ring.shape
    size, width = weight.shape
    count = width // chunk

    def part(k):
        return pl.ds(k * chunk, chunk)

    def load(k):
        source, slot = published.at[block.of_step(t), part(k)], k % stages
        plgpu.copy_gmem_to_smem(source, ring.at[slot, block.of_tile], arrived.at[slot])

    def multiply(sums):
        @pl.when(when)
        def _():
            for k in range(stages):
                load(k)

            @pl.loop(0, count)
            def _(k):
                plgpu.barrier_wait(arrived.at[k % stages])
                block.machine.multiply(sums, ring.at[k % stages], weight.at[:, part(k)])

                @pl.when(k + stages < count)
                def _():
                    plgpu.wgmma_wait(0)
                    load(k + stages)

        return sums[...]

    return pl.run_scoped(multiply, plgpu.WGMMAAccumulatorRef((rows, size), jnp.float32))


def _with_weights(weight: Any, block: _Block, memory: Any, arrived: Any) -> None:
    plgpu.copy_gmem_to_smem(weight.at[block.index], memory, arrived)
    plgpu.barrier_wait(arrived)


def _scratch(plan: Plan, dtype: Any, weight_shape: Sequence[int], num_staged: int) -> list[Any]:
    """Weights, the ring, what is published; barriers of the first two."""
    return [
        _shared(weight_shape, dtype),
        _shared((plan.stages, plan.rows, plan.chunk), dtype),
        _shared((num_staged, plan.rows, plan.units), dtype),
        plgpu.Barrier(),
        plgpu.Barrier(num_barriers=plan.stages),
    ]


def _launched(
    machine: Machine,
    plan: Plan,
    inputs: dict[str, Array],
    outputs: dict[str, jax.ShapeDtypeStruct],
    num_staged: int,
    body: Callable[..., None],
) -> dict[str, Array]:
    """The outputs of a kernel; ``body`` finds references of all by name, then its scratch."""
    names = [*inputs, *outputs]

    def named(*refs):
        body(dict(zip(names, refs[: len(names)], strict=True)), *refs[len(names) :])

    weight = inputs["weight"]
    kernel = plgpu.kernel(
        named,
        out_type=list(outputs.values()),
        scratch_types=_scratch(plan, weight.dtype, weight.shape[1:], num_staged),
        **machine.launch(plan.groups, plan.blocks),
    )
    # One launch after the other under vmap, whose own rule would launch all with one counter.
    found = jax.custom_batching.sequential_vmap(kernel)(*inputs.values())
    return dict(zip(outputs, found, strict=True))


def forward(
    machine: Machine,
    plan: Plan,
    cell_name: str,
    reverse: bool,
    keep: bool,
    num_steps: int,
    gates_x: Float[Array, "M G"],
    bias_n: Float[Array, "R H"] | None,
    weight_hh: Float[Array, "G H"],
    state: tuple[Float[Array, "N H"], ...],
    lengths: Int[Array, "N U"] | None,
) -> tuple[Array, tuple[Array, ...], Array | None, Array | None]:
    """Outputs with the first h, last states, and what backward needs.

    ``hs``, over T + 1 steps in the dtype of ``weight_hh``, has the first h before the step that
    runs first. Where ``keep``, so do the LSTM's ``cs`` in float32, and ``saved`` (S * H columns,
    over T steps) are its activations.
    """
    hidden_size = weight_hh.shape[1]
    num_gates = len(weight_hh) // hidden_size
    step = STEPS[cell_name]
    wide = jnp.float32
    # (blocks, gates * units, H): what a block multiplies by, gate after gate.
    weight = weight_hh.reshape(num_gates, plan.blocks, plan.units, hidden_size)
    weight = weight.swapaxes(0, 1).reshape(plan.blocks, -1, hidden_size)
    inputs = {"gates_x": gates_x, "weight": weight, "bias_n": bias_n, "lengths": lengths}
    inputs = {k: v for k, v in inputs.items() if v is not None}
    inputs |= {f"first{k}": s for k, s in enumerate(state)}
    states = (plan.over_time(num_steps + 1), hidden_size)
    outputs = {"hs": jax.ShapeDtypeStruct(states, weight.dtype)}
    outputs |= {f"last{k}": jax.ShapeDtypeStruct(s.shape, wide) for k, s in enumerate(state)}
    if keep and len(state) == 2:
        outputs["cs"] = jax.ShapeDtypeStruct(states, wide)
    if keep and step.num_saved:
        saved = (plan.over_time(num_steps), step.num_saved * hidden_size)
        outputs["saved"] = jax.ShapeDtypeStruct(saved, wide)

    def body(ref, weight_memory, ring, staged, weight_arrived, arrived):
        block = _Block(machine, plan, num_steps, reverse, ref.get("lengths"))
        _with_weights(ref["weight"], block, weight_memory, weight_arrived)
        units = block.units
        bias = None
        if bias_n is not None:
            bias = block.load(ref["bias_n"], pl.ds(0, plan.rows), units)

        def write(slot, state):
            block.publish(state[:1], staged, [ref["hs"].at[block.of_step(slot), units]])
            if "cs" in ref:  # now, when nobody waits for it
                ref["cs"][block.at(slot), units] = state[1]

        def advance(s, state):
            t = block.time(s)
            from_x = block.parts(ref["gates_x"], t, num_gates, hidden_size)
            slot = block.after(s + 1, block.slot(s))
            sums = _product(block, ref["hs"], slot, weight_memory, ring, arrived, s >= 0)
            from_h = [sums[:, k * plan.units : (k + 1) * plan.units] for k in range(num_gates)]
            if bias is not None:
                from_h[2] = from_h[2] + bias
            new, saved = step.forward(from_x, from_h, state)
            new = block.kept(t, new, state)
            write(block.slot(s + 1), new)
            if "saved" in ref:
                for k, value in enumerate(saved):
                    ref["saved"][block.at(t), block.columns(k, hidden_size)] = value
            return new

        first = tuple(block.load(ref[f"first{k}"], block.rows, units) for k in range(len(state)))
        write(block.slot(0), first)
        last = jax.lax.fori_loop(0, num_steps, advance, first)
        block.leave(num_steps + 1)
        for k, value in enumerate(last):
            ref[f"last{k}"][block.rows, units] = value

    found = _launched(machine, plan, inputs, outputs, 1, body)
    last = tuple(found[f"last{k}"] for k in range(len(state)))
    return found["hs"], last, found.get("cs"), found.get("saved")


def backward(
    machine: Machine,
    plan: Plan,
    cell_name: str,
    reverse: bool,
    num_steps: int,
    dhs: Float[Array, "M H"],
    hs: Float[Array, "M1 H"],
    cs: Float[Array, "M1 H"] | None,
    saved: Float[Array, "M S"] | None,
    weight_hh: Float[Array, "G H"],
    dstate: tuple[Float[Array, "N H"], ...],
    lengths: Int[Array, "N U"] | None,
) -> tuple[Array, Array | None, tuple[Array, ...]]:
    """Gradients of the gates of h, over time; of the gate of x that differs; of the first state.

    The last without what comes through the gates of the step that runs first.
    """
    hidden_size = dhs.shape[1]
    num_gates = len(weight_hh) // hidden_size
    step = STEPS[cell_name]
    # (blocks, units, G): what a block multiplies by.
    weight = weight_hh.T.reshape(plan.blocks, plan.units, -1)
    inputs = {"dhs": dhs, "hs": hs, "cs": cs, "saved": saved, "weight": weight, "lengths": lengths}
    inputs = {k: v for k, v in inputs.items() if v is not None}
    inputs |= {f"last{k}": s for k, s in enumerate(dstate)}
    gates = (len(dhs), num_gates * hidden_size)
    outputs = {"dgates": jax.ShapeDtypeStruct(gates, weight.dtype)}
    outputs |= {f"first{k}": jax.ShapeDtypeStruct(s.shape, s.dtype) for k, s in enumerate(dstate)}
    if step.num_differing:
        outputs["differing"] = jax.ShapeDtypeStruct(dhs.shape, weight.dtype)

    def body(ref, weight_memory, ring, staged, weight_arrived, arrived):
        # The step that runs as number s backwards is number T - 1 - s forwards.
        block = _Block(machine, plan, num_steps, not reverse, ref.get("lengths"))
        _with_weights(ref["weight"], block, weight_memory, weight_arrived)
        units = block.units
        states = ref["cs"] if "cs" in ref else ref["hs"]

        def advance(s, dstate):
            t = block.time(s)
            dh_out = block.load(ref["dhs"], block.at(t), units)
            before = after = None
            kept = []
            if saved is not None:
                kept = block.parts(ref["saved"], t, step.num_saved, hidden_size)
            # Slots are counted forwards: the state after a step is where that before the next is.
            t_in, t_out = (t + 1, t) if reverse else (t, t + 1)
            if step.needs_before:
                before = block.load(states, block.at(t_in), units)
            if step.needs_after:
                after = block.load(states, block.at(t_out), units)

            done = block.after(s, block.time(jnp.maximum(s - 1, 0)))
            through = _product(block, ref["dgates"], done, weight_memory, ring, arrived, s > 0)
            held = (dstate[0] + through + dh_out, *dstate[1:])
            dgates, differing, direct = step.backward(kept, before, after, held)
            zeros = machine.zeros((plan.rows, plan.units))
            if direct[0] is None:
                direct = (zeros, *direct[1:])
            published = (*dgates, *differing)
            published = block.kept(t, published, [zeros] * len(published))
            targets = [
                ref["dgates"].at[block.of_step(t), block.columns(k, hidden_size)]
                for k in range(num_gates)
            ]
            if differing:
                targets.append(ref["differing"].at[block.of_step(t), units])
            block.publish(published, staged, targets)
            return block.kept(t, direct, held)

        last = tuple(block.load(ref[f"last{k}"], block.rows, units) for k in range(len(dstate)))
        first = jax.lax.fori_loop(0, num_steps, advance, last)
        block.leave(num_steps)
        for k, value in enumerate(first):
            ref[f"first{k}"][block.rows, units] = value

    found = _launched(machine, plan, inputs, outputs, num_gates + step.num_differing, body)
    first = tuple(found[f"first{k}"] for k in range(len(dstate)))
    return found["dgates"], found.get("differing"), first
