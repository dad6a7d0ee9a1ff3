"""Strict JAX for every test: shapes checked at run time, two CPU devices, no silent promotion."""

import atexit
import os
import shutil
import signal
import tempfile
from importlib.metadata import version

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as of a job in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what is tested gets it by Ctrl-C

# What one test has compiled, another need not: half of the time is compilation. Each process has
# a directory of its own, which goes with it.
compiled = tempfile.mkdtemp(prefix="jaxrnn-compiled-")
atexit.register(shutil.rmtree, compiled, ignore_errors=True)
os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
# Most of the rest of the time is LLVM's; XLA_FLAGS="" compiles as users do. An unknown flag would
# end the process: the latter two are of the releases named.
FAST = ["--xla_backend_optimization_level=0"]
if version("jaxlib").startswith("0.10."):
    FAST += ["--xla_cpu_use_fusion_emitters=false", "--xla_llvm_disable_expensive_passes=true"]
os.environ.setdefault("XLA_FLAGS", " ".join(FAST))
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # of a GPU that several share
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


@pytest.fixture(scope="module")
def artist(tmp_path_factory):
    """Of the drawing page, by a small model."""
    from demo_cases import make_run, open_artist

    return open_artist(make_run(tmp_path_factory.mktemp("demo") / "run"))


@pytest.fixture(scope="module")
def client(artist):
    """Of the page's application."""
    from demo_cases import serving

    from jaxrnn.demo.server import make_app

    with serving(make_app(artist, "127.0.0.1", [])) as client:
        yield client


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Of a drawing page whose model is warm."""
    from demo_page import served

    with served(tmp_path_factory.mktemp("demo")) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    """Chromium."""
    from demo_page import launched

    with launched() as browser:
        yield browser


@pytest.fixture
def open_page(browser, address):
    """Opens the page in contexts of their options; what goes wrong in them fails the test."""
    from demo_page import opener

    with opener(browser, address) as open_page:
        yield open_page
