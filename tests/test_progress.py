import io

import pytest
from rich.console import Console

from jaxrnn import progress
from jaxrnn.progress import Display

LINE = {
    **{"step": 20, "epoch": 0.5, "loss": 1.23456, "grad_norm": 0.5, "lr": 0.1, "time_s": 1.0},
    "tokens_per_s": 12_345.6,
}


def display(terminal: bool = False, encoding: str = "") -> tuple[Display, io.StringIO]:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=200, highlight=False, soft_wrap=True)
    return Display(console, "symbols"), out


def test_without_a_terminal_there_is_a_line_for_each_validation():
    shown, out = display()
    shown.start(0, 100)
    shown.update(1, 2.0, 100.0)
    shown.log(LINE)
    assert out.getvalue() == ""
    shown.log(LINE | {"val_nats": 1.5, "val_bits": 2.164, "naive_mse": 2.0})
    shown.stop()
    assert out.getvalue() == (
        "step 20/100  epoch 0.50  loss 1.235  val_nats 1.5  val_bits 2.164  naive_mse 2  "
        "12.3k symbols/s\n"
    )


def test_without_a_terminal_a_line_now_and_then(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    shown, out = display()
    shown.start(0, 100)
    for second in range(25):
        clock[0] = 100.0 + second
        shown.log(LINE | {"step": second})
    steps = [line.split()[1] for line in out.getvalue().splitlines()]
    assert steps == ["11/100", "22/100"]


def test_a_sample_is_one_short_line_of_its_own():
    shown, out = display()
    shown.start(0, 100)
    shown.log(LINE | {"val_nats": 1.5, "sample": "[/b] a\n\n b\t" + "c" * 200})
    first, second = out.getvalue().splitlines()
    assert "val_nats" in first
    assert second == "    [/b] a b " + "c" * 79


def test_a_terminal_has_a_bar_with_eta_loss_and_speed():
    shown, out = display(terminal=True)
    shown.start(0, 100)
    shown.update(40, 2.345678, 4_500_000.0)
    shown.log(LINE)  # no validation: no line beside the bar
    assert shown._bar is not None
    shown._bar.refresh()
    shown.stop()
    text = out.getvalue()
    for part in ("40/100", "eta", "loss 2.346", "4.5M symbols/s"):
        assert part in text
    assert "epoch" not in text
    assert shown._bar is None


def test_a_terminal_has_lines_above_the_bar():
    shown, out = display(terminal=True)
    shown.start(30, 100)
    assert shown._bar is not None
    assert shown._bar.tasks[0].completed == 30
    shown.log(LINE | {"val_nats": 1.5})
    shown.line("[red]as it is[/red]")
    shown.stop()
    assert "val_nats 1.5" in out.getvalue()
    assert "[red]as it is[/red]" in out.getvalue()


def test_a_finished_run_has_no_bar():
    shown, out = display(terminal=True)
    shown.start(100, 100)
    shown.stop()
    shown.stop()
    assert out.getvalue() == ""


@pytest.mark.parametrize(
    ("speed", "text"), [(0.4, "0"), (999.4, "999"), (1000.0, "1.0k"), (2.5e6, "2.5M")]
)
def test_speeds_are_short(speed, text):
    assert progress._si(speed) == text
