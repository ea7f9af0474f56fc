"""TensorBoard's events, read by TensorFlow's own reader: the points of `metrics.jsonl`, each once."""

import math

import pytest

from jaxtl.host.metrics_log import MetricsWriter

NAMES = ("train/loss", "eval/test/top1")


def record(step: int) -> dict[str, float]:
  return {NAMES[0]: 1.0 / step} | ({NAMES[1]: step / 100} if step % 2 == 0 else {})


def points(folder):
  """(step, tag) -> (value, wall time), and how many points there are; TensorFlow verifies the checksums."""
  from tensorflow.core.util import event_pb2
  from tensorflow.python.lib.io import tf_record

  found, count = {}, 0
  for path in (folder / "tb").iterdir():
    for data in tf_record.tf_record_iterator(str(path)):
      event = event_pb2.Event.FromString(data)
      for value in event.summary.value:
        found[event.step, value.tag] = (value.simple_value, event.wall_time)
        count += 1
  return found, count


def expected(records):
  return {
    (record["step"], name): pytest.approx(value)
    for record in records
    for name, value in record.items()
    if name != "step"
  }


def values(found):
  return {key: value for key, (value, _) in found.items()}


@pytest.fixture
def clock(monkeypatch):
  now = [1000.0]
  monkeypatch.setattr("time.time", lambda: now[0])
  return now


def test_points_are_there_while_the_run_is_under_way(tmp_path):
  writer = MetricsWriter(tmp_path, start_step=0)
  for step in range(1, 6):
    writer.write(step, record(step))
    found, count = points(tmp_path)  # the file is still open
    assert values(found) == expected(writer.records)
    assert count == len(found)
  writer.close()


@pytest.mark.parametrize("damage", ["none", "half a point", "a flipped bit", "no file"])
def test_a_resumed_run_has_every_point_once_and_keeps_its_times(tmp_path, clock, damage):
  writer = MetricsWriter(tmp_path, start_step=0)
  for step in range(1, 8):
    clock[0] = 1000.0 + step
    writer.write(step, record(step))
  if damage == "none":
    writer.close()
  (path,) = (tmp_path / "tb").iterdir()
  data = bytearray(path.read_bytes())
  if damage == "half a point":
    path.write_bytes(data[:-7])  # killed while writing
  elif damage == "a flipped bit":
    data[-6] ^= 1  # of the last point
    path.write_bytes(data)
  elif damage == "no file":
    path.unlink()
  clock[0] = 5000.0
  resumed = MetricsWriter(tmp_path, start_step=6)  # the checkpoint is of step 6; step 7 is trained again
  for step in (7, 8):
    clock[0] += 1
    resumed.write(step, record(step))
  resumed.close()
  found, count = points(tmp_path)
  assert [record["step"] for record in resumed.records] == list(range(1, 9))
  assert values(found) == expected(resumed.records)
  assert count == len(found) == sum(len(record) - 1 for record in resumed.records)
  times = {step: time for (step, name), (_, time) in found.items() if name == NAMES[0]}
  kept = {step: 1000.0 + step for step in range(1, 7)}
  assert times == (dict.fromkeys(kept, 5000.0) if damage == "no file" else kept) | {7: 5001.0, 8: 5002.0}


def test_a_loss_that_is_not_finite_is_a_point_too(tmp_path):
  writer = MetricsWriter(tmp_path, start_step=0)
  writer.write(1, {"loss": math.nan, "norm": math.inf})
  writer.close()
  found, count = points(tmp_path)
  assert count == 2
  assert math.isnan(found[1, "loss"][0])
  assert found[1, "norm"][0] == math.inf


def test_another_process_than_the_first_writes_none(tmp_path, monkeypatch):
  monkeypatch.setattr("jaxtl.host.metrics_log.is_first_process", lambda: False)
  writer = MetricsWriter(tmp_path, start_step=0)
  writer.write(1, {"loss": 1.0})
  writer.close()
  assert not (tmp_path / "tb").exists()
