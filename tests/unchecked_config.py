"""``jaxrnn.config`` as users have it: under test, beartype refuses what its own checks are for."""

import importlib.util
import sys
from typing import Any

import jaxrnn.config


def without_the_import_hook() -> Any:
    spec = importlib.util.spec_from_file_location("config_without_the_hook", jaxrnn.config.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


config_module = without_the_import_hook()
