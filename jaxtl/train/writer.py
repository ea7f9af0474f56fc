"""Metrics on disk, and the line that tells how a run is going."""

from __future__ import annotations

import abc
import contextlib
import errno
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import rich.console
import rich.progress
from rich.markup import escape

from jaxtl.errors import InputError, StorageError, cannot_write, printable
from jaxtl.streams import Forgiving
from jaxtl.train import stored

# Suffix of damaged files and step folders.
DAMAGED = ".damaged"
_ENOUGH = 5.0  # seconds of steps before a time left is shown


class MetricsWriter:
  """`metrics.jsonl`, one line per record with its digest, and TensorBoard events.

  A resumed run first drops the records beyond the step it resumes from, so that the files always tell one
  uninterrupted run. A disk that is full, or a folder that is gone, stops nothing: it is told once, and the
  file is made whole as soon as that is possible again.

  Args:
    folder: where to write; None keeps the records in memory. Only process 0 writes.
    start_step: the step that the run goes on from.
    note: told when records cannot be written.

  Attributes:
    records: all records of the run, oldest first, each with its `step`.
  """

  def __init__(self, folder: Path | None, *, start_step: int, note: Callable[[str], None] = print):
    self.records: list[dict[str, float]] = []
    self._sinks: list[_Sink] = []
    self._note = note
    if folder is None:
      return
    records, lost, old = _read_records(folder / "metrics.jsonl")
    self.records = [record for record in records if record["step"] <= start_step]
    if is_first_process():
      if old:
        note(f"{folder / 'metrics.jsonl'}: {old} lines have no digest, and are taken as they are")
      if lost:
        note(f"{folder / 'metrics.jsonl'}: {lost} lines are torn or damaged, and are left out")
      self._sinks = [_Lines(folder / "metrics.jsonl"), _Events(folder / "tb")]
    for sink in self._sinks:
      self._put(sink)

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Appends one record."""
    record = {"step": step, **values}
    self.records.append(record)
    for sink in self._sinks:
      self._put(sink, record)

  def close(self) -> None:
    for sink in self._sinks:
      if sink.broken:
        self._put(sink)
      sink.close()

  def _put(self, sink: _Sink, record: Mapping[str, float] | None = None) -> None:
    """Makes a file longer by a record; anew from all of them where there is none, or the file is broken."""
    try:
      if record is None or sink.broken:
        sink.rewrite(self.records)
      else:
        sink.append(record)
      sink.broken = False
    except OSError as error:
      if not sink.broken:
        self._note(f"metrics cannot be written to {sink.path}: {error.strerror or error}; the run goes on")
      sink.broken = True


class _Sink(abc.ABC):
  """A file of records: made anew from all of them, or longer by one."""

  def __init__(self, path: Path):
    self.path = path
    self.broken = False
    self._file: Any = None

  @abc.abstractmethod
  def rewrite(self, records: Sequence[Mapping[str, float]]) -> None:
    """Makes the file anew."""

  @abc.abstractmethod
  def append(self, record: Mapping[str, float]) -> None:
    """Makes the file longer."""

  def close(self) -> None:
    with contextlib.suppress(OSError):
      if self._file is not None:
        self._file.close()
    self._file = None


class _Lines(_Sink):
  def rewrite(self, records: Sequence[Mapping[str, float]]) -> None:
    self.close()
    write_atomically(self.path, "".join(stored.line(record) for record in records))
    self._file = self.path.open("a", encoding="utf-8")

  def append(self, record: Mapping[str, float]) -> None:
    if not self.path.exists():
      raise FileNotFoundError(errno.ENOENT, "it is gone", str(self.path))
    self._file.write(stored.line(record))
    self._file.flush()


class _Events(_Sink):
  """TensorBoard's format, written here and now: a thread that dies of a full disk would block the run."""

  def rewrite(self, records: Sequence[Mapping[str, float]]) -> None:
    from tensorboardX.record_writer import RecordWriter

    self.close()
    self.path.mkdir(parents=True, exist_ok=True)
    for old in self.path.glob("events.out.tfevents.*"):
      old.unlink()
    self._file = RecordWriter(
      str(self.path / f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}")
    )
    for record in records:
      self.append(record)

  def append(self, record: Mapping[str, float]) -> None:
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.summary import scalar

    if not self.path.exists():
      raise FileNotFoundError(errno.ENOENT, "it is gone", str(self.path))
    for name, value in record.items():
      if name != "step":
        event = Event(wall_time=time.time(), step=int(record["step"]), summary=scalar(name, value))
        self._file.write(event.SerializeToString())
    self._file.flush()


class Progress:
  """One status line for a whole run: what runs, how far, how fast, how long it takes yet.

  In a terminal it is a bar that is redrawn; elsewhere a line is printed at most every `interval` seconds. The
  time left is for everything announced with `expect`, measured in image passes. Its speed is that between two
  steps of one part of the run: what comes before the first step of a part, compilation above all, does
  not count. A line that cannot be written is dropped, and the run continues.
  """

  def __init__(self, *, interval: float = 15.0, stream: Any = None):
    self._stream = Forgiving(stream or sys.stderr)
    self._interval = interval
    self._start = time.monotonic()
    self._printed = float("-inf")
    self._done = 0.0
    self._expected = 0.0
    self._last: tuple[str, float] | None = None  # part and time of the step before
    self._measured = self._seconds = 0.0  # work between two steps of one part, and its time
    self._log: Path | None = None
    self._bar = _terminal_bar(self._stream) if self._stream.isatty() else None
    self.title = ""

  def log_to(self, path: Path) -> None:
    """Also appends notes, with their time, to a file."""
    self._log = path

  def expect(self, work: float) -> None:
    """Announces work, in image passes, to the whole run's total."""
    self._expected += work

  def skip(self, work: float) -> None:
    """Takes announced work off the total: it was done by an earlier run."""
    self._expected -= work

  def advance(
    self, work: float, text: str, *, images_per_second: float, waiting: float | None = None
  ) -> None:
    """Counts work as done, and shows where the run is; `waiting` is the share of time spent on data."""
    self._done += work
    now = time.monotonic()
    part = f"{self.title} | {text.partition(' ')[0]}"
    if self._last is not None and self._last[0] == part:
      self._measured += work
      self._seconds += now - self._last[1]
    self._last = part, now
    if self._bar is None and now - self._printed < self._interval:
      return
    self._printed = now
    elapsed = now - self._start
    share = min(self._done / self._expected, 1.0) if self._expected > 0 else 0.0
    left = self._time_left()
    data = "" if waiting is None else f" | data {waiting:.0%}"
    line = (
      f"{self.title} | {text} | {images_per_second:.0f} images/s{data} | {_clock(elapsed)} gone, {left} left"
    )
    if self._bar is None:
      print(f"{share:4.0%} | {printable(line)}", file=self._stream, flush=True)
    else:
      self._bar.start()
      self._bar.update(self._bar.task_ids[0], completed=share, description=escape(printable(line)))

  def _time_left(self) -> str:
    """By the speed so far; a question mark until that has been measured for a while."""
    if self._expected <= 0 or self._measured <= 0 or self._seconds < min(self._interval, _ENOUGH):
      return "?"
    return _clock((self._expected - self._done) * self._seconds / self._measured)

  def note(self, text: str) -> None:
    """A line that stays."""
    text = printable(text)
    if self._bar is None:
      print(text, file=self._stream, flush=True)
    else:
      self._bar.console.print(escape(text), highlight=False)
    if self._log is not None:
      # The note may be about the disk that this is on.
      with contextlib.suppress(OSError), self._log.open("a", encoding="utf-8") as file:
        file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

  def close(self) -> None:
    """Takes the bar away."""
    if self._bar is not None:
      self._bar.stop()


def _terminal_bar(stream: Any) -> rich.progress.Progress:
  columns = (rich.progress.TaskProgressColumn(), rich.progress.BarColumn(20), "{task.description}")
  console = rich.console.Console(file=stream, force_terminal=True)
  bar = rich.progress.Progress(*columns, console=console, transient=True)
  bar.add_task("", total=1.0)
  return bar


def tell(text: str) -> None:
  """Prints a line on standard error, where there is no status line."""
  print(printable(text), file=Forgiving(sys.stderr), flush=True)


def is_first_process() -> bool:
  """Whether this process is the one that writes."""
  return jax.process_index() == 0


def write_atomically(path: Path, text: str) -> None:
  """The whole text or nothing: a file that exists was completely written, whatever killed the writer."""
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f".{path.name}.{os.getpid()}")
  with temporary.open("w", encoding="utf-8") as file:
    file.write(text)
    file.flush()
    os.fsync(file.fileno())
  temporary.replace(path)


def put_aside(path: Path) -> Path:
  """Renames a damaged file or folder, which is never deleted, and returns its new path.

  Raises:
    StorageError: it cannot be renamed.
  """
  aside = next(name for name in _aside(path) if not name.exists())
  try:
    return path.rename(aside)
  except OSError as error:
    what = f"{path} is damaged, and cannot be renamed to {aside.name}"
    raise StorageError(f"{what}: {error.strerror}") from error


def _aside(path: Path) -> Iterator[Path]:
  yield path.with_name(f"{path.name}{DAMAGED}")
  for number in range(2, 1000):
    yield path.with_name(f"{path.name}{DAMAGED}.{number}")


def existing(path: Path) -> Path:
  """The path itself or the nearest folder above it that is there."""
  return next(place for place in (path, *path.absolute().parents) if place.exists())


def check_new_folder(folder: Path) -> None:
  """Refuses, before any work, a folder that `write_folder` could not make.

  Raises:
    InputError: it holds something, or cannot be made.
  """
  if folder.is_dir() and any(folder.iterdir()):
    raise InputError(f"{folder} is not empty; give a folder that does not exist yet")
  there = existing(folder)
  if not there.is_dir() or not os.access(there, os.W_OK):
    reason = "not writable" if there.is_dir() else "a file"
    raise InputError(f"cannot write to {folder}: {there} is {reason}")


def write_folder(folder: Path, files: Mapping[str, str | bytes]) -> None:
  """All the files in a new folder, or nothing: they are written beside it, and then it gets its name.

  Args:
    folder: must not exist, or be empty.
    files: name -> content.

  Raises:
    InputError: the folder holds something, or cannot be made.
    StorageError: the disk is full or fails.
  """
  check_new_folder(folder)
  temporary = folder.absolute().with_name(f".{folder.absolute().name}.{os.getpid()}")
  try:
    temporary.mkdir(parents=True)
    for name, content in files.items():
      (temporary / name).write_bytes(content.encode() if isinstance(content, str) else content)
    temporary.replace(folder)
  except OSError as error:
    raise cannot_write(folder, error) from error
  finally:
    shutil.rmtree(temporary, ignore_errors=True)


def _read_records(path: Path) -> tuple[list[dict[str, float]], int, int]:
  """The records of a file, how many lines are not records, and how many records have no digest.

  A writer that was killed may have left half a line.
  """
  if not path.exists():
    return [], 0, 0
  found: list[dict[str, float]] = []
  lost = old = 0
  for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
    try:
      record = stored.record(line) if line.strip() else None
    except ValueError:
      lost += 1
      continue
    if record is not None and record in found[-1:]:
      lost += 1  # the same line twice
    elif record is not None:
      found.append(record)
      old += stored.MARK not in line
  # Lines may have changed places. Records of one step, of training and evaluation, stay as they are.
  return sorted(found, key=lambda record: record["step"]), lost, old


def _clock(seconds: float) -> str:
  minutes, seconds = divmod(round(max(seconds, 0)), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
