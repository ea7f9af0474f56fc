"""`jaxtl tensorboard`: which program it becomes, and one line where it cannot."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import jaxtl
from jaxtl.host.metrics_log import MetricsWriter
from tests.pretrained.made_weights import refused

STUB = "import sys\nprint('tensorboard got', sys.argv[1:])\nsys.exit(7)\n"


@pytest.fixture
def run(tmp_path, monkeypatch):
  """A folder with a run of one record, which is the current folder."""
  monkeypatch.chdir(tmp_path)
  writer = MetricsWriter(tmp_path / "runs" / "arm" / "0", start_step=0)
  writer.write(1, {"loss": 1.0})
  writer.close()
  return "runs"


def started(*arguments: str) -> subprocess.CompletedProcess:
  """Runs the command with a package `tensorboard` that prints what it is given."""
  package = Path("site", "tensorboard")
  package.mkdir(parents=True)
  (package / "__init__.py").write_text("")
  (package / "main.py").write_text(STUB)
  facts = Path("site", "tensorboard-2.21.0.dist-info")
  facts.mkdir()
  (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: tensorboard\nVersion: 2.21.0\n")
  path = os.pathsep.join([str(Path("site").absolute()), str(Path(jaxtl.__file__).parents[1])])
  return subprocess.run(
    [sys.executable, "-m", "jaxtl", "tensorboard", *arguments],
    env={**os.environ, "PYTHONPATH": path},
    capture_output=True,
    text=True,
    timeout=60,
  )


def test_it_becomes_tensorboard_with_its_options_and_its_exit_code(run):
  Path("tensorboard").mkdir()  # a folder of that name is not the package
  Path("tensorboard", "main.py").write_text("raise SystemExit('not this one')\n")
  done = started(run, "--port", "7007", "--host", "0.0.0.0")
  assert done.stdout == f"tensorboard got ['--logdir', '{run}', '--host=0.0.0.0', '--port=7007']\n", (
    done.stderr
  )
  assert done.returncode == 7


def test_without_options_tensorboard_chooses(run):
  assert started(run).stdout == f"tensorboard got ['--logdir', '{run}']\n"


def test_the_extra_is_named_where_it_is_missing(run, capsys, monkeypatch):
  from importlib import metadata

  def version(name):
    raise metadata.PackageNotFoundError(name)

  monkeypatch.setattr(metadata, "version", version)
  assert "pip install 'jaxtl[tensorboard]'" in refused(capsys, "tensorboard", run)


def test_a_folder_without_events_is_one_line(run, capsys, tmp_path):
  assert "no folder nowhere; give the folder of a run" in refused(capsys, "tensorboard", "nowhere")
  (tmp_path / "empty").mkdir()
  assert "empty has no TensorBoard events yet" in refused(capsys, "tensorboard", "empty")


def test_it_imports_no_jax(run):
  code = (
    "import sys; from jaxtl import cli; cli.main(['tensorboard', 'nowhere']); sys.exit('jax' in sys.modules)"
  )
  path = str(Path(jaxtl.__file__).parents[1])
  environment = {**os.environ, "PYTHONPATH": path}
  assert subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True).returncode == 0
