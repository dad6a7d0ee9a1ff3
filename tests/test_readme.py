"""What the README shows is true of the code: its Python runs, its options exist."""

import re
import shlex
import tomllib
from pathlib import Path

import jax
import pytest
import torch
import tyro
from packaging.requirements import Requirement

from jaxrnn import cli, draw, evaluate, forecast, train
from torch_compat import __main__ as compat

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [line for kind, block in BLOCKS if not kind for line in block.splitlines()]


def test_the_python_code_runs_and_gives_the_shapes_that_it_says():
    names: dict = {}
    with jax.enable_x64(False):  # as for a reader; the tests have it on
        for code in (block for kind, block in BLOCKS if kind == "python"):
            exec(code, names)
    assert type(names["ours"]).__name__ == type(names["again"]).__name__ == "LSTM"
    for name, tensor in names["theirs"].state_dict().items():
        assert torch.equal(names["again"].state_dict()[name], tensor)
    assert names["gru"].weight_ih_l0.shape == (60, 10)
    assert names["arrays"]["kernel"].shape == (10, 60)
    assert names["lstm"].weight_ih_l0.shape == (80, 10)
    assert names["y"].shape == (7, 3, 10)
    assert (names["h_n"].shape, names["c_n"].shape) == ((4, 3, 5), (4, 3, 20))


@pytest.mark.parametrize(
    "command",
    [c for c in COMMANDS if c.startswith("python -m jaxrnn.train ") and "--resume" not in c],
)
def test_the_options_of_training_commands_exist(command):
    task, parsed, _ = train.parse(shlex.split(command)[3:])
    assert task in train.CONFIGS
    assert isinstance(parsed.training, train.CONFIGS[task])


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("python -m jaxrnn.draw ")])
def test_the_options_of_drawing_commands_exist(command):
    assert cli.parse(draw.DrawOptions, args=shlex.split(command)[3:])


@pytest.mark.parametrize("word", ["forecast", "evaluate"])
def test_the_options_of_commands_around_a_forecaster_exist(word):
    options = {"forecast": forecast.ForecastOptions, "evaluate": evaluate.EvaluateOptions}[word]
    config = (tyro.conf.FlagCreatePairsOff,)
    found = [c for c in COMMANDS if c.startswith(f"python -m jaxrnn.{word} ")]
    assert found
    for command in found:
        arguments = shlex.split(command.partition(" > ")[0])[3:]
        assert cli.parse(options, args=arguments, config=config)


@pytest.mark.parametrize(
    "command", [c for c in COMMANDS if c.startswith("python -m torch_compat ")]
)
def test_the_options_of_torch_compat_commands_exist(command):
    _, _, _, word, *arguments = shlex.split(command)
    options_class, _ = compat.COMMANDS[word]
    assert cli.parse(options_class, args=arguments)


def test_the_two_commands_come_first_and_install_by_the_constraints():
    first, second = [c for c in COMMANDS if "pip install" in c][:2]
    assert (
        COMMANDS[0]
        == first
        == ("python -m pip install -c constraints.txt . && python -m jaxrnn.train")
    )
    assert second == "python -m pip install -c constraints.txt -e '.[test]' && python -m pytest"


def test_every_requirement_has_an_upper_bound_and_what_is_pinned_lies_below_it():
    folder = Path(__file__).parents[1]
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (folder / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if "==" in line)
    extras = project["optional-dependencies"].values()
    named = [Requirement(text) for texts in (project["dependencies"], *extras) for text in texts]
    others = [requirement for requirement in named if requirement.name != "jaxrnn"]
    assert len(others) > 20
    for requirement in others:
        assert "<" in [of.operator for of in requirement.specifier], requirement
        assert pinned[requirement.name] in requirement.specifier
