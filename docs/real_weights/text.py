"""Exercises on text: letters to sounds, Chinese characters to sounds, the next letter, spelling.

Each takes the path of the weights in the unpacked release and gives an ``Outcome``.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from comparison import Arrays, Outcome, layer_in_layout, layer_of
from releases import load_code, load_hdf5, unpickle
from signals import linear, relu, softmax

os.environ.setdefault("KERAS_BACKEND", "jax")  # read once, when Keras is imported


def g2p_en(path: Path) -> Outcome:
    """Letters to sounds of English: GRU as encoder, GRU cell as decoder."""
    unused = ["nltk", "nltk.corpus", "nltk.tokenize", "g2p_en", "g2p_en.expand"]
    stand_ins = {name: mock.MagicMock() for name in unused}
    reference = load_code(path.parent / "g2p.py", "g2p_en.g2p", stand_ins).G2p()
    with np.load(path, allow_pickle=False) as file:
        weights = dict(file)

    def part(prefix: str) -> list[np.ndarray]:
        return [weights[f"{prefix}_{name}"] for name in ("w_ih", "w_hh", "b_ih", "b_hh")]

    names = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]
    decoder = layer_of(dict(zip(names, part("dec"), strict=True)))
    stacked = [f"{name}_l0" for name in names]
    encoder = layer_of(dict(zip(stacked, part("enc"), strict=True)), batch_first=True)

    words = ["recurrence", "jaxrnn", "activationist", "flibbertigibbet", "backpropagation"]
    pairs, spoken = {}, []
    for word in words:
        letters = reference.encode(word)
        wanted_y = reference.gru(letters, letters.shape[1], *part("enc"))
        y, h = encoder.module(letters)
        state, wanted_state = h[0], wanted_y[:, -1]
        phonemes, ours, wanted, symbol = [], [], [], 2  # 2 begins, 3 ends
        for _ in range(20):
            x = weights["dec_emb"][[symbol]]
            state = decoder.module(x, state)
            wanted_state = reference.grucell(x, wanted_state, *part("dec"))
            ours.append(linear(state, weights["fc_w"], weights["fc_b"]))
            wanted.append(linear(wanted_state, weights["fc_w"], weights["fc_b"]))
            symbol = int(ours[-1].argmax())
            if symbol == 3:
                break
            phonemes.append(reference.idx2p[symbol])
        spoken.append(phonemes)
        pairs[f"{word}: encoder"] = (y, wanted_y)
        pairs[f"{word}: logits"] = (np.concatenate(ours), np.concatenate(wanted))
    same = spoken == [reference.predict(word) for word in words]
    remark = f"{words[0]} is {' '.join(spoken[0])}, {words[1]} is {' '.join(spoken[1])}"
    return Outcome([encoder, decoder], pairs, {"the same phonemes as its predict()": same}, remark)


def g2pm(path: Path) -> Outcome:
    """Which of its sounds a Chinese character has here: LSTM in both directions, lengths."""
    code = load_code(path.parent / "g2pM.py", "g2pM_model")
    weights = unpickle(path)
    reference = code.G2pM.__new__(code.G2pM)  # its constructor unpickles with no restriction
    reference.load_variable(weights)
    symbols = unpickle(path.parent / "char2idx.pkl")
    sounds = {index: sound for sound, index in unpickle(path.parent / "class2idx.pkl").items()}

    sentences = ["他长大以后还要还钱", "他长大以后还要还钱", "我们重新开始", "大家的视线"]
    targets = [5, 7, 2, 2]  # the places of 还 (twice), 重 and 的
    lengths = np.array([len(sentence) + 2 for sentence in sentences])
    ids = np.zeros((len(sentences), max(lengths)), np.int32)  # 0 pads
    for row, sentence in zip(ids, sentences, strict=True):
        marked = [code.BOS_TOKEN, *sentence, code.EOS_TOKEN]
        row[: len(marked)] = [symbols.get(c, symbols[code.UNK_TOKEN]) for c in marked]
    positions = np.array(targets) + 1  # behind the mark of the beginning

    lstm = layer_of(weights, "lstm", batch_first=True)
    y, _ = lstm.module(weights["embedding.weight"][ids], lengths=lengths)
    hidden = np.asarray(y)[np.arange(len(ids)), positions]
    layers = [[weights[f"logit_layer.{i}.{n}"] for n in ("weight", "bias")] for i in (0, 2)]
    logits = linear(relu(linear(hidden, *layers[0])), *layers[1])

    with mock.patch.object(reference, "fc_layer", wraps=reference.fc_layer) as last:
        chosen = reference.predict(ids, positions)
    wanted_hidden = last.call_args.args[0]
    wanted = reference.fc_layer(wanted_hidden)
    pairs = {"hidden": (hidden, wanted_hidden), "logits": (logits, wanted)}
    same = bool((logits.argmax(1) == chosen).all())
    read = [f"{s[t]} {sounds[int(i)]}" for s, t, i in zip(sentences, targets, chosen, strict=True)]
    remark = f"in {sentences[0]}, {read[0]}, then {read[1]}"
    return Outcome([lstm], pairs, {"the same sounds as its predict()": same}, remark)


def textgenrnn(path: Path) -> Outcome:
    """The next character of a post: two LSTM layers, attention over both and the embedding."""
    import keras

    weights = load_hdf5(path)
    vocabulary = json.loads((path.parent / "textgenrnn_vocab.json").read_text(encoding="utf-8"))
    characters = {index: character for character, index in vocabulary.items()}

    ours, reference = [], []
    for arrays in (weights["rnn_1"], weights["rnn_2"]):
        ours.append(layer_in_layout("keras.CuDNNLSTM", arrays, batch_first=True))
        layer = keras.layers.LSTM(128, return_sequences=True)
        layer.build((None, None, len(arrays["kernel:0"])))
        layer.set_weights(_cudnn_to_keras(arrays))
        reference.append(layer)

    def run(ids: np.ndarray, layers: Sequence[Callable[[Any], Any]]) -> list[np.ndarray]:
        outputs = [weights["embedding"]["embeddings:0"][ids]]
        for layer in layers:
            outputs.append(np.asarray(layer(outputs[-1])))
        joined = np.concatenate(outputs, axis=2)
        attention = softmax((joined @ weights["attention"]["attention_W:0"])[:, :, 0])
        summary = (joined * attention[:, :, None]).sum(axis=1)
        logits = summary @ weights["output"]["kernel:0"] + weights["output"]["bias:0"]
        return [*outputs[1:], softmax(logits)]

    layers = [lambda x, layer=layer: layer.module(x)[0] for layer in ours]
    texts = ["What is the best way to learn", "My dog just found out that he is", "TIL that the"]
    ids = np.zeros((len(texts), 40), np.int32)  # padded before the text
    for row, text in zip(ids, texts, strict=True):
        row[-len(text) :] = [vocabulary[c] for c in text]
    names = ["output of rnn_1", "output of rnn_2", "probabilities"]
    pairs = dict(zip(names, zip(run(ids, layers), run(ids, reference), strict=True), strict=True))

    rng, row = np.random.default_rng(0), ids[:1]
    for _ in range(40):
        sharper = run(row[:, -40:], layers)[-1][0].astype(np.float64) ** 2  # temperature 0.5
        row = np.append(row, [[rng.choice(len(sharper), p=sharper / sharper.sum())]], axis=1)
    written = "".join(characters.get(int(i), "") for i in row[0, -40:])
    return Outcome(ours, pairs, remark=f"{texts[0]!r} goes on {written!r}")


def _cudnn_to_keras(arrays: Arrays) -> list[np.ndarray]:
    """Kernel, recurrent kernel and bias of ``CuDNNLSTM`` as Keras 2 made them those of ``LSTM``."""
    kernels = np.split(arrays["kernel:0"], 4, axis=1)
    kernel = np.hstack([k.T.reshape(k.shape, order="F") for k in kernels])
    recurrent = np.hstack([k.T for k in np.split(arrays["recurrent_kernel:0"], 4, axis=1)])
    return [kernel, recurrent, np.add(*np.split(arrays["bias:0"], 2))]


def chars2vec(path: Path) -> Outcome:
    """Words to 100 numbers by their spelling: two LSTM layers over one-hot characters."""
    import keras

    code = load_code(path.parents[2] / "model.py", "chars2vec_model", {"keras": keras})
    size, characters = unpickle(path.parent / "model.pkl")
    reference = code.Chars2Vec(size, characters)
    reference.embedding_model.load_weights(path)

    words = ["recurrent", "recurent", "reccurrent", "gate", "gates", "language"]
    with contextlib.redirect_stdout(io.StringIO()):  # its progress bar
        wanted = reference.vectorize_words(words)

    x = np.zeros((len(words), max(map(len, words)), len(characters)), np.float32)
    for row, word in zip(x, words, strict=True):  # padded before the word
        row[np.arange(-len(word), 0), [characters[c] for c in word]] = 1
    layers = [layer_in_layout("keras.LSTM", arrays, True) for arrays in load_hdf5(path).values()]
    first, second = layers
    _, (h, _) = second.module(first.module(x)[0])
    vectors = np.asarray(h[0])
    near, far = (float(np.linalg.norm(vectors[0] - vectors[i])) for i in (1, 5))
    remark = f"distance from 'recurrent': 'recurent' {near:.2f}, 'language' {far:.2f}"
    return Outcome(layers, {"vectors": (vectors, wanted)}, remark=remark)
