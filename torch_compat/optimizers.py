"""Optimizer state between optax and torch.optim: training goes on across the border.

Moments have the names and layouts of their parameters on both sides, so each is copied, bit for
bit; what optax counts once, torch's Adam counts for every parameter:

    optax               torch.optim       per parameter
    ScaleByAdamState    Adam, AdamW       mu: exp_avg, nu: exp_avg_sq, count: step
    TraceState          SGD               trace: momentum_buffer

Hyperparameters are in no state of optax's: both sides are constructed with them. SGD's nesterov
is one, the same equation over the same buffer. The states of ``optax.nadam`` and ``adamax`` look
like Adam's and can't be told from it. Usage, after k steps in JAX::

    twin = to_torch(model).train()
    optimizer = to_torch_optimizer(state.moments, twin, make_torch_optimizer(config, twin))
    ...                                                        # n steps in torch
    moments = from_torch_optimizer(optimizer, twin, like=state.moments)
"""

from __future__ import annotations

import collections
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from torch import Tensor, nn

from jaxrnn.config import TrainConfig
from jaxrnn.errors import InputError
from torch_compat import layout
from torch_compat.convert import as_array, as_tensor

_MOMENTS: dict[type, dict[str, str]] = {
    optax.ScaleByAdamState: {"mu": "exp_avg", "nu": "exp_avg_sq"},
    optax.TraceState: {"trace": "momentum_buffer"},
}
"""The fields of a state of optax's that are as large as the parameters, and torch's keys."""

_STATES: dict[type, type] = {
    torch.optim.Adam: optax.ScaleByAdamState,
    torch.optim.AdamW: optax.ScaleByAdamState,
    torch.optim.SGD: optax.TraceState,
}

_WITHOUT_EQUAL = {
    "amsgrad": "torch keeps the largest exp_avg_sq, optax's amsgrad that after bias correction",
    "dampening": "optax.trace adds the whole gradient",
    "maximize": "torch's moments are then those of the negative gradient",
}
"""Options of param groups that only torch has, with the reason."""


def make_torch_optimizer(
    config: TrainConfig, twin: nn.Module, lr: float | None = None
) -> torch.optim.Optimizer:
    """What ``jaxrnn.train_step.optimizer(config)`` is in torch, over the twin's parameters.

    ``lr`` None is the options' own, in float32 as JAX takes it. It stays: set each step's where
    the options have a schedule, ``group["lr"] = float(learning_rate(config, total)(step))``.
    """
    options: dict[str, Any] = {
        "lr": float(np.float32(config.lr)) if lr is None else lr,
        "weight_decay": config.weight_decay,
    }
    if config.optimizer == "sgd":
        return torch.optim.SGD(twin.parameters(), momentum=config.momentum, **options)
    make = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return make(twin.parameters(), betas=(0.9, 0.999), eps=1e-8, **options)


def to_torch_optimizer(
    state: Any, twin: nn.Module, optimizer: torch.optim.Optimizer
) -> torch.optim.Optimizer:
    """Fill a torch ``Adam``, ``AdamW`` or ``SGD`` over the twin's parameters; gives it back.

    ``state`` is any of optax's with one ``ScaleByAdamState`` (or ``TraceState`` for SGD) over the
    parameters, in a flat dict by torch's names, a nested one or an ``nnx.State``. The optimizer
    keeps its own hyperparameters and param groups. The count of a schedule must be Adam's; SGD
    counts nothing, so there the count is dropped: it belongs to torch's ``LRScheduler``.

    Raises InputError that names, all together, what is missing, not expected, of another shape or
    dtype, not finite, or without an equal in the other library.
    """
    params, wrong = _named_parameters(optimizer, twin)
    node, schedule_counts = _read(state, _kind(optimizer))
    arrays = {key: np.asarray(leaf) for key, leaf in _leaves(node).items()}
    count = int(arrays.pop("count", np.int32(0)))
    moments = _MOMENTS[type(node)]
    wrong += _mismatches(arrays, params, moments)
    adam = isinstance(node, optax.ScaleByAdamState)
    if adam and (other := schedule_counts - {count}):
        wrong.append(f"a schedule's count is {other.pop()}, Adam's is {count}: torch has one")
    _raise(wrong)
    dtype = torch.float32 if count < 2**24 else torch.float64  # torch's own while that is exact
    filled = {
        param: {
            **({"step": torch.tensor(count, dtype=dtype)} if adam else {}),
            **{key: as_tensor(arrays[f"{field}.{name}"]) for field, key in moments.items()},
        }
        for name, param in params.items()
    }
    numbered = optimizer.state_dict()
    pairs = zip(optimizer.param_groups, numbered["param_groups"], strict=True)
    numbered["state"] = {
        number: filled[param]
        for group, numbers in pairs
        for param, number in zip(group["params"], numbers["params"], strict=True)
    }
    optimizer.load_state_dict(numbered)
    return optimizer


def from_torch_optimizer(
    optimizer: torch.optim.Optimizer, twin: nn.Module, like: Any, *, count: int | None = None
) -> Any:
    """The optax state of a torch ``Adam``, ``AdamW`` or ``SGD`` over the twin's parameters.

    ``like`` gives the structure, as ``transform.init(params)`` or ``jax.eval_shape`` of it makes
    it: states as in ``to_torch_optimizer``. An optimizer that has not stepped gives the zero
    state. ``count``, the updates made so far, is needed where ``like`` has a schedule and torch's
    optimizer is SGD, which doesn't count; Adam's own must be equal to it.

    Raises InputError as ``to_torch_optimizer`` does, and for parameters at different steps.
    """
    params, wrong = _named_parameters(optimizer, twin)
    node, schedule_counts = _read(like, _kind(optimizer))
    moments = _MOMENTS[type(node)]
    blank = {k: np.zeros(leaf.shape, leaf.dtype) for k, leaf in _leaves(node).items()}
    blank.pop("count", None)
    wrong += [f"of like, {what}" for what in _mismatches(blank, params, moments)]
    arrays = {}
    for name, param in params.items():
        own = optimizer.state.get(param, {})
        for field, key in moments.items():
            tensor = own.get(key)
            arrays[f"{field}.{name}"] = as_array(
                torch.zeros_like(param) if tensor is None else tensor
            )
    wrong += _mismatches(arrays, params, moments)
    if isinstance(node, optax.ScaleByAdamState):
        steps = {int(optimizer.state.get(p, {}).get("step", 0)): name for name, p in params.items()}
        if len(steps) > 1:
            found = ", ".join(f"{name} at {step}" for step, name in steps.items())
            wrong.append(f"steps differ, optax has one count: {found}")
        elif count is not None and {count} != set(steps):
            wrong.append(f"count is {count}, Adam's step is {next(iter(steps))}")
        count = next(iter(steps), 0)
    elif schedule_counts and count is None:
        wrong.append("like has a schedule and SGD doesn't count: give count=, the updates made")
    _raise(wrong)
    arrays["count"] = np.asarray(count or 0)

    def fill(node):
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: jnp.array(arrays[_key(path)], leaf.dtype), node
        )

    return jax.tree.map(fill, like, is_leaf=_is_known)


def _kind(optimizer: torch.optim.Optimizer) -> type:
    """The state of optax's that a torch optimizer's is converted to."""
    if type(optimizer) not in _STATES:
        known = ", ".join(cls.__name__ for cls in _STATES)
        raise InputError(f"can't convert {type(optimizer)}, expected torch.optim's {known}")
    return _STATES[type(optimizer)]


def _is_known(node: Any) -> bool:
    return isinstance(node, (*_MOMENTS, optax.ScaleByScheduleState))


def _read(state: Any, kind: type) -> tuple[Any, set[int]]:
    """The one node of that kind in a state of optax's, and the counts of its schedules."""
    found, counts, other = [], set(), []
    for path, node in jax.tree_util.tree_flatten_with_path(state, is_leaf=_is_known)[0]:
        if isinstance(node, kind):
            found.append(node)
        elif isinstance(node, optax.ScaleByScheduleState):
            (count,) = jax.tree.leaves(node)
            counts.add(0 if isinstance(count, jax.ShapeDtypeStruct) else int(np.asarray(count)))
        else:
            name = type(node).__name__ if _is_known(node) else jax.tree_util.keystr(path)
            other.append(name)
    if len(found) != 1 or other:
        more = f" and {', '.join(other[:5])}" if other else ""
        raise InputError(
            f"the optax state holds {len(found)} {kind.__name__}{more}, expected one and, but for "
            "the count of a schedule, nothing that torch's optimizer has no place for"
        )
    return found[0], counts


def _leaves(node: Any) -> dict[str, Any]:
    """The leaves of a state of optax's: ``count``, ``mu.rnn.weight_ih_l0``, ..."""
    return {_key(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(node)[0]}


def _key(path: tuple[Any, ...]) -> str:
    """The field and the parameter's name; what wraps an array in an nnx.State goes without."""
    keys = [str(entry.key) for entry in path if isinstance(entry, jax.tree_util.DictKey)]
    return ".".join([path[0].name, *keys])


def _named_parameters(
    optimizer: torch.optim.Optimizer, twin: nn.Module
) -> tuple[dict[str, nn.Parameter], list[str]]:
    """The twin's parameters by name, and what is wrong with the optimizer's groups of them."""
    params = dict(twin.named_parameters())
    held = [param for group in optimizer.param_groups for param in group["params"]]
    names = {id(param): name for name, param in params.items()}
    times = collections.Counter(map(id, held))
    wrong = [
        f"{name} is in the param groups {times[number]} times, expected once"
        for number, name in names.items()
        if times[number] != 1
    ]
    wrong += [
        f"a tensor {tuple(param.shape)} in a param group is not the twin's"
        for param in held
        if id(param) not in names
    ]
    for option, reason in _WITHOUT_EQUAL.items():
        if any(group.get(option) for group in optimizer.param_groups):
            wrong.append(f"{option} has no equal in optax: {reason}")
    return params, wrong


def _mismatches(
    arrays: Mapping[str, np.ndarray], params: Mapping[str, Tensor], moments: Mapping[str, str]
) -> list[str]:
    """What keeps moments from being the parameters', of whose shapes and dtypes each must be."""
    by_key = {f"{field}.{name}": p for field in moments for name, p in params.items()}
    wrong = []
    try:
        layout.convert(arrays, {key: tuple(param.shape) for key, param in by_key.items()})
    except InputError as error:
        wrong.append(str(error).removeprefix("parameters don't fit: "))
    dtypes = {
        (arrays[key].dtype.name, str(param.dtype).removeprefix("torch.")): key
        for key, param in by_key.items()
        if key in arrays
    }
    wrong += [
        f"{key} is {found}, the twin's parameter is {expected}"
        for (found, expected), key in dtypes.items()
        if found != expected
    ]
    return wrong


def _raise(wrong: list[str]) -> None:
    if wrong:
        raise InputError(f"the optimizers don't fit: {'; '.join(wrong)}")
