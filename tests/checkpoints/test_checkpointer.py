"""A restart reads arrays once: they are compared when restored, and their files only where one differs."""

import errno
import os
import random
import shutil
import types

import jax
import numpy as np
import pytest

from jaxtl import train
from jaxtl.checkpoints import checkpoint, checkpointer, manifest
from jaxtl.checkpoints.checkpointer import Checkpointer
from jaxtl.errors import DamagedError, StorageError
from jaxtl.host import interruption
from tests.checkpoints.test_checkpoint import CONFIG, DAMAGES, equal, files_of, made_state, saved

pytestmark = pytest.mark.slow


def flipped(content: bytes, bit: int) -> bytes:
  changed = bytearray(content)
  changed[bit // 8] ^= 1 << bit % 8
  return bytes(changed)


def restored(folder, notes):
  """The state that a run goes on from, which asks for no step before, and its number."""
  saver = Checkpointer(folder, note=notes.append)
  assert saver.has_steps()
  state = saver.restore(made_state(0))
  saver.close()
  return state, saver.latest_step()


def mended(folder, file, content):
  """The folder as it was before `file` was damaged."""
  if (folder / "2.damaged").exists():
    (folder / "2.damaged").rename(folder / "2")
  file.write_bytes(content)


@pytest.fixture
def folder(tmp_path):
  return saved(tmp_path / "c", 1, 2)


@pytest.fixture
def hashed(monkeypatch):
  """The files that are hashed."""
  found, original = [], manifest._file
  monkeypatch.setattr(manifest, "_file", lambda path: (found.append(path), original(path))[1])
  return found


def test_the_arrays_of_a_whole_step_are_read_once(folder, hashed):
  saver = Checkpointer(folder)
  equal(saver.restore(made_state(0)), made_state(2))
  others = {path for path in files_of(folder / "2") if "/d/" not in str(path)} - {
    folder / "2" / manifest.NAME
  }
  assert set(hashed) == others
  assert saver.latest_step() == 2
  assert len(hashed) == len(others)
  saver.close()


def test_who_asks_before_it_restores_has_every_file_compared(folder, hashed):
  saver = Checkpointer(folder)
  assert saver.latest_step() == 2
  assert set(hashed) == set(files_of(folder / "2")) - {folder / "2" / manifest.NAME}
  saver.close()


@pytest.mark.parametrize("damage", ["half", "zeros"])
def test_a_restore_goes_around_any_file_that_is_cut_off_or_longer(folder, damage):
  for file in files_of(folder / "2"):
    content, notes = file.read_bytes(), []
    file.write_bytes(DAMAGES[damage](content))
    state, step = restored(folder, notes)
    assert step == 1
    equal(state, made_state(1))
    assert len(notes) == 1
    assert file.name in notes[0]
    mended(folder, file, content)


def test_a_restore_is_bit_for_bit_a_saved_state_whichever_bit_is_flipped(folder):
  """Or the file is named and the older state used; a bit that no array is made of may go unseen."""
  rng, gone_around = random.Random(0), 0
  for file in files_of(folder / "2"):
    content = file.read_bytes()
    for _ in range(4 if content else 0):
      notes = []
      file.write_bytes(flipped(content, rng.randrange(8 * len(content))))
      state, step = restored(folder, notes)
      equal(state, made_state(step))
      if step == 1:
        assert file.name in notes[0]
        gone_around += 1
      else:
        assert "/d/" in str(file)
      mended(folder, file, content)
  assert gone_around > 20


def test_a_bit_of_an_array_is_found_by_the_array_and_named_by_the_file(folder):
  wanted = np.asarray(made_state(2).params["w"]).tobytes()
  file = next(path for path in files_of(folder / "2" / "model") if wanted in path.read_bytes())
  content, notes = file.read_bytes(), []
  file.write_bytes(flipped(content, 8 * (content.index(wanted) + len(wanted) // 2)))
  state, step = restored(folder, notes)
  assert step == 1
  equal(state, made_state(1))
  assert f"{file.name} has changed since it was saved" in notes[0]


def test_where_no_array_is_what_was_saved_a_run_does_not_start_anew(folder):
  for step in ("1", "2"):
    for file in files_of(folder / step):
      if "/d/" in str(file):
        file.write_bytes(flipped(bytes(file.stat().st_size), 0))
  saver = Checkpointer(folder, note=lambda text: None)
  with pytest.raises(StorageError, match="no intact step, and 2 damaged"):
    saver.restore(made_state(0))
  saver.close()


@pytest.mark.parametrize("kind", ["/d/", "config/"])
def test_what_begins_anew_where_no_step_is_whole_says_so_and_leaves_them(folder, kind):
  """Found when its arrays are restored, or before that."""
  for step in ("1", "2"):
    for file in files_of(folder / step):
      if kind in str(file):
        file.write_bytes(flipped(file.read_bytes(), 0))
  notes = []
  saver = Checkpointer(folder, note=notes.append, restart_if_damaged=True)
  like = made_state(0)
  assert saver.has_steps() == (kind == "/d/")
  assert saver.restore(like) is like
  assert not saver.has_steps()
  assert [note.rpartition("; ")[2] for note in notes] == [
    "trying step 1 next",
    "there is no older step",
    "this training starts over",
  ]
  saver.save(made_state(2), CONFIG, last=True)
  assert len(notes) == 3
  equal(saver.restore(like), made_state(2))
  saver.close()
  assert {path.name for path in folder.iterdir()} == {"1.damaged", "2.damaged", "2"}


def test_a_step_that_was_not_looked_at_yet_is_not_taken_for_saved(folder):
  file = max(files_of(folder / "2"), key=lambda path: ("/d/" in str(path), path.stat().st_size))
  file.write_bytes(flipped(file.read_bytes(), 0))
  notes = []
  saver = Checkpointer(folder, note=notes.append)
  saver.save(made_state(2), CONFIG, last=True)
  assert file.name in notes[0]
  equal(saver.restore(made_state(0)), made_state(2))
  saver.close()


def test_a_run_goes_on_from_before_a_damaged_array_and_ends_the_same(tiny, runtime, tmp_path):
  experiment = tiny(epochs=1.0, checkpoint_every=3, evaluation={})
  whole = train.run(experiment, seed=0, runtime=runtime(), workdir=tmp_path)
  files = [path for path in files_of(tmp_path / "checkpoints" / "6" / "model") if "/d/" in str(path)]
  file = max(files, key=lambda path: path.stat().st_size)  # the arrays themselves
  content = file.read_bytes()
  file.write_bytes(flipped(content, 4 * len(content)))
  again = train.run(experiment, seed=0, runtime=runtime(), workdir=tmp_path)
  jax.tree.map(np.testing.assert_array_equal, whole.weights.params, again.weights.params)
  assert (tmp_path / "checkpoints" / "6.damaged").exists()


@pytest.mark.parametrize("name", ["2", "9"])
def test_a_copy_under_another_name_is_damaged_and_saving_that_step_works(folder, name):
  shutil.rmtree(folder / name, ignore_errors=True)
  shutil.copytree(folder / "1", folder / name)
  with pytest.raises(
    DamagedError, match=rf"the manifest of .*/{name} says step 1; rename it to 1, or use another"
  ):
    checkpoint.load(folder / name)
  notes = []
  state, step = restored(folder, notes)
  newest = 1 if name == "2" else 2
  assert step == newest
  equal(state, made_state(newest))
  assert len(notes) == 1
  assert f"the manifest of {folder / name} says step 1" in notes[0]
  saved(folder, int(name))
  equal(checkpoint.load(folder).params, made_state(int(name)).params)
  assert {path.name for path in folder.iterdir()} == {str(newest), name, f"{name}.damaged"}


def test_a_copy_that_appears_during_a_run_makes_way_and_costs_no_step(folder):
  notes = []
  saver = Checkpointer(folder, note=notes.append)
  assert saver.latest_step() == 2
  shutil.copytree(folder / "2", folder / "9")
  for step in (3, 4, 9):
    saver.save(made_state(step), CONFIG, last=True)
  saver.close()
  assert {path.name for path in folder.iterdir()} == {"4", "9", "9.damaged"}
  equal(checkpoint.load(folder).params, made_state(9).params)
  assert notes == [f"{folder / '9'} exists and does not belong to this run; renamed to 9.damaged"]


def test_a_copy_elsewhere_has_any_name_that_is_no_number(folder, tmp_path):
  shutil.copytree(folder / "2", tmp_path / "best")
  equal(checkpoint.load(tmp_path / "best").params, made_state(2).params)


def test_a_folder_with_a_number_that_no_step_is_written_with_is_no_step(folder):
  shutil.copytree(folder / "1", folder / "007")
  assert sorted(checkpoint.steps_in(folder)) == [1, 2]


@pytest.fixture
def clock(monkeypatch):
  """Time that passes only where it is waited or written: `clock.now`."""
  made = types.SimpleNamespace(now=1000.0, monotonic=lambda: made.now, sleep=None)

  def sleep(seconds):
    made.now += seconds

  made.sleep = sleep
  monkeypatch.setattr(checkpointer, "time", made)
  return made


@pytest.mark.parametrize(("seconds", "attempts"), [(0.0, 4), (0.5, 4), (2.0, 3), (5.0, 2), (15.0, 1)])
def test_the_last_save_gives_up_inside_the_grace_however_slow_the_disk(
  tmp_path, clock, monkeypatch, seconds, attempts
):
  tried = []

  def full(*_):
    tried.append(clock.now)
    clock.now += seconds
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(manifest, "write", full)
  saver = Checkpointer(tmp_path / "c", note=lambda text: None)
  began = clock.now
  with pytest.raises(StorageError, match="the last checkpoint, of step 1, cannot be written") as caught:
    saver.save(made_state(1), CONFIG, last=True)
  assert caught.value.code == 5
  assert clock.now - began <= checkpointer.LONGEST < interruption.GRACE
  assert len(tried) == attempts
  saver.close()


def test_a_disk_that_is_free_again_in_time_has_the_last_save(tmp_path, clock, monkeypatch):
  write = manifest.write

  def full_for_ten_seconds(*arguments):
    if clock.now < 1010.0:
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return write(*arguments)

  monkeypatch.setattr(manifest, "write", full_for_ten_seconds)
  saver = Checkpointer(tmp_path / "c", note=lambda text: None)
  saver.save(made_state(1), CONFIG, last=True)
  assert saver.latest_step() == 1
  assert clock.now == 1000.0 + 1 + 5 + 10
  saver.close()
