"""The environment of a run, and the data that the run reads in it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import jax
import numpy as np

from jaxtl import config as config_lib
from jaxtl import data as data_lib
from jaxtl.errors import DataError
from jaxtl.host.interruption import Watchdog
from jaxtl.host.progress import Progress
from jaxtl.train.inputs import Data

T = TypeVar("T")


class Stops(Protocol):
  """A source of the decision to save and stop after a step; it is the same on every process."""

  def due(self, step: int) -> bool: ...


@dataclasses.dataclass
class Runtime:
  """The environment of a run; nothing here changes what is learned.

  Attributes:
    mesh: the devices.
    data_dir: the folder below which sources look for their files.
    progress: the status line.
    quarantine: file that lists unreadable images, with one JSON object for each; None lists none.
    interruption: decides whether to stop; None never stops.
    watchdog: ends a run that hangs; None waits forever.
    trust: imports anything that a checkpoint's config names, not only parts of the library.
    sources, bad_records, shapes, notes: caches of the opened data, and the notes made about them.
    tells_left_out: whether to note which files of a folder are not used.
  """

  mesh: Any
  data_dir: str | None = None
  progress: Progress = dataclasses.field(default_factory=Progress)
  trust: bool = False
  quarantine: Path | None = None
  interruption: Stops | None = None
  watchdog: Watchdog | None = None
  sources: dict[str, Any] = dataclasses.field(default_factory=dict)
  bad_records: dict[str, Any] = dataclasses.field(default_factory=dict)
  shapes: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
  notes: set[str] = dataclasses.field(default_factory=set)
  tells_left_out: bool = True

  def stop_due(self, step: int) -> bool:
    """Returns whether the run is to save and stop after this step."""
    return self.interruption is not None and self.interruption.due(step)

  def beat(self) -> None:
    """Tells the watchdog that there is progress."""
    if self.watchdog is not None:
      self.watchdog.beat()

  def watched(self) -> contextlib.AbstractContextManager[None]:
    """Returns the context in which the watchdog expects beats."""
    return contextlib.nullcontext() if self.watchdog is None else self.watchdog.watching()

  def moving(self, items: Iterable[T]) -> Iterable[T]:
    """Returns the same items, which can be iterated repeatedly; each one is a beat for the watchdog."""
    return _Moving(items, self.beat)

  def open(self, data: Data) -> Any:
    """Opens the source of `data`, once per run."""
    name = json.dumps(config_lib.plain(data.source), sort_keys=True)
    if name not in self.sources:
      self.sources[name] = data.source.realize(data_dir=self.data_dir)
      data_lib.need_two_classes(self.sources[name].classes, name=self.sources[name].name)
      self.note_left_out(self.sources[name])
      self.beat()
    source = self.sources[name]
    for what, found, expected in (
      ("examples", len(source), data.num_examples),
      ("classes", len(source.classes), data.num_classes),
    ):
      if expected is not None and found != expected:
        raise DataError(f"{source.name} holds {found} {what}; the config says num_{what} = {expected}")
    return source

  def note_left_out(self, source: Any) -> None:
    """Notes once which files of a source's folder are not used."""
    line = data_lib.left_out_line(source)
    if self.tells_left_out and line is not None and line not in self.notes:
      self.notes.add(line)
      self.progress.note(line)

  def unreadable(self, data: Data) -> Any:
    """Returns the budget of unreadable images of a source, shared by all that read it."""
    name = json.dumps(config_lib.plain(data.source), sort_keys=True)
    if name not in self.bad_records:
      self.bad_records[name] = data_lib.BadRecords(
        data.max_bad_records, self.progress.note, quarantine=self.quarantine
      )
    return self.bad_records[name]

  def list_unreadable(self) -> None:
    """Lists unreadable images that were found before the run had its folder."""
    for found in self.bad_records.values():
      found.write_list()

  def train_batches(self, data: Data, *, seed: int, start_step: int) -> Iterator[Mapping[str, np.ndarray]]:
    """Returns the endless stream of training batches, from any step on."""
    return self._endless(data_lib.train_batches, data, data.batch_size, seed, start_step)

  def first_batches(self, data: Data, *, seed: int, num_batches: int) -> Iterable[Mapping[str, np.ndarray]]:
    """Returns the first training batches, which can be iterated repeatedly."""
    first = data_lib.first_batches(
      self.open(data),
      num_batches=num_batches,
      batch_size=data.batch_size,
      seed=seed,
      **self._stream_options(data),
    )
    return self.moving(first)

  def resampled_batches(
    self, data: Data, *, batch_size: int, seed: int, start_step: int
  ) -> Iterator[Mapping[str, np.ndarray]]:
    """Returns the endless stream of batches with every row drawn independently, with replacement."""
    return self._endless(data_lib.resampled_batches, data, batch_size, seed, start_step)

  def _endless(
    self, stream: Callable[..., Iterator[Any]], data: Data, batch_size: int, seed: int, start_step: int
  ) -> Iterator[Mapping[str, np.ndarray]]:
    return stream(
      self.open(data), batch_size=batch_size, seed=seed, start_step=start_step, **self._stream_options(data)
    )

  def _stream_options(self, data: Data) -> dict[str, Any]:
    """Returns the keywords that every training stream of `data` takes."""
    return {
      "transforms": [spec.realize() for spec in data.transforms],
      "batch_transforms": [
        spec.realize(num_classes=len(self.open(data).classes)) for spec in data.batch_transforms
      ],
      "shard": (jax.process_index(), jax.process_count()),
      "bad_records": self.unreadable(data),
    }

  def image_shape(self, data: Data) -> tuple[int, ...]:
    """Returns (H, W, 3) of the images that a model sees in training, cached; see `data.image_shape`."""
    name = json.dumps(config_lib.plain(data), sort_keys=True)
    if name not in self.shapes:
      self.shapes[name] = data_lib.image_shape(
        self.open(data), batch_size=data.batch_size, **self._stream_options(data)
      )
    return self.shapes[name]

  def eval_batches(self, data: Data, *, seed: int = 0) -> Iterable[Mapping[str, np.ndarray]]:
    """Returns the batches of exactly one pass, padded to fixed shapes; `seed` is for transforms that draw."""
    return self.eval_batches_of(self.open(data), data, seed=seed)

  def eval_batches_of(self, source: Any, data: Data, *, seed: int = 0) -> Iterable[Mapping[str, np.ndarray]]:
    """Returns the batches of one pass, as `eval_batches`, over a part of the source of `data`."""
    batches = data_lib.eval_batches(
      source,
      [spec.realize() for spec in data.transforms],
      batch_size=data.batch_size,
      seed=seed,
      shard=(jax.process_index(), jax.process_count()),
      bad_records=self.unreadable(data),
    )
    return self.moving(batches)


@dataclasses.dataclass(frozen=True)
class _Moving(Generic[T]):
  items: Iterable[T]
  beat: Callable[[], None]

  def __iter__(self) -> Iterator[T]:
    for item in self.items:
      self.beat()
      yield item
