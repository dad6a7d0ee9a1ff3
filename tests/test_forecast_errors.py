import numpy as np
import pytest
from tolerances import assert_close

from jaxrnn.forecast_errors import ForecastErrors, mase_scale, naive

W, N, C = 5, 3, 2
LEVELS = (0.1, 0.5, 0.9)
SCALES = [(10.0, 2.0), (-4.0, 0.5)]
MASE = [1.5, 0.25]
RNG = np.random.default_rng(1)
TARGETS = RNG.normal(size=(W, N, C))
QUANTILES = np.sort(RNG.normal(size=(W, N, C, 3)), -1)


def by_loop(windows, steps, targets):
    """Every measure over these, one number after the other."""
    found = {}
    per_target = {k: [] for k in ("unit_mae", "rmse", "mase")}
    flat = {k: [] for k in ("mse", "mae", "smape", "pinball", "coverage")}
    for c in targets:
        mean, std = SCALES[c]
        absolute, square = [], []
        for w in windows:
            for n in steps:
                y, q = TARGETS[w, n, c], QUANTILES[w, n, c]
                flat["mse"].append((y - q[1]) ** 2)
                flat["mae"].append(abs(y - q[1]))
                unit_y, unit_f = y * std + mean, q[1] * std + mean
                flat["smape"].append(200 * abs(unit_y - unit_f) / (abs(unit_y) + abs(unit_f)))
                absolute.append(abs(unit_y - unit_f))
                square.append((unit_y - unit_f) ** 2)
                losses = [max(p * (y - v), (p - 1) * (y - v)) for p, v in zip(LEVELS, q)]  # noqa: B905
                flat["pinball"].append(sum(losses) / 3)
                flat["coverage"].append(q[0] <= y <= q[2])
        per_target["unit_mae"].append(np.mean(absolute))
        per_target["rmse"].append(np.sqrt(np.mean(square)))
        per_target["mase"].append(np.mean(absolute) / MASE[c])
    for name, values in (flat | per_target).items():
        found[name] = np.mean(values)
    return found


def summed(batches) -> ForecastErrors:
    errors = ForecastErrors(SCALES, MASE, LEVELS)
    for batch in batches:
        errors.add(QUANTILES[batch], TARGETS[batch])
    return errors


@pytest.mark.parametrize("batches", [[slice(0, 5)], [slice(0, 2), slice(2, 5)]])
def test_errors_by_loops(batches):
    errors = summed(batches)
    got, expected = errors.metrics(), by_loop(range(W), range(N), range(C))
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert_close(got[name], value, what=name)
    by_step, by_target = errors.by_step(), errors.by_target()
    for n in range(N):
        for name, value in by_loop(range(W), [n], range(C)).items():
            assert_close(by_step[name][n], value, what=name)
    for c in range(C):
        for name, value in by_loop(range(W), range(N), [c]).items():
            assert_close(by_target[name][c], value, what=name)


def test_what_is_not_known_does_not_count():
    targets = TARGETS.copy()
    targets[0, 1, 0] = targets[:, 2, 1] = np.nan
    errors = ForecastErrors(SCALES, MASE, LEVELS)
    errors.add(QUANTILES[:2], targets[:2])
    errors.add(QUANTILES[2:], targets[2:])
    error = np.abs(TARGETS - QUANTILES[..., 1])
    known = ~np.isnan(targets)
    each = [error[..., c][known[..., c]].mean() for c in range(C)]
    assert_close(errors.by_target()["mae"], each)
    assert_close(errors.metrics()["mae"], np.mean(each))
    assert_close(
        errors.metrics()["mase"],
        np.mean([m * s[1] / b for m, s, b in zip(each, SCALES, MASE, strict=True)]),
    )
    within = (QUANTILES[..., 0] <= TARGETS) & (QUANTILES[..., 2] >= TARGETS)
    shares = [within[..., c][known[..., c]].mean() for c in range(C)]
    assert_close(errors.by_target()["coverage"], shares)
    assert_close(errors.by_step()["mae"][2], error[:, 2, 0].mean())
    nothing = ForecastErrors(SCALES, MASE, LEVELS)
    nothing.add(QUANTILES, np.where([True, False], TARGETS, np.nan))
    assert nothing.by_target()["mse"][1] is None
    values = np.array([[1.0], [4], [np.nan], [8], [9]])
    assert mase_scale(values, 1) == [(3 + 1) / 2]
    assert mase_scale(np.array([[1.0], [np.nan], [3]]), 1) == [1.0]


def test_a_point_has_no_coverage_and_half_its_error_as_pinball():
    errors = ForecastErrors(SCALES, MASE, LEVELS)
    errors.add(QUANTILES[..., 1:2], TARGETS)
    got = errors.metrics()
    assert "coverage" not in got
    assert_close(got["pinball"], got["mae"] / 2)  # of levels around 0.5
    assert_close(got["mse"], np.mean((QUANTILES[..., 1] - TARGETS) ** 2))


def test_smape_of_nothing_is_nothing():
    errors = ForecastErrors([(0.0, 1.0)], [1.0], (0.5,))
    errors.add(np.zeros((1, 2, 1, 1)), np.array([[[0.0], [3.0]]]))
    assert errors.metrics()["smape"] == 100.0


def test_naive_forecasts_by_hand():
    past = np.arange(12.0).reshape(1, 6, 2)
    last = naive(past, 3)
    np.testing.assert_array_equal(last[0, :, :, 0], [[10, 11]] * 3)
    seasonal = naive(past, 5, 3)
    np.testing.assert_array_equal(seasonal[0, :, 0, 0], [6, 8, 10, 6, 8])
    np.testing.assert_array_equal(seasonal[0, :, 1, 0], [7, 9, 11, 7, 9])


def test_the_scale_of_mase_is_the_seasonal_naive_error_of_the_rows_trained_on():
    values = np.array([[1.0, 5], [4, 5], [2, 5], [8, 5]])
    assert mase_scale(values, 1) == [(3 + 2 + 6) / 3, 1.0]
    assert mase_scale(values, 2) == [(1 + 4) / 2, 1.0]
    assert mase_scale(values, 9) == mase_scale(values, 1)
    assert mase_scale(values[:1], 1) == [1.0, 1.0]
