"""`jaxtl rank`: orders pre-trained weights for a data set by scores that need no training."""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtl import config as config_lib
from jaxtl import data as data_lib
from jaxtl.checkpoints.checkpoint import Weights
from jaxtl.cli.finetune import distinct_names
from jaxtl.cli.options import column_choice, preprocessing_choice
from jaxtl.cli.output import show
from jaxtl.cli.rank_tuning import Tuning, tuned
from jaxtl.cli.runtime import make_runtime
from jaxtl.data.names import splits_of_kind
from jaxtl.errors import DataError, InputError, NonFiniteError
from jaxtl.host.files import check_new_folder, write_atomically
from jaxtl.host.processes import is_first_process
from jaxtl.host.remember import remember
from jaxtl.measure import candidates, observe, source_record, transfer_scores
from jaxtl.measure.observe import FeatureNetwork
from jaxtl.pretrained import guessing
from jaxtl.selection import page, tables
from jaxtl.selection.ranking import Ranking, rank_weights
from jaxtl.train.runtime import Runtime
from jaxtl.types import Row

REQUEST = "request.json"


def rank(options: argparse.Namespace) -> None:
  """Runs `jaxtl rank`: scores every weight on the training images, and says which one to take."""
  began = time.monotonic()
  names = transfer_scores.check_scores(options.scores or transfer_scores.DEFAULT, by=options.by)
  tuning = Tuning.of(options, began=began)
  if options.out and not (options.out / REQUEST).is_file():
    check_new_folder(options.out)
  paths = dict(zip(distinct_names(options.weights, option="WEIGHT"), options.weights, strict=True))
  stated = source_record.read_accuracies(options.source_accuracy) if options.source_accuracy else {}
  runtime = make_runtime(options)
  source, target = open_target(options, tuning)
  about = {}
  for name, path in paths.items():
    weights, given = opened(path, name, options)
    about[name] = {"given": str(path)} | candidates.describe(
      weights, given, source, stated=stated, data_dir=options.data_dir, trust=options.trust
    )
  request = {
    "weights": {name: row["digest"] for name, row in about.items()},
    "preprocessing": {name: row["preprocessing"] for name, row in about.items()},
    "target": target,
    "scores": list(names),
    "by": options.by,
    "permutations": options.permutations,
    "fine_tuning": None if tuning is None else [options.finetune_budget, tuning.first],
  }
  claim(options.out, request, REQUEST)
  rows = score_rows(options, about, paths, source, names, runtime)
  ranking = rank_weights(
    rows,
    by=options.by,
    target=target,
    draws=options.resamples,
    seed=options.seed,
    controls=_controls(options, about, paths, source, names, runtime) if options.controls else (),
  )
  _finish(ranking, options.out)
  if tuning is not None:
    _finish(tuned(ranking, tuning, options, runtime), options.out, again=True)


def open_target(options: argparse.Namespace, tuning: Tuning | None) -> tuple[Any, Row]:
  """Returns the images on which weights are compared, and the row that describes them."""
  if tuning is not None:
    source, split = tuning.train_source(), "train"
  else:
    splits = data_lib.open_source(options.data, data_dir=options.data_dir, **column_choice(options))
    split = training_split(splits, options.split, name=options.data)
    source = splits[split]
  source = candidates.images_of(source, max_examples=options.max_examples, seed=options.seed)
  name = Path(options.data.removeprefix("tfds:")).name or options.data
  return source, candidates.target_row(source, name=name, split=split, seed=options.seed)


def training_split(splits: Mapping[str, Any], given: str | None, *, name: str) -> str:
  """Returns the split that scores are computed on: the one that is given, else the training split.

  Raises:
    DataError: the split does not exist, or none of several is the training split.
  """
  if given is not None:
    return data_lib.choose_split(splits, given)
  train = splits_of_kind(splits, "train")
  if not train and len(splits) > 1:
    raise DataError(f"{name} has the splits {', '.join(splits)}; expected one named train, or give --split")
  return train[0] if train else next(iter(splits))


def opened(path: Path, name: str, options: argparse.Namespace) -> tuple[Weights, FeatureNetwork]:
  """Opens a weight of any format, and makes its network.

  Raises:
    InputError: it cannot be opened, or does not compute features of images.
  """
  weights = guessing.open_weights(path, model=options.model, layout=options.layout)
  given = observe.feature_network(weights, preprocessing_choice(options), name=name, trust=options.trust)
  return weights, given


def claim(out: Path | None, request: Mapping[str, Any], file: str) -> None:
  """Records in a folder what was asked for, or refuses a folder in which something else was.

  Raises:
    InputError: the folder holds the result of other weights, data or options.
  """
  if out is None:
    return
  before = remember(out / file, lambda: dict(request), replace=False)
  if found := config_lib.differences(before, config_lib.plain(dict(request))):
    raise InputError(
      f"{out} holds a result of other weights, data or options: {config_lib.first_few(found)}; give another "
      "--out"
    )


def kept(
  out: Path | None,
  file: str,
  compute: Callable[[], Row],
  runtime: Runtime,
  *,
  recalled: Callable[[], None] | None = None,
) -> Row:
  """Computes a result, or reads back that of an earlier session; without a folder, nothing is kept."""
  if out is None:
    return compute()
  return remember(out / file, compute, recalled=recalled, note=runtime.progress.note)


def score_rows(
  options: argparse.Namespace,
  about: Mapping[str, Row],
  paths: Mapping[str, Path],
  source: Any,
  names: Sequence[str],
  runtime: Runtime,
) -> list[Row]:
  """Returns the row of every weight; rows that an earlier session wrote into --out are read back.

  Raises:
    NonFiniteError: no weight has a finite feature.
  """
  runtime.progress.expect(len(about) * len(source))
  rows = []
  for name in about:
    compute = functools.partial(_assess, options, paths[name], name, source, names, runtime)
    skip = functools.partial(runtime.progress.skip, len(source))
    found = kept(options.out, f"rows/{name}.json", compute, runtime, recalled=skip)
    rows.append(dict(about[name]) | found)
  runtime.progress.close()
  broken = [row for row in rows if all("left_out" in score for score in row["scores"].values())]
  if len(broken) == len(rows):
    reason = next(iter(broken[0]["scores"].values()))["left_out"]
    raise NonFiniteError(f"no score can be computed for {', '.join(about)}: {reason}")
  return rows


def _assess(
  options: argparse.Namespace, path: Path, name: str, source: Any, names: Sequence[str], runtime: Runtime
) -> Row:
  _, given = opened(path, name, options)
  runtime.progress.title = f"rank | {name}"
  return candidates.assess(
    given,
    source,
    names,
    by=options.by,
    batch_size=options.batch_size,
    runtime=runtime,
    bad_records=data_lib.BadRecords(options.max_bad_records, runtime.progress.note),
    seed=options.seed,
    permutations=options.permutations,
    draws=options.resamples,
  )


def _controls(
  options: argparse.Namespace,
  about: Mapping[str, Row],
  paths: Mapping[str, Path],
  source: Any,
  names: Sequence[str],
  runtime: Runtime,
) -> list[Row]:
  """Scores an untrained network of every architecture, and pixels."""
  first = {(row["architecture"], row["image_size"]): name for name, row in reversed(list(about.items()))}
  rows: dict[str, Row] = {}
  for name in sorted(first.values(), key=list(about).index):
    compute = functools.partial(_control_rows, options, paths[name], name, source, names, runtime)
    found = kept(options.out, f"controls/{name}.json", compute, runtime)
    for row in found["rows"]:
      rows.setdefault(row["control"], row)
  runtime.progress.close()
  return list(rows.values())


def _control_rows(
  options: argparse.Namespace, path: Path, name: str, source: Any, names: Sequence[str], runtime: Runtime
) -> dict[str, list[Row]]:
  _, given = opened(path, name, options)
  runtime.progress.title = f"controls | {name}"
  found = candidates.control_rows(
    given,
    source,
    names,
    by=options.by,
    batch_size=options.batch_size,
    runtime=runtime,
    bad_records=data_lib.BadRecords(options.max_bad_records),
    seed=options.seed,
  )
  return {"rows": found}


def _finish(ranking: Ranking, out: Path | None, *, again: bool = False) -> None:
  """Prints the ranking and writes its files."""
  if not is_first_process():
    return
  show(("\n" if again else "") + tables.terminal(ranking))
  if out is not None:
    write_files(out, page.files(ranking))
    show(f"page: {out / 'index.html'}")


def write_files(out: Path, files: Mapping[str, str | bytes]) -> None:
  """Writes files into a folder that exists, and replaces those of an earlier session."""
  for name, content in files.items():
    if isinstance(content, str):
      write_atomically(out / name, content)
    else:
      (out / name).write_bytes(content)
