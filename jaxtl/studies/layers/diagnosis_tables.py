"""The tables of a layer diagnosis: what each layer could gain, its curvature, and the choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxtl.report.grid import Grid
from jaxtl.report.results import Results
from jaxtl.report.table import ABSENT, mean_and_spread
from jaxtl.text_table import aligned_lines

KIND = "layer_diagnosis"
_HEADER = ("layer", "parameters", "|w|", "|g|", "ΔL", "step / |w|", "κ", "κ_rel", "passes")
_KEYS = (
  "layer_parameters",
  "weight_norm",
  "gradient_norm",
  "delta_loss",
  "relative_step",
  "kappa",
  "kappa_rel",
  "num_evaluations",
)
_MEANING = (
  "ΔL: by how much the mean loss falls when this layer alone is moved along its own gradient, to the "
  "minimum. κ = ΔL / step², the curvature that goes with it; κ_rel = ΔL |w|² / step², which a rescaling of "
  "layers that keeps the function does not change. ≥: the loss still fell at three times |w|, the longest "
  "step, so ΔL is a lower bound and κ does not count. -: nothing better was found. Layers with less than 1 % "
  "of the median number of parameters are small, and are not chosen."
)


def diagnosis_rows(results: Results) -> list[Mapping[str, Any]]:
  """Returns the rows of layers."""
  return [row for row in results.rows if row.get("kind") == KIND]


def finding(results: Results) -> list[str]:
  """Summarises the layers of each diagnosed arm, in one sentence per arm."""
  rows = diagnosis_rows(results)
  said = []
  for arm in results.arms:
    own = [row for row in rows if row["arm"] == arm]
    if not own:
      continue
    update, perturb = _largest(own, "update", "delta_loss"), _largest(own, "perturb", own[0]["choose_by"])
    if update is None:
      said.append(f"{arm}: no layer alone lowers the loss of {_start(own):.4g}; there is nothing to choose.")
      continue
    gain = mean_and_spread([row["delta_loss"] for row in own if row["layer"] == update])[0]
    curved = (
      f"the curvature is largest in {perturb}{_agreement(own, perturb, 'perturb')}"
      if perturb
      else "no curvature can be compared"
    )
    said.append(
      f"{arm}: {update} alone can lower the loss of {_start(own):.4g} by {gain:.3g}"
      f"{_share(gain, _start(own))}, the most of all that are not small{_agreement(own, update, 'update')}; "
      f"{curved}."
    )
  return said


def grids(results: Results) -> list[Grid]:
  """Makes a table of the layers of each arm; means over seeds."""
  rows = diagnosis_rows(results)
  checked = any("kappa_hvp" in row for row in rows)
  found = []
  for arm in results.arms:
    own = [row for row in rows if row["arm"] == arm]
    if not own:
      continue
    seeds = len({row["seed"] for row in own})
    lines = [
      _line([row for row in own if row["layer"] == layer], checked, seeds)
      for layer in dict.fromkeys(row["layer"] for row in own)
    ]
    header = [*_HEADER, *(["κ, by H"] if checked else []), "choice"]
    note = f"{_images(own)} {_MEANING}" + (
      " κ, by H: half of g·H·g / g·g for the layer's Hessian H, the same where the loss is quadratic."
      if checked
      else ""
    )
    note += " Means over seeds." if seeds > 1 else ""
    found.append(Grid(f"Layers, {arm}", header, lines, note, words=frozenset({len(header) - 1})))
  return found


def terminal_table(rows: Sequence[Mapping[str, Any]]) -> str:
  """Formats the layers of one checkpoint, one per line, below a description of the measurement."""
  own = [row for row in rows if row["kind"] == KIND]
  facts = ("checkpoint", "weights", "differentiated", "images", "num_examples", "seed_of_images")
  said = [[key, str(own[0][key])] for key in (*facts, "compute_type") if key in own[0]]
  said += [[key, str(own[0][key])] for key in ("cross_fit", "refine_steps", "choose_by")]
  said.append(["mean_loss", f"{_start(own):.5g}"])
  checked = "kappa_hvp" in own[0]
  names = [*_HEADER, *(["κ by H"] if checked else []), "choice"]
  table = [names, *(_line([row], checked, 1) for row in own)]
  numbers = range(1, len(names) - 1)
  return "\n".join([*aligned_lines(said), "", *aligned_lines(table, right=numbers)])


def _line(rows: Sequence[Mapping[str, Any]], checked: bool, seeds: int) -> list[str]:
  """Formats one layer over its seeds."""
  keys = [*_KEYS, *(["kappa_hvp"] if checked else [])]
  values = {key: [row[key] for row in rows if row.get(key) is not None] for key in keys}
  cells = {key: f"{mean_and_spread(found)[0]:.4g}" if found else ABSENT for key, found in values.items()}
  cells["layer_parameters"] = f"{rows[0]['layer_parameters']:,}"
  if any(row["unbounded"] for row in rows):
    cells["delta_loss"] = f"≥{cells['delta_loss']}"
  return [rows[0]["layer"], *(cells[key] for key in keys), _choice(rows, seeds)]


def _choice(rows: Sequence[Mapping[str, Any]], seeds: int) -> str:
  """States what the layer was chosen for, and in how many of several seeds."""
  said = []
  for key in ("perturb", "update"):
    if count := sum(row[key] for row in rows):
      said.append(key if seeds == 1 else f"{key} ({count} of {seeds})")
  said += [text for text in dict.fromkeys(row["excluded"] for row in rows) if text]
  return ", ".join(said)


def _largest(rows: Sequence[Mapping[str, Any]], key: str, measure: str) -> str | None:
  """Returns the layer with the largest mean among those not excluded; None if no seed chose one."""
  if not any(row[key] for row in rows):
    return None
  values: dict[str, list[float]] = {}
  for row in rows:
    if not row["excluded"] and row[measure] is not None and not (key == "perturb" and row["unbounded"]):
      values.setdefault(row["layer"], []).append(row[measure])
  return max(values, key=lambda name: mean_and_spread(values[name])[0])


def _agreement(rows: Sequence[Mapping[str, Any]], layer: str, key: str) -> str:
  """States how many of several seeds chose the layer."""
  seeds = len({row["seed"] for row in rows})
  chose = sum(bool(row[key]) for row in rows if row["layer"] == layer)
  return "" if seeds == 1 else f" (in the mean, and the choice of {chose} of {seeds} seeds)"


def _share(part: float, whole: float) -> str:
  """Formats the share in per cent in parentheses; empty if the whole is 0."""
  return f" ({part / whole:.1%})" if whole else ""


def _start(rows: Sequence[Mapping[str, Any]]) -> float:
  return mean_and_spread([row["mean_loss"] for row in rows])[0]


def _images(rows: Sequence[Mapping[str, Any]]) -> str:
  first = rows[0]
  seeds = " and ".join(str(seed) for seed in sorted({row["seed_of_images"] for row in rows}))
  how = "the direction from one half, the losses from the other" if first["cross_fit"] else "not augmented"
  refined = (
    f" {first['refine_steps']} further steps of descent in each layer." if first["refine_steps"] else ""
  )
  own = first.get("differentiated")  # rows of a classification do not have it
  drawn = "drawn evenly over the classes" if own is None else "drawn"
  loss = "" if own is None else f" The loss is that of {own}."
  return f"{first['num_examples']} of {first['images']}, {drawn} with seed {seeds}; {how}.{loss}{refined}"
