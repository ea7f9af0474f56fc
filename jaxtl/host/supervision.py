"""Supervises one process of several from a parent that does nothing else.

When a peer dies, JAX's service ends the others by SIGABRT, which no Python code can turn into an exit code
(jaxlib 0.10.2 throws `std::bad_cast` for a user-defined callback). Therefore the process that was started
runs the command again as its child and forwards signals to it. If a signal kills the child, the parent exits
with 42.
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
_WATCHER = "JAXTL_WATCHER"  # process id of the watcher
_PR_SET_PDEATHSIG = 1
# How JAX's log lists lost processes by number, and phrases that it contains when one is lost.
_UNHEALTHY = re.compile(r"tasks are unhealthy[^\n]*\n((?:\d+\n)+)")
_TIMED_OUT = re.compile(r"Task (\d+) heartbeat timeout")
_OF_PEERS = ("leader task", "coordination service", "distributed service detected fatal errors")


def is_child() -> bool:
  """Returns whether this process is already supervised."""
  return CHILD in os.environ


def is_first_child() -> bool:
  """Returns whether this process is supervised and is process 0 of its run."""
  return os.environ.get(CHILD) == "0"


def may_be_a_peers(error: BaseException | None) -> bool:
  """Returns whether an error may be the symptom of a lost peer.

  Such an error is one of JAX's runtime, or has one as its cause. On the first call of a collective it is a
  ValueError with the text of such an error.
  """
  while error is not None:
    if type(error).__name__ == "JaxRuntimeError" or "Gloo " in str(error):
      return True
    error = error.__cause__ or error.__context__
  return False


def end_with_watcher() -> None:
  """On Linux, kills a child along with its watcher, which could no longer tell the child to stop."""
  watcher = os.environ.pop(_WATCHER, None)  # processes that this one starts are not supervised
  if watcher is None or sys.platform != "linux":
    return
  ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
  if os.getppid() != int(watcher):  # the watcher was killed before the call above
    os.kill(os.getpid(), signal.SIGKILL)


def run(arguments: Sequence[str], *, folder: Path, process: int, num_processes: int | None = None) -> int:
  """Runs `jaxtl` with the arguments as a child, and returns the exit code to end with.

  Args:
    arguments: the arguments of the command line.
    folder: the folder of the run, where the reason is recorded if the child could not record it.
    process: the index of this process among those of the run.
    num_processes: the number of processes; None if unknown.
  """
  passed_on = signals.PassedOn()  # first, so that no signal arrives before there is a handler
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
  with contextlib.suppress(OSError):  # the disk may be full, and the exit code must still be right
    exit_reason.write(folder, code=Restart.code, reason=reason, process=process)
  print(
    f"jaxtl: {reason}; the same command resumes from the last checkpoint",
    file=streams.Forgiving(sys.stderr),
    flush=True,
  )
  return Restart.code


def lost_peer(log: str, *, process: int, num_processes: int | None = None) -> str:
  """Names the lost peer from the end of a process's log; never the process itself.

  JAX ends a process as soon as one thread notices a loss, which may be before another has logged the peer.

  Args:
    log: its last lines.
    process, num_processes: the index of the process that wrote it, and the number of processes.
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
  stderr = streams.Forgiving(sys.stderr)  # read the pipe even if stderr is gone, or the child would block
  for line in stream:
    last.append(line)
    stderr.write(line)
    stderr.flush()
