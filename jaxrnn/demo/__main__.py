"""Serve the drawing page: ``python -m jaxrnn.demo RUN``, then open the address that it prints."""

from __future__ import annotations

import dataclasses
import socket
import sys
import time
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jaxrnn import cli
from jaxrnn.errors import InputError

MODEL = Path(__file__).parent / "model"


@dataclasses.dataclass(frozen=True)
class DemoOptions:
    """Serve a page to draw on: a trained sketch-rnn draws on where you stop.

    examples:
      python -m jaxrnn.demo
      python -m jaxrnn.demo runs/sketch-20250101-120000 --port 8080
    """

    run: Annotated[str, tyro.conf.arg(metavar="RUN"), tyro.conf.Positional] = ""
    """run directory of the task sketch; none: the model that comes with jaxrnn"""
    host: str = "127.0.0.1"
    """address to serve on; 0.0.0.0: every machine that reaches this one can draw"""
    port: int = 8000
    """port to serve on; 0: any that is free"""
    checkpoint: Literal["auto", "best", "last"] = "auto"
    """which parameters; auto: the best, or the last where nothing was validated"""
    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """where to compute"""

    def __post_init__(self):
        checks = {
            "host": (bool(self.host.strip()), "an address, as 127.0.0.1, or 0.0.0.0 for all"),
            "port": (0 <= self.port < 2**16, f"0 to {2**16 - 1}"),
        }
        cli.check_flags(self, checks)


def main() -> int:
    """The command line; gives the exit code."""
    return cli.exit_code(lambda: run_command(sys.argv[1:]))


def run_command(argv: list[str]) -> int:
    """Do what the arguments say; raises InputError."""
    options = cli.parse(DemoOptions, args=argv, prog="python -m jaxrnn.demo")
    path = options.run or _own_model()
    try:
        import uvicorn

        from jaxrnn.demo.server import make_app
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in ("starlette", "uvicorn"):
            raise
        raise InputError(
            f"{missing} is not installed, which serves the page: pip install starlette uvicorn"
        ) from None
    task, skeleton, params, _ = cli.open_model(path, options.checkpoint, options.device)
    if task.name != "sketch":
        raise InputError(f"{path} is of the task {task.name!r}, expected 'sketch'")

    from jaxrnn.demo.artist import Artist

    artist = Artist(task, (skeleton, params))
    listening = _listen(options.host, options.port)
    address = f"[{options.host}]" if ":" in options.host else options.host
    _say(f"http://{address}:{listening.getsockname()[1]}  (Ctrl-C ends)")
    start = time.monotonic()
    app = make_app(
        artist,
        options.host,
        [*artist.warm_ups(), lambda: _say(f"compiled ahead in {time.monotonic() - start:.1f} s")],
    )
    config = uvicorn.Config(app, log_level="warning", server_header=False)
    uvicorn.Server(config).run(sockets=[listening])
    return 0


def _own_model() -> str:
    if not MODEL.is_dir():
        raise InputError(
            "no RUN is named, and no model comes with this version; name a run directory that"
            " python -m jaxrnn.train sketch has made"
        )
    return str(MODEL)


def _listen(host: str, port: int) -> socket.socket:
    """A socket on an address; raises InputError where there can be none."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as error:  # a name too long for DNS is no Unicode to Python
        reason = getattr(error, "strerror", None) or "no such address"
        raise InputError(
            f"--host {host} --port {port}: {reason}; choose another port or address"
        ) from None


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
