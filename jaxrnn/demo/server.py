"""The web application: the page, and the model's answers as lines of JSON while they are drawn.

An answer's lines are ``{"points": [...]}``, for each drawing some more ``[x, y, lifted]``, and at
the end ``{"done": true}``. What is refused is ``{"field": ..., "error": ...}`` with a status of
4xx. Usage: ``uvicorn.run(make_app(artist, "127.0.0.1", artist.warm_ups()), port=8000)``.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from importlib import resources
from typing import Any

import anyio
from anyio import to_thread
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from jaxrnn.demo.artist import MAX_COUNT, SIDE, Artist, Points
from jaxrnn.demo.guard import Guard
from jaxrnn.demo.messages import (
    MAX_BODY,
    MAX_POINTS,
    RefusedError,
    read_fields,
    read_file,
    read_lines,
    read_wish,
)

LEAST_BETWEEN = 5  # drawings from one to another
FILES = {
    "/": ("index.html", "text/html"),
    "/style.css": ("style.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/picture.js": ("picture.js", "text/javascript"),
    "/answers.js": ("answers.js", "text/javascript"),
}


def make_app(artist: Artist, host: str, warm_ups: Iterable[Callable[[], Any]]) -> Guard:
    """The application on an address; ``warm_ups`` are called in the background at the start."""
    endpoints = _Endpoints(artist)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
        # One piece of an answer, or one warm-up, at a time; who waits is served in turn.
        turn = anyio.CapacityLimiter(1)
        async with anyio.create_task_group() as group:
            group.start_soon(endpoints.warm_up, warm_ups, turn)
            yield {"turn": turn}
            group.cancel_scope.cancel()

    asked = [
        Route(f"/{call.__name__}", call, methods=["POST"])
        for call in (endpoints.complete, endpoints.mimic, endpoints.between, endpoints.file)
    ]
    app = Starlette(
        routes=[*_pages(), Route("/about", endpoints.about), *asked],
        exception_handlers={RefusedError: _refuse, ClientDisconnect: _forget},
        lifespan=lifespan,
    )
    return Guard(app, host)


class _Endpoints:
    """What the page calls."""

    def __init__(self, artist: Artist):
        self.artist, self.task = artist, artist.task
        self.is_warm = False

    async def warm_up(
        self, calls: Iterable[Callable[[], Any]], turn: anyio.CapacityLimiter
    ) -> None:
        """Make the calls one by one, answers going before those that wait."""
        for call in calls:
            await to_thread.run_sync(call, limiter=turn)
        self.is_warm = True

    async def about(self, request: Request) -> Response:
        """What the page must know of the model."""
        return JSONResponse(
            {
                "classes": self.task.classes,
                "conditional": self.task.config.conditional,
                "side": SIDE,
                "max_points": MAX_POINTS,
                "max_count": MAX_COUNT,
                "is_warm": self.is_warm,
            }
        )

    async def complete(self, request: Request) -> Response:
        """Endings of what was begun."""
        fields = await _fields(request)
        wish = read_wish(fields, self.task.classes)
        return _stream(request, self.artist.complete(read_lines(fields, "lines"), wish))

    async def mimic(self, request: Request) -> Response:
        """The model's own drawings of a drawing."""
        fields = await _fields(request)
        self._need_encoder()
        wish = read_wish(fields, self.task.classes)
        return _stream(request, self.artist.mimic(read_lines(fields, "lines", 1), wish))

    async def between(self, request: Request) -> Response:
        """Drawings between two."""
        fields = await _fields(request)
        self._need_encoder()
        wish = read_wish(fields, self.task.classes, LEAST_BETWEEN)
        first, second = (read_lines(fields, name, 1) for name in ("first", "second"))
        return _stream(request, self.artist.between(first, second, wish))

    async def file(self, request: Request) -> Response:
        """Drawings as a file."""
        text, media_type = read_file(await _fields(request))
        return Response(text, media_type=media_type)

    def _need_encoder(self) -> None:
        if not self.task.config.conditional:
            raise RefusedError(
                "run", "is unconditional: it has no encoder, and can't read a drawing"
            )


def _pages() -> list[Route]:
    def route(path: str, name: str, media_type: str) -> Route:
        text = (resources.files("jaxrnn.demo") / "page" / name).read_text(encoding="utf-8")

        async def page(request: Request) -> Response:
            return Response(text, media_type=media_type)

        return Route(path, page)

    return [route(path, *file) for path, file in FILES.items()]


async def _fields(request: Request) -> dict[str, Any]:
    """The body's, which is refused as soon as it is too long, whatever length it claims."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise RefusedError("body", f"is longer than {MAX_BODY:,} bytes", 413)
    return read_fields(bytes(body))


def _stream(request: Request, pieces: Iterator[Points]) -> Response:
    return StreamingResponse(_lines(pieces, request.state.turn), media_type="application/x-ndjson")


async def _lines(pieces: Iterator[Points], turn: anyio.CapacityLimiter) -> AsyncIterator[str]:
    """Each piece is computed in a thread; where the reader has gone no more are."""
    while (points := await to_thread.run_sync(next, pieces, None, limiter=turn)) is not None:
        yield json.dumps({"points": points}, separators=(",", ":")) + "\n"
    yield '{"done":true}\n'


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    return JSONResponse({"field": error.field, "error": str(error)}, error.status)


async def _forget(request: Request, error: Exception) -> Response:
    """To a reader who has gone while asking."""
    return Response(status_code=400)
