"""Twenty kills at random moments, and what else ends a single run: each time it goes on as if nothing was."""

import json
import os
import random
import signal
import time

import pytest

from tests import soak
from tests.several import start, steps_of, write_config

pytestmark = pytest.mark.slow


@pytest.fixture
def started():
  """Starts commands; none outlives the test."""
  running = []

  def begin(*arguments, **options):
    running.append(start(*arguments, **options))
    return running[-1]

  yield begin
  for one in running:
    one.kill()


def run_of(config, workdir, *options):
  return ("run", config, "--workdir", workdir, "--no-report", "--cpu-devices", 2, *options)


def reason(workdir):
  return json.loads((workdir / "exit_reason.json").read_text())


@pytest.mark.timeout(900)
def test_twenty_kills_at_random_moments_change_nothing(tmp_path):
  rng = random.Random(20)
  config = soak.config(tmp_path)
  whole = soak.Victim(config, tmp_path / "whole", processes=1, rng=rng)
  whole.finish()
  kills = number = 0
  while kills < 20:
    number += 1
    victim = soak.Victim(config, tmp_path / f"run{number}", processes=1, rng=rng)
    while kills < 20 and not victim.suffer("kill"):
      kills += 1
    victim.finish()
    assert soak.outcome(victim.folder) == soak.outcome(whole.folder)
    assert not soak.leftovers(victim.folder)


def test_sigterm_saves_and_asks_for_a_restart(tmp_path, started):
  config, workdir = write_config(tmp_path / "c.py", pause=0.3, epochs=6.0), tmp_path / "run"
  one = started(*run_of(config, workdir), log=tmp_path / "log")
  one.until(lambda: (workdir / "arm" / "0" / "metrics.jsonl").exists())
  one.process.send_signal(signal.SIGTERM)
  one.process.send_signal(signal.SIGTERM)  # the second changes nothing
  assert one.finish(seconds=30) == 42
  (step,) = steps_of(workdir)
  assert f"stopped after step {step}, which is saved" in one.text
  assert reason(workdir) | {"code": 42, "process": 0} == reason(workdir)
  again = started(*run_of(config, workdir), log=tmp_path / "log2")
  assert again.finish() == 0
  assert reason(workdir)["reason"] == "done"


def test_a_run_that_hangs_is_ended_with_its_stacks(tmp_path, started):
  config, workdir = write_config(tmp_path / "c.py", epochs=2.0, stuck=3), tmp_path / "run"
  one = started(*run_of(config, workdir, "--hang-limit", 15), log=tmp_path / "log")
  assert one.finish(seconds=90) == 42
  assert "no progress for 15 s" in reason(workdir)["reason"]
  for text in (one.text, (workdir / "stacks.txt").read_text()):
    assert "in wait_here" in text


def test_data_that_never_open_are_a_hang_too(tmp_path, started):
  nowhere = dict(source=dict(make="tests.several.never_opens"), transforms=[], batch_size=16)
  config = write_config(tmp_path / "c.py", data=nowhere)
  one = started(*run_of(config, tmp_path / "run", "--hang-limit", 5), log=tmp_path / "log")
  assert one.finish(seconds=90) == 42
  assert "no progress for 5 s" in one.text
  assert "in never_opens" in one.text


def test_one_run_has_a_folder_and_a_killed_one_gives_it_free(tmp_path, started):
  config, workdir = write_config(tmp_path / "c.py", pause=0.3, epochs=20.0), tmp_path / "run"
  first = started(*run_of(config, workdir), log=tmp_path / "1.log")
  first.until(lambda: (workdir / "arm" / "0" / "metrics.jsonl").exists())
  second = started(*run_of(config, workdir), log=tmp_path / "2.log")
  assert second.finish() == 2
  assert f"{workdir} is in use by process {first.process.pid} on" in second.text
  assert first.process.poll() is None
  first.kill()
  third = started(*run_of(config, workdir), log=tmp_path / "3.log")
  third.until(lambda: f"process {third.process.pid} on" in (workdir / ".lock").read_text())


def test_a_signal_between_steps_that_never_come_ends_the_run_after_the_grace(tmp_path):
  """In a process of its own: what it tests ends it."""
  program = (
    "import os, signal, sys, time\nfrom pathlib import Path\n"
    "from jaxtl.host.interruption import Interruption\n"
    "with Interruption(Path(sys.argv[1]), grace=0.5).installed() as asked:\n"
    "  os.kill(os.getpid(), signal.SIGTERM)\n  assert asked.due(1)\n  time.sleep(60)\n"
  )
  (tmp_path / "config.json").write_text("{}")
  began = time.monotonic()
  one = start(tmp_path, program=("-c", program), log=tmp_path / "log")
  assert one.finish(seconds=60) == 42, one.text
  assert time.monotonic() - began < 30
  assert reason(tmp_path)["reason"] == "SIGTERM, and no step ended within 0.5 s"


def test_sigterm_is_a_question_while_a_run_listens_and_not_after(tmp_path):
  from jaxtl.host.interruption import Interruption

  before = signal.getsignal(signal.SIGTERM)
  with Interruption(tmp_path, grace=60).installed() as asked:
    assert not asked.due(1)
    os.kill(os.getpid(), signal.SIGTERM)
    assert asked.due(1)
  assert signal.getsignal(signal.SIGTERM) is before
