"""Who is refused, and what a browser is told."""

import pytest
from demo_cases import serving, wish

from jaxrnn.demo.server import make_app


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
