import io
import json

import pytest

from jaxtl.errors import InputError
from jaxtl.train.writer import (
  MetricsWriter,
  Progress,
  check_new_folder,
  remember,
  write_atomically,
  write_folder,
)


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
  lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
  assert lines == resumed.records
  assert [(r["step"], r["loss"]) for r in lines] == [(1, 1.0), (2, 0.5), (3, 7.0)]
  assert list((tmp_path / "tb").iterdir())


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
  assert lines[0] == " 25% | arm/0 | step | 123 images/s | data 5% | 0:20 gone, 1:00 left"
  assert lines[1].endswith("0:40 gone, 0:13 left")


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
