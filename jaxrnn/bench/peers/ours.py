"""jaxrnn as ``jaxrnn.train`` and ``jaxrnn.sample`` run it."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxrnn import losses, recurrence
from jaxrnn.bench.peers import Arrays, Session, UnsupportedError, in_jax
from jaxrnn.bench.peers.in_jax import ahead_of_time
from jaxrnn.bench.workloads import Workload, data, lengths, operand_dtype, parameters
from jaxrnn.config import CharConfig, TrainConfig
from jaxrnn.layers import LAYERS
from jaxrnn.mesh import batch_shardings, device_mesh, state_shardings
from jaxrnn.models import Params, Skeleton, split
from jaxrnn.models.char_lm import CharLM, generate
from jaxrnn.models.forecaster import Forecaster
from jaxrnn.train_step import TrainState, make_step, optimizer, steps_per_dispatch


class Bare(nnx.Module):
    """A layer alone."""

    def __init__(self, workload: Workload, **options: Any):
        if workload.proj_size:
            options["proj_size"] = workload.proj_size
        sizes = (workload.input_size, workload.hidden_size, workload.num_layers)
        self.rnn = LAYERS[workload.cell](*sizes, batch_first=True, rngs=nnx.Rngs(0), **options)

    def __call__(self, x, state=None, *, lengths=None, rngs=None):
        """As the models that are called so."""
        return self.rnn(x, state, lengths=lengths)


def model_of(workload: Workload, dropout: float, **options: Any) -> Any:
    """The model that the workload describes, with options of ``jaxrnn.LSTM``."""
    options = {"dtype": jnp.dtype(operand_dtype(workload.precision)), **options}
    if not workload.output_size:
        return Bare(workload, **options)
    options |= {
        "cell": workload.cell,
        "hidden_size": workload.hidden_size,
        "num_layers": workload.num_layers,
        "dropout": dropout,
        "rngs": nnx.Rngs(0),
    }
    if workload.is_text:
        return CharLM(workload.input_size, **options)
    return Forecaster(workload.input_size, workload.output_size, **options)


def spec(workload: Workload) -> recurrence.Spec:
    """Of the first layer, as the choice of a backend sees it; of a sketch-rnn, its decoder's."""
    return recurrence.Spec(
        cell=model_of(workload, 0.0).rnn.cell,
        num_steps=workload.num_steps,
        batch_size=workload.batch_size,
        input_size=workload.columns,
        hidden_size=workload.hidden_size,
        proj_size=workload.proj_size,
        bias=True,
        masked=workload.max_length > 0,
        resets=False,
        scaled=False,
        dtype=jnp.dtype(operand_dtype(workload.precision)),
        platform=jax.default_backend(),
    )


def by_name(backend: str, workload: Workload) -> Session:
    """Ours, of a backend that no rule takes yet."""
    if reason := recurrence.BACKENDS[backend].supports(spec(workload)):
        raise UnsupportedError(reason)
    if workload.mode == "generate":
        raise UnsupportedError("a single step is no sequence")
    return session(workload, backend=backend)


by_cudnn = functools.partial(by_name, "cudnn")


def reference(workload: Workload) -> Session:
    """In float64, by the backend 'reference': to be compared with, not to be timed."""

    def check():
        with jax.enable_x64(True):
            options = {"dtype": jnp.float64, "param_dtype": jnp.float64, "backend": "reference"}
            model = model_of(workload, 0.0, **options)
            model.eval()
            wide = {k: jnp.asarray(a, jnp.float64) for k, a in parameters(workload).items()}
            x, targets = (part[0] for part in data(workload))
            x = jnp.asarray(x, None if workload.is_text else jnp.float64)
            return results_of(workload, split(model)[0], wide, x, jnp.asarray(targets))

    return Session(lambda: None, check=check)


def loss_of(workload: Workload, y: Any, targets: Any) -> Any:
    """A batch's loss; of ``gradients`` a sum whose derivative float16 can hold."""
    if workload.mode == "gradients":
        return in_jax.weighted(y, targets)
    function = losses.cross_entropy if workload.is_text else losses.squared_error
    return function(y, targets)


def results_of(workload: Workload, skeleton: Any, params: Any, x: Any, targets: Any) -> Any:
    """Outputs and every gradient."""
    valid = jnp.asarray(lengths(workload)) if workload.max_length else None

    def loss(params, x, targets):  # arguments: constants would be computed with while compiling
        y = skeleton.merge(params)(x, lengths=valid)[0]
        return loss_of(workload, y, targets), y

    grads, y = jax.jit(jax.grad(loss, has_aux=True))(params, x, targets)
    return in_jax.wide(y), in_jax.arrays(grads)


def session(workload: Workload, **options: Any) -> Session:
    """Training in dispatches of several steps, gradients, the forward pass, or writing text."""
    params = {name: jnp.asarray(array) for name, array in parameters(workload).items()}
    valid = jnp.asarray(lengths(workload)) if workload.max_length else None

    def loss_and_state(model, inputs, targets, state, rngs, step):
        y, state = model(inputs, state, lengths=valid, rngs=rngs)
        return loss_of(workload, y, targets), state

    evaluation = model_of(workload, 0.0, **options)
    evaluation.eval()
    skeleton, _ = split(evaluation)
    x, targets = (jax.device_put(part[0]) for part in data(workload))

    def outputs(params, x):
        return skeleton.merge(params)(x, lengths=valid)[0]

    def loss_and_outputs(params, x, targets):
        y = outputs(params, x)
        return loss_of(workload, y, targets), y

    def check():
        return results_of(workload, skeleton, params, x, targets)

    if workload.mode == "generate":
        key, prime = jax.random.key(0), np.zeros(1, np.int32)

        def write() -> list[np.ndarray]:
            given = {"length": workload.num_steps, "key": key, "top_k": 5}
            return [np.asarray(c) for c in generate((skeleton, params), prime, **given)]

        times = []
        for _ in range(2):
            started = time.perf_counter()
            write()
            times.append(time.perf_counter() - started)
        return Session(write, workload.num_steps, check, max(times[0] - times[1], 0.0))
    if workload.mode == "forward":
        return in_jax.outputs_alone(outputs, params, x)
    if workload.mode == "gradients":
        return in_jax.gradients(loss_and_outputs, (params, x, targets), in_jax.arrays)

    config = CharConfig(
        batch_size=workload.batch_size,
        seq_len=workload.num_steps,
        lr=workload.lr,
        clip=workload.clip,
        remat=workload.remat,
        schedule="constant",
        warmup_steps=0,
    )
    model = model_of(workload, workload.dropout, **options)
    carry = model.rnn.initial_state(workload.batch_size)
    batches_of = functools.partial(data, workload)
    return training(config, loss_and_state, split(model)[0], params, carry, batches_of, check)


def training(
    config: TrainConfig,
    loss: Callable[..., Any],
    skeleton: Skeleton,
    params: Params,
    carry: Any,
    batches_of: Callable[[int], tuple[Any, Any]],
    check: Callable[[], tuple[np.ndarray, Arrays]],
) -> Session:
    """Training steps as ``jaxrnn.train`` dispatches them; ``batches_of(count)`` stacks so many."""
    count = steps_per_dispatch(config, params)
    step: Any = make_step(loss, skeleton, config, 10**6)
    copies = jax.tree.map(jnp.array, params)
    state = TrainState(jnp.int32(0), copies, optimizer(config).init(copies), carry)
    mesh = device_mesh(config)
    of_batches, of_all = batch_shardings(mesh)
    box = [jax.device_put(state, state_shardings(state, mesh))]
    batches = (
        *jax.device_put(batches_of(count), of_batches),
        jax.device_put(np.zeros(count, bool), of_all),
    )
    program = ahead_of_time(step, box[0], *batches, np.int32(count))

    def train() -> float:
        box[0], metrics = program.call(box[0], *batches, np.int32(count))
        return float(metrics.loss[count - 1])

    return Session(train, count, check, program.compile_s, lambda: program.memory_mib)
