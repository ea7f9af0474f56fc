import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.errors import ConfigError
from jaxtl.models.linen import Chain, from_linen

KEY = jax.random.key(0)


class Noisy(nn.Module):
  width: int

  @nn.compact
  def __call__(self, x, train, frozen_stats):
    x = nn.Dense(self.width, name="dense")(x.reshape(x.shape[0], -1))
    return nn.Dropout(0.5)(x, deterministic=not train)


class Normed(nn.Module):
  @nn.compact
  def __call__(self, x, train, frozen_stats):
    return nn.BatchNorm(use_running_average=not train or frozen_stats, momentum=0.9, name="bn")(x)


class Out(nn.Module):
  @nn.compact
  def __call__(self, x, train, frozen_stats):
    return {"pooled": x, "logits": nn.Dense(2, name="dense")(x)}


def noisy():
  blocks = (("first", lambda name: Noisy(4, name=name)), ("last", Out))
  return from_linen("noisy", Chain(blocks, {"stage1": "first"}), ["first", "last"])


def normed():
  blocks = (("first", lambda name: Noisy(4, name=name)), ("bn_a", Normed), ("bn_b", Normed), ("last", Out))
  return from_linen("normed", Chain(blocks, {"stage1": "bn_a"}), [name for name, _ in blocks])


def test_only_the_shape_of_images_matters_to_init():
  model = noisy()
  struct = jax.ShapeDtypeStruct((5, 2, 2, 1), jnp.uint8)
  array = np.full((3, 2, 2, 1), np.nan)
  results = [
    model.init(KEY, struct),
    model.init(KEY, array),
    jax.jit(model.init)(KEY, array),
    jax.jit(lambda key: model.init(key, struct))(KEY),
  ]
  for result in results[1:]:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), results[0], result)
  shapes = jax.eval_shape(model.init, KEY, struct)
  jax.tree.map(lambda a, b: np.testing.assert_equal(a.shape, b.shape), shapes, results[0])


def test_without_normalisation_the_statistics_are_an_empty_dict():
  model = noisy()
  params, batch_stats = model.init(KEY, np.zeros((1, 2, 2, 1)))
  _, after = model.apply(params, batch_stats, np.zeros((3, 2, 2, 1), np.float32), train=True, key=KEY)
  assert batch_stats == after == {}


def test_blocks_are_the_top_level_keys_in_order():
  model = normed()
  params, _ = model.init(KEY, np.zeros((1, 2, 2, 1)))
  assert set(params) == set(model.blocks)
  assert model.head == "last"


def test_statistics_of_blocks_that_do_not_run_stay(filled):
  model = normed()
  params, batch_stats = filled(model, (1, 2, 2, 1))
  hidden = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
  _, after = model.apply(params, batch_stats, hidden, train=True, start="bn_b")
  assert set(after) == {"bn_a", "bn_b"}
  np.testing.assert_array_equal(after["bn_a"]["bn"]["mean"], batch_stats["bn_a"]["bn"]["mean"])
  expected = 0.9 * batch_stats["bn_b"]["bn"]["mean"] + 0.1 * hidden.mean(0)
  np.testing.assert_allclose(after["bn_b"]["bn"]["mean"], expected, rtol=1e-5, atol=1e-6)


def test_parameters_of_blocks_that_do_not_run_may_be_absent(filled):
  model = normed()
  params, batch_stats = filled(model, (1, 2, 2, 1))
  x = np.ones((3, 2, 2, 1), np.float32)
  hidden = model.prefix({"first": params["first"]}, {}, x, stop="bn_a")
  rest = {name: params[name] for name in ("bn_a", "bn_b", "last")}
  out = model.suffix(rest, batch_stats, hidden, start="bn_a")
  whole, _ = model.apply(params, batch_stats, x)
  np.testing.assert_array_equal(out["logits"], whole["logits"])


def test_stopping_at_the_first_block_gives_the_images(filled):
  model = noisy()
  x = np.ones((3, 2, 2, 1), np.float32)
  np.testing.assert_array_equal(model.prefix({}, {}, x, stop="first"), x)


def test_a_span_returns_only_the_hidden_state(filled):
  model = normed()
  params, batch_stats = filled(model, (1, 2, 2, 1))
  features, _ = model.apply(params, batch_stats, np.ones((3, 4), np.float32), start="bn_a", stop="last")
  assert set(features) == {"hidden"}


@pytest.mark.parametrize("train", [False, True])
def test_start_and_stop_are_static_under_jit(filled, train):
  model = normed()
  params, batch_stats = filled(model, (1, 2, 2, 1))
  run = jax.jit(model.apply, static_argnames=("train", "frozen_stats", "start", "stop"))
  hidden = np.ones((3, 4), np.float32)
  jitted, _ = run(params, batch_stats, hidden, train=train, start="bn_a")
  plain, _ = model.apply(params, batch_stats, hidden, train=train, start="bn_a")
  np.testing.assert_allclose(jitted["logits"], plain["logits"], rtol=1e-5)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (dict(start="frist"), "noisy has no block 'frist'; did you mean 'first'?"),
    (dict(stop="zzz"), "noisy has no block 'zzz'. The blocks are first, "),
    (dict(start="last", stop="first"), "write start='first', stop='last'"),
    (dict(train=True), "noisy draws random numbers when train=True; pass key="),
  ],
)
def test_a_wrong_call_says_what_to_write(filled, arguments, message):
  model = noisy()
  params, batch_stats = filled(model, (1, 2, 2, 1))
  with pytest.raises(ConfigError) as error:
    model.apply(params, batch_stats, np.ones((3, 2, 2, 1), np.float32), **arguments)
  assert message in str(error.value)
  assert "\n" not in str(error.value)


def test_images_without_a_batch_are_refused():
  with pytest.raises(ConfigError, match=r"takes images \[B, H, W, C\]; got an array of shape \(2, 2, 1\)"):
    noisy().init(KEY, np.zeros((2, 2, 1)))
  with pytest.raises(ConfigError, match="takes images"):
    noisy().apply({}, {}, np.zeros((2, 2, 1)))
