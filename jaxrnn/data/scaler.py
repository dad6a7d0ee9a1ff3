"""Standard scaling of numbers: ``z = (x - mean) / std`` and back.

Usage: ``scaler = Scaler.of(values); scaler.inverse(scaler.transform(values))``.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from jaxtyping import Float, Float64

from jaxrnn.errors import InputError, shown

FARTHEST = 1e15  # of a scaled value: sums of its squares stay far from the largest float32


@dataclasses.dataclass(frozen=True)
class Scaler:
    """``z = (x - mean) / std`` and back. Raises InputError for numbers that can't scale."""

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self):
        if not math.isfinite(self.mean):
            raise InputError(f"the scaler's mean is {self.mean}, expected a finite number")
        if not (math.isfinite(self.std) and self.std > 0):
            raise InputError(f"the scaler's std is {self.std}, expected a finite number above 0")

    @classmethod
    def of(cls, values: Float64[np.ndarray, " N"]) -> Scaler:
        """Mean and population standard deviation; of a constant series the std counts as 1."""
        # Rounding gives a constant series a tiny std, which would blow that rounding up.
        if values.min() == values.max():
            return cls(float(values[0]), 1.0)
        with np.errstate(over="ignore", invalid="ignore"):  # __post_init__ refuses it
            mean, std = float(values.mean()), float(values.std())
        return cls(mean, std or 1.0)

    @classmethod
    def from_dict(cls, values: Any) -> Scaler:
        """The scaler that ``to_dict`` gave; raises InputError for anything else."""
        if (
            not isinstance(values, dict)
            or set(values) != {"mean", "std"}
            or any(isinstance(v, bool) or not isinstance(v, int | float) for v in values.values())
        ):
            raise InputError(f"the scaler is {shown(values)}, expected an object with mean and std")
        try:
            return cls(float(values["mean"]), float(values["std"]))
        except OverflowError:  # a whole number of hundreds of digits
            raise InputError(f"the scaler is {shown(values)}, expected finite numbers") from None

    def to_dict(self) -> dict[str, float]:
        """As JSON can hold it."""
        return {"mean": self.mean, "std": self.std}

    def transform(self, values: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
        """Scaled values."""
        return (values - self.mean) / self.std

    def refuse_far(
        self, values: Float[np.ndarray, " N"], path: str, name: str, what: str = "value"
    ) -> None:
        """Raise InputError for a value whose scaled square could leave float32; NaN may be."""
        scaled = np.abs(self.transform(values))
        (far,) = np.nonzero(scaled > FARTHEST)
        if len(far):
            raise InputError(
                f"{path}: {what} {far[0] + 1:,} of column {name!r} is {values[far[0]]:g}, more "
                f"than {FARTHEST:g} standard deviations ({self.std:g}) from the mean of what is "
                f"trained on ({self.mean:g}); correct it, or leave it out"
            )

    def inverse(self, scaled: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
        """Values in the series' own unit."""
        return scaled * self.std + self.mean
