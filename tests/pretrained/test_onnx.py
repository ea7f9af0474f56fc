"""The ONNX graph of every family computes our logits, by onnxruntime or else by onnx's reference evaluator."""

import inspect

import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl import models
from jaxtl.checkpoints import checkpoint
from jaxtl.errors import InputError
from jaxtl.pretrained import exporting, stablehlo
from tests.pretrained.made_weights import SMALL, SMALL_OF, VIT, as_weights, refused

onnx = pytest.importorskip("onnx", reason="the package onnx is not installed: pip install 'jaxtl[onnx]'")

SIZE = 32
FAMILIES = (
  "resnet18",
  "resnet20",
  "wide_resnet28_10",
  "densenet121",
  "efficientnet_b0",
  "efficientnet_lite0",
  "mobilenet_v1",
  "mobilenet_v2",
  "vit_ti16",
  "clip_vit_b32",
)
# Keywords that change operations, not only sizes.
VARIANTS = [
  ("resnet18", dict(stem="cifar", padding="same")),
  ("resnet18", dict(head="cosine", remat=True)),
  ("efficientnet_b0", dict(padding="same")),
  ("vit_ti16", dict(pooling="mean")),
  ("vit_ti16", dict(pooling="distilled")),
  ("vit_ti16", dict(activation="gelu_tanh")),
  ("clip_vit_b32", dict(head="scaled_cosine")),
]


def small(name, **keywords):
  parameters = inspect.signature(getattr(models, name)).parameters
  chosen = {key: value for key, value in SMALL.items() if key in parameters} | SMALL_OF.get(name, {})
  if "image_size" in parameters:
    chosen |= VIT | dict(image_size=SIZE)
  return as_weights(name, size=SIZE, **chosen | keywords)


def exported(weights, folder):
  exporting.export(weights, folder / "out", format="onnx")
  return (folder / "out" / "model.onnx").read_bytes()


def expected(weights, images):
  model = weights.model_spec().realize(num_classes=len(weights.classes))
  return stablehlo.predictor(model, weights, exporting.preprocessing_of(weights))(jnp.asarray(images))


def assert_same(theirs, ours):
  for feature, value in ours.items():
    np.testing.assert_allclose(theirs[feature], value, rtol=0, atol=1e-5 * np.abs(value).max())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "keywords"), [*((name, {}) for name in FAMILIES), *VARIANTS])
def test_the_graph_computes_our_features_for_any_batch(name, keywords, tmp_path):
  weights = small(name, **keywords)
  content = exported(weights, tmp_path)
  rng = np.random.default_rng(0)
  for batch in (1, 2):
    images = rng.integers(0, 256, (batch, SIZE, SIZE, 3)).astype(np.uint8)
    assert_same(run(content, images), expected(weights, images))


def run(content, images):
  """The outputs by name: of onnxruntime, or of the reference evaluator, whose convolutions are slow."""
  try:
    import onnxruntime
  except ImportError:
    return run_reference(content, images)
  session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
  names = [output.name for output in session.get_outputs()]
  return dict(zip(names, session.run(names, {"images": images}), strict=True))


def run_reference(content, images):
  from onnx.reference import ReferenceEvaluator

  reference = ReferenceEvaluator(onnx.load_from_string(content))
  return dict(zip(reference.output_names, reference.run(None, {"images": images}), strict=True))


def test_the_reference_evaluator_agrees(tmp_path):
  weights = small("vit_ti16")
  images = np.random.default_rng(1).integers(0, 256, (2, SIZE, SIZE, 3)).astype(np.uint8)
  assert_same(run_reference(exported(weights, tmp_path), images), expected(weights, images))


def test_half_precision_is_exported_in_float32(tmp_path):
  half, full = small("resnet20", dtype="bfloat16"), small("resnet20")
  (tmp_path / "full").mkdir()
  assert exported(half, tmp_path) == exported(full, tmp_path / "full")


def test_what_has_no_form_is_one_line(tmp_path, capsys, monkeypatch):
  from jaxtl.pretrained import onnx_graph

  text = small_text()
  with pytest.raises(InputError, match="clip_text_b takes no images; export it as safetensors"):
    exporting.export(text, tmp_path / "text", format="onnx")
  monkeypatch.delitem(onnx_graph._WRITERS, "conv_general_dilated")
  checkpoint.save_weights(small("resnet20"), tmp_path / "weights")
  line = refused(capsys, "export", tmp_path / "weights", tmp_path / "out", "--format", "onnx")
  assert "no form of the operation 'conv_general_dilated'" in line
  assert not (tmp_path / "out").exists()


def small_text():
  parameters = inspect.signature(models.clip_text_b).parameters
  return as_weights("clip_text_b", size=5, **{k: v for k, v in SMALL.items() if k in parameters})


def test_weights_that_one_file_cannot_hold_are_refused(tmp_path, monkeypatch):
  from jaxtl.pretrained import onnx_graph

  monkeypatch.setattr(onnx_graph, "_MOST_BYTES", 100)
  with pytest.raises(InputError, match="holds less than 2 GB"):
    exporting.export(small("resnet20"), tmp_path / "out", format="onnx")
