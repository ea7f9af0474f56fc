"""`exit_reason.json`: why the last run in a folder ended, for whatever starts the next."""

from __future__ import annotations

import datetime
import json
import os
import socket
from pathlib import Path

NAME = "exit_reason.json"


def of_process(name: str, process: int) -> str:
  """A file's name for one of several processes: as it is for the first, with its number for the others."""
  return name if process == 0 else f"{Path(name).stem}.{process}{Path(name).suffix}"


def write(folder: Path | None, *, code: int, reason: str, process: int = 0) -> None:
  """Puts the reason on record; a folder that no run has claimed is left alone.

  Args:
    folder: of the run; None writes nothing.
    code: the exit code.
    reason: one line.
    process: the number of this process.
  """
  if folder is None or not (folder / "config.json").exists():
    return
  now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
  record = {"code": code, "reason": reason, "time": now, "host": socket.gethostname(), "process": process}
  path = folder / of_process(NAME, process)
  # Renamed, so that nobody reads half of it. Not synced: a disk that hangs may be what ends the run, which
  # must not wait for it here. After a power cut there may be no reason.
  temporary = path.with_name(f".{path.name}.{os.getpid()}")
  temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
  temporary.replace(path)
