"""`jaxtl doctor`: what a run would find, one process or several, and who differs."""

import re
import socket
import threading

import numpy as np
import pytest

from jaxtl import cli
from jaxtl.cli import doctor
from tests.several import free_port, start, write_config

pytestmark = pytest.mark.slow


def test_it_says_what_was_found_and_why(tmp_path, capsys, monkeypatch):
  monkeypatch.setenv("JOB_COMPLETION_INDEX", "3")
  monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very secret")
  config = write_config(tmp_path / "config.py")
  assert cli.main(["doctor", str(config), "--num-devices", "4", "--model-devices", "2"]) == 0
  shown = capsys.readouterr().out
  assert "a Kubernetes job of index 3, but no --coordinator" in shown
  assert "variable   JOB_COMPLETION_INDEX=3" in shown
  assert "very secret" not in shown
  assert "mesh       2 x 2 (data x model) devices" in shown
  assert "all-reduce right: 4 devices in" in shown
  assert "data       squares: 96 examples, fingerprint" in shown
  for package in ("jax", "flax", "optax", "orbax-checkpoint"):
    assert f"version    {package} " in shown


@pytest.fixture
def all_reduce(monkeypatch):
  """Puts a function where a sum begins; its thread does not outlive the test, nor the test its exit."""

  def leave(code):
    raise SystemExit(code)

  monkeypatch.setattr(doctor.os, "_exit", leave)
  released = threading.Event()
  yield lambda begin: monkeypatch.setattr(doctor.jax, "make_array_from_callback", lambda *_: begin(released))
  released.set()
  for thread in threading.enumerate():
    if thread.name == "all-reduce":
      thread.join(timeout=60)
      assert not thread.is_alive()


def told(capsys, *, timeout: float = 60) -> str:
  """What is said of the sum, where that ends the command."""
  with pytest.raises(SystemExit) as ended:
    cli.main(["doctor", "--timeout", str(timeout), "--num-devices", "2"])
  assert ended.value.code == 1
  out, error = capsys.readouterr()
  assert "Traceback" not in error
  (line,) = [line for line in out.splitlines() if line.startswith("all-reduce")]
  return line


def test_a_sum_that_hangs_is_told_and_ends(all_reduce, capsys):
  def fail_too_late(released):
    released.wait()
    raise ConnectionError("nobody wants to know any more")

  all_reduce(fail_too_late)
  assert "all-reduce NO ANSWER in 0.2 s" in told(capsys, timeout=0.2)


def test_a_sum_that_fails_is_one_line(all_reduce, capsys):
  def fail(released):
    raise ConnectionError("no route to process 1\nand much more")

  all_reduce(fail)
  assert re.fullmatch(r"all-reduce FAILED in \S+ s: ConnectionError: no route to process 1", told(capsys))


def test_a_sum_that_is_wrong_is_told(all_reduce, capsys):
  all_reduce(lambda released: np.ones(3, np.float32))
  assert re.fullmatch(r"all-reduce WRONG, 3: 2 devices in \S+ s", told(capsys))


@pytest.mark.parametrize("coordinator", ["127.0.0.1", "[::1]"])
def test_the_host_that_differs_is_named(tmp_path, coordinator):
  address = f"{coordinator}:{free_port(coordinator)}"
  one = write_config(tmp_path / "one.py")
  other = write_config(tmp_path / "other.py", epochs=7.0)
  pair = [
    start(
      *("doctor", config, "--coordinator", address, "--num-processes", 2, "--process-id", number),
      *("--cpu-devices", 2),
      log=tmp_path / f"{number}.log",
    )
    for number, config in enumerate((one, other))
  ]
  assert [process.finish() for process in pair] == [1, 1]
  assert "process    1 of 2" in pair[1].text
  assert "all-reduce right: 4 devices in" in pair[0].text
  host = socket.gethostname()
  assert f"differs    process 1 on {host}: config.base.experiment.epochs: 2.0 -> 7.0" in pair[0].text


def test_half_a_cluster_is_one_line(capsys):
  assert cli.main(["doctor", "--num-processes", "2"]) == 2
  assert "--num-processes without --coordinator, --process-id" in capsys.readouterr().err
