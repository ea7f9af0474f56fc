"""Metrics on disk: a file of JSON lines, and TensorBoard events."""

from __future__ import annotations

import abc
import contextlib
import errno
import socket
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtl.host import sealed_json
from jaxtl.host.files import write_atomically
from jaxtl.host.processes import is_first_process


class MetricsWriter:
  """Writes `metrics.jsonl`, one line per record with its digest, and TensorBoard events.

  A resumed run first drops the records beyond the step from which it resumes, so that the files always
  describe one uninterrupted run. A full disk or a missing folder does not stop the run. It is reported once,
  and the file is rewritten in full as soon as that is possible again.

  Args:
    folder: where to write; None keeps the records in memory. Only process 0 writes.
    start_step: the step from which the run resumes.
    note: receives a line if records cannot be written.

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
        note(f"{folder / 'metrics.jsonl'}: {old} lines have no digest and are used unverified")
      if lost:
        note(f"{folder / 'metrics.jsonl'}: {lost} lines are truncated or damaged and are skipped")
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
    """Appends a record to a file, or rewrites the file if `record` is None or the file is broken."""
    try:
      if record is None or sink.broken:
        sink.rewrite(self.records)
      else:
        sink.append(record)
      sink.broken = False
    except OSError as error:
      if not sink.broken:
        self._note(f"metrics cannot be written to {sink.path}: {error.strerror or error}; the run continues")
      sink.broken = True


class _Sink(abc.ABC):
  """A file of records, which is rewritten from all of them or extended by one."""

  def __init__(self, path: Path):
    self.path = path
    self.broken = False
    self._file: Any = None

  @abc.abstractmethod
  def rewrite(self, records: Sequence[Mapping[str, float]]) -> None:
    """Rewrites the file from all records."""

  @abc.abstractmethod
  def append(self, record: Mapping[str, float]) -> None:
    """Appends a record to the file."""

  def close(self) -> None:
    with contextlib.suppress(OSError):
      if self._file is not None:
        self._file.close()
    self._file = None


class _Lines(_Sink):
  def rewrite(self, records: Sequence[Mapping[str, float]]) -> None:
    self.close()
    write_atomically(self.path, "".join(sealed_json.line(record) for record in records))
    self._file = self.path.open("a", encoding="utf-8")

  def append(self, record: Mapping[str, float]) -> None:
    if not self.path.exists():
      raise FileNotFoundError(errno.ENOENT, "it no longer exists", str(self.path))
    self._file.write(sealed_json.line(record))
    self._file.flush()


class _Events(_Sink):
  """TensorBoard's format, written synchronously.

  A background thread that dies because of a full disk would block the run. A file that is rewritten keeps the
  times of the points that it had, from which TensorBoard draws its axes of time.
  """

  def rewrite(self, records: Sequence[Mapping[str, float]]) -> None:
    from tensorboardX.record_writer import RecordWriter

    self.close()
    self.path.mkdir(parents=True, exist_ok=True)
    times: dict[tuple[int, str], float] = {}
    for old in sorted(self.path.glob("events.out.tfevents.*")):
      times |= _wall_times(old)
      old.unlink()
    self._file = RecordWriter(
      str(self.path / f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}")
    )
    for record in records:
      self._write(record, times)
    self._file.flush()

  def append(self, record: Mapping[str, float]) -> None:
    if not self.path.exists():
      raise FileNotFoundError(errno.ENOENT, "it no longer exists", str(self.path))
    self._write(record, {})
    self._file.flush()

  def _write(self, record: Mapping[str, float], times: Mapping[tuple[int, str], float]) -> None:
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.summary import scalar

    step = int(record["step"])
    for name, value in record.items():
      if name != "step":
        summary = scalar(name, value)
        wall_time = times.get((step, summary.value[0].tag), time.time())
        self._file.write(Event(wall_time=wall_time, step=step, summary=summary).SerializeToString())


def _wall_times(path: Path) -> dict[tuple[int, str], float]:
  """Reads when each point of an event file was written.

  The file may be truncated or damaged; what follows the first damage is left out.

  Returns:
    (step, tag) -> seconds since 1970.
  """
  from google.protobuf.message import DecodeError
  from tensorboardX.proto.event_pb2 import Event
  from tensorboardX.record_writer import masked_crc32c

  times: dict[tuple[int, str], float] = {}
  data = path.read_bytes()
  start = 0
  while len(data) >= start + 16:
    (length,) = struct.unpack_from("<Q", data, start)
    body = data[start + 12 : start + 12 + length]
    checksum = data[start + 12 + length : start + 16 + length]
    if len(checksum) < 4 or struct.unpack("<I", checksum)[0] != masked_crc32c(body):
      break
    try:
      event = Event.FromString(body)
    except DecodeError:
      break
    times |= {(event.step, value.tag): event.wall_time for value in event.summary.value}
    start += 16 + length
  return times


def _read_records(path: Path) -> tuple[list[dict[str, float]], int, int]:
  """Reads the records of a file.

  A writer that was killed may have left half a line.

  Returns:
    The records, the number of lines that are not records, and the number of records without a digest.
  """
  if not path.exists():
    return [], 0, 0
  found: list[dict[str, float]] = []
  lost = old = 0
  for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
    try:
      record = sealed_json.record(line) if line.strip() else None
    except ValueError:
      lost += 1
      continue
    if record is not None and record in found[-1:]:
      lost += 1  # the same line twice
    elif record is not None:
      found.append(record)
      old += sealed_json.MARK not in line
  # Lines may have been reordered. The sort is stable, so a step's training and evaluation records keep their
  # order.
  return sorted(found, key=lambda record: record["step"]), lost, old
