"""The look of the report's figures: colours, fonts and legend; renders the figures as SVG and PNG."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.axis import Axis, XAxis
from matplotlib.figure import Figure as MatplotlibFigure
from matplotlib.lines import Line2D

INK, MUTED, LINE, PAPER = "#1d2329", "#59636e", "#d9dee4", "#ffffff"
# Okabe and Ito's colours, which are distinguishable with all common kinds of colour vision. Grey replaces
# their yellow, which is too pale on white. Markers differ too.
COLORS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#7a828c")
MARKERS = "osD^vph<"
# The same colours on a dark page: name of the CSS variable -> light, dark.
THEME: Mapping[str, tuple[str, str]] = {
  "ink": (INK, "#e6e9ed"),
  "muted": (MUTED, "#a3acb7"),
  "line": (LINE, "#343b43"),
  "paper": (PAPER, "#15181c"),
  **{
    f"arm-{i}": pair
    for i, pair in enumerate(
      zip(COLORS, ("#3d9fe0", "#e8a91c", "#21b58c", "#ee7733", "#d98cb5", "#7cc8f2", "#9aa3ad"))
    )
  },
}
_STYLE: Any = {
  "font.family": "DejaVu Sans",
  "font.size": 9.5,
  "axes.titlesize": 10,
  "axes.titlelocation": "left",
  "axes.labelsize": 9.5,
  "axes.edgecolor": MUTED,
  "axes.labelcolor": INK,
  "axes.titlecolor": INK,
  "text.color": INK,
  "xtick.color": MUTED,
  "ytick.color": MUTED,
  "xtick.labelcolor": INK,
  "ytick.labelcolor": INK,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.linewidth": 0.8,
  "axes.grid": True,
  "axes.axisbelow": True,
  "grid.color": LINE,
  "grid.linewidth": 0.7,
  "axes.facecolor": "none",
  "figure.facecolor": PAPER,
  "legend.frameon": False,
  # Names come from configs and folders, so a dollar sign does not start a formula.
  "text.parse_math": False,
  "axes.unicode_minus": True,
  "svg.fonttype": "none",
  "svg.hashsalt": "jaxtl",
}
_WIDTH = 10.0
_LONGEST = 26


@dataclasses.dataclass(frozen=True)
class Figure:
  """A finished figure: `name` is the stem of its files; `svg` and `png` are made for a light background."""

  name: str
  title: str
  caption: str
  svg: str
  png: bytes

  def inline(self) -> str:
    """Returns the SVG for embedding in a page: it uses the page's colours and its own unique names."""
    text = self.svg[self.svg.index("<svg") :]
    text = re.sub(r'\bid="', f'id="{self.name}-', text)
    text = re.sub(r'href="#', f'href="#{self.name}-', text)
    text = re.sub(r"url\(#", f"url(#{self.name}-", text)
    for name, (light, _) in THEME.items():
      text = re.sub(rf"(fill|stroke): {light}", rf"\1: var(--{name})", text)
    return re.sub(
      r'<svg ([^>]*?)width="[^"]*"', r"<svg \1", text.replace(' height="', ' data-height="', 1), count=1
    )


@dataclasses.dataclass
class Canvas:
  """A figure that is being drawn."""

  arms: Sequence[str]
  axes: list[Axes]
  _figure: MatplotlibFigure
  shapes: Sequence[str] = ()
  _svg: str = ""
  _png: bytes = b""

  def color(self, arm: str) -> str:
    return COLORS[list(self.arms).index(arm) % len(COLORS)]

  def shape(self, name: str) -> str:
    """Returns the marker of an arm, or of an item of `shapes`."""
    return MARKERS[list(self.shapes or self.arms).index(name) % len(MARKERS)]

  def marker(self, arm: str) -> dict[str, Any]:
    """Returns the keywords of `plot`."""
    return {
      "color": self.color(arm),
      "marker": self.shape(arm),
      "markeredgecolor": PAPER,
      "markeredgewidth": 0.6,
    }

  def dots(self, arm: str) -> dict[str, Any]:
    """Returns the keywords of `scatter`."""
    return {
      "color": self.color(arm),
      "marker": self.shape(arm),
      "edgecolor": PAPER,
      "linewidth": 0.6,
      "zorder": 3,
    }

  def finish(self) -> None:
    svg, png = io.StringIO(), io.BytesIO()
    with warnings.catch_warnings():
      warnings.filterwarnings("ignore", message="Glyph .* missing from")
      self._figure.draw_without_rendering()
      self._figure.set_layout_engine("none")  # both files use the same layout, which is computed once
      self._figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
      self._figure.savefig(png, format="png", dpi=144, metadata={"Software": None})
    text = re.sub(r"<metadata>.*?</metadata>", "", svg.getvalue(), flags=re.DOTALL)
    self._svg, self._png = re.sub(r"[ \t]+\n", "\n", text), png.getvalue()

  def figure(self, name: str, title: str, caption: str) -> Figure:
    stem = re.sub(r"[^0-9A-Za-z_-]", "_", name)
    return Figure(stem, title, caption, self._svg, self._png)


@contextlib.contextmanager
def canvas(
  heights: Sequence[float],
  arms: Sequence[str],
  *,
  shown: Sequence[str],
  shapes: Sequence[str] = (),
  columns: int = 1,
) -> Iterator[Canvas]:
  """Yields axes in rows of the given heights (inches) and `columns`, below one legend of the arms, if any.

  Args:
    heights: the height of each row, in inches.
    arms: distinguished by colour, and also by marker unless there are `shapes`.
    shown: the arms in the legend.
    shapes: distinguished by marker; also in the legend.
    columns: number of axes per row.
  """
  labels = [short(name) for name in (*shown, *shapes)]
  across = max(1, min(len(labels), int(140 / (max(map(len, labels), default=0) + 6))))
  extra = 0.22 * -(-len(labels) // across) + 0.1
  with matplotlib.rc_context(_STYLE):
    figure = MatplotlibFigure(figsize=(_WIDTH, sum(heights) + extra), layout="constrained")
    axes = figure.subplots(len(heights), columns, squeeze=False, height_ratios=heights)
    drawn = Canvas(arms, list(np.ravel(axes)), figure, shapes)
    if shapes:
      handles = [Line2D([], [], linewidth=5, color=drawn.color(arm)) for arm in shown]
      shape: Any = dict(linestyle="none", color=MUTED, markersize=6)
      handles += [Line2D([], [], marker=drawn.shape(name), **shape) for name in shapes]
    else:
      handles = [Line2D([], [], linewidth=2.5, markersize=6, **drawn.marker(arm)) for arm in shown]
    if handles:
      figure.legend(
        handles, labels, loc="outside upper left", ncols=across, columnspacing=1.8, handlelength=1.6
      )
    yield drawn
    drawn.finish()


def log_axis(axis: Axis, *, at: Sequence[float] = (1.0, 2.0, 5.0)) -> None:
  """Makes an axis logarithmic, with plain numbers at these multiples of each power of ten."""
  axis.axes.set_xscale("log") if isinstance(axis, XAxis) else axis.axes.set_yscale("log")
  axis.set_major_locator(ticker.LogLocator(subs=tuple(at)))
  axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,.10g}"))
  axis.set_minor_locator(ticker.NullLocator())


def short(name: str) -> str:
  """Shortens a name to fit a legend; the table has the full name."""
  name = " ".join(name.split())
  name = name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"
  # matplotlib omits names with a leading underscore from legends.
  return f" {name}" if name.startswith("_") else name
