"""A whole study in two processes: training, curvature, probe and fine-tuning give what one process gives."""

import json
import pprint

import numpy as np

from tests.several import start, start_pair
from tests.studies.conftest import study_config

__all__ = ["study_config"]  # a fixture
# Times, and what depends on them.
TIMES = ("seconds", "images_per_second", "data_wait", "session")


def test_two_processes_measure_what_one_does(study_config, tmp_path):
  study_config["arms"] = dict(smoothed_hinge=study_config["arms"]["smoothed_hinge"])
  study_config["base"]["tune"] = None
  config = tmp_path / "config.py"
  config.write_text(f"def get_config():\n  return {pprint.pformat(study_config)}\n")
  one = start(
    *("run", config, "--workdir", tmp_path / "one", "--no-report", "--cpu-devices", 2),
    log=tmp_path / "one.log",
  )
  pair = []
  try:
    assert one.finish(seconds=300) == 0, one.text[-2000:]
    pair = start_pair(config, tmp_path / "two", devices=1)
    assert [process.finish(seconds=300) for process in pair] == [0, 0], pair[0].text[-2000:]
  finally:
    for process in (one, *pair):
      process.kill()
  rows = [
    [json.loads(line) for line in (tmp_path / name / "smoothed_hinge" / "0" / "rows.jsonl").open()]
    for name in ("one", "two")
  ]
  assert [row["kind"] for row in rows[0]] == ["pretrain", "transfer", "transfer"]
  for mine, theirs in zip(*rows, strict=True):
    assert mine.keys() == theirs.keys()
    for key in mine.keys() - set(TIMES):
      if isinstance(mine[key], float):
        # The same two parts of every batch, added in another order: six steps make more of the last digits.
        np.testing.assert_allclose(mine[key], theirs[key], rtol=1e-3, atol=1e-5, err_msg=key)
      else:
        assert mine[key] == theirs[key], key
  assert not list(tmp_path.glob("two/**/.*.json*"))
