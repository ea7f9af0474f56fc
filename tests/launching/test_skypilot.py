"""SkyPilot itself reads our task."""

import pytest

from tests.launching.conftest import texts


@pytest.mark.parametrize(
  "changes",
  [
    {},
    {"nodes": 2, "accelerator": "H100", "chips": 8, "spot": True},
    {"cpus": 8, "memory": 32, "zone": "us-east5-b"},
  ],
)
def test_skypilot_reads_the_task(plan, changes, tmp_path, monkeypatch):
  sky = pytest.importorskip("sky", reason="skypilot is not here; pip install skypilot has it")
  monkeypatch.setenv("HOME", str(tmp_path))
  (tmp_path / "task.yaml").write_text(texts(plan("skypilot", **changes))["task.yaml"])
  task = sky.Task.from_yaml(str(tmp_path / "task.yaml"))
  assert task.name == "first"
  assert task.num_nodes == changes.get("nodes", 1)
  assert list(task.storage_mounts) == ["/mnt/gcs/my-bucket"]
