"""The data of an experiment: sources, transforms and batch sizes as a config gives them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from jaxtl import config as config_lib
from jaxtl import data as data_lib
from jaxtl.config import Spec
from jaxtl.train import sharding


@dataclasses.dataclass(frozen=True)
class Data:
  """A source with its transforms.

  Attributes:
    source: makes a source of examples.
    transforms: functions (example[, seed]) -> example, in order.
    batch_transforms: functions (batch, seed) -> batch: mixup, cutmix, one_of_batch.
    batch_size: the global batch, over all devices and processes.
    max_bad_records: number of unreadable images to skip, each reported once, before the run stops.
    num_examples, num_classes: what the source is expected to hold. A source that differs is refused; `jaxtl
      check` needs no data if they are given.
  """

  source: Spec
  transforms: tuple[Spec, ...] = ()
  batch_transforms: tuple[Spec, ...] = ()
  batch_size: int = 128
  max_bad_records: int = 0
  num_examples: int | None = None
  num_classes: int | None = None

  def __post_init__(self) -> None:
    config_lib.require(
      batch_size=(self.batch_size, self.batch_size >= 1, "at least 1"),
      max_bad_records=(self.max_bad_records, self.max_bad_records >= 0, "0 or more"),
    )


def check_transforms(data: Data) -> set[str]:
  """Makes the transforms and checks their settings and their order, without opening the data.

  Returns:
    What they give a batch; see `data.check_transforms`.

  Raises:
    ConfigError: a setting is out of its range, or two of the transforms do not go together.
  """
  made = [[spec.realize() for spec in specs] for specs in (data.transforms, data.batch_transforms)]
  return data_lib.check_transforms(*made, rows=data.batch_size // jax.process_count())


def all_data(value: Any, *, at: str = "") -> Iterator[tuple[str, Data]]:
  """Yields every `Data` inside a study or experiment, with the path to it."""
  if isinstance(value, Data):
    yield at, value
  elif dataclasses.is_dataclass(value) and not isinstance(value, (type, Spec)):
    for field in dataclasses.fields(value):
      yield from all_data(getattr(value, field.name), at=f"{at}.{field.name}".lstrip("."))
  elif isinstance(value, Mapping):
    for key, item in value.items():
      yield from all_data(item, at=f"{at}.{key}".lstrip("."))


def check_batch_sizes(study: Any, mesh: Any) -> None:
  """Refuses a study with a batch anywhere that does not split evenly over the devices."""
  for at, data in all_data(study):
    sharding.check_batch_size(data.batch_size, mesh, at=f"{at}.batch_size")
