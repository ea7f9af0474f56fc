"""What is no damage, and renames nothing: a disk that gives no answer, and a manifest of another format."""

import errno
import hashlib
import json
import os

import pytest

from jaxtl import cli
from jaxtl.checkpoints import checkpoint, manifest
from jaxtl.checkpoints.checkpointer import Checkpointer
from jaxtl.errors import CheckpointError, StorageError
from tests.checkpoints.test_checkpoint import equal, made_state, saved

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
  monkeypatch.setattr(manifest, "ASK_AGAIN", (0.0, 0.0))


@pytest.fixture
def folder(tmp_path):
  return saved(tmp_path / "checkpoints", 1, 2)


@pytest.fixture
def refuse(monkeypatch):
  """Makes a function of `manifest` fail for one path, so many times."""

  def make(name, path, code, *, times=10**6):
    original, left = getattr(manifest, name), [times]

    def failing(given, *arguments, **keywords):
      if os.fspath(given) == os.fspath(path) and left[0]:
        left[0] -= 1
        raise OSError(code, os.strerror(code), os.fspath(given))
      return original(given, *arguments, **keywords)

    monkeypatch.setattr(manifest, name, failing)

  return make


def names(folder):
  return {path.name for path in folder.iterdir()}


def another_format(step, number=7):
  """Rewrites a manifest as another version of jaxtl would have written it: whole, by its own digest."""
  value = {"format": number, "arrays": ["something else"]}
  digest = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
  (step / manifest.NAME).write_text(json.dumps({**value, "digest": digest}))


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EACCES])
@pytest.mark.parametrize(("name", "file"), [("_text", "manifest.json"), ("_file", "config/metadata")])
def test_a_file_that_cannot_be_read_is_not_damaged(folder, refuse, code, name, file):
  path = folder / "2" / file
  refuse(name, path, code)
  for read in (lambda: Checkpointer(folder), lambda: checkpoint.load(folder)):
    with pytest.raises(StorageError) as caught:
      read()
    assert caught.value.code == 5
    assert f"{path} cannot be read: {os.strerror(code)}; nothing has been changed" in str(caught.value)
    assert "\n" not in str(caught.value)
  assert names(folder) == {"1", "2"}


def test_a_folder_that_cannot_be_listed_is_not_an_empty_one(folder, monkeypatch):
  scandir = os.scandir

  def refuse(path):
    if os.fspath(path).endswith("2/model"):
      raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), os.fspath(path))
    return scandir(path)

  monkeypatch.setattr(os, "scandir", refuse)
  with pytest.raises(StorageError, match=r"2/model cannot be read: Stale file handle"):
    Checkpointer(folder)
  monkeypatch.undo()
  assert names(folder) == {"1", "2"}


@pytest.mark.parametrize(("name", "file"), [("_text", "manifest.json"), ("_file", "config/metadata")])
def test_a_disk_that_answers_the_second_time_is_enough(folder, refuse, name, file):
  refuse(name, folder / "2" / file, errno.EIO, times=2)
  notes = []
  saver = Checkpointer(folder, note=notes.append)
  assert saver.latest_step() == 2
  equal(saver.restore(made_state(0)), made_state(2))
  saver.close()
  assert not notes


def test_a_manifest_of_another_format_is_refused_with_both_versions(folder):
  another_format(folder / "2")
  for read in (lambda: Checkpointer(folder), lambda: checkpoint.load(folder)):
    with pytest.raises(CheckpointError) as caught:
      read()
    assert caught.value.code == 2
    assert f"has format 7, and this version of jaxtl reads format {manifest.FORMAT}" in str(caught.value)
    assert "\n" not in str(caught.value)
  assert names(folder) == {"1", "2"}


def test_a_format_that_the_digest_does_not_cover_is_damage(folder):
  path = folder / "2" / manifest.NAME
  path.write_text(path.read_text().replace('"format": 1', '"format": 3'))
  notes = []
  saver = Checkpointer(folder, note=notes.append)
  assert saver.latest_step() == 1
  saver.close()
  assert "its format is 3, not 1, and its contents do not match its digest" in notes[0]
  assert names(folder) == {"1", "2.damaged"}


def test_verify_tells_what_is_damaged_from_what_is_not(tmp_path, refuse, capsys):
  folder = saved(tmp_path / "checkpoints", 1, 2, 3, keep=3)

  def verdicts():
    code = cli.main(["ckpt", "verify", str(tmp_path)])
    return code, [line.split()[0] for line in capsys.readouterr().out.splitlines()]

  assert verdicts() == (0, ["whole", "whole", "whole"])
  another_format(folder / "3")
  assert verdicts() == (2, ["whole", "whole", "unknown"])
  refuse("_file", folder / "2" / "config" / "metadata", errno.EIO)
  assert verdicts() == (5, ["whole", "unread", "unknown"])
  (folder / "1" / "config" / "metadata").write_bytes(b"x")
  assert verdicts() == (5, ["damaged", "unread", "unknown"])
  assert names(folder) == {"1", "2", "3"}


def test_a_damaged_step_that_cannot_be_put_aside_is_one_line(folder, monkeypatch):
  (folder / "2" / manifest.NAME).write_text("{")

  def refuse(self, target):
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), os.fspath(self))

  monkeypatch.setattr(type(folder), "rename", refuse)
  with pytest.raises(StorageError, match=r"2 is damaged, and cannot be renamed to 2\.damaged: Read-only"):
    Checkpointer(folder, note=lambda text: None)
