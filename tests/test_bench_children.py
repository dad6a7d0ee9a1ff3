"""Children: what they print, how they fail, and that none is waited for without an end."""

import pytest
from refusals import message

from jaxrnn.bench import children

FOLDER = """
import json, os, sys, time
from jaxrnn.errors import InputError

def says():
    print("and more")
    print(json.dumps({"arguments": sys.argv[1:], "flag": os.environ["A_FLAG"]}))

def fails():
    raise ArithmeticError("no such number")

def fails_in_jax():
    import jax
    from jaxrnn.bench import timing

    def body(x):
        raise ArithmeticError("no\\n such number")

    timing.in_turns({"ours": lambda: jax.jit(body)(1.0)}, 1, 0.0)

def refuses():
    raise InputError("--row is 3, expected 4")

def dies():
    os.abort()

def waits():
    time.sleep(60)
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "a_module.py").write_text(FOLDER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    return "a_module"


def test_what_a_child_says_or_why_it_says_nothing(module):
    found = children.call(f"{module}.says", "a", 2, seconds=60.0, environment={"A_FLAG": "x"})
    assert found == {"arguments": ["a", "2"], "flag": "x"}
    failed = children.call(f"{module}.fails", seconds=60.0)
    assert failed == {"refused": "ArithmeticError: no such number"}
    failed = children.call(f"{module}.fails_in_jax", seconds=60.0)
    assert failed == {"refused": "CallError: ours: ArithmeticError: no such number"}
    assert children.call(f"{module}.dies", seconds=60.0) == {"refused": "exit code -6"}
    expected = "--row is 3, expected 4"
    assert message(children.call, f"{module}.refuses", seconds=60.0) == expected


def test_a_child_that_does_not_end_is_given_up(module):
    assert children.call(f"{module}.waits", seconds=1.0) == {"refused": "it did not end within 1 s"}
