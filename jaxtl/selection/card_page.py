"""The files of a weight's card: JSON, Markdown, and one self-contained page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from jaxtl.measure.transfer_scores import SCORES
from jaxtl.report import page
from jaxtl.selection import card as cards
from jaxtl.selection import tables
from jaxtl.text_table import aligned_lines


def card_files(card: Mapping[str, Any]) -> dict[str, str | bytes]:
  """Returns the files by name: `card.json`, `card.md` and `index.html`."""
  return {
    "card.json": json.dumps(card, indent=1) + "\n",
    "card.md": cards.card_markdown(card),
    "index.html": card_html(card),
  }


def card_terminal(card: Mapping[str, Any]) -> str:
  """Formats the card for the terminal."""
  grids = [cards.identity_grid(card)]
  grids += [cards.curvature_grid(card)] if card["curvature"] else []
  grids += [cards.target_grid(target) for target in card["targets"]]
  parts = []
  for grid in grids:
    right = [column for column in range(1, len(grid.header)) if column not in grid.words]
    rows = [grid.header, *grid.rows] if any(grid.header) else list(grid.rows)
    parts.append("\n".join([f"{grid.title}", *aligned_lines(rows, right=right), *filter(None, [grid.note])]))
  return "\n\n".join([*parts, "\n".join(cards.lead(card))])


def card_html(card: Mapping[str, Any]) -> str:
  """Makes the page, which has no script, loads nothing, and supports light and dark mode."""
  names = [name for name in SCORES if any(name in target["scores"] for target in card["targets"])]
  facts = {
    "architecture": str(card["architecture"]),
    "pixels": str(card["image_size"]),
    "features": str(card["features"]),
    "targets": str(len(card["targets"])),
  }
  curvature = (
    page.text_table(cards.curvature_grid(card))
    if card["curvature"]
    else '<p class="note">No measurement of these weights is known: jaxtl eval --flatness makes one.</p>'
  )
  parts = [
    page.header("Weight card", str(card["weight"]), cards.lead(card), facts),
    page.navigation({"weight": "The weight", "curvature": "Curvature", "targets": "Targets"}),
    '<h2 id="weight">The weight</h2>',
    page.text_table(cards.identity_grid(card)),
    '<h2 id="curvature">Curvature</h2>',
    curvature,
    '<h2 id="targets">Targets</h2>',
    *(part for target in card["targets"] for part in _target(target)),
    "<h3>What the scores are</h3>",
    page.text_table(tables.meaning_grid(names)),
    "<h3>What this does not say</h3>",
    *(f"<p>{page.escape(line)}</p>" for line in card["limits"]),
    "<footer>Made by <code>jaxtl card</code>. The same numbers are next to this page: card.json and "
    "card.md.</footer>",
  ]
  return page.document(f"Card of {card['weight']}", parts)


def _target(target: Mapping[str, Any]) -> list[str]:
  grid = cards.target_grid(dict(target))
  return [f"<h3>{page.escape(grid.title)}</h3>", page.text_table(grid)]
