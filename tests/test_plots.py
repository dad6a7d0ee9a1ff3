import math

import matplotlib.image
import numpy as np
import pytest

from jaxrnn import plots

LINES = [
    {"step": 1, "loss": 3.0},
    {"step": 2, "loss": 2.0, "val_nats": 2.5, "naive_nats": 2.75},
    {"step": 3, "loss": 1.0, "val_nats": 2.25, "naive_nats": 2.75},
]


@pytest.fixture
def drawn(monkeypatch):
    """The axes of what is drawn."""
    seen = []
    original = plots._figure

    def watched(title):
        figure, axes = original(title)
        seen.append(axes)
        return figure, axes

    monkeypatch.setattr(plots, "_figure", watched)
    return seen


def points(axes) -> dict[str, list[tuple[float, float]]]:
    return {
        str(line.get_label()): list(zip(*map(list, line.get_data()), strict=True))
        for line in axes.lines
    }


def test_the_loss_by_step(tmp_path, drawn):
    plots.loss(tmp_path / "loss.png", LINES, "nats", "a run")
    (axes,) = drawn
    assert axes.get_title() == "a run"
    found = points(axes)
    assert found["training, nats"] == [(1, 3.0), (2, 2.0), (3, 1.0)]
    assert found["validation, nats: best 2.25"] == [(2, 2.5), (3, 2.25)]
    assert {y for _, y in found["last value: 2.75"]} == {2.75}
    assert axes.get_yscale() == "linear"
    assert matplotlib.image.imread(tmp_path / "loss.png").shape[:2] == (495, 880)


def test_losses_of_many_sizes_are_on_a_logarithmic_scale(tmp_path, drawn):
    lines = [{"step": k, "loss": 10.0 ** (1 - k)} for k in range(4)]
    plots.loss(tmp_path / "loss.png", lines, "mse", "a")
    assert drawn[0].get_yscale() == "log"


@pytest.mark.parametrize("title", ["a_b^c", "$^$", "US$ or A$", "\\frac{", "a%b{c}"])
def test_titles_are_shown_as_they_are(title, tmp_path, drawn):
    plots.loss(tmp_path / "loss.png", LINES, "nats", title)
    plots.prediction(tmp_path / "p.png", np.arange(3.0), np.arange(3.0), 1, title)
    plain = matplotlib.image.imread(tmp_path / "loss.png")
    plots.loss(tmp_path / "none.png", LINES, "nats", "")
    assert drawn[0].get_title() == title
    assert not np.array_equal(plain, matplotlib.image.imread(tmp_path / "none.png"))


def test_one_line_is_enough_and_infinity_no_error(tmp_path):
    plots.loss(tmp_path / "a.png", LINES[:1], "nats", "a")
    lines = [*LINES, {"step": 4, "loss": 1.0, "val_nats": math.inf}]
    plots.loss(tmp_path / "b.png", lines, "nats", "a")
    assert (tmp_path / "b.png").stat().st_size > 5000


def test_a_prediction_beside_its_series(tmp_path, drawn):
    values, predicted = np.array([1.0, 2.0, 4.0, 3.0]), np.array([1.5, 2.5, 3.5, 3.0])
    plots.prediction(tmp_path / "p.png", values, predicted, num_validated=2, title="price")
    (axes,) = drawn
    assert axes.get_title() == "price: one step ahead"
    found = points(axes)
    assert [y for _, y in found["series"]] == values.tolist()
    assert [y for _, y in found["predicted"]] == predicted.tolist()
    (shade,) = axes.patches
    assert (shade.get_x(), shade.get_x() + shade.get_width()) == (1.5, 3.5)
    plots.prediction(tmp_path / "p.png", values, predicted, num_validated=0, title="price")
    assert not drawn[1].patches


@pytest.fixture
def figures(monkeypatch):
    """What is drawn."""
    seen, figure_class = [], plots.Figure
    monkeypatch.setattr(plots, "Figure", lambda **o: seen.append(figure_class(**o)) or seen[-1])
    return seen


@pytest.mark.parametrize("has_interval", [True, False])
def test_forecasts_continue_their_past(figures, has_interval):
    quantiles = np.array([[1.0, 2.0, 4.0], [0.0, 3.0, 5.0]])
    dates = np.datetime64("2020-01-30") + np.arange(5)
    panels = [
        plots.ForecastPanel(
            title=title,
            past_x=x[:3],
            past=np.array([1.0, 1.5, 2.5]),
            x=x[3:],
            quantiles=quantiles if has_interval else quantiles[:, 1:2],
            came=np.array([2.0, 2.5]) if title == "$a$" else None,
        )
        for title, x in (("$a$", dates), ("b", np.arange(5)))
    ]
    plots.forecasts("png", panels, "80% interval", "two")
    first, second = drawn = figures[0].axes
    assert [axes.get_title("left") for axes in drawn] == ["$a$", "b"]
    for axes in drawn:
        found = points(axes)
        assert [y for _, y in found["past"]] == [1.0, 1.5, 2.5]
        assert [y for _, y in found["forecast"]] == [2.5, 2.0, 3.0]
        assert len(axes.collections) == has_interval
    assert [y for _, y in points(first)["what came"]] == [2.5, 2.0, 2.5]
    assert "what came" not in points(second)
    assert (first.get_xlabel(), second.get_xlabel()) == ("", "step")
    if has_interval:
        (band,) = second.collections
        corners = {tuple(v) for v in band.get_paths()[0].vertices.tolist()}
        assert {(2.0, 2.5), (3.0, 1.0), (4.0, 0.0), (3.0, 4.0), (4.0, 5.0)} <= corners


def test_a_forecast_begins_at_the_last_value_of_the_past():
    past_x, x = np.arange(3), np.arange(3, 5)
    panel = plots.ForecastPanel("x", past_x, np.array([1.0, 2, 7]), x, np.array([[4.0, 5, 6]] * 2))
    steps, quantiles = plots.joined(panel)
    np.testing.assert_array_equal(steps, [2, 3, 4])
    np.testing.assert_array_equal(quantiles, [[7, 7, 7], [4, 5, 6], [4, 5, 6]])


@pytest.mark.parametrize("last", ["9999-12-31", "12019-01-01"])
def test_dates_that_matplotlib_does_not_have_are_numbers_of_steps(last, figures):
    x = np.datetime64(last) + np.arange(-4, 1)
    panel = plots.ForecastPanel("a", x[:3], np.arange(3.0), x[3:], np.array([[3.0], [4.0]]))
    plots.forecasts("png", [panel], "80% interval", "late")
    (axes,) = figures[0].axes
    assert points(axes)["past"] == [(-2, 0.0), (-1, 1.0), (0, 2.0)]
    assert points(axes)["forecast"] == [(0, 2.0), (1, 3.0), (2, 4.0)]
    assert axes.get_xlabel() == "step"
