"""Which way a computation goes, by shape and device: every rule, measured or documented.

Results differ between the ways in rounding only. What was measured, and how, is in
``docs/bench/NOTES.md``; ``python -m jaxrnn.bench --explain`` shows what is chosen. Usage::

    if contiguous_rows(jax.default_backend()): ...
"""

from __future__ import annotations

ROWS_PER_SHARD = 8  # at least: below it a matmul of a step is too small for a core
DISPATCH_FLOPS = 6 * 10**11  # of training steps in one dispatch, at most: 3 s of 2 cores
DISPATCH_SECONDS = 4.0  # that a dispatch may take: the shortest wait of a signal to stop
MAX_STEPS_PER_DISPATCH = 100
PROJECTED_BYTES = 8 * 2**20  # of the input projection that lie ready at once: within L3
ROWS_PROJECTED = 64  # at least
LANES = 128  # of a TPU's registers
MAX_COUNTED = 256  # symbols of which the k likeliest are found by comparing all with all


def contiguous_rows(platform: str) -> bool:
    """Whether a weight's gradient, summed over T and B, first transposes its smaller operand.

    XLA's CPU matmul reaches 188 GFLOP/s so, and 143 of a product over the leading axes.
    """
    return platform == "cpu"


def steps_ahead(platform: str, num_steps: int, batch_size: int, row_bytes: int) -> int:
    """For how many steps at a time the input projection, of so many bytes a row, is computed.

    Where no gradient follows, and it need not be kept: a CPU then finds it in its cache. A part of
    the steps divides them, and is no smaller than a matmul of ROWS_PROJECTED rows.
    """
    if platform != "cpu":
        return num_steps
    divisors = (n for n in range(1, num_steps + 1) if num_steps % n == 0)
    fitting = (n for n in divisors if n * batch_size * row_bytes <= PROJECTED_BYTES)
    steps = max(fitting, default=1)
    return steps if steps * batch_size >= ROWS_PROJECTED else num_steps


def associative_scan(platform: str) -> bool:
    """Whether a linear recurrence over time is solved for all steps at once.

    It takes log2(T) rounds over all that there is. A CPU is faster one step after the other.
    """
    return platform != "cpu"


def padded_units(platform: str, hidden_size: int) -> int:
    """How many hidden units a layer is computed with: a TPU's gates fill whole tiles.

    By JAX's guide to Pallas on TPUs, whose tiles are of 8 x 128; nobody has measured it here.
    """
    return hidden_size if platform != "tpu" else -(-hidden_size // LANES) * LANES


def unroll(platform: str) -> int:
    """How many steps of a recurrence one round of its loop takes.

    More made training slower on a CPU; on an H200 eight took 0.68 of the time of one, four and
    sixteen 0.73 (LSTM, bfloat16, T 512, B 64, H 512). On a TPU it is what XLA's loops there are
    said to want, to overlap a step's loads with the one before; nobody has measured it here.
    """
    return {"tpu": 4, "gpu": 8}.get(platform, 1)


def states_held(platform: str) -> bool:
    """Whether a step's states are written before its next ones are computed.

    Else XLA's GPU code computes c again, in every step of a round of the loop, from the gates of
    all before it: of an LSTM in bfloat16 eight steps are 29 kernels so, and 20 held (by its
    programs for an H200; nobody has timed it). On a CPU such barriers changed nothing.
    """
    return platform == "gpu"


def data_shards(platform: str, num_devices: int, batch_size: int) -> int:
    """How many devices share a batch when nobody says.

    On a CPU, where a device is a core: of a step's loops only the matmul uses several threads.
    """
    if platform != "cpu":
        return 1
    fits = (
        n
        for n in range(1, num_devices + 1)
        if batch_size % n == 0 and (n == 1 or batch_size // n >= ROWS_PER_SHARD)
    )
    return max(fits)


def steps_per_dispatch(flops: int) -> int:
    """How many training steps of so many floating-point operations one dispatch runs at most.

    Within a dispatch buffers are used again; between two the system takes and gives their pages.
    """
    return min(max(DISPATCH_FLOPS // flops, 1), MAX_STEPS_PER_DISPATCH)


def steps_in_time(capacity: int, step_s: float | None) -> int:
    """How many of the steps that a dispatch could run it does, by what one took so far."""
    if step_s is None:  # the first dispatch
        return 1
    return int(min(max(DISPATCH_SECONDS // max(step_s, 1e-9), 1), capacity))


def count_larger(num_symbols: int) -> bool:
    """Whether the k likeliest symbols are found by V * V comparisons rather than a sort of V.

    A sort of 83 numbers takes XLA's CPU code 8 us, the comparisons less than one.
    """
    return num_symbols <= MAX_COUNTED


def explain(platform: str, num_devices: int, batch_size: int, flops: int) -> str:
    """What the rules choose for training steps of so many operations, in one line."""
    shards = data_shards(platform, num_devices, batch_size)
    steps = steps_per_dispatch(flops)
    said = [
        f"batch in {shards} parts of {batch_size // shards} rows"
        if shards > 1
        else "batch whole on one device",
        f"up to {steps} step{'s' * (steps > 1)} a dispatch",
    ]
    if contiguous_rows(platform):
        said.append("weight gradients from contiguous rows")
    return ", ".join(said)
