"""What a refused call says."""

from __future__ import annotations

import pytest

from jaxrnn.errors import InputError


def message(call, *args, **kwargs) -> str:
    """The one line of the InputError that a call ends in."""
    with pytest.raises(InputError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)
