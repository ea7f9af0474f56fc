"""The rendered batch scripts on a real SLURM: two processes of a tiny run, a preemption, an end by hand."""

import json
import os
import sys
import time
from pathlib import Path

import pytest

from jaxtl import cli
from tests.conftest import FAST_COMPILATION
from tests.launching.slurm_cluster import Slurm

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """
from tests.small_training import tiny_config

def get_config():
  base = tiny_config(epochs=2.0, log_every=1) | dict(tune=None, flatness=None, transfer=None)
  arms = dict(first=dict(), second=dict(optimizer=dict(peak_rate=0.05)))
  return dict(study=".studies.pretrain.rows", seeds=[0, 1], title="tiny", base=base, arms=arms)
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
  """A SLURM that runs this Python's jaxtl, with the current folder where a user would be."""
  monkeypatch.chdir(tmp_path)
  for name in list(os.environ):  # what tells a process of another launcher that it is one of several
    if name.startswith(("SLURM_", "JAX_", "XLA_FLAGS", "JAXTL_")):
      monkeypatch.delenv(name)
  (tmp_path / "bin").mkdir()
  (tmp_path / "bin" / "jaxtl").write_text(f'#!/bin/sh\nexec {sys.executable} -m jaxtl "$@"\n')
  (tmp_path / "bin" / "jaxtl").chmod(0o755)
  (tmp_path / "tiny.py").write_text(CONFIG)
  (tmp_path / "slurm").mkdir()
  environment = {
    **os.environ,
    "XLA_FLAGS": FAST_COMPILATION,
    "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
    "PYTHONPATH": str(ROOT),
  }
  with Slurm(tmp_path / "slurm", environment) as found:
    yield found


def rendered(target: str, *arguments: str) -> list[str]:
  """Writes what `jaxtl launch` renders, and returns the names of its batch scripts."""
  words = ["launch", target, "tiny.py", "--write", "launch", "--cpu-devices", "1", *arguments]
  assert cli.main(words) == 0
  return sorted(path.name for path in Path("launch").iterdir())


def submit(slurm: Slurm, name: str) -> str:
  return slurm.call("sbatch", "--parsable", f"launch/{name}").strip()


def test_a_preempted_job_is_queued_again_and_goes_on(slurm, tmp_path):
  common = ["--arms", "first", "--seeds", "0", "--processes-per-node", "2", "--no-report"]
  assert rendered("slurm", *common, "base.epochs=8.0", "--workdir", "w", "--retries", "1") == ["train.sbatch"]
  job = submit(slurm, "train.sbatch")
  log = tmp_path / f"tiny-{job}.log"
  slurm.wait_for_text(log, "step 1/")
  slurm.call("scancel", "--signal=TERM", job)
  slurm.wait_for_text(log, "which is saved")
  assert slurm.wait(job, "PENDING")["Restarts"] == "1"
  assert json.loads((tmp_path / "w" / "exit_reason.json").read_text())["code"] == 42
  slurm.hurry(job)
  found = slurm.wait(job, "COMPLETED", "FAILED")
  assert (found["JobState"], found["ExitCode"]) == ("COMPLETED", "0:0"), log.read_text() + slurm.logs()
  assert (tmp_path / "w" / "first" / "0" / "rows.jsonl").is_file()
  assert len(json.loads((tmp_path / "w" / "env.json").read_text())["later"]) == 1


def test_a_job_that_is_ended_by_hand_or_may_not_restart_stays_ended(slurm, tmp_path):
  common = [
    "--arms",
    "first",
    "--seeds",
    "0",
    "--processes-per-node",
    "2",
    "--no-report",
    "base.epochs=5000.0",
  ]
  rendered("slurm", *common, "--workdir", "w", "--retries", "0")
  job = submit(slurm, "train.sbatch")
  log = tmp_path / f"tiny-{job}.log"
  slurm.wait_for_text(log, "step 1/")
  slurm.call("scancel", "--signal=TERM", job)
  found = slurm.wait(job, "FAILED", "PENDING")
  assert (found["JobState"], found["ExitCode"]) == ("FAILED", "42:0"), log.read_text() + slurm.logs()
  again = submit(slurm, "train.sbatch")
  slurm.wait_for_text(tmp_path / f"tiny-{again}.log", "/30000")
  slurm.call("scancel", again)
  assert slurm.wait(again, "CANCELLED", "PENDING")["JobState"] == "CANCELLED"
  time.sleep(3)
  assert slurm.show(again)["Restarts"] == "0"


def test_a_sweep_runs_every_arm_and_seed_and_ends_in_one_report(slurm, tmp_path):
  scripts = rendered("slurm-array", "--workdir", "a sweep", "base.epochs=0.2")
  assert scripts == ["array_sweep.sbatch", "report.sbatch"]
  submit(slurm, "array_sweep.sbatch")
  report = submit(slurm, "report.sbatch")
  found = slurm.wait(report, "COMPLETED", "FAILED", seconds=240)
  logs = "\n".join(path.read_text() for path in tmp_path.glob("*.log"))
  assert found["JobState"] == "COMPLETED", logs + slurm.logs()
  for cell in ("first/0", "first/1", "second/0", "second/1"):
    assert (tmp_path / "a sweep" / cell / "rows.jsonl").is_file(), logs
  assert (tmp_path / "a sweep" / "report" / "index.html").is_file()


def test_a_final_exit_code_wins_over_the_42_of_the_others(slurm, tmp_path):
  stub = '#!/bin/sh\n[ "$SLURM_PROCID" = 0 ] && exit 3\nexit 42\n'
  (tmp_path / "bin" / "jaxtl").write_text(stub)
  rendered("slurm", "--processes-per-node", "2")
  job = submit(slurm, "train.sbatch")
  found = slurm.wait(job, "FAILED", "COMPLETED")
  assert (found["ExitCode"], found["Restarts"]) == ("3:0", "0"), slurm.logs()
