"""The drawing page by keys, by finger, on a phone, in the dark, in haste, without its server."""

import pytest
from demo_page import (
    BROWSER,
    CIRCLE,
    MODEL,
    PERSON,
    asked_by,
    draw,
    pixels,
    wait_for_pixels,
    wait_for_status,
)

DARK_PERSON, DARK_MODEL = (255, 122, 166), (241, 239, 233)
pytestmark = BROWSER


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
