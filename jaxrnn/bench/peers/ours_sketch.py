"""jaxrnn's sketch-rnn as ``jaxrnn.train sketch`` trains it, without recurrent dropout."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxrnn.bench.peers import Session
from jaxrnn.bench.peers.in_jax import arrays
from jaxrnn.bench.peers.ours import training
from jaxrnn.bench.workloads import Drawing, data, parameters
from jaxrnn.config import SketchConfig
from jaxrnn.models import skeleton_of
from jaxrnn.tasks.sketch import SketchTask

KL_WEIGHT = 0.5


def noise(drawing: Drawing) -> np.ndarray:
    """(B, Z): by which the latent vectors of the comparison are drawn."""
    shape = (drawing.batch_size, drawing.latent_size)
    return np.asarray(jax.random.normal(nnx.Rngs(latent=0).latent(), shape))


def config_of(drawing: Drawing) -> SketchConfig:
    """The options of such a training."""
    return SketchConfig(
        batch_size=drawing.batch_size,
        hidden_size=drawing.hidden_size,
        encoder_size=drawing.encoder_size,
        latent_size=drawing.latent_size or 1,
        num_mixtures=drawing.num_mixtures,
        conditional=drawing.latent_size > 0,
        recurrent_dropout=0.0,
        max_len=drawing.num_steps,
        clip_value=drawing.clip,
        lr=drawing.lr,
        schedule="constant",
        # The latent vector's cost counts from the first step on, however small.
        kl_weight_start=KL_WEIGHT,
        kl_weight=KL_WEIGHT,
        kl_floor=0.0,
    )


def session(drawing: Drawing) -> Session:
    """Training in dispatches of several steps."""
    params = {name: jnp.asarray(array) for name, array in parameters(drawing).items()}
    config = config_of(drawing)
    task = SketchTask(config, ("drawing",), 1.0, drawing.num_steps)
    skeleton = skeleton_of(nnx.eval_shape(lambda: task.model(nnx.Rngs(0))))

    def batches(count):
        strokes, lengths = data(drawing, count)
        return (strokes, lengths, np.zeros_like(lengths)), ()

    def check():
        inputs = jax.tree.map(lambda a: jnp.asarray(a[0]), batches(1)[0])

        def loss(params):
            model = skeleton.merge(params)
            value, _ = task.loss(model, inputs, (), (), nnx.Rngs(latent=0), jnp.int32(0))
            return value, model(*inputs, rngs=nnx.Rngs(latent=0))[0]

        grads, outputs = jax.jit(jax.grad(loss, has_aux=True))(params)
        return np.asarray(outputs), arrays(grads)

    return training(config, task.loss, skeleton, params, (), batches, check)
