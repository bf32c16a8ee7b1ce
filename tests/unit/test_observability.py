"""Log lines and metrics."""

import json
import logging
import sys
from collections.abc import Iterator

import pytest

from control_plane.observability import Metrics, bound, configure_logging


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield logging.getLogger("control_plane.test")
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_json_line_has_its_message_its_fields_and_what_was_bound_around_it(
    logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(format="json", level="info")

    with bound(request_id="r1"), bound(actor="ada"):
        logger.info("task accepted", extra={"hosts": 12})
    logger.info("outside")
    logger.debug("not shown")

    inside, outside = map(json.loads, capsys.readouterr().out.splitlines())
    assert inside["message"] == "task accepted"
    assert (inside["level"], inside["logger"]) == ("info", "control_plane.test")
    assert (inside["hosts"], inside["request_id"], inside["actor"]) == (12, "r1", "ada")
    assert outside.keys() == {"time", "level", "logger", "message"}


def test_no_text_breaks_a_line_and_a_trace_stays_in_it(
    logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(format="json", level="info")

    try:
        int("bad\nvalue")
    except ValueError:
        logger.exception("failed", extra={"reason": "a\nb\x1b[31m", "odd": object(), "lone": "\ud800"})

    [line] = capsys.readouterr().out.splitlines()
    assert "Traceback" in json.loads(line)["error"]
    assert "\x1b" not in line


def test_plain_text_shows_control_characters(logger: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(format="text", level="info")

    with bound(hostname="web1"):
        logger.warning("went silent", extra={"reason": "a\nb"})

    out = capsys.readouterr().out
    assert "warning went silent hostname='web1' reason='a\\nb'" in out
    assert sys.stdout is not None


def test_a_counter_a_gauge_and_a_histogram_are_written_as_prometheus_reads_them() -> None:
    metrics = Metrics()
    results = metrics.counter("control_plane_results_total", "Results taken in.", "outcome")
    results.add(outcome="succeeded")
    results.add(2, outcome="failed")
    metrics.gauge("control_plane_streams_open", 'Streams "now".').set(3)
    seconds = metrics.histogram("control_plane_append_seconds", "An append.")
    for value in (0.0005, 0.003, 99):
        seconds.observe(value)

    lines = metrics.render().splitlines()

    assert "# HELP control_plane_results_total Results taken in." in lines
    assert "# TYPE control_plane_results_total counter" in lines
    assert 'control_plane_results_total{outcome="failed"} 2' in lines
    assert "control_plane_streams_open 3" in lines
    assert 'control_plane_append_seconds_bucket{le="0.001"} 1' in lines
    assert 'control_plane_append_seconds_bucket{le="0.005"} 2' in lines
    assert 'control_plane_append_seconds_bucket{le="+Inf"} 3' in lines
    assert "control_plane_append_seconds_count 3" in lines


def test_a_name_is_one_metric_and_never_two_different_ones() -> None:
    metrics = Metrics()

    assert metrics.counter("a_total", "…") is metrics.counter("a_total", "…")
    with pytest.raises(ValueError, match="as something else"):
        metrics.gauge("a_total", "…")
    with pytest.raises(ValueError, match="labels"):
        metrics.counter("a_total", "…").add(host="web1")


def test_a_label_s_value_is_escaped() -> None:
    metrics = Metrics()
    metrics.counter("a_total", "…", "route").add(route='a"b\\c\nd')

    assert 'a_total{route="a\\"b\\\\c\\nd"} 1' in metrics.render()
