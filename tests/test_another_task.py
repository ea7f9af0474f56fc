"""A task that is no classification, in one file: per-pixel regression, with a source, a model and a report.

What the library assumes of a batch is a mask, and what its task names. So this task trains, evaluates, is
resumed, is sharded over eight devices, is checked and is reported with no line of it inside the library.
"""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl import cli, data, train
from jaxtl.checkpoints import checkpoint
from jaxtl.config import parse
from jaxtl.errors import DataError, Restart
from jaxtl.host import sealed_json
from jaxtl.metrics import Mean
from jaxtl.tasks import Task, classification
from jaxtl.train import Experiment
from jaxtl.types import Aux, Model, ModelLoss
from tests.small_training import quiet_runtime

HERE = "tests.test_another_task"


def brightness(*, num_examples: int = 64, seed: int = 0, target: str = "depth") -> data.Source:
  """Random images; the target of each pixel is a fixed mixture of its colours."""
  images = np.random.default_rng(seed).integers(0, 256, (num_examples, 8, 8, 3)).astype(np.uint8)
  depth = (images @ np.array([0.5, 0.25, -0.25]) / 255).astype(np.float32)
  return data.from_arrays(images=images, targets={target: depth}, name="brightness", kind="synthetic")


def pixelwise(*, num_classes: int) -> Model:
  """A 1 x 1 convolution from colours to one number."""
  del num_classes  # the source has no classes

  def init(key, images):
    kernel = 0.1 * jax.random.normal(key, (3, 1))
    return {"body": {"scale": jnp.ones(3)}, "head": {"kernel": kernel, "bias": jnp.zeros(())}}, {}

  def apply(params, batch_stats, images, *, start=None, stop=None, **_):
    hidden = images if start == "head" else images @ jnp.diag(params["body"]["scale"])
    if stop == "head":
      return {"hidden": hidden}, batch_stats
    depth = (hidden @ params["head"]["kernel"])[..., 0] + params["head"]["bias"]
    return {"depth": depth}, batch_stats

  return Model("pixelwise", init, apply, ("body", "head"))


def regression() -> Task:
  """The squared error of every pixel."""

  def example_loss(features, batch):
    return jnp.mean((features["depth"] - batch["depth"]) ** 2, axis=(1, 2))

  def loss_fn(model):
    def mean_loss(params, batch_stats, batch, key):
      features, stats = model.apply(params, batch_stats, batch["image"], train=True, key=key)
      mean = Mean.of(example_loss(features, batch), batch["mask"])
      return mean.total / mean.weight, Aux(stats, {})

    return mean_loss

  def measure(model):
    def measures(params, batch_stats, batch):
      features, _ = model.apply(params, batch_stats, batch["image"])
      worst = jnp.max(jnp.abs(features["depth"] - batch["depth"]), axis=(1, 2))
      values = {"loss": example_loss(features, batch), "worst": worst}
      return {name: Mean.of(value, batch["mask"]) for name, value in values.items()}

    return measures

  def inputs(size):
    return {"image": ((size, size, 3), jnp.float32), "depth": ((size, size), jnp.float32)}

  return Task(lambda model: ModelLoss(model, loss_fn), measure, example_loss, inputs)


@dataclasses.dataclass(frozen=True)
class Study(Experiment):
  """One training."""


def rows(study: Study, *, seed, workdir, runtime):
  trained = train.run(study, seed=seed, runtime=runtime, workdir=workdir)
  yield {"loss": trained.last("eval/test/loss"), "worst": trained.last("eval/test/worst")}


def part(seed, batch_size=16, **changes):
  source = dict(make=f"{HERE}.brightness", seed=seed, **changes)
  return dict(source=source, transforms=[dict(fn=".data.normalize")], batch_size=batch_size)


def config(**changes):
  return (
    dict(
      model=dict(make=f"{HERE}.pixelwise"),
      task=dict(make=f"{HERE}.regression"),
      data=part(0),
      evaluation=dict(test=part(1, 24)),  # the last batch is padded
      optimizer=dict(make=".optim.sgd", peak_rate=0.2, schedule=dict(make=".optim.constant")),
      epochs=16.0,
      log_every=1,
      checkpoint_every=5,
    )
    | changes
  )


def fit(folder, devices=1, **changes):
  runtime = quiet_runtime(devices)
  return train.run(parse(config(**changes), Study), seed=0, runtime=runtime, workdir=folder)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  folder = tmp_path_factory.mktemp("another") / "run"
  return folder, fit(folder)


def test_it_learns_the_mixture_of_colours(trained):
  _, found = trained
  assert found.history[0]["train/loss"] > 0.05
  assert found.last("eval/test/loss") < 1e-3
  assert found.last("eval/test/worst") < 0.2


def test_evaluation_is_that_of_numpy(trained):
  _, found = trained
  source, params = brightness(seed=1), found.weights.params
  images = source.pixels / np.float32(255)
  images = (images - np.array(data.IMAGENET_MEAN)) / np.array(data.IMAGENET_STD)
  predicted = (images * np.asarray(params["body"]["scale"])) @ np.asarray(params["head"]["kernel"])[:, 0]
  predicted = predicted + np.asarray(params["head"]["bias"])
  gaps = predicted - source.targets["depth"]
  assert found.last("eval/test/loss") == pytest.approx(np.mean(gaps**2), rel=1e-4)
  assert found.last("eval/test/worst") == pytest.approx(np.abs(gaps).max((1, 2)).mean(), rel=1e-4)


def test_it_is_resumed_bit_for_bit(trained, tmp_path):
  _, whole = trained
  runtime = quiet_runtime()
  runtime.interruption = type("Stop", (), {"due": lambda self, step: step == 7})()
  with pytest.raises(Restart):
    train.run(parse(config(), Study), seed=0, runtime=runtime, workdir=tmp_path / "run")
  resumed = fit(tmp_path / "run")
  jax.tree.map(np.testing.assert_array_equal, resumed.weights.params, whole.weights.params)


def test_eight_devices_give_the_same(trained):
  _, whole = trained
  sharded = fit(None, devices=8)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
    sharded.weights.params,
    whole.weights.params,
  )


def test_the_checkpoint_says_what_it_is(trained):
  folder, found = trained
  saved = checkpoint.load(folder)
  assert saved.classes == ()
  jax.tree.map(np.testing.assert_array_equal, saved.params, found.weights.params)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (
      dict(data=part(0, target="height")),
      "brightness has no 'depth' for its images; the task .* reads it, and the data have height",
    ),
    (
      dict(data=dict(part(0), source=dict(make=".data.digits", split="train")), evaluation={}),
      "digits/train has no 'depth' .* the data have label",
    ),
    (dict(evaluation=dict(test=part(1, target="height"))), "has no 'depth'"),
    (
      dict(task=dict(make=".tasks.classification", loss=dict(fn=".losses.softmax_cross_entropy"))),
      "has no 'label'",
    ),
  ],
)
def test_data_without_what_the_task_reads_are_refused(changes, message):
  with pytest.raises((AssertionError, DataError), match=message):
    fit(None, **({"model": dict(make=".models.resnet8", width=4)} if "task" in changes else {}) | changes)


@pytest.mark.parametrize(
  ("targets", "message"),
  [
    ({"mask": np.zeros(2)}, "a target is called 'mask', which batches use"),
    ({"depth": np.zeros(3)}, r"2 images but 'depth' of shape \(3,\)"),
  ],
)
def test_bad_targets_are_one_line(targets, message):
  with pytest.raises(DataError, match=message):
    data.from_arrays(images=np.zeros((2, 4, 4, 3), np.uint8), targets=targets)


def test_targets_follow_their_images():
  source = brightness(num_examples=10)
  taken = source.take(np.array([7, 2]))
  np.testing.assert_array_equal(taken.targets["depth"], source.targets["depth"][[7, 2]])
  half = data.subset(source=source, num_examples=5)
  assert len(half) == 5
  parts = [data.part_of(source=source, start=a, stop=b) for a, b in ((0.0, 0.7), (0.7, 1.0))]
  assert [len(one) for one in parts] == [7, 3]
  other = dataclasses.replace(source, targets={"depth": source.targets["depth"] + 1})
  assert other.fingerprint() != source.fingerprint()


def test_the_command_line_runs_checks_and_reports_it(tmp_path, capsys):
  path = tmp_path / "depth.py"
  found = dict(study=f"{HERE}.rows", base=config(epochs=1.0), arms=dict(a={}, b=dict(epochs=2.0)), seeds=[0])
  path.write_text(f"def get_config():\n  return {found!r}\n")
  workdir = tmp_path / "run"
  assert cli.main(["check", str(path)]) == 0
  text = capsys.readouterr().out
  assert "parameters 7, 0 decayed" in text
  assert "4 = 1 epochs of 64 images in batches of 16" in text
  assert cli.main(["run", str(path), "--workdir", str(workdir), "--num-devices", "1"]) == 0
  report = (workdir / "report" / "report.md").read_text()
  losses = [sealed_json.read_lines(workdir / arm / "0" / "rows.jsonl")[0]["loss"] for arm in "ab"]
  assert losses[1] < losses[0]
  assert "| arm | loss | worst |" in report
  assert (workdir / "report" / "training.png").is_file()
  shutil.rmtree(workdir)


def test_classification_reads_labels():
  task = classification(loss=lambda logits, labels: logits[:, 0])
  assert set(task.inputs(8)) == {"image", "label"}
