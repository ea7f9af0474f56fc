"""Detectors and segmenters are models: any backbone, blocks in forward order, and a pass cut at any block."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl import models, tree
from jaxtl.errors import ConfigError
from jaxtl.models.pyramid import choose_taps, resample
from jaxtl.testing import check_model
from jaxtl.types import Model
from tests.models.test_every_model import FAMILIES, make_small

# Finest and coarsest level of the small backbones' maps.
SMALL_FPN = dict(width=8, min_level=3, max_level=6)


def small_backbone(name="resnet18", **keywords):
  if name == "resnet18":
    return models.resnet18(num_classes=3, width=4, **keywords)
  return make_small(name)


def small_detector(name="resnet18", **keywords):
  neck = models.fpn(**SMALL_FPN)
  return models.retinanet(
    num_classes=2, backbone=small_backbone(name), neck=neck, **dict(width=8, num_convs=1) | keywords
  )


def small_segmenter(name="resnet18", **keywords):
  given = dict(neck=models.fpn(**SMALL_FPN | dict(max_level=5)), width=8, num_convs=1) | keywords
  return models.segmenter(num_classes=3, backbone=small_backbone(name), **given)


def shapes(model, size=32):
  return jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_backbone_knows_its_strides(name):
  model, size = make_small(name), 32
  if name.startswith(("vit", "clip")):
    size = 8
  params, stats = shapes(model, size)
  x = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
  features, _ = jax.eval_shape(model.apply, params, stats, x)
  maps = {feature: x for feature, x in features.items() if feature.startswith("stage")}
  assert set(maps) == set(model.module.strides)
  for feature, stride in model.module.strides.items():
    assert maps[feature].shape[1:3] == (-(-size // stride),) * 2, feature


@pytest.mark.parametrize(
  ("name", "features"),
  [
    ("resnet50", ("stage2", "stage3", "stage4")),
    ("densenet121", ("stage2", "stage3", "stage4")),
    ("efficientnet_b0", ("stage3", "stage5", "stage7")),
    ("efficientnet_lite0", ("stage3", "stage5", "stage7")),
    ("mobilenet_v1", ("stage3", "stage4", "stage5")),
    ("mobilenet_v2", ("stage3", "stage5", "stage7")),
    ("vit_b16", ("stage4", "stage4", "stage4")),
  ],
)
def test_levels_come_from_the_last_map_of_their_stride(name, features):
  strides = getattr(models, name)(num_classes=0).module.strides
  taps = choose_taps(name, strides, models.fpn())
  assert [(tap.level, tap.feature) for tap in taps] == list(zip((3, 4, 5), features))
  taken = choose_taps(name, strides, models.fpn(max_level=4))
  assert [tap.level for tap in taken] == [3, 4]


@pytest.mark.parametrize("name", ["resnet50", "efficientnet_b7", "mobilenet_v2", "vit_b16"])
def test_the_trunk_of_a_backbone_ends_with_its_last_map(name):
  backbone = getattr(models, name)(num_classes=7)
  model = models.segmenter(num_classes=3, backbone=backbone, neck=models.fpn())
  left = backbone.blocks[len(model.blocks) - 2 :]
  assert model.blocks == (*backbone.blocks[: len(model.blocks) - 2], "neck", "head")
  assert left == {"resnet50": ("head",), "vit_b16": ("norm", "head")}.get(name, ("top", "head"))


def test_a_backbone_keeps_its_paths_and_its_initial_values():
  """So a checkpoint of the backbone fits by path, and arms that differ in the head start alike."""
  x = np.zeros((1, 32, 32, 3), np.float32)
  backbone = models.mobilenet_v1(num_classes=3, width_factor=0.25)
  neck = models.fpn(width=8, max_level=5)
  body, body_stats = jax.jit(backbone.init)(jax.random.key(3), x)
  model = models.segmenter(num_classes=2, backbone=backbone, neck=neck, width=8, num_convs=1)
  params, stats = jax.jit(model.init)(jax.random.key(3), x)
  for whole, part in ((params, body), (stats, body_stats)):
    for block in set(whole) - {"neck", "head"}:
      jax.tree.map(np.testing.assert_array_equal, whole[block], part[block])
  assert set(params) == {*body, "neck"}


@pytest.mark.parametrize("make", [small_detector, small_segmenter])
def test_a_small_one_keeps_the_contract(make, filled):
  model = make()
  check_model(
    model,
    num_classes=3,
    image_size=32,
    variables=filled(model, (1, 32, 32, 3)),
    form=False,  # it has no `pooled`, and logits for every position
    training=make
    is small_segmenter,  # the detector's codes do not enter the check's loss; see test_retinanet
  )
  params, _ = shapes(model)
  assert set(params) == set(model.blocks)
  assert model.head == "head"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["efficientnet_lite0", "mobilenet_v1"])
def test_other_backbones_can_be_cut_everywhere(name, filled):
  model = small_segmenter(name)
  check_model(
    model,
    num_classes=3,
    image_size=32,
    variables=filled(model, (1, 32, 32, 3)),
    form=False,
    evaluation=False,
    training=False,
  )


def test_the_hidden_state_holds_the_maps_that_are_read_later(filled):
  model = small_detector()
  params, stats = filled(model, (1, 32, 32, 3))
  x = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype(np.float32)
  features, _ = jax.jit(model.apply)(params, stats, x)

  def entering(block):
    return jax.jit(functools.partial(model.prefix, stop=block))(params, stats, x)

  assert not isinstance(entering("stage2_block1"), dict)
  assert not isinstance(entering("stage2_block2"), dict)  # stage2 is what its last block returns
  assert set(entering("stage3_block1")) == {"stage2", "hidden"}
  assert set(entering("stage4_block2")) == {"stage2", "stage3", "hidden"}
  assert set(entering("neck")) == {"stage2", "stage3", "stage4"}
  assert set(entering("head")) == {"p3", "p4", "p5", "p6"}
  for feature, found in entering("neck").items():
    np.testing.assert_allclose(found, features[feature], rtol=1e-5, atol=1e-6)
  # What runs later returns no feature of what ran before.
  rest = jax.eval_shape(functools.partial(model.suffix, start="neck"), params, stats, entering("neck"))
  assert set(rest) == {"logits", "codes", "anchors"}


def test_statistics_move_in_every_part_and_only_in_training(filled):
  model = small_segmenter()
  params, stats = filled(model, (1, 32, 32, 3))
  x = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype(np.float32)
  _, moved = jax.jit(functools.partial(model.apply, train=True))(params, stats, x)
  _, frozen = jax.jit(functools.partial(model.apply, train=True, frozen_stats=True))(params, stats, x)
  assert tree.paths(moved) == tree.paths(stats)
  for block in ("stem", "neck", "head"):
    pairs = zip(jax.tree.leaves(moved[block]), jax.tree.leaves(stats[block]))
    assert all(np.any(a != b) for a, b in pairs), block
  jax.tree.map(np.testing.assert_array_equal, frozen, stats)


def test_resampling_by_hand():
  x = jnp.arange(16.0).reshape(1, 4, 4, 1)
  assert resample(x, 3, 4)[0, ..., 0].tolist() == [[5, 7], [13, 15]]
  assert resample(x, 3, 5)[0, ..., 0].tolist() == [[15]]
  assert resample(x[:, :1, :2], 4, 3)[0, ..., 0].tolist() == [[0, 0, 1, 1]] * 2
  np.testing.assert_array_equal(resample(resample(x, 3, 1), 1, 3), x)
  assert resample(-x[:, :3, :3], 3, 4)[0, ..., 0].tolist() == [[0, -2], [-8, -10]]  # the padding never wins


@pytest.mark.parametrize("side", [37, 64])
def test_images_of_any_size(side, filled):
  """Odd sizes are rounded up by every stride, and maps are cut to the finer one's size."""
  for make, name in itertools.product((small_detector, small_segmenter), ("resnet18", "mobilenet_v1")):
    model = make(name)
    x = jax.ShapeDtypeStruct((1, side, side + 9, 3), jnp.float32)
    params, stats = jax.eval_shape(model.init, jax.random.key(0), x)
    features, _ = jax.eval_shape(model.apply, params, stats, x)
    if make is small_detector:
      cells = sum(-(-side // 2**level) * -(-(side + 9) // 2**level) for level in range(3, 7))
      assert (
        features["logits"].shape[1] == features["codes"].shape[1] == len(features["anchors"]) == 9 * cells
      )
    else:
      assert features["logits"].shape[1] == 2 * -(-side // 8)


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (
      lambda: models.retinanet(num_classes=3, backbone=models.resnet20(num_classes=3)),
      "resnet20 has maps of the levels 0, 1, 2 .* fpn starts at level 3; write min_level=0",
    ),
    (
      lambda: models.segmenter(num_classes=3, backbone=Model("mine", None, None, ("a", "b"))),
      "segmenter needs a backbone with feature maps, such as .*; got mine",
    ),
    (
      lambda: models.segmenter(num_classes=3, backbone=models.clip_text_b()),
      "needs a backbone with feature maps",
    ),
    (lambda: models.retinanet(num_classes=3, backbone="resnet50"), "got 'resnet50'"),
    (
      lambda: models.retinanet(num_classes=3, backbone=small_backbone(), neck="fpn"),
      "needs a neck.*got 'fpn'",
    ),
    (
      lambda: models.segmenter(num_classes=3, backbone=models.vit_b16(num_classes=3, patch_size=14)),
      "maps of stride 14; a pyramid needs strides that are powers of two",
    ),
  ],
)
def test_what_does_not_fit_is_one_line(make, message):
  with pytest.raises(ConfigError, match=message):
    make()
