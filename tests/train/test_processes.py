"""Several processes as one run: the same numbers, of one mind, and no one waits for the dead."""

import json
import os
import signal
import socket
import time

import jax
import numpy as np
import pytest

from jaxtl.checkpoints import checkpoint
from jaxtl.errors import ConfigError, DataError, RunError, StorageError
from jaxtl.host import processes
from tests.several import digests, free_port, start, start_pair, steps_of, write_config
from tests.train.pair_program import CASES, weights_of

pytestmark = pytest.mark.slow


@pytest.fixture
def slow(tmp_path):
  return write_config(tmp_path / "slow.py", pause=0.3, epochs=4.0, checkpoint_every=2)


@pytest.fixture
def pair(tmp_path):
  """Starts two processes; whatever the test does, none outlives it.

  A machine that runs other tests beside them may hold one up for longer than the default heartbeat.
  """
  started = []

  def begin(config, workdir="run", *arguments, heartbeat=40, **options):
    patience = ("--heartbeat", heartbeat)
    started.extend(start_pair(config, tmp_path / workdir, *patience, *arguments, **options))
    return started[-2:]

  yield begin
  for one in started:
    one.kill()


def reason(workdir, process):
  name = "exit_reason.json" if process == 0 else f"exit_reason.{process}.json"
  return json.loads((workdir / name).read_text())


def child_of(started):
  """The process that trains, below the one that was started and watches it."""
  children = f"/proc/{started.process.pid}/task/{started.process.pid}/children"
  with open(children, encoding="ascii") as file:
    return int(file.read().split()[0])


def test_two_processes_of_four_devices_equal_one_of_eight(tmp_path):
  port, out = free_port(), tmp_path / "found.json"
  pair = [
    start(i, port, out, program=("-m", "tests.train.pair_program"), log=tmp_path / f"{i}.log") for i in (0, 1)
  ]
  try:
    assert [one.finish(seconds=400) for one in pair] == [0, 0], pair[0].text[-2000:] + pair[1].text[-2000:]
  finally:
    for one in pair:
      one.kill()
  found = json.loads(out.read_text())
  for case in CASES:
    trained = weights_of(case).weights
    expected = jax.tree.leaves({"params": trained.params, "batch_stats": trained.batch_stats})
    for ours, theirs in zip(found[case], expected, strict=True):
      # The same 8 parts of the batch; gloo adds them in another order than XLA does within one process.
      np.testing.assert_allclose(
        np.array(ours, np.float32), theirs.reshape(-1), rtol=1e-5, atol=2e-6, err_msg=case
      )


def test_a_killed_peer_is_named_and_the_run_goes_on_bit_for_bit(slow, pair, tmp_path):
  assert [one.finish() for one in pair(slow, "whole")] == [0, 0]
  for victim in (1, 0):
    workdir = tmp_path / f"killed{victim}"
    both = pair(slow, workdir.name, heartbeat=10)
    both[victim].until(lambda folder=workdir: 4 in steps_of(folder))
    both[victim].kill()
    died = time.monotonic()
    survivor = both[1 - victim]
    assert survivor.finish(seconds=30) == 42, survivor.text[-3000:]
    assert time.monotonic() - died < 15
    assert f"process {victim} of this run" in survivor.text
    assert "was lost" in reason(workdir, 1 - victim)["reason"]
    assert [one.finish() for one in pair(slow, workdir.name)] == [0, 0]
    assert digests(workdir) == digests(tmp_path / "whole")


def test_sigterm_to_one_process_stops_both_at_the_same_step(slow, pair, tmp_path):
  both = pair(slow)
  both[1].until(lambda: 2 in steps_of(tmp_path / "run"))
  os.kill(both[1].process.pid, signal.SIGTERM)
  time.sleep(0.5)
  os.kill(both[1].process.pid, signal.SIGTERM)
  assert [one.finish(seconds=40) for one in both] == [42, 42], both[0].text[-3000:]
  step = steps_of(tmp_path / "run")[-1]
  for process in (0, 1):
    assert f"stopped after step {step}, which is saved" in both[process].text
    assert reason(tmp_path / "run", process)["code"] == 42
  assert [one.finish() for one in pair(slow)] == [0, 0]
  assert steps_of(tmp_path / "run")[-1] == 24
  assert reason(tmp_path / "run", 0)["reason"] == "done"


def test_a_peer_that_never_comes_is_not_waited_for_longer_than_asked(slow, pair, tmp_path):
  both = pair(slow, "run", "--gather-limit", 6)
  both[1].kill()
  began = time.monotonic()
  assert both[0].finish(seconds=60) == 42
  assert time.monotonic() - began < 30
  assert "resumes from the last checkpoint" in both[0].text


def test_a_stopped_peer_ends_the_other_one(slow, pair, tmp_path):
  """By the heartbeat: the limit for hangs is far longer than the time allowed."""
  both = pair(slow, "run", "--hang-limit", 600, heartbeat=20)
  both[0].until(lambda: 2 in steps_of(tmp_path / "run"))
  os.kill(child_of(both[1]), signal.SIGSTOP)
  stopped = time.monotonic()
  assert both[0].finish(seconds=40) == 42
  assert time.monotonic() - stopped < 30
  assert "restart" in both[0].text or "resumes from the last checkpoint" in both[0].text


def test_a_peer_that_is_alive_and_stuck_is_ended_by_the_watchdogs(tmp_path, pair):
  """Its heart beats, so nothing but the watchdog can tell; the stacks say where each one hangs."""
  config = write_config(tmp_path / "stuck.py", epochs=2.0, checkpoint_every=2, stuck=3)
  both = pair(config, "run", "--hang-limit", 25)
  assert [one.finish(seconds=150) for one in both] == [42, 42]
  assert "no progress for 25 s" in reason(tmp_path / "run", 0)["reason"]
  stacks = (tmp_path / "run" / "stacks.txt").read_text() + (tmp_path / "run" / "stacks.1.txt").read_text()
  assert "in wait_here" in stacks
  assert "in fit" in stacks


@pytest.mark.parametrize("victim", [1, 0])
def test_an_error_of_one_process_alone_keeps_its_code_and_ends_the_other(tmp_path, pair, victim, monkeypatch):
  """JAX would let the two wait for each other for five minutes, and then abort both."""
  monkeypatch.setenv("JAXTL_TEST_VICTIM", str(victim))
  config = write_config(tmp_path / "fails.py", pause=0.1, epochs=4.0, fail=3)
  both = pair(config, heartbeat=20)
  assert both[victim].finish(seconds=90) == 3
  assert both[1 - victim].finish(seconds=30) == 42
  assert "jaxtl: arm/0: one process alone cannot read its data" in both[victim].text or (
    "jaxtl: one process alone cannot read its data" in both[victim].text
  )
  assert reason(tmp_path / "run", victim)["code"] == 3
  assert reason(tmp_path / "run", 1 - victim)["code"] == 42


def test_what_process_0_cannot_find_out_ends_all(monkeypatch):
  """As process 1 sees it: the answer is the failure, with its exit code."""
  monkeypatch.setattr(processes.jax, "process_count", lambda: 2)
  monkeypatch.setattr(processes.jax, "process_index", lambda: 1)
  monkeypatch.setattr(
    processes, "gather_texts", lambda text: [json.dumps([None, ["no whole step", 5]]), text]
  )
  with pytest.raises(RunError, match="process 0: no whole step") as caught:
    processes.from_first(lambda: 1)
  assert caught.value.code == 5
  monkeypatch.setattr(processes.jax, "process_index", lambda: 0)
  monkeypatch.setattr(processes, "gather_texts", lambda text: [text, ""])
  with pytest.raises(StorageError, match="mine"):
    processes.from_first(lambda: (_ for _ in ()).throw(StorageError("mine")))
  assert processes.from_first(lambda: {"a": 1}) == {"a": 1}


def test_processes_with_other_configs_or_data_refuse_to_start(tmp_path, pair):
  one = write_config(tmp_path / "one.py", epochs=1.0)
  other = write_config(tmp_path / "other.py", epochs=1.0, optimizer=dict(make=".optim.sgd", peak_rate=0.2))
  both = pair((one, other))
  assert [process.finish() for process in both] == [2, 2]
  assert f"process 1 on {socket.gethostname()} differs from process 0 in config." in both[0].text
  assert "peak_rate: 0.1 -> 0.2" in both[0].text
  assert not (tmp_path / "run").exists()


def test_the_fact_that_differs_is_named():
  facts = {
    "config": {"epochs": 1.0},
    "versions": {"jax": "0.10.2"},
    "data": {"squares": {"fingerprint": "a"}},
  }
  assert processes.disagreement([("h0", facts), ("h1", facts)]) is None
  other = facts | {"versions": {"jax": "0.10.3"}}
  error = processes.disagreement([("h0", facts), ("h1", facts), ("h2", other)])
  assert isinstance(error, ConfigError)
  assert (
    "process 2 on h2 differs from process 0 in versions.jax: '0.10.2' -> '0.10.3'; give every process"
    in str(error)
  )
  moved = facts | {"data": {"squares": {"fingerprint": "b"}}}
  error = processes.disagreement([("h0", facts), ("h1", moved)])
  assert isinstance(error, DataError)
  assert "data.squares.fingerprint: 'a' -> 'b'" in str(error)
  error = processes.disagreement([("h0", {"config": {}}), ("h1", {"config": {"arms": 1}})])
  assert "config.arms: '(absent)' -> 1" in str(error)


def test_a_coordinator_whose_port_is_taken_is_named(slow, tmp_path):
  with socket.socket() as busy:
    busy.bind(("", 0))
    busy.listen()
    port = busy.getsockname()[1]
    began = time.monotonic()
    one = start(
      *("run", slow, "--workdir", tmp_path / "run", "--coordinator", f"127.0.0.1:{port}"),
      *("--num-processes", 2, "--process-id", 0),
      log=tmp_path / "log",
    )
    assert one.finish(seconds=40) == 42
  assert time.monotonic() - began < 30
  assert f"port {port} of the coordinator 127.0.0.1:{port} cannot be opened" in one.text
  assert not (tmp_path / "run").exists()


def test_a_coordinator_that_does_not_answer_is_named(slow, tmp_path):
  port = free_port()
  one = start(
    *("run", slow, "--workdir", tmp_path / "run", "--coordinator", f"127.0.0.1:{port}"),
    *("--num-processes", 2, "--process-id", 1),
    log=tmp_path / "log",
  )
  assert one.finish(seconds=60) == 42
  assert f"the coordinator 127.0.0.1:{port} does not answer within 25 s" in one.text


def test_a_run_moves_from_one_process_to_two_and_back(slow, pair, tmp_path):
  """The data are the same in the same order; the parameters equal to the order of sums, over 24 steps."""

  def alone(name):
    one = start(
      *("run", slow, "--workdir", tmp_path / name, "--no-report", "--cpu-devices", 2),
      log=tmp_path / f"{name}.log",
    )
    return one

  whole = alone("whole")
  assert whole.finish() == 0
  moved = alone("moved")
  moved.until(lambda: 4 in steps_of(tmp_path / "moved"))
  moved.kill()
  both = pair(slow, "moved", devices=1)
  both[0].until(lambda: any(step >= 10 for step in steps_of(tmp_path / "moved")))
  for one in both:
    one.kill()
  again = alone("moved")
  assert again.finish() == 0
  assert "not as in the first session: processes: 1 -> 2" in (tmp_path / "moved" / "log.txt").read_text()
  found, expected = (checkpoint.load(tmp_path / name / "arm" / "0") for name in ("moved", "whole"))
  # The stated tolerance of RELIABILITY.md.
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), found.params, expected.params
  )
