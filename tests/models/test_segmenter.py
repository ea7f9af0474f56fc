import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl import losses, models, tree
from jaxtl.errors import ConfigError
from jaxtl.models.layers import Numerics
from jaxtl.models.pyramid import Style
from jaxtl.models.segmenter import SegmentationHead, fused
from tests.models.test_pyramid import shapes, small_backbone, small_segmenter


def bilinear(x, factor):
  """Interpolation between pixel centres, in NumPy; beyond the outermost centres their value goes on."""
  for axis in (1, 2):
    size = x.shape[axis]
    places = np.clip((np.arange(size * factor) + 0.5) / factor - 0.5, 0, size - 1)
    low = np.minimum(places.astype(int), size - 2) if size > 1 else np.zeros(len(places), int)
    share = (places - low).reshape([-1 if i == axis else 1 for i in range(4)])
    x = (1 - share) * x.take(low, axis) + share * x.take(np.minimum(low + 1, size - 1), axis)
  return x


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_levels_are_interpolated_and_added(stride):
  rng = np.random.default_rng(0)
  pyramid = {f"p{level}": rng.standard_normal((2, 32 // 2**level, 64 // 2**level, 3)) for level in (3, 4, 5)}
  found = fused({name: jnp.asarray(x, jnp.float32) for name, x in pyramid.items()}, stride=stride)
  expected = sum(bilinear(x, 2 ** int(name[1]) // stride) for name, x in pyramid.items())
  assert found.shape == (2, 32 // stride, 64 // stride, 3)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_logits_have_the_stride(filled):
  for stride in (1, 2, 4, 8):
    model = small_segmenter(stride=stride)
    x = jax.ShapeDtypeStruct((2, 32, 64, 3), jnp.float32)
    features, _ = jax.eval_shape(model.apply, *shapes(model), x)
    assert features["logits"].shape == (2, 32 // stride, 64 // stride, 3)
    assert features["logits"].dtype == jnp.float32


def test_the_first_loss_is_that_of_a_guess():
  """Small initial kernels behind a norm: the logits start near zero, and the loss near ln K."""
  rng = np.random.default_rng(0)
  sides = {"p3": 8, "p4": 4, "p5": 2}
  pyramid = {
    name: jnp.asarray(rng.standard_normal((2, side, side, 16)), jnp.float32) for name, side in sides.items()
  }
  module = SegmentationHead(21, 16, 2, 4, Style(Numerics()))
  variables = jax.jit(module.init, static_argnums=(2, 3))(jax.random.key(0), pyramid, False, False)
  features, _ = module.apply(variables, pyramid, True, False, mutable=["batch_stats"])
  found = losses.segment_losses(features["logits"], rng.integers(0, 21, (2, 64, 64)))
  np.testing.assert_allclose(jnp.sum(found.sums) / jnp.sum(found.pixels), np.log(21), rtol=0.02)


def test_every_parameter_has_a_finite_gradient(filled):
  model = small_segmenter()
  params, stats = filled(model, (1, 32, 32, 3))
  images = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype(np.float32)
  segments = np.random.default_rng(1).integers(0, 3, (2, 32, 32)).astype(np.uint8)
  segments[0, :8] = 255

  def loss(params):
    features, _ = model.apply(params, stats, images, train=True, key=jax.random.key(0))
    return jnp.mean(losses.per_batch(*losses.segment_losses(features["logits"], segments), jnp.ones(2, bool)))

  gradient = jax.jit(jax.grad(loss))(params)
  for path, leaf in zip(tree.paths(gradient), jax.tree.leaves(gradient)):
    assert np.all(np.isfinite(leaf)), path
    if path.endswith("kernel"):
      assert np.any(leaf != 0), path


def test_a_small_efficientnet_with_the_whole_nasfpn():
  """8,857,961 parameters: trunk 3,595,388, NAS-FPN 123,608 + 3,361,792, head 1,777,173."""
  model = models.segmenter(num_classes=21, backbone=models.efficientnet_b0(num_classes=21))
  params, _ = shapes(model, 64)
  assert tree.size(params) == 8_857_961
  assert tree.size(params["neck"]) == 123_608 + 3_361_792
  assert tree.size(params["head"]) == 1_777_173


def program(**keywords):
  model = small_segmenter(**keywords)
  params, stats = shapes(model)
  x = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)  # a smaller map has the same padding of either kind
  run = lambda *args: model.apply(*args, train=True, start="neck")  # noqa: E731
  maps = jax.eval_shape(lambda *args: model.prefix(*args, stop="neck"), params, stats, x)
  return str(jax.make_jaxpr(run)(params, stats, maps))


def test_every_keyword_changes_the_program():
  plain = program(neck=models.fpn(width=8))
  for changes in (
    dict(neck=models.nasfpn(width=8, repeats=1)),
    dict(width=4),
    dict(num_convs=2),
    dict(stride=2),
    dict(padding="symmetric"),
    dict(dtype="bfloat16"),
    dict(bn_epsilon=0.5),
    dict(bn_momentum=0.5),
    dict(batch_norm="stored"),
  ):
    assert program(**dict(neck=models.fpn(width=8)) | changes) != plain, changes


@pytest.mark.parametrize(
  ("keywords", "message"),
  [
    (
      dict(stride=3),
      "stride=3 does not divide 8, the stride of the finest level of the nasfpn; write stride=4",
    ),
    (dict(stride=16), "stride=16 does not divide 8"),
    (dict(num_classes=0), "num_classes must be an integer of at least 1"),
    (dict(padding="valid"), "padding must be 'symmetric' or 'same'"),
  ],
)
def test_wrong_values_are_one_line(keywords, message):
  with pytest.raises(ConfigError, match=message):
    models.segmenter(**dict(num_classes=2, backbone=small_backbone()) | keywords)
