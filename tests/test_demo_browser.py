"""The drawing page in Chromium, as a person uses it, against the command that serves it."""

import xml.etree.ElementTree as ElementTree

import numpy as np
from demo_page import (
    BROWSER,
    CIRCLE,
    COUNT,
    MODEL,
    PERSON,
    asked_by,
    draw,
    draw_circle,
    pixels,
    saved,
    wait_for_pixels,
    wait_for_status,
)

from jaxrnn.data.sketch_output import from_json
from jaxrnn.data.sketch_svg import read_svg

pytestmark = BROWSER


def test_the_model_draws_on_in_its_own_colour(open_page):
    page = open_page()
    assert pixels(page, PERSON) == pixels(page, MODEL) == 0
    draw(page, CIRCLE)
    wait_for_pixels(page, MODEL)
    wait_for_pixels(page, PERSON, 100)
    wait_for_status(page, "The model went on.")
    entries = page.evaluate("performance.getEntriesByName('first stroke').map(e => e.duration)")
    print(f"first stroke {entries[0]:.0f} ms after the release")
    assert len(entries) == 1
    assert entries[0] < 1000


def test_it_goes_on_again_and_again_until_it_is_told_not_to(open_page):
    page = open_page(reduced_motion="reduce")
    again = page.get_by_label("Again and again")
    assert not again.is_checked()
    first = asked_by(page, lambda: draw(page, CIRCLE))
    others = [asked_by(page, again.check), asked_by(page, lambda: None)]
    assert len({asked.pop("seed") for asked in (first, *others)}) == 3
    assert first.pop("path") == "complete"
    assert [asked.pop("path") for asked in others] == ["complete"] * 2
    assert others == [first] * 2
    again.uncheck()
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    page.wait_for_timeout(2500)
    assert requests == []
    side = page.evaluate("document.getElementById('canvas').clientWidth")
    np.testing.assert_allclose(first["lines"], 400 * np.array([CIRCLE]), atol=2 * 400 / side)


def test_what_is_drawn_is_saved(open_page, tmp_path):
    page = open_page(reduced_motion="reduce")
    draw(page, CIRCLE)
    draw(page, [(0.6, 0.6), (0.7, 0.6), (0.7, 0.7)])
    wait_for_status(page, "The model went on.")
    svg = saved(page, tmp_path, "Save as SVG")
    colors = [
        path.get("stroke")
        for path in ElementTree.parse(svg).iter("{http://www.w3.org/2000/svg}path")
    ]
    assert colors[:2] == ["#d6336c"] * 2
    assert len(colors) > 2
    assert set(colors[2:]) == {None}
    (drawing,) = from_json(saved(page, tmp_path, "Save as JSON").read_text())
    np.testing.assert_allclose(read_svg(svg, 0.0), drawing, atol=0.1)
    assert np.flatnonzero(drawing[:, 2])[1] == len(CIRCLE) + 2
    picture = saved(page, tmp_path, "Save as PNG").read_bytes()
    assert picture.startswith(b"\x89PNG\r\n")
    assert int.from_bytes(picture[16:20]) == 1200


def test_temperature_and_class_go_with_the_next_ending(open_page):
    page = open_page(reduced_motion="reduce")
    draw_circle(page)
    assert page.get_by_label("Subject").locator("option").all_text_contents() == ["cat", "dog"]
    asked = asked_by(page, lambda: page.get_by_label("Subject").select_option("dog"))
    assert (asked["class"], asked["temperature"], asked["count"]) == ("dog", 0.4, 1)
    asked = asked_by(page, lambda: page.get_by_label("Temperature").fill("1.25"))
    assert (asked["class"], asked["temperature"]) == ("dog", 1.25)
    assert page.locator("#temperature-shown").text_content() == "1.25"


def test_undo_and_clear(open_page):
    page = open_page(reduced_motion="reduce")
    undo, clear = (page.get_by_role("button", name=name) for name in ("Undo", "Clear"))
    assert undo.is_disabled()
    draw_circle(page)
    first = asked_by(page, lambda: draw(page, [(0.6, 0.6), (0.7, 0.7)]))
    assert len(first["lines"]) == 2
    after = asked_by(page, undo.click)
    assert after["lines"] == first["lines"][:1]
    wait_for_status(page, "The model went on.")
    clear.click()
    wait_for_status(page, "Empty.")
    page.wait_for_function(f"color => ({COUNT})(color) === 0", arg=list(PERSON))
    assert pixels(page, MODEL) == 0
    assert undo.is_disabled()
    assert clear.is_disabled()


def test_nine_endings_at_once_and_drawing_in_one_of_the_nine(open_page, tmp_path):
    page = open_page(reduced_motion="reduce")
    draw_circle(page)
    button = page.get_by_role("button", name="Nine at once")
    assert asked_by(page, button.click)["count"] == 9
    wait_for_status(page, "Nine endings.")
    assert button.get_attribute("aria-pressed") == "true"
    wait_for_pixels(page, PERSON, 9)
    wait_for_pixels(page, MODEL, 100)
    clear = page.get_by_role("button", name="Clear")
    clear.click()
    cell = [((1 + x) / 3, (2 + y) / 3) for x, y in CIRCLE]
    (line,) = asked_by(page, lambda: draw(page, cell))["lines"]
    side = page.evaluate("document.getElementById('canvas').clientWidth")
    np.testing.assert_allclose(line[0], 400 * np.array(CIRCLE[0]), atol=6 * 400 / side)
    wait_for_status(page, "Nine endings.")
    assert len(from_json(saved(page, tmp_path, "Save as JSON").read_text())) == 9


def test_mimic_and_the_way_between_two(open_page, tmp_path):
    page = open_page(reduced_motion="reduce")
    draw_circle(page)
    asked = asked_by(page, lambda: page.get_by_text("mimic", exact=True).click())
    assert asked["path"] == "mimic"
    wait_for_status(page, "The model's own version.")
    page.get_by_text("interpolate", exact=True).click()
    page.get_by_role("button", name="Keep as A").click()
    wait_for_status(page, "A is kept.")
    assert page.get_by_role("button", name="Go from A to this").is_disabled()
    draw(page, [(0.6, 0.6), (0.7, 0.7), (0.6, 0.8)])
    asked = asked_by(page, page.get_by_role("button", name="Go from A to this").click)
    assert (asked["path"], asked["count"]) == ("between", 7)
    assert (len(asked["first"][0]), len(asked["second"][0])) == (len(CIRCLE), 3)
    wait_for_status(page, "7 drawings from A to B.")
    wait_for_pixels(page, MODEL, 100)
    assert len(from_json(saved(page, tmp_path, "Save as JSON").read_text())) == 7
    draw(page, [(0.2, 0.2), (0.3, 0.3)])
    page.get_by_text("go on", exact=True).click()
    wait_for_status(page, "The model went on.")
