"""The coefficient between two weights: against the evaluation of each mixture on its own; what is refused."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxtl import cli, config, losses, tree, weights
from jaxtl.checkpoints import checkpoint
from jaxtl.checkpoints.checkpoint import Weights
from jaxtl.errors import CheckpointError, ConfigError, DataError
from jaxtl.studies.patching import two_weights
from jaxtl.train.inputs import Data
from tests.pretrained.made_weights import TASK, refused
from tests.small_training import quiet_runtime

NORMALIZE = dict(fn=".data.normalize")


def made(classes, *, seed=0, moved=0.0, name="resnet8", **keywords):
  """Weights of a small network; `moved` away from those of seed 0, with a head of its own."""
  plain = {"make": f".models.{name}", "width": 4, **keywords}
  model = config.spec(plain).realize(num_classes=len(classes))
  params, stats = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
  head = model.init(jax.random.key(seed), jnp.zeros((1, 8, 8, 3)))[0][model.head]
  rng = np.random.default_rng(seed)
  params = jax.tree.map(lambda x: np.asarray(x + moved * rng.normal(size=x.shape), np.float32), params)
  about = dict(model=plain, task=TASK, classes=list(classes), image_shape=[8, 8, 3], transforms=[NORMALIZE])
  return Weights({**params, model.head: jax.device_get(head)}, jax.device_get(stats), about, f"made{seed}")


def images(*, seed, names):
  source = dict(make="tests.small_training.squares", seed=seed, names=names, num_examples=48)
  return Data(config.spec(source), (config.spec(NORMALIZE),), batch_size=16)


BEFORE, AFTER = made("abc"), made("pqr", seed=1, moved=0.1)
SUPPORTED, PATCHING = images(seed=3, names="abc"), images(seed=4, names="pqr")


@pytest.fixture(scope="module")
def found():
  return two_weights.patch(
    BEFORE, AFTER, supported=SUPPORTED, patching=PATCHING, runtime=quiet_runtime(), share=0.25
  )


def loss_at(alpha, start, data, *, part):
  """The mean cross-entropy of a mixture with the head of `start`, without the library's path and batches."""
  runtime = quiet_runtime()
  model = start.model_spec().realize(num_classes=3)
  spans = {"validation": dict(stop=0.25), "test": dict(start=0.25)}[part]
  source = dict(make=".data.part_of", source=config.plain(data.source), **spans)
  (batch,) = runtime.eval_batches(dataclasses.replace(data, source=config.spec(source), batch_size=48))
  mixed = jax.tree.map(lambda a, b: (1 - alpha) * a + alpha * b, {**BEFORE.params}, {**AFTER.params})
  mixed[model.head] = start.params[model.head]
  logits = model.apply(mixed, BEFORE.batch_stats, batch["image"])[0]["logits"]
  each = losses.softmax_cross_entropy(logits, jnp.asarray(batch["label"]))
  return float(jnp.sum(jnp.where(batch["mask"], each, 0)) / np.sum(batch["mask"]))


def test_the_losses_are_those_of_each_mixture(found):
  starts = {"supported": (BEFORE, SUPPORTED), "patching": (AFTER, PATCHING)}
  for part, curve in (("validation", found.curve), ("test", found.scores)):
    for alpha in (0.0, found.alpha, 1.0):
      for task, (start, data) in starts.items():
        expected = loss_at(alpha, start, data, part=part)
        assert curve[round(alpha, 12)][task]["loss"] == pytest.approx(expected, rel=1e-5)


def test_the_coefficient_is_that_of_the_search_on_the_sum_of_loss_ratios(found):
  at = {
    alpha: {task: scores["loss"] for task, scores in point.items()} for alpha, point in found.curve.items()
  }
  for alpha, one in at.items():
    total = sum(one[task] / at[0.0][task] for task in one)
    assert found.objective[alpha] == pytest.approx(total, rel=1e-12)
  known = weights.optimize_alpha(lambda alpha: found.objective[round(alpha, 12)])
  assert known.alpha == found.alpha
  assert found.search.value == min(found.objective.values())


def test_the_images_that_choose_are_not_scored(found):
  assert found.num_choosing == {"supported": 12, "patching": 12}
  assert found.num_scored == {"supported": 36, "patching": 36}


def test_the_patched_weights_are_the_mixture_with_the_heads_of_both(found):
  for task, start in (("supported", BEFORE), ("patching", AFTER)):
    made_of = found.weights[task]
    assert made_of.classes == start.classes
    for path, value in zip(tree.paths(made_of.params), jax.tree.leaves(made_of.params)):
      old, new = (dict(zip(tree.paths(w.params), jax.tree.leaves(w.params)))[path] for w in (BEFORE, AFTER))
      mixture = (1 - found.alpha) * old + found.alpha * new
      expected = start.params["head"][path.partition("/")[2]] if path.startswith("head/") else mixture
      np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)


def patched(before=BEFORE, after=AFTER, supported=SUPPORTED, patching=PATCHING, share=0.5):
  two_weights.patch(
    before, after, supported=supported, patching=patching, runtime=quiet_runtime(), share=share
  )


@pytest.mark.parametrize(
  ("changes", "error", "message"),
  [
    (dict(after=made("pqr", name="resnet20")), ConfigError, "is a resnet8 and made0 a resnet20"),
    (dict(after=made("pqr", width=8)), ConfigError, "of different sizes"),
    (dict(after=made("pqr")), ConfigError, "equal backbones"),
    (dict(after=made("pqr", seed=1, moved=0.1, padding="same")), CheckpointError, "padding"),
    (dict(supported=images(seed=3, names="xyz")), DataError, "supported data .* other classes"),
    (dict(patching=images(seed=3, names="xyz")), DataError, "patching data .* other classes"),
    (dict(supported=PATCHING, patching=SUPPORTED), DataError, "exchange the data"),
    (dict(patching=images(seed=3, names="pqr")), DataError, "48 images in common"),
    (dict(share=1.0), ConfigError, "expected a share between 0 and 1"),
  ],
)
def test_what_does_not_fit_is_refused(changes, error, message):
  with pytest.raises(error, match=message):
    patched(**changes)


def draw_folder(folder, names, seed):
  rng = np.random.default_rng(seed)
  for number, name in enumerate(names):
    (folder / name).mkdir(parents=True)
    for index in range(16):
      image = rng.integers(0, 120, (8, 8, 3))
      image[..., number] += 100
      Image.fromarray(image.astype(np.uint8)).save(folder / name / f"{index}.png")
  return folder


@pytest.fixture
def places(tmp_path):
  checkpoint.save_weights(BEFORE, tmp_path / "before")
  checkpoint.save_weights(AFTER, tmp_path / "after")
  draw_folder(tmp_path / "old", "abc", 1)
  draw_folder(tmp_path / "new", "pqr", 2)
  return tmp_path


def arguments(places, *more, before="before", after="after", supported="old", patching="new"):
  tasks = ["--supported", places / supported, "--patching", places / patching, "--batch-size", 16]
  return [str(part) for part in ("patch", places / before, places / after, *tasks, *more)]


def test_the_command_writes_a_page_and_checkpoints_that_can_be_evaluated(places, capsys):
  out = places / "out"
  assert cli.main(arguments(places, "--out", out, "--share", 0.25)) == 0
  printed = capsys.readouterr().out
  assert [line.split()[0] for line in printed.splitlines()[1:4]] == ["before", "patched", "after"]
  assert "12 + 12 images chose the coefficient" in printed
  scores = json.loads((out / "scores.json").read_text())
  assert sorted(path.name for path in out.iterdir()) == [
    "index.html",
    "losses.png",
    "patching",
    "scores.json",
    "supported",
  ]
  found = checkpoint.load(out / "patching")
  assert found.classes == tuple("pqr")
  assert found.config["patched"]["alpha"] == scores["alpha"]
  assert cli.main(["eval", str(out / "supported"), "--data", str(places / "old"), "--batch-size", "16"]) == 0
  assert cli.main(["export", str(out / "patching"), str(places / "exported")]) == 0


def test_bad_input_is_one_line(places, capsys):
  (places / "there").mkdir()
  assert "exists already" in refused(capsys, *arguments(places, "--out", places / "there"))
  assert "BEFORE and AFTER are both" in refused(capsys, *arguments(places, after="before"))
  both = arguments(places, patching="old")
  assert "--supported and --patching are both" in refused(capsys, *both, code=3)
  assert "no checkpoint" in refused(capsys, *arguments(places, before="nowhere"))
  other = dataclasses.replace(
    AFTER, config={**AFTER.config, "transforms": [dict(NORMALIZE, mean=[0, 0, 0], std=[1, 1, 1])]}
  )
  checkpoint.save_weights(other, places / "other")
  assert "normalises images differently" in refused(capsys, *arguments(places, after="other"))
