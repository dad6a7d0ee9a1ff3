"""The numbers of docs/scaling.md are what its code prints."""

import contextlib
import io
import re
from pathlib import Path

PAGE = (Path(__file__).parents[1] / "docs" / "scaling.md").read_text(encoding="utf-8")


def test_the_table_is_what_the_code_prints():
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    printed, names = io.StringIO(), {}
    with contextlib.redirect_stdout(printed):
        exec(code, names)
    lines = printed.getvalue().splitlines()
    assert len(lines) == 3
    assert all(line in PAGE.splitlines() for line in lines)
    assert (
        f"{names['P'] / 1e6:.1f} million parameters, {4 * names['P'] / 1e6:.0f} MB of gradient, "
        f"{names['compute_s'] * 1e3:.1f} ms a step on one device"
    ) in PAGE
