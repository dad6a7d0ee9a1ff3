"""Whatever is given, the answer is an error of one line, or what was asked for.

Drawn and altered options, files and run directories; here some hundred of each, by ``-m slow`` some
thousand. Cases made by hand are beside what they are about (``test_train``, ``test_series``, ...).
"""

import contextlib
import copy
import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from unchecked_config import config_file, config_module

from jaxrnn import checkpoint, runs, sample, train
from jaxrnn.config import CONFIGS as CONFIG_CLASSES
from jaxrnn.config import CharConfig, SeriesConfig
from jaxrnn.data.drawings import read_drawings
from jaxrnn.errors import InputError
from jaxrnn.runs import Run
from jaxrnn.tasks import TASKS

CONFIGS, from_values = config_module.CONFIGS, config_file.from_values
from_toml, to_toml = config_file.from_toml, config_file.to_toml
COUNTS = [60, pytest.param(1500, marks=pytest.mark.slow)]
pytestmark = pytest.mark.parametrize("count", COUNTS)
ODD = st.sampled_from(
    [
        "",
        "0",
        "-1",
        "nan",
        "inf",
        "1e400",
        "1_0",
        "٣",
        "true",
        "null",
        "a\nb",
        "\x7f",
        "💥",
        "'",
        '"',
    ]
)
NUMBERS = st.one_of(st.integers(), st.integers(-3, 300), st.floats())
VALUES = st.one_of(NUMBERS, st.booleans(), st.none(), ODD, st.text(max_size=9), st.just([1]))


def drawn(count: int, strategy: Any, body: Callable[[Any], Any]) -> None:
    """Run ``body`` on so many draws: it ends well, or in an InputError of one line."""

    @settings(
        max_examples=count,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[*HealthCheck],  # type: ignore[arg-type]
    )
    @given(strategy)
    def each(value):
        said = None
        try:
            body(value)
        except InputError as error:
            said = str(error)
        assert said is None or (said.strip() and "\n" not in said)

    each()


def altered(content: bytes) -> st.SearchStrategy[bytes]:
    """The content cut, with bytes of it replaced, or with others put in."""
    place = st.integers(0, len(content))

    def change(changes):
        data = bytearray(content)
        for kind, at, piece in changes:
            if kind == "cut":
                del data[at:]
            elif kind == "replace":
                data[at : at + len(piece)] = piece
            else:
                data[at:at] = piece
        return bytes(data)

    kinds = st.sampled_from(["cut", "replace", "insert"])
    pieces = st.one_of(st.binary(max_size=4), ODD.map(str.encode))
    return st.lists(st.tuples(kinds, place, pieces), min_size=1, max_size=3).map(change)


@pytest.mark.parametrize("task", CONFIGS)
def test_options_from_a_file(task, count):
    names = [field.name for field in dataclasses.fields(CONFIGS[task])]
    options = st.dictionaries(st.sampled_from([*names, "lrr", ""]), VALUES, max_size=5)
    drawn(count, options, lambda values: from_values({"task": task, **values}, "my.toml"))


@pytest.mark.parametrize("task", CONFIGS)
def test_files_of_options(task, count, tmp_path):
    path = tmp_path / "my.toml"

    def read(content):
        path.write_bytes(content)
        from_toml(path)

    drawn(count, altered(to_toml(task, CONFIGS[task]()).encode()), read)


@pytest.mark.parametrize("task", CONFIGS)
def test_command_lines(task, count, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = [f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(CONFIGS[task])]
    more = ["--config", "--resume", "--print-config", "--dry-run", "--coordinator", "--process-id"]
    words = st.one_of(st.sampled_from([*flags, *more]), VALUES.map(str))
    words = words.filter(lambda word: word not in ("-h", "--help"))
    drawn(count // 5, st.lists(words, max_size=6), lambda argv: train.parse([task, *argv]))
    assert list(tmp_path.iterdir()) == []


def test_texts(count, tmp_path):
    path = tmp_path / "text"
    seeds = ["the cat sat on the mat " * 9, "a" * 300, "\r\n" * 99, "\ufeffé猫" * 50, "\0" * 200]
    contents = st.one_of(
        st.binary(max_size=300), *(altered(text.encode()) for text in seeds), st.just(b"")
    )
    sizes = st.integers(1, 9)

    def read(drawn):
        content, tokens, batches, batch_size, seq_len = drawn
        path.write_bytes(content)
        config = CharConfig(
            data=str(path), tokens=tokens, batches=batches, batch_size=batch_size, seq_len=seq_len
        )
        _, data = TASKS["char"].load(config)
        assert data.train.steps_per_epoch > 0

    tokens, batches = st.sampled_from(["characters", "bytes"]), st.sampled_from(["next", "lesson"])
    drawn(count, st.tuples(contents, tokens, batches, sizes, sizes), read)


CELLS = st.one_of(
    st.floats().map(str),
    st.integers().map(str),
    ODD,
    st.sampled_from(["1,5", "1.5", "NA", "NaN", "2020-01-01", "01/02/2020", "13.5.2021", '"a,b"']),
)


def test_tables(count, tmp_path):
    path = tmp_path / "table.csv"
    days = [
        f"2020-{1 + k // 28:02d}-{1 + k % 28:02d},{k % 7 + k / 9:.2f},{k % 5}" for k in range(150)
    ]
    table = "\n".join(["date,a,b", *days]).encode()
    free = st.tuples(
        st.sampled_from([",", ";", "\t", "|"]),
        st.lists(st.lists(CELLS, max_size=4), max_size=9),
    ).map(lambda drawn: "\n".join(drawn[0].join(row) for row in drawn[1]).encode())
    contents = st.one_of(free, altered(table), st.binary(max_size=99))
    choices = st.fixed_dictionaries(
        {},
        optional={
            "gaps": st.sampled_from(["error", "interpolate", "previous"]),
            "duplicates": st.sampled_from(["error", "first", "last", "mean"]),
            "targets": st.sampled_from([("a",), ("b", "a"), ("c",), ("date",)]),
            "split": st.sampled_from(
                ["0.5,0.2,0.3", "100,20,20", "2020-03-01,2020-04-01", "x", ""]
            ),
            "horizon": st.integers(-1, 200),
            "input_len": st.integers(0, 200),
        },
    )

    def read(drawn):
        content, options = drawn
        path.write_bytes(content)
        _, data = TASKS["series"].load(SeriesConfig(data=str(path), **options))
        (past, known), targets, _ = data.train.batch_at(0)
        assert all(np.isfinite(array).all() for array in (past, known, targets))

    drawn(count, st.tuples(contents, choices), read)


def npz() -> bytes:
    buffer = io.BytesIO()
    points = np.ones((12, 3), np.int16)
    arrays = {f"{part}_points": points for part in ("train", "valid", "test")}
    lengths = {f"{part}_lengths": np.array([6, 6]) for part in ("train", "valid", "test")}
    np.savez(buffer, **arrays, **lengths)  # type: ignore[arg-type]
    return buffer.getvalue()


FILES = {
    "cat.npz": npz(),
    "cat.ndjson": b'{"word": "cat", "drawing": [[[0, 5, 9], [3, 4, 4]], [[1, 2], [3, 9]]]}\n' * 9,
    "cat.svg": b'<svg xmlns="http://www.w3.org/2000/svg"><path d="M0 0L3 4 C1 2 3 4 5 6z"/></svg>',
}


@pytest.mark.parametrize("name", FILES)
def test_drawings(name, count, tmp_path):
    path = tmp_path / name

    def read(content):
        path.write_bytes(content)
        read_drawings((str(path),), 250)

    drawn(count, altered(FILES[name]), read)


@pytest.fixture
def run(tmp_path) -> Run:
    facts = {"vocabulary": {"kind": "characters", "symbols": "ab"}, "digest": "00"}
    run = Run.create("char", CharConfig(run=str(tmp_path / "a"), hidden_size=2), facts)
    run.save({"params": {"w": np.ones(3)}, "step": np.int32(1)}, {"step": 1})
    return run


@pytest.mark.parametrize("name", ["run.json", "config.toml"])
def test_run_directories(name, run, count, monkeypatch):
    checked = runs.from_values

    def as_users_have_it(values, source):
        from_values(values, source)
        return checked(values, source)

    monkeypatch.setattr(runs, "from_values", as_users_have_it)
    path = run.path / name
    whole = path.read_bytes()

    def read(content):
        path.write_bytes(content)
        Run.open(run.path)

    drawn(count, altered(whole), read)


def places_in(values: Any, place: tuple = ()) -> list[tuple]:
    """Where there is something in JSON: keys and numbers from the outermost on."""
    pairs = values.items() if isinstance(values, dict) else enumerate(values)
    found = []
    for key, inner in pairs:
        found.append((*place, key))
        if isinstance(inner, dict | list):
            found += places_in(inner, found[-1])
    return found


def put(values: Any, place: tuple, new: Any) -> Any:
    """The JSON with another value in a place."""
    if not place:
        return new
    key, *rest = place
    values = copy.copy(values)
    if isinstance(values, list | dict):
        with contextlib.suppress(LookupError, TypeError):  # another change has taken it away
            values[key] = put(values[key], tuple(rest), new)
    return values


@pytest.mark.parametrize("task", CONFIGS)
def test_facts_of_any_kind(task, tmp_path, count):
    made, data = TASKS[task].load(CONFIG_CLASSES[task](run=str(tmp_path / "a")))
    run = Run.create(task, made.config, data.facts)
    path = run.path / "run.json"
    content = json.loads(path.read_text())
    anything = st.recursive(
        VALUES, lambda v: st.one_of(st.lists(v, max_size=3), st.dictionaries(ODD, v, max_size=3))
    )
    places = st.sampled_from(places_in(content["facts"]))
    changes = st.lists(st.tuples(places, anything), min_size=1, max_size=3)

    def read(changes):
        facts = content["facts"]
        for place, value in changes:
            facts = put(facts, place, value)
        path.write_text(json.dumps(content | {"facts": facts}))
        opened = Run.open(run.path)
        made = TASKS[task].from_facts(opened.config, opened.facts)
        if task == "series":
            made.errors()
            if made.frequency is not None and made.start is not None:
                assert made.frequency.name
                assert len(made.frequency.after(np.datetime64(made.start), 100)) == 100
                TASKS[task].load(opened.config, opened.facts)

    drawn(count, changes, read)


def test_checkpoints(run, count):
    path = run.checkpoint_path("last")
    whole = path.read_bytes()

    def read(content):
        path.write_bytes(content)
        arrays, _ = checkpoint.read(path)
        assert arrays["params/w"].tolist() == [1.0, 1.0, 1.0]

    drawn(count, altered(whole), read)


def test_sampling_options(run, count):
    flags = st.sampled_from(["--length", "--temperature", "--top-k", "--seed", "--prime", "--xyz"])
    words = st.lists(st.one_of(flags, VALUES.map(str)), min_size=1, max_size=5)
    words = words.filter(lambda argv: not {"-h", "--help"} & set(argv))
    before = {p: p.read_bytes() for p in Path(run.path).rglob("*") if p.is_file()}
    drawn(count // 5, words, lambda argv: sample.run_command([str(run.path), *argv]))
    assert {p: p.read_bytes() for p in Path(run.path).rglob("*") if p.is_file()} == before
