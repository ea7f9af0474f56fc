"""`jaxtl new`: writes a starting config of a study."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Collection
from importlib import resources
from pathlib import Path

from jaxtl.cli.output import show
from jaxtl.errors import DataError, InputError
from jaxtl.host.files import check_new_file, write_atomically


def new(options: argparse.Namespace) -> None:
  """Runs `jaxtl new`: writes a commented config, with the data that --data names."""
  text = template(options.study)
  file = options.file or Path(f"{options.study}.py")
  check_new_file(file)
  if options.data is not None:
    text = with_data(text, options.data)
  file.parent.mkdir(parents=True, exist_ok=True)
  write_atomically(file, text.replace("FILE", str(file)))
  show(f"wrote {file}; next: jaxtl check {file}, then jaxtl run {file}")


def studies() -> list[str]:
  """Returns the names of the studies that have a starting config."""
  folder = resources.files("jaxtl.cli").joinpath("templates")
  return sorted(file.name.removesuffix(".py") for file in folder.iterdir() if file.name.endswith(".py"))


def template(study: str) -> str:
  """Returns the starting config of a study.

  Raises:
    InputError: there is none of that name.
  """
  if study not in studies():
    raise InputError(f"no study {study!r}; expected one of {', '.join(studies())}")
  file = resources.files("jaxtl.cli").joinpath("templates", f"{study}.py")
  return file.read_text(encoding="utf-8")


def with_data(text: str, name: str) -> str:
  """Returns a config whose `DATA`, `TRAIN` and `TEST` are a data set and its splits.

  Args:
    text: a starting config.
    name: the data set, as the `text` of `data.open_source`.

  Raises:
    DataError: the data set does not exist, or has no split to train on or to test on.
  """
  from jaxtl import data as data_lib

  train, test = choose_splits(data_lib.open_source(name), name)
  text = re.sub("^DATA = .*$", lambda _: f"DATA = {json.dumps(name, ensure_ascii=False)}", text, flags=re.M)
  splits = f"TRAIN, TEST = {json.dumps(train)}, {json.dumps(test)}"
  return re.sub("^TRAIN, TEST = .*$", lambda _: splits, text, flags=re.M)


def choose_splits(splits: Collection[str], name: str) -> tuple[str, str]:
  """Returns the split to train on and the one to test on: the test split, or else the validation split.

  Raises:
    DataError: one of them is missing.
  """
  from jaxtl.data.names import splits_of_kind

  trains = splits_of_kind(splits, "train")
  tests = splits_of_kind(splits, "test") or splits_of_kind(splits, "val")
  if not trains or not tests:
    raise DataError(
      f"{name} has the splits {', '.join(splits)}; expected one to train on and one to test on, such as the "
      "folders train and val"
    )
  return min(trains, key=len), min(tests, key=len)
