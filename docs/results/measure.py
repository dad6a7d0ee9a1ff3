"""Trains studies of longer runs from several seeds, and writes down what comes out.

    python docs/results/measure.py --data DIRECTORY --runs DIRECTORY etth1-96 etth1-192

trains each of the named studies (all, where none is named) from its seeds, evaluates the best
checkpoint, adds a line of JSON to ``results.jsonl`` beside this file, and puts every validation of
the run into ``metrics/NAME-SEED.jsonl``. Stopped, it goes on where it was.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import tyro

HERE = Path(__file__).parent
RESULTS = HERE / "results.jsonl"
ETTH1 = "--config etth1 --hidden-size 128 --segment-len 48 --lr 0.001 --epochs 5"
MINIMAL = (
    "--embedding-size 0 --hidden-size 192 --num-layers 3 --dropout 0.25 --batch-size 32 "
    "--seq-len 128 --epochs 12 --lr 0.003 --optimizer adamw --weight-decay 0.05 "
    "--warmup-steps 100 --clip 1"
)


@dataclasses.dataclass(frozen=True)
class Study:
    """A training command but for its data, run and seed."""

    data: str
    """file below ``--data``"""
    options: str
    seeds: int = 3


STUDIES = {
    **{
        f"etth1-{horizon}": Study("series/ETTh1.csv", f"series {ETTH1} --horizon {horizon}")
        for horizon in (96, 192, 336, 720)
    },
    "mingru": Study("text/tinyshakespeare.txt", f"char --cell mingru {MINIMAL}"),
    "minlstm": Study("text/tinyshakespeare.txt", f"char --cell minlstm {MINIMAL}"),
    "lesson": Study("text/anna.txt", "char --config lesson", seeds=1),
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Train and evaluate."""

    data: Annotated[Path, tyro.conf.arg(metavar="DIRECTORY")]
    """where the data sets are, in series/ and text/"""
    runs: Annotated[Path, tyro.conf.arg(metavar="DIRECTORY")]
    """where runs are made"""
    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """of studies; none: all"""


def jaxrnn(program: str, *arguments: Any) -> str:
    """What a program of jaxrnn prints."""
    command = [sys.executable, "-m", f"jaxrnn.{program}", *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def measure(options: Options, name: str, seed: int) -> dict[str, Any]:
    """Train (or go on), then evaluate."""
    study, run = STUDIES[name], options.runs / f"{name}-{seed}"
    if run.exists():
        jaxrnn("train", "--resume", run)
    else:
        task, *more = shlex.split(study.options)
        data = options.data / study.data
        jaxrnn("train", task, *more, "--data", data, "--seed", seed, "--run", run)
    found = json.loads(jaxrnn("evaluate", run, "--json"))
    about = json.loads((run / "run.json").read_text())["about"]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    kept = {"step", "epoch", "loss", "time_s"}
    metrics = HERE / "metrics" / f"{name}-{seed}.jsonl"
    metrics.parent.mkdir(exist_ok=True)
    with metrics.open("w", encoding="utf-8") as file:
        for line in lines:
            if any(key.startswith("val_") for key in line):
                short = {k: v for k, v in line.items() if k in kept or k.startswith("val_")}
                file.write(json.dumps(short) + "\n")
    return {
        **{"study": name, "seed": seed, "options": study.options, **found, "data": study.data},
        **{"steps": lines[-1]["step"], "time_s": lines[-1]["time_s"], "cores": os.cpu_count()},
        **{"versions": about["versions"], "date": about["created"]},
    }


def main() -> None:
    """All that is not measured yet."""
    options = tyro.cli(Options, description=__doc__)
    if unknown := set(options.names) - set(STUDIES):
        sys.exit(f"error: there is no study {unknown.pop()}, expected some of {', '.join(STUDIES)}")
    lines = [json.loads(x) for x in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    done = {(line["study"], line["seed"]) for line in lines}
    for seed in range(1, 4):
        for name in options.names or STUDIES:
            if (name, seed) in done or seed > STUDIES[name].seeds:
                continue
            line = measure(options, name, seed)
            print(json.dumps(line), flush=True)
            with RESULTS.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
