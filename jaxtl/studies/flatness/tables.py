"""The tables of a flatness study: a checkpoint's numbers for each loss, and its blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxtl.report.grid import Grid
from jaxtl.report.results import Results
from jaxtl.report.table import ABSENT, Column, Table, decimals_for, mean_and_spread

LOSSES = {"cross_entropy": "cross-entropy", "training": "training loss"}
# With fewer probes, a standard error is itself known to no better than a quarter: 1 / sqrt(2 (n - 1)).
FEW_PROBES = 10
# key of a row -> title, group, description, and -1 if less is flatter or 0 if neither
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

_BLOCK_COLUMNS = ("λ_max", "residual", "trace ± s.e.", "eff. dim. ± s.e.", "SAM sharpness")


def make_tables(results: Results) -> list[Table]:
  """Makes one table for each loss that was differentiated."""
  found = []
  for loss, title in LOSSES.items():
    columns = [column for column in _columns(results, loss) if column.values]
    arms = tuple(arm for arm in results.arms if any(column.values.get(arm) for column in columns))
    if columns:
      found.append(Table(f"Curvature of the {title}", arms, tuple(columns)))
  return found


def first_loss(results: Results) -> str:
  """Returns the loss of which everything is measured: the cross-entropy unless no row has it."""
  rows = _rows(results, "flatness")
  return "training" if rows and not _rows(results, "flatness", "cross_entropy") else "cross_entropy"


def is_comparable(results: Results) -> bool:
  """Returns whether all arms have the first loss in common."""
  return len(set(_differentiated(results, first_loss(results)).values())) <= 1


def lead(results: Results) -> list[str]:
  """Summarises the curvature of a single checkpoint.

  Returns nothing for several checkpoints, which are compared instead.
  """
  rows = _rows(results, "flatness", first_loss(results))
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
  """Explains how to read a table of `make_tables`."""
  rows = _rows(results, "flatness")
  said = [
    (
      "Images",
      f"{_all(rows, 'num_examples')} of {_all(rows, 'images')}, {_drawn(results)} with seed "
      f"{_all(rows, 'seed_of_images')}; not augmented.",
    ),
    ("Normalisation", f"{_all(rows, 'batch_norm')}."),
    (
      "Precision",
      f"{_all(rows, 'precision')}, computing in {_all(rows, 'compute_type')}, products of matrices in JAX's "
      f"precision {_all(rows, 'matmul_precision')}.",
    ),
    ("Standard error (s.e.)", _standard_error(rows)),
  ]
  if len(table.arms) > 1:
    flattest = "The smallest as printed: the flattest. The difference may be within an error."
    said.append(("Bold", flattest))
  if "training" in table.title or "training loss" in table.title:
    said.insert(0, ("Loss", _whose_loss(results)))
  alphas = sorted({f"{row['alpha']:g}" for row in rows if "alpha" in row})
  if alphas:
    change = max(row["effective_dimension_change"] for row in rows if "effective_dimension_change" in row)
    negative = max(row.get("gauss_newton_negative", 0.0) for row in rows)
    left_out = (
      f" Negative ones, up to {100 * negative:.1f} % by size, are left out." if negative > 1e-3 else ""
    )
    said.append(
      (
        "Effective dimension",
        f"Sum of λ / (λ + {' or '.join(alphas)}) over the Gauss-Newton matrix's eigenvalues. The latter half "
        f"of the steps of its recursion changed it by {change:.2g} at most.{left_out}",
      )
    )
  plans = [row["sharpness_plan"] for row in rows if "sharpness_plan" in row]
  if plans:
    ball = f"radius {_all(plans, 'rho')}, and {_all(plans, 'adaptive_rho')} relative to the weights"
    noise = f"deviation {_all(plans, 'sigma')} and {_all(plans, 'adaptive_sigma')}"
    draws = f"{_all(plans, 'num_steps')} steps of ascent, {_all(plans, 'num_samples')} pairs of draws"
    said.append(("Sharpness", f"Balls of {ball}; noise of standard {noise}; {draws}."))
  return said


def _classifies(results: Results) -> bool:
  return first_loss(results) == "cross_entropy"


def _drawn(results: Results) -> str:
  """States how the images were drawn; only a classification is sure to have classes."""
  return "drawn evenly over the classes" if _classifies(results) else "drawn"


def _whose_loss(results: Results) -> str:
  """Names the training losses, and states whether rows can be compared."""
  found = _differentiated(results, "training")
  if not _classifies(results) and len(set(found.values())) == 1:
    return f"The training loss of every arm, {next(iter(found.values()))}."
  own = "; ".join(f"{arm}: {name}" for arm, name in found.items())
  return f"Each arm's own ({own}): rows cannot be compared with each other."


def _standard_error(rows: Sequence[Mapping[str, Any]]) -> str:
  """Explains what the standard error covers, and how few probes affect it."""
  said = "One standard error over the random probes, of this subset of the images only."
  counts = sorted({len(row["density_nodes"]) for row in rows if "density_nodes" in row})
  few = [count for count in counts if count < FEW_PROBES]
  if not few:
    return said
  return (
    f"{said} Few probes, here {' or '.join(map(str, few))} for the trace, estimate it badly: ± one of them "
    "covers the truth in fewer than 68 of 100 cases. Student's t with n - 1 degrees of freedom, n the number "
    f"of probes, gives wider intervals{_covered(rows)}."
  )


def _covered(rows: Sequence[Mapping[str, Any]]) -> str:
  """Describes how often these intervals hold the truth, for the row in which they do so least.

  Older rows lack this number.
  """
  known = [row for row in rows if "trace_coverage" in row and row["trace"] > 0]
  found = [(row["trace_coverage"], row["eigenvalues"][0] / row["trace"]) for row in known]
  if not found:
    return ""
  covered, share = min(found)
  return (
    f"; those of 95 % cover the truth in {100 * covered:.0f} % of cases where, as here, one eigenvalue has "
    f"{100 * share:.0f} % of the trace"
  )


def blocks(results: Results) -> list[Grid]:
  """Makes a table of every block's numbers per loss, with a line for each arm; means over seeds."""
  grids = []
  for loss, title in LOSSES.items():
    rows = _rows(results, "layer", loss)
    arms = [arm for arm in results.arms if any(row["arm"] == arm for row in rows)]
    if not arms:
      continue
    several = len(arms) > 1
    lines = []
    for block in dict.fromkeys(row["layer"] for row in rows):
      for arm in arms:
        if found := [row for row in rows if row["arm"] == arm and row["layer"] == block]:
          lines.append([block, *([arm] if several else []), *_block(found)])
    header = ["block", *(["arm"] if several else []), *_BLOCK_COLUMNS]
    words = frozenset({0, 1} if several else {0})
    grids.append(Grid(f"Blocks, {title}", header, lines, _blocks_note(rows), words))
  return grids


def _blocks_note(rows: Sequence[Mapping[str, Any]]) -> str:
  said = (
    "The Hessian's diagonal block of each part of the network, the others held still. A residual above the "
    "tolerance is marked ~: the eigenvalue is a lower bound."
  )
  measured = [row for row in rows if "layer_effective_dimension" in row]
  if measured:
    alphas, radii = (_all_numbers(measured, key) for key in ("layer_alpha", "layer_rho"))
    change = max(row["layer_effective_dimension_change"] for row in measured)
    said += (
      f" Effective dimension: of the block's Gauss-Newton matrix, Σ λ / (λ + {alphas}); the latter half of "
      f"its steps changed it by {change:.2g} at most. SAM sharpness: to first order, radius {radii} in the "
      "block alone."
    )
  return f"{said} Means over seeds."


def conditions(results: Results) -> list[Grid]:
  """Makes a table of how each number of a checkpoint was measured."""
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
    "λ_max",
    "residual",
    "converged",
    "by magnitude",
    "its residual",
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
      f"{row['lambda_max']:.4g}",
      f"{row['residual']:.1e}",
      "yes" if row["converged"] else "no",
      *_by_magnitude(row),
      ", ".join(f"{value:.4g}" for value in row.get("eigenvalues", ())) or ABSENT,
    ]
    for row in rows
  ]
  note = (
    "Products, residual and convergence are of λ_max, the largest eigenvalue, by power iteration; by "
    "magnitude: the eigenvalue that is largest in magnitude, another one where it is negative; top: "
    "eigenvalues by Lanczos."
  )
  return [Grid("Measurements", header, lines, note, frozenset({0, 2, 3, 4, 5}))]


def terminal_table(rows: Sequence[Mapping[str, Any]]) -> str:
  """Formats the numbers of one checkpoint, with one number per line and a column for each loss."""
  found = {row["loss"]: row for row in rows if row["kind"] == "flatness"}
  lines = [["", *(LOSSES[loss] for loss in found)]]
  lines.append(["differentiated", *(row["differentiated"] for row in found.values())])
  facts = ("weights", "images", "num_examples", "seed_of_images", "num_parameters", "precision")
  for key in (*facts, "compute_type", "matmul_precision", "batch_norm"):
    lines.append([key, *(str(row[key]) for row in found.values())])
  for key in _MEASURES:
    if not key.endswith("_error") and any(key in row for row in found.values()):
      lines.append([key, *(_with_error(row, key) for row in found.values())])
  if any(_is_other(row) for row in found.values()):
    for key in ("lambda_by_magnitude", "residual_by_magnitude"):
      lines.append([key, *(_with_error(row, key) for row in found.values())])
  lines.append(["converged", *("yes" if row["converged"] else "no" for row in found.values())])
  for key in ("alpha", "tolerance"):
    lines.append([key, *(f"{row[key]:g}" if key in row else ABSENT for row in found.values())])
  for name in next(iter(found.values())).get("sharpness_plan", ()):
    lines.append([f"sharpness {name}", *(f"{row['sharpness_plan'][name]:g}" for row in found.values())])
  lines.append(["num_products", *(str(row["num_products"]) for row in found.values())])
  for row in rows:
    if row["kind"] == "layer":
      lines.append([f"block {row['layer']}", _block_text(row)])
  widths = [max(len(line[i]) for line in lines if len(line) > i) for i in range(len(found) + 1)]
  return "\n".join(
    "  ".join(f"{text:{width}}" for text, width in zip(line, widths)).rstrip() for line in lines
  )


def _block_text(row: Mapping[str, Any]) -> str:
  sure = "" if row["layer_converged"] else "~"
  return (
    f"{sure}{row['layer_lambda_max']:.4g} (residual {row['layer_residual']:.1e}), "
    f"trace {_with_error(row, 'layer_trace')}, "
    f"effective dimension {_with_error(row, 'layer_effective_dimension')}, "
    f"SAM {_with_error(row, 'layer_sam_first_order')}"
  )


def _columns(results: Results, loss: str) -> Iterator[Column]:
  for key, (title, group, text, better) in _MEASURES.items():
    values = results.values(key, kind="flatness", loss=loss)
    digits = decimals_for(values)
    yield Column(title, group, f"{text} ({LOSSES[loss]})", values, better=better, decimals=digits)


def _rows(results: Results, kind: str, loss: str | None = None) -> list[Mapping[str, Any]]:
  return [row for row in results.rows if row.get("kind") == kind and loss in (None, row.get("loss"))]


def _block(rows: Sequence[Mapping[str, Any]]) -> list[str]:
  """Formats the cells of one block of one arm from one row for each seed."""
  sure = "" if all(row["layer_converged"] for row in rows) else "~"
  return [
    sure + _mean(rows, "layer_lambda_max"),
    _mean(rows, "layer_residual"),
    _mean(rows, "layer_trace", "layer_trace_error"),
    _mean(rows, "layer_effective_dimension", "layer_effective_dimension_error"),
    _mean(rows, "layer_sam_first_order"),
  ]


def _mean(rows: Sequence[Mapping[str, Any]], *keys: str) -> str:
  """Formats the mean of each key, such as a number and its standard error.

  Rows of an older version may lack them.
  """
  if not all(key in row for row in rows for key in keys):
    return ABSENT
  return " ± ".join(f"{mean_and_spread([row[key] for row in rows])[0]:.3g}" for key in keys)


def _with_error(row: Mapping[str, Any], key: str) -> str:
  if key not in row:
    return ABSENT
  error = row.get(f"{key}_error")
  return f"{row[key]:.5g}" + ("" if error is None else f" ± {error:.3g}")


def _by_magnitude(row: Mapping[str, Any]) -> tuple[str, str]:
  """Formats the eigenvalue of largest magnitude and its residual."""
  if "lambda_by_magnitude" not in row:
    return ABSENT, ABSENT
  return f"{row['lambda_by_magnitude']:.4g}", f"{row['residual_by_magnitude']:.1e}"


def _is_other(row: Mapping[str, Any]) -> bool:
  """Returns whether the eigenvalue of largest magnitude differs from the largest eigenvalue."""
  return row.get("lambda_by_magnitude", row["lambda_max"]) != row["lambda_max"]


def _differentiated(results: Results, loss: str) -> dict[str, str]:
  return {row["arm"]: row["differentiated"] for row in _rows(results, "flatness", loss)}


def _all(rows: Sequence[Mapping[str, Any]], key: str) -> str:
  return " or ".join(sorted({str(row[key]) for row in rows}))


def _all_numbers(rows: Sequence[Mapping[str, Any]], key: str) -> str:
  return " or ".join(f"{value:g}" for value in sorted({row[key] for row in rows}))
