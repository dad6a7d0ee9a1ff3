"""The forecasters of many steps in plain torch.nn, with jaxrnn's parameter names.

``series`` is what such a model carries besides its parameters: names and scalers of its columns,
calendar features, and how much of the past it reads. Usage::

    model = torch_compat.load("exported")
    model.predict(rows)                # rows (T or more, K) in the data's unit -> (N, C, quantiles)
    parameters = model(past, known)    # (B, T, I), (B, N, F), scaled -> (B, N, C, P)
"""

from __future__ import annotations

import calendar as calendars
import datetime
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

MIN_SCALE = 1e-4  # of a Student t, in normalised units
REVIN_EPSILON = 1e-5  # added to a variance
NODES, ROUNDS = 64, 30  # of the quadrature and of Newton's method behind a Student t's quantiles

RECURRENT = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
"""The layers by the name of their cell, as options spell it."""


def student_t_quantile(level: float, freedom: Tensor) -> Tensor:
    """As ``jaxrnn.distributions.student_t_quantile``."""
    places = torch.arange(1, NODES, dtype=torch.float64)
    off = places / (4 * places**2 - 1).sqrt()
    nodes, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))  # Golub, Welsch
    points, weights = (nodes + 1) / 2, vectors[0] ** 2
    n = freedom.double()
    log_c = torch.lgamma((n + 1) / 2) - torch.lgamma(n / 2) - math.log(math.pi) / 2

    def density(angle: Tensor, n: Tensor, log_c: Tensor) -> Tensor:
        return (log_c + (n - 1) * angle.cos().log()).exp()

    start = torch.special.ndtri(torch.tensor(level, dtype=torch.float64)).abs()
    angle = (start / n.sqrt()).arctan()
    for _ in range(ROUNDS):
        inner = density(angle[..., None] * points, n[..., None], log_c[..., None])
        found = angle * (inner * weights).sum(-1)
        angle = angle + (abs(level - 0.5) - found) / density(angle, n, log_c)
    sign = (level > 0.5) - (level < 0.5)
    return (sign * n.sqrt() * angle.tan()).to(freedom.dtype)


def student_t_draw(parameters: Tensor, uniforms: Tensor) -> Tensor:
    """As ``jaxrnn.distributions.student_t_draw``: parameters (..., 3), uniforms (2, ...)."""
    location, scale, n = parameters.unbind(-1)
    radius = (n * torch.expm1(-2 / n * uniforms[0].log())).sqrt()
    return location + scale * radius * (2 * math.pi * uniforms[1]).cos()


def calendar(dates: Sequence[datetime.datetime | str], names: Sequence[str]) -> Tensor:
    """A sine and a cosine for each of ``hour, weekday, month_day, year_day, month``: (N, F)."""
    rows = []
    for date in dates:
        if isinstance(date, str):
            date = datetime.datetime.fromisoformat(date)
        day = (date.hour * 3600 + date.minute * 60 + date.second) / 86_400
        month_days = calendars.monthrange(date.year, date.month)[1]
        phases = {
            "hour": day,
            "weekday": (date.weekday() + day) / 7,
            "month_day": (date.day - 1 + day) / month_days,
            "year_day": (date.timetuple().tm_yday - 1 + day) / (365 + calendars.isleap(date.year)),
            "month": (date.month - 1) / 12,
        }
        angles = [2 * math.pi * phases[name] for name in names]
        rows.append([wave(angle) for angle in angles for wave in (math.sin, math.cos)])
    return torch.tensor(rows, dtype=torch.float64).reshape(len(rows), 2 * len(names))


class InstanceNorm(nn.Module):
    """Shift and factor of targets, by their past; ``revin`` has a weight and a bias of each."""

    def __init__(self, num_targets: int, kind: str):
        super().__init__()
        self.kind = kind
        learned = kind == "revin"
        self.weight = nn.Parameter(torch.ones(num_targets)) if learned else None
        self.bias = nn.Parameter(torch.zeros(num_targets)) if learned else None

    def forward(self, past: Tensor) -> tuple[Tensor, Tensor]:
        """past (B, T, C) -> shift and factor (B, 1, C)."""
        last = past[:, -1:]
        if self.weight is None or self.bias is None:
            return (last if self.kind == "last" else torch.zeros_like(last)), torch.ones_like(last)
        std = (past.var(1, keepdim=True, correction=0) + REVIN_EPSILON).sqrt()
        factor = std / (self.weight + REVIN_EPSILON**2)
        return past.mean(1, keepdim=True) - self.bias * factor, factor


class HorizonModel(nn.Module):
    """What the forecasters have in common; see ``jaxrnn.models.horizon``."""

    def __init__(
        self,
        num_targets: int,
        num_covariates: int = 0,
        num_known: int = 0,
        horizon: int = 24,
        cell: str = "gru",
        hidden_size: int = 64,
        num_layers: int = 1,
        dropout: float = 0.0,
        normalize: str = "revin",
        distribution: str = "point",
        levels: Sequence[float] = (0.5,),
        series: dict[str, Any] | None = None,
        **more: int,
    ):
        super().__init__()
        if cell not in RECURRENT:
            raise ValueError(f"cell is {cell!r}, expected one of {', '.join(RECURRENT)}")
        self.arguments = {
            "num_targets": num_targets,
            "num_covariates": num_covariates,
            "num_known": num_known,
            "horizon": horizon,
            "cell": cell,
            "hidden_size": hidden_size,
            "num_layers": num_layers,
            "dropout": dropout,
            "normalize": normalize,
            "distribution": distribution,
            "levels": list(levels),
            **more,
        }
        self.num_targets, self.horizon, self.cell = num_targets, horizon, cell
        self.hidden_size, self.num_layers = hidden_size, num_layers
        self.kind, self.levels = distribution, list(levels)
        self.num_parameters = {"point": 1, "quantiles": len(self.levels), "student_t": 3}[
            distribution
        ]
        self.series = series
        self.normalization = InstanceNorm(num_targets, normalize)
        self.dropout = nn.Dropout(dropout)

    def _recurrent(self, input_size: int, dropout: float = 0.0) -> Any:
        between = dropout if self.num_layers > 1 else 0.0
        sizes = (input_size, self.hidden_size, self.num_layers)
        return RECURRENT[self.cell](*sizes, batch_first=True, dropout=between)

    def _read(self, past: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        targets = past[..., : self.num_targets]
        shift, factor = self.normalization(targets)
        z = (targets - shift) / factor
        return torch.cat([z, past[..., self.num_targets :]], -1), shift, factor

    def _distribution(self, raw: Tensor) -> Tensor:
        """Raw numbers (B, N, C * P) -> parameters (B, N, C, P) in normalised units."""
        raw = raw.reshape(*raw.shape[:2], self.num_targets, -1)
        if self.kind == "point":
            return raw
        if self.kind == "quantiles":
            place = self.levels.index(0.5)
            median, widths = raw[..., place : place + 1], functional.softplus(raw)
            below = median - widths[..., :place].flip(-1).cumsum(-1).flip(-1)
            above = median + widths[..., place + 1 :].cumsum(-1)
            return torch.cat([below, median, above], -1)
        spread = functional.softplus(raw[..., 1:])
        return torch.cat([raw[..., :1], spread[..., :1] + MIN_SCALE, spread[..., 1:] + 2], -1)

    def _rescaled(self, parameters: Tensor, shift: Tensor, factor: Tensor) -> Tensor:
        shift, factor = shift[..., None], factor[..., None]
        if self.kind == "student_t":
            location = parameters[..., :1] * factor + shift
            scale = parameters[..., 1:2] * factor.abs()
            return torch.cat([location, scale, parameters[..., 2:]], -1)
        place = self.levels.index(0.5)
        median = parameters[..., place : place + 1]
        return median * factor + shift + (parameters - median) * factor.abs()

    def point(self, parameters: Tensor) -> Tensor:
        """parameters (..., P) -> the point or median (...)."""
        return parameters[..., 0 if self.kind == "student_t" else self.levels.index(0.5)]

    def quantiles(self, parameters: Tensor) -> Tensor:
        """parameters (..., P) -> (..., K), a quantile for each level; of a point it alone."""
        if self.kind != "student_t":
            return parameters
        location, scale, freedom = (parameters[..., k, None] for k in range(3))
        unit = [student_t_quantile(level, freedom) for level in self.levels]
        return location + scale * torch.cat(unit, -1)

    @property
    def draws_paths(self) -> bool:
        """Whether ``predict`` gives the quantiles of drawn paths."""
        return False

    def _forecast(self, past: Tensor, known: Tensor, uniforms: Tensor | None) -> Tensor:
        """Quantiles (B, N, C, K) of a batch."""
        return self.quantiles(self(past, known))

    @torch.no_grad()
    def predict(
        self,
        rows: Tensor,
        known: Tensor | None = None,
        dates: Sequence[datetime.datetime | str] = (),
        generator: torch.Generator | None = None,
        uniforms: Tensor | None = None,
    ) -> Tensor:
        """The ``horizon`` steps after ``rows``: quantiles (N, C, K) in the data's unit.

        ``rows`` (T or more, K) are columns in the data's unit: targets, covariates, known, as
        ``series`` has their names; ``known`` (N, F) those of the known columns that follow.
        ``dates`` are of the last T rows and of the N steps after them, needed for calendar
        features. Dropout is off.

        Those of a recursive Student t are quantiles of drawn paths, ``series["num_samples"]`` = S
        of them: with ``uniforms`` (2, S, N, C), numbers in (0, 1), in place of which ``generator``
        is asked; without both the numbers are the same at each call. jaxrnn's forecast is that of
        ``path_uniforms(task, 1, N)[:, :, 0]``, of ``jaxrnn.tasks.series_forecasts``.
        """
        if self.series is None:
            raise ValueError("this forecaster has no scalers: construct it with series=...")
        series, like = self.series, next(self.parameters())
        count, length = len(series["scalers"]), series["input_len"]
        rows = torch.as_tensor(rows, dtype=torch.float64)
        if rows.ndim != 2 or rows.shape[1] != count or len(rows) < length:
            names = [*series["targets"], *series["covariates"], *series["known"]]
            raise ValueError(
                f"rows have shape {tuple(rows.shape)}, expected ({length} or more, {count}): the "
                f"last steps of {', '.join(names)}"
            )
        num_known, horizon = len(series["known"]), self.horizon
        mean, std = (
            torch.tensor([s[k] for s in series["scalers"]], dtype=torch.float64)
            for k in ("mean", "std")
        )
        past = (rows[-length:] - mean) / std
        ahead = rows.new_zeros(horizon, 0)
        if num_known:
            shape = None if known is None else tuple(known.shape)
            if known is None or shape != (horizon, num_known):
                raise ValueError(f"known has shape {shape}, expected ({horizon}, {num_known})")
            first = count - num_known
            ahead = (torch.as_tensor(known, dtype=torch.float64) - mean[first:]) / std[first:]
        if series["calendar"]:
            if len(dates) != length + horizon:
                raise ValueError(
                    f"there are {len(dates)} dates, expected {length + horizon}: of the last "
                    f"{length} rows and of {horizon} steps after them"
                )
            waves = calendar(dates, series["calendar"])
            past = torch.cat([past, waves[:length]], -1)
            ahead = torch.cat([ahead, waves[length:]], -1)
        if self.draws_paths:
            shape = (2, series["num_samples"], horizon, self.num_targets)
            if uniforms is None:
                generator = generator or torch.Generator().manual_seed(0)
                uniforms = torch.rand(
                    shape, generator=generator, dtype=torch.float64, device=generator.device
                )
            if uniforms.shape != shape:
                raise ValueError(
                    f"uniforms has shape {tuple(uniforms.shape)}, expected {shape}: two a path, "
                    "step and target"
                )
            uniforms = uniforms[:, :, None].to(like).clamp(min=torch.finfo(like.dtype).tiny)
        elif uniforms is not None:
            raise ValueError("uniforms are of a recursive Student t alone: nothing is drawn here")
        was_training = self.training
        self.eval()
        try:
            found = self._forecast(past[None].to(like), ahead[None].to(like), uniforms)[0]
        finally:
            self.train(was_training)
        place = (1, self.num_targets, 1)
        of_targets = [v[: self.num_targets].reshape(place) for v in (std, mean)]
        return found.double().cpu() * of_targets[0] + of_targets[1]


class DirectForecaster(HorizonModel):
    """All steps at once from the last state, and what is known of each added."""

    def __init__(
        self, num_targets: int, num_covariates: int = 0, num_known: int = 0, **options: Any
    ):
        super().__init__(num_targets, num_covariates, num_known, **options)
        dropout, size = options.get("dropout", 0.0), self.hidden_size
        num_raw = num_targets * self.num_parameters
        self.rnn = self._recurrent(num_targets + num_covariates + num_known, dropout)
        self.decoder = nn.Linear(size, self.horizon * num_raw)
        self.known_hidden = nn.Linear(size + num_known, size) if num_known else None
        self.known_decoder = nn.Linear(size, num_raw) if num_known else None

    def forward(self, past: Tensor, known: Tensor, targets: Tensor | None = None) -> Tensor:
        """past (B, T, I), known (B, N, F) -> parameters (B, N, C, P); targets are not read."""
        x, shift, factor = self._read(past)
        last = self.dropout(self.rnn(x)[0][:, -1])
        raw = self.decoder(last).reshape(len(x), self.horizon, -1)
        if self.known_hidden is not None and self.known_decoder is not None:
            state = last[:, None].expand(-1, self.horizon, -1)
            joint = self.known_hidden(torch.cat([state, known], -1))
            raw = raw + self.known_decoder(functional.relu(joint))
        return self._rescaled(self._distribution(raw), shift, factor)


class RecursiveForecaster(HorizonModel):
    """One step after the other: an encoder reads the past, a decoder its own last forecast."""

    def __init__(
        self, num_targets: int, num_covariates: int = 0, num_known: int = 0, **options: Any
    ):
        super().__init__(num_targets, num_covariates, num_known, **options)
        dropout = options.get("dropout", 0.0)
        self.encoder = self._recurrent(num_targets + num_covariates + num_known, dropout)
        self.rnn = self._recurrent(num_targets + num_known)
        self.decoder = nn.Linear(self.hidden_size, num_targets * self.num_parameters)

    def forward(self, past: Tensor, known: Tensor, targets: Tensor | None = None) -> Tensor:
        """past (B, T, I), known (B, N, F) -> parameters (B, N, C, P), of any N.

        With ``targets`` (B, N, C) a step reads the true value before it, else its own point.
        """
        x, shift, factor = self._read(past)
        _, state = self.encoder(x)
        value = x[:, -1:, : self.num_targets]
        if targets is not None:
            before = torch.cat([value, ((targets - shift) / factor)[:, :-1]], 1)
            y, _ = self.rnn(torch.cat([before, known], -1), state)
            found = self._distribution(self.decoder(self.dropout(y)))
            return self._rescaled(found, shift, factor)
        steps = []
        for k in range(known.shape[1]):
            y, state = self.rnn(torch.cat([value, known[:, k : k + 1]], -1), state)
            steps.append(self._distribution(self.decoder(self.dropout(y))))
            value = self.point(steps[-1])
        return self._rescaled(torch.cat(steps, 1), shift, factor)

    def sample(self, past: Tensor, known: Tensor, uniforms: Tensor) -> Tensor:
        """Paths (S, B, N, C) of a Student t from uniform numbers (2, S, B, N, C) in (0, 1)."""
        x, shift, factor = self._read(past)
        _, state = self.encoder(x)
        _, num_paths, num_rows, num_steps, _ = uniforms.shape
        members = state if isinstance(state, tuple) else (state,)
        members = [member.repeat(1, num_paths, 1) for member in members]
        state = tuple(members) if len(members) > 1 else members[0]
        value = x[:, -1:, : self.num_targets].repeat(num_paths, 1, 1)
        known = known.repeat(num_paths, 1, 1)
        numbers = uniforms.reshape(2, num_paths * num_rows, num_steps, -1)
        drawn = []
        for k in range(num_steps):
            y, state = self.rnn(torch.cat([value, known[:, k : k + 1]], -1), state)
            found = self._distribution(self.decoder(y))
            value = student_t_draw(found, numbers[:, :, k : k + 1])
            drawn.append(value)
        paths = torch.cat(drawn, 1).reshape(num_paths, num_rows, num_steps, -1)
        return paths * factor + shift

    @property
    def draws_paths(self) -> bool:
        """Whether ``predict`` gives the quantiles of drawn paths."""
        return self.kind == "student_t"

    def _forecast(self, past: Tensor, known: Tensor, uniforms: Tensor | None) -> Tensor:
        if uniforms is None:
            return super()._forecast(past, known, uniforms)
        paths = self.sample(past, known, uniforms)
        return paths.quantile(past.new_tensor(self.levels), 0).movedim(0, -1)


class SegmentForecaster(HorizonModel):
    """SegRNN (arXiv 2308.11200): a few steps of whole segments, each target by itself."""

    def __init__(
        self,
        num_targets: int,
        num_covariates: int = 0,
        num_known: int = 0,
        *,
        segment_len: int,
        **options: Any,
    ):
        super().__init__(num_targets, num_covariates, num_known, segment_len=segment_len, **options)
        size, half = self.hidden_size, self.hidden_size // 2
        self.segment_len, self.num_segments = segment_len, -(-self.horizon // segment_len)
        self.segment = nn.Linear(segment_len, size)
        self.rnn = self._recurrent(size, options.get("dropout", 0.0))
        self.place = nn.Parameter(torch.randn(self.num_segments, half))
        self.target = nn.Parameter(torch.randn(num_targets, half))
        self.known = nn.Linear(segment_len * num_known, size) if num_known else None
        self.decoder = nn.Linear(size, segment_len * self.num_parameters)

    def forward(self, past: Tensor, known: Tensor, targets: Tensor | None = None) -> Tensor:
        """past (B, T, I), known (B, N, F) -> parameters (B, N, C, P); targets are not read."""
        x, shift, factor = self._read(past)
        num_rows, num_segments, size = len(x), self.num_segments, self.hidden_size
        z = x[..., : self.num_targets].transpose(1, 2)
        z = z.reshape(num_rows * self.num_targets, -1, self.segment_len)
        _, state = self.rnn(functional.relu(self.segment(z)))
        place = self.place[None].expand(self.num_targets, -1, -1)
        target = self.target[:, None].expand(-1, num_segments, -1)
        ahead = torch.cat([place, target], -1).expand(num_rows, -1, -1, -1)
        if self.known is not None:
            missing = num_segments * self.segment_len - self.horizon
            rows = functional.pad(known, (0, 0, 0, missing)).reshape(num_rows, num_segments, -1)
            ahead = ahead + self.known(rows)[:, None]
        members = state if isinstance(state, tuple) else (state,)
        members = [member.repeat_interleave(num_segments, 1) for member in members]
        state = tuple(members) if len(members) > 1 else members[0]
        y, _ = self.rnn(ahead.reshape(-1, 1, size), state)
        raw = self.decoder(self.dropout(y[:, 0]))
        raw = raw.reshape(num_rows, self.num_targets, -1, self.num_parameters)
        raw = raw[:, :, : self.horizon].transpose(1, 2).reshape(num_rows, self.horizon, -1)
        return self._rescaled(self._distribution(raw), shift, factor)
