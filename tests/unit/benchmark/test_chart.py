"""The results as a chart."""

from xml.etree import ElementTree as ET

from flashsale_project.benchmark.chart import chart, svg
from flashsale_project.benchmark.results import Results

SVG = "{http://www.w3.org/2000/svg}"


def test_the_chart_is_well_formed_and_says_everything(results: Results) -> None:
    root = ET.fromstring(svg(results))
    assert root.tag == f"{SVG}svg"
    written = [element.text for element in root.iter(f"{SVG}text")]
    assert written.count("bare ASGI function") == 2
    for expected in ("express, 1 worker", "database alone", "this service, one head", "stock Django view"):
        assert expected in written
    for expected in ("3.00", "0.50", "0.25", "1.00", "33.3"):
        assert expected in written
    assert len(list(root.iter(f"{SVG}rect"))) == 7


def test_bars_are_as_long_as_their_values() -> None:
    root = ET.fromstring(chart("a & b", {"<c>": [("x", 50.0, True), ("y", 100.0, False), ("z", 0.0, False)]}))
    widths = [float(rect.attrib["width"]) for rect in root.iter(f"{SVG}rect")]
    assert widths[1] == 2 * widths[0] > 100
    assert widths[2] == 1
    top, height = (float(value) for value in (root.attrib["viewBox"].split()[1::2]))
    for element in root.iter(f"{SVG}rect"):
        assert top <= float(element.attrib["y"]) < height - float(element.attrib["height"])
    assert root.attrib["aria-label"] == "a & b"
