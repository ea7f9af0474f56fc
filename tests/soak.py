"""A run that is killed, stopped, asked to end, and robbed of its files, until it is done; and the next one.

Whatever happened, its last checkpoint and its metrics must be those of a run that nothing happened to, bit
for bit. `python -m tests.soak --minutes N [--seed S]` goes on for as long as asked and prints the counts.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxtl.checkpoints import manifest
from jaxtl.runner import verify_resume
from tests.several import Started, digests, start, start_pair, steps_of, write_config

STEPS = 24
# Seconds for two processes to come together: one that is hit before that is waited for so long.
GATHER = 60
DAMAGES: dict[str, Callable[[bytes, random.Random], bytes | None]] = {
  "bit": lambda data, rng: _flipped(data, rng.randrange(len(data))),
  "half": lambda data, rng: data[: len(data) // 2],
  "gone": lambda data, rng: None,
}


def config(folder: Path) -> Path:
  """Four epochs, a checkpoint after every step: a moving average, and SAM's two passes."""
  return write_config(
    folder / "config.py",
    pause=0.05,
    epochs=STEPS * 16 / 96,
    checkpoint_every=1,
    keep=3,
    gradient=dict(make=".optim.sam", rho=0.05),
    optimizer=dict(make=".optim.sgd", peak_rate=0.1, ema_decay=0.9),
  )


class Victim:
  """One run, started again after every fault.

  Args:
    config: what it runs.
    folder: its working folder, made by it.
    processes: 1, or 2 over loopback.
    rng: decides when and what.

  Attributes:
    faults: name -> how often it was suffered.
  """

  def __init__(self, config: Path, folder: Path, *, processes: int, rng: random.Random):
    self.folder = folder
    self.faults: collections.Counter[str] = collections.Counter()
    self._config = config
    self._processes = processes
    self._rng = rng
    # Step -> the folder that was damaged, by its number in the file system: a run puts another in its place.
    self._damaged: dict[int, int] = {}
    self._before = 0  # the newest step when the processes were started

  def begin(self) -> list[Started]:
    """The run's processes, started."""
    options = ("--hang-limit", 40, "--gather-limit", GATHER)
    if self._processes == 2:
      return start_pair(self._config, self.folder, *options, devices=1)
    self.folder.parent.mkdir(parents=True, exist_ok=True)
    log = self.folder.parent / f"{self.folder.name}.0.log"
    arguments = ("run", self._config, "--workdir", self.folder, "--no-report", "--cpu-devices", 2)
    return [start(*arguments, *options, log=log)]

  def suffer(self, fault: str) -> bool:
    """Starts the run, and does that to it at a random moment; True where the run ended before."""
    before = self._before = self.newest()
    running = self.begin()
    try:
      if self._rng.random() < 0.3:
        self._sleep(self._rng.uniform(0, 8), running)
      else:
        self._progress(running, beyond=before)
        self._sleep(self._rng.uniform(0, 1.5), running)
      if self._over(running):
        return True
      getattr(self, f"_{fault}")(running)
    finally:
      for one in running:
        one.kill()
    self._check_steps(at_least=before)
    if fault == "damage":
      self._damage_newest()
    self.faults[f"{fault}, {self._processes} processes"] += 1
    return False

  def finish(self) -> None:
    """Runs to the end without a fault."""
    running = self.begin()
    codes = [one.finish(seconds=300) for one in running]
    assert codes == [0] * len(running), running[0].text[-4000:]

  def newest(self) -> int:
    """The newest step that has not been damaged."""
    return max(self._whole(), default=0)

  def _kill(self, running: list[Started]) -> None:
    """SIGKILL to one process; the others end by themselves, soon."""
    victim = self._rng.choice(running)
    victim.kill()
    self._others_end(running, victim, seconds=self._patience(30))

  def _terminate(self, running: list[Started]) -> None:
    """SIGTERM to one process: all save, and ask to be started again."""
    started = self.folder.exists()
    self._rng.choice(running).process.send_signal(signal.SIGTERM)
    for one in running:
      code = one.finish(seconds=180)
      # Before it listens to signals a run ends as any program does.
      assert code in (0, 42, -signal.SIGTERM) or not started, (code, one.text[-3000:])

  def _stop(self, running: list[Started]) -> None:
    """SIGSTOP to all of one process: nobody waits for it longer than a heartbeat."""
    victim = self._rng.choice(running)
    os.killpg(victim.process.pid, signal.SIGSTOP)
    self._others_end(running, victim, seconds=self._patience(60))
    victim.kill()

  def _damage(self, running: list[Started]) -> None:
    """SIGKILL to all; what is damaged then, `_damage_newest` decides."""
    for one in running:
      one.kill()

  def _damage_newest(self) -> None:
    """A file of the newest step is changed, cut off or removed, where an older step stays whole."""
    whole = self._whole()
    if len(whole) < 2 or (self.folder / "arm" / "0" / "rows.jsonl").exists():
      return  # nothing to go back to; or done, and nobody will look: that is for `jaxtl ckpt verify`
    folder = self._checkpoint(max(whole))
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    path, kind = self._rng.choice(files), self._rng.choice(list(DAMAGES))
    content = DAMAGES[kind](path.read_bytes(), self._rng)
    if content is None:
      path.unlink()
    else:
      path.write_bytes(content)
    self._damaged[max(whole)] = folder.stat().st_ino
    self.faults[f"damage by {kind}"] += 1

  def _others_end(self, running: list[Started], victim: Started, *, seconds: float) -> None:
    for one in running:
      if one is not victim:
        code = one.finish(seconds=seconds)
        assert code in (42, 0), (code, one.text[-3000:])

  def _patience(self, seconds: float) -> float:
    """How long the others may take to end: a run that has saved something since its start has all of them."""
    return seconds if self.newest() > self._before else seconds + GATHER

  def _check_steps(self, *, at_least: int) -> None:
    """No step with a name is less than whole, and nothing that was saved is lost."""
    for step in self._whole():
      manifest.verify_files(self._checkpoint(step))
    assert self.newest() >= at_least, f"step {at_least} was there, and now the newest is {self.newest()}"

  def _whole(self) -> list[int]:
    """The steps that nobody has damaged."""
    found = []
    for step in steps_of(self.folder):
      with contextlib.suppress(FileNotFoundError):  # the run removes old ones
        if self._damaged.get(step) != self._checkpoint(step).stat().st_ino:
          found.append(step)
    return found

  def _checkpoint(self, step: int) -> Path:
    return self.folder / "arm" / "0" / "checkpoints" / str(step)

  def _progress(self, running: list[Started], *, beyond: int) -> None:
    end = time.monotonic() + 180
    while self.newest() <= beyond and not self._over(running):
      assert time.monotonic() < end, f"no step in 180 s:\n{running[0].text[-3000:]}"
      time.sleep(0.02)

  def _sleep(self, seconds: float, running: list[Started]) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not self._over(running):
      time.sleep(0.01)

  def _over(self, running: list[Started]) -> bool:
    return all(one.process.poll() is not None for one in running)


def outcome(folder: Path) -> tuple[dict[str, str | None], list[dict[str, Any]]]:
  """The digests of the last checkpoint, and the metrics without what is about the machine."""
  return digests(folder, STEPS), verify_resume.records(folder / "arm" / "0")


def leftovers(folder: Path) -> list[str]:
  """What a run that is done should not have left behind."""
  return [str(path) for pattern in ("*.writing*", "*.removing") for path in folder.rglob(pattern)]


def _flipped(data: bytes, at: int) -> bytes:
  return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def main(minutes: float, seed: int) -> None:
  """Prints a line for each run, and the counts at the end; an AssertionError where a run is not the same."""
  rng = random.Random(seed)
  root = Path(tempfile.mkdtemp(prefix="jaxtl-soak-"))
  expected = {}
  for processes in (1, 2):
    whole = Victim(config(root), root / f"whole{processes}", processes=processes, rng=rng)
    whole.finish()
    expected[processes] = outcome(whole.folder)
  counts: collections.Counter[str] = collections.Counter()
  end, number = time.monotonic() + 60 * minutes, 0
  while time.monotonic() < end:
    number += 1
    processes = rng.choice((1, 2))
    victim = Victim(config(root), root / f"run{number}", processes=processes, rng=rng)
    kinds = ("kill", "terminate", "damage", *(["stop"] if processes == 2 else []))
    while time.monotonic() < end and not victim.suffer(rng.choice(kinds)):
      pass
    victim.finish()
    assert outcome(victim.folder) == expected[processes], f"{victim.folder} ended with other numbers"
    assert not leftovers(victim.folder), leftovers(victim.folder)
    counts += victim.faults
    print(f"run {number}: {dict(victim.faults)}, and the same at the end", flush=True)
    shutil.rmtree(victim.folder)
  print(f"{number} runs of {STEPS} steps, {sum(counts.values())} faults in {minutes:g} minutes, seed {seed}")
  for name, count in sorted(counts.items()):
    print(f"{count:5} {name}")


if __name__ == "__main__":
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--minutes", type=float, default=30.0, help="how long (minutes; default: 30)")
  parser.add_argument("--seed", type=int, default=0, help="of the faults (integer; default: 0)")
  options = parser.parse_args()
  main(options.minutes, options.seed)
