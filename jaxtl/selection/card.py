"""The card of one weight: what it is, its curvature, and its scores on some targets, as JSON and Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from jaxtl.errors import InputError
from jaxtl.measure.transfer_scores import SCORES
from jaxtl.report.grid import Grid
from jaxtl.report.table import ABSENT
from jaxtl.report.text_formats import markdown
from jaxtl.selection.tables import without_terms
from jaxtl.selection.verdict import number
from jaxtl.types import Row

# Version of the format of `card.json`.
FORMAT = 1
# What no card says, however long it is.
LIMITS = (
  "The scores are of training images: they do not say how the weight does on new images of another origin.",
  "Scores judge features as they are; fine-tuning, and other preprocessing, may order weights differently.",
  "Curvature depends on the loss and on the scale of the parameters; flatter is not known to transfer "
  "better.",
)


def make_card(
  about: Row,
  targets: Sequence[Row],
  *,
  license: str | None,
  curvature: Sequence[Row] = (),
) -> dict[str, Any]:
  """Assembles the card of a weight.

  Args:
    about: row of `candidates.describe`.
    targets: for each target, its row, that of `candidates.assess`, and its "controls".
    license: what the user states; weights do not carry it.
    curvature: rows of `source_record`.

  Returns:
    JSON data: "format", the fields of `about`, "license", "curvature", "targets" and "limits".
  """
  plain = [
    {**without_terms(target), "controls": [without_terms(row) for row in target["controls"]]}
    for target in targets
  ]
  identity = {key: value for key, value in about.items() if key not in ("seen_images", "path", "given")}
  return {
    "format": FORMAT,
    **identity,
    "license": license,
    "curvature": list(curvature),
    "targets": plain,
    "limits": list(LIMITS),
  }


def read_card(text: str, *, digest: str, where: str) -> dict[str, Any]:
  """Reads a card, and checks that it is the card of a weight.

  Args:
    text: content of a `card.json`.
    digest: of the weight, from `source_record.weights_digest`.
    where: the file, for messages.

  Raises:
    InputError: the text is not a card, or the card of another weight.
  """
  try:
    card = json.loads(text)
    said = card["digest"]
    checked = [card[key] for key in ("format", "architecture", "targets", "curvature", "limits")]
  except (ValueError, TypeError, KeyError, RecursionError) as error:
    raise InputError(f"{where} is not a card; expected a card.json that jaxtl card has written") from error
  if checked[0] != FORMAT:
    raise InputError(
      f"{where} has the format {checked[0]!r}; this version reads {FORMAT}; run jaxtl card again"
    )
  if said != digest:
    raise InputError(f"{where} is the card of other weights ({said}, not {digest}); run jaxtl card on these")
  return dict(card)


def identity_grid(card: Mapping[str, Any]) -> Grid:
  """Makes the table of what the weight is."""
  accuracy = card["source_accuracy"]
  arithmetic = card["multiply_accumulates"]
  origin = card["origin"]
  source = (
    f"{origin['file']}, layout {origin['layout']}, sha256 {origin['sha256']}"
    if "sha256" in origin
    else f"a run of jaxtl, step {origin.get('step')}"
  )
  rows = [
    ["architecture", str(card["architecture"])],
    ["source", source],
    ["licence", card["license"] or "not stated"],
    ["digest of the arrays", str(card["digest"])],
    ["parameters without the head", f"{card['parameters']:,}"],
    ["multiply-accumulates", ABSENT if arithmetic is None else f"{arithmetic:,}"],
    ["width of the features", f"{card['features']:,}"],
    ["classes of its own head", f"{card['head_classes']:,}" if card["head_classes"] else "no head"],
    ["preprocessing", str(card["preprocessing"])],
    ["accuracy on the source data", "not known" if accuracy is None else f"{100 * accuracy:.1f} %"],
    ["that accuracy is from", str(card["source_accuracy_from"] or ABSENT)],
  ]
  return Grid("The weight", ["", ""], rows, words=frozenset({1}))


def curvature_grid(card: Mapping[str, Any]) -> Grid:
  """Makes the table of the curvature at the weight, one row per loss and measurement."""
  rows = [
    [
      str(row["loss"]).replace("_", "-"),
      f"{row['lambda_max']:.4g}",
      f"{row['trace']:.4g}" if row.get("trace") is not None else ABSENT,
      f"{row['num_examples']:,}" if row.get("num_examples") else ABSENT,
      str(row["measured_by"]),
    ]
    for row in card["curvature"]
  ]
  header = ["loss", "λ_max", "trace", "images", "measured by"]
  return Grid("Curvature", header, rows, words=frozenset({4}))


def target_grid(target: Row) -> Grid:
  """Makes the table of the scores on one target: value, error, permuted labels, and controls."""
  names = [name for name in SCORES if name in target["scores"]]
  controls = target["controls"]
  header = ["score", "value", "error", "permuted labels", "z", *(str(row["control"]) for row in controls)]
  rows = [_score_row(name, target["scores"][name], controls) for name in names]
  left_out = [
    f"{SCORES[name].title}: {target['scores'][name]['left_out']}"
    for name in names
    if "left_out" in target["scores"][name]
  ]
  note = "Shares of images are in percent; the error is over images. " + (
    f"Left out: {'; '.join(left_out)}." if left_out else ""
  )
  title = f"{target['target']}: {target['num_images']:,} images of {target['num_classes']} classes"
  return Grid(title, header, rows, note.strip())


def _score_row(name: str, row: Row, controls: Sequence[Row]) -> list[str]:
  z = row.get("z")
  return [
    SCORES[name].title,
    number(name, row.get("value")),
    number(name, row.get("standard_error")),
    number(name, row.get("null_mean")),
    ABSENT if z is None else f"{z:.1f}",
    *(number(name, control["scores"].get(name, {}).get("value")) for control in controls),
  ]


def lead(card: Mapping[str, Any]) -> list[str]:
  """Returns one sentence per target, and what qualifies it."""
  said = []
  for target in card["targets"]:
    by = target["by"]
    row = target["scores"][by]
    if "left_out" in row:
      said.append(f"On {target['target']} {SCORES[by].title} is left out: {row['left_out']}.")
      continue
    percent = " %" if SCORES[by].accuracy else ""
    error = "" if row["standard_error"] is None else f" ± {number(by, row['standard_error'])}"
    chance = "" if "null_mean" not in row else f", {number(by, row['null_mean'])} under permuted labels"
    said.append(
      f"On {target['target']} it reaches {SCORES[by].title} "
      f"{number(by, row['value'])}{error}{percent}{chance}, in {target['milliseconds_per_image']:.2f} ms per "
      "image."
    )
    said += _warnings(target, by)
  return said


def _warnings(target: Row, by: str) -> list[str]:
  said = []
  if target.get("seen_images"):
    said.append(
      f"It was trained on {target['seen_images']} of the {target['num_images']} images of "
      f"{target['target']}, which flatters its scores there."
    )
  value = target["scores"][by]["value"]
  for control in target["controls"]:
    other = control["scores"].get(by, {}).get("value")
    if other is not None and other >= value:
      said.append(f"On {target['target']} the control {control['control']} is as good.")
  return said


def card_markdown(card: Mapping[str, Any], *, level: int = 1) -> str:
  """Renders the card as Markdown.

  Args:
    card: from `make_card`.
    level: of its first heading.
  """
  parts = [f"{'#' * level} {markdown(str(card['weight']))}", *(markdown(text) for text in lead(card))]
  grids = [identity_grid(card)]
  if card["curvature"]:
    grids.append(curvature_grid(card))
  grids += [target_grid(target) for target in card["targets"]]
  for grid in grids:
    parts += [f"{'#' * (level + 1)} {markdown(grid.title)}", _pipes(grid)]
    parts += [markdown(grid.note)] if grid.note else []
  parts += [
    f"{'#' * (level + 1)} What this does not say",
    "\n".join(f"- {markdown(x)}" for x in card["limits"]),
  ]
  return "\n\n".join(parts) + "\n"


def _pipes(grid: Grid) -> str:
  lines = [grid.header, ["---"] * len(grid.header), *grid.rows]
  rows = [[cell if number == 1 else markdown(cell) for cell in line] for number, line in enumerate(lines)]
  return "\n".join("| " + " | ".join(line) + " |" for line in rows)
