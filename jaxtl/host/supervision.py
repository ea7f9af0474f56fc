"""A process of several is watched by one that does nothing else.

When a peer dies, JAX's service ends the others by SIGABRT, which no Python code can turn into an exit code
(jaxlib 0.10.2 throws `std::bad_cast` for a callback of one's own). So the process that was started runs the
command again as its child, passes signals on, and says 42 where the child died rather than ended.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from jaxtl.errors import Restart
from jaxtl.host import exit_reason, signals, streams

CHILD = "JAXTL_SUPERVISED"
_WATCHER = "JAXTL_WATCHER"  # its process id
_PR_SET_PDEATHSIG = 1
# How JAX's log lists lost processes by their numbers, and phrases that it has when one is lost.
_UNHEALTHY = re.compile(r"tasks are unhealthy[^\n]*\n((?:\d+\n)+)")
_TIMED_OUT = re.compile(r"Task (\d+) heartbeat timeout")
_OF_PEERS = ("leader task", "coordination service", "distributed service detected fatal errors")


def is_child() -> bool:
  """Whether this process is watched already."""
  return CHILD in os.environ


def is_first_child() -> bool:
  """Whether this process is watched, and is process 0 of its run."""
  return os.environ.get(CHILD) == "0"


def may_be_a_peers(error: BaseException | None) -> bool:
  """Whether an error may be what a process sees of a peer that is gone.

  It is one of JAX's runtime, or comes of one; or, where a collective is called for the first time, a
  ValueError with its text.
  """
  while error is not None:
    if type(error).__name__ == "JaxRuntimeError" or "Gloo " in str(error):
      return True
    error = error.__cause__ or error.__context__
  return False


def end_with_watcher() -> None:
  """Linux: a child is killed along with its watcher, which could not tell it to stop any more."""
  watcher = os.environ.pop(_WATCHER, None)  # what this process starts is not watched
  if watcher is None or sys.platform != "linux":
    return
  ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
  if os.getppid() != int(watcher):  # it was killed before that
    os.kill(os.getpid(), signal.SIGKILL)


def run(arguments: Sequence[str], *, folder: Path, process: int, num_processes: int | None = None) -> int:
  """Runs `jaxtl` with the arguments as a child, and returns the exit code to end with.

  Args:
    arguments: of the command line.
    folder: of the run, where the reason is put on record if the child could not.
    process: the number of this process among those of the run.
    num_processes: how many those are; None if not known.
  """
  passed_on = signals.PassedOn()  # first, so that no signal finds this process without an ear
  child = subprocess.Popen(
    [sys.executable, "-m", "jaxtl", *arguments],
    env={**os.environ, CHILD: str(process), _WATCHER: str(os.getpid())},
    stderr=subprocess.PIPE,
    text=True,
    errors="replace",
  )
  last: collections.deque[str] = collections.deque(maxlen=200)
  assert child.stderr is not None
  reader = threading.Thread(target=_pass_on, args=(child.stderr, last), daemon=True)
  reader.start()
  code = passed_on.wait(child)  # not restored: nothing may end this process with another code
  reader.join(timeout=5)
  if code >= 0:
    return code
  lost = lost_peer("".join(last), process=process, num_processes=num_processes)
  reason = f"{lost}; the process was killed by {signal.Signals(-code).name}"
  with contextlib.suppress(OSError):  # the disk may be full, and the code must be right
    exit_reason.write(folder, code=Restart.code, reason=reason, process=process)
  print(
    f"jaxtl: {reason}; the same command resumes from the last checkpoint",
    file=streams.Forgiving(sys.stderr),
    flush=True,
  )
  return Restart.code


def lost_peer(log: str, *, process: int, num_processes: int | None = None) -> str:
  """Says which peer was lost, from the end of a process's log; never the process itself.

  JAX ends a process as soon as one thread notices a loss, perhaps before another has logged whose it is.

  Args:
    log: its last lines.
    process, num_processes: the process that wrote it, and how many there are.
  """
  listed = [number for lines in _UNHEALTHY.findall(log) for number in lines.split()]
  numbers = {int(number) for number in (*listed, *_TIMED_OUT.findall(log))} - {process}
  if numbers:
    return f"process {', '.join(map(str, sorted(numbers)))} of this run was lost"
  if not any(words in log for words in _OF_PEERS):
    return "it died"
  if process != 0:
    return "process 0 of this run, the coordinator, was lost"
  return f"{'process 1' if num_processes == 2 else 'another process'} of this run was lost"


def _pass_on(stream: IO[str], last: collections.deque[str]) -> None:
  stderr = streams.Forgiving(sys.stderr)  # even if it is gone, the pipe must be read: the child would wait
  for line in stream:
    last.append(line)
    stderr.write(line)
    stderr.flush()
