"""The results as a bar chart: SVG of our own, readable on a light and on a dark page."""

from collections.abc import Sequence
from xml.sax.saxutils import escape

from flashsale_project.benchmark.results import Results, Standing
from flashsale_project.benchmark.run import refusal_cpus

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

HEADS = {"same": "one head", "new": "new heads"}

Bar = tuple[str, float, bool]
"""A name, its value, and whether it is this project's."""


def svg(results: Results) -> str:
    """The race and a refusal as multiples of the bare function's in the same run, in medians."""
    race: list[Bar] = [
        (_name(standing, results), standing.to_bare.median, standing.contender == "service")
        for standing in results.standings
        if standing.to_bare is not None
    ]
    cpus: list[Bar] = [
        (f"this service, {HEADS[cost.heads]}", cost.cpu_to_bare.median, True)
        for cost in results.refusal_costs
        if cost.cpu_to_bare is not None
    ]
    reference = refusal_cpus(results.references)
    if "bare" in reference and "stock" in reference:
        cpus.append(("stock Django view", reference["stock"] / reference["bare"], False))
    bare: Bar = ("bare ASGI function", 1.0, False)
    found = results.race
    return chart(
        f"Beside a bare ASGI function on the same uvicorn, in the same run "
        f"({found.connections:,} connections, {results.machine.cpus} CPUs)",
        {
            f"Time of {2 * found.items:,} answers: {found.items:,} items held and bought (less is better)": [
                *race,
                bare,
            ],
            "CPU of a refusal (less is better)": [*cpus, bare],
        },
    )


def _name(standing: Standing, results: Results) -> str:
    if standing.contender == "database":
        return "database alone"
    lane = results.configurations[0].lane
    return f"{lane}, {standing.workers} worker{'s' if standing.workers > 1 else ''}"


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
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
