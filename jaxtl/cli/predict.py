"""`jaxtl predict`: classifies images, and shows the classes on the terminal, in files and on a page."""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from jaxtl import config as config_lib
from jaxtl.cli.options import preprocessing_choice
from jaxtl.cli.output import show
from jaxtl.cli.runtime import keep_compiled
from jaxtl.config import call, calls
from jaxtl.data.bad_records import BadRecords
from jaxtl.errors import DataError, InputError, cannot_write
from jaxtl.host.files import check_new_file, check_new_folder, write_atomically, write_folder
from jaxtl.host.progress import Progress
from jaxtl.inference import Input, Loaded, Prediction, files_of, tables
from jaxtl.inference.loaded import load
from jaxtl.inference.tables import Predictions, Ranked

_EVERY = 32  # images between two updates of the status line


def predict(options: argparse.Namespace) -> None:
  """Runs `jaxtl predict`: prints the classes of images; with --out it also writes a page."""
  _check_outputs(options)
  inputs = files_of(options.images)
  keep_compiled()
  loaded = load(options.checkpoint, preprocessing=preprocessing_choice(options), trust=options.trust)
  loaded.check_classifier()
  progress = Progress()
  bad_records = BadRecords(options.max_bad_records, progress.note)
  stream = loaded.stream(inputs, batch_size=options.batch_size, bad_records=bad_records)
  images = [Ranked(each.name, each.top(options.top)) for each in _shown(stream, len(inputs), progress)]
  found = _predictions(loaded, images, bad_records)
  show(tables.terminal_text(found))
  for file, text in ((options.json, tables.to_json), (options.csv, tables.to_csv)):
    if file:
      _write(file, text(found))
  if options.out:
    _write_page(options.out, found, loaded, inputs)


def _predictions(loaded: Loaded, images: Sequence[Ranked], bad_records: BadRecords) -> Predictions:
  if not images:
    raise DataError("no image can be read; give at least one readable image")
  return Predictions(
    loaded.path,
    call(config_lib.plain(loaded.spec)),
    calls(loaded.preprocess.transforms),
    loaded.preprocess.image_shape,
    len(loaded.classes),
    images,
    tuple(bad_records.found.values()),
  )


def _shown(stream: Iterable[Prediction], total: int, progress: Progress) -> Iterator[Prediction]:
  """Yields the same predictions, and updates the status line."""
  progress.title = "predict"
  progress.expect(total)
  start, reported = time.perf_counter(), 0
  for done, prediction in enumerate(stream, start=1):
    yield prediction
    elapsed = time.perf_counter() - start
    if elapsed > 1 and done - reported >= _EVERY:
      progress.advance(done - reported, f"image {done} of {total}", images_per_second=done / elapsed)
      reported = done
  progress.close()


def _write_page(out: Path, found: Predictions, loaded: Loaded, inputs: Sequence[Input]) -> None:
  from jaxtl.inference import page

  by_name = {each.name: each for each in inputs}
  # The images are read again: a long list does not fit into memory.
  cards = [
    page.Card(loaded.preprocess.decoded(by_name[image.name].raw(loaded.preprocess)), image)
    for image in itertools.islice(found.images, page.MOST_CARDS)
  ]
  write_folder(out, page.files(found, cards))
  show(f"page: {out / 'index.html'}")


def _check_outputs(options: argparse.Namespace) -> None:
  """Refuses, before any work is done, outputs that exist or cannot be written."""
  if options.out:
    check_new_folder(options.out)
  for file in filter(None, (options.json, options.csv)):
    check_new_file(file)
  if options.json and options.json == options.csv:
    raise InputError(f"--json and --csv are both {options.json}; give two files")


def _write(file: Path, text: str) -> None:
  try:
    write_atomically(file, text)
  except OSError as error:
    raise cannot_write(file, error) from error
  show(f"wrote {file}")
