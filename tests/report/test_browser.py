"""The report in a browser: everything is drawn, and nothing is asked of a network."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from jaxcifar.report import runs
from jaxcifar.report.build import build
from jaxcifar.report.page import page

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = """--headless --no-sandbox --disable-gpu --enable-unsafe-swiftshader --disable-quic
--no-first-run --disable-background-networking --disable-component-update --disable-sync
--hide-scrollbars --enable-logging=stderr --virtual-time-budget=20000""".split()
MARKS = ".scatterlayer path, .barlayer path, .heatmaplayer image, .hm image, canvas"
# Appended to the page: measures it once it has been drawn.
PROBE = f"""<script>
document.querySelectorAll("section > details").forEach((details) => {{ details.open = true; }});
requestAnimationFrame(() => setTimeout(() => {{
  const found = {{
    width: document.documentElement.scrollWidth, inner: window.innerWidth,
    plots: plots.map((plot) => plot.querySelectorAll("{MARKS}").length),
    milliseconds: performance.now(), requests: performance.getEntriesByType("resource").length,
  }};
  document.body.dataset.probe = JSON.stringify(found);
  window.parent.postMessage(JSON.stringify(found), "*");
}}, 500));
</script></body>"""

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed")


@pytest.fixture(scope="module")
def html(sweep_of_runs, tmp_path_factory):
    """The file of a report, with the probe."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    text = page(build(*runs.find([sweep_of_runs])))
    path.write_text(text.replace("</body>", PROBE))
    return path


def open_page(html, *flags):
    """Opens a page; returns its DOM and what was written to the console."""
    profile = html.parent / "profile"
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", *flags, f"file://{html}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    # What the graphics driver says of WebGL without a GPU is no message of the page.
    return done.stdout, [line for line in console if "GL Driver" not in line]


# A window of Chromium is at least 500 pixels wide; a frame in it can be as narrow as a phone.
PHONE = """<!doctype html><body style="margin:0">
<iframe src="{name}" width="{width}" height="900" style="border:0"></iframe>
<script>window.onmessage = (event) => {{ document.body.dataset.probe = event.data; }};</script>
</body>"""


@pytest.mark.parametrize("width", [1280, 390])
def test_every_plot_is_drawn_and_fits(html, width):
    page = html
    if width < 500:
        page = html.with_name("phone.html")
        page.write_text(PHONE.format(name=html.name, width=width))
    dom, console = open_page(page, "--dump-dom", "--window-size=1280,900")
    assert not console
    probe = json.loads(re.search(r"data-probe=\"([^\"]*)\"", dom)[1].replace("&quot;", '"'))
    assert probe["inner"] == width
    assert probe["width"] <= width
    assert len(probe["plots"]) > 10 and min(probe["plots"]) > 0
    assert probe["requests"] == 0


def test_light_and_dark_look_as_they_should(html, tmp_path):
    brightness = {}
    for scheme, flags in ("light", ()), ("dark", ("--blink-settings=preferredColorScheme=0",)):
        file = tmp_path / f"{scheme}.png"
        open_page(html, f"--screenshot={file}", "--window-size=1280,1600", *flags)
        pixels = np.asarray(Image.open(file).convert("RGB")).astype(int)
        brightness[scheme] = np.median(pixels)
        coloured = np.ptp(pixels, axis=2) > 60
        assert coloured.sum() > 2000  # curves, in colours
    assert brightness["light"] > 240 and brightness["dark"] < 40


def test_it_prints(html, tmp_path):
    file = tmp_path / "report.pdf"
    open_page(html, f"--print-to-pdf={file}")
    assert file.read_bytes().startswith(b"%PDF") and file.stat().st_size > 50_000
