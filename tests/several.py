"""The command line in processes of its own, one or two that work together, for tests that kill them."""

from __future__ import annotations

import dataclasses
import os
import pprint
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import pytest

from jaxtl import train
from jaxtl.checkpoints import manifest
from jaxtl.errors import DataError
from jaxtl.train import Experiment, Runtime
from tests.small_training import tiny_config

ROOT = Path(__file__).resolve().parents[1]


@dataclasses.dataclass(frozen=True)
class Paced:
  """A run that can be interrupted in its middle.

  Attributes:
    experiment: what is trained.
    pause: seconds that pass after every step.
    stuck: the step after which the last process does nothing any more.
    fail: the step after which the last process finds its data damaged, and no other does.
  """

  experiment: Experiment
  pause: float = 0.0
  stuck: int | None = None
  fail: int | None = None


def rows(study: Paced, *, seed: int, workdir: Path, runtime: Runtime) -> Iterator[dict[str, Any]]:
  """A study that trains, and says where it ended."""

  def observe(state: Any) -> dict[str, float]:
    wait_here(study, int(state.step))
    return {}

  trained = train.run(
    study.experiment,
    seed=seed,
    runtime=runtime,
    workdir=workdir,
    observers={"pace": (1, lambda program: observe)},
  )
  yield {"steps": trained.total_steps}


def wait_here(study: Paced, step: int) -> None:
  """What slows a run down, and what it hangs in."""
  time.sleep(study.pause)
  if jax.process_index() != int(os.environ.get("JAXTL_TEST_VICTIM", jax.process_count() - 1)):
    return
  if step == study.stuck:
    time.sleep(3600)
  if step == study.fail:
    raise DataError("one process alone cannot read its data")


def never_opens() -> Any:
  """A source whose disk does not answer."""
  time.sleep(3600)


def write_config(
  path: Path, *, pause: float = 0.0, stuck: int | None = None, fail: int | None = None, **changes: Any
) -> Path:
  """A study of one arm and one seed; see `Paced`."""
  experiment = tiny_config(**{"evaluation": {}, **changes})
  base = dict(experiment=experiment, pause=pause, stuck=stuck, fail=fail)
  study = dict(study="tests.several.rows", seeds=[0], base=base, arms=dict(arm={}))
  path.write_text(f"def get_config():\n  return {pprint.pformat(study)}\n", encoding="utf-8")
  return path


def free_port(host: str = "127.0.0.1") -> int:
  """One that nobody listens at; the test skips where there is no such host, as IPv6 may be off."""
  bare = host.strip("[]")
  try:
    with socket.socket(socket.AF_INET6 if ":" in bare else socket.AF_INET) as probe:
      probe.bind((bare, 0))
      return probe.getsockname()[1]
  except OSError as error:
    pytest.skip(f"needs the address {host}, which is not here: {error.strerror}")


@dataclasses.dataclass
class Started:
  """A command that runs; its output is in a file."""

  process: subprocess.Popen[str]
  log: Path

  @property
  def text(self) -> str:
    return self.log.read_text(encoding="utf-8", errors="replace")

  def finish(self, *, seconds: float = 120.0) -> int:
    """Its exit code; a command that does not end is killed, and fails the test."""
    try:
      return self.process.wait(seconds)
    except subprocess.TimeoutExpired:
      self.kill()
      raise AssertionError(f"still running after {seconds} s:\n{self.text[-3000:]}") from None

  def kill(self) -> None:
    """SIGKILL, for it and whatever it started."""
    try:
      os.killpg(self.process.pid, signal.SIGKILL)
    except ProcessLookupError:
      return
    self.process.wait()

  def until(self, condition: Callable[[], Any], *, seconds: float = 120.0) -> None:
    """Waits until the condition holds, for as long as the command runs."""
    end = time.monotonic() + seconds
    while not condition():
      assert self.process.poll() is None, f"ended early with {self.process.returncode}:\n{self.text[-3000:]}"
      assert time.monotonic() < end, f"waited {seconds} s:\n{self.text[-3000:]}"
      time.sleep(0.02)


def start(
  *arguments: Any, log: Path, env: Mapping[str, str] | None = None, program: Sequence[str] = ("-m", "jaxtl")
) -> Started:
  """Starts `jaxtl` with the arguments, in a process group of its own."""
  path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
  with log.open("a", encoding="utf-8") as file:
    process = subprocess.Popen(
      [sys.executable, *program, *map(str, arguments)],
      cwd=ROOT,
      env={**os.environ, "PYTHONPATH": path, **(env or {})},
      stdout=file,
      stderr=subprocess.STDOUT,
      text=True,
      start_new_session=True,
    )
  return Started(process, log)


def start_pair(
  config: Path | Sequence[Path], workdir: Path, *arguments: Any, devices: int = 4, port: int | None = None
) -> list[Started]:
  """Two processes of one run over loopback, with as many virtual devices each."""
  port = port or free_port()
  configs = [config, config] if isinstance(config, Path) else list(config)
  workdir.parent.mkdir(parents=True, exist_ok=True)
  return [
    start(
      *("run", one, "--workdir", workdir, "--no-report", "--cpu-devices", devices),
      *("--coordinator", f"127.0.0.1:{port}", "--num-processes", 2, "--process-id", number, *arguments),
      log=workdir.parent / f"{workdir.name}.{number}.log",
    )
    for number, one in enumerate(configs)
  ]


def steps_of(workdir: Path) -> list[int]:
  """The steps of a run's checkpoints that are complete, oldest first."""
  folder = workdir / "arm" / "0" / "checkpoints"
  return sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal())


def digests(workdir: Path, step: int | None = None) -> dict[str, str | None]:
  """Path of each array -> its SHA-256, of a run's newest step or of one; the step's files are verified."""
  folder = workdir / "arm" / "0" / "checkpoints" / str(steps_of(workdir)[-1] if step is None else step)
  return {path: leaf.sha256 for path, leaf in manifest.verify_files(folder).leaves.items()}
