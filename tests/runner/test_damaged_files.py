"""A file of a run's folder that was damaged between two sessions is one line, and never a traceback."""

import contextlib
import itertools
import json
import random
import shutil

import pytest

from jaxtl.errors import InputError, StorageError
from jaxtl.host import metrics_log, sealed_json
from jaxtl.host.remember import remember
from jaxtl.report import results
from jaxtl.runner import provenance, workdir
from jaxtl.runner import run as study
from jaxtl.runner.rows import read_rows
from jaxtl.train.training import Detours

pytestmark = pytest.mark.slow

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
DAMAGED = [
  (name, spoil) for name, more in OF_OTHER_TYPES.items() for spoil in (*EVERYWHERE.values(), *more.values())
]
REFUSED = [(name, spoil) for name, spoil in DAMAGED if not name.endswith("rows.jsonl")]
ROWS = [spoil for name, spoil in DAMAGED if name.endswith("rows.jsonl")]


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


@pytest.mark.parametrize(("name", "spoil"), REFUSED)
def test_what_a_run_is_known_by_is_refused_in_one_line(session, name, spoil):
  folder, again = session
  damage(folder / name, spoil)
  (folder / "arm" / "0" / "rows.jsonl").unlink()  # something is left to do
  refused(again, InputError, folder / name)


@pytest.mark.parametrize("spoil", ROWS)
def test_damaged_rows_are_named_and_their_cell_is_measured_again(session, spoil):
  folder, again = session
  path = folder / "arm" / "0" / "rows.jsonl"
  whole = read_rows(path)
  damage(path, spoil)
  refused(lambda: results.load(folder), InputError, path)
  notes = again()
  assert f"{path} is damaged. Renamed to rows.jsonl.damaged; arm/0 is measured again" in notes
  found = read_rows(path)
  timed = {"seconds", "images_per_second", "data_wait", "session"}
  assert [{k: v for k, v in row.items() if k not in timed} for row in found] == [
    {k: v for k, v in row.items() if k not in timed} for row in whole
  ]
  assert path.with_name("rows.jsonl.damaged").exists()


@pytest.mark.parametrize("spoil", [*EVERYWHERE.values(), other("{}"), other("[3]"), other('[{"step": "x"}]')])
def test_a_run_that_cannot_know_what_it_went_around_ends_with_5(session, spoil):
  folder, again = session
  path = folder / "arm" / "0" / "detours.json"
  damage(path, spoil)
  (folder / "arm" / "0" / "rows.jsonl").unlink()
  said = refused(again, StorageError, path)
  assert "restore it, or give another --workdir to start over" in said


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
  assert (f"{path}: 1 lines are truncated or damaged and are skipped" in notes) == bool(line)


@pytest.mark.parametrize("spoil", [EVERYWHERE[name] for name in ("no JSON", "no text", "a number")])
def test_a_report_refuses_damaged_metrics_in_one_line(session, spoil):
  folder, _ = session
  path = folder / "arm" / "0" / "metrics.jsonl"
  damage(path, spoil)
  refused(lambda: results.load(folder), InputError, path)


@pytest.mark.parametrize("spoil", EVERYWHERE.values())
def test_a_result_that_is_damaged_is_named_and_measured_again(tmp_path, spoil):
  path, notes = tmp_path / "two.fine_tune.json", []
  path.write_bytes(spoil(sealed_json.text({"accuracy": 0.5}).encode()))
  for _ in range(2):
    assert remember(path, lambda: {"accuracy": 0.75}, note=notes.append) == {"accuracy": 0.75}
  assert len(notes) == 1
  assert notes[0].startswith(f"{path} is damaged (")
  assert notes[0].endswith("Renamed to two.fine_tune.json.damaged, and measured again")
  assert path.with_name("two.fine_tune.json.damaged").exists()


def test_a_result_that_must_not_be_replaced_is_refused(tmp_path):
  path = tmp_path / "checkpoint.json"
  remember(path, lambda: {"weights": "1a"})
  path.write_text(path.read_text().replace("1a", "1b"))
  said = refused(lambda: remember(path, dict, replace=False), InputError, path)
  assert "restore it, or give another --workdir" in said


def test_files_of_an_older_version_are_taken_as_they_are_and_named(session):
  """They have no digest: whether they are whole cannot be known."""
  folder, again = session
  cell = folder / "arm" / "0"
  for path in (folder / "config.json", folder / "data.json"):
    path.write_text(json.dumps(sealed_json.read(path)))
  records = [sealed_json.record(line) for line in (cell / "metrics.jsonl").open()]
  (cell / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
  num_lines = len(records)
  (cell / "rows.jsonl").unlink()
  notes = again()
  assert [note for note in notes if "digest" in note] == [
    f"without a digest, as an older version wrote files, and taken as they are: {folder / 'config.json'} and "
    "1 more",
    f"{cell / 'metrics.jsonl'}: {num_lines} lines have no digest and are used unverified",
  ]
  old = cell / "old.json"
  old.write_text('{"accuracy": 0.5}')
  assert remember(old, dict, note=notes.append) == {"accuracy": 0.5}
  assert notes[-1] == f"{old} has no digest, because an older version wrote it; it is used unverified"


def flips(path, rng, read, wanted):
  """Reads a file with one bit flipped, 150 times: what it has then, where that is not what was written."""
  content, others = path.read_bytes(), []
  for _ in range(150):
    bit = rng.randrange(8 * len(content))
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    path.write_bytes(changed)
    try:
      found = read(path)
    except (InputError, StorageError):
      continue
    if found != wanted:
      others.append((bit, found))
  path.write_bytes(content)
  return others


def lines_of(path):
  """The records that a run goes on from: some may be left out, and none may be another one."""
  return metrics_log.MetricsWriter(path.parent, start_step=10**9, note=lambda text: None).records


READERS = {
  "config.json": provenance.read_json,
  "data.json": workdir._known_data,
  "env.json": provenance.read_sessions,
  "arm/0/rows.jsonl": read_rows,
  "arm/0/metrics.jsonl": results._records,
  "arm/0/detours.json": lambda path: vars(Detours(path.parent))["_found"],
  "arm/0/result.json": lambda path: remember(path, lambda: ANOTHER, note=lambda text: None),
}
RESULT = {"accuracy": 0.5, "losses": [0.25, None, 1e-5], "rows": [{"layer": "stem", "share": 1}], "n": 10**18}
ANOTHER = {"measured": "again"}


@pytest.mark.parametrize("name", READERS)
def test_one_flipped_bit_is_never_read_as_another_value(session, name):
  folder, _ = session
  path = folder / name
  if name.endswith("detours.json"):
    Detours(path.parent).add(step=3, beyond=5)
    Detours(path.parent).add(step=9, beyond=12)
  if name.endswith("result.json"):
    remember(path, lambda: RESULT)
  others = flips(path, random.Random(0), READERS[name], READERS[name](path))
  if name.endswith("result.json"):
    assert len(others) > 50
    others = [found for _, found in others if found != ANOTHER]
  assert not others


def test_one_flipped_bit_costs_a_run_at_most_the_lines_that_it_is_in(session):
  folder, _ = session
  path = folder / "arm" / "0" / "metrics.jsonl"
  wanted = results._records(path)
  found = flips(path, random.Random(1), lines_of, wanted)
  assert found
  for _, records in found:
    assert len(records) >= len(wanted) - 2  # where it is the end of a line, two have become one
    assert all(record in wanted for record in records)


def test_metrics_lines_that_are_doubled_or_have_changed_places_are_no_other_curve(session):
  """Each has a digest of its own, so that their order has to tell; a step may have two records."""
  folder, _ = session
  path = folder / "arm" / "0" / "metrics.jsonl"
  wanted = results._records(path)
  lines = path.read_text().splitlines(keepends=True)
  assert [record["step"] for record in wanted] == [1, 2, 3, 3]
  for other in ([*lines[:2], *lines[1:]], [lines[1], lines[0], *lines[2:]], [*lines, lines[-1]]):
    path.write_text("".join(other))
    assert lines_of(path) == wanted  # which writes the file as it was
    path.write_text("".join(other))
    refused(lambda: results._records(path), InputError, path)
  path.write_text("".join(lines))


def test_a_last_line_whose_end_was_damaged_is_not_taken_for_an_unfinished_one(session):
  folder, _ = session
  path = folder / "arm" / "0" / "metrics.jsonl"
  content, wanted = path.read_bytes(), results._records(path)
  for bit in range(8):
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1 << bit]))
    refused(lambda: results._records(path), InputError, path)
  path.write_bytes(content[:-1])
  assert results._records(path) == wanted[:-1]
  path.write_bytes(content)


def test_rows_that_are_lost_are_missed(tmp_path):
  path = tmp_path / "rows.jsonl"
  rows = [{"arm": "a", "seed": 0, "x": x} for x in range(3)]
  path.write_text(sealed_json.lines_text(rows))
  assert read_rows(path) == rows
  lines = path.read_text().splitlines(keepends=True)
  for left in (lines[:2], lines[1:], lines[:1] + lines[2:], lines[::-1]):
    path.write_text("".join(left))
    refused(lambda: read_rows(path), InputError, path)
  path.write_text(sealed_json.lines_text([]))
  assert read_rows(path) == []


@pytest.mark.parametrize("kind", [dict, list])
def test_lines_that_change_places_are_never_read_as_another_value(tmp_path, kind):
  """The line of the digest may come to stand inside a part, in its place."""
  path = tmp_path / "x.json"
  value = {"step": 7, "losses": [1, 2.5], "names": ["a", "b"], "parts": {"1": 2}}
  value = value if kind is dict else [value, {"step": 8, "parts": {"1": 2}}]
  lines = sealed_json.text(value).splitlines()
  read = 0
  for a, b in itertools.combinations(range(len(lines)), 2):
    swapped = list(lines)
    swapped[a], swapped[b] = swapped[b], swapped[a]
    path.write_text("\n".join(swapped))
    with contextlib.suppress(ValueError):
      assert sealed_json.read(path, kind) == value
      read += 1
  assert read  # two lines of the same object


def test_bytes_that_change_places_are_never_read_as_another_value(tmp_path):
  path = tmp_path / "x.json"
  value = {"step": 7, "name": "sha1"}
  data = sealed_json.text(value).encode()
  for a, b in itertools.combinations(range(len(data)), 2):
    swapped = bytearray(data)
    swapped[a], swapped[b] = swapped[b], swapped[a]
    path.write_bytes(swapped)
    with contextlib.suppress(ValueError):
      assert sealed_json.read(path) == value


def test_the_files_are_plain_json_for_everybody_else(session):
  folder, _ = session
  for line in (folder / "arm" / "0" / "metrics.jsonl").open():
    record = json.loads(line)
    assert [*record][:: len(record) - 1] == ["step", "digest"]
    assert {k: v for k, v in record.items() if k != "digest"} == sealed_json.record(line)
  assert json.loads((folder / "config.json").read_text())["seeds"] == [0]


@pytest.mark.parametrize("value", [{1: 2, 10: 3, 9: (1, 2)}, {"x": float("nan"), "y": float("inf")}, {}])
def test_what_json_makes_of_a_value_has_the_same_digest(value):
  assert sealed_json.opened(json.loads(sealed_json.text(value))) is not None
  assert sealed_json.digest(json.loads(json.dumps(value))) == sealed_json.digest(value)
