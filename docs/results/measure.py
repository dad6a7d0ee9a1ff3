"""Trains studies of longer runs from several seeds, and writes down what comes out.

    python docs/results/measure.py --data DIRECTORY --runs DIRECTORY etth1-96 etth1-192

trains each of the named studies (all, where none is named), evaluates the best checkpoint, adds a
line of JSON to ``results.jsonl`` beside this file, puts every validation of the run into
``metrics/NAME-SEED.jsonl``, and prints a table. Stopped, it goes on where it was.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import tyro

HERE = Path(__file__).parent
RESULTS = HERE / "results.jsonl"


@dataclasses.dataclass(frozen=True)
class Study:
    """A training command but for its data, run and seed."""

    data: str
    """file below ``--data``"""
    options: str
    shown: tuple[str, ...]
    """what the table shows of an evaluation, ``row.metric`` of a forecaster's"""
    has_test: bool = False
    """whether the data's own test part is measured, not the run's validation part"""
    seeds: int = 3


# The larger model, which was tried first.
ETTH1_256 = (
    "series --config etth1 --hidden-size 256 --segment-len 48 --dropout 0.5 "
    "--eval-every 0 --patience 5"
)
ETTH1_SHOWN = ("model.mse", "model.mae")
SHORT, LONG = "--lr 0.001 --epochs 8", "--lr 0.0002 --schedule constant --epochs 3"
MINIMAL = (
    "--embedding-size 0 --hidden-size 192 --num-layers 3 --dropout 0.25 --batch-size 32 "
    "--seq-len 128 --epochs 12 --lr 0.003 --optimizer adamw --weight-decay 0.05 "
    "--warmup-steps 100 --clip 1"
)
# A nat of the latent vector costs weight / Z; the paper's floor of 0.2 would hide both weights, and
# a weight that begins at almost nothing begins with a latent vector that is mostly noise. At
# Magenta's rate of 0.001 models of this size have hardly begun after so few steps.
DRAWINGS = (
    "sketch --hidden-size 128 --encoder-size 64 --latent-size 32 --kl-floor 0.02 --lr 0.03 "
    "--schedule cosine --warmup-steps 100 --num-buckets 4 --preview-count 0 --log-every 100"
)
KINDS = {
    "unconditional": "--no-conditional",
    "weight-0.05": "--kl-weight 0.05 --kl-weight-start 0.05",
    "weight-0.0125": "--kl-weight 0.0125 --kl-weight-start 0.0125",
}
DRAWING_STEPS = {"omniglot": 2000, "short_kanji": 1500, "aaron_sheep": 3000}


def drawing_study(name: str, kind: str) -> Study:
    """Of a set of drawings."""
    steps = DRAWING_STEPS[name]
    shown = ("reconstruction", *(["kl"] if kind != "unconditional" else []))
    options = f"{DRAWINGS} {KINDS[kind]} --steps {steps} --eval-every {steps // 5}"
    return Study(f"sketch/{name}.npz", options, shown, has_test=True)


STUDIES = {
    **{
        f"etth1-{horizon}": Study(
            "series/ETTh1.csv", f"series --config etth1 --horizon {horizon}", ETTH1_SHOWN
        )
        for horizon in (96, 192, 336, 720)
    },
    **{
        f"etth1-{horizon}-256": Study(
            "series/ETTh1.csv", f"{ETTH1_256} {rate} --horizon {horizon}", ETTH1_SHOWN
        )
        for horizon, rate in ((96, SHORT), (192, SHORT), (336, LONG), (720, LONG))
    },
    "tinyshakespeare": Study(
        "text/tinyshakespeare.txt", "char --config tinyshakespeare", ("nats",)
    ),
    "tinyshakespeare-512": Study(
        "text/tinyshakespeare.txt",
        "char --config tinyshakespeare --hidden-size 512 --dropout 0.4 --weight-drop 0.2 "
        "--epochs 16",
        ("nats",),
    ),
    **{
        cell: Study("text/tinyshakespeare.txt", f"char --cell {cell} {MINIMAL}", ("nats",), seeds=1)
        for cell in ("mingru", "minlstm")
    },
    "lesson": Study("text/anna.txt", "char --config lesson", ("nats",), seeds=1),
    **{f"{name}-{kind}": drawing_study(name, kind) for name in DRAWING_STEPS for kind in KINDS},
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Train and evaluate."""

    data: Annotated[Path, tyro.conf.arg(metavar="DIRECTORY")]
    """where the data sets are, in series/, sketch/ and text/"""
    runs: Annotated[Path, tyro.conf.arg(metavar="DIRECTORY")]
    """where runs are made"""
    names: Annotated[tuple[str, ...], tyro.conf.arg(metavar="STUDY"), tyro.conf.Positional] = ()
    """of studies; none: all"""


def jaxrnn(program: str, *arguments: Any) -> str:
    """What a program of jaxrnn prints."""
    command = [sys.executable, "-m", f"jaxrnn.{program}", *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def measure(options: Options, name: str, seed: int) -> dict[str, Any]:
    """Train (or go on), then evaluate."""
    study, run = STUDIES[name], options.runs / f"{name}-{seed}"
    data = options.data / study.data
    if run.exists():
        jaxrnn("train", "--resume", run)
    else:
        task, *more = shlex.split(study.options)
        jaxrnn("train", task, *more, "--data", data, "--seed", seed, "--run", run)
    test = ("--data", data) if study.has_test else ()
    found = json.loads(jaxrnn("evaluate", run, "--json", *test))
    about = json.loads((run / "run.json").read_text())["about"]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    write_validations(HERE / "metrics" / f"{name}-{seed}.jsonl", lines)
    return {
        **{"study": name, "seed": seed, "options": study.options},
        **(found | {"data": study.data}),
        **{
            "steps": lines[-1]["step"],
            "time_s": lines[-1]["time_s"],
            "cores": len(os.sched_getaffinity(0)),
        },
        **{"versions": about["versions"], "date": about["created"]},
    }


def write_validations(path: Path, lines: list[dict[str, Any]]) -> None:
    """The lines of a run's metrics that have a validation, without what another machine changes."""
    path.parent.mkdir(exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for line in lines:
            validated = {k: v for k, v in line.items() if k.startswith("val_")}
            if validated:
                known = {k: line[k] for k in ("step", "epoch", "loss", "time_s") if k in line}
                file.write(json.dumps(known | validated) + "\n")


def value(line: dict[str, Any], name: str) -> float:
    """Of a metric in a line of results; ``row.metric`` of a forecaster's."""
    row, _, metric = name.rpartition(".")
    return line["rows"][row][metric] if row else line[name]


def table(lines: list[dict[str, Any]]) -> str:
    """Means over the seeds, with the smallest and largest; the median of the seconds."""
    rows = ["| study | seeds | measured | time |", "|---|---|---|---|"]
    for name, study in STUDIES.items():
        found = [line for line in lines if line["study"] == name]
        if not found:
            continue
        shown = []
        for metric in study.shown:
            values = [value(line, metric) for line in found]
            spread = f" ({min(values):.4f} to {max(values):.4f})" if len(values) > 1 else ""
            shown.append(f"{metric} {statistics.mean(values):.4f}{spread}")
        seconds = statistics.median(line["time_s"] for line in found)
        rows.append(f"| {name} | {len(found)} | {', '.join(shown)} | {seconds:.0f} s |")
    return "\n".join(rows)


def main() -> None:
    """All that is not measured yet."""
    options = tyro.cli(Options, description=__doc__)
    if unknown := set(options.names) - set(STUDIES):
        sys.exit(f"error: there is no study {unknown.pop()}, expected some of {', '.join(STUDIES)}")
    lines = [json.loads(x) for x in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    done = {(line["study"], line["seed"]) for line in lines}
    for seed in range(1, 1 + max(study.seeds for study in STUDIES.values())):
        for name in options.names or STUDIES:
            if (name, seed) in done or seed > STUDIES[name].seeds:
                continue
            lines.append(measure(options, name, seed))
            with RESULTS.open("a", encoding="utf-8") as file:
                file.write(json.dumps(lines[-1]) + "\n")
    print(table(lines))


if __name__ == "__main__":
    main()
