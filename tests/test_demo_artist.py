import dataclasses
import logging
from itertools import chain

import jax
import numpy as np
import pytest
from demo_cases import EXTENT, NUM_POINTS, SCALE, make_run, open_artist

from jaxrnn.demo import artist as artist_module
from jaxrnn.demo.artist import START_AT, Wish
from jaxrnn.models.sketch_drawing import slerp

LINES = [np.array([[100.0, 50], [140, 50], [140, 90]]), np.array([[60.0, 70.0]])]
UNIT = np.array([[SCALE, SCALE, 1]], np.float32)
STROKE3 = np.array([[0, 0, 0], [40, 0, 0], [0, 40, 1], [-80, -20, 1]], np.float32)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("demo") / "run")


@pytest.fixture(scope="module")
def artist(run):
    return open_artist(run)


def whole(pieces) -> list[np.ndarray]:
    """Each drawing's points of all pieces."""
    return [np.array([*chain(*rows)]).reshape(-1, 3) for rows in zip(*pieces, strict=True)]


def in_units(drawing, start) -> np.ndarray:
    """A drawing of the model as the page should get it."""
    places = np.asarray(start) + SCALE * np.cumsum(drawing[:, :2], axis=0, dtype=np.float64)
    return np.concatenate([places.round(2), drawing[:, 2:]], axis=1)


def of_model(artist, count, class_index, **options):
    return artist.pen.drawings(
        jax.random.key(3),
        count=count,
        length=NUM_POINTS,
        temperature=0.4,
        classes=np.full(count, class_index, np.int32),
        **options,
    )


@pytest.mark.parametrize("count", [1, 4, 9])
def test_endings_go_on_from_the_last_point_in_the_pages_units(artist, count):
    got = whole(artist.complete(LINES, Wish(count, 0.4, 3, class_index=1)))
    prefix = STROKE3 / UNIT
    expected = of_model(artist, 1 if count == 1 else 9, 1, prefix=prefix)[:count]
    assert len(got) == count
    for points, drawing in zip(got, expected, strict=True):
        np.testing.assert_allclose(points, in_units(drawing, [60, 70]), atol=0.011)
    assert sum(map(len, got)) > 10 * count


@pytest.mark.parametrize("lines", [[], [np.zeros((0, 2))]])
def test_what_nobody_began_is_drawn_from_the_start(artist, lines):
    (got,) = whole(artist.complete(lines, Wish(1, 0.4, 3)))
    (expected,) = of_model(artist, 1, 0)
    np.testing.assert_allclose(got, in_units(expected, START_AT), atol=0.011)


def test_what_a_person_drew_is_simplified(artist):
    line = np.array([[0.0, 0], [10, 0.5], [20, -1.5], [30, 1], [40, 0], [40, 30]])
    straight = [line[[0, 4, 5]]]
    asked = Wish(1, 0.4, 3)
    assert list(artist.complete([line], asked)) == list(artist.complete(straight, asked))
    bent = [line + np.array([[0, 0], [0, 0], [0, 9], [0, 0], [0, 0], [0, 0]])]
    assert list(artist.complete(bent, asked)) != list(artist.complete(straight, asked))


def test_where_a_drawing_is_does_not_matter_to_its_ending(artist):
    asked = Wish(1, 0.4, 3)
    (here,) = whole(artist.complete(LINES, asked))
    (there,) = whole(artist.complete([line + np.array([[70.0, -30]]) for line in LINES], asked))
    np.testing.assert_allclose(there, here + np.array([[70, -30, 0]]), atol=0.011)


def test_mimic_draws_from_the_latent_vector_in_the_drawings_place(artist):
    got = whole(artist.mimic([np.zeros((0, 2)), *LINES], Wish(2, 0.4, 3)))
    mu, _ = artist.pen.encode([STROKE3 / UNIT])
    expected = of_model(artist, 9, 0, z=np.repeat(mu, 9, axis=0))[:2]
    for points, drawing in zip(got, expected, strict=True):
        np.testing.assert_allclose(points, in_units(drawing, [100, 50]), atol=0.011)


def test_where_the_training_drawings_begin_is_where_the_persons_drawing_does(artist):
    away = artist_module.Artist(
        dataclasses.replace(artist.task, start=(0.5, -2.0)),
        (artist.pen.skeleton, artist.pen.params),
    )
    (got,) = whole(away.mimic(LINES, Wish(1, 0.4, 3)))
    begun = STROKE3 / UNIT
    begun[0, :2] = (0.5, -2.0)
    (expected,) = of_model(artist, 1, 0, z=artist.pen.encode([begun])[0])
    start = np.array([100, 50]) - SCALE * np.array([0.5, -2.0])
    np.testing.assert_allclose(got, in_units(expected, start), atol=0.011)


def test_between_goes_along_the_arc_from_one_to_the_other(artist):
    other = [np.array([[0.0, 0], [-90, 10], [30, 200]])]
    got = whole(artist.between(LINES, other, Wish(5, 0.4, 3)))
    ends = [STROKE3, np.array([[0, 0, 0], [-90, 10, 0], [120, 190, 1]], np.float32)]
    a, b = (artist.pen.encode([end / UNIT])[0][0] for end in ends)
    assert np.abs(a - b).max() > 1e-4
    z = np.stack([slerp(a, b, k / 4) for k in (0, 1, 2, 3, 4, 4, 4, 4, 4)]).astype(np.float32)
    expected = of_model(artist, 9, 0, z=z)[:5]
    assert len(got) == 5
    for points, drawing in zip(got, expected, strict=True):
        np.testing.assert_allclose(points, in_units(drawing, START_AT), atol=0.011)


def test_the_answer_comes_in_pieces_and_ends_with_its_own_drawings(artist):
    pieces = list(artist.complete(LINES, Wish(1, 0.4, 3)))
    assert [len(piece[0]) for piece in pieces] == [16, 16, 8]


@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.usefixtures("as_users_have_it")
def test_nothing_is_compiled_after_the_warm_up(tmp_path, monkeypatch, caplog, conditional):
    fresh = open_artist(make_run(tmp_path / "run", ("cat",), conditional=conditional))
    monkeypatch.setattr(artist_module, "LENGTHS", (8, 4, 1))
    calls = fresh.warm_ups()
    assert len(calls) == 6 + 3 * conditional
    for call in calls:
        call()
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        for lines in ([], LINES, LINES[:1]):
            for count in (1, 3, 9):
                list(fresh.complete(lines, Wish(count, 0.7, 5)))
        if conditional:
            list(fresh.mimic(LINES, Wish(1, 0.7, 5)))
            list(fresh.between(LINES, LINES[:1], Wish(5, 0.7, 5)))
        assert [r.message for r in caplog.records if "Compiling" in r.message] == []
        list(fresh.complete([*LINES] * 4, Wish(1, 0.7, 5)))
        assert [r.message for r in caplog.records if "Compiling" in r.message] != []


def test_a_typical_drawing_has_one_size_on_the_page(run):
    """Drawings in data twice as large, which the model knows at the same scale of its own."""
    small = open_artist(run)
    task = dataclasses.replace(small.task, scale=2 * SCALE, extent=2 * EXTENT)
    large = artist_module.Artist(task, (small.pen.skeleton, small.pen.params))
    assert whole(large.complete(LINES, Wish(1, 0.4, 3)))[0].tolist() == (
        whole(small.complete(LINES, Wish(1, 0.4, 3)))[0].tolist()
    )
    wider = dataclasses.replace(small.task, extent=EXTENT / 2)
    wide = artist_module.Artist(wider, (small.pen.skeleton, small.pen.params))
    (got,) = whole(wide.complete([], Wish(1, 0.4, 3)))
    (one,) = whole(small.complete([], Wish(1, 0.4, 3)))
    np.testing.assert_allclose(got[:, :2] - START_AT, 2 * (one[:, :2] - START_AT), atol=0.05)
