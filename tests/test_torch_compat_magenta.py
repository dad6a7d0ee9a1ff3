"""sketch-rnn-js's JSON: read, run as its pages run it, written back to the byte."""

import base64
import json
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tolerances import assert_close

from jaxrnn.errors import InputError
from jaxrnn.models import split
from jaxrnn.models.sketch_rnn import SketchRNN
from torch_compat import magenta

H, E, Z, M = 6, 4, 3, 20
INFO = {"name": "cat", "mode": 2, "version": 6, "max_seq_len": 20, "scale_factor": 50.5}
DECODER = [(H, 3 + 6 * M), (3 + 6 * M,), (5, 4 * H), (H, 4 * H), (4 * H,)]
ENCODER = [
    *[(5, 4 * E), (E, 4 * E), (4 * E,)] * 2,
    *[(2 * E, Z), (Z,), (2 * E, Z), (Z,), (Z, 2 * H), (2 * H,)],
]
VAE = [*ENCODER, *DECODER[:2], (5 + Z, 4 * H), *DECODER[3:]]


def file_of(shapes, **changes):
    rng = np.random.default_rng(0)
    blobs = [rng.integers(-4000, 4000, shape).astype("<i2") for shape in shapes]
    texts = [base64.b64encode(blob.tobytes()).decode() for blob in blobs]
    arrays = [blob.astype(np.float64) * 10 / 32767 for blob in blobs]
    return json.dumps([INFO | changes, [list(s) for s in shapes], texts]).encode(), arrays


def cell(x, h, c, weights):
    """A step as sketch-rnn-js computes it."""
    w_xh, w_hh, bias = weights
    i, g, f, o = np.split(np.concatenate([x, h]) @ np.concatenate([w_xh, w_hh]) + bias, 4)
    i, f, o = (1 / (1 + np.exp(-gate)) for gate in (i, f + 1, o))
    c = c * f + np.tanh(g) * i
    return np.tanh(c) * o, c


def model_of(read):
    model = SketchRNN(**read.arguments, rngs=nnx.Rngs(0), param_dtype=jnp.float64)
    model.eval()
    skeleton, params = split(model)
    assert {k: v.shape for k, v in params.items()} == {k: v.shape for k, v in read.arrays.items()}
    return skeleton.merge({k: jnp.asarray(v, jnp.float64) for k, v in read.arrays.items()})


def points_of(num_points):
    rng = np.random.default_rng(1)
    pen = np.eye(3)[rng.integers(0, 2, num_points)]
    return np.concatenate([rng.normal(size=(num_points, 2)), pen], axis=1)


def test_a_decoder_computes_what_its_pages_compute():
    data, (w, b, *lstm) = file_of(DECODER)
    read = magenta.read(data)
    assert read.arguments == {
        **{"decoder": "lstm", "hidden_size": H, "num_mixtures": M, "conditional": False},
    }
    assert read.info == INFO
    points = points_of(4)
    model = model_of(read)
    outputs, _ = model.decode(jnp.asarray(points[None]), None, model.initial_state(None, 1))
    h, c = np.zeros(H), np.zeros(H)
    for k, point in enumerate(points):
        h, c = cell(point, h, c, lstm)
        assert_close(outputs[0, k], h @ w + b, "float32")


def test_a_variational_model_computes_what_its_pages_compute():
    data, arrays = file_of(VAE, mode=1)
    forward, backward = arrays[0:3], arrays[3:6]
    mu_w, mu_b, sigma_w, sigma_b, initial_w, initial_b, w, b, *lstm = arrays[6:]
    read = magenta.read(data)
    assert read.arguments["conditional"]
    assert (read.arguments["encoder_size"], read.arguments["latent_size"]) == (E, Z)
    model, points = model_of(read), points_of(4)
    ends = []
    for weights, sequence in ((forward, points), (backward, points[::-1])):
        h, c = np.zeros(E), np.zeros(E)
        for point in sequence:
            h, c = cell(point, h, c, weights)
        ends.append(h)
    both = np.concatenate(ends)
    mu, presig = model.encode(jnp.asarray(points[None]), jnp.array([4]))
    assert_close(mu[0], both @ mu_w + mu_b, "float32")
    assert_close(presig[0], both @ sigma_w + sigma_b, "float32")
    z = np.asarray(mu[0])
    context = model.context(jnp.asarray(z[None]))
    c, h = np.split(np.tanh(z @ initial_w + initial_b), 2)
    outputs, _ = model.decode(jnp.asarray(points[None]), context, model.initial_state(context, 1))
    for k, point in enumerate(points):
        h, c = cell(np.concatenate([point, z]), h, c, lstm)
        assert_close(outputs[0, k], h @ w + b, "float32")


@pytest.mark.parametrize(("shapes", "mode"), [(DECODER, 2), (VAE, 1)])
def test_what_was_read_is_written_back_to_the_byte(shapes, mode):
    data, _ = file_of(shapes, mode=mode)
    read = magenta.read(data)
    assert magenta.write(read.arrays, read.info) == data


def test_a_model_of_ours_survives_to_the_steps_of_the_form():
    sizes: Any = {"hidden_size": H, "encoder_size": E, "latent_size": Z, "num_mixtures": M}
    model = SketchRNN(**sizes, rngs=nnx.Rngs(1))
    arrays = {k: np.asarray(v) for k, v in split(model)[1].items()}
    bias_hh = 0.01 * np.arange(4 * H, dtype=np.float32)  # of which the form has no place
    arrays["decoder.bias_hh_l0"] = bias_hh
    read = magenta.read(magenta.write(arrays, INFO))
    folded = magenta.folded(arrays)
    arrays["decoder.bias_ih_l0"] = arrays["decoder.bias_ih_l0"] + bias_hh
    arrays["decoder.bias_hh_l0"] = 0 * bias_hh
    assert {k: v.tolist() for k, v in folded.items()} == {k: v.tolist() for k, v in arrays.items()}
    assert read.arrays.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_allclose(read.arrays[name], array, atol=magenta.STEP / 2 + 1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m[:2], "not a model of sketch-rnn-js"),
        (lambda m: [{}, *m[1:]], "KeyError.*version"),
        (lambda m: [m[0] | {"scale_factor": 0}, *m[1:]], "scale_factor is 0.0"),
        (lambda m: [m[0] | {"scale_factor": "x"}, *m[1:]], "not a model of sketch-rnn-js"),
        (lambda m: [m[0] | {"scale_factor": 1e300}, *m[1:]], "at most 100,000,000"),
        (lambda m: [m[0] | {"scale_factor": 10**400}, *m[1:]], "not a model of sketch-rnn-js"),
        (lambda m: [m[0] | {"max_seq_len": np.inf}, *m[1:]], "OverflowError"),
        (lambda m: [m[0] | {"name": "\ud800"}, *m[1:]], "its name is .*, expected a word"),
        (lambda m: [m[0], [[np.inf], *m[1][1:]], m[2]], "OverflowError"),
        (lambda m: [m[0], m[1], [*m[2][:4], "ü" * 64]], "decoder bias is not base64"),
        (lambda m: [m[0], m[1][:3], m[2]], "has 3 shapes and 5 arrays"),
        (lambda m: [m[0], m[1], [*m[2][:4], "?"]], "decoder bias is not base64"),
        (lambda m: [m[0], m[1], [*m[2][:4], m[2][4][:8]]], "decoder bias has 6 bytes"),
        (lambda m: [m[0], [*m[1][:4], [0]], m[2]], r"decoder bias has the shape \(0,\)"),
        (lambda m: [m[0], [[123, 6], *m[1][1:]], m[2]], "output_w has 6 columns"),
        (lambda m: [m[0], [*m[1][:4], [6, 4]], m[2]], r"decoder bias is \(6, 4\), expected"),
    ],
)
def test_what_is_no_such_model_is_refused(change, message):
    data, _ = file_of(DECODER)
    with pytest.raises(InputError, match=f"cat.json.*{message}"):
        magenta.read(json.dumps(change(json.loads(data))).encode(), "cat.json")
    for text in (b"", b"\xff", b"[" * 100_000, b'{"a": 1}', b"null"):
        with pytest.raises(InputError, match="not a model of sketch-rnn-js"):
            magenta.read(text)


def test_what_the_form_can_not_hold_is_refused():
    read = magenta.read(file_of(DECODER)[0])
    large = read.arrays | {"output.bias": read.arrays["output.bias"] + 11}
    with pytest.raises(InputError, match=r"output_b reaches 1.*holds weights up to 10"):
        magenta.write(large, INFO)
    few = read.arrays | {"output.bias": read.arrays["output.bias"][: 3 + 6 * 5]}
    with pytest.raises(InputError, match="reads 20 Gaussians, the model has 5"):
        magenta.write(few, INFO)
    with pytest.raises(InputError, match="no classes"):
        magenta.write(read.arrays | {"classes.weight": np.zeros((2, 3))}, INFO)
    with pytest.raises(InputError, match="LSTM decoders alone"):
        magenta.write({"output.bias": read.arrays["output.bias"]}, INFO)
    old, _ = file_of(VAE, mode=1, version=5)
    with pytest.raises(InputError, match="version 5, expected 6"):
        magenta.read(old)
