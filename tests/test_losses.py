import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from tolerances import assert_close

from jaxrnn import losses

B, T, V, NUM_OUTPUTS = 2, 3, 5, 4
RNG = np.random.default_rng(0)
LOGITS, LABELS = jnp.asarray(RNG.normal(size=(B, T, V))), jnp.asarray(RNG.integers(0, V, (B, T)))
PREDICTION, TARGETS = jnp.asarray(RNG.normal(size=(2, B, T, NUM_OUTPUTS)))
MASK = jnp.array([[True, False, True], [False, False, True]])


def test_cross_entropy_by_hand():
    logits = jnp.log(jnp.array([[[1.0, 1.0, 2.0], [1.0, 2.0, 1.0]]]))
    loss = losses.cross_entropy(logits, jnp.array([[2, 0]]))
    assert_close(loss, (np.log(2) + np.log(4)) / 2)
    masked = losses.cross_entropy(logits, jnp.array([[2, 0]]), jnp.array([[False, True]]))
    assert_close(masked, np.log(4))


def test_cross_entropy_and_its_gradient_are_torchs():
    logits = torch.tensor(np.array(LOGITS), requires_grad=True)
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), torch.tensor(np.array(LABELS)).ravel()
    )
    expected.backward()
    loss, grad = jax.value_and_grad(losses.cross_entropy)(LOGITS, LABELS)
    assert_close(loss, expected.item())
    assert_close(grad, logits.grad)


def test_errors_by_hand():
    prediction = jnp.array([[[1.0, 2.0], [0.0, 5.0]]])
    targets = jnp.array([[[2.0, 4.0], [0.0, 1.0]]])
    assert_close(losses.squared_error(prediction, targets), (2.5 + 8) / 2)
    assert_close(losses.absolute_error(prediction, targets), (1.5 + 2) / 2)
    mask = jnp.array([[True, False]])
    assert_close(losses.squared_error(prediction, targets, mask), 2.5)
    assert_close(losses.absolute_error(prediction, targets, mask), 1.5)


def test_errors_are_torchs():
    for ours, theirs in (
        (losses.squared_error, torch.nn.functional.mse_loss),
        (losses.absolute_error, torch.nn.functional.l1_loss),
    ):
        expected = theirs(torch.tensor(np.array(PREDICTION)), torch.tensor(np.array(TARGETS)))
        assert_close(ours(PREDICTION, TARGETS), expected)


@pytest.mark.parametrize(
    ("loss", "first", "second"),
    [
        (losses.cross_entropy, LOGITS, LABELS),
        (losses.squared_error, PREDICTION, TARGETS),
        (losses.absolute_error, PREDICTION, TARGETS),
    ],
)
def test_a_mask_gives_the_sum_over_it_whatever_stands_elsewhere(loss, first, second):
    each = [
        float(loss(first[b : b + 1, t : t + 1], second[b : b + 1, t : t + 1]))
        for b, t in zip(*np.nonzero(np.asarray(MASK)), strict=True)
    ]
    assert_close(loss(first, second, MASK), sum(each))
    poisoned = jnp.where(MASK[..., None], first, np.nan)
    assert_close(loss(poisoned, second, MASK), sum(each))
    everything = loss(first, second, jnp.ones_like(MASK))
    assert_close(everything / MASK.size, loss(first, second))
    assert float(loss(first, second, jnp.zeros_like(MASK))) == 0


def test_large_logits_stay_finite():
    logits = jnp.array([[[1e4, 0.0, -1e4]]], jnp.float32)
    losses_of = [float(losses.cross_entropy(logits, jnp.array([[k]]))) for k in range(3)]
    assert losses_of == [0.0, 1e4, 2e4]
    loss = losses.cross_entropy(logits, jnp.array([[2]]))
    assert loss.dtype == jnp.float32
