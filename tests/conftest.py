"""Strict JAX for every test: shapes checked at run time, two CPU devices, no silent promotion."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("OMP_NUM_THREADS", "2")

from pathlib import Path

from jaxtyping import install_import_hook

COMPAT = [path.stem for path in (Path(__file__).parents[1] / "torch_compat").glob("*.py")]
COMPAT.remove("pt2")  # torch.export traces its Python, and fails on functions that are wrapped
install_import_hook(["jaxrnn", *(f"torch_compat.{name}" for name in COMPAT)], "beartype.beartype")

import jax

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_enable_x64", True)

import jaxtyping
import pytest


@pytest.fixture
def unchecked():
    """Annotations aren't enforced, as for users: the exceptions that are left are our own."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def text_file(tmp_path_factory) -> str:
    """The text of the small runs, as a file."""
    from small_runs import TEXT

    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT)
    return str(path)


@pytest.fixture
def as_users_have_it():
    """JAX's own defaults, which other libraries are written for."""
    with jax.enable_x64(False), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture
def known_ceilings(monkeypatch):
    """The benchmark's ceilings, not measured."""
    from bench_cases import LIMITS

    from jaxrnn.bench import ceilings

    monkeypatch.setattr(ceilings, "floor_s", lambda workload: 0.25)
    monkeypatch.setattr(ceilings, "describe", lambda workload: LIMITS)
