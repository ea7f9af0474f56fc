"""A file of a run's folder that was damaged between two sessions is one line, and never a traceback."""

import json
import shutil

import pytest

from jaxtl.errors import InputError, StorageError
from jaxtl.studies import results, study
from jaxtl.train.processes import remember
from jaxtl.train.training import Detours

EVERYWHERE = {
  "empty": lambda content: b"",
  "torn": lambda content: content[: len(content) // 2],
  "no JSON": lambda content: b"what is this\n",
  "no text": lambda content: b"\xff\xfe\x00" + content,
  "deep": lambda content: b"[" * 100_000,
  "a number": lambda content: b"3\n",
}


def other(text):
  return lambda content: text.encode()


OF_OTHER_TYPES = {
  "env.json": {"later": other('{"later": 3}'), "later ones": other('{"later": [3]}')},
  "data.json": {"a source": other('{"x": 3}'), "its facts": other('{"x": {"name": "y"}}')},
  "arm/0/rows.jsonl": {"a list": other("[]\n"), "an arm": other('{"arm": 3, "seed": 0}\n')},
  "config.json": {"a list": other("[]")},
}
REFUSED = [
  (name, damage, spoil)
  for name in OF_OTHER_TYPES
  for damage, spoil in {**EVERYWHERE, **OF_OTHER_TYPES[name]}.items()
  # Of lines, none is as good as any: a study may have no rows.
  if (name, damage) != ("arm/0/rows.jsonl", "empty")
]


@pytest.fixture
def config(study_config):
  study_config["arms"] = dict(arm={})
  study_config["base"] |= dict(tune=None, flatness=None, transfer=None, epochs=0.5)
  return study_config


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
  return tmp_path_factory.mktemp("kept") / "run"


@pytest.fixture
def session(config, runtime, kept, tmp_path):
  """Runs what is left of the study in a copy of a finished run, and returns the notes."""
  if not kept.exists():
    study.run_study(config, workdir=kept, runtime=runtime())
  folder = tmp_path / "run"
  shutil.copytree(kept, folder)

  def again():
    place, notes = runtime(), []
    place.progress.note = notes.append
    study.run_study(config, workdir=folder, runtime=place)
    return notes

  return folder, again


def damage(path, spoil):
  path.write_bytes(spoil(path.read_bytes() if path.exists() else b'[{"step": 1, "offset": 1}]'))


def refused(action, kind, path):
  with pytest.raises(kind) as caught:
    action()
  said = str(caught.value)
  assert str(path) in said
  assert "damaged" in said
  assert "\n" not in said
  return said


@pytest.mark.parametrize(("name", "spoil"), [(name, spoil) for name, _, spoil in REFUSED])
def test_what_a_run_is_known_by_is_refused_in_one_line(session, name, spoil):
  folder, again = session
  damage(folder / name, spoil)
  if not name.endswith("rows.jsonl"):
    (folder / "arm" / "0" / "rows.jsonl").unlink()  # something is left to do
  refused(again, InputError, folder / name)


@pytest.mark.parametrize("spoil", [*EVERYWHERE.values(), other("{}"), other("[3]"), other('[{"step": "x"}]')])
def test_a_run_that_cannot_know_what_it_went_around_ends_with_5(session, spoil):
  folder, again = session
  path = folder / "arm" / "0" / "detours.json"
  damage(path, spoil)
  (folder / "arm" / "0" / "rows.jsonl").unlink()
  said = refused(again, StorageError, path)
  assert "bring it back, or give another --workdir to start anew" in said


def test_detours_that_are_whole_are_read(tmp_path):
  (tmp_path / "detours.json").write_text('[{"step": 4, "offset": 2}]')
  assert Detours(tmp_path).offset(5) == 2


@pytest.mark.parametrize(
  "line", ["", "wh", '{"step": 1, "train/lo', "[]", '{"step": "x"}', '{"loss": 1}', "[" * 10**5, "\udcff"]
)
def test_a_line_of_the_metrics_that_is_torn_or_damaged_is_left_out(session, line):
  folder, again = session
  path = folder / "arm" / "0" / "metrics.jsonl"
  whole = path.read_text()
  path.write_bytes(whole.encode() + line.encode(errors="surrogateescape"))
  (folder / "arm" / "0" / "rows.jsonl").unlink()
  notes = again()
  assert path.read_text() == whole
  assert (f"{path}: 1 lines are torn or damaged, and are left out" in notes) == bool(line)


@pytest.mark.parametrize("spoil", [EVERYWHERE[name] for name in ("no JSON", "no text", "a number")])
def test_a_report_refuses_damaged_metrics_in_one_line(session, spoil):
  folder, _ = session
  path = folder / "arm" / "0" / "metrics.jsonl"
  damage(path, spoil)
  refused(lambda: results.load(folder), InputError, path)


@pytest.mark.parametrize("spoil", EVERYWHERE.values())
def test_a_result_that_is_damaged_says_that_it_can_be_measured_again(tmp_path, spoil):
  path = tmp_path / "two.fine_tune.json"
  path.write_bytes(spoil(json.dumps({"accuracy": 0.5}).encode()))
  said = refused(lambda: remember(path, dict), InputError, path)
  assert "remove it, and it is measured again" in said
