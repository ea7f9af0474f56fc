"""One weight on one target: what it is, what it costs, and every score, as one row of JSON."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxtl import data as data_lib
from jaxtl.checkpoints.checkpoint import Weights
from jaxtl.config import calls
from jaxtl.errors import DataError
from jaxtl.measure import observe as observing
from jaxtl.measure import source_record, transfer_scores
from jaxtl.measure.observe import FeatureNetwork, Pass
from jaxtl.measure.transfer_scores import SCORES, Observed
from jaxtl.metrics import transferability
from jaxtl.train.runtime import Runtime
from jaxtl.types import Row


def images_of(source: Any, *, max_examples: int, seed: int) -> Any:
  """Returns the images on which weights are compared: at most `max_examples`, in the classes' shares.

  Raises:
    DataError: the source is a stream, has one class only, or fewer than two classes have images.
  """
  data_lib.need_two_classes(source.classes, name=source.name)
  if not source.classes:
    raise DataError(f"{source.name} has no classes; expected images with class labels")
  if not hasattr(source, "take"):
    raise DataError(
      f"{source.name} is a stream, from which no images can be drawn; prepare it as array_record, or give a "
      "folder"
    )
  chosen = transferability.stratified_sample(source.labels, max_examples=max_examples, seed=seed)
  if len(np.unique(source.labels[chosen])) < 2:
    raise DataError(f"{source.name} has images of fewer than 2 of its {len(source.classes)} classes")
  return source if len(chosen) == len(source) else source.take(chosen)


def target_row(source: Any, *, name: str, split: str, seed: int) -> Row:
  """Describes the images of a target, those that `images_of` returned."""
  counts = np.bincount(source.labels, minlength=len(source.classes))
  return {
    "target": name,
    "split": split,
    "source": source.name,
    "num_images": len(source),
    "num_classes": int(np.sum(counts > 0)),
    "classes_without_images": [source.classes[i] for i in np.flatnonzero(counts == 0)],
    "classes_of_one_image": int(np.sum(counts == 1)),
    "fingerprint": source.fingerprint(),
    "seed": seed,
  }


def describe(
  weights: Weights,
  given: FeatureNetwork,
  source: Any,
  *,
  stated: Mapping[str, float],
  data_dir: str | None = None,
  trust: bool = False,
) -> Row:
  """Describes a weight by itself and by what is on record about it.

  Args:
    weights: the weight.
    given: its network.
    source: the images of the target, to count those that the weight was trained on; None counts none.
    stated: model or weight -> source accuracy that others state, which applies where no run has measured one.
    data_dir, trust: as in `source_record.seen_images`.
  """
  record = source_record.recorded_accuracy(weights)
  if record["source_accuracy"] is None:
    for name in (given.name, given.model.name):
      if name in stated:
        record = {"source_accuracy": stated[name], "source_accuracy_from": f"stated for {name}"}
        break
  return {
    "weight": given.name,
    "path": weights.path,
    "digest": source_record.weights_digest(weights),
    "origin": weights.config.get("source") or {"step": weights.config.get("step")},
    **observing.about(given),
    "head_classes": len(weights.classes),
    "preprocessing": calls(given.transforms),
    **record,
    "seen_images": None
    if source is None
    else source_record.seen_images(weights, source, data_dir=data_dir, trust=trust),
  }


def assess(
  given: FeatureNetwork,
  source: Any,
  names: Sequence[str],
  *,
  by: str,
  batch_size: int,
  runtime: Runtime,
  bad_records: data_lib.BadRecords,
  seed: int,
  permutations: int = 0,
  draws: int = 1000,
) -> Row:
  """Observes the images once and computes every score.

  Args:
    given: the network of the weight.
    source: the images, as from `images_of`.
    names: of the scores.
    by: the score that orders the weights; its terms or its resamples are kept.
    batch_size, runtime, bad_records: as in `observe.observe`.
    seed: of folds, resamples and permutations.
    permutations: of the labels, under which every ordering score is computed again; 0 leaves that out.
    draws: resamples of a score that is recomputed for each; at most `transfer_scores.MOMENT_DRAWS` are made.

  Returns:
    "images", a digest of the rows and labels that were read; "num_images"; "num_classes"; "seconds" of the
    pass, "scoring_seconds" and "milliseconds_per_image"; "scores"; "terms" [N] of `by`, or else "resampled"
    [B] values of it, each None if there is none.

  Raises:
    DataError: the images do not fit the network, or cannot be read.
  """
  found = observing.observe(
    given, source, batch_size=batch_size, runtime=runtime, bad_records=bad_records, seed=seed
  )
  row = scored(found.observed, names, by=by, permutations=permutations, draws=draws, runtime=runtime)
  return pass_row(found) | row


def pass_row(found: Pass) -> Row:
  """Returns what a pass says about its images and its time."""
  labels = found.observed.labels
  return {
    "images": hashlib.sha256(found.rows.tobytes() + labels.astype("<i4").tobytes()).hexdigest()[:16],
    "num_images": len(labels),
    "num_classes": len(np.unique(labels)),
    "seconds": found.seconds,
    "milliseconds_per_image": found.milliseconds,
  }


def scored(
  observed: Observed,
  names: Sequence[str],
  *,
  by: str,
  runtime: Runtime,
  permutations: int = 0,
  draws: int = 1000,
) -> Row:
  """Computes the scores of what was observed; arguments and result as in `assess`."""
  began = time.perf_counter()
  scores, terms = transfer_scores.score_all(observed, names, beat=runtime.beat)
  resampled = None
  if SCORES[by].from_moments and "value" in scores.get(by, {}):
    num = len(observed.labels)
    most = min(draws, transfer_scores.MOMENT_DRAWS)
    counts = np.random.default_rng(observed.seed).multinomial(num, np.full(num, 1 / num), size=most)
    values = transfer_scores.moment_values(observed, by, counts)
    resampled = [float(value) if np.isfinite(value) else None for value in values]
    runtime.beat()
  if permutations:
    _add_nulls(observed, scores, permutations, runtime)
  return {
    "scoring_seconds": time.perf_counter() - began,
    "scores": scores,
    "terms": [float(term) for term in terms[by]] if by in terms else None,
    "resampled": resampled,
  }


def _add_nulls(observed: Observed, scores: Mapping[str, Row], permutations: int, runtime: Runtime) -> None:
  for name, row in scores.items():
    if SCORES[name].orders and "value" in row:
      try:
        row |= transfer_scores.label_null(observed, name, num_permutations=permutations)
      except (transferability.ScoreError, np.linalg.LinAlgError):
        continue
      finally:
        runtime.beat()


def control_rows(
  given: FeatureNetwork,
  source: Any,
  names: Sequence[str],
  *,
  by: str,
  batch_size: int,
  runtime: Runtime,
  bad_records: data_lib.BadRecords,
  seed: int,
) -> list[Row]:
  """Scores what a trustworthy score must put below every weight: an untrained network, and pixels alone.

  Args:
    given: the network whose architecture and images are used.
    source, names, by, batch_size, runtime, bad_records, seed: as in `assess`.

  Returns:
    Rows with "control", a title, and the fields of `assess`.
  """
  fresh = observing.untrained(given, seed=seed)
  found = observing.observe(
    fresh,
    source,
    batch_size=batch_size,
    runtime=runtime,
    bad_records=bad_records,
    seed=seed,
    with_pixels=True,
  )
  headless = [name for name in names if not SCORES[name].needs_head]
  without_head = Observed(found.observed.features, found.observed.labels, seed=seed)
  titles = {"pixels": "8 x 8 pixels", "colors": "mean and spread of the channels"}
  observed = {fresh.name: without_head} | {
    titles[name]: Observed(values, found.observed.labels, seed=seed) for name, values in found.pixels.items()
  }
  return [
    {"control": title} | pass_row(found) | scored(one, headless, by=by, runtime=runtime)
    for title, one in observed.items()
  ]
