"""The progress line: redrawn on a terminal, repeated in a log."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import rich.progress
from rich.markup import escape

from jaxtl.errors import printable
from jaxtl.host.streams import Forgiving

_ENOUGH = 5.0  # seconds of measured steps before a remaining time is shown


class Progress:
  """One status line for a whole run: the current part, progress, speed and remaining time.

  On a terminal it is a bar that is redrawn. Elsewhere a line is printed at most every `interval` seconds. The
  remaining time covers everything announced with `expect`, measured in image passes. Speed is measured only
  between two steps of the same part of the run. The time before the first step of a part, mostly compilation,
  does not count. A line that cannot be written is dropped, and the run continues.
  """

  def __init__(self, *, interval: float = 15.0, stream: Any = None):
    self._stream = Forgiving(stream or sys.stderr)
    self._interval = interval
    self._start = time.monotonic()
    self._printed = float("-inf")
    self._done = 0.0
    self._expected = 0.0
    self._last: tuple[str, float] | None = None  # part and time of the previous step
    self._measured = self._seconds = 0.0  # work between two steps of the same part, and its time
    self._log: Path | None = None
    self._bar = _terminal_bar(self._stream) if self._stream.isatty() else None
    self.title = ""

  def log_to(self, path: Path) -> None:
    """Also appends notes, with a timestamp, to a file."""
    self._log = path

  def expect(self, work: float) -> None:
    """Adds announced work, in image passes, to the total of the run."""
    self._expected += work

  def skip(self, work: float) -> None:
    """Subtracts announced work that an earlier run has already done."""
    self._expected -= work

  @property
  def left(self) -> float:
    """The announced work that is neither done nor skipped."""
    return self._expected - self._done

  @contextlib.contextmanager
  def counting(self, work: float) -> Iterator[None]:
    """Counts its body as `work`, however much of that the body did, skipped, did twice or gave up."""
    left = self.left
    yield
    self._expected = self._done + left - work

  def advance(
    self, work: float, text: str, *, images_per_second: float, waiting: float | None = None
  ) -> None:
    """Counts work as done and shows the status; `waiting` is the share of time spent on data."""
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
    clock = f"{_clock(elapsed)} elapsed, {left} left"
    line = f"{self.title} | {text} | {images_per_second:.0f} images/s{data} | {clock}"
    if self._bar is None:
      print(f"{share:4.0%} | {printable(line)}", file=self._stream, flush=True)
    else:
      self._bar.start()
      self._bar.update(self._bar.task_ids[0], completed=share, description=escape(printable(line)))

  def _time_left(self) -> str:
    """Estimates the remaining time; returns a question mark until the speed has been measured for a while."""
    if self._expected <= 0 or self._measured <= 0 or self._seconds < min(self._interval, _ENOUGH):
      return "?"
    return _clock((self._expected - self._done) * self._seconds / self._measured)

  def note(self, text: str) -> None:
    """Prints a permanent line."""
    text = printable(text)
    if self._bar is None:
      print(text, file=self._stream, flush=True)
    else:
      self._bar.console.print(escape(text), highlight=False)
    if self._log is not None:
      # The note may be about the disk that holds this file.
      with contextlib.suppress(OSError), self._log.open("a", encoding="utf-8") as file:
        file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

  def close(self) -> None:
    """Removes the bar."""
    if self._bar is not None:
      self._bar.stop()


def _terminal_bar(stream: Any) -> rich.progress.Progress:
  columns = (rich.progress.TaskProgressColumn(), rich.progress.BarColumn(20), "{task.description}")
  console = rich.console.Console(file=stream, force_terminal=True)
  bar = rich.progress.Progress(*columns, console=console, transient=True)
  bar.add_task("", total=1.0)
  return bar


def tell(text: str) -> None:
  """Prints a line to standard error when there is no status line."""
  print(printable(text), file=Forgiving(sys.stderr), flush=True)


def _clock(seconds: float) -> str:
  minutes, seconds = divmod(round(max(seconds, 0)), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def title(workdir: Path) -> str:
  return "/".join(workdir.parts[-3:-1])
