"""The garbage collector is off during imports of large libraries, and afterwards as it was before."""

import gc
import subprocess
import sys

import pytest

from jaxtl import cli, imports
from jaxtl.imports import without_collection


@pytest.fixture(autouse=True)
def as_before():
  """Whatever a test does to the collector, the next one finds it as it was."""
  enabled = gc.isenabled()
  yield
  (gc.enable if enabled else gc.disable)()


def test_nothing_is_collected_inside_and_the_collector_is_on_again_after():
  gc.enable()
  with without_collection():
    assert not gc.isenabled()
    with without_collection():
      assert not gc.isenabled()
    assert not gc.isenabled()
  assert gc.isenabled()


def test_a_collector_that_was_off_stays_off():
  gc.disable()
  with without_collection():
    assert not gc.isenabled()
  assert not gc.isenabled()


def test_an_import_that_fails_turns_it_on_again():
  gc.enable()
  with pytest.raises(ImportError), without_collection():
    raise ImportError("no such library")
  assert gc.isenabled()


def test_a_programs_own_objects_are_not_frozen(capsys):
  """JAX is loaded here: the process does not belong to the command."""
  before = gc.get_freeze_count()
  assert cli.main(["models"]) == 0
  with without_collection():
    pass
  assert not imports._freezes
  assert gc.get_freeze_count() == before


def test_a_command_freezes_what_its_imports_made():
  code = (
    "import gc, sys\nfrom jaxtl import cli\nassert gc.get_freeze_count() == 0\n"
    "assert cli.main(['models']) == 0\nprint('frozen:', gc.get_freeze_count() > 0, gc.isenabled())"
  )
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
  assert "frozen: True True" in done.stdout, done.stderr
