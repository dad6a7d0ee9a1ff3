"""The command that draws: what it writes, and what it refuses."""

import errno
import functools
import json
import os
from pathlib import Path

import command_line
import numpy as np
import pytest
from matplotlib import image
from small_runs import char_config, train
from test_sketch_task import config_of, write_npz

from jaxrnn import draw
from jaxrnn.data.sketch_output import from_json, to_json
from jaxrnn.data.sketches import read_sketches


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("draw")
    files = [write_npz(folder / f"{name}.npz", seed=k) for k, name in enumerate(("cats", "dogs"))]
    for name, options in (("vae", {}), ("plain", {"conditional": False})):
        config = config_of(*files, run=str(folder / name), steps=1, **options)
        train(config, "sketch")
    begun = np.array([[0, 0, 0], [30, 5, 0], [2, 40, 1]], np.float32)
    turned = begun * np.array([[-1, -1, 1]], np.float32)
    (folder / "begun.json").write_text(to_json([begun]))
    (folder / "two.json").write_text(to_json([begun, turned]))
    return folder


command = functools.partial(command_line.run, draw.main)


def test_new_drawings_of_the_asked_number_and_class(runs, tmp_path, monkeypatch, capsys):
    found = {}
    for name in ("cats", "dogs"):
        path = tmp_path / f"{name}.json"
        arguments = (runs / "vae", "--to", path, "--count", "3", "--class", name, "--length", "6")
        code, out, err = command(monkeypatch, capsys, *arguments)
        assert (code, err) == (0, "")
        found[name] = from_json(path.read_text())
        points = sum(map(len, found[name]))
        assert out == f"wrote {path}: 3 drawings of {points:,} points\n"
        assert len(found[name]) == 3
    assert json.loads(to_json(found["cats"])) != json.loads(to_json(found["dogs"]))


def test_the_same_seed_draws_the_same_in_every_form(runs, tmp_path, monkeypatch, capsys):
    for name in ("a.json", "b.json", "a.svg", "a.png"):
        arguments = (runs / "plain", "--to", tmp_path / name, "--count", "1", "--length", "9")
        assert command(monkeypatch, capsys, *arguments, "--seed", "5")[0] == 0
    assert (tmp_path / "a.json").read_text() == (tmp_path / "b.json").read_text()
    (drawing,) = from_json((tmp_path / "a.json").read_text())
    assert len(drawing) > 0
    assert "<path " in (tmp_path / "a.svg").read_text()
    picture = image.imread(tmp_path / "a.png")
    assert (picture[..., :3] < 0.5).any()


def test_endings_begin_with_what_was_begun(runs, tmp_path, monkeypatch, capsys):
    path = tmp_path / "a.json"
    arguments = ("--prefix", runs / "begun.json", "--count", "2", "--to", path)
    assert command(monkeypatch, capsys, runs / "plain", *arguments)[0] == 0
    (begun,) = from_json((runs / "begun.json").read_text())
    for drawing in from_json(path.read_text()):
        np.testing.assert_array_equal(drawing[:3], begun)
    svg = tmp_path / "a.svg"
    assert command(monkeypatch, capsys, runs / "plain", *arguments[:-1], svg)[0] == 0
    assert svg.read_text().count("#d6336c") == 2


def added_to(path, folder, begun, *options, run, monkeypatch, capsys):
    """What the model adds to each of some endings, by their offsets."""
    (folder / "begun.json").write_text(to_json([begun]))
    arguments = ("--prefix", folder / "begun.json", "--count", "3", "--to", path, *options)
    assert command(monkeypatch, capsys, run, *arguments)[0] == 0
    return [drawing[len(begun) :] for drawing in from_json(path.read_text())]


def test_endings_do_not_depend_on_where_a_drawing_stands_nor_on_its_unit(
    runs, tmp_path, monkeypatch, capsys
):
    about = {"run": runs / "plain", "monkeypatch": monkeypatch, "capsys": capsys}
    path = tmp_path / "a.json"
    begun = np.array([[0, 0, 0], [30, 5, 0], [2, 40, 1]], np.float32)
    expected = added_to(path, tmp_path, begun, **about)
    assert all(len(drawing) > 0 for drawing in expected)
    moved = begun + np.array([[400, -300, 0], [0, 0, 0], [0, 0, 0]], np.float32)
    for got, drawing in zip(added_to(path, tmp_path, moved, **about), expected, strict=True):
        np.testing.assert_array_equal(got, drawing)
    extent = json.loads((runs / "plain" / "run.json").read_text())["facts"]["extent"]
    halved = begun * np.array([0.5, 0.5, 1], np.float32)
    smaller = added_to(path, tmp_path, halved, "--span", str(extent / 2), **about)
    for got, drawing in zip(smaller, expected, strict=True):
        np.testing.assert_allclose(2 * got[:, :2], drawing[:, :2], atol=1e-2)


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.parametrize("name", ["a.svg", "a.json"])
def test_a_span_that_float32_does_not_hold_is_refused(runs, tmp_path, monkeypatch, capsys, name):
    path = tmp_path / name
    arguments = ("--prefix", runs / "begun.json", "--to", path, "--span", "1e308")
    code, _, err = command(monkeypatch, capsys, runs / "plain", *arguments)
    assert code == 2
    assert "expected finite offsets; lower --span" in err
    assert err.count("\n") == 1
    assert not path.exists()


def test_a_drawing_is_drawn_again_as_of_its_own_class(runs, tmp_path, monkeypatch, capsys):
    dogs = runs / "dogs.npz"
    found = {}
    for name, options in (
        ("own", ()),
        ("dogs", ("--class", "dogs")),
        ("cats", ("--class", "cats")),
    ):
        path = tmp_path / f"{name}.json"
        arguments = ("--again", dogs, "--to", path, *options)
        assert command(monkeypatch, capsys, runs / "vae", *arguments)[0] == 0
        found[name] = path.read_text()
    assert found["own"] == found["dogs"] != found["cats"]


def test_drawings_go_through_the_latent_vector_and_between(runs, tmp_path, monkeypatch, capsys):
    again, between = tmp_path / "again.json", tmp_path / "between.json"
    two = runs / "two.json"
    assert command(monkeypatch, capsys, runs / "vae", "--again", two, "--to", again)[0] == 0
    given, drawn = from_json(two.read_text()), from_json(again.read_text())
    assert len(drawn) == 4
    for k in (0, 1):
        np.testing.assert_array_equal(drawn[2 * k], given[k])
    arguments = ("--between", two, "--count", "3", "--to", between)
    assert command(monkeypatch, capsys, runs / "vae", *arguments)[0] == 0
    assert len(from_json(between.read_text())) == 3


def test_an_svg_can_draw_itself(runs, tmp_path, monkeypatch, capsys):
    path = tmp_path / "a.svg"
    code, _, _ = command(monkeypatch, capsys, runs / "plain", "--seconds", "2", "--to", path)
    assert code == 0
    assert "<animate" in path.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "a.gif"], "--to is 'a.gif', expected a name in .svg, .png, .json"),
        (["--count", "0"], "--count is 0, expected from 1 to 1000"),
        (["--temperature", "-1"], "--temperature is -1.0, expected a number from 0 to 100"),
        (["--temperature", "1e300"], "--temperature is 1e+300, expected a number from 0 to 100"),
        (["--span", "inf"], "--span is inf, expected a number from 0 on"),
        (["--length", "100000"], "--length is 100000, expected from 0 to 10000"),
        (["--seconds", "1e5"], "--seconds is 100000.0, expected a number from 0 to 3600"),
        (["--prefix", "a", "--again", "b"], "--prefix and --again exclude each other; give one"),
        (["--seconds", "1", "--to", "a.png"], "--seconds is 1.0, expected 0 for a.png: SVG moves"),
        (["--class", "birds"], "--class is 'birds', expected one of cats, dogs"),
        (["--prefix", "missing.svg"], "missing.svg"),
        (["--between", "{runs}/begun.json"], "begun.json has 1 drawings, expected 2"),
        (["--again", "{runs}/none.json"], "none.json has no drawing with points in it"),
        (["--to", "{runs}/no/such/a.svg"], "can't write --to {runs}/no/such/a.svg: No such file"),
    ],
)
def test_bad_input_is_one_line(runs, tmp_path, monkeypatch, capsys, arguments, message):
    (runs / "none.json").write_text("[[]]")
    monkeypatch.chdir(tmp_path)
    arguments = [a.format(runs=runs) for a in arguments]
    code, out, err = command(monkeypatch, capsys, runs / "vae", *arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert message.format(runs=runs) in err
    assert list(Path(tmp_path).iterdir()) == []


@pytest.mark.parametrize("suffix", ["svg", "png", "json"])
def test_a_full_disk_leaves_what_was_there(runs, tmp_path, monkeypatch, capsys, suffix):
    path = tmp_path / f"a.{suffix}"
    path.write_text("kept")

    def fails(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", fails)
    code, _, err = command(monkeypatch, capsys, runs / "plain", "--to", path, "--count", "1")
    assert (code, err) == (2, f"error: can't write --to {path}: No space left on device\n")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [(path.name, "kept")]


def test_what_is_read_is_not_written_over(runs, tmp_path, monkeypatch, capsys):
    path = tmp_path / "begun.json"
    path.write_text((runs / "begun.json").read_text())
    code, _, err = command(monkeypatch, capsys, runs / "plain", "--prefix", path, "--to", path)
    assert (code, err) == (
        2,
        f"error: --to is {path}, which --prefix reads; choose another name\n",
    )


def test_a_runs_own_files_are_not_written_over(runs, tmp_path, monkeypatch, capsys):
    path = runs / "plain" / "run.json"
    before = path.read_bytes()
    (tmp_path / "link.svg").symlink_to(path)
    for to in (path, tmp_path / "link.svg"):
        code, out, err = command(monkeypatch, capsys, runs / "plain", "--to", to)
        said = f"error: --to is {to}, which a run can't be without; choose another name\n"
        assert (code, out, err) == (2, "", said)
    (tmp_path / "a.svg").mkdir()
    code, out, err = command(monkeypatch, capsys, runs / "plain", "--to", tmp_path / "a.svg")
    said = f"error: --to is {tmp_path / 'a.svg'}, a directory, expected a file; name one in it\n"
    assert (code, out, err) == (2, "", said)
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.svg", "link.svg"]


def test_what_a_run_can_not_do_is_said(runs, tmp_path, monkeypatch, capsys):
    for name in ("again", "between"):
        arguments = (runs / "plain", f"--{name}", runs / "two.json", "--to", tmp_path / "a.svg")
        code, _, err = command(monkeypatch, capsys, *arguments)
        assert code == 2
        assert f"--{name}: the run was trained with --no-conditional" in err
    (tmp_path / "text.txt").write_text("abc abd " * 40)
    run, _ = train(char_config(str(tmp_path / "text.txt"), run=str(tmp_path / "run"), steps=1))
    code, _, err = command(monkeypatch, capsys, run.path)
    assert (code, err) == (2, f"error: {run.path} is of the task 'char', expected 'sketch'\n")


def test_files_of_other_forms_are_read_too(runs, tmp_path, monkeypatch, capsys):
    arguments = (runs / "plain", "--count", "1", "--length", "4", "--to")
    assert command(monkeypatch, capsys, *arguments, tmp_path / "begun.svg")[0] == 0
    begun = read_sketches(tmp_path / "begun.svg").train[0]
    path = tmp_path / "more.json"
    assert (
        command(monkeypatch, capsys, *arguments, path, "--prefix", tmp_path / "begun.svg")[0] == 0
    )
    np.testing.assert_allclose(from_json(path.read_text())[0][: len(begun)], begun, atol=1e-3)
