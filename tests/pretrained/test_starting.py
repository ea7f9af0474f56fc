"""Studies that start from an imported weight: the same classes, others, another image size."""

import jax
import numpy as np
import pytest
from PIL import Image

from jaxtl import cli, config, train, weights
from jaxtl.checkpoints import checkpoint
from jaxtl.errors import CheckpointError
from jaxtl.studies.transfer import settings
from jaxtl.studies.transfer import study as transfer
from jaxtl.train.training import start_state
from tests.pretrained.made_weights import VIT, VIT_KEYWORDS, made, refused, save
from tests.small_training import runtime, tiny, tiny_config

pytestmark = pytest.mark.slow

__all__ = ["runtime", "tiny"]  # fixtures


def equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture
def resnet(tmp_path):
  """A checkpoint of the tiny network, from a file in somebody else's layout, for the classes a, b and c."""
  original = made("akamaster", "resnet8", size=8, width=4)
  path = save(tmp_path / "resnet8.safetensors", {f"module.{k}": v for k, v in original.theirs.items()})
  (tmp_path / "classes.txt").write_text("a\nb\nc\n")
  arguments = ["import", path, "--as", "resnet8", "--layout", "akamaster", "--out", tmp_path / "resnet8"]
  arguments += ["width=4", "--image-size", "8", "--classes", tmp_path / "classes.txt", "--num-devices", "1"]
  assert cli.main([str(a) for a in arguments]) == 0
  return tmp_path / "resnet8", original.ours


def test_a_run_of_no_epochs_is_the_imported_weight(resnet, tiny, runtime):
  folder, ours = resnet
  trained = train.run(tiny(start=str(folder), epochs=0.0), seed=0, runtime=runtime())
  equal(trained.weights.params, ours["params"])
  equal(trained.weights.batch_stats, ours["batch_stats"])


def test_other_classes_get_a_fresh_head_alone(resnet, tiny, runtime):
  folder, ours = resnet
  config = tiny_config(start=str(folder), epochs=0.0)
  for data in (config["data"], config["evaluation"]["test"]):
    data["source"] = data["source"] | dict(num_classes=2)
  changes = {key: config[key] for key in ("data", "evaluation", "start", "epochs")}
  trained = train.run(tiny(**changes), seed=0, runtime=runtime())
  assert trained.weights.params["head"]["kernel"].shape == (16, 2)
  bodies = [{k: v for k, v in p.items() if k != "head"} for p in (trained.weights.params, ours["params"])]
  equal(*bodies)


def test_a_run_learns_from_an_imported_weight(resnet, tiny, runtime, tmp_path):
  trained = train.run(
    tiny(start=str(resnet[0]), epochs=1.0), seed=0, runtime=runtime(), workdir=tmp_path / "run"
  )
  assert np.isfinite(trained.last("train/loss"))
  assert trained.weights.config["experiment"]["start"] == str(resnet[0])


def program_and_start(tiny, model, start, classes=("ant", "bee", "cat"), size=16):
  experiment = tiny(model=dict(make=".models.vit_ti16", **model))
  mesh = train.make_mesh(1)
  program = train.experiment.compile_program(experiment, num_classes=len(classes), num_examples=96, mesh=mesh)
  return start_state(program, jax.random.key(0), (size, size, 3), start=start, classes=classes)


def test_a_vision_transformer_starts_at_another_image_size(imported, tiny):
  start, _ = imported()
  state = program_and_start(tiny, VIT | dict(image_size=32), start, size=32)
  positions = start.params["embed"]["positions"]
  expected = weights.resize_positions(positions, (1, 17, 8))
  np.testing.assert_array_equal(state.params["embed"]["positions"], expected)
  rest = [{k: v for k, v in p.items() if k != "embed"} for p in (state.params, start.params)]
  equal(*rest)


def test_a_vision_transformer_without_a_head_gets_one(imported, tiny, vit):
  headless = {key: value for key, value in vit.theirs.items() if not key.startswith("head.")}
  start, _ = imported(tensors=headless, classes=False)
  state = program_and_start(tiny, VIT | dict(image_size=16), start)
  assert state.params["head"]["kernel"].shape == (8, 3)
  equal(state.params["block1"], start.params["block1"])


def test_another_model_is_refused(imported, tiny):
  start, _ = imported()
  with pytest.raises(CheckpointError, match="the checkpoint does not fit the model"):
    program_and_start(tiny, VIT | dict(image_size=16, width=16), start)


def pictures(folder):
  rng = np.random.default_rng(0)
  for name in "abc":
    (folder / name).mkdir(parents=True)
    for number in range(2):
      Image.fromarray(rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)).save(folder / name / f"{number}.png")
  return folder


def test_an_imported_weight_is_evaluated_with_its_own_preprocessing(resnet, tmp_path, capsys):
  folder = pictures(tmp_path / "images")
  arguments = ["eval", resnet[0], "--data", folder, "--batch-size", "8", "--num-devices", "1"]
  assert cli.main([str(a) for a in arguments]) == 0
  assert "top1" in capsys.readouterr().out


def test_a_vision_transformer_is_transferred_to_images_of_another_size(imported, tmp_path, runtime):
  start, _ = imported()
  plain = [dict(fn=".data.resize", size=(24, 24)), dict(fn=".data.normalize")]
  source = dict(make="tests.small_training.squares", num_classes=2, seed=5)
  data = dict(source=source, transforms=plain, batch_size=16)
  fine_tune = dict(
    task=dict(make=".tasks.classification", loss=dict(fn=".losses.softmax_cross_entropy")),
    optimizer=dict(make=".optim.sgd", peak_rate=0.01),
    epochs=0.5,
  )
  protocols = dict(
    targets=dict(squares=dict(train=data, test=data)), linear_probe=dict(l2=[0.1]), fine_tune=fine_tune
  )
  chosen = config.parse(protocols, settings.Protocols)
  rows = list(
    transfer.measure(chosen, start.model_spec(), start, seed=0, workdir=tmp_path / "cell", runtime=runtime())
  )
  assert [row["protocol"] for row in rows] == ["linear_probe", "fine_tune"]
  assert all(0 <= row["accuracy"] <= 1 for row in rows)
  assert rows[1]["least_loss"] == rows[1]["loss"]  # the only evaluation


def test_a_weight_without_a_classifier_cannot_be_evaluated(imported, vit, out, capsys):
  headless = {key: value for key, value in vit.theirs.items() if not key.startswith("head.")}
  imported(tensors=headless, classes=False, keywords=VIT_KEYWORDS)
  line = refused(capsys, "eval", out, "--data", "digits", "--num-devices", "1")
  assert "has no classifier; transfer it" in line


def test_the_checkpoint_holds_one_step_that_a_study_can_name(resnet):
  assert checkpoint.find(resnet[0]).name == "0"
  assert checkpoint.load(resnet[0]).config["step"] == 0
