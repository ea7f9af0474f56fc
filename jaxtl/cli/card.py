"""`jaxtl card`: writes the card of one weight, with its scores on some data sets."""

from __future__ import annotations

import argparse
import functools
from typing import Any

from jaxtl import data as data_lib
from jaxtl.checkpoints.checkpoint import Weights
from jaxtl.cli.finetune import distinct_names
from jaxtl.cli.output import show
from jaxtl.cli.rank import REQUEST, claim, kept, open_target, opened, write_files
from jaxtl.cli.runtime import make_runtime
from jaxtl.errors import CheckpointError, InputError, NonFiniteError
from jaxtl.host.files import check_new_folder
from jaxtl.host.processes import is_first_process
from jaxtl.measure import candidates, network, source_record, transfer_scores
from jaxtl.measure.observe import FeatureNetwork
from jaxtl.runner.rows import all_rows
from jaxtl.selection import card_page
from jaxtl.selection.card import make_card
from jaxtl.train.runtime import Runtime
from jaxtl.types import Row


def card(options: argparse.Namespace) -> None:
  """Runs `jaxtl card`: scores the weight on every data set, and writes what is known about it."""
  names = transfer_scores.check_scores(options.scores or transfer_scores.DEFAULT, by=options.by)
  if options.out and not (options.out / REQUEST).is_file():
    check_new_folder(options.out)
  if len(set(options.data)) < len(options.data):
    raise InputError("--data has the same data set twice; give each once")
  [name] = distinct_names([options.weight], option="WEIGHT")
  stated = source_record.read_accuracies(options.source_accuracy) if options.source_accuracy else {}
  runtime = make_runtime(options)
  weights, given = opened(options.weight, name, options)
  curvature = _curvature(weights, options)
  targets = [_opened_target(data, options) for data in options.data]
  about = candidates.describe(weights, given, targets[0][0], stated=stated, trust=options.trust)
  request = {
    "weights": {name: about["digest"]},
    "preprocessing": about["preprocessing"],
    "targets": [target for _, target in targets],
    "scores": list(names),
    "by": options.by,
    "permutations": options.permutations,
    "controls": options.controls,
  }
  claim(options.out, request, REQUEST)
  runtime.progress.expect(sum(len(source) for source, _ in targets))
  rows = [
    _target_row(options, weights, given, source, target, names, runtime, number)
    for number, (source, target) in enumerate(targets)
  ]
  runtime.progress.close()
  made = make_card(about, rows, license=options.license, curvature=curvature)
  if not is_first_process():
    return
  show(card_page.card_terminal(made))
  if options.out is not None:
    write_files(options.out, card_page.card_files(made))
    show(f"card: {options.out / 'card.json'}\npage: {options.out / 'index.html'}")


def _opened_target(data: str, options: argparse.Namespace) -> tuple[Any, Row]:
  return open_target(argparse.Namespace(**vars(options) | {"data": data}), None)


def _curvature(weights: Weights, options: argparse.Namespace) -> list[Row]:
  """Returns the curvature that the weight's run, and the studies that are named, have measured of it.

  Raises:
    InputError: a folder holds no study, or none of these weights.
  """
  found = source_record.recorded_curvature(weights)
  for run in options.flatness:
    rows = all_rows(run)
    try:
      digest = network.digest(str(options.weight))
    except CheckpointError as error:
      raise InputError(
        f"--flatness is for checkpoints, and {options.weight} is a file; import it with jaxtl import first"
      ) from error
    measured = source_record.curvature_of_rows(rows, digest, measured_by=source_record.named(run))
    if not measured:
      raise InputError(
        f"{run} has no flatness of {options.weight}; expected a flatness study of these weights"
      )
    found += measured
  return found


def _target_row(
  options: argparse.Namespace,
  weights: Weights,
  given: FeatureNetwork,
  source: Any,
  target: Row,
  names: tuple[str, ...],
  runtime: Runtime,
  number: int,
) -> Row:
  """Returns the scores and controls on one target, read back if an earlier session has them.

  Raises:
    NonFiniteError: the features are not finite.
  """

  def compute() -> Row:
    runtime.progress.title = f"card | {target['target']}"
    shared: dict[str, Any] = dict(
      by=options.by, batch_size=options.batch_size, runtime=runtime, seed=options.seed
    )
    bad_records = data_lib.BadRecords(options.max_bad_records, runtime.progress.note)
    row = candidates.assess(
      given, source, names, bad_records=bad_records, permutations=options.permutations, draws=1, **shared
    )
    if all("left_out" in score for score in row["scores"].values()):
      raise NonFiniteError(
        f"no score can be computed for {given.name}: {next(iter(row['scores'].values()))['left_out']}"
      )
    seen = source_record.seen_images(weights, source, data_dir=options.data_dir, trust=options.trust)
    controls = []
    if options.controls:
      again = data_lib.BadRecords(options.max_bad_records)
      controls = candidates.control_rows(given, source, names, bad_records=again, **shared)
    return {**target, "by": options.by, "seen_images": seen, **row, "controls": controls}

  skip = functools.partial(runtime.progress.skip, len(source))
  return kept(options.out, f"rows/{number}.json", compute, runtime, recalled=skip)
