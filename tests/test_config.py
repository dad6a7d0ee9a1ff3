import dataclasses
import math
import tomllib
import typing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import message
from unchecked_config import config_file, config_module

CONFIGS = config_module.CONFIGS
CharConfig, SineConfig = config_module.CharConfig, config_module.SineConfig
SeriesConfig, SketchConfig = config_module.SeriesConfig, config_module.SketchConfig
from_toml, from_values, toml_of = (
    config_file.from_toml,
    config_file.from_values,
    config_file.to_toml,
)
PROPERTY = settings(derandomize=True, deadline=None, max_examples=100)
RANGES = {
    "lr": st.floats(1e-30, 1e3),
    "dropout": st.floats(0, 1),
    "mesh": st.sampled_from(["auto", "data=1"]),
    "val_fraction": st.floats(0, 1, exclude_max=True),
    "momentum": st.floats(0, 0.999),
    "clip": st.floats(0, 3.3e38),
    "backend": st.sampled_from(["auto", "scan", "reference"]),
    "seed": st.integers(0, 2**32 - 1),
    "steps": st.integers(1, 10**9),
    **dict.fromkeys(
        (
            *("recurrent_dropout", "weight_drop", "input_dropout", "embedding_dropout"),
            "reset_probability",
        ),
        st.floats(0, 1),
    ),
    "drop_points": st.floats(0, 1),
    "random_scale": st.floats(0, 0.999),
    "quantiles": st.sampled_from([(0.1, 0.5, 0.9), (0.025, 0.25, 0.5, 0.75, 0.975)]),
    "kl_decay": st.floats(0.001, 1),
    "lr_decay": st.floats(0.001, 1),
    "ema_decay": st.floats(0.001, 0.9999),
}


def strategy_of(name: str, hint: Any):
    if name in RANGES:
        return RANGES[name]
    if typing.get_origin(hint) is typing.Literal:
        return st.sampled_from(typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return st.lists(strategy_of(name, str).filter(bool), max_size=3).map(tuple)
    if hint is str:
        characters = st.characters(exclude_categories=("Cs",), exclude_characters="\0")
        return st.text(characters, max_size=20)
    if hint is float:
        return st.one_of(st.floats(0, 1e30), st.integers(0, 9))
    if hint is bool:
        return st.booleans()
    assert hint is int, f"no strategy for {name}: {hint}"
    return st.integers(1, min(config_module.MOST.get(name, 10**9), 10**9))


def is_used(name: str, values) -> bool:
    """Whether a forecaster with these options has a use for one; others are refused."""
    point, head = values["distribution"] == "point", values["head"]
    used = {
        "segment_len": head == "segments",
        "covariates": head != "segments",
        "loss": point,
        "quantiles": not point,
        "num_samples": head == "recursive" and values["distribution"] == "student_t",
    }
    return used.get(name, True)


@st.composite
def configs(draw):
    task = draw(st.sampled_from(sorted(CONFIGS)))
    hints = typing.get_type_hints(CONFIGS[task])
    values = {name: draw(strategy_of(name, hint)) for name, hint in hints.items()}
    if values.get("cell") in config_module.MIN_CELLS:
        values["weight_drop"] = 0.0
    if not values.get("dropout"):
        values.pop("locked_dropout", None)
    if values.get("remat") or values.get("seq_len") == 1:
        values.pop("temporal_reg", None)
    if values.get("tie_embeddings"):
        values["embedding_size"] = values["hidden_size"]
    if task == "series":
        values = {name: value for name, value in values.items() if is_used(name, values)}
    return task, CONFIGS[task](**values)


@PROPERTY
@given(configs())
def test_every_option_comes_back_from_toml(case):
    task, config = case
    text = toml_of(task, config)
    values = tomllib.loads(text)
    assert set(values) == {"task"} | {field.name for field in dataclasses.fields(config)}
    assert from_values(values, "here") == (task, config)


@pytest.mark.parametrize(
    "name",
    [
        "plain",
        'a "b" \\n c\\',
        "tab\there\nand\r\nlines",
        "ü € 😀  ",
        "'''\"\"\"#=[x]",
        "\x01\x1b\x7f",
    ],
)
def test_strings_come_back_from_a_file(name, tmp_path):
    path = tmp_path / "a.toml"
    path.write_bytes(toml_of("char", CharConfig(data=name, run=name)).encode())
    assert from_toml(path) == ("char", CharConfig(data=name, run=name))


@pytest.mark.parametrize("value", [1e-3, 5e-324, 1e22, 1.5e-7, 3, 3.3e38])
def test_numbers_come_back_from_a_file(value, tmp_path):
    path = tmp_path / "a.toml"
    path.write_text(toml_of("sine", SineConfig(clip=value)))
    assert from_toml(str(path)) == ("sine", SineConfig(clip=value))


def test_a_name_that_is_not_unicode_is_refused():
    # So Python gives an argument that is not UTF-8: TOML and JSON have no way to write it.
    assert "--data" in message(CharConfig, data="caf\udce9.txt")


@pytest.mark.parametrize("task", CONFIGS)
def test_what_a_file_leaves_out_has_the_tasks_default(task, tmp_path):
    path = tmp_path / "a.toml"
    path.write_text(f'task = "{task}"\nseed = 7\nlr = 1\n')
    found = from_toml(path)
    assert found == (task, CONFIGS[task](seed=7, lr=1.0))
    assert type(found[1].lr) is float


def test_a_file_without_task_is_of_characters(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text("")
    assert from_toml(path) == ("char", CharConfig())


def test_defaults_of_drawings_are_magentas():
    config = SketchConfig()
    assert (config.decoder, config.hidden_size, config.encoder_size) == ("lstm", 512, 256)
    assert (config.latent_size, config.num_mixtures, config.batch_size) == (128, 20, 100)
    assert (config.kl_weight, config.kl_weight_start, config.kl_decay) == (0.5, 0.01, 0.99995)
    assert (config.kl_floor, config.recurrent_dropout, config.max_len) == (0.2, 0.1, 250)
    assert (config.lr, config.lr_decay, config.lr_final) == (1e-3, 0.9999, 1e-5)
    assert (config.clip, config.clip_value, config.schedule) == (0.0, 1.0, "exponential")
    assert (config.random_scale, config.drop_points, config.conditional) == (0.15, 0.1, True)


def test_defaults_of_the_two_tasks_of_streams():
    char, series = CharConfig(), SineConfig()
    assert (char.cell, char.hidden_size, char.batch_size, char.seq_len) == ("lstm", 256, 32, 64)
    assert (char.tokens, char.batches, char.clip) == ("characters", "next", 5.0)
    assert (series.cell, series.hidden_size, series.num_layers) == ("rnn", 32, 1)
    assert (series.batch_size, series.seq_len, series.epochs) == (1, 20, 1)
    assert (series.lr, series.clip, series.optimizer) == (0.01, 0.0, "adam")


@pytest.mark.parametrize("config_class", CONFIGS.values())
def test_configs_are_frozen(config_class):
    with pytest.raises(dataclasses.FrozenInstanceError):
        config_class().lr = 1.0


BAD_VALUES = [
    ("hidden_size", 0, "--hidden-size is 0, expected at least 1"),
    ("hidden_size", -3, "--hidden-size is -3, expected at least 1"),
    ("hidden_size", 2.5, "--hidden-size is 2.5, expected a value of type int"),
    ("hidden_size", "8", "--hidden-size is '8', expected a value of type int"),
    ("hidden_size", True, "--hidden-size is True, expected a value of type int"),
    ("num_layers", 0, "--num-layers is 0, expected at least 1"),
    ("batch_size", 0, "--batch-size is 0, expected at least 1"),
    ("seq_len", 0, "--seq-len is 0, expected at least 1"),
    ("eval_streams", 0, "--eval-streams is 0, expected at least 1"),
    ("lr", 0, "--lr is 0, expected above 0"),
    ("lr", -1e-3, "--lr is -0.001, expected above 0"),
    ("lr", "fast", "--lr is 'fast', expected a value of type float"),
    ("lr", False, "--lr is False, expected a value of type float"),
    ("clip", -1, "--clip is -1, expected at least 0"),
    ("dropout", 1.5, "--dropout is 1.5, expected a probability in 0..1"),
    ("dropout", -0.1, "--dropout is -0.1, expected a probability in 0..1"),
    ("val_fraction", 1.0, "--val-fraction is 1.0, expected in 0..1, less than 1"),
    ("val_fraction", -0.1, "--val-fraction is -0.1, expected in 0..1, less than 1"),
    ("seed", 2**32, "--seed is 4294967296, expected less than 2**32"),
    ("cell", "lstmm", "--cell is 'lstmm', expected one of lstm, gru, rnn"),
    ("cell", 3, "--cell is 3, expected one of lstm, gru, rnn"),
    ("cell", ["gru"], "--cell is ['gru'], expected one of lstm, gru, rnn"),
    *(
        ("ema_decay", decay, f"--ema-decay is {decay}, expected above 0, less than 1")
        for decay in (0.0, 1.0)
    ),
    *(
        (name, -1, f"--{name.replace('_', '-')} is -1, expected at least 0")
        for name in (
            *("epochs", "steps", "momentum", "weight_decay", "warmup_steps", "lr_final"),
            *("eval_every", "checkpoint_every", "log_every", "patience", "min_delta", "seed"),
            *("steps_per_dispatch", "asgd_patience"),
        )
    ),
]


@pytest.mark.parametrize(
    ("config_class", "name", "value", "expected"),
    [
        (config_class, *row)
        for config_class in CONFIGS.values()
        for row in BAD_VALUES
        if row[0] in config_class.__dataclass_fields__
        and not (config_class is SeriesConfig and row[1] == 0 and row[0] == "hidden_size")
    ],
)
def test_bad_values_are_named_as_their_flag(config_class, name, value, expected):
    if (config_class, name) == (CharConfig, "cell"):
        expected += ", mingru, minlstm"
    if (config_class, name, value) == (SeriesConfig, "hidden_size", -3):
        expected = "--hidden-size is -3, expected at least 0"
    assert message(config_class, **{name: value}) == expected


@pytest.mark.parametrize("task", CONFIGS)
def test_what_is_beyond_sense_is_refused(task):
    most = config_module.MOST
    names = [field.name for field in dataclasses.fields(CONFIGS[task]) if field.name in most]
    assert {"steps", "warmup_steps", "hidden_size", "batch_size", "steps_per_dispatch"} <= {*names}
    for name in names:
        flag = f"--{name.replace('_', '-')}"
        for value in (most[name] + 1, 10**30):
            text = message(from_values, {"task": task, name: value}, "x")
            assert text == f"x: {flag} is {value}, expected at most {most[name]}"
    for name in ("steps", "epochs", "warmup_steps", "hidden_size", "steps_per_dispatch"):
        assert getattr(CONFIGS[task](**{name: most[name]}), name) == most[name]
    assert most["steps"] == most["epochs"] == most["warmup_steps"] == 2**31 - 1  # an int32's


@pytest.mark.parametrize("config_class", CONFIGS.values())
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 3.5e38, -(10**39)])
def test_every_number_is_finite_in_float32(config_class, value):
    hints = typing.get_type_hints(config_class)
    floats = [name for name, hint in hints.items() if hint is float]
    assert len(floats) >= 10
    for name in floats:
        flag = name.replace("_", "-")
        expected = f"--{flag} is {value}, expected a finite number, less than 3.4e38"
        assert message(config_class, **{name: value}) == expected
    if "quantiles" in hints:
        text = message(config_class, quantiles=(0.1, 0.5, value))
        assert text == f"--quantiles is {value}, expected a finite number, less than 3.4e38"


@pytest.mark.parametrize("config_class", CONFIGS.values())
def test_no_text_has_a_null_character(config_class):
    hints = typing.get_type_hints(config_class)
    expected = "is 'a\\x00b', expected no null character in it; take it out"
    for name, hint in hints.items():
        value = {str: "a\0b", tuple[str, ...]: ("x", "a\0b")}.get(hint)
        if value is not None:
            flag = name.replace("_", "-")
            assert message(config_class, **{name: value}) == f"--{flag} {expected}"


def test_a_list_has_no_empty_name():
    # The directory "" is the current one: all drawings there would be read.
    for config_class, name in ((SketchConfig, "data"), (SeriesConfig, "targets")):
        assert message(config_class, **{name: ("a", "")}) == (
            f"--{name} has an empty name in it, expected names; take it out"
        )
    assert CharConfig(data="").data == ""


def test_files_are_named_by_texts():
    assert message(CharConfig, data=5) == "--data is 5, expected a value of type str"
    assert message(SketchConfig, data="a.npz") == "--data is 'a.npz', expected a list"
    assert message(SketchConfig, data=("a", 5)) == "--data is 5, expected a value of type str"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("decoder", "gru", "'gru', expected one of lstm, layer_norm, hyper"),
        ("recurrent_dropout", 1.1, "1.1, expected a probability in 0..1"),
        ("drop_points", -0.1, "-0.1, expected a probability in 0..1"),
        ("random_scale", 1.0, "1.0, expected in 0..1, less than 1"),
        ("kl_decay", 0.0, "0.0, expected above 0, at most 1"),
        ("kl_weight", -1.0, "-1.0, expected at least 0"),
        ("num_mixtures", 0, "0, expected at least 1"),
        ("max_len", 0, "0, expected at least 1"),
        ("preview_count", -1, "-1, expected at least 0"),
    ],
)
def test_bad_values_of_drawings_only(name, value, expected):
    flag = name.replace("_", "-")
    assert message(SketchConfig, **{name: value}) == f"--{flag} is {expected}"


@pytest.mark.parametrize("name", ["embedding_size", "preview_length"])
def test_bad_values_of_characters_only(name):
    flag = name.replace("_", "-")
    assert message(CharConfig, **{name: -1}) == f"--{flag} is -1, expected at least 0"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        *(
            ({name: 1.5}, f"--{name.replace('_', '-')} is 1.5, expected a probability in 0..1")
            for name in (
                *("weight_drop", "input_dropout", "embedding_dropout", "reset_probability"),
            )
        ),
        *(
            ({name: -1.0}, f"--{name.replace('_', '-')} is -1.0, expected at least 0")
            for name in ("activation_reg", "temporal_reg")
        ),
        (
            {"cell": "mingru", "weight_drop": 0.5},
            "--weight-drop is 0.5, expected 0 with --cell mingru, which has no weights from state "
            "to state",
        ),
        *(
            (
                {"embedding_size": 0, name: 0.5},
                f"--{name.replace('_', '-')} is 0.5, expected 0 with --embedding-size 0: one-hot "
                "input has no embedding to drop",
            )
            for name in ("input_dropout", "embedding_dropout")
        ),
        (
            {"locked_dropout": True},
            "--locked-dropout is True, expected False without --dropout, of which it is the kind",
        ),
        (
            {"temporal_reg": 1.0, "remat": True},
            "--temporal-reg is 1.0, expected 0 with --remat, whose chunks would lose the changes "
            "between them",
        ),
        (
            {"temporal_reg": 1.0, "seq_len": 1},
            "--temporal-reg is 1.0, expected 0 with --seq-len 1, in which nothing changes",
        ),
        (
            {"tie_embeddings": True},
            "--tie-embeddings is True, expected False with --embedding-size 64 and --hidden-size "
            "256, which must then be equal",
        ),
    ],
)
def test_options_of_characters_that_do_not_fit_each_other(options, expected):
    assert message(CharConfig, **options) == expected


def test_an_unknown_backend_is_refused_before_a_run_is_made():
    assert message(CharConfig, backend="fast").startswith("--backend is fast, expected one of")


def test_a_run_without_steps_is_refused():
    assert message(CharConfig, epochs=0) == "--steps is 0, expected above 0 where epochs is 0"
    assert CharConfig(epochs=0, steps=1).steps == 1


@pytest.mark.parametrize("task", ["char", "sine"])
@pytest.mark.parametrize("edge", [{"dropout": 0}, {"dropout": 1}, {"val_fraction": 0.0}])
def test_edges_are_taken(task, edge):
    assert from_values({"task": task, **edge}, "x")[1] == CONFIGS[task](**edge)


def test_unknown_keys_are_all_named_with_what_there_is():
    text = message(from_values, {"task": "sine", "hiden_size": 3, "tokens": "bytes"}, "a.toml")
    assert text.startswith(
        "a.toml: unknown hiden_size, tokens; did you mean hidden_size? (the task 'sine' has "
    )
    for field in dataclasses.fields(SineConfig):
        assert field.name in text


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'task = "chat"', "task is 'chat', expected one of char, series, sine, sketch"),
        (b"task = 1", "task is 1, expected one of char, series, sine"),
        (b'task = ["char"]', "task is ['char'], expected one of char, series, sine"),
        (b"lr = -1", "--lr is -1.0, expected at least 0|--lr is -1.0, expected above 0"),
        (b"lr = 1979-05-27", "--lr is datetime.date(1979, 5, 27), expected a value of type float"),
        (b"hidden_size = 8.0", "--hidden-size is 8.0, expected a value of type int"),
        (b"[char]\nlr = 1", "unknown char"),
    ],
)
def test_bad_files_say_what_and_where(content, expected, tmp_path):
    path = tmp_path / "a.toml"
    path.write_bytes(content)
    text = message(from_toml, path)
    assert str(path) in text
    assert any(part in text for part in expected.split("|"))


FLAT = "expected a line 'name = value' for each option; correct it"
DEEP, LONG = f"nested too deep, {FLAT}", f"a number of too many digits, {FLAT}"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"lr = ", "is not TOML: "),
        (b"lr = 1\nlr = 2", "is not TOML: "),
        (b"\xff\xfe", "is not UTF-8 text"),
        (None, "No such file or directory"),
        (b"x = " + b"[" * 10**4, f" is {DEEP}"),
        (b"x = " + b"[" * 9 + b"]" * 9, f" is {DEEP}"),
        (b"lr" + b".x" * 10**4 + b" = 1", f" is {DEEP}"),
        (b"lr" + b".x" * 940 + b" = 1", f" is {DEEP}"),
        (b"seed = " + b"1" * 5000, f" has {LONG}"),
        (b"seed = 0x" + b"f" * 5000, f" has {LONG}"),
    ],
)
def test_what_is_not_a_configuration_is_refused(content, expected, tmp_path):
    path = tmp_path / "a.toml"
    if content is not None:
        path.write_bytes(content)
    text = message(from_toml, path)
    assert str(path) in text
    assert expected in text


def test_a_directory_is_not_a_configuration(tmp_path):
    assert message(from_toml, tmp_path) == (
        f"can't read the configuration {tmp_path}: Is a directory"
    )


def test_the_shared_options_are_those_of_every_task():
    shared = {field.name for field in dataclasses.fields(config_module.TrainConfig)}
    for config_class in CONFIGS.values():
        assert shared <= {field.name for field in dataclasses.fields(config_class)}
