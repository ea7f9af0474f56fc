"""Nobody reads what a run says any more, or nobody can: the run goes on, and ends with its own exit code."""

import errno
import io
import os
import pty
import subprocess
import sys

import pytest

from jaxtl import cli
from jaxtl.host import streams
from jaxtl.host.progress import Progress
from tests.several import ROOT, write_config

pytestmark = pytest.mark.slow


class Broken(io.StringIO):
  """A stream on which everything fails, as on a pipe without a reader or a terminal that was closed."""

  def __init__(self, error, *, terminal=False):
    super().__init__()
    self.error = error
    self.terminal = terminal

  def write(self, text):
    raise self.error

  def flush(self):
    raise self.error

  def isatty(self):
    return self.terminal


ERRORS = [
  BrokenPipeError(errno.EPIPE, "Broken pipe"),
  OSError(errno.EIO, "Input/output error"),
  OSError(errno.ENOSPC, "No space left on device"),
  BlockingIOError(errno.EAGAIN, "try again"),
  ValueError("I/O operation on closed file."),
]


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("error", ERRORS, ids=str)
def test_a_status_line_that_cannot_be_written_is_dropped(error, terminal, tmp_path):
  progress = Progress(interval=0.0, stream=Broken(error, terminal=terminal))
  progress.log_to(tmp_path / "log.txt")
  progress.expect(10)
  for _ in range(3):
    progress.advance(1, "step", images_per_second=1.0)
    progress.note("it goes on")
  progress.close()
  assert (tmp_path / "log.txt").read_text().count("it goes on") == 3


def test_a_terminal_that_is_closed_ends_nothing():
  """With a real one: what is written when its other side is gone is an input/output error."""
  other, end = pty.openpty()
  with open(end, "w") as stream:
    progress = Progress(interval=0.0, stream=stream)
    progress.expect(10)
    progress.advance(1, "step", images_per_second=1.0)
    assert stream.isatty()
    os.close(other)
    with pytest.raises(OSError, match="Input/output error"):
      print("x", file=stream, flush=True)
    progress.advance(1, "step", images_per_second=1.0)
    progress.note("it goes on")
    progress.close()
    sys.stderr.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # so that closing it works


def test_a_stream_that_works_has_every_word():
  stream = io.StringIO()
  told = streams.Forgiving(stream)
  print("a", "b", file=told, flush=True)
  told.writelines(["c\n", "d\n"])
  assert stream.getvalue() == "a b\nc\nd\n"
  assert not told.isatty()


def test_a_descriptor_that_was_closed_drops_everything():
  told = streams.Forgiving(None)
  print("a", file=told, flush=True)
  assert not told.isatty()


def shell(line, **env):
  """What bash gives for a line in which `jaxtl` is the command line, and the exit codes of its pipe."""
  script = f'jaxtl() {{ {sys.executable} -m jaxtl "$@"; }}; {line}; echo codes ${{PIPESTATUS[@]}}'
  path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
  done = subprocess.run(
    ["bash", "-c", script],
    cwd=ROOT,
    env={**os.environ, "PYTHONPATH": path, **env},
    capture_output=True,
    text=True,
    timeout=900,
  )
  return done.stdout + done.stderr


@pytest.mark.parametrize("sink", ["2>&1 | head -1", "2>&- >&-", "> /dev/full 2> /dev/full"])
def test_a_run_that_nobody_hears_ends_well(tmp_path, sink):
  config = write_config(tmp_path / "c.py", epochs=1.0)
  config.write_text(config.read_text().replace("'seeds': [0]", "'seeds': [0, 1, 2]"))
  workdir = tmp_path / "run"
  text = shell(f"jaxtl run {config} --workdir {workdir} --num-devices 1 --no-report {sink}")
  assert "codes 0" in text, text
  assert "Traceback" not in text
  assert '"code": 0' in (workdir / "exit_reason.json").read_text()
  assert {path.parent.name for path in workdir.glob("arm/*/rows.jsonl")} == {"0", "1", "2"}


def test_a_product_that_a_full_disk_loses_is_an_error_and_a_reader_that_left_is_none(capfd, monkeypatch):
  config = str(ROOT / "configs" / "quickstart.py")
  with open("/dev/full", "w") as full:
    monkeypatch.setattr(sys, "stdout", full)
    assert cli.main(["check", config, "--print-config"]) == 5
  assert "No space left on device" in capfd.readouterr().err
  reader, end = os.pipe()
  os.close(reader)
  with open(end, "w") as left:
    monkeypatch.setattr(sys, "stdout", left)
    assert cli.main(["check", config, "--print-config"]) == 0
    os.dup2(os.open(os.devnull, os.O_WRONLY), end)
  assert capfd.readouterr().err == ""
