"""Scores one checkpoint on every target, and measures or looks up how well it transfers there."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxtl import data as data_lib
from jaxtl.checkpoints import checkpoint
from jaxtl.checkpoints.checkpoint import Weights
from jaxtl.host.progress import title
from jaxtl.host.remember import remember
from jaxtl.measure import candidates, observe, source_record, transfer_scores
from jaxtl.studies.selection.measured import finished_rows
from jaxtl.studies.selection.plan import plan
from jaxtl.studies.selection.settings import SelectionStudy
from jaxtl.studies.transfer.fine_tuning import filled_protocols
from jaxtl.studies.transfer.settings import Target
from jaxtl.studies.transfer.study import measure
from jaxtl.train.runtime import Runtime
from jaxtl.types import Row

# The runner looks up `plan` next to `rows`.
__all__ = ["plan", "rows"]


def rows(study: SelectionStudy, *, seed: int, workdir: Path, runtime: Runtime) -> Iterator[Row]:
  """Yields rows of the kinds weight (one), score and control (for each target), and transfer."""
  start = checkpoint.load(study.start)
  protocols = filled_protocols(study.transfer, start, runtime)
  arm = workdir.parts[-2]
  scored: list[Row] = []
  for name, target in protocols.targets.items():
    runtime.progress.title = f"{title(workdir)} | scores on {name}"
    compute = functools.partial(_scores, study, start, name, target, seed, runtime)
    found = remember(workdir / "scores" / f"{name}.json", compute, note=runtime.progress.note)
    scored += found["rows"]
  yield _weight_row(study, start, arm)
  yield from scored
  if study.measures:
    model = start.model_spec(trust=runtime.trust)
    yield from measure(protocols, model, start, seed=seed, workdir=workdir / "transfer", runtime=runtime)
  for run in study.measured_from:
    yield from finished_rows(Path(run), study.start, tuple(protocols.targets))


def _weight_row(study: SelectionStudy, start: Weights, arm: str) -> Row:
  stated = {} if study.source_accuracy is None else {arm: study.source_accuracy}
  found = candidates.describe(start, observe.feature_network(start, {}, name=arm), None, stated=stated)
  # A row's own `digest` is that of its file.
  kept = {
    key: value for key, value in found.items() if key not in ("path", "origin", "seen_images", "digest")
  }
  return {"kind": "weight", "cluster": study.cluster or arm, "arrays": found["digest"], **kept}


def _scores(
  study: SelectionStudy, start: Weights, name: str, target: Target, seed: int, runtime: Runtime
) -> dict[str, list[Row]]:
  """Computes the scores of one target and their controls, in rows."""
  names = transfer_scores.check_scores(study.scores, by=study.by)
  source = candidates.images_of(runtime.open(target.train), max_examples=study.max_examples, seed=0)
  size = runtime.image_shape(target.test)[0]
  given = observe.for_images(start, target.test.transforms, size, name=name, trust=runtime.trust)
  shared: dict[str, Any] = dict(
    by=study.by,
    batch_size=study.batch_size,
    runtime=runtime,
    bad_records=runtime.unreadable(target.train),
    seed=seed,
  )
  row = candidates.assess(given, source, names, permutations=study.permutations, draws=1, **shared)
  seen = source_record.seen_images(start, source, data_dir=runtime.data_dir, trust=runtime.trust)
  common = {"target": name, "num_examples": row["num_images"], "num_classes": row["num_classes"]}
  found = [
    {"kind": "score", **common, "score": score, "seen_images": seen, **_flat(values)}
    | {"milliseconds_per_image": row["milliseconds_per_image"]}
    for score, values in row["scores"].items()
  ]
  if study.controls:
    # One draw of an untrained network and of the images for all seeds would be another study.
    shared["bad_records"] = data_lib.BadRecords(target.train.max_bad_records)
    found += [
      {"kind": "control", **common, "control": control["control"], "score": score, **_flat(values)}
      for control in candidates.control_rows(given, source, names, **shared)
      for score, values in control["scores"].items()
    ]
  return {"rows": found}


def _flat(values: Row) -> Row:
  """Returns the numbers of a score without its by-products."""
  kept = ("value", "standard_error", "null_mean", "null_sd", "z", "left_out", "seconds")
  return {key: values[key] for key in kept if values.get(key) is not None}
