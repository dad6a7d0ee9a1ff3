"""Our models in plain torch.nn, with jaxrnn's parameter names; torch and safetensors are needed.

``SketchRNN`` is in ``sketch_modules``, the blocks of ``MinCharLM`` in ``min_modules``, forecasters
of many steps in ``forecast_modules``. An export as
``module`` has the part of these files that its model needs as ``model.py``.

::

    model = torch_compat.load("exported")                      # or CharLM(65, "lstm", 256)
    logits, state = model(ids)                                 # ids (B, T), logits (B, T, V)
    print(model.decode(model.generate(model.encode("The "), 200)))
    forecast = model.inverse(model.forecast(model.transform(history), 24))
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from torch_compat.forecast_modules import (
    DirectForecaster,
    RecursiveForecaster,
    SegmentForecaster,
)
from torch_compat.min_modules import MinBlocks
from torch_compat.sketch_modules import SketchRNN

LAYERS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
"""The layers by the name of their cell, as options spell it."""


class CharLM(nn.Module):
    """Character language model: one-hot or embedding, recurrent layers, dropout, linear decoder.

    ``vocabulary`` is ``{"kind": "characters", "symbols": "\\n abc"}``, a symbol's id being its
    place, or ``{"kind": "bytes", "symbols": ""}`` with 256 ids; ``embedding_size`` 0 is one-hot.
    With ``tie_embeddings`` the decoder's weight is the embedding's, of ``hidden_size`` columns.
    """

    def __init__(
        self,
        num_symbols: int,
        cell: str = "lstm",
        hidden_size: int = 256,
        num_layers: int = 1,
        dropout: float = 0.0,
        embedding_size: int = 0,
        vocabulary: dict[str, str] | None = None,
        tie_embeddings: bool = False,
    ):
        super().__init__()
        if tie_embeddings and embedding_size != hidden_size:
            raise ValueError(
                f"embedding_size is {embedding_size}, expected hidden_size={hidden_size}: the "
                "decoder's weight is the embedding's"
            )
        self.arguments = {
            "num_symbols": num_symbols,
            "cell": cell,
            "hidden_size": hidden_size,
            "num_layers": num_layers,
            "dropout": dropout,
            "embedding_size": embedding_size,
        }
        if tie_embeddings:
            self.arguments["tie_embeddings"] = True
        self.num_symbols = num_symbols
        self.vocabulary = _checked_vocabulary(vocabulary, num_symbols)
        self.embedding = nn.Embedding(num_symbols, embedding_size) if embedding_size else None
        width = embedding_size or num_symbols
        self.rnn: Any = self.layers(cell, width, hidden_size, num_layers, dropout)
        self.dropout = nn.Dropout(dropout)
        self.decoder = nn.Linear(hidden_size, num_symbols)
        self.tie()

    def tie(self) -> None:
        """Make the decoder's weight the embedding's, where they are one."""
        if self.embedding is not None and self.arguments.get("tie_embeddings"):
            self.decoder.weight = self.embedding.weight

    def layers(
        self, cell: str, input_size: int, hidden_size: int, num_layers: int, dropout: float
    ) -> nn.Module:
        """What is between embedding and decoder."""
        return _layers(cell, input_size, hidden_size, num_layers, dropout)

    def forward(self, ids: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """ids (B, T) -> logits (B, T, V) and the state to go on from, as of ``torch.nn.LSTM``."""
        if self.embedding is None:
            x = functional.one_hot(ids.long(), self.num_symbols).to(self.decoder.weight.dtype)
        else:
            x = self.embedding(ids)
        y, state = self.rnn(x, state)
        return self.decoder(self.dropout(y)), state

    @torch.no_grad()
    def generate(
        self,
        prime_ids: Tensor | Sequence[int],
        length: int,
        *,
        uniforms: Tensor | None = None,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
    ) -> Tensor:
        """Go on from ``prime_ids`` (at least one id) for ``length`` symbols: their ids (length,).

        The i-th is drawn with ``uniforms[i]``, numbers in [0, 1), in place of which ``generator``
        or torch's own source is asked. Options as in ``next_symbol``; dropout is off.
        """
        device = self.decoder.weight.device
        prime = torch.as_tensor(prime_ids, dtype=torch.long, device=device)
        if prime.ndim != 1 or not len(prime):
            raise ValueError(f"prime_ids has shape {tuple(prime.shape)}, expected (P,), P >= 1")
        if uniforms is None:
            uniforms = torch.rand(length, generator=generator, dtype=torch.float64)
        if uniforms.shape != (length,):
            raise ValueError(
                f"uniforms has shape {tuple(uniforms.shape)}, expected ({length},): one a symbol"
            )
        was_training = self.training
        self.eval()
        try:
            drawn, ids, state = [], prime[None], None
            for uniform in uniforms.to(device):
                logits, state = self(ids, state)
                ids = next_symbol(logits[:, -1], uniform[None], temperature, top_k, top_p)[:, None]
                drawn.append(ids[0])
        finally:
            self.train(was_training)
        return torch.cat(drawn) if drawn else prime[:0]

    def encode(self, text: str) -> Tensor:
        """The ids of a text; raises ValueError for characters that the vocabulary lacks."""
        if self._kind() == "bytes":
            return torch.tensor(list(text.encode("utf-8", "surrogatepass")), dtype=torch.long)
        ids = {symbol: place for place, symbol in enumerate(self._symbols())}
        if unknown := sorted(set(text) - set(ids)):
            raise ValueError(
                f"the text has characters that the vocabulary of {len(ids)} lacks: "
                f"{', '.join(map(repr, unknown[:5]))}{', ...' if len(unknown) > 5 else ''}"
            )
        return torch.tensor([ids[symbol] for symbol in text], dtype=torch.long)

    def decode(self, ids: Tensor | Sequence[int]) -> str:
        """The text of ids; bytes that are not UTF-8 become U+FFFD."""
        places = torch.as_tensor(ids).reshape(-1).tolist()
        if places and not 0 <= min(places) <= max(places) < self.num_symbols:
            raise IndexError(
                f"ids in {min(places)}..{max(places)}, expected 0..{self.num_symbols - 1}"
            )
        if self._kind() == "bytes":
            return bytes(places).decode("utf-8", errors="replace")
        symbols = self._symbols()
        return "".join(symbols[place] for place in places)

    def _kind(self) -> str:
        if self.vocabulary is None:
            raise ValueError("this CharLM has no vocabulary: construct it with vocabulary=...")
        return self.vocabulary["kind"]

    def _symbols(self) -> str:
        return "" if self.vocabulary is None else self.vocabulary["symbols"]


class MinCharLM(CharLM):
    """The language model of arXiv 2410.01201: ``CharLM`` with blocks in place of layers.

    ``cell`` is 'mingru' or 'minlstm', other cells than those of torch.nn; ``num_layers`` counts
    blocks. The state is (h, conv), as of ``MinBlocks``.
    """

    def layers(
        self, cell: str, input_size: int, hidden_size: int, num_layers: int, dropout: float
    ) -> nn.Module:
        """Blocks."""
        return MinBlocks(cell, input_size, hidden_size, num_layers, dropout)


class Forecaster(nn.Module):
    """The next value at every step: recurrent layers and a linear decoder.

    ``scaler`` is ``{"mean": ..., "std": ..., "target": ...}``: the model reads and predicts
    ``(value - mean) / std`` of the series ``target``.
    """

    def __init__(
        self,
        input_size: int = 1,
        output_size: int = 1,
        cell: str = "rnn",
        hidden_size: int = 32,
        num_layers: int = 1,
        dropout: float = 0.0,
        scaler: dict[str, Any] | None = None,
    ):
        super().__init__()
        self.arguments = {
            "input_size": input_size,
            "output_size": output_size,
            "cell": cell,
            "hidden_size": hidden_size,
            "num_layers": num_layers,
            "dropout": dropout,
        }
        scaler = {"mean": 0.0, "std": 1.0, "target": ""} if scaler is None else scaler
        self.mean = float(scaler["mean"])
        self.std = float(scaler["std"])
        self.target = str(scaler["target"])
        self.rnn = _layers(cell, input_size, hidden_size, num_layers, dropout)
        self.dropout = nn.Dropout(dropout)
        self.decoder = nn.Linear(hidden_size, output_size)

    @property
    def scaler(self) -> dict[str, Any]:
        """As the constructor takes it."""
        return {"mean": self.mean, "std": self.std, "target": self.target}

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """x (B, T, I), scaled -> predictions (B, T, O), scaled, and the state to go on from."""
        y, state = self.rnn(x, state)
        return self.decoder(self.dropout(y)), state

    @torch.no_grad()
    def forecast(self, history: Tensor, horizon: int) -> Tensor:
        """The ``horizon`` values after ``history`` (B, T, I): (B, horizon, I), all scaled.

        Each step reads the prediction of the one before; dropout is off. Raises ValueError where
        the model does not predict what it reads, for another shape, and for a horizon below 1.
        """
        if self.rnn.input_size != self.decoder.out_features:
            raise ValueError(
                f"the model predicts {self.decoder.out_features} values a step and reads "
                f"{self.rnn.input_size}: it can't read its own predictions"
            )
        if history.ndim != 3:
            raise ValueError(f"history has shape {tuple(history.shape)}, expected (B, T, I)")
        if horizon < 1:
            raise ValueError(f"horizon is {horizon}, expected at least 1 step")
        was_training = self.training
        self.eval()
        try:
            prediction, state = self(history)
            values = [prediction[:, -1:]]
            while len(values) < horizon:
                prediction, state = self(values[-1], state)
                values.append(prediction)
        finally:
            self.train(was_training)
        return torch.cat(values, dim=1)

    def transform(self, values: Tensor) -> Tensor:
        """Scaled values."""
        return (values - self.mean) / self.std

    def inverse(self, scaled: Tensor) -> Tensor:
        """Values in the series' own unit."""
        return scaled * self.std + self.mean


MODELS: dict[str, type[nn.Module]] = {
    "CharLM": CharLM,
    "MinCharLM": MinCharLM,
    "Forecaster": Forecaster,
    "DirectForecaster": DirectForecaster,
    "RecursiveForecaster": RecursiveForecaster,
    "SegmentForecaster": SegmentForecaster,
    "SketchRNN": SketchRNN,
}
"""Every model by its class's name."""


def load(directory: str | Path | None = None) -> nn.Module:
    """The model of config.json and model.safetensors in ``directory``, in evaluation mode.

    They are looked for beside this file where no directory is given. ``torch_compat.load`` does
    the same and names what is wrong with damaged files.
    """
    directory = Path(__file__).parent if directory is None else Path(directory)
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    names = ("vocabulary", "scaler", "series", "strokes")
    carried = {key: config[key] for key in names if key in config}
    model = globals()[config["model"]](**config["arguments"], **carried)
    model = model.to(getattr(torch, config["dtype"]))  # what is tied stays so
    model.load_state_dict(load_file(directory / "model.safetensors"))
    return model.eval()


def next_symbol(
    logits: Tensor, uniform: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> Tensor:
    """Draw from softmax(logits / temperature), by inverse CDF from one uniform number a row.

    logits (B, V), uniform (B,) -> ids (B,). ``temperature`` 0 takes the likeliest. ``top_k`` > 0
    keeps the k likeliest; ``top_p`` < 1 then keeps the fewest of the likeliest whose probabilities
    reach p. The same draw as ``jaxrnn.models.char_lm.next_symbol``.
    """
    if temperature == 0:
        return logits.argmax(-1)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    # From the largest on, so that a tiny temperature gives -inf, never inf - inf.
    logits = (logits - logits.amax(-1, keepdim=True)) / max(temperature, 1e-30)
    if 0 < top_k < logits.shape[-1]:
        least = logits.sort(-1).values[:, -top_k, None]
        logits = logits.masked_fill(logits < least, -torch.inf)
    probabilities = logits.softmax(-1)
    if top_p < 1:
        descending = probabilities.sort(-1, descending=True).values
        before = descending.cumsum(-1) - descending
        least = descending.masked_fill(before >= top_p, torch.inf).amin(-1)
        probabilities = probabilities.masked_fill(probabilities < least[:, None], 0)
    cdf = probabilities.cumsum(-1)
    chosen = (cdf <= (uniform.to(cdf.dtype) * cdf[:, -1])[:, None]).sum(-1)
    last = logits.shape[-1] - 1 - (probabilities.flip(-1) > 0).int().argmax(-1)
    return torch.minimum(chosen, last)


def _layers(
    cell: str, input_size: int, hidden_size: int, num_layers: int, dropout: float
) -> nn.RNNBase:
    if cell not in LAYERS:
        raise ValueError(f"cell is {cell!r}, expected one of {', '.join(LAYERS)}")
    between = dropout if num_layers > 1 else 0.0
    return LAYERS[cell](input_size, hidden_size, num_layers, batch_first=True, dropout=between)


def _checked_vocabulary(
    vocabulary: dict[str, str] | None, num_symbols: int
) -> dict[str, str] | None:
    if vocabulary is None:
        return None
    kind, symbols = vocabulary["kind"], vocabulary["symbols"]
    if kind not in ("characters", "bytes"):
        raise ValueError(f"the vocabulary's kind is {kind!r}, expected characters or bytes")
    size = 256 if kind == "bytes" else len(symbols)
    if size != num_symbols:
        raise ValueError(f"the vocabulary has {size} symbols, expected num_symbols={num_symbols}")
    return dict(vocabulary)
