"""Time that a piece of work takes over all its sessions."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from jaxtl.host import processes, sealed_json
from jaxtl.host.files import write_atomically


class Stopwatch:
  """Measures the seconds since it was made, plus those that earlier sessions stored.

  A session that is killed loses what it measured after its last `store`.

  Args:
    path: the file of the stored seconds. A damaged file counts as none.
  """

  def __init__(self, path: Path):
    self._path = path
    self._earlier = processes.from_first(lambda: _stored(path))
    self._began = time.monotonic()

  @property
  def seconds(self) -> float:
    return self._earlier + time.monotonic() - self._began

  def store(self) -> None:
    """Writes the seconds so far; a disk that is full does not stop the work."""
    if processes.is_first_process():
      with contextlib.suppress(OSError):
        write_atomically(self._path, sealed_json.text({"seconds": self.seconds}))


def _stored(path: Path) -> float:
  try:
    return float(sealed_json.read(path)["seconds"]) if path.exists() else 0.0
  except (ValueError, KeyError, TypeError):
    return 0.0
