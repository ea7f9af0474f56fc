"""The contract of checkpoints: what is restored is what was saved, bit for bit, or it is refused by name."""

import dataclasses
import errno
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxtl import train
from jaxtl.checkpoints import checkpoint, checkpointer, inspection, manifest
from jaxtl.checkpoints.checkpointer import Checkpointer
from jaxtl.errors import CheckpointError, ConfigError, StorageError
from jaxtl.types import TrainState

pytestmark = pytest.mark.slow

CONFIG = {
  "model": {"make": ".models.resnet8"},
  "classes": ["a", "b"],
  "image_shape": [8, 8, 3],
  "transforms": None,
}
DAMAGES = {
  "bit": lambda data: data[:-1] + bytes([data[-1] ^ 1]) if data else b"\1",
  "half": lambda data: data[: len(data) // 2] if data else b"\1",
  "zeros": lambda data: bytes(len(data) + 1),
  "nothing": lambda data: b"" if data else b"\0",
}


@pytest.fixture
def run(tiny, runtime, tmp_path):
  trained = train.run(tiny(epochs=0.5), seed=0, runtime=runtime(8), workdir=tmp_path / "run")
  return tmp_path / "run", trained


def made_state(step: int, *, size: int = 5) -> TrainState:
  values = jax.random.normal(jax.random.key(step), (size, 3))
  momentum = (values * 2, {"count": np.int32(step)})
  return jax.tree.map(jax.numpy.asarray, TrainState(np.int32(step), {"w": values}, {}, momentum))


def equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def files_of(folder: Path) -> list[Path]:
  return sorted(path for path in folder.rglob("*") if path.is_file())


def saved(folder: Path, *steps: int, keep: int = 2) -> Path:
  saver = Checkpointer(folder, keep=keep)
  for step in steps:
    saver.save(made_state(step), CONFIG, last=True)
  saver.close()
  return folder


def test_the_model_item_loads_without_model_code(run):
  folder, trained = run
  for path in (folder, folder / "checkpoints", folder / "checkpoints" / "3"):
    weights = checkpoint.load(path)
    equal(weights.params, trained.weights.params)
    equal(weights.batch_stats, trained.weights.batch_stats)
  assert weights.classes == ("a", "b", "c")
  assert weights.config["model"] == {"make": ".models.resnet8", "width": 4}
  assert weights.config["image_shape"] == [8, 8, 3]
  assert weights.config["transforms"] == [{"fn": ".data.normalize"}]
  assert weights.config["step"] == 3


def test_a_checkpoint_has_three_items(run):
  names = {p.name for p in (run[0] / "checkpoints" / "3").iterdir() if p.is_dir()}
  assert names == {"model", "optimizer", "config"}


def test_what_is_restored_is_what_was_saved(tmp_path):
  folder = saved(tmp_path / "c", 3, 7)
  saver = Checkpointer(folder)
  assert saver.latest_step() == 7
  equal(saver.restore(made_state(0)), made_state(7))
  assert saver.config() == {**CONFIG, "step": 7}
  saver.close()


def test_the_manifest_has_every_array_by_its_digest(tmp_path):
  found = manifest.read(saved(tmp_path / "c", 3) / "3")
  assert set(found.leaves) == {
    "model/params/w",
    "optimizer/opt_state/0",
    "optimizer/opt_state/1/count",
    "optimizer/step",
  }
  assert found.leaves["model/params/w"] == manifest.leaves_of(made_state(3).params)["w"]
  assert found.leaves["model/params/w"].sha256 != manifest.leaves_of(made_state(4).params)["w"].sha256
  assert found.num_bytes == sum(p.stat().st_size for p in files_of(tmp_path / "c" / "3")) - len(found.text())


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_to_any_file_is_found_and_the_older_step_used(tmp_path, damage):
  folder = saved(tmp_path / "c", 1, 2)
  sound = tmp_path / "sound"
  shutil.copytree(folder, sound)
  for file in files_of(folder / "2"):
    shutil.rmtree(folder)
    shutil.copytree(sound, folder)
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    with pytest.raises(CheckpointError, match=file.name):
      checkpoint.load(folder)
    notes = []
    saver = Checkpointer(folder, note=notes.append)
    assert saver.latest_step() == 1
    equal(saver.restore(made_state(0)), made_state(1))
    saver.close()
    assert len(notes) == 1
    assert file.name in notes[0]
    assert notes[0].endswith("Renamed to 2.damaged; trying step 1 next")
    assert (folder / "2.damaged" / file.relative_to(folder / "2")).exists()  # renamed, not deleted


def test_a_missing_and_a_foreign_file_are_found(tmp_path):
  folder = saved(tmp_path / "c", 1, 2)
  for file in files_of(folder / "2"):
    content = file.read_bytes()
    file.unlink()
    with pytest.raises(CheckpointError, match=file.name):
      checkpoint.load(folder)
    file.write_bytes(content)
  assert checkpoint.load(folder).config["step"] == 2
  (folder / "2" / "model" / "more").write_text("x")
  with pytest.raises(CheckpointError, match="more does not belong to this checkpoint"):
    checkpoint.load(folder)


def test_a_link_is_never_followed(tmp_path):
  folder = saved(tmp_path / "c", 1)
  secret = tmp_path / "secret"
  secret.write_text("x")
  (folder / "1" / "model" / "link").symlink_to(secret)
  with pytest.raises(CheckpointError, match="is a link"):
    checkpoint.load(folder)


def test_a_run_with_damaged_steps_alone_does_not_start_anew(tmp_path):
  folder = saved(tmp_path / "c", 1, 2)
  for step in ("1", "2"):
    (folder / step / "manifest.json").unlink()
  for _ in range(2):  # nor the second time
    with pytest.raises(StorageError, match="no intact step, and 2 damaged") as caught:
      Checkpointer(folder)
    assert caught.value.code == 5


@pytest.mark.parametrize(
  "text",
  [
    "",
    "[]",
    "{",
    "[" * 100_000,
    '{"format": 1}',
    '{"format": 2, "step": 1, "leaves": {}, "files": {}, "digest": ""}',
    '{"format": 1, "step": 1, "leaves": {}, "files": {"../../secret": [1, "x"]}, "digest": "x"}',
    '{"format": 1, "step": "x", "leaves": 3, "files": null, "digest": "x"}',
  ],
)
def test_a_hostile_manifest_is_one_line(tmp_path, text):
  folder = saved(tmp_path / "c", 1)
  (folder / "1" / "manifest.json").write_text(text)
  with pytest.raises(CheckpointError, match="is damaged") as caught:
    manifest.verify_files(folder / "1")
  assert "\n" not in str(caught.value)


def test_a_manifest_cannot_be_changed_without_being_found(tmp_path):
  folder = saved(tmp_path / "c", 1)
  path = folder / "1" / "manifest.json"
  value = json.loads(path.read_text())
  value["step"] = 9
  path.write_text(json.dumps(value))
  with pytest.raises(CheckpointError, match="do not match its digest"):
    manifest.read(folder / "1")


def test_another_structure_is_a_table_of_differences(tmp_path):
  folder = saved(tmp_path / "c", 1)
  saver = Checkpointer(folder)
  like = dataclasses.replace(made_state(0, size=4), batch_stats={"mean": np.zeros(2, np.float32)})
  with pytest.raises(CheckpointError) as caught:
    saver.restore(like)
  saver.close()
  assert "missing model/batch_stats/mean float32[2]" in str(caught.value)
  assert "model/params/w is float32[5, 3], not float32[4, 3]" in str(caught.value)


def test_only_the_newest_stay(tmp_path):
  for keep, left in ((1, {"5"}), (2, {"4", "5"}), (3, {"3", "4", "5"})):
    folder = saved(tmp_path / str(keep), 1, 2, 3, 4, 5, keep=keep)
    assert {path.name for path in folder.iterdir()} == left


def test_a_step_that_is_there_is_left_alone(tmp_path):
  folder = saved(tmp_path / "c", 1)
  before = (folder / "1" / "manifest.json").stat().st_mtime_ns
  saver = Checkpointer(folder)
  saver.save(made_state(1), CONFIG, last=True)
  saver.close()
  assert (folder / "1" / "manifest.json").stat().st_mtime_ns == before


def test_a_save_does_not_read_memory_that_the_next_step_overwrites(tmp_path):
  saver = Checkpointer(tmp_path / "c")
  step = jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)
  state, expected = made_state(1, size=100_000), made_state(1, size=100_000)
  saver.save(state, CONFIG)
  for _ in range(5):
    state = step(state)
  saver.wait()
  equal(saver.restore(expected), expected)
  saver.close()


KILLED_SAVE = """
import os, signal, sys
sys.path.insert(0, {root!r})
import jax
from jaxtl.checkpoints import checkpointer, manifest
from tests.checkpoints.test_checkpoint import CONFIG, made_state
saver = checkpointer.Checkpointer(__import__("pathlib").Path({folder!r}), keep=1)
saver.save(made_state(1), CONFIG, last=True)
die = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
at = {at!r}
if at == "before the manifest":
  manifest.write = die
elif at == "after the manifest":
  write = manifest.write
  manifest.write = lambda *a: (write(*a), die())
elif at == "while an old step goes":
  checkpointer.shutil.rmtree = die
saver.save(made_state(2), CONFIG, last=True)
"""


@pytest.mark.parametrize(
  ("at", "newest"), [("before the manifest", 1), ("after the manifest", 1), ("while an old step goes", 2)]
)
def test_killed_inside_a_save(tmp_path, at, newest):
  folder = tmp_path / "c"
  root = str(Path(__file__).resolve().parents[2])
  script = KILLED_SAVE.format(root=root, folder=str(folder), at=at)
  done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
  assert done.returncode == -9, done.stderr
  assert {p.name for p in folder.iterdir() if p.name.isdecimal()} == {str(newest)}
  saver = Checkpointer(folder)
  assert saver.latest_step() == newest
  equal(saver.restore(made_state(0)), made_state(newest))
  saver.close()
  assert {p.name for p in folder.iterdir()} == {str(newest)}  # nothing half done is left


def test_too_little_space_is_known_before_the_first_step(tmp_path, monkeypatch):
  saver = Checkpointer(tmp_path / "c", keep=2)
  need = 3 * (2 * 15 + 2) * 4
  usage = shutil.disk_usage(tmp_path)
  monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=need - 1))
  with pytest.raises(StorageError, match="needs 384 bytes for 2 checkpoints"):
    saver.check_space(made_state(0))
  monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=need))
  saver.check_space(made_state(0))
  weights = 15 * 4  # of the parameters, without the state of the optimiser
  with pytest.raises(
    StorageError, match=r"being written, and 4 copies of selected weights of 60 bytes; 384 "
  ):
    saver.check_space(made_state(0), copies=4)
  monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=need + 4 * weights))
  saver.check_space(made_state(0), copies=4)
  saver.close()


def test_a_full_disk_delays_saving_and_nothing_else(small_disk):
  notes = []
  saver = Checkpointer(small_disk / "c", note=notes.append, patience=(0.01,))
  saver.save(made_state(1), CONFIG, last=True)
  filler = small_disk / "filler"
  with filler.open("wb") as file:
    file.write(bytes(shutil.disk_usage(small_disk).free - 20_000))
  for step in (2, 3, 4, 5, 6):  # more than the failures that end a run for other reasons
    saver.save(made_state(step, size=20_000), CONFIG)
  saver.wait()
  assert len(notes) == 5
  assert all("the disk is full" in note for note in notes)
  assert saver.latest_step() == 1
  assert {p.name for p in (small_disk / "c").iterdir()} == {"1"}
  with pytest.raises(StorageError, match="the last checkpoint, of step 7, cannot be written"):
    saver.save(made_state(7, size=20_000), CONFIG, last=True)
  filler.unlink()
  saver.save(made_state(8, size=20_000), CONFIG, last=True)
  assert saver.latest_step() == 8
  equal(saver.restore(made_state(0, size=20_000)), made_state(8, size=20_000))
  saver.close()


def test_a_folder_that_is_gone_is_made_again(tmp_path):
  saver = Checkpointer(tmp_path / "run" / "c", note=lambda text: None)
  saver.save(made_state(1), CONFIG, last=True)
  shutil.rmtree(tmp_path / "run")
  saver.save(made_state(2), CONFIG, last=True)
  assert saver.latest_step() == 2
  saver.close()


def test_a_place_that_cannot_be_written_ends_the_run(tmp_path):
  notes = []
  saver = Checkpointer(tmp_path / "c", note=notes.append)
  (tmp_path / "c").write_text("a file where the folder should be")
  for step in (1, 2, 3):
    saver.save(made_state(step), CONFIG)
  with pytest.raises(StorageError, match="3 checkpoints in a row cannot be written") as caught:
    saver.save(made_state(4), CONFIG)
  assert caught.value.code == 5
  assert len(notes) == 3
  saver.close()


def test_a_failure_after_the_arrays_is_seen(tmp_path, monkeypatch):
  notes = []
  saver = Checkpointer(tmp_path / "c", note=notes.append, patience=())
  failing = lambda *a: (_ for _ in ()).throw(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))  # noqa: E731
  write = manifest.write
  monkeypatch.setattr(manifest, "write", failing)
  saver.save(made_state(1), CONFIG)
  saver.wait()
  assert saver.latest_step() is None
  assert not any((tmp_path / "c").iterdir())
  monkeypatch.setattr(manifest, "write", write)
  saver.save(made_state(2), CONFIG, last=True)
  assert saver.latest_step() == 2
  saver.close()


@pytest.mark.parametrize("damage", ["model", "config"])
def test_a_damaged_checkpoint_is_one_line(run, damage):
  for file in (run[0] / "checkpoints" / "3" / damage).rglob("*"):
    if file.is_file():
      file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
  with pytest.raises(CheckpointError, match=r"bytes; \d+ were saved") as caught:
    checkpoint.load(run[0])
  assert "\n" not in str(caught.value)


def test_no_checkpoint_is_one_line(tmp_path):
  with pytest.raises(CheckpointError, match="there is no such folder"):
    checkpoint.load(tmp_path / "nowhere")
  (tmp_path / "empty").mkdir()
  with pytest.raises(CheckpointError, match="expected a run's folder or a folder of steps"):
    checkpoint.load(tmp_path / "empty")


def test_the_newest_step_is_found_by_number_and_not_by_name(tmp_path):
  for step in (9, 10, 100):
    (tmp_path / "checkpoints" / str(step) / "model").mkdir(parents=True)
  (tmp_path / "checkpoints" / "200.writing" / "model").mkdir(parents=True)  # a save that was cut off
  assert checkpoint.find(tmp_path).name == "100"


def test_the_config_item_is_json(run):
  assert json.dumps(checkpoint.load(run[0]).config)


def test_what_a_checkpoint_names_is_used_only_if_it_is_the_librarys_or_trusted(run):
  weights = checkpoint.load(run[0])
  assert weights.model_spec().path == ".models.resnet8"
  weights.config["model"] = {"make": "tests.small_training.squares"}
  with pytest.raises(ConfigError, match="pass --trust"):
    weights.model_spec()
  assert weights.model_spec(trust=True).path == "tests.small_training.squares"


def test_training_does_not_wait_for_a_slow_disk(tmp_path, monkeypatch):
  """The step's arrays are free again while its files are still being written; the next save waits."""
  free = threading.Event()
  write = manifest.write

  def slowly(*arguments):
    assert free.wait(60)
    return write(*arguments)

  monkeypatch.setattr(manifest, "write", slowly)
  saver = Checkpointer(tmp_path)
  saver.save(made_state(1), CONFIG)
  assert saver.latest_step() is None
  assert not (tmp_path / "1").exists()
  free.set()
  saver.save(made_state(2), CONFIG)
  assert saver.latest_step() == 1
  saver.close()
  assert saver.latest_step() == 2


def test_a_step_that_has_lost_all_but_its_name_is_damaged_too(tmp_path):
  folder = saved(tmp_path, 1, 2)
  shutil.rmtree(folder / "2" / "model")
  notes = []
  saver = Checkpointer(folder, note=notes.append)
  assert saver.latest_step() == 1
  assert "has no model/" in notes[0]
  saver.close()
  for path in (folder / "1").iterdir():
    shutil.rmtree(path) if path.is_dir() else path.unlink()
  with pytest.raises(StorageError, match="has no intact step, and 2 damaged"):
    Checkpointer(folder)


def test_a_pipe_is_no_file_of_a_checkpoint(tmp_path):
  folder = saved(tmp_path, 1)
  os.mkfifo(folder / "1" / "model" / "pipe")
  with pytest.raises(CheckpointError, match="pipe is a link or a device"):
    checkpoint.load(folder)


def test_an_old_step_that_cannot_be_removed_stops_nothing(tmp_path, monkeypatch):
  notes = []
  saver = Checkpointer(tmp_path, keep=1, note=notes.append)
  saver.save(made_state(1), CONFIG, last=True)

  def refuse(path):
    raise OSError(errno.EACCES, "not allowed")

  monkeypatch.setattr(checkpointer, "_remove", refuse)
  saver.save(made_state(2), CONFIG, last=True)
  saver.close()
  assert saver.latest_step() == 2
  assert "an old checkpoint cannot be removed" in notes[0]


@pytest.mark.parametrize("arm", ["selected", "checkpoints", "transfer"])
def test_an_arm_of_any_name_is_no_folder_of_steps(tmp_path, arm):
  """Seed 0 of an arm called `selected` is no step 0 of the weights that a run selected."""
  for seed in (0, 1):
    saver = Checkpointer(tmp_path / arm / str(seed) / "checkpoints")
    saver.save(made_state(5), CONFIG, last=True)
    saver.close()
  for folder in (tmp_path, tmp_path / arm):
    with pytest.raises(CheckpointError, match="expected a run's folder or a folder of steps"):
      checkpoint.find(folder)
  run = tmp_path / arm / "1"
  assert checkpoint.find(run) == run / "checkpoints" / "5"
  best = Checkpointer(run / "selected")
  best.save(made_state(3), CONFIG, last=True)
  best.close()
  assert checkpoint.find(run) == run / "selected" / "3"
  found = [verdict.step for verdict in inspection.verify(tmp_path)]
  steps = sorted(str(path.relative_to(tmp_path / arm)) for path in found)
  assert steps == ["0/checkpoints/5", "1/checkpoints/5", "1/selected/3"]


@pytest.mark.parametrize("name", ["metrics.jsonl", "rows.jsonl"])
def test_a_seed_without_checkpoints_is_no_step(tmp_path, name):
  (tmp_path / "selected" / "0").mkdir(parents=True)
  (tmp_path / "selected" / "0" / name).write_text("")
  with pytest.raises(CheckpointError, match="expected a run's folder or a folder of steps"):
    checkpoint.find(tmp_path)


def test_the_runs_below_a_folder_that_is_none_are_named(tmp_path):
  inside = tmp_path / "photos" / "mn" / "0" / "transfer" / "photos" / "fine_tune"
  (inside / "checkpoints" / "7").mkdir(parents=True)
  for folder in (tmp_path / "photos", inside.parents[2]):
    with pytest.raises(CheckpointError, match=f"or a folder of steps, such as {inside}$"):
      checkpoint.find(folder)
  for number in range(4):
    (tmp_path / "many" / "arm" / str(number) / "checkpoints" / "7").mkdir(parents=True)
  with pytest.raises(CheckpointError, match=r"arm/0, .*arm/1, .*arm/2 and more$"):
    checkpoint.find(tmp_path / "many")
