"""The process that watches another: exit codes, signals, and what the end of a log says."""

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path

import jax
import pytest

from jaxtl.cli import options
from jaxtl.host import exit_reason, signals, supervision

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def child(tmp_path, monkeypatch):
  """What runs in the place of `python -m jaxtl`: a shell script."""

  def become(script):
    path = tmp_path / "child.sh"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setattr(supervision.sys, "executable", str(path))

  (tmp_path / "config.json").write_text("{}")
  before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
  yield become
  for number, handler in before.items():
    signal.signal(number, handler)


@pytest.mark.parametrize("code", [0, 2, 3, 4, 5, 42])
def test_an_exit_code_is_passed_on(child, tmp_path, code):
  child(f"exit {code}")
  assert supervision.run([], folder=tmp_path, process=0) == code
  assert not (tmp_path / exit_reason.NAME).exists()


@pytest.mark.parametrize("name", ["ABRT", "KILL", "SEGV"])
def test_a_child_that_dies_asks_for_a_restart(child, tmp_path, capfd, name):
  child(f"echo 'tasks are unhealthy (no heartbeat):\n1\n3' >&2; kill -{name} $$")
  assert supervision.run([], folder=tmp_path, process=2) == 42
  assert f"process 1, 3 of this run was lost; the process was killed by SIG{name}" in capfd.readouterr().err
  found = json.loads((tmp_path / "exit_reason.2.json").read_text())
  assert (found["code"], found["process"]) == (42, 2)


def test_a_child_knows_that_it_is_watched(child, tmp_path, monkeypatch):
  child(f'test -n "${supervision.CHILD}" && exit 7')
  assert supervision.run([], folder=tmp_path, process=0) == 7
  assert not supervision.is_child()
  monkeypatch.setenv(supervision.CHILD, "1")
  assert supervision.is_child()


def test_sigterm_is_passed_on(child, tmp_path):
  ready = tmp_path / "ready"
  child(f"trap 'exit 42' TERM; touch {ready}; while :; do sleep 0.05; done")

  def ask():
    while not ready.exists():
      pass
    os.kill(os.getpid(), signal.SIGTERM)

  threading.Thread(target=ask, daemon=True).start()
  assert supervision.run([], folder=tmp_path, process=0) == 42


@pytest.fixture
def passed_on():
  found = signals.PassedOn()
  yield found
  found.restore()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_comes_without_a_child_is_for_the_next(passed_on, number):
  os.kill(os.getpid(), number)
  assert passed_on.wait(subprocess.Popen(["sleep", "60"])) == -number
  assert passed_on.wait(subprocess.Popen(["true"])) == 0
  os.kill(os.getpid(), number)
  assert passed_on.wait(subprocess.Popen(["sleep", "60"])) == -number


def test_signals_are_given_back():
  before = signal.getsignal(signal.SIGTERM)
  passed_on = signals.PassedOn()
  assert signal.getsignal(signal.SIGTERM) != before
  passed_on.restore()
  assert signal.getsignal(signal.SIGTERM) == before


def test_a_watcher_that_is_killed_takes_its_child_along(tmp_path):
  if sys.platform != "linux":
    pytest.skip("only Linux ends a child with its parent")
  pid = tmp_path / "pid"
  watched = (
    "import os, time; from jaxtl.host import supervision; supervision.end_with_watcher(); "
    f"open('{pid}.new', 'w').write(str(os.getpid())); os.rename('{pid}.new', '{pid}'); time.sleep(60)"
  )
  script = tmp_path / "child.sh"
  script.write_text(f"#!/bin/sh\nexec {sys.executable} -c {shlex.quote(watched)}\n")
  script.chmod(0o755)
  program = (
    "import sys; from pathlib import Path; from jaxtl.host import supervision; "
    f"sys.executable = {str(script)!r}; supervision.run([], folder=Path({str(tmp_path)!r}), process=0)"
  )
  watcher = subprocess.Popen([sys.executable, "-c", program])
  while not pid.exists():
    assert watcher.poll() is None
  watcher.kill()
  watcher.wait()
  child = Path("/proc") / pid.read_text().strip()
  for _ in range(500):
    if not child.exists() or "Z" in (child / "stat").read_text().split()[2]:
      return
    threading.Event().wait(0.01)
  raise AssertionError("the child lives on")


def test_a_child_whose_watcher_was_killed_before_it_looked_ends_at_once():
  if sys.platform != "linux":
    pytest.skip("only Linux ends a child with its parent")
  command = [sys.executable, "-m", "jaxtl", "--version"]
  mine, gone = ({**os.environ, supervision.CHILD: "0", "JAXTL_WATCHER": str(pid)} for pid in (os.getpid(), 1))
  assert subprocess.run(command, env=mine, cwd=ROOT, capture_output=True).returncode == 0
  assert subprocess.run(command, env=gone, cwd=ROOT, capture_output=True).returncode == -signal.SIGKILL


COORDINATOR = "process 0 of this run, the coordinator, was lost"


@pytest.mark.parametrize(
  ("process", "log", "said"),
  [
    (0, "These tasks are unhealthy (no heartbeats):\n1\nThe", "process 1 of this run was lost"),
    (1, "These tasks are unhealthy (no heartbeats):\n0\n2\nThe", "process 0, 2 of this run was lost"),
    # As process 0 leaves it where it ends before the thread that lists them has written (faults of one peer).
    (
      0,
      "Polled an error from coordination service (this can be an error from this or another task).\nBarrier "
      "failed because: task is set to ERROR: UNAVAILABLE: Task 1 heartbeat timeout. This indicates",
      "process 1 of this run was lost",
    ),
    (0, "These tasks are unhealthy (stopped):\nE1130 other\n1\n coordination service", None),
    (0, "Failed to send RPC to coordination service. Either the leader task was preempted", None),
    (0, "the JAX distributed service detected fatal errors", None),
    (1, "failed to reach the leader task", COORDINATOR),
    (2, "the JAX distributed service detected fatal errors", COORDINATOR),
    (1, "Task 1 heartbeat timeout; coordination service", COORDINATOR),
    (0, "some other end", "it died"),
    (1, "", "it died"),
  ],
)
def test_the_end_of_a_log_says_who_was_lost_and_never_the_process_itself(process, log, said):
  found = {count: supervision.lost_peer(log, process=process, num_processes=count) for count in (2, 3, None)}
  unnamed = {2: "process 1 of this run was lost", 3: "another process of this run was lost"}
  unnamed[None] = unnamed[3]
  assert found == (unnamed if said is None else dict.fromkeys(found, said))


@pytest.mark.parametrize(
  ("config", "folder"),
  [
    ("configs/quickstart.py", "runs/quickstart"),
    ("configs/pretrain/cifar10.py", "runs/pretrain/cifar10"),
    ("/elsewhere/configs/a/b.py", "runs/a/b"),
    ("mine.py", "runs/mine"),
    ("my/mine.py", "runs/mine"),
  ],
)
def test_a_run_s_folder_is_named_like_its_config(config, folder):
  assert options.default_workdir(Path(config)) == Path(folder)


def test_a_reason_is_written_only_where_a_run_is(tmp_path):
  exit_reason.write(tmp_path, code=42, reason="x")
  exit_reason.write(None, code=42, reason="x")
  assert not list(tmp_path.iterdir())
  (tmp_path / "config.json").write_text("{}")
  exit_reason.write(tmp_path, code=42, reason="x")
  found = json.loads((tmp_path / exit_reason.NAME).read_text())
  assert (found["code"], found["reason"], found["process"]) == (42, "x", 0)


def _while_handling(first, second):
  second.__context__ = first
  return second


@pytest.mark.parametrize(
  ("error", "expected"),
  [
    (jax.errors.JaxRuntimeError("INTERNAL: peer gone"), True),
    # As jax.jit raises it in `process_allgather` when a peer is killed meanwhile (seen in the soak).
    (ValueError("UNKNOWN: Gloo AllGather failed: Read error: Connection reset by peer"), True),
    # As JAX raises it where the coordinator is killed while the devices are looked for (seen there, too).
    (_while_handling(jax.errors.JaxRuntimeError("UNAVAILABLE"), RuntimeError("no backend")), True),
    (_while_handling(KeyError("x"), RuntimeError("no backend")), False),
    (ValueError("a bug of ours"), False),
    (RuntimeError("another"), False),
  ],
)
def test_what_a_lost_peer_looks_like(error, expected):
  assert supervision.may_be_a_peers(error) == expected
