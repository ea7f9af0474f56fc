"""jaxtl's own layout, as written by `jaxtl export`: every leaf under its path."""

from __future__ import annotations

from jaxtl.data import Preprocessing
from jaxtl.pretrained.layouts.layout import Layout, Names
from jaxtl.pretrained.layouts.rules import SAME, Rule


def _leaf(module: str, leaf: str, _: int) -> tuple[tuple[str, ...], Rule]:
  collection = "batch_stats" if leaf in ("mean", "var") else "params"
  return (f"{collection}/{module}/{leaf}",), SAME


JAXTL = Layout(
  name="jaxtl",
  families=((r".*", lambda *_: Names(modules=((r"(.*)", str),), leaf=_leaf)),),
  preprocessing=lambda _: Preprocessing(),
)
