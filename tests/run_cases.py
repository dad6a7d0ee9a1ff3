"""A new run, and a state that it keeps, for the tests of what a run's directory has."""

from pathlib import Path

import numpy as np

from jaxrnn.config import CharConfig
from jaxrnn.runs import Run

FACTS = {"vocabulary": {"kind": "characters", "symbols": '\n "\\ü😀'}, "digest": "00"}


def new_run(path: Path) -> Run:
    return Run.create("char", CharConfig(run=str(path), seed=5), FACTS)


def tree(value: float) -> dict:
    return {"params": {"w": np.full((2, 3), value, np.float32)}, "carry": np.full(2, -float(value))}


def value_of(loaded) -> float:
    assert loaded is not None
    return float(loaded[0]["params"]["w"][0, 0])
