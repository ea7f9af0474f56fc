"""LoRA: an unchanged start, exact counts, merging, and the gradient of the factors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtl import losses, models, optim, tasks, tree
from jaxtl.errors import ConfigError
from jaxtl.train.step import init_state, make_train_step, shapes_of

IMAGES = jax.random.normal(jax.random.key(5), (6, 8, 8, 3))
LABELS = jnp.arange(6) % 3
FACTORS = r"/lora_\w+$"


def vit(**changes):
  sizes = dict(width=8, depth=2, num_heads=2, patch_size=4, image_size=8)
  return models.vit_ti16(num_classes=3, **sizes | changes)


def adapted(model=None, **options):
  return models.lora(model=model or vit(), **dict(rank=2) | options)


def start(model):
  return model.init(jax.random.key(0), IMAGES[:1])


def moved(params, scale=0.1):
  """The parameters with factors that are not zero."""
  noise = tree.random_like(jax.random.key(3), params)
  return tree.map_with_path(lambda path, x, n: x + scale * n if "lora" in path else x, params, noise)


def training(model, rule, params, batch_stats, *, steps=3, rate=0.1):
  task = tasks.classification(loss=losses.softmax_cross_entropy)
  tx = optim.where(pattern=optim.trained_paths(rule, model), transform=optax.sgd(rate))
  step = jax.jit(make_train_step(task.loss_fn(model), tx, gradient=rule))
  state = init_state(params, batch_stats, tx, gradient=rule)
  batch = {"image": IMAGES, "label": LABELS, "mask": jnp.ones(6, bool)}
  for _ in range(steps):
    state, _ = step(state, batch, jax.random.key(1))
  return state


def test_the_first_logits_are_bit_equal_and_the_other_values_those_of_the_plain_model():
  plain, model = vit(), adapted()
  (params, stats), (more, _) = start(plain), start(model)
  assert tree.paths(params) == [path for path in tree.paths(more) if "lora" not in path]
  for path, x in tree.select(params, ".").items():
    np.testing.assert_array_equal(x, tree.select(more, f"^{path}$")[path])
  np.testing.assert_array_equal(
    plain.apply(params, stats, IMAGES)[0]["logits"], model.apply(more, stats, IMAGES)[0]["logits"]
  )


def test_a_is_uniform_by_its_inputs_and_b_zero():
  params, _ = start(adapted(vit(width=64, num_heads=4), rank=16))
  a = np.concatenate([np.ravel(x) for x in tree.select(params, r"/lora_\w+_a$").values()])
  assert a.size == 2 * 3 * 64 * 16
  # Mean and variance of U(-1/8, 1/8) within 6 standard errors: a false alarm once in 10^8 runs.
  assert abs(a.mean()) < 6 * 0.125 / np.sqrt(3 * a.size)
  assert abs(a.var() / (0.125**2 / 3) - 1) < 6 * np.sqrt(0.8 / a.size)
  assert np.abs(a).max() <= 0.125
  assert not any(np.any(x) for x in tree.select(params, r"/lora_\w+_b$").values())
  firsts = [x[0, 0] for x in tree.select(params, r"/lora_\w+_a$").values()]
  assert len(set(map(float, firsts))) == len(firsts)


def test_another_key_draws_other_factors():
  model = adapted()
  one, other = (model.init(jax.random.key(seed), IMAGES[:1])[0] for seed in (0, 1))
  for a, b in zip(*(tree.select(x, r"lora_\w+_a$").values() for x in (one, other)), strict=True):
    assert np.all(a != b)


@pytest.mark.parametrize(
  ("projections", "factors"), [(("query", "value"), 294_912), (("query", "key", "value"), 442_368)]
)
def test_the_number_of_trained_parameters_is_that_of_vit_b16(projections, factors):
  model = models.lora(model=models.vit_b16(num_classes=10), rank=8, projections=projections)
  params = shapes_of(model, (224, 224, 3))["params"]
  assert tree.size(tree.select(params, FACTORS)) == factors
  assert tree.size(tree.select(params, f"^head/|{FACTORS}")) == factors + 7_690


def test_merged_equals_unmerged_after_three_steps():
  model, rule = adapted(), optim.only(update=("head", FACTORS))
  params, stats = start(model)
  state = training(model, rule, params, stats)
  merged = models.merge_factors(state.params, alpha=8.0)
  assert tree.paths(merged) == tree.paths(start(vit())[0])
  np.testing.assert_allclose(
    vit().apply(merged, stats, IMAGES)[0]["logits"],
    model.apply(state.params, stats, IMAGES)[0]["logits"],
    atol=1e-6,
  )
  for path, x in tree.select(state.params, ".").items():
    frozen = np.array_equal(x, tree.select(params, f"^{path}$")[path])
    # B starts at zero, so that A has no gradient in the first step; it has in the second.
    assert frozen == ("lora" not in path and not path.startswith("head/")), path


@pytest.mark.parametrize("make", [vit, functools.partial(models.resnet8, num_classes=3, width=4)])
def test_the_gradient_of_the_factors_is_that_of_the_kernel_projected(make):
  where = r"/qkv/kernel$" if make is vit else r"conv\d/kernel$"
  model = adapted(make(), where=where, alpha=3.0)
  params, stats = start(model)
  params = moved(params)

  def loss(apply, params):
    logits = apply(params, stats, IMAGES)[0]["logits"]
    return jnp.mean(losses.softmax_cross_entropy(logits, LABELS))

  with jax.default_matmul_precision("highest"):
    grads = jax.grad(functools.partial(loss, model.apply))(params)
    merged = models.merge_factors(params, alpha=3.0)
    dense = jax.grad(functools.partial(loss, make().apply))(merged)
  kernels = tree.select(dense, where)
  assert len(kernels) > 1
  for path, kernel in kernels.items():
    g = kernel.reshape(-1, kernel.shape[-1])
    layer = path.removesuffix("/kernel")
    parts = np.split(g, 3, axis=1) if make is vit else [g]
    names = ["query_", "key_", "value_"] if make is vit else [""]
    for name, part in zip(names, parts, strict=True):
      pair = {
        one: {end: tree.select(tree_, f"^{layer}/lora_{name}{end}$").popitem()[1] for end in "ab"}
        for one, tree_ in (("at", params), ("grad", grads))
      }
      scale = 3.0 / 2
      np.testing.assert_allclose(pair["grad"]["a"], scale * part @ pair["at"]["b"].T, rtol=1e-4, atol=1e-6)
      np.testing.assert_allclose(pair["grad"]["b"], scale * pair["at"]["a"].T @ part, rtol=1e-4, atol=1e-6)


def test_projections_without_factors_keep_their_kernel():
  model = adapted(projections=("query", "value"))
  params = moved(start(model)[0])
  before = tree.select(start(vit())[0], r"/qkv/kernel$")
  for path, kernel in tree.select(models.merge_factors(params, alpha=8.0), r"/qkv/kernel$").items():
    changes = np.split(np.asarray(kernel - before[path]), 3, axis=1)
    assert [bool(np.any(change)) for change in changes] == [True, False, True]
    assert np.linalg.matrix_rank(changes[0], tol=1e-5) == 2


def test_alpha_scales_the_change_and_the_rank_divides_it():
  params = moved(start(adapted(rank=4))[0])
  plain = start(vit())[0]

  def change(alpha):
    return tree.sub(models.merge_factors(params, alpha=alpha), plain)

  one, two = change(4.0), change(8.0)
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
    np.testing.assert_allclose(2 * a, b, rtol=1e-4, atol=1e-6)
  (path, kernel), *_ = tree.select(one, r"/qkv/kernel$").items()
  layer = path.removesuffix("/kernel")
  a, b = (tree.select(params, f"^{layer}/lora_query_{end}$").popitem()[1] for end in "ab")
  np.testing.assert_allclose(kernel[:, :8], a @ b, rtol=1e-4, atol=1e-6)


def test_parts_of_the_network_run_with_their_own_factors():
  model = adapted()
  params, stats = start(model)
  params = moved(params)
  block = model.blocks[2]
  hidden = model.prefix(params, stats, IMAGES, stop=block)
  above = {name: params[name] for name in model.blocks[2:]}
  np.testing.assert_allclose(
    model.suffix(above, stats, hidden, start=block)["logits"],
    model.apply(params, stats, IMAGES)[0]["logits"],
    rtol=1e-5,
    atol=1e-6,
  )


@pytest.mark.parametrize(
  ("options", "sentence"),
  [
    (dict(rank=0), "lora's rank is 0; expected at least 1"),
    (dict(alpha=0.0), "lora's alpha is 0.0; expected a finite number above 0"),
    (dict(projections=("q",)), r"lora's projections are \['q'\]; expected some of"),
    (dict(projections=()), "expected some of"),
    (dict(rank=9), r"lora's rank is 9, above that of .*/qkv/kernel, which is a matrix \[8, 8\]"),
    (dict(where="attention"), "'attention' matches no parameter"),
    (dict(where="qkv"), "lora adapts kernels, and its 'where' matches .*/qkv/bias; end it with /kernel"),
    (dict(model=3), r"lora needs a model, such as dict\(make='.models.vit_b16'\); got 3"),
  ],
)
def test_bad_options_are_refused(options, sentence):
  with pytest.raises(ConfigError, match=sentence):
    start(adapted(**options))
