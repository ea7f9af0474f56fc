"""The tables of a selection study: predictors by how well they order, and what each checkpoint has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from jaxtl.measure.transfer_scores import SCORES
from jaxtl.report.grid import Grid
from jaxtl.report.results import Results
from jaxtl.report.table import ABSENT, Column, Table, filled_table
from jaxtl.studies.selection.judging import BASELINES, Grounds, Judgement
from jaxtl.studies.transfer.results import protocol_title, protocols, targets


def title_of(predictor: str) -> str:
  """Returns how a table names a score or a baseline."""
  return BASELINES.get(predictor) or SCORES[predictor].title


def results_table(results: Results, by: str) -> Table:
  """Makes the table of the deciding score and the measured accuracies of every checkpoint on every target."""
  scale = 100 if SCORES[by].accuracy else 1
  names = targets(results) or tuple(dict.fromkeys(r["target"] for r in results.rows if r["kind"] == "score"))
  title = SCORES[by].title + (" %" if scale == 100 else "")
  columns = [
    Column(
      name,
      title,
      f"{SCORES[by].title} on {name}",
      _times(scale, results.values("value", kind="score", score=by, target=name)),
      decimals=2,
    )
    for name in names
  ]
  for protocol in protocols(results):
    columns += [
      Column(
        name,
        f"{protocol_title(protocol)} %",
        f"accuracy on {name}, {protocol_title(protocol).lower()}, in percent",
        _times(100, results.values("accuracy", kind="transfer", protocol=protocol, target=name)),
        decimals=1,
      )
      for name in names
    ]
  return filled_table(results, "Scores and measured transfer", columns)


def _times(scale: float, values: Mapping[str, Mapping[int, float]]) -> dict[str, dict[int, float]]:
  return {arm: {seed: scale * value for seed, value in found.items()} for arm, found in values.items()}


def predictors_grid(given: Grounds, found: Sequence[Judgement], protocol: str, *, draws: int) -> Grid:
  """Makes the table of how well each score and each baseline orders the checkpoints."""
  header = [
    *("predictor", "weighted tau", "95 %", "above source accuracy", "95 %", "Pearson", "Spearman"),
    *("given source accuracy", "within architecture", "regret", "within a point"),
  ]
  rows = [
    [
      title_of(one.predictor),
      f"{one.tau.estimate:.3f}",
      _range(one.tau.low, one.tau.high),
      ABSENT if one.gain is None else f"{one.gain.estimate:+.3f}",
      ABSENT if one.gain is None else _range(one.gain.low, one.gain.high),
      _number(one.pearson),
      _number(one.spearman),
      _number(one.partial),
      _number(one.within),
      f"{one.regret:.2f}",
      f"{one.close} of {one.judged}",
    ]
    for one in found
  ]
  left_out = "".join(f" {title_of(name)} is left out: {why}." for name, why in given.left_out.items())
  note = (
    f"Means over {len(given.targets)} targets; {len(given.arms)} checkpoints in {given.num_clusters} "
    f"clusters. Intervals resample targets and clusters together ({draws} times), and need three clusters. "
    "Given source accuracy: Spearman correlation of what is left of both ranks, from four checkpoints on. "
    "Within architecture: weighted tau, mean over architectures of four checkpoints or more. "
    f"Regret: points that are lost by taking the checkpoint with the highest value.{left_out}"
  )
  return Grid(f"Predictors of {protocol_title(protocol).lower()}", header, rows, note)


def targets_grid(given: Grounds, found: Sequence[Judgement], protocol: str) -> Grid:
  """Makes the table of the weighted tau on each target."""
  rows = [[title_of(one.predictor), *(_number(float(tau)) for tau in one.taus)] for one in found]
  title = f"Weighted tau by target, {protocol_title(protocol).lower()}"
  return Grid(title, ["predictor", *given.targets], rows)


def nulls_grid(results: Results) -> Grid | None:
  """Makes the table of scores under permuted labels, and of controls that reach a checkpoint."""
  scores = [row for row in results.rows if row.get("kind") == "score" and row.get("null_mean") is not None]
  if not scores:
    return None
  rows = []
  for name in dict.fromkeys(row["score"] for row in scores):
    own = [row for row in scores if row["score"] == name]
    z = [row["z"] for row in own if row.get("z") is not None]
    reached, compared = _controls(results, name)
    rows.append(
      [
        SCORES[name].title,
        f"{min(z):.1f}" if z else ABSENT,
        f"{float(np.median(z)):.1f}" if z else ABSENT,
        f"{reached} of {compared}" if compared else ABSENT,
      ]
    )
  header = ["score", "least z", "median z", "controls that reach the checkpoint"]
  note = (
    "z: standard deviations of the score above its mean under permuted labels, over checkpoints and targets."
  )
  return Grid("Permuted labels and controls", header, rows, note)


def _controls(results: Results, score: str) -> tuple[int, int]:
  """Counts the controls that have at least the value of the checkpoint, and those that were compared."""
  values = {
    (row["arm"], row["seed"], row["target"]): row["value"]
    for row in results.rows
    if row.get("kind") == "score" and row["score"] == score and row.get("value") is not None
  }
  pairs = [
    (row["value"], values[row["arm"], row["seed"], row["target"]])
    for row in results.rows
    if row.get("kind") == "control"
    and row["score"] == score
    and row.get("value") is not None
    and (row["arm"], row["seed"], row["target"]) in values
  ]
  return sum(control >= value for control, value in pairs), len(pairs)


def _range(low: float, high: float) -> str:
  return ABSENT if np.isnan(low) else f"{low:.2f} to {high:.2f}"


def _number(value: float | None) -> str:
  return ABSENT if value is None or np.isnan(value) else f"{value:.3f}"
