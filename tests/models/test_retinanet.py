import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtl import boxes as geometry
from jaxtl import config, losses, metrics, models, optim, tree
from jaxtl.errors import ConfigError
from jaxtl.models.anchors import octave_anchors, rounded_anchors
from jaxtl.models.layers import Numerics
from jaxtl.models.pyramid import Style
from jaxtl.models.retinanet import PRESETS, PRIOR_LOGIT, RetinaNetHead
from jaxtl.train.step import init_state, make_train_step
from jaxtl.types import Aux
from jaxtl.weights import match
from tests.models.test_pyramid import shapes, small_backbone, small_detector


def head(preset="tpu", *, channels=3, width=8, num_convs=2):
  chosen = PRESETS[preset]
  return RetinaNetHead(channels, width, num_convs, chosen, Style(Numerics(), chosen.normalised))


def pyramid(width=8, value=None):
  rng = np.random.default_rng(0)
  sides = {"p3": 4, "p4": 2, "p5": 1}
  return {
    name: jnp.asarray(
      rng.standard_normal((2, side, side, width))
      if value is None
      else value * np.ones((2, side, side, width)),
      jnp.float32,
    )
    for name, side in sides.items()
  }


def test_zero_features_give_the_prior():
  given = pyramid(value=0.0)
  variables = head().init(jax.random.key(0), given, False, False)
  found = head().apply(variables, given, False, False)
  np.testing.assert_allclose(found["logits"], np.full((2, 9 * 21, 3), -4.59512), atol=1e-5)
  np.testing.assert_allclose(jax.nn.sigmoid(PRIOR_LOGIT), 0.01, rtol=1e-5)
  assert np.all(np.asarray(found["codes"]) == 0)


def test_initial_values():
  given = {name: jax.ShapeDtypeStruct((1, 4, 4, 256), jnp.float32) for name in ("p3", "p4")}
  for preset, std in (("tpu", 1e-5), ("torchvision", 0.01)):
    module = head(preset, channels=91, width=256, num_convs=1)
    params = jax.jit(module.init, static_argnums=(2, 3))(
      jax.random.key(0), jax.tree.map(lambda x: jnp.zeros(x.shape), given), False, False
    )["params"]
    for tower, bias in (("classes", -np.log(99)), ("boxes", 0.0)):
      # 590,000 draws: the sample deviation is within 0.5 % but for one in 10^7.
      np.testing.assert_allclose(jnp.std(params[tower]["conv1"]["kernel"]), 0.01, rtol=5e-3)
      np.testing.assert_allclose(jnp.std(params[tower]["output"]["kernel"]), std, rtol=2e-2)
      np.testing.assert_allclose(
        params[tower]["output"]["bias"], bias * np.ones(9 * (91 if tower == "classes" else 4)), rtol=1e-6
      )
      assert np.all(np.asarray(params[tower]["conv1"]["bias"]) == 0)


def test_levels_share_kernels_and_have_norms_of_their_own():
  variables = head().init(jax.random.key(0), pyramid(), False, False)
  names = set(variables["params"]["classes"])
  assert names == {"conv1", "conv2", "output"} | {f"p{level}_bn{n}" for level in (3, 4, 5) for n in (1, 2)}
  assert set(variables["batch_stats"]["classes"]) == names - {"conv1", "conv2", "output"}
  plain = head("torchvision").init(jax.random.key(0), pyramid(), False, False)
  assert set(plain) == {"params"}
  assert set(plain["params"]["boxes"]) == {"conv1", "conv2", "output"}


def test_the_outputs_are_anchor_major_by_level_row_and_column():
  """With a head that copies one channel of the map, an output says where it comes from."""
  given = {name: jnp.arange(x.size, dtype=jnp.float32).reshape(x.shape) for name, x in pyramid(1).items()}
  module = head("torchvision", width=1, num_convs=0)
  params = module.init(jax.random.key(0), given, False, False)["params"]
  copy = np.zeros((3, 3, 1, 27), np.float32)
  copy[1, 1] = 1
  params["classes"]["output"] = {"kernel": jnp.asarray(copy), "bias": 0.1 * jnp.arange(27.0)}
  found = module.apply({"params": params}, given, False, False)["logits"]
  expected = [
    np.asarray(x).reshape(2, -1, 1, 1) + 0.1 * np.arange(27).reshape(1, 1, 9, 3) for x in given.values()
  ]
  expected = np.concatenate([x.reshape(2, -1, 3) for x in expected], axis=1)
  np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(("preset", "anchors"), [("tpu", octave_anchors), ("torchvision", rounded_anchors)])
def test_anchors_belong_to_the_outputs(preset, anchors):
  given = pyramid()
  variables = head(preset).init(jax.random.key(0), given, False, False)
  found = head(preset).apply(variables, given, False, False)
  expected = [anchors(side, side, level) for level, side in ((3, 4), (4, 2), (5, 1))]
  np.testing.assert_array_equal(found["anchors"], np.concatenate(expected))
  assert found["logits"].shape == (2, len(found["anchors"]), 3)
  assert found["codes"].shape == (2, len(found["anchors"]), 4)


def test_presets_differ_in_channels_norms_and_anchors():
  found = {}
  for preset in PRESETS:
    model = small_detector(preset=preset)
    params, stats = shapes(model)
    x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    features, _ = jax.eval_shape(model.apply, params, stats, x)
    found[preset] = features["logits"].shape[-1], {"neck", "head"} & set(stats)
  assert found == {"tpu": (3, {"neck", "head"}), "torchvision": (2, set())}


def test_a_resnet_50_at_full_size():
  """34,091,159 parameters for the 91 ids of COCO: trunk 23,508,032, pyramid 3,871,232, head 6,711,895."""
  model = models.retinanet(num_classes=90, backbone=models.resnet50(num_classes=90))
  params, _ = shapes(model)
  assert tree.size(params) == 34_091_159
  assert tree.size(params["neck"]) == 3_871_232
  assert tree.size(params["head"]) == 6_711_895
  x = jax.ShapeDtypeStruct((2, 640, 640, 3), jnp.float32)
  features, _ = jax.eval_shape(model.apply, *shapes(model), x)
  assert features["logits"].shape == (2, 76_725, 91)
  fewer, _ = shapes(models.retinanet(num_classes=89, backbone=models.resnet50(num_classes=90)))
  assert tree.size(fewer) == 34_070_414


def test_a_config_names_backbone_and_neck():
  made = config.spec(
    dict(
      make=".models.retinanet",
      backbone=dict(make=".models.resnet18", width=4),
      neck=dict(make=".models.fpn", width=8, max_level=4),
      width=8,
    )
  ).realize(num_classes=5)
  params, stats = shapes(made)
  features, _ = jax.eval_shape(made.apply, params, stats, jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32))
  assert features["logits"].shape == (1, 9 * (16 + 4), 6)
  assert made.blocks[-3:] == ("stage3_block2", "neck", "head")  # level 4 needs no stage 4


def test_a_checkpoint_of_the_backbone_fits_by_path(filled):
  model, backbone = small_detector(), small_backbone()
  trained, trained_stats = filled(backbone, (1, 32, 32, 3), seed=1)
  params, stats = filled(model, (1, 32, 32, 3))
  new = (r"^(neck|head)/",)
  started = match(trained, params, allow=new), match(trained_stats, stats, allow=new)
  for whole, part, fresh in zip(started, (trained, trained_stats), (params, stats)):
    for block in whole:
      expected = fresh if block in ("neck", "head") else part
      jax.tree.map(np.testing.assert_array_equal, whole[block], expected[block])


def program(**keywords):
  model = small_detector(**keywords)
  params, stats = shapes(model)
  x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
  run = lambda *args: model.apply(*args, train=True, start="neck")  # noqa: E731
  maps = jax.eval_shape(lambda *args: model.prefix(*args, stop="neck"), params, stats, x)
  return str(jax.make_jaxpr(run)(params, stats, maps))


def test_every_keyword_changes_the_program():
  plain = program()
  for changes in (
    dict(preset="torchvision"),
    dict(width=4),
    dict(num_convs=2),
    dict(dtype="bfloat16"),
    dict(bn_epsilon=0.5),
    dict(bn_momentum=0.5),
    dict(batch_norm="stored"),
  ):
    assert program(**changes) != plain, changes


def test_bfloat16_computes_in_bfloat16_and_returns_float32(filled):
  half, full = small_detector(dtype="bfloat16"), small_detector()
  params, stats = filled(full, (1, 32, 32, 3))
  rng = np.random.default_rng(0)
  maps = {
    f"stage{n}": jnp.asarray(rng.standard_normal((1, 16 // 2**n, 16 // 2**n, 2 * 2**n)), jnp.float32)
    for n in (2, 3, 4)
  }
  run = {
    model: jax.jit(functools.partial(model.suffix, start="neck"))(params, stats, maps)
    for model in (half, full)
  }
  between, _ = jax.eval_shape(functools.partial(half.apply, start="neck", stop="head"), params, stats, maps)
  assert {x.dtype for x in between["hidden"].values()} == {jnp.dtype("bfloat16")}
  for name in ("logits", "codes", "anchors"):
    found, expected = run[half][name], run[full][name]
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, atol=0.05 * float(jnp.max(jnp.abs(expected))))
  assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(shapes(half)))


def objective(model, params, stats, batch):
  """The loss as a task makes it of the library's parts."""
  features, moved = model.apply(params, stats, batch["image"], train=True, key=jax.random.key(0))
  found = losses.anchor_losses(
    features["logits"],
    features["codes"],
    features["anchors"],
    batch["boxes"],
    batch["label"] + 1,
    batch["valid"],
  )
  sums = found.classes + 50 * found.boxes
  return jnp.mean(losses.per_batch(sums, found.positives, batch["mask"], plus=1)), moved


def batch(side=32):
  rng = np.random.default_rng(0)
  return dict(
    image=jnp.asarray(rng.standard_normal((2, side, side, 3)), jnp.float32),
    boxes=jnp.array([[[2, 2, 20, 24], [0, 0, 0, 0]], [[4, 10, 30, 30], [16, 0, 32, 16]]], jnp.float32),
    label=jnp.array([[0, 0], [1, 0]]),
    valid=jnp.array([[True, False], [True, True]]),
    mask=jnp.ones(2, bool),
  )


def test_every_parameter_has_a_finite_gradient(filled):
  model = small_detector()
  params, stats = filled(model, (1, 32, 32, 3))
  (value, moved), gradient = jax.jit(
    jax.value_and_grad(lambda p: objective(model, p, stats, batch()), has_aux=True)
  )(params)
  assert np.isfinite(value)
  assert tree.paths(moved) == tree.paths(stats)
  for path, leaf in zip(tree.paths(gradient), jax.tree.leaves(gradient)):
    assert np.all(np.isfinite(leaf)), path
  # A bias before a norm has none; every kernel has one.
  kernels = [(p, x) for p, x in zip(tree.paths(gradient), jax.tree.leaves(gradient)) if p.endswith("kernel")]
  assert all(np.any(x != 0) for _, x in kernels), [p for p, x in kernels if not np.any(x != 0)]


@pytest.mark.slow
def test_it_finds_the_boxes_that_it_was_trained_on():
  """Four squares of two classes at random places: loss, assignment, head and suppression fit together."""
  rng = np.random.default_rng(0)
  images, boxes, labels = np.zeros((4, 32, 32, 3), np.float32), np.zeros((4, 1, 4)), np.arange(4)[:, None] % 2
  for number in range(4):
    y, x = rng.integers(0, 16, 2)
    boxes[number] = y, x, y + 14, x + 14
    images[number, y : y + 14, x : x + 14, labels[number, 0]] = 2.0
  there = dict(image=jnp.asarray(images), boxes=jnp.asarray(boxes), label=jnp.asarray(labels))
  there |= dict(valid=jnp.ones((4, 1), bool), mask=jnp.ones(4, bool))
  model = models.retinanet(
    num_classes=2,
    backbone=small_backbone(),
    neck=models.fpn(width=16, min_level=2, max_level=4),
    width=16,
    num_convs=1,
  )
  params, stats = jax.jit(model.init)(jax.random.key(0), there["image"])
  tx, gradient, values = optax.adam(5e-3), optim.plain(), []

  def loss_fn(params, batch_stats, batch, key):
    value, moved = objective(model, params, batch_stats, batch)
    return value, Aux(moved, {})

  step = jax.jit(make_train_step(loss_fn, tx, gradient=gradient))
  state = init_state(params, stats, tx, gradient=gradient)
  for _ in range(150):
    state, scalars = step(state, there, jax.random.key(0))
    values.append(float(scalars["loss"]))
  assert values[-1] < 0.2 * values[0]
  # Normalised by the batch, as in training: the moving statistics need a thousand steps.
  features, _ = model.apply(state.params, stats, there["image"], train=True, key=jax.random.key(0))
  outputs = (features[name] for name in ("logits", "codes", "anchors"))
  found = metrics.detections(*outputs, jnp.full((4, 2), 32.0), max_outputs=3)
  np.testing.assert_array_equal(found.classes[:, 0], labels[:, 0])
  overlap = geometry.iou(found.boxes[:, :1], there["boxes"])
  assert float(jnp.min(overlap)) > 0.6


@pytest.mark.parametrize(
  ("keywords", "message"),
  [
    (dict(num_classes=0), "num_classes must be an integer of at least 1; got 0"),
    (dict(preset="detectron"), "preset must be 'tpu' or 'torchvision'; got 'detectron'"),
    (dict(num_convs=-1), "num_convs must be an integer of at least 0"),
    (dict(width=0), "width must be an integer of at least 1"),
    (dict(dtype="float16"), "dtype must be 'float32' or 'bfloat16'"),
  ],
)
def test_wrong_values_are_one_line(keywords, message):
  with pytest.raises(ConfigError, match=message):
    models.retinanet(**dict(num_classes=2, backbone=small_backbone()) | keywords)
