"""The application over HTTP: answers as they are drawn, what is refused, who is refused."""

import asyncio
import contextlib
import json
import socket
import threading
import time
from itertools import chain
from typing import Any

import httpx
import pytest
import uvicorn
from demo_cases import make_run, open_artist, wish

from jaxrnn.demo.artist import Artist
from jaxrnn.demo.guard import Guard
from jaxrnn.demo.messages import MAX_BODY
from jaxrnn.demo.server import FILES, make_app

LINES = [[[100, 50], [140, 50], [140, 90]], [[60, 70]]]


@contextlib.contextmanager
def serving(app: Guard):
    """A client of the application behind a socket."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        with httpx.Client(
            base_url=f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=30, trust_env=False
        ) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


@pytest.fixture(scope="module")
def artist(tmp_path_factory) -> Artist:
    return open_artist(make_run(tmp_path_factory.mktemp("demo") / "run"))


@pytest.fixture(scope="module")
def client(artist):
    with serving(make_app(artist, "127.0.0.1", [])) as client:
        yield client


@pytest.fixture(scope="module")
def blind(tmp_path_factory):
    """A run without an encoder, of one class."""
    path = tmp_path_factory.mktemp("demo") / "run"
    artist = open_artist(make_run(path, ("cat",), conditional=False))
    with serving(make_app(artist, "127.0.0.1", [])) as client:
        yield client


def drawings(client, path="/complete", **fields) -> list[list[list[float]]]:
    """Those of an answer, whose form is checked."""
    asked: dict[str, Any] = wish() | ({} if path == "/between" else {"lines": LINES}) | fields
    response = client.post(path, json=asked)
    assert (response.status_code, response.text[-1:]) == (200, "\n"), response.text
    assert response.headers["content-type"] == "application/x-ndjson"
    *pieces, end = [json.loads(line) for line in response.text.splitlines()]
    assert end == {"done": True}
    assert {len(piece["points"]) for piece in pieces} == {asked["count"]}
    return [[*chain(*rows)] for rows in zip(*(piece["points"] for piece in pieces), strict=True)]


def test_an_answer_has_as_many_drawings_as_were_asked_for(client):
    for count in (1, 2, 9):
        got = drawings(client, count=count)
        assert all(len(drawing) > 3 for drawing in got)
        assert {len(point) for drawing in got for point in drawing} == {3}
        assert {point[2] for drawing in got for point in drawing} == {0, 1}
        assert len({json.dumps(drawing) for drawing in got}) == count


def test_a_seed_gives_one_ending_and_other_wishes_others(client):
    first = drawings(client)
    assert drawings(client) == first
    changes = [{"seed": 4}, {"temperature": 1.5}, {"class": "dog"}, {"lines": LINES[:1]}]
    endings = [first, *(drawings(client, **change) for change in changes)]
    assert len(set(map(json.dumps, endings))) == 5
    assert drawings(client, **{"class": "cat"}) == first


def test_mimic_and_between_read_whole_drawings(client):
    got = drawings(client, "/mimic", count=2)
    assert got == drawings(client, "/mimic", count=2)
    assert got != drawings(client, "/mimic", count=2, lines=[[[0, 0], [-300, 200]]])
    other = [[[0, 0], [-300, 200], [300, 200]]]
    there = drawings(client, "/between", first=LINES, second=other, count=5)
    back = drawings(client, "/between", first=other, second=LINES, count=5)
    assert there != back
    assert [*map(len, there)] == [len(drawing) for drawing in there]


def test_what_the_page_must_know(client, blind):
    about = {"side": 400, "max_points": 1000, "max_count": 9}
    assert client.get("/about").json() == about | {"classes": ["cat", "dog"], "conditional": True}
    assert blind.get("/about").json() == about | {"classes": ["cat"], "conditional": False}
    assert all(len(drawing) > 3 for drawing in drawings(blind, lines=[], count=9))


@pytest.mark.parametrize("path", ["/mimic", "/between"])
def test_a_run_without_an_encoder_does_not_read_drawings(blind, path):
    response = blind.post(path, json=wish(count=5, lines=LINES, first=LINES, second=LINES))
    assert (response.status_code, response.json()["field"]) == (422, "run")
    assert "unconditional" in response.json()["error"]


@pytest.mark.parametrize(
    ("path", "fields", "field"),
    [
        ("/complete", {"lines": [[[0, 0]] * 1001]}, "lines"),
        ("/complete", {"lines": None}, "lines"),
        ("/complete", {"class": "bird"}, "class"),
        ("/complete", {"count": 10}, "count"),
        ("/complete", {"temperature": 2.5}, "temperature"),
        ("/complete", {"seed": -1}, "seed"),
        ("/mimic", {"lines": []}, "lines"),
        ("/between", {"count": 4}, "count"),
        ("/between", {"count": 5, "first": []}, "first"),
        ("/between", {"count": 5, "second": [[]]}, "second"),
        ("/file", {"form": "exe"}, "form"),
        ("/file", {"endings": 3}, "endings"),
    ],
)
def test_what_is_refused_is_named_and_the_server_lives_on(client, path, fields, field):
    whole = wish(lines=LINES, first=LINES, second=LINES, form="svg", endings=[])
    response = client.post(path, json=whole | fields)
    assert response.status_code == 422
    assert response.json()["field"] == field
    assert response.json()["error"].startswith(field)
    assert drawings(client)


@pytest.mark.parametrize("path", ["/complete", "/mimic", "/between", "/file"])
def test_a_body_that_is_no_json_is_refused(client, path):
    for body in (b"", b"lines=3", b'{"seed": NaN}', b"[" * 100_000):
        response = client.post(path, content=body)
        assert (response.status_code, response.json()["field"]) == (400, "body")


@pytest.mark.parametrize("path", ["/complete", "/mimic", "/between", "/file"])
def test_a_body_that_is_too_long_is_refused(client, path):
    assert client.post(path, content=b" " * MAX_BODY).status_code == 400
    for content in (b" " * (MAX_BODY + 1), iter([b" " * 1024] * 300)):  # the second has no length
        response = client.post(path, content=content)
        assert (response.status_code, response.json()["field"]) == (413, "body")


def test_of_a_body_that_does_not_end_no_more_is_read_than_may_come(artist):
    read, sent = [], []

    async def receive():
        read.append(1024)
        return {"type": "http.request", "body": b" " * 1024, "more_body": True}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/complete", "scheme": "http"}
    headers = [(b"host", b"localhost"), (b"content-length", b"9")]
    asyncio.run(make_app(artist, "127.0.0.1", [])(scope | {"headers": headers}, receive, send))
    assert sum(read) == MAX_BODY + 1024
    assert sent[0]["status"] == 413


def test_a_file_is_given_in_its_form(client):
    fields = {"lines": LINES, "endings": [[[[1, 2], [3, 4]]]]}
    svg = client.post("/file", json=fields | {"form": "svg"})
    assert svg.headers["content-type"].startswith("image/svg+xml")
    assert svg.text.count("<path ") == 3
    text = client.post("/file", json=fields | {"form": "json"}).text
    assert json.loads(text) == [
        [[100, 50, 0], [40, 0, 0], [0, 40, 1], [-80, -20, 1], [-59, -68, 0], [2, 2, 1]]
    ]


@pytest.mark.parametrize("path", FILES)
def test_the_page_is_of_files_of_our_own(client, path):
    response = client.get(path)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith(FILES[path][1])
    assert "://" not in response.text.replace("http://www.w3.org/2000/svg", "")
    assert client.post(path).status_code == 405


def test_all_answers_tell_the_browser_to_load_nothing_else(client):
    answers = [client.get(path) for path in ("/", "/about", "/style.css", "/nowhere")]
    answers += [client.post("/complete", json=wish(lines=[])), client.post("/complete")]
    answers.append(client.get("/", headers={"Host": "evil.example"}))
    assert [r.status_code for r in answers] == [200, 200, 200, 404, 200, 400, 421]
    for response in answers:
        policy = response.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert "unsafe" not in policy
        assert response.headers["x-content-type-options"] == "nosniff"
        assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("127.0.0.1:8000", None, 200),
        ("127.0.0.1:8000", "http://127.0.0.1:8000", 200),
        ("localhost:9000", "http://localhost:9000", 200),
        ("LOCALHOST", None, 200),
        ("[::1]:8000", "http://[::1]:8000", 200),
        ("127.0.0.1:8000", "http://127.0.0.1:8001", 403),
        ("127.0.0.1:8000", "https://127.0.0.1:8000", 403),
        ("127.0.0.1:8000", "http://localhost:8000", 403),
        ("127.0.0.1:8000", "http://evil.example", 403),
        ("127.0.0.1:8000", "null", 403),
        ("127.0.0.1:8000", "", 403),
        ("evil.example", None, 421),
        ("evil.example", "http://evil.example", 421),
        ("127.0.0.1.evil.example:8000", None, 421),
        ("evil.example@127.0.0.1.x", None, 421),
        ("192.168.0.7:8000", None, 421),
        ("[", None, 421),
        ("", None, 421),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_other_sites_are_refused(client, method, host, origin, status):
    headers = {"Host": host} | ({} if origin is None else {"Origin": origin})
    response = client.request(method, "/about", headers=headers)
    expected = 405 if status == 200 and method != "GET" else status
    assert response.status_code == expected
    if status > 400:
        assert response.json()["field"] == ("Origin" if status == 403 else "Host")


@pytest.mark.parametrize(
    ("served", "host", "status"),
    [
        ("0.0.0.0", "192.168.0.7:8000", 200),
        ("::", "[fe80::1]:8000", 200),
        ("0.0.0.0", "localhost:8000", 200),
        ("0.0.0.0", "evil.example:8000", 421),
        ("Sketch.example", "sketch.example:8000", 200),
        ("sketch.example", "192.168.0.7:8000", 421),
        ("10.0.0.3", "10.0.0.3", 200),
    ],
)
def test_the_address_that_is_served_is_ours(artist, served, host, status):
    with serving(make_app(artist, served, [])) as client:
        assert client.get("/about", headers={"Host": host}).status_code == status


def test_points_are_sent_before_the_next_ones_are_drawn(artist, monkeypatch):
    may_go_on = threading.Event()

    def complete(lines, wish):
        yield [[[1.0, 2.0, 0.0]]]
        assert may_go_on.wait(20)
        yield [[[3.0, 4.0, 1.0]]]

    monkeypatch.setattr(artist, "complete", complete)
    with (
        serving(make_app(artist, "127.0.0.1", [])) as client,
        client.stream("POST", "/complete", json=wish(lines=[])) as response,
    ):
        lines = response.iter_lines()
        assert json.loads(next(lines)) == {"points": [[[1, 2, 0]]]}
        may_go_on.set()
        assert [json.loads(line) for line in lines] == [{"points": [[[3, 4, 1]]]}, {"done": True}]


def test_who_hangs_up_is_not_drawn_for(artist, monkeypatch):
    drawn = []

    def complete(lines, wish):
        while True:
            drawn.append(time.monotonic())
            time.sleep(0.01)
            yield [[[1.0, 2.0, 0.0]]]

    with serving(make_app(artist, "127.0.0.1", [])) as client:
        with monkeypatch.context() as patch:
            patch.setattr(artist, "complete", complete)
            for _ in range(3):
                with client.stream("POST", "/complete", json=wish(lines=[])) as response:
                    next(response.iter_lines())
        deadline = time.monotonic() + 20
        while time.monotonic() - drawn[-1] < 0.3:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with socket.create_connection(("127.0.0.1", client.base_url.port or 0)) as half:
            half.sendall(
                b"POST /complete HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{"
            )
        assert drawings(client) == drawings(client)


def test_one_piece_is_computed_at_a_time_and_who_waits_is_served_in_turn(artist, monkeypatch):
    busy = threading.Lock()
    order = []

    def complete(lines, wish):
        for _ in range(3):
            assert busy.acquire(blocking=False)
            order.append(wish.seed)
            time.sleep(0.1)
            busy.release()
            yield [[[1.0, 2.0, 0.0]]]

    def ask(client, seed):
        assert client.post("/complete", json=wish(lines=[], seed=seed)).text.count("points") == 3

    monkeypatch.setattr(artist, "complete", complete)
    with serving(make_app(artist, "127.0.0.1", [])) as client:
        threads = [threading.Thread(target=ask, args=(client, seed)) for seed in (1, 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(order) == [1, 1, 1, 2, 2, 2]
    assert order not in ([1, 1, 1, 2, 2, 2], [2, 2, 2, 1, 1, 1])


def test_what_is_asked_while_the_model_warms_up_waits_for_one_shape(artist):
    begun, may_end = threading.Event(), threading.Event()
    called = []

    def first():
        begun.set()
        assert may_end.wait(20)
        called.append("first")

    def later():
        time.sleep(0.2)
        called.append("later")

    with serving(make_app(artist, "127.0.0.1", [first, *[later] * 40])) as client:
        assert begun.wait(20)
        assert client.get("/about").status_code == 200
        threading.Timer(0.3, may_end.set).start()
        assert drawings(client)
        assert 1 <= len(called) < 40
