"""`jaxtl verify-resume`: killed and started again equals uninterrupted, and what does not is found."""

import dataclasses

import pytest

from jaxtl import cli
from jaxtl.checkpoints import manifest
from jaxtl.host import sealed_json
from jaxtl.runner import config_file, verify_resume
from tests.several import ROOT, start, write_config

pytestmark = pytest.mark.slow

EMA = dict(make=".optim.sgd", peak_rate=0.1, ema_decay=0.9)
AUGMENTED = dict(
  source=dict(make="tests.small_training.squares"),
  transforms=[dict(fn=".data.flip_left_right"), dict(fn=".data.normalize")],
  batch_transforms=[dict(fn=".data.mixup", alpha=0.2)],
  batch_size=16,
)


def test_every_part_of_the_state_is_the_same_after_a_kill(tmp_path):
  """Half precision, LookSAM's memory, a moving average, mixup's noise, two devices."""
  config = write_config(
    tmp_path / "config.py",
    epochs=3.0,
    model=dict(make=".models.resnet8", width=4, dtype="bfloat16"),
    gradient=dict(make=".optim.looksam", rho=0.05, every=3),
    optimizer=EMA,
    data=AUGMENTED,
  )
  one = start("verify-resume", config, "--steps", 7, "--cpu-devices", 2, log=tmp_path / "log")
  assert one.finish(seconds=300) == 0, one.text[-3000:]
  assert "killed after step 5 and resumed from step" in one.text
  assert "7 metrics records compared" in one.text
  assert one.text.rstrip().endswith("equal, bit for bit")
  for part in ("model/params/", "model/batch_stats/", "optimizer/params/", "/average/", "optimizer/memory/"):
    assert part in one.text, part


@pytest.mark.parametrize(
  ("arguments", "said"),
  [
    (["--steps", "5", "--kill-after", "5"], "--kill-after is 5 of --steps 5; expected 1 to 4"),
    (["--arm", "amr"], "no arm 'amr'; the config has arm"),
    (["base.experiment.epochs=0"], "this config trains nothing"),
    (["--arm", "arm", "base.experiment.epochs=0"], "config.arms.arm trains nothing"),
    (["base.experiment.epochs=None", "base.experiment.steps=0"], "this config trains nothing"),
  ],
)
def test_a_trial_that_cannot_be_is_one_line(tmp_path, capsys, arguments, said):
  config = write_config(tmp_path / "config.py")
  assert cli.main(["verify-resume", str(config), *arguments]) == 2
  assert said in capsys.readouterr().err


@pytest.mark.parametrize("name", ["patching/cifar10", "flatness/cifar10", "transfer/tiny_imagenet"])
def test_a_study_that_starts_from_checkpoints_is_told_what_can_be_tried(capsys, name):
  assert cli.main(["verify-resume", str(ROOT / "configs" / f"{name}.py")]) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert f"this config, of .studies.{name.partition('/')[0]}.rows, has none" in line
  example = line.split()[-1]
  assert verify_resume.make_plan(
    config_file.load_config(ROOT / example), seed=None, steps=8, kill_after=5
  ).arm


def test_a_base_network_inside_a_study_is_tried():
  config = config_file.load_config(ROOT / "configs" / "layers" / "cifar10.py")
  assert verify_resume.make_plan(config, seed=None, steps=8, kill_after=5).experiment.epochs


def test_a_run_that_is_shorter_than_the_trial_says_so(tmp_path):
  config = write_config(tmp_path / "config.py", epochs=1.0)
  one = start("verify-resume", config, "--steps", 9, log=tmp_path / "log")
  assert one.finish() == 2
  assert "arm arm has 6 steps, and --steps is 9; write fewer" in one.text


@pytest.fixture
def plan(tmp_path):
  config = config_file.load_config(write_config(tmp_path / "config.py", epochs=1.0))
  return verify_resume.make_plan(config, seed=3, steps=4, kill_after=2)


def test_the_trial_saves_often_and_evaluates_nothing(plan):
  assert plan.seed == 3
  assert (plan.experiment.log_every, plan.experiment.checkpoint_every) == (1, 2)
  assert not plan.experiment.evaluation


@pytest.fixture
def both(plan, runtime, tmp_path):
  for name in (verify_resume.WHOLE, verify_resume.REST):
    verify_resume.train_part(plan, name, tmp_path, runtime())
  return tmp_path


def test_equal_runs_are_found_equal(plan, both):
  finding = verify_resume._compare(plan, both, 2)
  assert not finding.unequal
  assert finding.records == 4
  assert str(finding).endswith("equal, bit for bit")


def test_an_array_that_differs_is_named(plan, both):
  step = both / verify_resume.CUT / "checkpoints" / "4"
  saved = manifest.read(step)
  leaf = dataclasses.replace(saved.leaves["model/params/head/bias"], sha256="0" * 64)
  (step / manifest.NAME).unlink()
  manifest.write(step, 4, {**saved.leaves, "model/params/head/bias": leaf})
  finding = verify_resume._compare(plan, both, 2)
  assert len(finding.unequal) == 1
  assert finding.unequal[0].startswith("model/params/head/bias: ")
  assert "DIFFERENT" in str(finding)
  assert str(finding).endswith("not equal")


def test_a_metric_that_differs_is_named(plan, both):
  path = both / verify_resume.CUT / "metrics.jsonl"
  lines = path.read_text().splitlines()
  record = sealed_json.record(lines[2]) | {"train/loss": 0.0}
  path.write_text("\n".join([*lines[:2], sealed_json.line(record)[:-1], lines[3]]) + "\n")
  assert verify_resume._compare(plan, both, 2).unequal[0].startswith("metrics of step 3: ")
  path.write_text("\n".join(lines[:3]) + "\n")
  assert verify_resume._compare(plan, both, 2).unequal == ["4 metrics records, and 3 of the resumed run"]


def test_another_seed_is_another_run(plan, both, runtime):
  """What the comparison is worth: it tells runs apart that differ in the seed alone."""
  other = dataclasses.replace(plan, seed=4)
  verify_resume.train_part(other, verify_resume.WHOLE, both / "other", runtime())
  (both / verify_resume.CUT).rename(both / "away")
  (both / "other" / verify_resume.WHOLE).rename(both / verify_resume.CUT)
  assert verify_resume._compare(plan, both, 2).unequal


def test_a_length_in_steps_is_a_length(tmp_path):
  config = config_file.load_config(write_config(tmp_path / "c.py", epochs=None, steps=9))
  assert verify_resume.make_plan(config, seed=None, steps=8, kill_after=5).experiment.steps == 9


def test_the_experiment_inside_a_study_is_found(tmp_path):
  config = config_file.load_config(write_config(tmp_path / "c.py"))
  found = verify_resume.make_plan(config, arm="arm", seed=None, steps=8, kill_after=5)
  assert (found.arm, found.seed, found.experiment.epochs) == ("arm", 0, 2.0)
