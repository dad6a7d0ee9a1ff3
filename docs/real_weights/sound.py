"""Exercises on sound: a speaker's voice, beats in music, speech or none.

Each takes the path of the weights in the unpacked release and gives an ``Outcome``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import torch
from comparison import Arrays, Outcome, layer_in_layout, layer_of, same_bits
from releases import load_code, load_onnx
from signals import SAMPLE_RATE, conv1d, drums, filterbank, linear, relu, sigmoid, softmax, voice


def resemblyzer(path: Path) -> Outcome:
    """A speaker's voice to 256 numbers: LSTM of three layers, linear, relu, length 1."""
    settings = load_code(path.parent / "hparams.py", "resemblyzer.hparams")
    package = mock.MagicMock()  # its audio module wants librosa and webrtcvad
    stand_ins = {"resemblyzer": package, "resemblyzer.hparams": settings}
    code = load_code(path.parent / "voice_encoder.py", "resemblyzer.voice_encoder", stand_ins)
    reference = code.VoiceEncoder("cpu", verbose=False, weights_fpath=path)
    weights = torch.load(path, weights_only=True, map_location="cpu")["model_state"]

    low, high = (110, 0.95), (205, 1.15)
    waves = [voice(*low), voice(*low, seed=1), voice(*high)]
    mels = np.stack([filterbank(wave, SAMPLE_RATE, 400, 160, 40)[:160] for wave in waves])

    lstm = layer_of(weights, "lstm", batch_first=True)
    y, (h_n, c_n) = lstm.module(mels)
    embeddings = relu(linear(h_n[-1], weights["linear.weight"], weights["linear.bias"]))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    with torch.no_grad():
        wanted_y, (wanted_h, wanted_c) = reference.lstm(torch.from_numpy(mels))
        wanted = reference(torch.from_numpy(mels))
    pairs = {"embedding": (embeddings, wanted), "output": (y, wanted_y)}
    pairs |= {"h_n": (h_n, wanted_h), "c_n": (c_n, wanted_c)}
    same, other = embeddings[0] @ embeddings[1:].T
    remark = f"cosine of two recordings of one voice {same:.2f}, of two voices {other:.2f}"
    return Outcome([lstm], pairs, remark=remark)


def beatnet(path: Path) -> Outcome:
    """Beats in music, as it arrives: convolution, LSTM of two layers with a carried state."""
    weights = torch.load(path, weights_only=True, map_location="cpu")
    code = load_code(path.parent.parent / "model.py", "beatnet_model")
    reference = code.BDA(272, 150, 2, "cpu")
    reference.load_state_dict(weights)

    bands = np.log10(1 + filterbank(drums(), 22_050, 1411, 441, 136))
    rises = relu(np.diff(bands, axis=0, prepend=bands[:1]))
    features = np.concatenate([bands, rises], axis=1)[None]

    lstm = layer_of(weights, "lstm", batch_first=True)
    state = lstm.module.initial_state(1)
    ours, wanted = [], []
    for x in np.split(features, range(50, features.shape[1], 50), axis=1):
        convolved = relu(conv1d(x[0][:, None], weights["conv1.weight"], weights["conv1.bias"]))
        pooled = np.maximum(convolved[:, :, :-1:2], convolved[:, :, 1::2])
        flat = pooled.reshape(1, x.shape[1], -1)
        narrow = linear(flat, weights["linear0.weight"], weights["linear0.bias"])
        y, state = lstm.module(narrow, state)
        ours.append(linear(y, weights["linear.weight"], weights["linear.bias"]).swapaxes(1, 2))
        with torch.no_grad():
            wanted.append(reference(torch.from_numpy(x)))
    logits = np.concatenate(ours, axis=2)
    pairs = {
        "activations": (logits, np.concatenate(wanted, axis=2)),
        "carried h": (state[0], reference.hidden),
        "carried c": (state[1], reference.cell),
    }
    beat = 1 - softmax(logits[0].T)[:, 2]  # the classes: beat, first beat of a bar, neither
    peaks = np.flatnonzero((beat[1:-1] > 0.5) & (beat[1:-1] >= np.maximum(beat[:-2], beat[2:])))
    apart = np.median(np.diff(peaks)) * 441 / 22_050
    remark = f"{len(ours)} chunks, the state carried; finds beats {apart:.2f} s apart"
    return Outcome([lstm], pairs, remark=remark)


def silero_cell(path: Path) -> Outcome:
    """Is it speech, as it arrives: convolutions, one LSTM cell; three voices and noise at once."""
    session, weights = load_onnx(path)
    voices = [voice(pitch, size) for pitch, size in ((110, 1.0), (180, 1.1), (205, 1.15))]
    frames = _frames([*voices, 0.02 * np.random.default_rng(0).standard_normal(48_000)])
    cell = layer_of(weights, "model.decoder.rnn")
    step = jax.jit(lambda x, state: cell.module(x, state))

    state = tuple(jnp.zeros((2, frames.shape[1], 128)))
    wanted_state = np.zeros((2, frames.shape[1], 128), np.float32)
    ours, wanted, rate = [], [], np.array(SAMPLE_RATE)
    for frame in frames:
        x = _encode(frame, weights, "model.stft", "model.encoder.{}.reparam_conv")
        state = step(x, state)
        ours.append(_decode(state[0], weights, "model.decoder.decoder.2"))
        given = {"input": frame, "state": wanted_state, "sr": rate}
        result, wanted_state = session.run(["output", "stateN"], given)
        wanted.append(result)
    pairs = {"probability": (np.stack(ours), np.stack(wanted)), "state": (state, wanted_state)}
    highest = np.stack(ours).max(axis=(0, 2))
    remark = f"speech up to {highest[:3].min():.2f} in synthetic voices, {highest[3]:.2f} in noise"
    return Outcome([cell], pairs, remark=remark)


def silero_sequence(path: Path) -> Outcome:
    """The same weights in an ONNX LSTM node, in its gate order, over the whole recording."""
    session, weights = load_onnx(path)
    _, named = load_onnx(path.parent / "silero_vad_16k_op15.onnx")
    node = {"W": "onnx::LSTM_209", "R": "onnx::LSTM_210", "B": "onnx::LSTM_211"}
    lstm = layer_in_layout("onnx.LSTM", {key: weights[name] for key, name in node.items()})
    same = all(
        same_bits(array, named[f"model.decoder.rnn.{name.removesuffix('_l0')}"])
        for name, array in lstm.arrays.items()
    )

    frames = _frames([voice(180, 1.1)])[:, 0]
    y, (h, c) = lstm.module(_encode(frames, weights, "stft", "encoder.{}")[:, None])
    probability = _decode(y[:, 0], weights, "output")[:, 0]
    zeros = np.zeros((1, 1, 128), np.float32)
    wanted = session.run(["speech_probs", "hn", "cn"], {"input": frames, "h": zeros, "c": zeros})
    both = zip((probability, h, c), wanted, strict=True)
    pairs = dict(zip(["probability", "h_n", "c_n"], both, strict=True))
    return Outcome([lstm], pairs, {"the same bits as under torch's names in its op15 file": same})


def _frames(waves: Sequence[np.ndarray]) -> np.ndarray:
    """Steps of 512 samples, each with the 64 before it: (T, B, 576)."""
    batch = np.pad(np.stack(waves).astype(np.float32), ((0, 0), (64, 512)))
    windows = np.lib.stride_tricks.sliding_window_view(batch, 576, axis=1)[:, ::512]
    return np.ascontiguousarray(windows.swapaxes(0, 1))


def _encode(x: np.ndarray, weights: Arrays, transform: str, convolution: str) -> np.ndarray:
    """(N, 576) samples to (N, 128) features: magnitudes of a Fourier transform, convolutions."""
    padded = np.pad(x, ((0, 0), (0, 64)), "reflect")[:, None]
    spectrum = conv1d(padded, weights[f"{transform}.forward_basis_buffer"], stride=128)
    real, imaginary = np.split(spectrum, 2, axis=1)
    y = np.sqrt(real**2 + imaginary**2)
    for i, stride in enumerate((1, 2, 2, 1)):
        name = convolution.format(i)
        y = np.pad(y, ((0, 0), (0, 0), (1, 1)))
        y = relu(conv1d(y, weights[f"{name}.weight"], weights[f"{name}.bias"], stride))
    return y[:, :, 0]


def _decode(h: Any, weights: Arrays, output: str) -> np.ndarray:
    """The probability of speech by the hidden state."""
    weight, bias = weights[f"{output}.weight"], weights[f"{output}.bias"]
    return sigmoid(linear(relu(h), weight[:, :, 0], bias))
