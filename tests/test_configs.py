"""Every shipped config realizes, and amounts to what tests/golden says: a recipe cannot change silently.

`pytest tests/test_configs.py --update-golden` writes the golden files anew.
"""

from pathlib import Path

import pytest

from jaxtl.runner import config_file, describe
from jaxtl.runner import run as study
from jaxtl.train import Runtime, make_mesh

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted((ROOT / "configs").rglob("*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_amounts_to_its_golden_text(path, update_golden, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)  # What lies in this machine's runs/ is not part of a recipe.
  found = describe.describe(config_file.load_config(path), Runtime(make_mesh(1)))
  found = found.replace(str(Path.home()), "~")  # where TFDS looks for data sets
  name = "_".join(path.relative_to(ROOT / "configs").with_suffix(".txt").parts)
  golden = ROOT / "tests" / "golden" / name
  if update_golden:
    golden.parent.mkdir(exist_ok=True)
    golden.write_text(found, encoding="utf-8")
  assert found == golden.read_text(encoding="utf-8")


def test_the_quickstart_runs_when_shrunk(tmp_path):
  overrides = [
    "base.data.source.num_examples=64",
    "base.data.num_examples=64",
    "base.flatness.data.source.num_examples=64",
    "base.flatness.data.num_examples=64",
    "base.flatness.num_examples=64",
    "base.evaluation.test.source.num_examples=64",
    "base.evaluation.test.num_examples=64",
    "base.epochs=1.0",
    "base.transfer.fine_tune.epochs=0.05",
    "base.transfer.fine_tune.optimizer.schedule.warmup_epochs=0.0",
  ]
  config = config_file.load_config(ROOT / "configs" / "quickstart.py", overrides)
  del config["base"]["transfer"]["targets"]["photo_patches"]
  rows = study.run_study(
    config, workdir=tmp_path, runtime=Runtime(make_mesh(1)), arms=["smoothed_hinge"], seeds=[0]
  )
  assert [row["kind"] for row in rows] == ["pretrain", "transfer", "transfer"]
  assert rows[0]["lambda_max"] != 0
