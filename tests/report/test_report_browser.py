"""`report.html` in a real browser: what must be seen is there, at every width, light and dark."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest
from report_samples import lenet_benchmark

from onnxadmm.report.benchmark_files import render_benchmark_html
from onnxadmm.report.html import render_html
from onnxadmm.report.run_files import render_runs_html
from onnxadmm.report.runs import compare_runs

BROWSER = next((b for b in map(shutil.which, ("chromium", "google-chrome")) if b), None)
REQUIRED = "ONNXADMM_BROWSER_REQUIRED"

FACTS = """(() => {
  const seen = e => { const b = e.getBoundingClientRect(); return b.width > 20 && b.height > 5; };
  const all = s => [...document.querySelectorAll(s)];
  return JSON.stringify({
    overflow: document.documentElement.scrollWidth - window.innerWidth,
    verdict: document.querySelector('.verdict').innerText,
    rows: all('.compare tbody tr').filter(seen).length,
    plots: all('svg.plot').filter(seen).length,
    wide: all('svg.plot').filter(e => e.getBoundingClientRect().right > window.innerWidth).length,
    gates: all('[aria-labelledby=gates] li').filter(seen).map(e => e.innerText),
    paper: getComputedStyle(document.body).backgroundColor,
    requests: performance.getEntriesByType('resource').length,
  });
})()"""


class Browser:
    """Chromium over its debugging pipe: descriptors 3 and 4, JSON that ends with a zero byte."""

    def __init__(self, profile):
        to_browser, self.write = os.pipe()
        self.read, from_browser = os.pipe()
        # The shell gives the pipe the two numbers that Chromium wants.
        command = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
        self.process = subprocess.Popen(
            ["bash", "-c", command, "-", BROWSER, *flags, f"--user-data-dir={profile}"],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self.count, self.rest = 0, b""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]

    session = None

    def ask(self, method, **parameters):
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.rest:
                chunk = os.read(self.read, 1 << 16)
                assert chunk, "the browser has gone"
                self.rest += chunk
            line, _, self.rest = self.rest.partition(b"\0")
            answer = json.loads(line)
            if answer.get("id") == self.count:
                assert "error" not in answer, answer
                return answer["result"]

    def run(self, expression):
        found = self.ask("Runtime.evaluate", expression=expression, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def dress(self, width, scheme):
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        media = [{"name": "prefers-color-scheme", "value": scheme}]
        self.ask("Emulation.setEmulatedMedia", features=media)

    def show(self, page):
        self.ask("Page.navigate", url=page.as_uri())
        loaded = "new Promise(r => document.readyState == 'complete' ? r(1) : addEventListener('load', () => r(1)))"
        self.run(loaded)

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.write)
        os.close(self.read)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if BROWSER is None:
        assert not os.environ.get(REQUIRED), "a browser is required here and none is installed"
        pytest.skip("no chromium here")
    opened = Browser(tmp_path_factory.mktemp("browser"))
    yield opened
    opened.close()


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_table_plots_and_verdict_are_seen(browser, lenet, tmp_path, width, scheme):
    gate = lenet.gates[0].model_copy(update={"passed": False})
    report = lenet.model_copy(update={"gates": (gate, *lenet.gates[1:])})
    page = tmp_path / "report.html"
    page.write_text(render_html(report), encoding="utf-8")
    browser.dress(width, scheme)
    browser.show(page)
    found = json.loads(browser.run(FACTS))
    assert found["overflow"] <= 0
    assert "1 of 5 gates failed" in found["verdict"].replace("\N{NO-BREAK SPACE}", " ")
    assert found["rows"] >= 10
    assert found["plots"] == 7  # loss, metric, residuals, rho, two batch sizes, more threads
    assert found["wide"] == 0
    assert len(found["gates"]) == 5
    assert "failed" in found["gates"][0]
    assert "passed" in found["gates"][1]
    assert (found["paper"] == "rgb(255, 255, 255)") is (scheme == "light")
    assert found["requests"] == 0


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_benchmark_is_seen(browser, tmp_path, width, scheme):
    page = tmp_path / "benchmark.html"
    page.write_text(render_benchmark_html(lenet_benchmark()), encoding="utf-8")
    browser.dress(width, scheme)
    browser.show(page)
    found = json.loads(
        browser.run("""JSON.stringify({
          overflow: document.documentElement.scrollWidth - window.innerWidth,
          cells: [...document.querySelectorAll('.models tbody tr:first-child td')].map(e => e.innerText),
          shares: document.querySelectorAll('.shares tbody tr').length,
          verdict: document.querySelector('.verdict').innerText,
          right: Math.max(...[...document.querySelectorAll('svg, td, th')].map(e => e.getBoundingClientRect().right)),
          narrow: [...document.querySelectorAll('.models tbody th, .shares tbody th')].filter(e =>
            e.innerText && e.getBoundingClientRect().width < 40).length,
          requests: performance.getEntriesByType('resource').length,
        })""")
    )
    assert found["overflow"] <= 0
    assert found["right"] <= width
    assert found["narrow"] == 0
    assert len(found["cells"]) == 3
    assert found["shares"] >= 12
    assert "gates" in found["verdict"]
    assert found["requests"] == 0


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_runs_side_by_side_are_seen(browser, lenet, tmp_path, width, scheme):
    page = tmp_path / "comparison.html"
    page.write_text(render_runs_html(compare_runs({"a": lenet, "b": lenet})), encoding="utf-8")
    browser.dress(width, scheme)
    browser.show(page)
    found = json.loads(
        browser.run("""JSON.stringify({
          overflow: document.documentElement.scrollWidth - window.innerWidth,
          rows: [...document.querySelectorAll('.runs tbody tr')].map(e => e.innerText),
          plots: [...document.querySelectorAll('svg.plot')].map(e => e.getBoundingClientRect().right),
          paper: getComputedStyle(document.body).backgroundColor,
          requests: performance.getEntriesByType('resource').length,
        })""")
    )
    assert found["overflow"] <= 0
    assert len(found["rows"]) == 5  # one original, float and compressed of two runs
    assert "front" in found["rows"][0]
    assert len(found["plots"]) == 2
    assert max(found["plots"]) <= width
    assert (found["paper"] == "rgb(255, 255, 255)") is (scheme == "light")
    assert found["requests"] == 0
