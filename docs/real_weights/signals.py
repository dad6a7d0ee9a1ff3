"""Inputs like those that the models were trained on, and the few operations around their layers.

NumPy alone: what is compared is the recurrence. Usage::

    mels = filterbank(voice(110, 0.95), SAMPLE_RATE, window=400, hop=160, bands=40)
"""

from __future__ import annotations

from typing import Any

import numpy as np

SAMPLE_RATE = 16_000  # Hz, of the voices


def voice(pitch: float, size: float, seconds: float = 3.0, seed: int = 0) -> np.ndarray:
    """Vowels in a row with pauses: harmonics of ``pitch`` (Hz), formants scaled by ``size``."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    turns = 2 * np.pi * time
    glide = pitch * (1 + 0.12 * np.sin(0.7 * turns) + 0.02 * np.sin(5 * turns))
    phase = 2 * np.pi * np.cumsum(glide) / SAMPLE_RATE
    vowels = np.array([[730, 1090, 2440], [270, 2290, 3010], [300, 870, 2240], [530, 1840, 2480]])
    anchors = vowels[rng.integers(4, size=int(seconds * 8) + 1)] * size
    formants = [np.interp(time * 8, np.arange(len(anchors)), anchors[:, f]) for f in range(3)]
    wave = np.zeros_like(time)
    for harmonic in range(1, int(4000 / pitch)):
        frequency = harmonic * glide
        gain = sum(1 / (1 + ((frequency - f) / (60 + 0.06 * f)) ** 2) for f in formants)
        wave += gain * np.sin(harmonic * phase) / harmonic
    syllables = np.clip(3 * np.sin(2.1 * turns), 0, 1) * (np.sin(turns / 2) > -0.6)
    wave = wave * syllables + 0.003 * rng.standard_normal(len(time))
    return (0.3 * wave / np.abs(wave).max()).astype(np.float32)


def drums(seconds: float = 6.0, rate: int = 22_050) -> np.ndarray:
    """A kick drum each half second (120 beats a minute) and a hi-hat between."""
    rng = np.random.default_rng(0)
    time = np.arange(int(seconds * rate)) / rate
    kick = np.sin(2 * np.pi * 60 * (time % 0.5)) * np.exp(-18 * (time % 0.5))
    hat = rng.standard_normal(len(time)) * np.exp(-60 * ((time + 0.25) % 0.5))
    return (kick * np.where(time % 2 < 0.5, 1.0, 0.6) + 0.2 * hat).astype(np.float32)


def filterbank(wave: np.ndarray, rate: int, window: int, hop: int, bands: int) -> np.ndarray:
    """Power in triangular bands evenly spaced on the mel scale: (frames, bands)."""
    frames = np.lib.stride_tricks.sliding_window_view(wave, window)[::hop] * np.hanning(window)
    power = np.abs(np.fft.rfft(frames)) ** 2
    mel = np.linspace(0, 2595 * np.log10(1 + rate / 2 / 700), bands + 2)
    edges = 700 * (10 ** (mel / 2595) - 1)
    frequency = np.fft.rfftfreq(window, 1 / rate)[:, None]
    rising = (frequency - edges[:-2]) / np.diff(edges)[:-1]
    falling = (edges[2:] - frequency) / np.diff(edges)[1:]
    triangles = relu(np.minimum(rising, falling)) * 2 / (edges[2:] - edges[:-2])
    return (power @ triangles).astype(np.float32)


def linear(x: Any, weight: Any, bias: Any) -> np.ndarray:
    """``x W^T + b``."""
    return np.asarray(x) @ np.asarray(weight).T + np.asarray(bias)


def conv1d(x: np.ndarray, weight: Any, bias: Any = 0, stride: int = 1) -> np.ndarray:
    """A convolution without padding: x (B, C, T), weight (out, C, K)."""
    windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2], axis=2)[:, :, ::stride]
    y = np.einsum("bctk,ock->bot", windows, np.asarray(weight), optimize=True)
    return y + np.asarray(bias, y.dtype)[..., None]


def relu(x: Any) -> np.ndarray:
    """``max(x, 0)``."""
    return np.maximum(x, 0)


def sigmoid(x: Any) -> np.ndarray:
    """``1 / (1 + e^-x)``."""
    return 1 / (1 + np.exp(-np.asarray(x)))


def softmax(x: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    exponentials = np.exp(x - x.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)
