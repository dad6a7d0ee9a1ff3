"""Trains sketch-rnn with and without a latent vector on sets of drawings, and writes what it costs.

    python docs/drawings/measure.py --data DIRECTORY --runs DIRECTORY

trains each set of drawings that the directory has (omniglot.npz, short_kanji.npz, aaron_sheep.npz)
without a latent vector and at two weights of its cost, from three seeds, evaluates the best
checkpoint on the test part, adds a line of JSON to ``results.jsonl`` beside this file, and prints a
table. Stopped, it goes on where it was. What ``--train`` gives goes to
``jaxrnn.train sketch``.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import tyro

RESULTS = Path(__file__).parent / "results.jsonl"
STEPS = {"omniglot": 2000, "short_kanji": 1000, "aaron_sheep": 800}
KINDS = {
    "unconditional": ["--no-conditional"],
    "KL weight 0.05": ["--kl-weight", "0.05"],
    "KL weight 0.0125": ["--kl-weight", "0.0125"],
}
SIZES = ["--hidden-size", "128", "--encoder-size", "64", "--latent-size", "32"]
# A nat of the latent vector costs weight / Z. The paper's floor of 0.2 would hide both weights.
COST = ["--kl-weight-start", "0.001", "--kl-floor", "0.02"]
# At Magenta's rate of 0.001 models of this size have hardly begun after so few steps, and at 0.01
# what a seed does to the start is more than what the latent vector does (Omniglot, 1,000 steps).
SCHEDULE = ["--lr", "0.03", "--schedule", "cosine", "--warmup-steps", "100"]
OUTPUT = ["--num-buckets", "4", "--preview-count", "0", "--log-every", "100"]


@dataclasses.dataclass(frozen=True)
class Options:
    """Train and evaluate sketch-rnn on sets of drawings."""

    data: Annotated[Path, tyro.conf.arg(metavar="DIRECTORY")]
    """where the sets are"""
    runs: Annotated[Path, tyro.conf.arg(metavar="DIRECTORY")]
    """where runs are made"""
    seeds: int = 3
    """runs of each kind"""
    train: tuple[str, ...] = ()
    """more options of jaxrnn.train"""


def jaxrnn(program: str, *arguments: Any) -> str:
    """What a program of jaxrnn prints."""
    command = [sys.executable, "-m", f"jaxrnn.{program}", *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def measure(options: Options, name: str, kind: str, seed: int) -> dict[str, Any]:
    """Train (or go on), then evaluate on the test part."""
    run = options.runs / f"{name}-{kind.replace(' ', '-')}-{seed}"
    steps = STEPS[name]
    # The weight of the latent vector's cost is there by half of the steps.
    schedule = ["--kl-decay", f"{0.05 ** (2 / steps):.6f}"]
    schedule += ["--steps", steps, "--eval-every", steps // 5]
    data = options.data / f"{name}.npz"
    started = time.monotonic()
    if run.exists():
        jaxrnn("train", "--resume", run)
    else:
        jaxrnn(
            *("train", "sketch", "--data", data, "--run", run, "--seed", seed),
            *(*KINDS[kind], *SIZES, *COST, *SCHEDULE, *OUTPUT, *schedule, *options.train),
        )
    seconds = round(time.monotonic() - started)
    found = json.loads(jaxrnn("evaluate", run, "--data", data, "--json"))
    values = {key: found[key] for key in ("positions", "reconstruction", "kl") if key in found}
    about = json.loads((run / "run.json").read_text())["about"]
    return {
        **{"drawings": name, "kind": kind, "seed": seed, "steps": steps, "seconds": seconds},
        **{**values, "versions": about["versions"], "date": about["created"]},
    }


def table(lines: list[dict[str, Any]]) -> str:
    """Means over the seeds, with the smallest and largest."""
    rows = ["| drawings | model | L_R, test | L_KL, test | seeds |", "|---|---|---|---|---|"]
    for name in STEPS:
        for kind in KINDS:
            found = [x for x in lines if (x["drawings"], x["kind"]) == (name, kind)]
            if not found:
                continue
            cells = []
            for key in ("reconstruction", "kl"):
                values = [x[key] for x in found if key in x]
                mean = statistics.mean(values) if values else None
                cells.append(
                    "-" if mean is None else f"{mean:.3f} ({min(values):.3f} to {max(values):.3f})"
                )
            rows.append(f"| {name} | {kind} | {' | '.join(cells)} | {len(found)} |")
    return "\n".join(rows)


def main() -> None:
    """All that is not measured yet."""
    options = tyro.cli(Options, description=__doc__)
    lines = [json.loads(x) for x in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    done = {(x["drawings"], x["kind"], x["seed"]) for x in lines}
    for seed in range(1, options.seeds + 1):
        for name in STEPS:
            for kind in KINDS:
                if (name, kind, seed) in done or not (options.data / f"{name}.npz").exists():
                    continue
                lines.append(measure(options, name, kind, seed))
                with RESULTS.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(lines[-1]) + "\n")
    print(table(lines))


if __name__ == "__main__":
    main()
