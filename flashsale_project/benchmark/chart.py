"""The results as a bar chart: SVG of our own, readable on a light and on a dark page."""

from collections.abc import Sequence
from xml.sax.saxutils import escape

from flashsale_project.benchmark.results import Results
from flashsale_project.benchmark.run import refusal_cpus, refusal_rates

WIDTH = 760
LABELS = 170
"""Pixels for the names on the left."""
VALUES = 90
"""Pixels for the figures to the right of the longest bar."""
BAR, ROW, TITLE, GAP = 18, 26, 30, 18

# Each colour can be read on both: a page may be dark where the system is light.
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #57606a }
  .title { font-weight: 600 }
  .ours { fill: #0969da } .theirs { fill: #8c959f }
  @media (prefers-color-scheme: dark) {
    text { fill: #9198a1 }
    .ours { fill: #4493f8 } .theirs { fill: #656c76 }
  }
"""

Bar = tuple[str, float, bool]
"""A name, its value, and whether it is this project's."""


def svg(results: Results) -> str:
    """Refusals per second and CPU per refusal of one worker at the first number of connections."""
    names = {"bare": "bare ASGI function", "stock": "stock Django view"}
    rates: list[Bar] = []
    cpus: list[Bar] = []
    first = results.configurations[0]
    for shape in results.configurations:
        if (
            shape.sold_out is not None
            and shape.workers == first.workers
            and shape.connections == first.connections
        ):
            name = f"this service, {shape.lane}"
            rates.append((name, shape.sold_out.refusal_rate, True))
            cpus.append((name, shape.sold_out.cpu.workers, True))
    rates += [(names[name], rate, False) for name, rate in refusal_rates(results.references).items()]
    cpus += [(names[name], cpu, False) for name, cpu in refusal_cpus(results.references).items()]
    workers = "one worker" if first.workers == 1 else f"{first.workers} workers"
    return chart(
        f"Sold out: what a refusal costs ({workers}, {first.connections:,} connections, "
        f"{results.machine.cpus} CPUs)",
        {"Refusals per second (more is better)": rates, "CPU µs per refusal (less is better)": cpus},
    )


def chart(title: str, panels: dict[str, Sequence[Bar]]) -> str:
    """Panels of horizontal bars, each with a scale of its own that begins at zero."""
    lines = [f'<text class="title" x="0" y="18">{escape(title)}</text>']
    top = TITLE + GAP
    for name, bars in panels.items():
        lines.append(f'<text class="title" x="0" y="{top}">{escape(name)}</text>')
        top += 10
        longest = max((value for _, value, _ in bars), default=0) or 1
        for label, value, ours in bars:
            width = max(1.0, (WIDTH - LABELS - VALUES) * value / longest)
            middle = top + BAR / 2 + 4.5
            lines += [
                f'<text x="{LABELS - 10}" y="{middle}" text-anchor="end">{escape(label)}</text>',
                f'<rect class="{"ours" if ours else "theirs"}" x="{LABELS}" y="{top}" '
                f'width="{width:.1f}" height="{BAR}" rx="2"/>',
                f'<text x="{LABELS + width + 8:.1f}" y="{middle}">{_number(value)}</text>',
            ]
            top += ROW
        top += GAP + 10
    height = top - GAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" role="img" aria-label="{escape(title)}">\n<style>{STYLE}</style>\n'
        + "\n".join(lines)
        + "\n</svg>\n"
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
