"""One look for all figures: colours, type, and a chart turned into inline SVG that follows the page's light or dark.

Charts are Altair specifications rendered by vl-convert without a browser or a network.  Each colour of the palette is
written as a literal into the SVG and re-coloured by the style sheet that `colour_rules` makes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import altair as alt
import vl_convert as vlc

# Hues after Paul Tol's and Okabe and Ito's colour-blind-safe sets, toned to one another; light, then dark.
COLOURS: dict[str, tuple[str, str]] = {
    "ink": ("#1b2430", "#e8ecf1"),
    "soft": ("#5d6978", "#9aa6b5"),
    "line": ("#d5dbe2", "#36404d"),
    "faint": ("#edf0f4", "#232b36"),
    "paper": ("#fdfdfc", "#12171e"),
    "forecast": ("#2c6fbb", "#6ea8e6"),
    "band": ("#c5daf0", "#27456a"),
    "measured": ("#d4650f", "#f39a4a"),
    "before": ("#a3adb9", "#66727f"),
    "beforeband": ("#e2e6eb", "#2b343f"),
    "compute": ("#3b73ba", "#6a9fe0"),
    "transfer": ("#cf6a14", "#e08a3c"),
    "waiting": ("#edd45c", "#f3e07c"),
    "input": ("#3a8a5c", "#4fa377"),
    "optimiser": ("#7a2f66", "#b0609a"),
    "agreeing": ("#3c3296", "#6450dc"),
    "checkpoint": ("#35a9bd", "#7fdbe6"),
    "startup": ("#8d97a3", "#87919d"),
    "overlapped": ("#f0cba3", "#6d4d26"),
    "other": ("#c4ccd5", "#56616e"),
    "onmark": ("#fffffe", "#0d1218"),
    "onlight": ("#1b2431", "#0d1219"),
}
FONT = "Inter, ui-sans-serif, system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
COMPONENTS = (
    "compute", "transfer", "overlapped", "waiting", "input", "optimiser", "agreeing", "checkpoint", "startup", "other",
)  # fmt: skip
WIDE, NARROW = 860, 340


def colour(name: str) -> str:
    """The literal that stands for a colour in a chart."""
    return COLOURS[name][0]


def values(rows: list[Mapping[str, Any]] | list[dict[str, Any]]) -> alt.InlineData:
    """Rows as a chart's inline data."""
    return alt.InlineData(values=[dict(row) for row in rows])


def component_scale() -> alt.Scale:
    """The colours of the components, always the same."""
    return alt.Scale(domain=list(COMPONENTS), range=[colour(name) for name in COMPONENTS])


def name_colour() -> Any:
    """The colour of a component's name on its own bar: dark on the light hues."""
    light = alt.FieldOneOfPredicate(field="component", oneOf=["waiting", "overlapped", "other"])
    return alt.condition(light, alt.value(colour("onlight")), alt.value(colour("onmark")))


def milliseconds(title: str, longest: float, width: int) -> alt.X:
    """A time axis from 0 to `longest` milliseconds for bars that begin at `start`."""
    scale = alt.Scale(nice=False, domain=[0, longest])
    return alt.X("start:Q", title=title, scale=scale, axis=alt.Axis(tickCount=4 if width <= NARROW else 8))


def both_widths(draw: Callable[[int], Any]) -> str:
    """The figure for a desk and for a telephone, one of which the style sheet shows."""
    return f'<div class="wide">{_svg(draw(WIDE))}</div><div class="narrow">{_svg(draw(NARROW))}</div>'


@cache
def colour_rules() -> str:
    """Style rules that tie the literals in the figures to the page's custom properties."""
    light = "".join(f"--{name}:{pair[0]};" for name, pair in COLOURS.items())
    dark = "".join(f"--{name}:{pair[1]};" for name, pair in COLOURS.items())
    ties = "".join(
        f'svg [fill="{pair[0]}"]{{fill:var(--{name})}}svg [stroke="{pair[0]}"]{{stroke:var(--{name})}}'
        for name, pair in COLOURS.items()
    )
    return f":root{{{light}}}@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}{ties}"


def _svg(chart: Any) -> str:
    svg = vlc.vegalite_to_svg({**chart.to_dict(), "config": _THEME})
    svg = re.sub(r'\s(xmlns(:\w+)?|font-family)="[^"]*"', "", svg)
    return re.sub(r'(<svg[^>]*?) width="[\d.]+" height="[\d.]+"', r"\1", svg, count=1)


_TEXT = {"labelFont": FONT, "titleFont": FONT, "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": 400}
_THEME: dict[str, Any] = {
    "background": "transparent",
    "font": FONT,
    "autosize": {"type": "fit-x", "contains": "padding"},
    "padding": {"left": 2, "right": 2, "top": 4, "bottom": 2},
    "view": {"stroke": None},
    "axis": {
        **_TEXT, "labelColor": colour("soft"), "titleColor": colour("soft"), "domain": False,
        "tickColor": colour("line"), "tickSize": 4, "gridColor": colour("faint"), "labelPadding": 6,
        "titlePadding": 10, "labelLimit": 0,
    },
    "axisY": {"ticks": False, "labelColor": colour("ink")},
    "text": {"font": FONT, "fontSize": 12, "color": colour("ink")},
    "legend": {
        **_TEXT, "labelColor": colour("soft"), "title": None, "orient": "top", "symbolSize": 90, "symbolType": "square",
        "symbolStrokeWidth": 0, "offset": 12, "labelLimit": 0,
    },
}  # fmt: skip
