"""The tables of a flatness study: a checkpoint's numbers for each loss, and its blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxtl.studies.appendix import Grid
from jaxtl.studies.results import Results
from jaxtl.studies.tables import ABSENT, Column, Table, decimals_for, mean_and_spread

LOSSES = {"cross_entropy": "cross-entropy", "training": "training loss"}
# key of a row -> title, group, what it is, whether less of it is flatter
_MEASURES: Mapping[str, tuple[str, str, str, int]] = {
  "lambda_max": ("λ_max", "Hessian", "largest eigenvalue, by power iteration", -1),
  "residual": ("residual", "Hessian", "relative residual of λ_max", 0),
  "trace": ("trace", "Hessian", "sum of the eigenvalues, by random probes", -1),
  "trace_error": ("trace s.e.", "Hessian", "standard error of the trace", 0),
  "gauss_newton_trace": ("trace", "Gauss-Newton", "sum of the Gauss-Newton matrix's eigenvalues", -1),
  "gauss_newton_trace_error": ("trace s.e.", "Gauss-Newton", "standard error of that trace", 0),
  "effective_dimension": ("eff. dim.", "Gauss-Newton", "effective dimension", -1),
  "effective_dimension_error": ("eff. dim. s.e.", "Gauss-Newton", "s.e. of the effective dimension", 0),
  "sam_first_order": ("first order", "Sharpness", "SAM sharpness, one step", -1),
  "sam_sharpness": ("ascent", "Sharpness", "SAM sharpness, several steps", -1),
  "average_sharpness": ("average", "Sharpness", "average sharpness under Gaussian noise", -1),
  "average_sharpness_error": ("average s.e.", "Sharpness", "standard error of the average sharpness", 0),
  "adaptive_sam_sharpness": ("ascent", "Scale-invariant", "adaptive SAM sharpness", -1),
  "adaptive_average_sharpness": ("average", "Scale-invariant", "adaptive average sharpness", -1),
  "adaptive_average_sharpness_error": (
    "average s.e.",
    "Scale-invariant",
    "s.e. of the adaptive average sharpness",
    0,
  ),
  "fisher_rao_norm": ("Fisher-Rao", "Scale-invariant", "Fisher-Rao norm", -1),
  "relative_flatness": ("relative", "Scale-invariant", "relative flatness of the head", -1),
  "relative_flatness_error": (
    "relative s.e.",
    "Scale-invariant",
    "standard error of the relative flatness",
    0,
  ),
  "mean_loss": ("loss", "At the weights", "mean loss on the images", 0),
}


def make_tables(results: Results) -> list[Table]:
  """One table for each loss that was differentiated."""
  found = []
  for loss, title in LOSSES.items():
    columns = [column for column in _columns(results, loss) if column.values]
    arms = tuple(arm for arm in results.arms if any(column.values.get(arm) for column in columns))
    if columns:
      found.append(Table("", arms, tuple(columns), title=f"Curvature of the {title}"))
  return found


def lead(results: Results) -> list[str]:
  """What one checkpoint's curvature comes to; several are compared instead."""
  rows = _rows(results, "flatness", "cross_entropy")
  if len(results.arms) > 1 or len(rows) != 1:
    return []
  [row] = rows
  how = "has reached its tolerance" if row["converged"] else "has not reached its tolerance: a lower bound"
  said = [f"λ_max {how}, with a relative residual of {row['residual']:.2g}"]
  if "trace" in row:
    said.append(f"the trace is {_with_error(row, 'trace')}")
  if "sam_sharpness" in row:
    rho = row["sharpness_plan"]["rho"]
    said.append(
      f"the loss of {row['mean_loss']:.3g} rises by {row['sam_sharpness']:.3g} within a radius of {rho:g}"
    )
  return [f"On {row['num_examples']:,} images of {row['images']}: {'; '.join(said)}."]


def caption(results: Results, table: Table) -> list[tuple[str, str]]:
  """How to read a table of `make_tables`."""
  rows = _rows(results, "flatness")
  said = [
    (
      "Images",
      f"{_all(rows, 'num_examples')} of {_all(rows, 'images')}, drawn evenly over the classes with seed "
      f"{_all(rows, 'seed_of_images')}; not augmented.",
    ),
    ("Normalisation", f"{_all(rows, 'batch_norm')}."),
    (
      "Precision",
      f"{_all(rows, 'precision')}, computing in {_all(rows, 'compute_type')}, products of matrices in JAX's "
      f"precision {_all(rows, 'matmul_precision')}.",
    ),
    (
      "Standard error (s.e.)",
      "One standard error over the random probes, of this subset of the images only.",
    ),
  ]
  if len(table.arms) > 1:
    flattest = (
      "The smallest as printed: the flattest. It does not say that the difference is beyond an error."
    )
    said.append(("Bold", flattest))
  if "training" in table.title or "training loss" in table.title:
    own = [f"{arm}: {name}" for arm, name in _differentiated(results, "training").items()]
    said.insert(0, ("Loss", f"Each arm's own ({'; '.join(own)}): rows cannot be compared with each other."))
  alphas = sorted({f"{row['alpha']:g}" for row in rows if "alpha" in row})
  if alphas:
    change = max(row["effective_dimension_change"] for row in rows if "effective_dimension_change" in row)
    said.append(
      (
        "Effective dimension",
        f"Sum of λ / (λ + {' or '.join(alphas)}) over the Gauss-Newton matrix's eigenvalues. The latter half "
        f"of the steps of its recursion changed it by {change:.2g} at most.",
      )
    )
  plans = [row["sharpness_plan"] for row in rows if "sharpness_plan" in row]
  if plans:
    ball = f"radius {_all(plans, 'rho')}, and {_all(plans, 'adaptive_rho')} relative to the weights"
    noise = f"deviation {_all(plans, 'sigma')} and {_all(plans, 'adaptive_sigma')}"
    draws = f"{_all(plans, 'num_steps')} steps of ascent, {_all(plans, 'num_samples')} pairs of draws"
    said.append(("Sharpness", f"Balls of {ball}; noise of standard {noise}; {draws}."))
  return said


def blocks(results: Results) -> list[Grid]:
  """λ_max and trace of every block alone, for each loss; means over seeds."""
  grids = []
  for loss, title in LOSSES.items():
    rows = _rows(results, "layer", loss)
    names = dict.fromkeys(row["layer"] for row in rows)
    if not names:
      continue
    arms = [arm for arm in results.arms if any(row["arm"] == arm for row in rows)]
    of = {arm: f"{arm}: " if len(arms) > 1 else "" for arm in arms}
    header = ["block", *(f"{of[arm]}{what}" for arm in arms for what in ("λ_max", "trace ± s.e."))]
    lines = [[name, *(text for arm in arms for text in _block(rows, arm, name))] for name in names]
    note = (
      "The Hessian's diagonal block of each part of the network, the others held still. A residual above the "
      "tolerance is marked ~: the eigenvalue is a lower bound. Means over seeds."
    )
    grids.append(Grid(f"Blocks, {title}", header, lines, note))
  return grids


def conditions(results: Results) -> list[Grid]:
  """How each number of a checkpoint came to be."""
  rows = _rows(results, "flatness")
  if not rows:
    return []
  header = [
    "arm",
    "seed",
    "loss",
    "differentiated",
    "checkpoint",
    "weights",
    "products",
    "residual",
    "converged",
    "top",
  ]
  lines = [
    [
      row["arm"],
      str(row["seed"]),
      LOSSES[row["loss"]],
      row["differentiated"],
      row["checkpoint"],
      row["weights"],
      str(row["num_products"]),
      f"{row['residual']:.1e}",
      "yes" if row["converged"] else "no",
      ", ".join(f"{value:.4g}" for value in row.get("eigenvalues", ())) or ABSENT,
    ]
    for row in rows
  ]
  note = "Products, residual and convergence are of λ_max by power iteration; top: eigenvalues by Lanczos."
  return [Grid("Measurements", header, lines, note, frozenset({0, 2, 3, 4, 5}))]


def terminal_table(rows: Sequence[Mapping[str, Any]]) -> str:
  """The numbers of one checkpoint, a line each, a column for each loss."""
  found = {row["loss"]: row for row in rows if row["kind"] == "flatness"}
  lines = [["", *(LOSSES[loss] for loss in found)]]
  lines.append(["differentiated", *(row["differentiated"] for row in found.values())])
  facts = ("weights", "images", "num_examples", "seed_of_images", "num_parameters", "precision")
  for key in (*facts, "compute_type", "matmul_precision", "batch_norm"):
    lines.append([key, *(str(row[key]) for row in found.values())])
  for key in _MEASURES:
    if not key.endswith("_error") and any(key in row for row in found.values()):
      lines.append([key, *(_with_error(row, key) for row in found.values())])
  lines.append(["converged", *("yes" if row["converged"] else "no" for row in found.values())])
  for key in ("alpha", "tolerance"):
    lines.append([key, *(f"{row[key]:g}" if key in row else ABSENT for row in found.values())])
  for name in next(iter(found.values())).get("sharpness_plan", ()):
    lines.append([f"sharpness {name}", *(f"{row['sharpness_plan'][name]:g}" for row in found.values())])
  lines.append(["num_products", *(str(row["num_products"]) for row in found.values())])
  for row in rows:
    if row["kind"] == "layer":
      sure = "" if row["layer_converged"] else "~"
      trace = f"{row['layer_trace']:.4g} ± {row['layer_trace_error']:.3g}"
      text = f"{sure}{row['layer_lambda_max']:.4g}, trace {trace}"
      lines.append([f"block {row['layer']}", text])
  widths = [max(len(line[i]) for line in lines if len(line) > i) for i in range(len(found) + 1)]
  return "\n".join(
    "  ".join(f"{text:{width}}" for text, width in zip(line, widths)).rstrip() for line in lines
  )


def _columns(results: Results, loss: str) -> Iterator[Column]:
  for key, (title, group, text, better) in _MEASURES.items():
    values = results.values(key, kind="flatness", loss=loss)
    digits = decimals_for(values)
    yield Column(title, group, f"{text} ({LOSSES[loss]})", values, better=better, decimals=digits)


def _rows(results: Results, kind: str, loss: str | None = None) -> list[Mapping[str, Any]]:
  return [row for row in results.rows if row.get("kind") == kind and loss in (None, row.get("loss"))]


def _block(rows: Sequence[Mapping[str, Any]], arm: str, block: str) -> tuple[str, str]:
  found = [row for row in rows if row["arm"] == arm and row["layer"] == block]
  if not found:
    return ABSENT, ABSENT
  value, trace, error = (
    mean_and_spread([row[key] for row in found])[0]
    for key in ("layer_lambda_max", "layer_trace", "layer_trace_error")
  )
  sure = "" if all(row["layer_converged"] for row in found) else "~"
  return f"{sure}{value:.3g}", f"{trace:.3g} ± {error:.3g}"


def _with_error(row: Mapping[str, Any], key: str) -> str:
  if key not in row:
    return ABSENT
  error = row.get(f"{key}_error")
  return f"{row[key]:.5g}" + ("" if error is None else f" ± {error:.3g}")


def _differentiated(results: Results, loss: str) -> dict[str, str]:
  return {row["arm"]: row["differentiated"] for row in _rows(results, "flatness", loss)}


def _all(rows: Sequence[Mapping[str, Any]], key: str) -> str:
  return " or ".join(sorted({str(row[key]) for row in rows}))
