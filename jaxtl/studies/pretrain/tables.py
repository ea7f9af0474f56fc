"""The tables of a pre-training: accuracy, curvature, transfer and speed."""

from __future__ import annotations

from jaxtl.report.results import Results, numbers
from jaxtl.report.table import Column, Table, decimals_for, filled_table, mean_and_spread
from jaxtl.studies.transfer import tables as transfer_tables
from jaxtl.studies.transfer.results import protocol_title


def make_table(results: Results, protocol: str) -> Table:
  """Makes a table of the pre-training and of its transfer by one protocol.

  An empty protocol omits the transfer.
  """
  transferred = transfer_tables.columns(results, protocol) if protocol else []
  title = protocol_title(protocol) if protocol else "Measures"
  return filled_table(results, title, [*_pretraining(results), *transferred, *_speed(results)])


# Title, measure, direction that is better (0: none), and digits of the columns about outputs.
_OUTPUTS = (
  ("top-1", "top1", "top-1", 1, 3),
  ("cross-entropy", "cross_entropy", "mean cross-entropy", -1, 3),
  ("zero loss", "zero_loss", "share of images whose training loss is exactly 0", 0, 3),
  ("zero gradient", "zero_gradient", "share of images whose gradient by the logits is exactly 0", 0, 3),
  ("gap, 5 %", "gap_p05", "5th percentile of the true logit minus the largest other one", 0, 2),
  ("gap, median", "gap_p50", "median of the true logit minus the largest other one", 0, 2),
  ("norm", "logit_norm", "mean norm of the centred logits", 0, 1),
  ("ECE", "calibration_error", "expected calibration error, 15 bins", -1, 3),
  ("NC1", "nc1", "variability of the features within classes relative to the class means", 0, 2),
  ("rank", "effective_rank", "effective rank of the features' covariance", 0, 1),
)


def outputs(results: Results) -> tuple[str, ...]:
  """Returns the sets of images on which outputs were measured, by name."""
  found = (key.split("/")[1] for row in results.rows for key in row if key.startswith("outputs/"))
  return tuple(dict.fromkeys(found))


def outputs_table(results: Results, name: str) -> Table:
  """Makes a table of the outputs on one set of images at the end of the pre-training."""
  columns = [
    Column(
      title, "Outputs", measure, results.values(f"outputs/{name}/{key}", kind="pretrain"), better, digits
    )
    for title, key, measure, better, digits in _OUTPUTS
  ]
  return filled_table(results, f"Outputs on {name} images", columns)


def test_losses(results: Results) -> Table:
  """Makes a table of the cross-entropy on each evaluation set: the least, its step, and the weights'."""
  columns = []
  for name in evaluations(results):
    for title, key, better, digits in (
      ("least", "least_cross_entropy", -1, 3),
      ("at step", "least_step", 0, 0),
      ("used", "cross_entropy", -1, 3),
    ):
      values = results.values(f"{name}/{key}", kind="pretrain")
      columns.append(Column(title, name, f"{title} cross-entropy on {name}", values, better, digits))
  return filled_table(results, "Cross-entropy during pre-training", columns)


def evaluations(results: Results) -> tuple[str, ...]:
  """Returns the evaluation sets of the pre-training, by name."""
  ends = [
    key.removesuffix("/top1")
    for row in results.rows
    if row.get("kind") == "pretrain"
    for key in row
    if key.endswith("/top1")
  ]
  return tuple(dict.fromkeys(ends))


def accuracies(results: Results, name: str) -> dict[str, dict[int, float]]:
  """Returns arm -> seed -> top-1 on an evaluation set."""
  return results.values(f"{name}/top1", kind="pretrain")


def curvatures(results: Results) -> dict[str, dict[int, float]]:
  """Returns arm -> seed -> lambda_max of `curvature_loss`."""
  return results.values("lambda_max", kind="pretrain")


def curvature_loss(results: Results) -> str:
  """Returns the loss whose curvature was measured; rows of other tasks than classifications name theirs."""
  found = {row["differentiated"] for row in results.rows if "differentiated" in row}
  return f"loss of {' or '.join(sorted(found))}" if found else "cross-entropy"


def curvature_sentence(results: Results) -> str:
  """Describes how lambda_max was measured, and how accurately."""
  images = sorted(set(numbers(results.values("num_examples", kind="pretrain"))))
  if not images:
    return ""
  residuals = sorted(numbers(results.values("residual", kind="pretrain")))
  # The value is True, 1.0 or NaN, depending on the version.
  converged = [
    row["converged"] == 1
    for row in results.rows
    if row.get("kind") == "pretrain" and row.get("converged") in (0, 1)
  ]
  counts = " or ".join(f"{value:,.0f}" for value in images)
  text = (
    f"λ_max is the largest eigenvalue of the Hessian of the mean {curvature_loss(results)} on {counts} images"
  )
  if residuals:
    text += f"; relative residuals {residuals[0]:.2g} to {residuals[-1]:.2g}"
  if converged:
    text += f"; {sum(converged)} of {len(converged)} measurements reached their tolerance"
  return f"{text}."


def _pretraining(results: Results) -> list[Column]:
  names = evaluations(results)
  columns = [
    Column(
      "accuracy" if len(names) == 1 else name,
      "Pre-training",
      f"pre-training accuracy, top-1 on {name}",
      accuracies(results, name),
    )
    for name in names
  ]
  found = curvatures(results)
  trained = results.values("training_lambda_max", kind="pretrain")
  loss = curvature_loss(results)
  measure = "λ_max of the cross-entropy's Hessian" if loss == "cross-entropy" else f"λ_max of the {loss}"
  return [
    *columns,
    Column("λ_max", "Pre-training", measure, found, better=-1, decimals=decimals_for(found)),
    # Curvatures of different losses are not comparable, so none is best.
    Column(
      "λ_max, own loss",
      "Pre-training",
      "λ_max of the loss that the arm was trained with",
      trained,
      better=0,
      decimals=decimals_for(trained),
    ),
  ]


def _speed(results: Results) -> list[Column]:
  """Returns a column of images per second, relative to the first arm that has them."""
  found = results.values("images_per_second", kind="pretrain")
  first = next((arm for arm in results.arms if found.get(arm)), None)
  if first is None:
    return []
  reference = mean_and_spread(list(found[first].values()))[0]
  if not reference:
    return []
  relative = {arm: {seed: x / reference for seed, x in by_seed.items()} for arm, by_seed in found.items()}
  title = f"images/s of pre-training relative to {first} ({reference:.0f} images/s)"
  return [Column("speed", "Cost", title, relative, better=0, decimals=2)]
