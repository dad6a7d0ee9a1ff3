"""The application over HTTP: answers, files, what is refused."""

import asyncio
import json

import pytest
from demo_cases import LINES, drawings, make_run, open_artist, serving, wish

from jaxrnn.demo.messages import MAX_BODY
from jaxrnn.demo.server import FILES, make_app


@pytest.fixture(scope="module")
def blind(tmp_path_factory):
    """A run without an encoder, of one class."""
    path = tmp_path_factory.mktemp("demo") / "run"
    artist = open_artist(make_run(path, ("cat",), conditional=False))
    with serving(make_app(artist, "127.0.0.1", [])) as client:
        yield client


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
    about = {"side": 400, "max_points": 1000, "max_count": 9, "is_warm": True}
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
