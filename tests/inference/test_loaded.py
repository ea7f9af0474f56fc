"""A loaded checkpoint gives the numbers of an evaluation whatever the batch, and compiles once per shape."""

import dataclasses
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

import jaxtl
from jaxtl import data, inference
from jaxtl.checkpoints import checkpoint
from jaxtl.errors import CheckpointError, ConfigError, DataError, InputError, NonFiniteError
from jaxtl.evaluation import evaluate as evaluation
from jaxtl.evaluation import label_map
from jaxtl.inference.batches import padded_size
from jaxtl.measure import prepared
from jaxtl.train import make_mesh
from jaxtl.train.image_size import fitted
from jaxtl.train.runtime import Runtime
from tests.data.made_images import encoded, smooth_image
from tests.inference.saved import CLASSES, CROP, NORMALIZE, RESIZE, save


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return save(tmp_path_factory.mktemp("weights") / "weights")


@pytest.fixture(scope="module")
def loaded(folder):
  return jaxtl.load(folder)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  """Seven files of several sizes and formats, in class folders."""
  root = tmp_path_factory.mktemp("files")
  kinds = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG")
  for number, (name, kind) in enumerate(zip(CLASSES, kinds)):
    (root / name).mkdir()
    content = encoded(smooth_image(20 + 3 * number, 40 - 2 * number, seed=number), kind)
    (root / name / f"{number}.{kind.lower()}").write_bytes(content)
  return root


def logits(predictions):
  return np.stack([each.logits for each in predictions])


def test_logits_are_those_of_the_pipeline_and_the_network(loaded, folder, files):
  source = data.from_folder(folder=str(files), classes=CLASSES)
  plan = prepared.prepare(checkpoint.load(folder), {})
  model, params = fitted(plan.model, plan.weights, 16)
  realized = [spec.realize() for spec in plan.transforms]
  apply = jax.jit(lambda images: model.apply(params, plan.weights.batch_stats, images)[0]["logits"])
  batches = data.eval_batches(source, realized, batch_size=4)
  expected = np.concatenate([apply(batch["image"])[batch["mask"]] for batch in batches])
  paths = [source.images.root / path for path in source.images.paths]
  found = loaded.predict(paths, batch_size=4)
  assert np.ptp(expected) > 1  # the images differ
  np.testing.assert_allclose(logits(found), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_classes_and_confidences_are_those_of_jaxtl_eval(loaded, folder, files):
  source = data.from_folder(folder=str(files), classes=CLASSES)
  plan = prepared.prepare(checkpoint.load(folder), {})
  result = evaluation.evaluate(
    plan,
    source,
    label_map.match_classes(CLASSES, source.classes, at="data"),
    batch_size=4,
    runtime=Runtime(make_mesh(1)),
    bad_records=data.BadRecords(),
  )
  found = loaded.predict([source.images.root / path for path in source.images.paths], batch_size=4)
  assert [each.label for each in found] == [CLASSES[number] for number in result.examples.predicted]
  np.testing.assert_allclose([each.probability for each in found], result.examples.confidence, rtol=1e-5)


def test_a_prediction_is_the_softmax_of_its_logits_in_order(loaded, files):
  (found,) = loaded.predict(files / "red")
  weights = np.exp(found.logits.astype(np.float64) - found.logits.max())
  np.testing.assert_allclose(found.probabilities, weights / weights.sum(), rtol=1e-5)
  top = found.top(3)
  assert len(top) == 3
  assert found.top() == found.top(5)
  assert len(found.top(100)) == len(CLASSES)
  assert [p for _, p in top] == sorted(found.probabilities.tolist(), reverse=True)[:3]
  assert top[0] == (found.label, found.probability)
  assert found.name.endswith("red/0.jpeg")
  assert found.label in repr(found)
  even = dataclasses.replace(found, logits=np.zeros(7), probabilities=np.full(7, 1 / 7))
  assert [name for name, _ in even.top(3)] == list(CLASSES[:3])


def test_padding_changes_nothing(loaded):
  images = np.stack([smooth_image(16, 16, seed=seed) for seed in range(8)])
  four = logits(loaded.predict(images[:4]))
  np.testing.assert_array_equal(logits(loaded.predict(images[:3])), four[:3])
  whole = logits(loaded.predict(images))
  np.testing.assert_array_equal(logits(loaded.predict(images[:5], batch_size=8)), whole[:5])
  for batch_size in (1, 2, 3):
    other = logits(loaded.predict(images, batch_size=batch_size))
    np.testing.assert_allclose(other, whole, rtol=1e-5, atol=1e-5 * np.abs(whole).max())


@pytest.mark.parametrize(
  ("count", "batch_size", "size"),
  [(0, 8, 1), (1, 8, 1), (2, 8, 2), (3, 8, 4), (5, 8, 8), (8, 8, 8), (9, 8, 8), (5, 6, 6), (3, 2, 2)],
)
def test_batches_have_one_of_few_sizes(count, batch_size, size):
  assert padded_size(count, batch_size) == size


def test_the_network_is_traced_once_per_shape_and_choice(loaded):
  traces = []

  def apply(*arguments, **keywords):
    traces.append(arguments[2].shape)
    return loaded.model.apply(*arguments, **keywords)

  counted = dataclasses.replace(loaded, model=dataclasses.replace(loaded.model, apply=apply))
  images = np.stack([smooth_image(16, 16, seed=seed) for seed in range(8)])
  for count in (8, 5, 8, 7):
    counted.predict(images[:count], batch_size=8)
  counted.predict(np.concatenate([images] * 3)[:19], batch_size=8)
  assert traces == [(8, 16, 16, 3)]
  for _ in range(2):
    counted.predict(images[0])
  assert traces == [(8, 16, 16, 3), (1, 16, 16, 3)]
  for _ in range(2):
    counted.features(images, names=["pooled"])
  # Once to learn which features exist, once to compute.
  assert traces[2:] == [(1, 16, 16, 3), (8, 16, 16, 3)]


def test_features_are_the_model_s_and_agree_with_its_head(loaded):
  images = np.stack([smooth_image(16, 16, seed=seed) for seed in range(5)])
  found = loaded.features(images, batch_size=2)
  assert set(found) == {"stage1", "stage2", "stage3", "pooled", "logits"}
  assert all(len(values) == 5 for values in found.values())
  head = jax.tree.map(np.asarray, loaded.params["head"])
  np.testing.assert_allclose(
    found["logits"], found["pooled"] @ head["kernel"] + head["bias"], rtol=1e-4, atol=1e-3
  )
  np.testing.assert_allclose(found["pooled"], found["stage3"].mean(axis=(1, 2)), rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(found["logits"], logits(loaded.predict(images, batch_size=2)), rtol=1e-4)
  assert set(loaded.features(images[:1], names=["pooled"])) == {"pooled"}
  with pytest.raises(InputError, match=r"resnet8 has no feature 'stage9'; it has .*pooled"):
    loaded.features(images, names=["stage9"])
  with pytest.raises(InputError, match="at least one image, got none"):
    loaded.features([])


def test_a_checkpoint_without_a_classifier_has_features_and_no_predictions(tmp_path):
  loaded = jaxtl.load(save(tmp_path / "tower", classes=()))
  assert set(loaded.features(smooth_image(16, 16))) == {"stage1", "stage2", "stage3", "pooled"}
  with pytest.raises(InputError, match="has no classifier; transfer it"):
    loaded.predict(smooth_image(16, 16))


def test_another_task_than_a_classification_is_refused(loaded):
  task = types.SimpleNamespace(path=".tasks.boxes", realize=lambda **_: types.SimpleNamespace(loss=None))
  with pytest.raises(InputError, match=r"was trained on \.tasks\.boxes; expected a classification"):
    dataclasses.replace(loaded, task=task).predict(smooth_image(16, 16))


def test_unreadable_files_are_left_out_up_to_the_budget(loaded, tmp_path):
  for number in range(5):
    (tmp_path / f"{number}.png").write_bytes(encoded(smooth_image(16, 16, seed=number), "PNG"))
  (tmp_path / "1.png").write_bytes(b"")
  (tmp_path / "3.png").write_bytes(b"text")
  with pytest.raises(DataError, match=r"1 unreadable image, 0 allowed: .*1\.png cannot be read: it is empty"):
    loaded.predict(tmp_path)
  with pytest.raises(DataError, match="2 unreadable images, 1 allowed"):
    loaded.predict(tmp_path, max_bad_records=1)
  whole = loaded.predict([tmp_path / f"{number}.png" for number in (0, 2, 4)])
  for batch_size in (1, 2, 8):
    found = loaded.predict(tmp_path, max_bad_records=2, batch_size=batch_size)
    assert [each.name[-5:] for each in found] == ["0.png", "2.png", "4.png"]
    np.testing.assert_allclose(logits(found), logits(whole), rtol=1e-4, atol=1e-4)
  with pytest.raises(DataError, match="unreadable"):
    loaded.features(tmp_path)


def test_logits_that_are_not_finite_are_refused_by_name(tmp_path):
  loaded = jaxtl.load(save(tmp_path / "broken", shift=np.inf))
  with pytest.raises(NonFiniteError, match="has no finite logits for image 0"):
    loaded.predict(smooth_image(16, 16))


def test_images_of_another_size_are_refused_or_resized(tmp_path):
  folder = save(tmp_path / "pixels", transforms=[NORMALIZE])
  with pytest.raises(
    DataError, match=r"image 1: it has 20 x 30 pixels, .* --image-size 16 \(in Python: size=16\)"
  ):
    jaxtl.load(folder).predict([smooth_image(16, 16), smooth_image(20, 30)])
  assert len(jaxtl.load(folder, size=16).predict([smooth_image(16, 16), smooth_image(20, 30)])) == 2


def test_preprocessing_can_be_replaced(loaded, folder):
  image = smooth_image(30, 44)
  plain = loaded.predict(image)[0].logits
  for changes in (dict(interpolation="bicubic"), dict(crop_fraction=None), dict(mean=(0.1, 0.2, 0.3))):
    other = jaxtl.load(folder, preprocessing=changes).predict(image)[0].logits
    assert not np.allclose(other, plain)
  assert jaxtl.load(folder, size=24).preprocess(image).shape == (24, 24, 3)
  with pytest.raises(ConfigError, match="preprocessing has no 'sise'; expected some of crop_fraction"):
    jaxtl.load(folder, preprocessing=dict(sise=3))


def test_what_cannot_be_loaded_is_refused(tmp_path, loaded):
  with pytest.raises(CheckpointError, match="there is no such folder"):
    jaxtl.load(tmp_path / "nothing")
  folder = save(tmp_path / "unknown", transforms=None)
  with pytest.raises(InputError, match="has no preprocessing; give --crop-fraction, --mean, --std"):
    jaxtl.load(folder)
  known = dict(crop_fraction=0.8, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
  assert len(jaxtl.load(folder, preprocessing=known).predict(smooth_image(30, 30))) == 1
  with pytest.raises(InputError, match="expected a positive batch_size, got 0"):
    loaded.predict(smooth_image(16, 16), batch_size=0)
  foreign = save(tmp_path / "foreign", transforms=[dict(fn="os.system"), RESIZE, CROP])
  with pytest.raises(ConfigError, match=r"os\.system"):
    jaxtl.load(foreign)


def test_a_text_tower_is_refused(tmp_path):
  folder = save(tmp_path / "text")
  weights = checkpoint.load(folder)
  config = {**weights.config, "image_shape": [77], "transforms": None}
  checkpoint.save_weights(dataclasses.replace(weights, config=config), tmp_path / "tower")
  with pytest.raises(InputError, match="is not a model of images"):
    jaxtl.load(tmp_path / "tower")


@pytest.mark.slow
def test_neither_loading_nor_predicting_imports_tensorflow(folder, files):
  code = (
    "import sys, jaxtl; assert 'jax' not in sys.modules\n"
    "print(len(jaxtl.load(sys.argv[1]).predict(sys.argv[2])), 'tensorflow' in sys.modules)"
  )
  command = [sys.executable, "-c", code, str(folder), str(files)]
  done = subprocess.run(command, capture_output=True, text=True, check=True)
  assert done.stdout.split() == ["7", "False"]


def test_the_public_names():
  assert jaxtl.load is inference.load
  assert "load" in dir(jaxtl)
