"""Answers as they are drawn: in time, in turn, and not for who has gone."""

import json
import socket
import threading
import time

from demo_cases import drawings, serving, wish

from jaxrnn.demo.server import make_app


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
