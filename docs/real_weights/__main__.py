"""Recurrent weights that others trained and published on PyPI, run by jaxrnn and by their own code.

Each exercise downloads one pinned release with pip, takes its weights into jaxrnn and runs both on
the same inputs: the package's own code (or, where that needs too much, torch, Keras or ONNX
Runtime) and jaxrnn's layers, with the rest of the model in NumPy. Nothing is installed; archives
and weights must have the SHA-256 digests below. ``README.md`` has the results. Usage::

    python docs/real_weights --dir downloads

Exit code 1: a difference above float32 rounding, or bits that did not come back; 2: neither, but an
exercise could not be run.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
from comparison import TOLERANCE, Outcome, differences, returns_exactly
from releases import digest, fetch
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table
from sound import beatnet, resemblyzer, silero_cell, silero_sequence
from text import chars2vec, g2p_en, g2pm, textgenrnn

from jaxrnn import cli
from jaxrnn.errors import InputError


@dataclass(frozen=True)
class Exercise:
    """Weights in a release, what they are, what computes the reference, and the comparison."""

    release: str
    archive: str  # its SHA-256: the wheel's, or the source archive's where there is no wheel
    weights: str  # path in the archive
    sha256: str  # of the weights
    kind: str
    reference: str
    run: Callable[[Path], Outcome]  # takes the path of the weights

    @property
    def name(self) -> str:
        """Of the package."""
        return self.release.partition("==")[0]


EXERCISES = [
    Exercise(
        "Resemblyzer==0.1.4",
        "8f12eb2f1a9982d32e8db7856de754709b59c93a77bcf0ff536584b619a9dd1f",
        "resemblyzer/pretrained.pt",
        "39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e",
        "LSTM, 3 layers",
        "its VoiceEncoder, torch",
        resemblyzer,
    ),
    Exercise(
        "BeatNet==1.1.3",
        "1ecfa17bdcbe899975a88bdb6efebd6970d846a4f3b6cfd5c6f320647c641c7e",
        "BeatNet/models/model_1_weights.pt",
        "619091bc317ca3e83b45591d46f6de3d5a41588bcb39fe9fe7be30cffa6aca84",
        "LSTM, 2 layers, streamed",
        "its BDA, torch",
        beatnet,
    ),
    Exercise(
        "g2p_en==2.1.0",
        "2a7aabf1fc7f270fcc3349881407988c9245173c2413debbe5432f4a4f31319f",
        "g2p_en/checkpoint20.npz",
        "b8af35e4596d8dd5836dfd3fe9b2ba4f97b9c311efe8879544cbcfcbd566d8c6",
        "GRU and GRUCell",
        "its G2p, NumPy",
        g2p_en,
    ),
    Exercise(
        "g2pM==0.1.2.5",
        "9e920b82df4002f96d8679720c7a858d10816d438dbd61b8b6b621a80a976361",
        "g2pM/np_ckpt.pkl",
        "5b38c21cbaeb5f9b2f5d0bf872487de0fc22f91a3b26189b7d998136d2c8d3ae",
        "LSTM, both directions, lengths",
        "its G2pM, NumPy in float64",
        g2pm,
    ),
    Exercise(
        "silero-vad==6.2.3",
        "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8",
        "silero_vad/data/silero_vad_16k_op15.onnx",
        "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49",
        "LSTMCell, streamed",
        "its file in ONNX Runtime",
        silero_cell,
    ),
    Exercise(
        "silero-vad==6.2.3",
        "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8",
        "silero_vad/data/silero_vad_16k_sequence.onnx",
        "9ccdacc4719d8aa7e45a77536bfabec45a03ba1f2fad5e241ab4060b24238a85",
        "ONNX LSTM node",
        "its file in ONNX Runtime",
        silero_sequence,
    ),
    Exercise(
        "textgenrnn==2.0.0",
        "c2b6f1c201c76d5a6021079e95a8db499bbe15d9f3448d33cb51c0cd496c86f8",
        "textgenrnn-2.0.0/textgenrnn/textgenrnn_weights.hdf5",
        "6a89ca4235ed9f00be7b2acd65d5fe4a099967d676bfe20afb696106286ffbca",
        "two Keras CuDNNLSTM",
        "Keras LSTM",
        textgenrnn,
    ),
    Exercise(
        "chars2vec==0.1.7",
        "df05b0765e406e1bdb9f9537adf7fccb24db4a81956aea5c25a707a03a6a8094",
        "chars2vec-0.1.7/chars2vec/trained_models/eng_100/weights.h5",
        "08d1e0bd19fac1b7c2ba6c0cc10c1dc441637f204c444b9d228879ab4b97eea6",
        "two Keras LSTM",
        "its Chars2Vec, Keras",
        chars2vec,
    ),
]


def select(names: Sequence[str]) -> list[Exercise]:
    """The exercises of the packages with these names, or all."""
    known = {exercise.name.lower(): exercise.name for exercise in EXERCISES}
    if unknown := [name for name in names if name.lower() not in known]:
        raise InputError(
            f"--only has {', '.join(unknown)}, expected some of {', '.join(known.values())}"
        )
    wanted = {name.lower() for name in names} or known
    return [exercise for exercise in EXERCISES if exercise.name.lower() in wanted]


def perform(exercise: Exercise, folder: Path) -> Outcome:
    """Download, verify and run; raises InputError with the reason where that can't be done."""
    path = fetch(exercise.release, exercise.archive, folder) / exercise.weights
    if not path.is_file():
        raise InputError(f"{exercise.weights} is not in the archive")
    if (found := digest(path)) != exercise.sha256:
        raise InputError(f"{exercise.weights} has SHA-256 {found}, expected {exercise.sha256}")
    try:
        return exercise.run(path)
    except ImportError as error:
        raise InputError(f"{error}; docs/real_weights/README.md has what to install") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the exercises and print the table; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dir", type=Path, help="keep the downloads here, and use what is there")
    parser.add_argument("--only", nargs="+", default=[], metavar="PACKAGE", help="only these")
    options = parser.parse_args(arguments)
    table = Table(
        Column("package"),
        Column("kind"),
        Column("parameters", justify="right", no_wrap=True),
        Column("compared with"),
        Column("difference", justify="right", no_wrap=True),
        Column("relative", justify="right", no_wrap=True),
        Column("bits\nback"),
        title="recurrent weights from PyPI, in float32",
        box=box.SIMPLE_HEAD,
        padding=0,  # to be read in 80 columns
    )
    remarks, wrong, missing = [], [], []
    jax.config.update("jax_default_matmul_precision", "highest")  # no TF32 on a GPU
    with contextlib.ExitStack() as stack:
        folder = options.dir or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for exercise in select(options.only):
            label = exercise.release.replace("==", " ")
            try:
                outcome = perform(exercise, folder)
            except InputError as error:
                missing.append(f"{label}: {error}")
                continue
            found = {name: differences(*pair) for name, pair in outcome.pairs.items()}
            exact = all(map(returns_exactly, outcome.layers))
            wrong += [f"{label}: {n} {r:.1e}" for n, (_, r) in found.items() if not r <= TOLERANCE]
            wrong += [f"{label}: not {fact}" for fact, holds in outcome.facts.items() if not holds]
            wrong += [] if exact else [f"{label}: other bits after the way to torch"]
            said = [fact for fact, holds in outcome.facts.items() if holds] + [outcome.remark]
            remarks.append(f"{label}: {'; '.join(filter(None, said))}")
            table.add_row(
                label,
                exercise.kind,
                f"{sum(a.size for layer in outcome.layers for a in layer.arrays.values()):,}",
                exercise.reference,
                f"{max(absolute for absolute, _ in found.values()):.1e}",
                f"{max(relative for _, relative in found.values()):.1e}",
                "yes" if exact else "no",
            )
    console = Console()
    if table.row_count:
        console.print(table)
    for mark, lines in (
        ("", remarks),
        ("[yellow]not run[/] ", missing),
        ("[red]differs[/] ", wrong),
    ):
        for line in lines:
            console.print(mark + escape(line), highlight=False, soft_wrap=True)
    return 1 if wrong else 2 if missing else 0


if __name__ == "__main__":
    sys.exit(cli.exit_code(main))
