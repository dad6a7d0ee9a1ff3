"""``jaxrnn.config`` and ``config_file`` as users have them: beartype refuses what they check."""

import importlib.util
import sys
from typing import Any
from unittest import mock

import jaxrnn.config
import jaxrnn.config_file


def without_the_import_hook(module: Any) -> Any:
    spec = importlib.util.spec_from_file_location(f"unhooked {module.__name__}", module.__file__)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = made  # dataclasses look their module up
    spec.loader.exec_module(made)
    return made


config_module = without_the_import_hook(jaxrnn.config)
with mock.patch.dict(sys.modules, {"jaxrnn.config": config_module}):
    config_file = without_the_import_hook(jaxrnn.config_file)
