import io

import pytest

from jaxtl.host.progress import Progress
from jaxtl.host.stopwatch import Stopwatch


def test_seconds_add_up_over_sessions_from_the_last_store(tmp_path, monkeypatch):
  now = [50.0]
  monkeypatch.setattr("time.monotonic", lambda: now[0])
  path = tmp_path / "run" / "seconds.json"
  first = Stopwatch(path)
  now[0] += 3
  first.store()
  now[0] += 4  # lost: the session is killed
  second = Stopwatch(path)
  now[0] += 10
  assert second.seconds == 13
  second.store()
  assert Stopwatch(path).seconds == 13


@pytest.mark.parametrize(
  "text", ["", "[]", '{"seconds": "x"}', '{"other": 1}', '{"seconds": 9, "digest": "sha256:0"}']
)
def test_a_damaged_file_counts_as_none(tmp_path, monkeypatch, text):
  monkeypatch.setattr("time.monotonic", lambda: 0.0)
  (tmp_path / "seconds.json").write_text(text)
  assert Stopwatch(tmp_path / "seconds.json").seconds == 0


def test_a_file_that_cannot_be_written_stops_nothing(tmp_path):
  (tmp_path / "file").write_text("")
  Stopwatch(tmp_path / "file" / "seconds.json").store()


@pytest.mark.parametrize(
  ("done", "skipped"), [(100.0, 0.0), (0.0, 100.0), (0.0, 0.0), (100.0, 100.0), (250.0, 0.0), (30.0, 0.0)]
)
def test_a_part_counts_as_what_was_announced(done, skipped):
  progress = Progress(stream=io.StringIO())
  progress.expect(300)
  with progress.counting(100):
    progress.skip(skipped)
    progress.advance(done, "step", images_per_second=1.0)
  assert progress.left == 200
