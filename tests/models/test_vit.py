import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from jaxtl import models, tree
from jaxtl.errors import ConfigError

KEY = jax.random.key(0)


def small(**options):
  """Four blocks of width 12 on 3 x 3 patches."""
  sizes = dict(patch_size=4, image_size=12, width=12, depth=4, num_heads=3)
  return models.vit_ti16(num_classes=5, **{**sizes, **options})


@pytest.fixture(scope="module")
def variables(filled):
  return filled(small(), (1, 12, 12, 3))


@pytest.fixture(scope="module")
def x(images):
  return images(6, 12, 12, 3)


# -- Architecture


@pytest.mark.parametrize(
  ("name", "count"), [("vit_ti16", 5_717_416), ("vit_s16", 22_050_664), ("vit_b16", 86_567_656)]
)
def test_parameters_count_as_timm(name, count):
  model = getattr(models, name)(num_classes=1000)
  params, batch_stats = jax.eval_shape(model.init, KEY, jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32))
  assert tree.size(params) == count
  assert batch_stats == {}


def test_vit_b16_with_ten_classes_counts_as_torchvision():
  model = models.vit_b16(num_classes=10)
  params, _ = jax.eval_shape(model.init, KEY, jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32))
  assert tree.size(params) == 85_806_346
  assert tree.size(params["head"]) == 7_690


@pytest.mark.parametrize("pooling", ["token", "mean"])
def test_stages_are_the_patch_tokens_after_each_quarter(filled, x, pooling):
  model = small(pooling=pooling, depth=8)
  params, batch_stats = filled(model, (1, 12, 12, 3))
  features, _ = model.apply(params, batch_stats, x)
  for stage, following in enumerate(("block3", "block5", "block7", "norm"), start=1):
    tokens = model.prefix(params, batch_stats, x, stop=following)
    patches = tokens[:, 1:] if pooling == "token" else tokens
    np.testing.assert_array_equal(features[f"stage{stage}"].reshape(6, 9, 12), patches)
  assert features["stage1"].shape == (6, 3, 3, 12)
  assert features["pooled"].shape == (6, 12)
  assert features["logits"].shape == (6, 5)


def test_blocks_are_in_forward_order(variables):
  blocks = ("embed", "block1", "block2", "block3", "block4", "norm", "head")
  assert small().blocks == blocks
  assert set(variables[0]) == set(blocks)


def test_initial_values_have_their_documented_spread():
  model = small(width=48)

  def first(key):  # under jit, the unused kernels are never drawn, which saves their compilation
    params, _ = model.init(key, np.zeros((1, 12, 12, 3)))
    return {name: params[name] for name in ("embed", "block1")}

  params = jax.jit(first)(KEY)
  # A normal variable cut at two standard deviations keeps 0.880 of its spread.
  np.testing.assert_allclose(np.std(params["block1"]["attn"]["qkv"]["kernel"]), 0.02 * 0.880, rtol=0.05)
  np.testing.assert_allclose(np.std(params["embed"]["positions"]), 0.02, rtol=0.1)
  assert np.abs(params["embed"]["proj"]["kernel"]).max() <= 1 / np.sqrt(48)
  assert np.all(params["block1"]["mlp"]["fc1"]["bias"] == 0)


# -- Arithmetic, against numpy


def numpy_norm(x, params):
  normal = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
  return normal * params["scale"] + params["bias"]


def linear(x, params):
  return x @ params["kernel"] + params["bias"]


def numpy_block(x, p, heads):
  q, k, v = np.split(linear(numpy_norm(x, p["norm1"]), p["attn"]["qkv"]), 3, axis=-1)
  size = x.shape[-1] // heads
  mixed = []
  for h in range(heads):
    part = slice(h * size, (h + 1) * size)
    scores = np.exp(q[..., part] @ k[..., part].swapaxes(-1, -2) / np.sqrt(size))
    mixed.append(scores / scores.sum(-1, keepdims=True) @ v[..., part])
  x = x + linear(np.concatenate(mixed, axis=-1), p["attn"]["proj"])
  y = linear(numpy_norm(x, p["norm2"]), p["mlp"]["fc1"])
  return x + linear(y * (1 + erf(y / np.sqrt(2))) / 2, p["mlp"]["fc2"])


def test_the_whole_is_the_paper_s(variables, x):
  p = jax.tree.map(lambda a: np.asarray(a, np.float64), variables[0])
  patches = x.reshape(6, 3, 4, 3, 4, 3).swapaxes(2, 3).reshape(6, 9, 48)
  tokens = patches @ p["embed"]["proj"]["kernel"].reshape(48, 12) + p["embed"]["proj"]["bias"]
  tokens = np.concatenate([np.repeat(p["embed"]["class_token"], 6, axis=0), tokens], axis=1)
  tokens = tokens + p["embed"]["positions"]
  for i in range(4):
    tokens = numpy_block(tokens, p[f"block{i + 1}"], heads=3)
  pooled = numpy_norm(tokens, p["norm"])[:, 0]
  features, _ = small().apply(*variables, x)
  np.testing.assert_allclose(features["pooled"], pooled, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(features["logits"], linear(pooled, p["head"]), rtol=1e-4, atol=1e-5)


def test_gelu_is_the_exact_one(variables, x):
  # The tanh form differs by up to 4.7e-4: more than the tolerance of one MLP against erf.
  model, (params, _) = small(), variables
  hidden = 4 * model.prefix(params, {}, x, stop="block1")
  out, _ = model.apply(params, {}, hidden, start="block1", stop="block2")
  p = jax.tree.map(lambda a: np.asarray(a, np.float64), params["block1"])
  np.testing.assert_allclose(out["hidden"], numpy_block(np.asarray(hidden, np.float64), p, 3), atol=2e-5)


def test_mean_pooling_has_no_class_token(filled, x):
  model = small(pooling="mean")
  params, batch_stats = filled(model, (1, 12, 12, 3))
  assert "class_token" not in params["embed"]
  assert params["embed"]["positions"].shape == (1, 9, 12)
  features, _ = model.apply(params, batch_stats, x)
  entering = model.prefix(params, batch_stats, x, stop="head")
  np.testing.assert_allclose(features["pooled"], np.mean(entering, axis=1), rtol=1e-5, atol=1e-6)


def test_without_positions_the_order_of_patches_does_not_matter(filled, x):
  model = small(pooling="mean")
  params, batch_stats = filled(model, (1, 12, 12, 3))
  params["embed"]["positions"] *= 0
  swapped = np.concatenate([x[:, 4:8], x[:, :4], x[:, 8:]], axis=1)
  a, b = (model.apply(params, batch_stats, images)[0]["logits"] for images in (x, swapped))
  np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


# -- Prefix and suffix


def test_prefix_and_suffix_are_the_whole_at_every_block(variables, x):
  model = small()
  whole, _ = model.apply(*variables, x)
  for block in model.blocks:
    hidden = model.prefix(*variables, x, stop=block)
    for feature, value in model.suffix(*variables, hidden, start=block).items():
      np.testing.assert_array_equal(value, whole[feature])


# -- Noise


def test_dropout_is_a_function_of_the_key_and_only_in_training(variables, x):
  model = small(dropout=0.3)
  run = lambda **options: model.apply(*variables, x, **options)[0]["logits"]  # noqa: E731
  noisy = run(train=True, key=KEY)
  np.testing.assert_array_equal(noisy, run(train=True, key=KEY))
  np.testing.assert_array_equal(noisy, run(train=True, frozen_stats=True, key=KEY))
  assert np.all(noisy != run(train=True, key=jax.random.key(1)))
  plain = small().apply(*variables, x)[0]["logits"]
  np.testing.assert_array_equal(run(), plain)
  np.testing.assert_array_equal(run(key=KEY), plain)
  assert np.all(noisy != plain)


def test_noise_does_not_depend_on_where_the_pass_begins(variables, x):
  model = small(dropout=0.3, drop_path=0.3)
  whole, _ = model.apply(*variables, x, train=True, key=KEY)
  entering, _ = model.apply(*variables, x, train=True, key=KEY, stop="block3")
  rest, _ = model.apply(*variables, entering["hidden"], train=True, key=KEY, start="block3")
  np.testing.assert_array_equal(rest["logits"], whole["logits"])


def test_training_without_noise_needs_no_key(variables, x):
  a, b = (small().apply(*variables, x, train=train)[0]["logits"] for train in (False, True))
  np.testing.assert_array_equal(a, b)
  with pytest.raises(ConfigError, match="pass key="):
    small(drop_path=0.1).apply(*variables, x, train=True)


def test_drop_path_rises_linearly_and_keeps_the_mean(variables, images):
  model = small(drop_path=0.6)
  params = jax.tree.map(lambda a: a, variables[0])
  hidden = images(64, 10, 12)
  for i in range(4):
    block, following = model.blocks[i + 1], model.blocks[i + 2]
    # Without its second branch, a block either leaves an example as it is or adds the scaled first branch.
    params[block]["mlp"]["fc2"] = jax.tree.map(jnp.zeros_like, params[block]["mlp"]["fc2"])
    span = dict(start=block, stop=following)
    clean = model.apply(params, {}, hidden, **span)[0]["hidden"] - hidden
    noisy = model.apply(params, {}, hidden, train=True, key=KEY, **span)[0]["hidden"] - hidden
    kept = np.any(noisy != 0, axis=(1, 2))
    rate = 0.6 * i / 3
    expected = np.where(kept[:, None, None], clean / (1 - rate), 0)
    np.testing.assert_allclose(noisy, expected, rtol=1e-3, atol=1e-4)
    spread = np.sqrt(rate * (1 - rate) / 64)
    assert abs(kept.mean() - (1 - rate)) <= 4 * spread


# -- Options


def test_bfloat16_computes_in_bfloat16_and_returns_float32(variables, x):
  model = small(dtype="bfloat16")
  features, _ = jax.jit(model.apply)(*variables, x)
  assert features["stage1"].dtype == jnp.bfloat16
  assert features["pooled"].dtype == features["logits"].dtype == jnp.float32
  shapes = jax.eval_shape(model.init, KEY, x)
  assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(shapes))
  full = small().apply(*variables, x)[0]["logits"]
  np.testing.assert_allclose(features["logits"], full, atol=0.15)
  assert np.any(features["logits"] != full)


def test_remat_changes_the_program_and_not_the_gradient(variables, images):
  hidden, params = images(6, 10, 12), variables[0]

  def gradient(remat):
    model = small(remat=remat, drop_path=0.2)
    span = dict(
      train=True, key=KEY, start="block4", stop="norm"
    )  # one block is enough, and compiles in less time
    return jax.grad(lambda p: jnp.sum(model.apply(p, {}, hidden, **span)[0]["hidden"] ** 2))

  a, b = (jax.jit(gradient(remat))({"block4": params["block4"]}) for remat in (False, True))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), a, b)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(a))
  programs = [str(jax.make_jaxpr(gradient(remat))(params)) for remat in (False, True)]
  assert "remat" not in programs[0]
  assert "remat" in programs[1]


def test_forward_mode_works_for_curvature(variables, images):
  hidden, params = images(6, 10, 12), {name: variables[0][name] for name in ("block4", "norm", "head")}
  loss = lambda p: jnp.mean(small().apply(p, {}, hidden, start="block4")[0]["logits"] ** 2)  # noqa: E731
  gradient = jax.jit(jax.grad(loss))(params)
  _, slope = jax.jit(lambda p: jax.jvp(loss, (p,), (gradient,)))(params)
  np.testing.assert_allclose(slope, tree.norm(gradient) ** 2, rtol=1e-4)


def test_cosine_head_has_bounded_logits(filled, x):
  model = small(head="cosine")
  features, _ = model.apply(*filled(model, (1, 12, 12, 3)), x)
  assert np.abs(features["logits"]).max() <= 1 + 1e-6


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (dict(image_size=30), "image_size=30 is not a multiple of patch_size=4; write image_size=28"),
    (dict(num_heads=5), "width=12 is not divisible by num_heads=5"),
    (dict(pooling="max"), "pooling must be 'token' or 'mean' or 'distilled'; got 'max'"),
    (dict(head="cos"), "head must be 'linear' or 'cosine' or 'scaled_cosine'; got 'cos'"),
    (dict(dtype="half"), "dtype must be"),
    (dict(dropout=1.0), "dropout must be in [0, 1); got 1.0"),
    (dict(drop_path=-0.1), "drop_path must be in [0, 1); got -0.1"),
    (dict(depth=0), "depth must be an integer of at least 1; got 0"),
  ],
)
def test_bad_options_are_named(options, message):
  with pytest.raises(ConfigError) as error:
    small(**options)
  assert message in str(error.value)
  assert "\n" not in str(error.value)


def test_images_of_another_size_are_refused_with_both_sizes(variables, images):
  sizes = "the images are {} x {} pixels, the position embedding is for {} x {}; "
  advice = "write image_size=16 or resize the images to 12 x 12"
  with pytest.raises(ConfigError, match=sizes.format(16, 16, 12, 12) + advice):
    small().apply(*variables, images(2, 16, 16, 3))
  for height, width in ((16, 12), (13, 13)):  # no image_size would take these
    with pytest.raises(
      ConfigError, match=sizes.format(height, width, 12, 12) + "resize the images to 12 x 12"
    ):
      small().apply(*variables, images(2, height, width, 3))
  with pytest.raises(ConfigError, match=sizes.format(32, 32, 224, 224)):
    models.vit_s16(num_classes=3).init(KEY, jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32))


def test_distilled_pooling_puts_both_tokens_side_by_side(filled, x):
  model = small(pooling="distilled")
  params, batch_stats = filled(model, (1, 12, 12, 3))
  assert {"class_token", "distillation_token"} < set(params["embed"])
  assert params["embed"]["positions"].shape == (1, 11, 12)
  features, _ = model.apply(params, batch_stats, x)
  entering = model.prefix(params, batch_stats, x, stop="head")
  np.testing.assert_array_equal(features["pooled"], np.concatenate([entering[:, 0], entering[:, 1]], axis=1))
  assert features["stage1"].shape == (6, 3, 3, 12)


@pytest.mark.parametrize("options", [dict(norm_epsilon=0.1), dict(activation="quick_gelu")])
def test_numerics_of_the_encoder_change_the_logits(variables, x, options):
  plain, other = (model.apply(*variables, x)[0]["logits"] for model in (small(), small(**options)))
  assert np.abs(plain - other).max() > 1e-3
