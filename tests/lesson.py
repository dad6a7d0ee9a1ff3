"""The lesson's net in torch, and the command line that takes it."""

import json

import numpy as np
import torch

from jaxrnn import checkpoint, cli
from torch_compat import __main__ as command
from torch_compat.convert import as_array

TEXT = "Der Gärtner goß\nthe garden, twice a day.\n" * 60
SYMBOLS = "".join(sorted(set(TEXT)))
V, H = len(SYMBOLS), 6


class CharRNN(torch.nn.Module):
    """The lesson's net: one-hot, LSTM, dropout, linear; with its names."""

    def __init__(self, tokens, n_hidden=H, n_layers=2):
        super().__init__()
        self.tokens, self.n_hidden, self.n_layers = tokens, n_hidden, n_layers
        between = 0.5 if n_layers > 1 else 0.0
        self.lstm = torch.nn.LSTM(len(tokens), n_hidden, n_layers, True, True, between)
        self.dropout = torch.nn.Dropout(0.5)
        self.fc = torch.nn.Linear(n_hidden, len(tokens))

    def forward(self, x, hidden=None):
        output, hidden = self.lstm(x, hidden)
        return self.fc(self.dropout(output)), hidden

    def checkpoint(self):
        return {
            "n_hidden": self.n_hidden,
            "n_layers": self.n_layers,
            "state_dict": self.state_dict(),
            "tokens": self.tokens,
        }


def shuffled_tokens():
    """In the lesson they are ``tuple(set(text))``: in any order."""
    return tuple(SYMBOLS[k] for k in np.random.default_rng(0).permutation(V))


def run(*arguments, of=command):
    return cli.exit_code(lambda: of.run_command([*map(str, arguments)]))


def import_(*arguments):
    return run("import", *arguments)


def listing(directory):
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def stored(path):
    """A run's parameters, its configuration, its facts."""
    arrays, meta = checkpoint.read(path / "checkpoints" / "last.safetensors")
    assert meta["step"] == 0
    params = {k.removeprefix("params/"): a for k, a in arrays.items() if k.startswith("params/")}
    return params, (path / "config.toml").read_text(), json.loads((path / "run.json").read_text())


def assert_holds(path, state_dict, names):
    """That a run has exactly the tensors, bit for bit, under our names."""
    params, _, _ = stored(path)
    renamed = {names.get(k.rpartition(".")[0]) + "." + k.rpartition(".")[2] for k in state_dict}
    assert set(params) == renamed
    for name, tensor in state_dict.items():
        owner, _, leaf = name.rpartition(".")
        assert params[f"{names[owner]}.{leaf}"].tobytes() == as_array(tensor).tobytes()
