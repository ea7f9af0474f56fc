"""What the watchdog takes for a hang, and what it does not."""

import errno
import fcntl
import os
import time

import numpy as np
import pytest

from jaxtl.errors import InputError
from jaxtl.host import folder_lock, interruption
from jaxtl.host.interruption import Watchdog
from jaxtl.metrics import Mean
from jaxtl.train.evaluate import collect_features, evaluate

BATCHES = 12  # of 96 images


@pytest.fixture
def ended(monkeypatch):
  """The hangs that were found; finding one ends nothing here."""
  found = []
  monkeypatch.setattr(interruption, "exit_now", lambda folder, reason, **options: found.append(reason))
  return found


@pytest.fixture
def watched(tiny, runtime):
  """A runtime whose watchdog waits for two seconds, and the batches of an evaluation under it."""
  place = runtime()
  data = tiny(evaluation={"test": tiny().evaluation["test"].__dict__ | {"batch_size": 8}}).evaluation["test"]
  batches = place.eval_batches(data)
  assert len(list(batches)) == BATCHES
  place.watchdog = Watchdog(limit=2.0)
  return place, batches


def pass_of(kind, place, batches, pause):
  """One pass that takes `pause(n)` seconds for batch n."""
  calls = iter(range(BATCHES))

  def measure(params, batch_stats, batch):
    time.sleep(pause(next(calls)))
    return {"x": Mean.of(batch["label"] * 0.0, batch["mask"])}

  def features(params, batch_stats, image):
    time.sleep(pause(next(calls)))
    return np.zeros((len(image), 2), np.float32)

  if kind == "evaluate":
    evaluate(measure, {}, {}, batches, mesh=place.mesh)
  else:
    collect_features(features, {}, {}, batches, mesh=place.mesh)


@pytest.mark.parametrize("kind", ["evaluate", "collect_features"])
def test_a_pass_that_is_longer_than_the_limit_is_no_hang_and_a_batch_is(watched, ended, kind):
  place, batches = watched
  began = time.monotonic()
  with place.watched():
    pass_of(kind, place, batches, lambda number: 0.25)
  assert time.monotonic() - began > place.watchdog.limit
  assert not ended
  with place.watched():
    pass_of(kind, place, batches, lambda number: 3.5 if number == 5 else 0.0)
  assert set(ended) == {"no progress for 2 s"}


def test_who_does_not_watch_finds_nothing(watched, ended):
  place, batches = watched
  place.watchdog.limit = 0.2
  pass_of("evaluate", place, batches, lambda number: 0.1 if number else 0.5)
  with place.watched():
    pass
  assert not ended


def lock_fails(monkeypatch, code):
  def refuse(file, operation):
    raise OSError(code, os.strerror(code))

  monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_noted_and_the_run_goes_on(tmp_path, monkeypatch, code):
  lock_fails(monkeypatch, code)
  notes, folder = [], tmp_path / "run"
  with folder_lock.only_run_in(folder, note=notes.append):
    assert str(os.getpid()) in (folder / interruption.LOCK_FILE).read_text()
  assert notes == [
    f"the file system of {folder} has no locks ({os.strerror(code)}): nothing prevents a second run in this "
    "folder, so do not start one"
  ]


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EPERM])
def test_a_lock_that_fails_otherwise_names_folder_and_remedy(tmp_path, monkeypatch, code):
  lock_fails(monkeypatch, code)
  with pytest.raises(InputError) as caught, folder_lock.only_run_in(tmp_path):
    pass
  assert str(caught.value) == f"cannot lock {tmp_path}: {os.strerror(code)}; give another --workdir"


def test_a_lock_that_works_says_nothing(tmp_path):
  notes = []
  with (
    folder_lock.only_run_in(tmp_path, note=notes.append),
    pytest.raises(InputError, match="is in use by process"),
    folder_lock.only_run_in(tmp_path),
  ):
    pass
  assert not notes
