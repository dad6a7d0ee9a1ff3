"""What the browser tests of the drawing page share: its server, Chromium, and a hand to draw."""

import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys

import pytest
from demo_cases import make_run

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="no playwright: pip install 'jaxrnn[browser]'"
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
BROWSER = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium"),
]

PERSON, MODEL = (214, 51, 108), (27, 27, 27)  # colours of lines, in the light
COUNT = """(color) => {
  // Pixels at least 40% of which are of a colour, the rest the sheet's: thin lines have no others.
  const canvas = document.getElementById("canvas");
  const sheet = getComputedStyle(canvas).getPropertyValue("--sheet").trim();
  const paper = [1, 3, 5].map((k) => parseInt(sheet.slice(k, k + 2), 16));
  const way = color.map((v, i) => v - paper[i]);
  const length = way.reduce((sum, v) => sum + v * v, 0);
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  let count = 0;
  for (let k = 0; k < data.length; k += 4) {
    const off = way.map((_, i) => data[k + i] - paper[i]);
    const share = off.reduce((sum, v, i) => sum + v * way[i], 0) / length;
    count += share > 0.4 && off.every((v, i) => Math.abs(v - share * way[i]) < 6);
  }
  return count;
}"""
SEEDS = """
  let seed = 10;
  crypto.getRandomValues = (values) => values.fill(seed++);
"""  # of endings: the same in every run, since how small the view makes a circle hangs on them
CIRCLE = [(0.35 + 0.1 * math.cos(t / 3), 0.35 + 0.1 * math.sin(t / 3)) for t in range(20)]


@contextlib.contextmanager
def served(folder):
    """The address of a page whose model is warm."""
    run = make_run(folder / "run")
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


@contextlib.contextmanager
def launched():
    """Chromium."""
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


@contextlib.contextmanager
def opener(browser, address):
    """Opens pages in contexts of their options; what goes wrong in them fails the test."""
    contexts, complaints = [], []

    def open_page(**options):
        options = {"viewport": {"width": 1000, "height": 700}} | options
        contexts.append(browser.new_context(**options))
        contexts[-1].add_init_script(SEEDS)
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
