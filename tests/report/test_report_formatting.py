import pytest

from onnxadmm.report import formatting as fmt


def plain(text):
    return text.replace(fmt.THIN, " ").replace(fmt.SPACE, " ")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (39_012, "39.0 kB"),
        (999_499, "999 kB"),
        (999_600, "1.00 MB"),
        (1_726_212, "1.73 MB"),
        (2**62, "4 612 PB"),
    ],
)
def test_size(value, text):
    assert plain(fmt.size(value)) == text


@pytest.mark.parametrize(
    ("value_ms", "text"),
    [
        (None, "–"),
        (0.0, "0 s"),
        (0.0841, "84.1 µs"),
        (0.9996, "1.00 ms"),
        (1.23, "1.23 ms"),
        (99.96, "100 ms"),
        (999.8, "1.00 s"),
        (59_999.0, "1 min 00 s"),
        (192_000.0, "3 min 12 s"),
        (3_599_700.0, "1 h 00 min"),
        (3.85e6, "1 h 04 min"),
    ],
)
def test_times(value_ms, text):
    assert plain(fmt.milliseconds(value_ms)) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.87, "0.87×"),
        (1.0, "1.00×"),
        (9.996, "10.0×"),
        (20.68, "20.7×"),
        (412.3, "412×"),
        (99_999.0, "99 999×"),
        (1e300, "1.0 × 10³⁰⁰×"),
    ],
)
def test_ratio(value, text):
    assert plain(fmt.ratio(value)) == text


def test_metrics_and_their_changes():
    assert plain(fmt.metric("accuracy", 0.9925)) == "99.25 %"
    assert fmt.metric("mse", 0.0241) == "0.02410"
    assert plain(fmt.metric_change("accuracy", -0.0006)) == "−0.06 pp"
    assert plain(fmt.metric_change("accuracy", 0.01)) == "+1.00 pp"
    assert plain(fmt.metric_change("accuracy", -1e-9)) == "±0.00 pp"
    assert fmt.metric_change("mse", 0.003) == "+0.00300"
    assert fmt.metric_change("mse", 0.0) == "±0"


def test_counts_errors_shares_and_ticks():
    assert plain(fmt.count(2_293_000)) == "2 293 000"
    assert plain(fmt.error(3.1e-7)) == "3.1 × 10⁻⁷"
    assert fmt.error(0.0) == "0"
    assert plain(fmt.share(1, 1000)) == "< 1 %"
    assert plain(fmt.share(999, 1000)) == "99 %"
    assert plain(fmt.share(48, 100)) == "48 %"
    assert fmt.share(0, 0) == "–"
    assert [fmt.tick(v) for v in (0.05, 120.0, 0.0, -1.5)] == ["0.05", "120", "0", "−1.5"]
    assert plain(fmt.plural(1, "gate")) == "1 gate"
    assert plain(fmt.plural(2, "class", "classes")) == "2 classes"
