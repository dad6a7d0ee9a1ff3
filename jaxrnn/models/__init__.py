"""Whole models, and how hot loops hold one: a fixed skeleton and a flat dict of parameters.

The dict's keys are torch's names (``rnn.weight_ih_l0``, ``decoder.bias``), so that checkpoints,
optimizer moments and exports all speak of a parameter by the same name. Usage::

    skeleton, params = split(model)
    loss = jax.jit(lambda params: loss_of(skeleton.merge(params)))(params)
"""

from __future__ import annotations

import dataclasses
from typing import Any, Generic, TypeVar

from flax import nnx
from jaxtyping import Array

Params = dict[str, Array]
Model = TypeVar("Model", bound=nnx.Module)


@dataclasses.dataclass(frozen=True, eq=False)
class Skeleton(Generic[Model]):
    """A model without its parameters, in training or evaluation mode as it was split.

    Hashed by identity, so that it can be a static argument of jitted functions.
    """

    graphdef: nnx.GraphDef[Model]
    paths: dict[str, tuple[Any, ...]]
    rest: Any

    def merge(self, params: Params) -> Model:
        """The model with these parameters; cheap enough for the inside of a jitted function."""
        state = nnx.from_flat_state([(self.paths[k], nnx.Param(v)) for k, v in params.items()])
        return nnx.merge(self.graphdef, state, self.rest)


def skeleton_of(model: Model) -> Skeleton[Model]:
    """A model's skeleton; its parameters may be shapes alone, as ``nnx.eval_shape`` makes them."""
    graphdef, state, rest = nnx.split(model, nnx.Param, ...)
    paths = {".".join(map(str, path)): path for path, _ in nnx.to_flat_state(state)}
    return Skeleton(graphdef, paths, rest)


def split(model: Model) -> tuple[Skeleton[Model], Params]:
    """A model's skeleton and its parameters by torch's names."""
    params = nnx.to_flat_state(nnx.state(model, nnx.Param))
    return skeleton_of(model), {".".join(map(str, path)): param[...] for path, param in params}
