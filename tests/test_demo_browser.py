"""The drawing page in Chromium, as a person uses it, against the command that serves it."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from demo_cases import make_run

from jaxrnn.data.sketch_output import from_json
from jaxrnn.data.sketch_svg import read_svg

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="no playwright: pip install 'jaxrnn[browser]'"
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium"),
]

PERSON, MODEL = (214, 51, 108), (27, 27, 27)  # colours of lines, in the light
DARK_PERSON, DARK_MODEL = (255, 122, 166), (241, 239, 233)
COUNT = """([r, g, b]) => {
  const canvas = document.getElementById("canvas");
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  let count = 0;
  for (let k = 0; k < data.length; k += 4)
    count += data[k] === r && data[k + 1] === g && data[k + 2] === b;
  return count;
}"""
CIRCLE = [(0.35 + 0.1 * math.cos(t / 3), 0.35 + 0.1 * math.sin(t / 3)) for t in range(20)]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Of a page whose model is warm."""
    run = make_run(tmp_path_factory.mktemp("demo") / "run")
    with subprocess.Popen(
        [sys.executable, "-m", "jaxrnn.demo", run, "--port", "0"],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[0]
        print(process.stdout.readline().strip())
        yield url
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, address):
    """A page in a context of these options; what goes wrong in it fails the test."""
    contexts, complaints = [], []

    def open_page(**options):
        options = {"viewport": {"width": 1000, "height": 700}} | options
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda m: m.type == "error" and complaints.append(m.text))
        page.on(
            "request",
            lambda r: r.url.startswith((address, "blob:", "data:")) or complaints.append(r.url),
        )
        page.goto(address)
        wait_for_status(page, "Ready")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [text for text in complaints if "ERR_FAILED" not in text] == []  # a test's own doing


def wait_for_status(page, text):
    page.wait_for_function(
        "text => document.getElementById('status').textContent.startsWith(text)", arg=text
    )


def pixels(page, color) -> int:
    return page.evaluate(COUNT, list(color))


def wait_for_pixels(page, color, least=20):
    page.wait_for_function(
        f"([color, least]) => ({COUNT})(color) >= least", arg=[list(color), least]
    )


def draw(page, places):
    """A stroke by the mouse; places are in parts of the canvas."""
    box = page.locator("#canvas").bounding_box()
    for k, (x, y) in enumerate(places):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
        if k == 0:
            page.mouse.down()
    page.mouse.up()


def saved(page, tmp_path, name):
    with page.expect_download() as download:
        page.get_by_role("button", name=name).click()
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    return path


def asked_by(page, action) -> dict:
    with page.expect_request(lambda request: request.method == "POST") as request:
        action()
    return {"path": request.value.url.rpartition("/")[2], **json.loads(request.value.post_data)}


def draw_circle(page):
    draw(page, CIRCLE)
    wait_for_status(page, "The model went on.")


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
    wait_for_pixels(page, PERSON, 30)
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


def test_a_hundred_quick_drawings(open_page):
    page = open_page()
    for k in range(100):
        x, y = 0.1 + 0.08 * (k % 10), 0.1 + 0.08 * (k // 10)
        draw(page, [(x, y), (x + 0.05, y + 0.05)])
    page.keyboard.press("n")
    wait_for_status(page, "The model went on.")
    label = page.locator("#canvas").get_attribute("aria-label")
    assert label == "Drawing surface, of 100 strokes"
    wait_for_pixels(page, MODEL)


def test_all_can_be_done_by_keys(open_page, tmp_path):
    page = open_page(reduced_motion="reduce")
    seen = []
    for _ in range(40):
        page.keyboard.press("Tab")
        focus = page.evaluate(
            "() => { const e = document.activeElement, s = getComputedStyle(e);"
            " const t = e.type === 'radio' ? getComputedStyle(e.nextElementSibling) : s;"
            " return [e.id || e.name, t.outlineStyle, t.outlineWidth]; }"
        )
        if not focus[0]:
            break
        assert focus[1:] == ["solid", "3px"]
        seen.append(focus[0])
    expected = ["canvas", "mode", "class", "temperature", "new", "grid", "again"]
    assert seen == expected
    page.locator("#canvas").focus()
    keys = [" ", "ArrowRight", " ", *["ArrowRight"] * 4, "Shift+ArrowDown", "ArrowLeft"]
    for key in keys:
        page.keyboard.press(key)
    (line,) = asked_by(page, lambda: page.keyboard.press(" "))["lines"]
    assert line == [[216 + 16 * k, 200] for k in range(5)] + [[280, 204], [264, 204]]
    wait_for_status(page, "The model went on.")
    assert len(asked_by(page, lambda: page.keyboard.press("n"))["lines"]) == 1
    assert asked_by(page, lambda: page.keyboard.press("g"))["count"] == 9
    with page.expect_download() as download:
        page.keyboard.press("s")
    assert download.value.suggested_filename == "drawing.svg"
    page.keyboard.press("u")
    wait_for_status(page, "Empty.")
    asked = asked_by(page, lambda: page.keyboard.press("n"))
    assert asked["lines"] == []
    wait_for_status(page, "Nine drawings by the model.")
    page.keyboard.press("c")
    wait_for_status(page, "Empty.")


@pytest.mark.parametrize("mode", ["go on", "interpolate"])
def test_a_phone_shows_all_without_scrolling_sideways(open_page, mode):
    page = open_page(viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True)
    page.get_by_text(mode, exact=True).click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    boxes = [
        e.bounding_box()
        for e in page.locator("canvas, button, select, input").all()
        if e.is_visible()
    ]
    assert len(boxes) > 10
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= 360 for box in boxes)
    assert page.locator("#canvas").bounding_box()["width"] > 320
    heights = [e.bounding_box()["height"] for e in page.get_by_role("button").all()]
    assert min(heights) >= 44


def test_a_finger_draws(open_page):
    page = open_page(viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True)
    box = page.locator("#canvas").bounding_box()
    session = page.context.new_cdp_session(page)
    for kind, share in (("Start", 0.3), ("Move", 0.4), ("Move", 0.5), ("End", None)):
        place = {"x": box["x"] + (share or 0) * box["width"], "y": box["y"] + 0.4 * box["height"]}
        points = [] if share is None else [place]
        session.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points})
    wait_for_status(page, "The model went on.")
    wait_for_pixels(page, PERSON)
    assert page.evaluate("scrollY") == 0


def test_the_dark_scheme(open_page):
    page = open_page(color_scheme="dark")
    background, text = (
        page.evaluate(f"getComputedStyle(document.body).{name}.match(/\\d+/g).map(Number)")
        for name in ("backgroundColor", "color")
    )
    assert contrast(background, text) > 7
    draw(page, CIRCLE)
    wait_for_pixels(page, DARK_MODEL)
    wait_for_pixels(page, DARK_PERSON, 100)
    assert pixels(page, PERSON) == 0


def contrast(first, second) -> float:
    """Of two colours, as WCAG 2 defines it."""

    def luminance(color):
        parts = [v / 255 for v in color]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
        return sum(w * v for w, v in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted(map(luminance, (first, second)))
    return (high + 0.05) / (low + 0.05)


def test_the_status_tells_when_the_server_has_gone(open_page):
    page = open_page()
    page.route("**/complete", lambda route: route.abort())
    draw(page, CIRCLE)
    wait_for_status(page, "The server doesn't answer.")
    page.unroute("**/complete")
    page.keyboard.press("n")
    wait_for_status(page, "The model went on.")
