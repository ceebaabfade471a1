"""The page, in a browser: a photograph is dropped, classes and pictures appear, and errors are told in words."""

import base64
import html
import json
import re
import shutil
import subprocess
from dataclasses import replace

import pytest
from starlette.responses import Response
from starlette.routing import Route

import resnet_jax as rn
from resnet_jax.serve.app import PAGE

from .conftest import photo, run_of, serving
from .test_masks import NAMES, OPTIONS

pytestmark = pytest.mark.usefixtures("compile_quickly", "short_runs")
BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")

# Drops files, and writes what the page shows after each into the page.
DRIVE = """
const result = document.createElement("pre");
const seen = [];
const wait = (until) => new Promise((go) => { const look = () => until() ? go() : setTimeout(look, 20); look(); });
const bytes = (text) => Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
const said = () => at("status").textContent;
const settled = () => !["Looking ...", ""].includes(said()) || said() === "" && !at("result").hidden;
const dropped = (name, data) => {
  const held = new DataTransfer();
  held.items.add(new File([data], name, { type: "image/png" }));
  document.dispatchEvent(new DragEvent("drop", { dataTransfer: held, bubbles: true, cancelable: true }));
};
const told = () => seen.push({
  status: at("status").textContent,
  error: at("status").classList.contains("error"),
  shown: !at("result").hidden,
  title: at("title").textContent,
  about: at("about").textContent,
  rows: [...document.querySelectorAll(".row")].map((one) => [...one.children].slice(0, 2).map((x) => x.textContent)),
  bars: [...document.querySelectorAll(".bar span")].map((one) => one.style.width),
  chips: [...document.querySelectorAll(".chip")].map((one) => one.style.background),
  pressed: [...document.querySelectorAll("[aria-pressed=true] > span:first-child")].map((one) => one.textContent),
  picture: at("picture").src.slice(0, 22),
  size: [at("picture").naturalWidth, at("picture").naturalHeight],
  caption: at("caption").textContent,
});
addEventListener("load", async () => {
  await wait(() => info && info.state === "ready");
  for (const step of STEPS) {
    at("result").hidden = true;
    if (step.click !== undefined) { document.querySelectorAll(".row")[step.click].click(); at("result").hidden = true; }
    else dropped(step.name, step.large ? new Uint8Array(step.large) : bytes(step.data));
    await wait(settled);
    await wait(() => at("second").hidden || at("picture").complete && at("picture").naturalWidth);
    told();
  }
  result.id = "told";
  result.hidden = true;
  result.textContent = JSON.stringify(seen);
  document.body.append(result);
});
"""


def dropped(name, data):
    return {"name": name, "data": base64.b64encode(data).decode()}


def browse(running, steps, tmp_path, *, picture=None):
    """What the page tells after each step; and a screenshot of it."""
    content = (PAGE / "page.html").read_text().replace("</body>", '<script src="drive.js"></script></body>')

    async def page(_):
        return Response(content, media_type="text/html", headers=safe)

    async def drive(_):
        return Response(f"const STEPS = {json.dumps(steps)};{{{DRIVE}}}", media_type="text/javascript")

    safe = {"Content-Security-Policy": running.ask("/").headers["content-security-policy"]}
    running.service.app.routes.extend([Route("/driven", page), Route("/drive.js", drive)])
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--virtual-time-budget=20000"]
    flags += ["--window-size=1000,760", f"--screenshot={picture or tmp_path / 'page.png'}", "--dump-dom"]
    command = [BROWSER, *flags, f"{running.address}/driven"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=True)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line and "Failed to load resource" not in line]
    assert not console, "errors of the program, or what the page may not do"
    return json.loads(html.unescape(re.search(r'<pre id="told" hidden="">(.*?)</pre>', done.stdout, re.S)[1]))


def test_the_page_asks_nobody_else(tiny):
    files = {name: (PAGE / name).read_text() for name in ("page.html", "page.css", "page.js")}
    for content in files.values():
        assert "http" not in content.replace("http-equiv", "")
        assert "innerHTML" not in content, "names of classes are never read as markup"
    assert re.findall(r'(?:src|href)="([^"]+)"', files["page.html"]) == ["data:,", "page.css", "page.js"]


@pytest.mark.skipif(BROWSER is None, reason="no Chromium: install the package chromium")
def test_a_photograph_is_dropped(tiny, tmp_path):
    with serving(tiny, cam=True, max_bytes=100_000) as running:
        steps = [
            dropped("broken.png", photo()[:-50]),
            dropped("text.png", b"no image"),
            {"name": "large.png", "large": 100_001},
            dropped("cat.png", photo(1, size=(300, 200))),
            {"click": 2},
        ]
        told = browse(running, steps, tmp_path)
        expected = running.ask("/predict?top=5&cam=true", photo(1, size=(300, 200))).json["classes"]
    broken, text, large, first, clicked = told
    assert re.fullmatch(r"The image cannot be decoded: .*; send a complete file\.", broken["status"])
    assert text["status"].startswith("This is no image that is known here; send a file of ")
    assert large["status"] == "This file has 100,001 bytes, more than the 100,000 that the server takes."
    assert all(one["error"] and not one["shown"] for one in (broken, text, large))
    assert (first["error"], first["shown"], first["status"]) == (False, True, "")
    assert first["title"] == tiny.title
    assert first["about"].startswith("7 classes; images: shorter side 40 pixels (bilinear), centre 33; at most 0.1 MB")
    assert first["rows"] == [[one["class"], f"{100 * one['probability']:.1f} %"] for one in expected]
    assert [float(width[:-1]) for width in first["bars"]] == [
        pytest.approx(100 * one["probability"], abs=1e-2) for one in expected
    ]
    assert first["pressed"] == [expected[0]["class"]]
    assert (first["picture"], first["size"]) == ("data:image/png;base64,", [33, 33])
    assert first["caption"].startswith(f"what counts for {expected[0]['class']} (")
    assert clicked["pressed"] == [expected[2]["class"]]
    assert clicked["caption"].startswith(f"what counts for {expected[2]['class']} (")


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium: install the package chromium")
def test_masks_on_the_page(tmp_path):
    run = run_of(rn.load_config("configs/segment/digits.py", OPTIONS), NAMES)
    run = replace(run, class_names=("background", "</script><b>", *NAMES[2:]))
    with serving(run, aspects=("3:2",), batch_sizes=(1,)) as running:
        (told,) = browse(running, [dropped("scene.png", photo(2, size=(300, 200)))], tmp_path)
        expected = running.ask("/predict", photo(2, size=(300, 200))).json["classes"]
    assert [row[0] for row in told["rows"]] == [one["class"] for one in expected]
    assert all(row[1].endswith(" of the pixels") for row in told["rows"])
    assert len(told["chips"]) == len(expected) > 1
    assert (told["size"], told["caption"]) == ([300, 200], "the classes over the photograph")
