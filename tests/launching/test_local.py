"""Processes on this machine, for real: two of a tiny run, restarts on 42 alone, signals, prefixes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxtl import cli
from tests.launching.conftest import texts
from tests.launching.slurm_cluster import free_port
from tests.launching.test_slurm import CONFIG, ROOT

pytestmark = pytest.mark.slow


@pytest.fixture
def here(tmp_path, monkeypatch):
  """A folder with a tiny config, whose `jaxtl` is this Python's."""
  monkeypatch.chdir(tmp_path)
  (tmp_path / "bin").mkdir()
  (tmp_path / "tiny.py").write_text(CONFIG)
  monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
  monkeypatch.setenv("PYTHONPATH", str(ROOT))
  jaxtl(tmp_path, f'exec {sys.executable} -m jaxtl "$@"')
  return tmp_path


def jaxtl(folder: Path, text: str) -> None:
  (folder / "bin" / "jaxtl").write_text(f"#!/usr/bin/env bash\n{text}\n")
  (folder / "bin" / "jaxtl").chmod(0o755)


def run(plan, folder: Path, **changes) -> subprocess.CompletedProcess:
  text = texts(plan("local", **changes))["run_n.sh"]
  (folder / "run_n.sh").write_text(text)
  return subprocess.run(["bash", "run_n.sh"], cwd=folder, capture_output=True, text=True, timeout=60)


def test_two_processes_of_a_tiny_run_find_each_other(here, capfd):
  words = [
    "launch",
    "local",
    "tiny.py",
    "base.epochs=1.0",
    "--arms",
    "first",
    "--seeds",
    "0",
    "--workdir",
    "w",
  ]
  few = ["--processes-per-node", "2", "--cpu-devices", "1", "--no-report", "--port", str(free_port())]
  assert cli.main([*words, *few, "--yes"]) == 0
  text = capfd.readouterr().out
  assert "[0] " in text
  assert "[1] " in text
  assert "first/0 is done" in text
  assert (here / "w" / "first" / "0" / "rows.jsonl").is_file()
  assert (here / "runs" / "launch" / "tiny" / "run_n.sh").is_file()


COUNTED = 'echo "$@" >> calls; n=$(wc -l < calls); '


def test_it_is_started_again_on_42_alone_and_not_for_ever(plan, here):
  jaxtl(here, COUNTED + "exit 42")
  done = run(plan, here, retries=2)
  assert done.returncode == 42
  assert len((here / "calls").read_text().splitlines()) == 3
  assert "restart 2 of 2" in done.stderr
  (here / "calls").unlink()
  jaxtl(here, COUNTED + '[ "$n" -lt 3 ] && exit 42; exit 0')
  assert run(plan, here, retries=5).returncode == 0
  assert len((here / "calls").read_text().splitlines()) == 3


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 5, 130, 137])
def test_every_other_code_is_final(plan, here, code):
  jaxtl(here, COUNTED + f"exit {code}")
  assert run(plan, here, retries=5).returncode == code
  assert len((here / "calls").read_text().splitlines()) == 1


@pytest.mark.parametrize("order", ["0 42 3", "42 3 0", "3 42 42"])
def test_a_final_code_wins_over_the_42_of_its_peers(plan, here, order):
  jaxtl(here, f'codes=({order}); all="$*"; echo "$all" >> calls; exit "${{codes[${{all##*process-id=}}]}}"')
  assert run(plan, here, retries=5, processes_per_node=3).returncode == 3
  assert len((here / "calls").read_text().splitlines()) == 3


def test_every_line_says_which_process_it_is_from(plan, here):
  jaxtl(here, 'all="$*"; echo "out of ${all##*process-id=}"; echo "error of it" >&2; printf "no line break"')
  lines = run(plan, here, processes_per_node=2).stdout.splitlines()
  expected = ["out of {}", "error of it", "no line break"]
  for index in range(2):
    mine = [line for line in lines if line.startswith(f"[{index}] ")]
    assert mine == [f"[{index}] {text.format(index)}" for text in expected]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_every_process_and_nothing_is_started_again(plan, here, number):
  jaxtl(here, "echo \"$@\" >> calls; trap 'sleep 1; echo saved; exit 42' TERM; while :; do sleep 0.1; done")
  (here / "run_n.sh").write_text(texts(plan("local", processes_per_node=2, retries=5))["run_n.sh"])
  child = subprocess.Popen(["bash", "run_n.sh"], cwd=here, stdout=subprocess.PIPE, text=True)
  while not (here / "calls").exists() or len((here / "calls").read_text().splitlines()) < 2:
    time.sleep(0.05)
  time.sleep(0.3)
  child.send_signal(number)
  text, _ = child.communicate(timeout=30)
  assert child.returncode == 42
  assert sorted(text.splitlines()) == ["[0] saved", "[1] saved"]
  assert len((here / "calls").read_text().splitlines()) == 2


def test_the_command_passes_a_signal_on_and_returns_the_worst_code(here):
  jaxtl(here, "touch started; trap 'echo saved; exit 42' TERM; while :; do sleep 0.1; done")
  words = [sys.executable, "-m", "jaxtl", "launch", "local", "tiny.py", "--yes"]
  child = subprocess.Popen(words, cwd=here, stdout=subprocess.PIPE, text=True)
  end = time.monotonic() + 60
  while not (here / "started").exists():
    assert time.monotonic() < end
    time.sleep(0.05)
  time.sleep(0.3)
  child.send_signal(signal.SIGTERM)
  text, _ = child.communicate(timeout=30)
  assert child.returncode == 42
  assert "[0] saved" in text
