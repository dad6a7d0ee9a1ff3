"""Masks: how many, how independent, how reproducible."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxrnn.dropout import Dropout, keep_mask

SHAPE = (40, 50, 64)  # 128,000 elements: 5 standard deviations of a mean are 0.007 at most


def masks(num: int, keep: float, shape=SHAPE) -> np.ndarray:
    draw = jax.jit(lambda key: keep_mask(key, keep, shape))
    return np.stack([draw(jax.random.key(seed)) for seed in range(num)])


@pytest.mark.parametrize("keep", [0.5, 0.9, 0.25, 0.999])
def test_as_many_are_kept_as_said_in_every_row_and_column(keep):
    found = masks(4, keep).astype(float)
    deviation = np.sqrt(keep * (1 - keep))
    assert abs(found.mean() - keep) < 5 * deviation / np.sqrt(found.size)
    for axes in ((0, 1, 2), (0, 1, 3), (0, 2, 3)):  # of each feature, row, step
        means = found.mean(axes)
        count = found.size / means.size
        assert np.abs(means - keep).max() < 5 * deviation / np.sqrt(count)


def test_neighbours_and_keys_are_uncorrelated():
    found = masks(8, 0.5).astype(float) - 0.5
    limit = 5 * 0.25
    flat = found.reshape(8, -1)
    for a in range(8):
        for b in range(a):
            assert abs((flat[a] * flat[b]).mean()) < limit / np.sqrt(flat.shape[1])
    for lag in (1, 2, 3, 64, 64 * 50):  # the next feature, row, step
        assert abs((flat[:, lag:] * flat[:, :-lag]).mean()) < limit / np.sqrt(flat.size - lag * 8)


def test_a_mask_is_that_of_its_key_and_pinned():
    first, again = (keep_mask(jax.random.key(3), 0.5, (2, 3, 4)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    # A change here changes every run with dropout: then say so in the CHANGELOG.
    assert "".join(map(str, np.asarray(first).astype(int).ravel())) == "010110011000110001101010"
    assert not np.array_equal(first, keep_mask(jax.random.key(4), 0.5, (2, 3, 4)))


def test_a_mask_is_the_same_however_the_array_is_sharded():
    mesh = jax.make_mesh((2,), ("data",), (AxisType.Auto,), devices=jax.devices()[:2])
    whole = keep_mask(jax.random.key(0), 0.5, SHAPE)
    for spec in (P("data"), P(None, "data")):
        draw = jax.jit(
            lambda key: keep_mask(key, 0.5, SHAPE), out_shardings=NamedSharding(mesh, spec)
        )
        shared = draw(jax.random.key(0))
        assert len(shared.sharding.device_set) == 2
        np.testing.assert_array_equal(shared, whole)


def test_what_is_kept_is_scaled_and_so_is_its_gradient():
    drop, x = Dropout(0.75, rngs=nnx.Rngs(0)), jnp.arange(1.0, 1001.0)
    y = drop(x, rngs=nnx.Rngs(dropout=1))
    kept = np.asarray(y) != 0
    assert 150 < kept.sum() < 350
    np.testing.assert_array_equal(np.asarray(y)[kept], 4 * np.asarray(x)[kept])
    gradient = jax.grad(lambda x: drop(x, rngs=nnx.Rngs(dropout=1)).sum())(x)
    np.testing.assert_array_equal(gradient, np.where(kept, 4.0, 0.0))
    np.testing.assert_array_equal(drop(x, rngs=nnx.Rngs(dropout=1)["dropout"]) != 0, kept)


def test_modes_and_the_ends_of_the_range():
    x = jnp.ones(100)
    drop = Dropout(0.5, rngs=nnx.Rngs(0))
    assert not np.array_equal(drop(x), drop(x))
    drop.eval()
    np.testing.assert_array_equal(drop(x), x)
    drop.train()
    assert not np.array_equal(drop(x), x)
    np.testing.assert_array_equal(Dropout(0.0, rngs=nnx.Rngs(0))(x), x)
    np.testing.assert_array_equal(Dropout(1.0, rngs=nnx.Rngs(0))(x), 0 * x)
