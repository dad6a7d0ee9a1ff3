import errno
import functools
import io
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import command_line
import jax
import numpy as np
import pytest
from rich.console import Console

from jaxrnn import checkpoint, report, train
from jaxrnn.config import CharConfig
from jaxrnn.config_file import to_toml
from jaxrnn.errors import InputError
from jaxrnn.runs import Run

TEXT = "the cat sat on the mat; a dog ate the hat.\n" * 6
SMALL = (
    *("--cell", "rnn", "--hidden-size", "5", "--batch-size", "2", "--seq-len", "4"),
    *("--embedding-size", "0", "--preview-length", "5"),
)


@pytest.fixture(autouse=True)
def _signals():
    """The command line takes these signals over; pytest wants them back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A text, series and a finished run of a character model."""
    folder = tmp_path_factory.mktemp("train")
    (folder / "text.txt").write_text(TEXT)
    (folder / "tiny.txt").write_text("abc")
    (folder / "empty.txt").write_text("")
    (folder / "latin.txt").write_bytes("caf\xe9 ".encode("latin-1") * 50)
    (folder / "rows.csv").write_text("t,x\n" + "\n".join(f"{k},{k % 5}" for k in range(60)))
    (folder / "gap.csv").write_text("t,x\n" + "\n".join(f"{k},{k or ''}" for k in range(60)))
    (folder / "bad.toml").write_text("hiden_size = 3\n")
    (folder / "not.toml").write_text("lr = \n")
    (folder / "sine.toml").write_text('task = "sine"\n')
    config = CharConfig(
        data=str(folder / "text.txt"),
        cell="rnn",
        hidden_size=5,
        batch_size=2,
        seq_len=4,
        steps=6,
        eval_every=3,
        preview_length=5,
        embedding_size=0,
        run=str(folder / "run"),
    )
    (folder / "run.toml").write_text(to_toml("char", config))
    assert train.run_command(["--config", str(folder / "run.toml")]) == 0
    (folder / "other").mkdir()
    (folder / "other" / "file").write_text("mine")
    return folder


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() if p.is_file() else b"" for p in sorted(folder.rglob("*"))}


command = functools.partial(command_line.run, train.main)


BAD = {
    "unknown task": (["chat"], "unknown task 'chat', expected one of char, series, sine"),
    "no such file": (["char", "--data", "no.txt"], "no.txt: no such file"),
    "directory": (["char", "--data", "other"], "other is a directory"),
    "empty": (["char", "--data", "empty.txt"], "empty.txt is empty"),
    "tiny": (
        ["char", "--data", "tiny.txt", "--val-fraction", "0"],
        "tiny.txt has 3 characters, one batch needs 2049 (--batch-size 32 times --seq-len 64 and "
        "one more for the last target); lower --batch-size or --seq-len",
    ),
    "not UTF-8": (["char", "--data", "latin.txt"], "latin.txt is not UTF-8: byte 0xe9 at offset 3"),
    "no such column": (
        ["sine", "--data", "rows.csv", "--target", "price"],
        "rows.csv has no column 'price' (--target), its columns are 't', 'x'",
    ),
    "column not named": (["sine", "--data", "rows.csv"], "choose with --target"),
    "gaps": (["sine", "--data", "gap.csv", "--target", "x"], "line 2: '' in column 'x' is a gap"),
    "few values": (
        ["sine", "--data", "rows.csv", "--target", "x", "--seq-len", "60"],
        "one batch needs 61",
    ),
    "sine in batches": (["sine", "--batch-size", "2"], "--batch-size is 2, expected 1"),
    "range": (["char", "--hidden-size", "0"], "--hidden-size is 0, expected at least 1"),
    "rate": (["char", "--lr", "0"], "--lr is 0.0, expected above 0"),
    "backend": (
        ["char", "--data", "text.txt", *SMALL, "--steps", "1", "--backend", "fast"],
        "--backend is fast, expected one of",
    ),
    "backend of a GPU": (
        ["char", "--data", "text.txt", *SMALL[2:], "--backend", "cudnn", "--device", "cpu"],
        "--backend is cudnn, but it needs an NVIDIA GPU, the device is a CPU; use --backend auto",
    ),
    "backend of a GPU, dry": (
        [*("char", "--data", "text.txt", *SMALL, "--dry-run"), "--backend", "persistent"],
        "--backend is persistent, but it needs an NVIDIA GPU",
    ),
    "backend of one device": (
        ["char", "--data", "text.txt", *SMALL, "--backend", "persistent", "--mesh", "data=2"],
        "--backend is persistent, which trains on one device, not on 2; use --backend auto",
    ),
    "backend without a cell": (
        ["char", "--data", "text.txt", "--cell", "mingru", "--backend", "cudnn"],
        "--backend is cudnn, expected one of auto, scan, reference, associative",
    ),
    "run exists": (
        ["char", "--data", "text.txt", *SMALL, "--run", "other"],
        "--run other exists already",
    ),
    "run under a file": (
        ["char", "--data", "text.txt", *SMALL, "--run", "text.txt/a"],
        "can't write the run directory text.txt/a: Not a directory",
    ),
    "no config": (["--config", "no.toml"], "can't read the configuration no.toml"),
    "unknown key": (
        ["--config", "bad.toml"],
        "bad.toml: unknown hiden_size; did you mean hidden_size? (the task 'char' has",
    ),
    "not TOML": (["--config", "not.toml"], "the configuration not.toml is not TOML"),
    "task of config": (
        ["char", "--config", "sine.toml"],
        "the task is 'char', but sine.toml is of the task 'sine'",
    ),
    "config and resume": (["--config", "run.toml", "--resume", "run"], "exclude each other"),
    "resume nothing": (["--resume", "no"], "no run directory no"),
    "resume no run": (["--resume", "other"], "other is not a run directory"),
    "resume another task": (
        ["sine", "--resume", "run"],
        "the task is 'sine', but run is of the task 'char'",
    ),
    "resume other options": (
        ["--resume", "run", "--hidden-size", "9", "--lr", "0.5", "--steps", "9"],
        "run was made by other options: --hidden-size is 9, the run has 5; --lr is 0.5, the run has"
        " 0.004; leave them out",
    ),
    "resume a cosine with other steps": (
        ["--resume", "run", "--steps", "9"],
        "--steps and --epochs give 9 steps, the run's cosine schedule was laid out for 6",
    ),
    "resume with other data": (
        ["--resume", "run", "--data", "latin.txt"],
        "latin.txt is not UTF-8",
    ),
    "unknown option": (["char", "--hiden-size", "3"], "--hiden-size"),
    "wrong choice": (["char", "--cell", "lstmm"], "lstmm"),
    "wrong type": (["char", "--hidden-size", "big"], "--hidden-size"),
    "no value": (["--resume"], "--resume"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_changes_nothing(case, folder, monkeypatch, capsys):
    argv, expected = BAD[case]
    monkeypatch.chdir(folder)
    before = snapshot(folder)
    code, out, err = command(monkeypatch, capsys, *argv)
    assert code == 2, err
    assert expected in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert out == ""
    assert snapshot(folder) == before


def test_text_that_a_run_was_not_made_with(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    for content, expected in (
        (TEXT[::-1], "is not what the run was made with"),
        (TEXT + "Z", "has 1 character that the vocabulary of"),
    ):
        (folder / "changed.txt").write_text(content)
        before = snapshot(folder)
        code, _, err = command(monkeypatch, capsys, "--resume", "run", "--data", "changed.txt")
        assert (code, err.count("\n")) == (2, 1)
        assert expected in err
        assert snapshot(folder) == before
    (folder / "changed.txt").unlink()


def damaged_copy(folder: Path, tmp_path: Path) -> Run:
    shutil.copytree(folder / "run", tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:-7])
    return Run.open(tmp_path / "run")


@pytest.mark.parametrize("gone", ["checkpoints", "their directory"])
def test_where_the_checkpoints_are_gone_the_rest_is_not_lost(
    gone, folder, tmp_path, monkeypatch, capsys
):
    shutil.copytree(folder / "run", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    if gone == "checkpoints":
        (tmp_path / "run" / "checkpoints").mkdir()
    before = snapshot(tmp_path)
    code, _, err = command(monkeypatch, capsys, "--resume", str(tmp_path / "run"))
    assert (code, err) == (
        2,
        f"error: {tmp_path / 'run'} has no checkpoints, though its metrics go up to step 6; put "
        "its directory checkpoints back, or start a new run\n",
    )
    assert snapshot(tmp_path) == before


def test_without_a_whole_checkpoint_nothing_is_touched(folder, tmp_path, monkeypatch, capsys):
    run = damaged_copy(folder, tmp_path)
    before = snapshot(tmp_path)
    code, _, err = command(monkeypatch, capsys, "--resume", str(run.path), "--log-every", "2")
    assert (code, err.count("\n")) == (2, 1)
    assert str(run.checkpoint_path("last")) in err
    assert snapshot(tmp_path) == before


def test_a_run_json_without_facts_is_no_run(folder, tmp_path, monkeypatch, capsys):
    run = damaged_copy(folder, tmp_path)
    about = json.loads((run.path / "run.json").read_text())
    (run.path / "run.json").write_text(json.dumps(about | {"facts": {}}))
    code, _, err = command(monkeypatch, capsys, "--resume", str(run.path))
    assert (code, err.count("\n")) == (2, 1)
    assert "run.json" in err


def test_a_run_directory_holds_all_of_it(folder):
    run = folder / "run"
    assert {path.name for path in run.iterdir()} == {
        *("config.toml", "run.json", "metrics.jsonl", "checkpoints", "loss.png", "samples.txt")
    }
    facts = json.loads((run / "run.json").read_text())["facts"]
    assert facts["vocabulary"] == {"kind": "characters", "symbols": "".join(sorted(set(TEXT)))}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]


def test_a_finished_run_says_so(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    before = checkpoint.read(folder / "run" / "checkpoints" / "last.safetensors")[1]
    code, out, err = command(monkeypatch, capsys, "--resume", "run")
    assert (code, err) == (0, "")
    assert "run is complete at step 6" in out
    assert checkpoint.read(folder / "run" / "checkpoints" / "last.safetensors")[1] == before


def test_bytes_take_any_file(folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "any").write_bytes(bytes(range(256)) * 2)
    monkeypatch.chdir(tmp_path)
    argv = ["--data", "any", "--tokens", "bytes", *SMALL, "--steps", "2", "--run", "a[/b] $^$"]
    code, out, err = command(monkeypatch, capsys, *argv)
    assert (code, err) == (0, "")
    assert "run     a[/b] $^$, 2 steps on " in out
    assert "python -m jaxrnn.evaluate " in out
    facts = json.loads((tmp_path / "a[/b] $^$" / "run.json").read_text())["facts"]
    assert facts["vocabulary"] == {"kind": "bytes", "symbols": ""}


def test_a_stream_that_cannot_show_a_sample_does_not_end_the_run(tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text("äöüß猫" * 60, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(
        sys, "argv", ["train", "--data", "text.txt", *SMALL, "--steps", "2", "--run", "a"]
    )
    assert train.main() == 0
    assert (tmp_path / "a" / "checkpoints" / "last.safetensors").exists()


def test_a_dry_run_shows_sizes_and_writes_nothing(tmp_path, monkeypatch, capsys):
    """Of the built-in text, as a run without arguments, but smaller."""
    monkeypatch.chdir(tmp_path)
    argv = ("--dry-run", "--hidden-size", "8", "--embedding-size", "0", "--cell", "rnn")
    code, out, err = command(monkeypatch, capsys, *argv)
    assert (code, err) == (0, "")
    assert os.listdir(tmp_path) == []
    assert "language reference" in out
    symbols = int(out.split(" symbols")[0].split()[-1])
    number = 8 * symbols + 8 * 8 + 8 + 8 + 8 * symbols + symbols
    assert f"rnn.weight_ih_l0 │ (8, {symbols})" in out
    assert f"{number:,}" in out
    assert f"{number * 4 / 2**20:.2f} MiB  parameters" in out
    assert "batch   inputs int32(32, 64), targets int32(32, 64)" in out
    loss = float(out.split("loss ")[1].split(",")[0])
    assert abs(loss - np.log(symbols)) < 0.3
    assert "nothing was written" in out


def test_a_dry_run_of_a_series_shows_it(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = str(folder / "rows.csv")
    argv = ("sine", "--data", data, "--target", "x", "--hidden-size", "4", "--dtype", "bfloat16")
    code, out, err = command(monkeypatch, capsys, *argv, "--dry-run")
    assert (code, err) == (0, "")
    assert "bfloat16" in out
    assert "batch   inputs float32(1, 20, 1), targets float32(1, 20, 1)" in out
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "argv",
    [
        ("sine", "--seq-len", "60", "--steps", "2"),  # validation of more than one window
        ("sine", "--data", "rows.csv", "--target", "x", "--val-fraction", "0", "--steps", "2"),
    ],
    ids=["a long sine", "no validation part"],
)
def test_series_train_to_the_end(argv, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    run = tmp_path / "a"
    argv = (*argv, "--hidden-size", "4", "--run", str(run))
    code, _, err = command(monkeypatch, capsys, *argv)
    assert (code, err) == (0, "")
    assert (run / "loss.png").exists()
    assert checkpoint.read(run / "checkpoints" / "last.safetensors")[1]["step"] == 2


def test_the_lessons_sine_is_learnt(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, out, err = command(monkeypatch, capsys, "sine", "--run", "sine")
    assert (code, err) == (0, "")
    run = Run.open("sine")
    lines = run.metrics()
    assert [line["step"] for line in lines] == list(range(1, 76))
    last = lines[-1]
    assert last["val_mse"] < last["naive_mse"] / 10
    assert last["naive_mse"] == pytest.approx(2 * np.sin(np.pi / 40) ** 2, rel=1e-3)
    assert last["loss"] < lines[0]["loss"] / 20
    assert (run.path / "prediction.png").read_bytes().startswith(b"\x89PNG")
    assert "last value" in out


def test_control_c_ends_after_a_checkpoint_and_resume_goes_on(
    folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    append = Run.append_metrics

    def interrupted(run, line):
        append(run, line)
        if line["step"] == 2:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Run, "append_metrics", interrupted)
    data = str(folder / "text.txt")
    argv = ("--data", data, *SMALL, "--steps", "5", "--steps-per-dispatch", "1", "--run", "a")
    code, out, err = command(monkeypatch, capsys, *argv)
    assert (code, err) == (130, "")
    step = checkpoint.read(Path("a/checkpoints/last.safetensors"))[1]["step"]
    assert 2 <= step < 5
    assert f"stopped by SIGINT after step {step}, saved; go on with" in out
    monkeypatch.setattr(Run, "append_metrics", append)
    code, out, err = command(monkeypatch, capsys, "--resume", "a")
    assert (code, err) == (0, "")
    assert [line["step"] for line in Run.open("a").metrics()] == [1, 2, 3, 4, 5]


def test_a_full_disk_is_one_line_and_the_run_goes_on_later(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    argv = ("--data", str(folder / "text.txt"), *SMALL, "--steps", "6", "--log-every", "1")
    whole = (*argv, "--checkpoint-every", "2", "--eval-every", "3")
    assert command(monkeypatch, capsys, *whole, "--run", "whole")[0] == 0
    save = checkpoint.save

    def full(path, tree, meta):
        if meta["step"] == 4:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        save(path, tree, meta)

    def no_picture(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "a/loss.png")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", full)
        patch.setattr("jaxrnn.plots.loss", no_picture)
        code, out, err = command(monkeypatch, capsys, *whole, "--run", "a")
    assert (code, err) == (
        1,
        "error: can't write a/checkpoints/last.safetensors: No space left on device; put that "
        "right and go on with --resume a\n",
    )
    assert "can't write a/loss.png: No space left on device" in out
    assert command(monkeypatch, capsys, "--resume", "a")[0] == 0
    (bits, meta), (expected, of_whole) = (
        checkpoint.read(Path(run) / "checkpoints" / "last.safetensors") for run in ("a", "whole")
    )
    assert meta["step"] == of_whole["step"] == 6
    assert {k: a.tobytes() for k, a in bits.items()} == {
        k: a.tobytes() for k, a in expected.items()
    }
    assert [line["step"] for line in Run.open("a").metrics()] == [1, 2, 3, 4, 5, 6]


def test_a_second_process_on_a_run_is_refused(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder / "run", "a")
    before = snapshot(Path("a"))
    with Run.open("a").locked():
        code, _, err = command(monkeypatch, capsys, "--resume", "a")
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith("error: a is being trained by another process; ")
    assert snapshot(Path("a")) == before


def test_a_loss_that_is_not_finite_is_one_line_and_code_1(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = [f"{k % 5}" for k in range(60)]
    Path("rows.csv").write_text("x\n" + "\n".join(rows))
    argv = ("sine", "--data", "rows.csv", "--hidden-size", "4", "--steps", "60", "--run", "a")
    argv = (*argv, "--optimizer", "sgd", "--lr", "1e30", "--checkpoint-every", "1")
    code, _, err = command(monkeypatch, capsys, *argv)
    assert code == 1
    assert err.startswith("error: step ")
    assert err.count("\n") == 1
    assert "a/checkpoints/last.safetensors" in err or "no checkpoint was made yet" in err


@pytest.mark.parametrize("saved", [False, True])
def test_what_is_too_large_leaves_no_directory_where_nothing_was_saved(
    saved, folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    argv = ("char", "--data", str(folder / "text.txt"), *SMALL, "--steps", "2", "--run", "a")

    def exhausted(task, data, run, **_):
        run.append_metrics({"step": 1})
        if saved:
            run.checkpoint_path("last").write_bytes(b"1")
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 7 bytes.")

    with monkeypatch.context() as patch:
        patch.setattr("jaxrnn.training.train", exhausted)
        code, _, err = command(monkeypatch, capsys, *argv)
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith("error: this is too large for the machine (RESOURCE_EXHAUSTED: ")
    assert os.listdir() == ["a"] * saved
    if not saved:
        assert command(monkeypatch, capsys, *argv)[0] == 0


def test_a_run_that_was_there_before_is_kept_though_it_is_too_large(
    folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder / "run", "a")
    shutil.rmtree("a/checkpoints")
    os.mkdir("a/checkpoints")
    Path("a/metrics.jsonl").unlink()  # as of a run that was killed before the first

    def exhausted(*_, **__):
        raise MemoryError

    monkeypatch.setattr("jaxrnn.training.train", exhausted)
    code, _, err = command(monkeypatch, capsys, "--resume", "a")
    assert (code, err.count("\n")) == (1, 1)
    assert (tmp_path / "a" / "run.json").exists()


def test_more_steps_than_an_int32_counts_are_refused(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    argv = ("char", "--data", str(folder / "text.txt"), *SMALL, "--run", "a", "--steps", "0")
    code, _, err = command(monkeypatch, capsys, *argv, "--epochs", str(2**31 - 1))
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith("error: --epochs is 2147483647, which are ")
    assert os.listdir() == []


def test_a_device_that_is_not_there(folder, monkeypatch, capsys):
    def no_devices():
        raise RuntimeError("Unknown backend tpu\nand more lines")

    monkeypatch.setattr(jax, "devices", no_devices)
    monkeypatch.setattr(type(jax.config), "update", lambda *_: None)
    code, _, err = command(
        monkeypatch, capsys, "--device", "tpu", "--data", str(folder / "text.txt")
    )
    assert code == 2
    assert err.startswith("error: --device tpu: JAX finds none here; install JAX for it (")
    assert err.count("\n") == 1


def test_errors_are_raised_to_who_calls_it_from_python(folder):
    with pytest.raises(InputError, match="no such file"):
        train.run_command(["--data", "no.txt"])


def test_names_are_shown_as_they_are_in_tables():
    out = io.StringIO()
    console = Console(file=out, width=80, highlight=False)
    console.print(report.metrics_table({"a[/b].txt": {"nats": 1.5}, "[red]": {"nats": 2.0}}))
    assert "a[/b].txt" in out.getvalue()
    assert "[red]" in out.getvalue()
