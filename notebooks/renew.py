"""Run notebooks from top to bottom, and write their outputs so that only a real change shows.

Usage, with ``pip install 'jaxrnn[notebooks]'``::

    python notebooks/renew.py                    all, in place
    python notebooks/renew.py char_rnn           one
    FULL=1 python notebooks/renew.py char_rnn --to long.ipynb
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image
from traitlets.config import Config

HERE = Path(__file__).resolve().parent
NOTEBOOKS = sorted(HERE.glob("*.ipynb"))


def execute(path: Path, timeout_s: float = 3600) -> NotebookNode:
    """The notebook with outputs of a fresh kernel, which imports jaxrnn from this checkout.

    It runs in an empty directory. Raises nbclient's CellExecutionError where a cell does, and
    CellTimeoutError where all cells together, the kernel's start too, take longer.
    """
    began = time.monotonic()
    notebook = nbformat.read(path, as_version=4)
    searched = [str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, searched)),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # of a debugger that nobody attaches
    }
    with tempfile.TemporaryDirectory(prefix="jaxrnn-") as directory:
        # Sockets in the file system: ports are chosen and taken in two steps, in which another
        # kernel may take them.
        connection = {"connection_file": f"{directory}/kernel.json", "transport": "ipc"}
        client = NotebookClient(
            notebook,
            config=Config(KernelManager=connection),
            # What libraries write to the terminal, as XLA on a machine that stalls, is no output.
            extra_arguments=["--IPKernelApp.capture_fd_output=False"],
            # Of nbclient a limit is that of a cell, and one of 0 is none.
            timeout_func=lambda cell: max(began + timeout_s - time.monotonic(), 0.001),
            kernel_name="python3",
            resources={"metadata": {"path": directory}},
            record_timing=False,
            coalesce_streams=True,
        )
        client.execute(env=environment)
    return stable(notebook)


def stable(notebook: NotebookNode) -> NotebookNode:
    """The notebook without what differs from one machine, editor or run to the next.

    Pictures are made smaller, by a palette.
    """
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata = {key: cell.metadata[key] for key in ("tags",) if key in cell.metadata}
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = _with_palette(output.data["image/png"])
    return notebook


def _with_palette(picture: str) -> str:
    """A PNG in base64, of at most 128 colours."""
    image = Image.open(io.BytesIO(base64.b64decode(picture)))
    if image.mode == "P":
        return picture
    written = io.BytesIO()
    image.convert("RGB").quantize(128).save(written, "PNG", optimize=True)
    return base64.b64encode(written.getvalue()).decode()


def main() -> int:
    """The command line; gives the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    known = {path.stem: path for path in NOTEBOOKS}
    parser.add_argument("names", nargs="*", metavar="NAME", help="by default all notebooks")
    parser.add_argument("--to", metavar="FILE", help="write one notebook here, not in place")
    options = parser.parse_args()
    if unknown := sorted(set(options.names) - set(known)):
        parser.error(f"no notebook {unknown[0]}, expected {', '.join(known)}")
    if options.to and len(options.names) != 1:
        parser.error(f"--to is for one notebook, {len(options.names)} were named")
    for name in options.names or known:
        began = time.monotonic()
        notebook = execute(known[name])
        nbformat.write(notebook, options.to or known[name])
        print(f"{name}: {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
