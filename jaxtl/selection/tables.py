"""Tables of a ranking: for the terminal, for the page, and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from jaxtl.measure.transfer_scores import SCORES
from jaxtl.report.grid import Grid
from jaxtl.report.table import ABSENT
from jaxtl.selection.ranking import Place, Ranking
from jaxtl.selection.verdict import number, qualifications, verdict
from jaxtl.text_table import aligned_lines
from jaxtl.types import Row


def ranking_json(ranking: Ranking) -> dict[str, Any]:
  """Returns the ranking as JSON data: the rows in their order, without terms by image."""
  return {
    "target": ranking.target,
    "by": ranking.by,
    "resamples": ranking.draws,
    "verdict": verdict(ranking),
    "rows": [_place_row(place) for place in ranking.places],
    "agreement": [dataclasses.asdict(agreement) for agreement in ranking.agreements],
    "not_comparable": list(ranking.incomparable),
    "controls": [without_terms(row) for row in ranking.controls],
    "fine_tuned": list(ranking.tuned),
    "notes": list(ranking.notes),
  }


def _place_row(place: Place) -> Row:
  behind = place.behind or (None, None)
  return {
    "rank": place.rank,
    "value": place.value,
    "standard_error": place.standard_error,
    "low": place.low,
    "high": place.high,
    "first": place.first,
    "behind": behind[0],
    "behind_standard_error": behind[1],
    "dominated_by": place.dominated_by,
    **without_terms(place.row),
  }


def without_terms(row: Mapping[str, Any]) -> Row:
  """Returns a row without its values by image and by resample."""
  return {key: value for key, value in row.items() if key not in ("terms", "resampled")}


def terminal(ranking: Ranking) -> str:
  """Formats the order with its costs, the other scores, and the verdict."""
  grids = [order_grid(ranking), score_grid(ranking)]
  if ranking.tuned:
    grids.append(tuned_grid(ranking))
  parts = ["\n".join(aligned_lines([grid.header, *grid.rows], right=_right(grid))) for grid in grids]
  left_out = [f"{line}." for line in left_out_lines(ranking)]
  return "\n\n".join([*parts, "\n".join([verdict(ranking), *qualifications(ranking), *left_out])])


def _right(grid: Grid) -> list[int]:
  return [column for column in range(1, len(grid.header)) if column not in grid.words]


def order_grid(ranking: Ranking) -> Grid:
  """Makes the table of the order: the deciding score, its certainty, static baselines and costs."""
  accuracy = " %" if SCORES[ranking.by].accuracy else ""
  header = [
    *("weight", "rank", f"{SCORES[ranking.by].title}{accuracy}", "95 %", "first in", "behind"),
    *("source accuracy", "parameters", "MACs", "ms/image", "seconds", "dominated by"),
  ]
  rows = [_order_row(ranking.by, place) for place in ranking.places]
  note = (
    "Weights that are within one standard error of the first of a group, over the same images, share its "
    f"rank. First in: share of {ranking.draws:,} resamples of the images. ms/image: forward pass on all "
    "devices together. Seconds: the pass over the images, and the scores. A weight is dominated by one that "
    "is faster, and better by more than two standard errors."
  )
  return Grid("Order", header, rows, note, words=frozenset({len(header) - 1}))


def _order_row(by: str, place: Place) -> list[str]:
  row = place.row
  error = "" if place.standard_error is None else f" ± {number(by, place.standard_error)}"
  interval = "" if place.low is None else f"{number(by, place.low)} to {number(by, place.high)}"
  return [
    place.name,
    ABSENT if place.rank is None else str(place.rank),
    ABSENT if place.value is None else f"{number(by, place.value)}{error}",
    interval or ABSENT,
    ABSENT if place.first is None else f"{100 * place.first:.0f} %",
    _behind(by, place),
    ABSENT if row["source_accuracy"] is None else f"{100 * row['source_accuracy']:.1f} %",
    f"{row['parameters'] / 1e6:.2f} M",
    ABSENT if row["multiply_accumulates"] is None else f"{row['multiply_accumulates'] / 1e9:.2f} G",
    f"{row['milliseconds_per_image']:.2f}",
    f"{row['seconds'] + row['scoring_seconds']:.1f}",
    place.dominated_by or ABSENT,
  ]


def _behind(by: str, place: Place) -> str:
  if place.behind is None:
    return ABSENT
  gap, error = place.behind
  return number(by, gap) + ("" if error is None else f" ± {number(by, error)}")


def score_grid(ranking: Ranking) -> Grid:
  """Makes the table of every score, with the controls below the weights."""
  names = _names(ranking)
  header = ["weight", "D", *(SCORES[name].title for name in names)]
  rows = [[place.name, str(place.row["features"]), *_cells(place.row, names)] for place in ranking.places]
  rows += [[f"control: {row['control']}", ABSENT, *_cells(row, names)] for row in ranking.controls]
  note = (
    "Shares of images are in percent. D is the width of the features; scores that describe claim no order."
  )
  return Grid("Every score", header, rows, note)


def _names(ranking: Ranking) -> list[str]:
  """Returns the scores that some weight has, in the order of `SCORES`."""
  found = {name for place in ranking.places for name, row in place.row["scores"].items() if "value" in row}
  return [name for name in SCORES if name in found]


def _cells(row: Row, names: Sequence[str]) -> list[str]:
  return [number(name, row["scores"].get(name, {}).get("value")) for name in names]


def left_out_lines(ranking: Ranking) -> list[str]:
  """Returns one line for every score and reason that left it out of some weights."""
  reasons: dict[tuple[str, str], list[str]] = {}
  for place in ranking.places:
    for name, row in place.row["scores"].items():
      if "left_out" in row:
        reasons.setdefault((row["left_out"], place.name), []).append(SCORES[name].title)
  return [f"{', '.join(titles)} left out for {name}: {reason}" for (reason, name), titles in reasons.items()]


def tuned_grid(ranking: Ranking) -> Grid:
  """Makes the table of the weights that a budget fine-tuned, in the order of their accuracy."""
  rows = [
    [
      str(row["weight"]),
      "fine-tuning" if row["protocol"] == "fine_tune" else "linear probe",
      f"{100 * row['accuracy']:.1f}",
      f"{100 * row['low']:.1f} to {100 * row['high']:.1f}",
      f"{row['num_test']:,}",
      ABSENT if row.get("steps") is None else f"{row['steps']:,}",
      f"{row['seconds']:.0f}",
    ]
    for row in sorted(ranking.tuned, key=lambda row: -row["accuracy"])
  ]
  header = ["weight", "protocol", "test accuracy %", "95 %", "test images", "steps", "seconds"]
  note = "On test images that neither the scores nor the choice of rate and step have used."
  return Grid("Fine-tuned", header, rows, note, words=frozenset({1}))


def meaning_grid(names: Sequence[str]) -> Grid:
  """Makes the table that explains the scores."""
  rows = [[SCORES[name].title, SCORES[name].meaning, SCORES[name].marked or ABSENT] for name in names]
  header = ["score", "what it is", "known failure"]
  return Grid("What the scores are", header, rows, words=frozenset({1, 2}))
