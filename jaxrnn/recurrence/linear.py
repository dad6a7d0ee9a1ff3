"""The recurrence ``h_t = a_t * h_(t-1) + b_t`` over a whole sequence, on plain time-major arrays.

Two steps combine into one of the same form, (a2 * a1, a2 * b1 + b2), so that all of them are
found in log2(T) rounds; or one after the other, as ``rules.associative_scan`` says. With a in 0..1
nothing overflows: a product of many shrinks to 0. The derivative is the same recurrence backwards,
of which a and h are all that is kept (arXiv 1709.04057). Usage::

    hs = run(a, b, h)                                          # a, b, hs (T, B, H), h (B, H)
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrnn import rules


def run(
    a: Float[Array, "T B H"], b: Float[Array, "T B H"], h: Float[Array, "B H"], backend: str
) -> Float[Array, "T B H"]:
    """h after every step, from ``h`` before the first; T >= 1, all of one dtype.

    ``backend`` is 'auto' or a name in ``BACKENDS``: 'associative' finds all steps at once, 'scan'
    one after the other; 'reference' is the latter without a derivative of its own, and the one to
    differentiate in forward mode.

    Raises ValueError for an unknown name.
    """
    if backend == "auto":
        parallel = rules.associative_scan(jax.default_backend())
        backend = "associative" if parallel else "scan"
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}, expected one of {['auto', *BACKENDS]}")
    if len(a) == 1:
        return a * h[None] + b
    return BACKENDS[backend](a, b, h)


def _all_at_once(a: Array, b: Array, h: Array, reverse: bool = False) -> Array:
    def combine(first, second):
        return second[0] * first[0], second[0] * first[1] + second[1]

    begin = -1 if reverse else 0
    b = b.at[begin].add(a[begin] * h)
    return jax.lax.associative_scan(combine, (a, b), reverse=reverse)[1]


def _one_by_one(a: Array, b: Array, h: Array, reverse: bool = False) -> Array:
    def step(h, inputs):
        a, b = inputs
        h = a * h + b
        return h, h

    return jax.lax.scan(step, h, (a, b), reverse=reverse)[1]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _solved(solve: Callable[..., Array], a: Array, b: Array, h: Array) -> Array:
    return solve(a, b, h)


def _forward(solve, a, b, h):
    hs = solve(a, b, h)
    return hs, (a, h, hs)


def _backward(solve, kept, dy):
    a, h, hs = kept
    following = jnp.concatenate([a[1:], jnp.zeros_like(a[:1])])
    dh = solve(following, dy, jnp.zeros_like(h), reverse=True)
    before = jnp.concatenate([h[None], hs[:-1]])
    return dh * before, dh, a[0] * dh[0]


_solved.defvjp(_forward, _backward)

BACKENDS: dict[str, Callable[[Array, Array, Array], Array]] = {
    "associative": functools.partial(_solved, _all_at_once),
    "scan": functools.partial(_solved, _one_by_one),
    "reference": _one_by_one,
}
"""Every way to run it, by name."""
