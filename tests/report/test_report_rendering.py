import html.parser
import io
import re
import subprocess
import sys
from xml.etree import ElementTree as ET

import pytest
from report_samples import bare_report, lenet_report
from rich.console import Console

from onnxadmm.report import (
    BatchLatency,
    ChannelClass,
    Epoch,
    LatencyFacts,
    ModelFacts,
    Ratios,
    Report,
    SpeedupFacts,
    Stage,
    Unmeasured,
    Verification,
    render_all,
)
from onnxadmm.report.html import render_html
from onnxadmm.report.junit import render_junit
from onnxadmm.report.markdown import render_markdown
from onnxadmm.report.plots import VARIABLES
from onnxadmm.report.summary import headlines, remarks, verdict
from onnxadmm.report.terminal import summary_table

EVIL = "<script>alert(1)</script>\"'&\u202e\x1b[31m{{7*7}}[bold]@bob|`$x$"
VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(html.parser.HTMLParser):
    """Collects tags and attributes, and insists on balanced elements."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.links, self.text = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            assert not name.startswith("on")
            if name == "id":
                self.ids.append(value)
            elif name in {"href", "xlink:href", "src"}:
                self.links.append(value)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def page(lenet):
    return render_html(lenet)


def svgs(text):
    return re.findall(r"<svg.*?</svg>", text, re.DOTALL)


def text_of(page):
    return re.sub(r"\s+", " ", "".join(Page(page).text))


def evil_report():
    slow = ModelFacts(
        file_bytes=9,
        parameters=9,
        nonzero_parameters=1,
        macs=0,
        metrics={EVIL: 1e-9},
        latency={EVIL: LatencyFacts.of({1: BatchLatency.of([0.0] * 5, 1)})},
    )
    return lenet_report(
        model=EVIL,
        compressed=slow,
        ratios=Ratios.between(slow, slow, {EVIL: {1: SpeedupFacts(ratio=0.5, low=0.4, high=0.6)}}),
        pruned=None,
        channels=[ChannelClass(class_name=EVIL, members=[EVIL] * 9, size=3, kept=0, reason=EVIL)],
        warnings=[EVIL],
        unmeasured=[Unmeasured(what=EVIL, reason=EVIL)],
        environment={EVIL: EVIL},
        stages=[Stage(name=EVIL, seconds=0)],
        spec={"version": 1, EVIL: EVIL, "objective": {"metric": EVIL}},
        onnxadmm=EVIL,
        created=EVIL,
        verification=Verification(passed=False),
    )


def test_page_is_one_balanced_file_that_loads_nothing(page):
    parsed = Page(page)
    assert "script" not in parsed.tags
    assert all(link.startswith("#") for link in parsed.links)
    assert "@import" not in page
    assert "url(http" not in page
    addresses = set(re.findall(r"https?://[^\s\"'<]+", page))
    assert addresses <= {"http://www.w3.org/1999/xlink"}


def test_ids_are_unique_and_every_reference_has_its_target(page):
    parsed = Page(page)
    assert len(parsed.ids) == len(set(parsed.ids))
    used = {link[1:] for link in parsed.links} | set(re.findall(r"url\(#([^)]+)\)", page))
    assert used <= set(parsed.ids)


def test_plots_are_themed_labelled_and_well_formed(page):
    found = svgs(page)
    assert len(found) == 7  # loss, metric, residuals, rho, two batch sizes, more threads
    for svg in found:
        root = ET.fromstring(svg)
        assert root.get("role") == "img"
        assert len(root.get("aria-label")) > 20
        assert root[0].tag == "title"
        assert not re.search(r"#[0-9a-fA-F]{6}\b", svg)
        assert "DejaVu" not in svg
        assert "<style" not in svg
    for variable in VARIABLES.values():
        assert f"{variable}:" in page


def test_pages_say_the_headline_numbers(page):
    said = text_of(page).replace("\N{NARROW NO-BREAK SPACE}", " ")
    for expected in ("All 5 gates passed", "44.2×", "20.6×", "5.24×", "431 080", "3.1 × 10⁻⁷"):
        assert expected in said.replace("\N{NO-BREAK SPACE}", " ")
    assert "reaches the graph output logits" in said
    assert "slower than the pruned float model" in said


def test_rendering_is_deterministic_and_survives_json(lenet):
    once = render_all(lenet)
    assert list(once) == ["report.json", "report.html", "report.md", "report.xml"]
    assert render_all(Report.from_json(once["report.json"])) == once


def test_hostile_names_are_only_text():
    text = render_html(evil_report())
    parsed = Page(text)
    assert "script" not in parsed.tags
    for hidden in ("\x1b", "\u202e"):
        assert hidden not in text
    assert "{{7*7}}" in text
    for svg in svgs(text):
        ET.fromstring(svg)
    markdown = render_markdown(evil_report())
    assert "<script" not in markdown
    assert "@bob" not in markdown
    assert "\x1b" not in markdown
    shown = io.StringIO()
    Console(file=shown, width=300, color_system=None).print(summary_table(evil_report()))
    assert "[bold]" in shown.getvalue()
    assert "\x1b" not in shown.getvalue()


def test_a_bare_report_degrades_to_notes(bare):
    text = render_html(bare)
    said = text_of(text)
    assert not svgs(text)
    for absent in ("Training", "Channels", "Pruned"):
        assert f">{absent}<" not in text
    assert "No gates set" in said
    assert "one shot" in said
    assert "Nothing was timed" in said
    assert "not measured" in said
    assert "Proof passed" in render_markdown(bare)


def test_what_lacks_for_one_reason_is_said_once():
    missing = [Unmeasured(what=f"latency on cuda, batch size {n}", reason="no GPU") for n in (1, 8)]
    other = Unmeasured(what="profile of original", reason="no room")
    said = [r for r in remarks(bare_report(unmeasured=[*missing, other])) if "Not measured" in r]
    assert said == [
        "Not measured: latency on cuda, batch size 1; latency on cuda, batch size 8 (no GPU).",
        "Not measured: profile of original (no room).",
    ]


def test_random_inputs_are_marked(lenet, bare):
    assert not any("random inputs" in text for text in remarks(lenet))
    assert not any("random inputs" in text for text in remarks(bare))
    spec = {k: v for k, v in lenet.spec.items() if k != "data"}
    timed = lenet.model_copy(update={"spec": spec})
    for text in (render_html(timed), render_markdown(timed)):
        assert "random inputs" in text


def test_what_computes_in_floating_point_is_not_called_int8(lenet):
    """The sample's result is slower than its float model at batch 1: said of int8 only."""
    for entry, said in (
        ({"layers": "*"}, True),
        ({"activations": {"bits": 8}, "weights": {"levels": "ternary"}}, True),
        ({"activations": "none"}, False),
        ({"weights": {"levels": "binary"}}, False),
        ({"weights": {"bits": 4}}, False),
    ):
        report = lenet.model_copy(update={"spec": {**lenet.spec, "quantize": [entry]}})
        assert any("int8" in text for text in remarks(report)) is said


def test_a_single_epoch_has_no_curve():
    epoch = Epoch(epoch=1, stage="admm", step=1, loss=1.0, rho=0.0, primal=0.0, seconds=1.0)
    text = render_html(lenet_report(history=[epoch]))
    assert "there is no curve" in text
    assert len(svgs(text)) == 3


def test_odd_curves_and_runs_draw_without_warnings(lenet):
    flat = [
        Epoch(epoch=i, stage="retrain", step=1, loss=1e-30, primal=0.0, rho=1e9, seconds=0.0)
        for i in range(1, 400)
    ]
    still = LatencyFacts.of({1: BatchLatency.of([2.0] * 7, 1), 8: BatchLatency.of([1e5], 8)})
    model = lenet.compressed.model_copy(update={"latency": {"cpu": still}})
    ET.fromstring(svgs(render_html(lenet_report(history=flat, compressed=model)))[0])


def test_absurd_numbers_still_make_a_report():
    nothing = ModelFacts(
        file_bytes=0, parameters=0, nonzero_parameters=0, macs=0, metrics={"accuracy": 0.0}
    )
    run = BatchLatency.of([1e300, 1e-300], 1)
    huge = ModelFacts(
        file_bytes=2**63 - 1,
        parameters=2**63 - 1,
        nonzero_parameters=0,
        macs=2**63 - 1,
        metrics={"accuracy": 1e308},
        peak_memory_bytes=0,
        session_s=1e300,
        latency={"cpu": LatencyFacts.of({1: run})},
    )
    speedup = {"cpu": {1: SpeedupFacts(ratio=1e-300, low=1e-300, high=1e300)}}
    history = [
        Epoch(
            epoch=i,
            stage="admm",
            step=0,
            loss=(-1) ** i * 1e300,
            metric=1e-300,
            rho=1e-300,
            primal=1e300,
            dual=10.0**-i,
            seconds=1e9,
        )
        for i in range(3)
    ]
    for before, after in ((nothing, huge), (huge, nothing)):
        report = bare_report(
            original=before,
            compressed=after,
            ratios=Ratios.between(before, after, speedup),
            history=history,
            stages=[Stage(name="a", seconds=1.7e308), Stage(name="b", seconds=1.7e308)],
        )
        for svg in svgs(render_all(report)["report.html"]):
            ET.fromstring(svg)


def test_many_channels_fold_and_stop():
    channels = [ChannelClass(class_name=f"c{i}", size=4, kept=i % 5) for i in range(1100)]
    text = render_html(lenet_report(channels=channels, history=[]))
    assert "960 more" in text
    assert "100 more are in report.json" in text


def test_verdicts(lenet, bare):
    assert verdict(lenet).state == "passed"
    assert verdict(bare).state == "none"
    broken = lenet.gates[0].model_copy(update={"passed": False})
    failed = lenet.model_copy(update={"gates": (broken, *lenet.gates[1:])})
    assert verdict(failed).state == "failed"
    assert "1 of 5" in verdict(failed).text.replace("\N{NO-BREAK SPACE}", " ")
    assert "max\\_drop.accuracy" in render_markdown(failed)
    unproven = lenet.model_copy(update={"verification": Verification(passed=False)})
    assert "proof failed" in verdict(unproven).text


def test_slower_and_larger_are_said_as_such():
    small = ModelFacts(file_bytes=10, parameters=10, nonzero_parameters=10, macs=10)
    large = ModelFacts(file_bytes=20, parameters=10, nonzero_parameters=2, macs=10)
    speedup = {
        "cpu": {
            1: SpeedupFacts(ratio=0.5, low=0.4, high=0.6),
            8: SpeedupFacts(ratio=1.0, low=0.9, high=1.1),
        }
    }
    report = bare_report(
        original=small, compressed=large, ratios=Ratios.between(small, large, speedup)
    )
    labels = [h.label for h in headlines(report)]
    assert labels == [
        "larger file",
        "parameters",
        "MACs",
        "slower",
        "the speed, no clear difference",
    ]
    said = " ".join(remarks(report))
    assert "slower than the original on CPU at batch size 1" in said
    assert "No clear difference in speed on CPU at batch size 8" in said
    assert "sparse kernels" in said


def test_markdown_is_short_and_its_table_is_rectangular(lenet):
    text = render_markdown(lenet)
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
    assert len(text.splitlines()) - len(table) <= 12


def test_terminal_table_fits_80_columns(lenet):
    shown = io.StringIO()
    Console(file=shown, width=80, color_system=None).print(summary_table(lenet))
    said = shown.getvalue()
    assert all(len(line) <= 80 for line in said.splitlines())
    assert "2.88×" in said
    assert "…" not in said


def test_junit_counts_and_names_what_failed(lenet):
    failed = lenet.gates[0].model_copy(update={"passed": False, "message": EVIL})
    unmeasured = lenet.gates[1].model_copy(update={"passed": False, "value": None})
    gates = (failed, unmeasured, *lenet.gates[2:])
    root = ET.fromstring(render_junit(EVIL, gates, Verification(passed=True)))
    (suite,) = root
    assert (suite.get("tests"), suite.get("failures")) == ("6", "2")
    cases = {c.get("name"): c.find("failure") for c in suite}
    assert cases["max_drop.accuracy"].get("type") == "gate"
    assert "<script>" in cases["max_drop.accuracy"].text
    assert cases["min_speedup.cpu"].get("type") == "unmeasured"
    assert sum(c is None for c in cases.values()) == 4
    broken = ET.fromstring(render_junit("m", (), Verification(passed=False)))
    assert broken.get("failures") == "1"


def test_importing_the_report_is_light():
    code = (
        "import sys, onnxadmm.report\n"
        "heavy = {'torch', 'onnxruntime', 'matplotlib', 'onnx', 'jinja2'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_reached_operations_stand_beside_the_machines_peak(lenet):
    batch = lenet.compressed.latency["cpu"].batches["1"]
    batch = batch.model_copy(update={"gflops": 9.6, "peak_share": 0.12})
    facts = lenet.compressed.latency["cpu"]
    facts = facts.model_copy(
        update={"batches": {**facts.batches, "1": batch}, "peak_gflops": {"int8": 80.0}}
    )
    compressed = lenet.compressed.model_copy(update={"latency": {"cpu": facts}})
    page = render_html(lenet.model_copy(update={"compressed": compressed})).replace("\u00a0", " ")
    assert "9.60 (12 %)" in page
    assert "CPU: int8 80.0" in page
    assert "GFLOP/s" not in render_html(lenet)
