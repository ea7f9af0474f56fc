import io
import shutil
import struct
from pathlib import Path

import pytest

from jaxtl.errors import InputError
from jaxtl.host import sealed_json
from jaxtl.host.files import check_new_folder, write_atomically, write_folder
from jaxtl.host.metrics_log import MetricsWriter
from jaxtl.host.progress import Progress
from jaxtl.host.remember import remember


def test_records_are_lines_and_a_resumed_run_drops_what_is_beyond(tmp_path):
  writer = MetricsWriter(tmp_path, start_step=0)
  for step in (1, 2, 3):
    writer.write(step, {"loss": 1.0 / step})
  writer.close()
  with (tmp_path / "metrics.jsonl").open("a") as file:
    file.write('{"step": 4, "lo')  # killed while writing
  resumed = MetricsWriter(tmp_path, start_step=2)
  resumed.write(3, {"loss": 7.0})
  resumed.close()
  lines = [sealed_json.record(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
  assert lines == resumed.records
  assert [(r["step"], r["loss"]) for r in lines] == [(1, 1.0), (2, 0.5), (3, 7.0)]
  assert list((tmp_path / "tb").iterdir())


def test_a_folder_that_is_gone_is_told_once_and_made_whole_again(tmp_path):
  notes = []
  writer = MetricsWriter(tmp_path / "run", start_step=0, note=notes.append)
  writer.write(1, {"loss": 1.0})
  shutil.rmtree(tmp_path / "run")
  (tmp_path / "run").write_text("a file in its place")
  for step in (2, 3, 4):
    writer.write(step, {"loss": 1.0 / step})
  assert len(notes) == 2  # one for the lines, one for TensorBoard's events
  assert all("metrics cannot be written to" in note for note in notes)
  (tmp_path / "run").unlink()
  writer.write(5, {"loss": 0.2})
  writer.close()
  lines = [sealed_json.record(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
  assert lines == writer.records
  assert [record["step"] for record in lines] == [1, 2, 3, 4, 5]
  assert events(tmp_path / "run") == [(step, "loss", 1.0 / step) for step in (1, 2, 3, 4, 5)]


def test_a_full_disk_stops_no_metrics_from_being_kept(small_disk):
  notes = []
  writer = MetricsWriter(small_disk / "run", start_step=0, note=notes.append)
  writer.write(1, {"loss": 1.0})
  (small_disk / "filler").write_bytes(bytes(shutil.disk_usage(small_disk).free))
  for step in range(2, 400):
    writer.write(step, {"loss": 1.0 / step})
  assert 1 <= len(notes) <= 2
  (small_disk / "filler").unlink()
  writer.close()
  lines = [
    sealed_json.record(line) for line in (small_disk / "run" / "metrics.jsonl").read_text().splitlines()
  ]
  assert [record["step"] for record in lines] == list(range(1, 400))


def test_a_note_about_a_full_disk_does_not_need_that_disk():
  stream = io.StringIO()
  progress = Progress(stream=stream)
  progress.log_to(Path("/dev/full"))
  progress.note("the disk is full")
  assert stream.getvalue() == "the disk is full\n"


def events(folder):
  """(step, name, value) of TensorBoard's files, read by what tensorboardX does not write with."""
  from tensorboardX.proto.event_pb2 import Event

  found = []
  (path,) = (folder / "tb").iterdir()
  data = path.read_bytes()
  while data:
    (length,) = struct.unpack("<Q", data[:8])
    event = Event.FromString(data[12 : 12 + length])
    found += [(event.step, value.tag, pytest.approx(value.simple_value)) for value in event.summary.value]
    data = data[16 + length :]
  return found


def test_without_a_folder_records_stay_in_memory(tmp_path):
  writer = MetricsWriter(None, start_step=0)
  writer.write(1, {"x": 2.0})
  writer.close()
  assert writer.records == [{"step": 1, "x": 2.0}]


def test_remember_computes_once(tmp_path):
  calls = []

  def compute():
    calls.append(1)
    return {"x": [1, 2]}

  path = tmp_path / "a" / "b.json"
  assert remember(path, compute) == remember(path, compute) == {"x": [1, 2]}
  assert len(calls) == 1


def test_a_file_is_whole_or_not_there(tmp_path):
  path = tmp_path / "x.json"
  write_atomically(path, "old")
  with pytest.raises(TypeError):
    write_atomically(path, 3)
  assert path.read_text() == "old"


def test_progress_says_share_rate_and_time_left(monkeypatch):
  now = [0.0]
  monkeypatch.setattr("time.monotonic", lambda: now[0])
  stream = io.StringIO()
  progress = Progress(interval=10.0, stream=stream)
  progress.title = "arm/0"
  progress.expect(400)
  progress.skip(200)
  for now[0] in (20.0, 25.0, 40.0):
    progress.advance(50, "step", images_per_second=123.4, waiting=0.05)
  lines = stream.getvalue().splitlines()
  assert len(lines) == 2  # 25 s is too soon after 20 s
  assert lines[0] == " 25% | arm/0 | step | 123 images/s | data 5% | 0:20 elapsed, ? left"
  assert lines[1].endswith("0:40 elapsed, 0:10 left")  # 100 in the 20 s since the first step, and 50 are left


def test_the_time_left_counts_no_compilation(monkeypatch):
  """Two parts that compile for 100 s each, then take a second a step: the truth is a second for each step."""
  now = [0.0]
  monkeypatch.setattr("time.monotonic", lambda: now[0])
  stream = io.StringIO()
  progress = Progress(interval=10.0, stream=stream)
  progress.expect(2 * 300)
  for part in range(2):
    progress.title = f"part {part}"
    now[0] += 100
    for step in range(300):
      now[0] += step > 0
      progress.advance(1, "step", images_per_second=1.0)
  told = [line.rpartition(", ")[2].removesuffix(" left") for line in stream.getvalue().splitlines()]
  assert told[0] == "?"
  assert len(told) > 50
  seconds = [int(text.split(":")[0]) * 60 + int(text.split(":")[1]) for text in told[1:]]
  assert seconds[:3] == [589, 579, 569]
  assert seconds == sorted(seconds, reverse=True)


def test_the_time_left_is_not_told_at_once_and_waiting_only_where_it_is_known(monkeypatch):
  now = [0.0]
  monkeypatch.setattr("time.monotonic", lambda: now[0])
  stream = io.StringIO()
  progress = Progress(interval=10.0, stream=stream)
  progress.expect(400)
  for now[0] in (4.0, 20.0):
    progress.advance(50, "pass", images_per_second=123.4)
  assert [line.split(" | ", 2)[2] for line in stream.getvalue().splitlines()] == [
    "pass | 123 images/s | 0:04 elapsed, ? left",
    "pass | 123 images/s | 0:20 elapsed, 1:36 left",  # 50 in 16 s, and 300 are left
  ]


def test_names_on_the_status_line_do_not_act_on_the_terminal(tmp_path):
  stream = io.StringIO()
  progress = Progress(stream=stream)
  progress.title = "a\x1b[31m"
  progress.log_to(tmp_path / "log.txt")
  progress.advance(1, "step", images_per_second=1.0)
  progress.note("b\x1b]0;x\x07")
  for text in (stream.getvalue(), (tmp_path / "log.txt").read_text()):
    assert not {"\x1b", "\x07"} & set(text)
  assert "a\\x1b[31m" in stream.getvalue()
  terminal = Terminal()
  bar = Progress(stream=terminal)
  bar.note("\x1b]0;x\x07")
  bar.close()
  assert "]0;x" in terminal.getvalue()
  assert "\x1b]" not in terminal.getvalue()


def test_notes_go_to_the_log_too(tmp_path):
  stream = io.StringIO()
  progress = Progress(stream=stream)
  progress.log_to(tmp_path / "log.txt")
  progress.note("hello")
  assert stream.getvalue() == "hello\n"
  assert (tmp_path / "log.txt").read_text().endswith(" hello\n")


class Terminal(io.StringIO):
  def isatty(self):
    return True


def test_in_a_terminal_the_line_is_a_bar_and_notes_stay_above_it():
  stream = Terminal()
  progress = Progress(stream=stream)
  progress.title = "arm/0"
  progress.expect(100)
  progress.advance(50, "step 1/2", images_per_second=7.0, waiting=0.0)
  progress.note("arm/0 is done: [0.5]")
  progress.close()
  assert "50%" in stream.getvalue()
  assert "step 1/2" in stream.getvalue()
  assert "arm/0 is done: [0.5]" in stream.getvalue()


def test_a_folder_is_written_whole_or_not_at_all(tmp_path):
  out = tmp_path / "a" / "b"
  write_folder(out, {"x.txt": "text", "y.bin": b"\0"})
  assert {path.name: path.read_bytes() for path in out.iterdir()} == {"x.txt": b"text", "y.bin": b"\0"}
  assert [path.name for path in out.parent.iterdir()] == ["b"]
  with pytest.raises(InputError, match="cannot write to"):
    write_folder(tmp_path / "c", {"x.txt": "text", "no/such/folder.txt": "text"})
  assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_an_empty_folder_is_taken_and_a_full_one_refused(tmp_path):
  write_folder(tmp_path / "new", {"x": "1"})
  (tmp_path / "empty").mkdir()
  write_folder(tmp_path / "empty", {"x": "1"})
  with pytest.raises(InputError, match=r"new is not empty; give a folder that does not exist yet"):
    write_folder(tmp_path / "new", {"x": "2"})
  assert (tmp_path / "new" / "x").read_text() == "1"
  for place in (tmp_path / "new" / "x", tmp_path / "new" / "x" / "y"):
    with pytest.raises(InputError, match="x is a file"):
      check_new_folder(place)
