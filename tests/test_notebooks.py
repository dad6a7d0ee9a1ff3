"""The notebooks run from top to bottom, and what is stored in them is what they give."""

import base64
import io
import os
import re
import sys
from types import SimpleNamespace

import nbformat
import pytest
import renew
from nbclient.exceptions import CellExecutionError, CellTimeoutError
from nbformat.v4 import new_code_cell, new_notebook
from PIL import Image

NAMES = ["char_rnn", "custom_cell", "export_to_pytorch", "simple_rnn", "sketch_rnn"]
MAX_BYTES = 300_000
LIMIT_S = float(os.environ.get("NOTEBOOK_LIMIT_S", 3600))  # .ci/run has less
NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?")

names = pytest.mark.parametrize("name", NAMES)


def path_of(name):
    return renew.HERE / f"{name}.ipynb"


def stored(name):
    return nbformat.read(path_of(name), as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(cell):
    return "".join(o.text for o in cell.outputs if o.output_type == "stream")


def kinds(cell):
    """What an output is, not what it says; a text may come in one piece or in several."""
    return sorted({o.get("name") or o.get("ename") or shown(o) for o in cell.outputs})


def shown(output):
    return ", ".join(sorted(output.data))


def pictures(notebook):
    outputs = [o for cell in code_cells(notebook) for o in cell.outputs if "data" in o]
    return [o.data["image/png"] for o in outputs if "image/png" in o.data]


def is_near(found, expected):
    """Within a tenth, or one in the last digit that is shown."""
    digits = len(expected.partition(".")[2])
    a, b = (float(text.replace(",", "")) for text in (found, expected))
    return abs(a - b) <= max(0.1 * abs(b), 1.01 * 10**-digits)


def assert_same_figures(found, expected):
    assert NUMBER.sub("#", found) == NUMBER.sub("#", expected)
    pairs = zip(NUMBER.findall(found), NUMBER.findall(expected), strict=True)
    wrong = [pair for pair in pairs if not is_near(*pair)]
    assert not wrong, f"{wrong}: see renew.py where the change is meant"


def test_all_notebooks_are_tested():
    assert [path.stem for path in renew.NOTEBOOKS] == NAMES


@names
def test_it_runs_in_its_short_form_and_gives_what_is_stored(name, monkeypatch):
    monkeypatch.delenv("FULL", raising=False)
    monkeypatch.setenv("XLA_FLAGS", "")  # figures are those of users' programs
    expected = code_cells(stored(name))
    found = code_cells(renew.execute(path_of(name), LIMIT_S))
    for new, old in zip(found, expected, strict=True):
        assert kinds(new) == kinds(old), new.source
        assert "stderr" not in kinds(new), printed(new)
        if "figures" in new.metadata.get("tags", []):
            assert_same_figures(printed(new), printed(old))


@names
def test_what_is_stored_is_whole_and_small_and_says_nothing_of_a_machine(name):
    notebook, text = stored(name), path_of(name).read_text(encoding="utf-8")
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    known = {"stdout", "image/png, text/plain", "text/plain"}
    assert {kind for cell in cells for kind in kinds(cell)} <= known  # no errors, no progress bars
    assert len(path_of(name).read_bytes()) < MAX_BYTES
    assert not re.search(r"/(home|root|tmp|work|usr|private|Users|opt)/", text)
    assert nbformat.writes(renew.stable(stored(name))) == nbformat.writes(notebook)
    assert len(text.rstrip("\n")) == len(text) - 1


@names
def test_it_has_claims_pictures_and_a_long_form_that_is_off(name):
    notebook = stored(name)
    source = "\n".join(cell.source for cell in code_cells(notebook))
    assert source.count('FULL = os.environ.get("FULL") == "1"') == 1
    assert len(re.findall(r"FULL\b", source)) > 2
    assert len(re.findall(r"^ *(?:assert|np\.testing)", source, re.MULTILINE)) > 5
    assert any("figures" in c.metadata.get("tags", []) for c in code_cells(notebook))
    found = pictures(notebook)
    assert found
    assert all(base64.b64decode(data).startswith(b"\x89PNG") for data in found)


def write(path, *sources):
    notebook = new_notebook(cells=[new_code_cell(source) for source in sources])
    notebook.metadata["language_info"] = {"name": "python", "version": "0"}
    nbformat.write(notebook, path)
    return path


def test_a_kernel_runs_this_checkout_and_shows_pictures(tmp_path):
    path = write(
        tmp_path / "small.ipynb",
        "import os, jaxrnn; print(jaxrnn.__file__, os.path.exists('small.ipynb'))",
        "import matplotlib.pyplot as plt\nplt.plot([1, 2]);",
    )
    notebook = renew.execute(path)
    first, second = notebook.cells
    assert printed(first).split() == [str(renew.HERE.parent / "jaxrnn" / "__init__.py"), "False"]
    (picture,) = pictures(notebook)
    assert Image.open(io.BytesIO(base64.b64decode(picture))).mode == "P"
    assert second.metadata == {}
    assert notebook.metadata.language_info == {"name": "python"}


def test_a_claim_that_fails_is_an_error(tmp_path):
    with pytest.raises(CellExecutionError, match="it is not so"):
        renew.execute(write(tmp_path / "wrong.ipynb", "assert 1 == 2, 'it is not so'"))


def test_the_limit_is_of_all_cells_together(tmp_path, monkeypatch):
    path = write(tmp_path / "slow.ipynb", "import time", "time.sleep(0.5)", "time.sleep(0.5)")
    times = iter((0, 60, 100, 200))  # of the beginning and before each cell
    monkeypatch.setattr(renew, "time", SimpleNamespace(monotonic=lambda: next(times)))
    with pytest.raises(CellTimeoutError, match=re.escape("time.sleep(0.5)")):
        renew.execute(path, 120)
    assert list(times) == []
    times = iter((0, 60, 80, 90))
    assert len(renew.execute(path, 120).cells) == 3


def test_figures_agree_within_a_tenth_or_the_last_digit():
    assert_same_figures("loss 0.0003 of 1,650", "loss 0.0002 of 1,600")
    for found in ("loss 0.0005 of 1,600", "loss 0.0002 of 1,900", "nats 0.0002 of 1,600"):
        with pytest.raises(AssertionError):
            assert_same_figures(found, "loss 0.0002 of 1,600")


def test_renewing_an_unknown_notebook_says_which_there_are(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["renew.py", "sketch"])
    with pytest.raises(SystemExit):
        renew.main()
    assert "no notebook sketch, expected char_rnn, custom_cell," in capsys.readouterr().err
