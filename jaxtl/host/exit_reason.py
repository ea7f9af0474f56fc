"""`exit_reason.json`: records why the last run in a folder ended, for whatever starts the next one."""

from __future__ import annotations

import datetime
import json
import os
import socket
from pathlib import Path

NAME = "exit_reason.json"


def of_process(name: str, process: int) -> str:
  """Returns a file name for one of several processes: unchanged for the first, numbered for the others."""
  return name if process == 0 else f"{Path(name).stem}.{process}{Path(name).suffix}"


def write(folder: Path | None, *, code: int, reason: str, process: int = 0) -> None:
  """Records the reason; a folder that no run has claimed is left alone.

  Args:
    folder: the folder of the run; None writes nothing.
    code: the exit code.
    reason: one line.
    process: the index of this process.
  """
  if folder is None or not (folder / "config.json").exists():
    return
  now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
  record = {"code": code, "reason": reason, "time": now, "host": socket.gethostname(), "process": process}
  path = folder / of_process(NAME, process)
  # The rename prevents readers from seeing half a file. There is no sync: a hanging disk may be what ends the
  # run, which must not wait for it here. After a power cut the reason may be missing.
  temporary = path.with_name(f".{path.name}.{os.getpid()}")
  temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
  temporary.replace(path)
