"""Gradient rules against closed forms, reference loops and one another."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from jax.sharding import PartitionSpec

from jaxtl import optim, tree
from jaxtl.errors import ConfigError
from jaxtl.optim.gradients import steepest
from jaxtl.testing import check_gradient_rule
from jaxtl.train import make_mesh
from jaxtl.types import Aux

KEY = jax.random.key(0)
HESSIAN = jnp.array([[3.0, 1.0, 0.0], [1.0, 2.0, 0.5], [0.0, 0.5, 1.0]])


def of_params(f):
  """A LossFn that looks at the parameters alone."""
  return lambda params, batch_stats, batch, key: (f(params), Aux(batch_stats, {}))


def quadratic(params):
  return 0.5 * params["w"] @ HESSIAN @ params["w"]


def gradient_of(rule, f, params, *memory):
  return rule(of_params(f))(params, {}, {"x": jnp.zeros((4, 1))}, KEY, *memory)[1]


def linear_batch(size=8, seed=0):
  rng = np.random.default_rng(seed)
  return {
    "x": jnp.asarray(rng.normal(size=(size, 3)), jnp.float32),
    "y": jnp.asarray(rng.normal(size=size), jnp.float32),
    "mask": jnp.ones(size, bool),
  }


def regression(params, batch_stats, batch, key):
  """A small nonlinear regression; the mean is over the unmasked rows."""
  hidden = jnp.tanh(batch["x"] @ params["a"])
  errors = jnp.where(batch["mask"], (hidden @ params["b"] - batch["y"]) ** 2, 0)
  return jnp.sum(errors) / jnp.sum(batch["mask"]), Aux(batch_stats, {})


def weights(seed=1):
  rng = np.random.default_rng(seed)
  return {k: jnp.asarray(rng.normal(size=s), jnp.float32) for k, s in (("a", (3, 4)), ("b", (4,)))}


def distance(a, b):
  return float(tree.norm(tree.sub(a, b)))


def close(a, b, **tolerance):
  chex.assert_trees_all_close(a, b, **({"rtol": 1e-5, "atol": 1e-6} | tolerance))


RULES = {
  "plain": (optim.plain(), 1),
  "accumulate": (optim.accumulate(steps=4), 1),
  "sam": (optim.sam(rho=1.0), 2),
  "sam of the third norm": (optim.sam(rho=0.1, p=3.0), 2),
  "sam of the largest norm": (optim.sam(rho=0.1, p=np.inf), 2),
  "sam of groups": (optim.sam(rho=0.1, groups=4), 2),
  "sam of sam": (optim.sam(rho=0.1, inner=optim.sam(rho=0.1)), 4),
  "asam": (optim.asam(rho=1.0), 2),
  "asam of accumulated": (optim.asam(rho=0.1, inner=optim.accumulate(steps=2)), 2),
  "accumulated sam": (optim.accumulate(steps=2, inner=optim.sam(rho=0.1)), 2),
  "gsam": (optim.gsam(rho_max=0.1), 2),
  "looksam at every step": (optim.looksam(rho=0.1, every=1), 2),
  "looksam": (optim.looksam(rho=0.1, every=4), 1.25),
}


# The others are made of these, and a program in parts takes time to compile.
OVER_DEVICES = {"plain", "sam", "sam of groups"}
# Made of rules whose gradient at a minimum and of a linear loss are checked.
COMPOSED = {"sam of groups", "sam of sam", "asam of accumulated", "accumulated sam", "looksam at every step"}


@pytest.mark.parametrize("name", RULES)
def test_a_rule_keeps_the_contract(name):
  rule, passes = RULES[name]
  assert optim.passes(rule) == passes
  check_gradient_rule(
    rule,
    steps=4 if name == "looksam" else 1,
    stationary=name not in COMPOSED,
    linear=name not in COMPOSED,
    devices=name in OVER_DEVICES,
  )


def test_the_battery_has_every_rule():
  names = {name.partition(" ")[0] for name in RULES}
  assert names >= set(optim.gradients.__all__) - {"init_memory", "passes", "steepest"}


def test_sam_on_a_quadratic_is_the_gradient_at_the_worst_point():
  w, rho = jnp.array([1.0, -2.0, 0.5]), 0.1
  g = HESSIAN @ w
  expected = HESSIAN @ (w + rho * g / jnp.linalg.norm(g))
  close(gradient_of(optim.sam(rho=rho), quadratic, {"w": w}), {"w": expected})


def test_sam_tends_to_the_plain_gradient_with_an_error_proportional_to_rho():
  params, batch = weights(), linear_batch()
  plain = optim.plain()(regression)(params, {}, batch, KEY)[1]
  direction = tree.scale(1 / tree.norm(plain), plain)
  curved = jax.jvp(jax.grad(lambda p: regression(p, {}, batch, KEY)[0]), (params,), (direction,))[1]
  errors = []
  for rho in (0.1, 0.01):
    sam = optim.sam(rho=rho)(regression)(params, {}, batch, KEY)[1]
    quotient = tree.scale(1 / rho, tree.sub(sam, plain))
    errors.append(float(tree.norm(tree.sub(quotient, curved))))
  assert errors[0] / errors[1] == pytest.approx(10, rel=0.2)


def test_sam_with_radius_zero_is_plain():
  params, batch = weights(), linear_batch()
  close(
    optim.sam(rho=0.0)(regression)(params, {}, batch, KEY), optim.plain()(regression)(params, {}, batch, KEY)
  )


def test_sam_on_a_parabola_ends_in_its_two_cycle():
  h, rate, rho = 2.0, 0.1, 0.05
  value_and_grad = jax.jit(optim.sam(rho=rho)(of_params(lambda p: 0.5 * h * p["w"][0] ** 2)))
  params = {"w": jnp.array([1.0])}
  for _ in range(300):
    grads = value_and_grad(params, {}, {}, KEY)[1]
    params = tree.sub(params, tree.scale(rate, grads))
  assert abs(float(params["w"][0])) == pytest.approx(rate * h * rho / (2 - rate * h), rel=1e-3)


@pytest.mark.parametrize("p", [1.5, 2.0, 3.0, np.inf])
def test_the_perturbation_is_the_steepest_of_its_norm(p):
  grads = {"a": jnp.array([[1.0, -2.0], [0.0, 3.0]]), "b": jnp.array([-0.5])}
  flat = np.concatenate([np.ravel(x) for x in jax.tree.leaves(grads)])
  step = np.concatenate([np.ravel(x) for x in jax.tree.leaves(steepest(grads, rho=0.3, p=p))])
  q = 1.0 if np.isinf(p) else p / (p - 1)
  assert np.linalg.norm(step, ord=p) == pytest.approx(0.3, rel=1e-5)
  assert step @ flat == pytest.approx(0.3 * np.linalg.norm(flat, ord=q), rel=1e-5)


def two_basins(params):
  x, y = params["w"]
  return -jnp.exp(-((x - 2) ** 2) - y**2) - jnp.exp(-(x**2 + 100 * y**2))


@pytest.mark.parametrize(("rule", "end"), [(optim.plain(), 0.042), (optim.sam(rho=0.1), 1.958)])
def test_sam_leaves_the_sharp_basin_that_sgd_stays_in(rule, end):
  value_and_grad = rule(of_params(two_basins))

  @jax.jit
  def descend(params):
    def step(_, p):
      return tree.sub(p, tree.scale(0.01, value_and_grad(p, {}, {}, KEY)[1]))

    return jax.lax.fori_loop(0, 8000, step, params)

  x, y = descend({"w": jnp.array([-0.4, -0.4])})["w"]
  assert float(x) == pytest.approx(end, abs=5e-3)
  assert float(y) == pytest.approx(0, abs=5e-3)


def test_groups_of_one_example_give_the_mean_of_their_own_sam_gradients():
  params, batch = weights(), linear_batch(4)
  found = optim.sam(rho=0.1, groups=4)(regression)(params, {}, batch, KEY)[1]
  each = [
    optim.sam(rho=0.1)(regression)(params, {}, {k: x[i : i + 1] for k, x in batch.items()}, KEY)[1]
    for i in range(4)
  ]
  close(found, tree.scale(0.25, jax.tree.map(lambda *x: sum(x), *each)))
  whole = optim.sam(rho=0.1)(regression)(params, {}, batch, KEY)[1]
  assert float(tree.norm(tree.sub(found, whole))) > 1e-3


def test_asam_of_groups_is_the_mean_of_their_own():
  params, batch = weights(), linear_batch(8)
  asam = partial(optim.asam, rho=0.5, scaled="^a$")
  halves = [{k: x[i : i + 4] for k, x in batch.items()} for i in (0, 4)]
  first, second = (asam()(regression)(params, {}, half, KEY)[1] for half in halves)
  found = asam(groups=2)(regression)(params, {}, batch, KEY)[1]
  close(found, tree.scale(0.5, tree.add(first, second)))
  assert distance(found, asam()(regression)(params, {}, batch, KEY)[1]) > 1e-3


def test_asam_takes_both_passes_from_its_inner_rule():
  params, batch = weights(), linear_batch()
  doubled = lambda loss_fn: lambda *x: tree.scale(2.0, optim.plain()(loss_fn)(*x))  # noqa: E731
  asam = partial(optim.asam, rho=0.5, scaled="^a$")
  once = asam()(regression)(params, {}, batch, KEY)[1]
  # The perturbation does not depend on the gradient's length, so that the last pass alone shows the factor.
  close(asam(inner=doubled)(regression)(params, {}, batch, KEY)[1], tree.scale(2.0, once))
  parts = asam(inner=optim.accumulate(steps=4))
  close(parts(regression)(params, {}, batch, KEY)[1], once)
  assert len(losses_seen(parts, batch)) == 8  # each part of both passes


def losses_seen(rule, batch):
  """The loss at each evaluation that the rule makes."""
  seen = []

  def recorded(params, batch_stats, batch, key):
    loss, aux = regression(params, batch_stats, batch, key)
    jax.debug.callback(lambda value: seen.append(float(value)), loss)
    return loss, aux

  rule(recorded)(weights(), {}, batch, KEY, *optim.init_memory(rule, weights()))
  jax.effects_barrier()
  return seen


def test_groups_are_what_devices_of_their_own_would_do():
  params, batch = weights(), linear_batch(16)
  mesh = make_mesh(8)
  axis = PartitionSpec("data")

  def on_a_device(params, batch):
    # The gradient of unvarying parameters is summed over devices, which would synchronise the perturbation.
    own = jax.tree.map(lambda x: jax.lax.pcast(x, "data", to="varying"), params)
    return jax.lax.pmean(optim.sam(rho=0.1)(regression)(own, {}, batch, KEY)[1], "data")

  per_device = jax.shard_map(
    on_a_device, mesh=mesh, in_specs=(PartitionSpec(), axis), out_specs=PartitionSpec()
  )
  found = jax.jit(per_device)(params, batch)
  close(found, optim.sam(rho=0.1, groups=8)(regression)(params, {}, batch, KEY)[1])
  synchronised = optim.sam(rho=0.1)(regression)(params, {}, batch, KEY)[1]
  assert float(tree.norm(tree.sub(found, synchronised))) > 1e-3


def test_asam_without_eta_ignores_the_scale_of_the_weights():
  def loss(params):
    return (params["kernel"][0] * params["scale"][0] - 1) ** 2

  def increase(rule, c):
    """How much higher the loss is at the perturbed point, which the last evaluation of the loss was at."""
    params = {"kernel": jnp.array([2.0 * c]), "scale": jnp.array([0.3 / c])}
    seen = []

    def recorded(p):
      jax.debug.callback(lambda value: seen.append(float(value)), loss(p), ordered=True)
      return loss(p)

    gradient_of(rule, recorded, params)
    jax.effects_barrier()
    return max(seen) - float(loss(params))

  asam, sam = optim.asam(rho=0.2, eta=0.0), optim.sam(rho=0.2)
  assert increase(asam, 1.0) == pytest.approx(increase(asam, 7.0), rel=1e-4)
  assert increase(sam, 7.0) > 2 * increase(sam, 1.0)


def test_asam_leaves_biases_as_sam_does():
  params = {"kernel": jnp.array([2.0]), "bias": jnp.array([5.0])}
  loss = lambda p: jnp.sum(p["kernel"] ** 2) + jnp.sum(p["bias"] ** 2)  # noqa: E731
  rho, eta = 0.1, 0.01
  g = {"kernel": 4.0, "bias": 10.0}
  t = {"kernel": 2.0 + eta, "bias": 1.0}
  length = np.hypot(t["kernel"] * g["kernel"], t["bias"] * g["bias"])
  expected = {k: jnp.array([2 * (float(params[k][0]) + rho * t[k] ** 2 * g[k] / length)]) for k in g}
  close(gradient_of(optim.asam(rho=rho, eta=eta), loss, params), expected)


def test_where_perturbs_only_what_it_names():
  params, batch = weights(), linear_batch()
  grads = optim.plain()(regression)(params, {}, batch, KEY)[1]
  moved = params | {"a": params["a"] + 0.1 * grads["a"] / jnp.linalg.norm(grads["a"])}
  expected = optim.plain()(regression)(moved, {}, batch, KEY)[1]
  close(optim.sam(rho=0.1, where="^a$")(regression)(params, {}, batch, KEY)[1], expected)
  with pytest.raises(ConfigError, match="'nothing' matches no parameter"):
    optim.sam(rho=0.1, where="nothing")(regression)(params, {}, batch, KEY)


@pytest.mark.parametrize(
  "make",
  [
    partial(optim.asam, rho=0.5, scaled="^a$"),
    partial(optim.gsam, rho_max=0.5, alpha=0.0),
    partial(optim.looksam, rho=0.5, every=2),
    partial(optim.looksam, rho=0.5, every=1),
  ],
)
def test_every_rule_of_two_passes_perturbs_only_what_where_names(make):
  params, batch = weights(), linear_batch()
  seen = []

  def recorded(p, batch_stats, batch, key):
    jax.debug.callback(lambda *moves: seen.append(moves), *[distance_squared(p[k], params[k]) for k in "ab"])
    return regression(p, batch_stats, batch, key)

  for where in (None, "^a$"):
    rule = make(where=where)
    rule(recorded)(params, {}, batch, KEY, *optim.init_memory(rule, params))
  jax.effects_barrier()
  moved = [(bool(a > 0), bool(b > 0)) for a, b in seen]
  assert sorted(moved) == [(False, False), (False, False), (True, False), (True, True)]


def distance_squared(a, b):
  return jnp.sum((a - b) ** 2)


def run_rule(rule, steps=6):
  params, memory = weights(), optim.init_memory(rule, weights())
  value_and_grad = jax.jit(rule(regression))
  for number in range(steps):
    (_, aux), grads = value_and_grad(params, {}, linear_batch(seed=number), KEY, *memory)
    params, memory = tree.sub(params, tree.scale(0.05, grads)), aux.memory
  return params


def test_gsam_without_alpha_and_with_a_constant_radius_is_sam():
  close(run_rule(optim.gsam(rho_max=0.1, alpha=0.0)), run_rule(optim.sam(rho=0.1)))


def test_gsam_subtracts_the_clean_part_orthogonal_to_the_perturbed_gradient():
  params, batch = weights(), linear_batch()
  clean = optim.plain()(regression)(params, {}, batch, KEY)[1]
  perturbed = optim.sam(rho=0.1)(regression)(params, {}, batch, KEY)[1]
  rule = optim.gsam(rho_max=0.1, alpha=0.7)
  found = rule(regression)(params, {}, batch, KEY, *optim.init_memory(rule, params))[1]
  removed = tree.scale(1 / 0.7, tree.sub(perturbed, found))
  assert float(tree.dot(removed, perturbed)) == pytest.approx(0, abs=1e-4)
  along = tree.sub(clean, removed)
  cosine = tree.dot(along, perturbed) / (tree.norm(along) * tree.norm(perturbed))
  assert abs(float(cosine)) == pytest.approx(1, rel=1e-4)


def test_gsam_radius_falls_with_the_schedule():
  rule = optim.gsam(rho_max=0.4, rho_min=0.1, alpha=0.0, schedule=lambda step: jnp.where(step == 0, 1.0, 0.0))
  params, batch = weights(), linear_batch()
  for count, rho in ((0, 0.4), (5, 0.1)):
    found = rule(regression)(params, {}, batch, KEY, jnp.int32(count))[1]
    close(found, optim.sam(rho=rho)(regression)(params, {}, batch, KEY)[1])
  with pytest.raises(ConfigError, match="needs 'schedule' or 'total_steps'"):
    optim.gsam(rho_max=0.4, rho_min=0.1)


def test_looksam_every_step_is_sam():
  close(run_rule(optim.looksam(rho=0.1, every=1)), run_rule(optim.sam(rho=0.1)))


def test_looksam_reuses_the_direction_between_looks():
  rule = optim.looksam(rho=0.1, every=2, alpha=0.7)
  params, first, second = weights(), linear_batch(seed=0), linear_batch(seed=1)
  memory = optim.init_memory(rule, params)
  (_, aux), looked = rule(regression)(params, {}, first, KEY, *memory)
  sam = optim.sam(rho=0.1)(regression)(params, {}, first, KEY)[1]
  close(looked, sam)
  clean = optim.plain()(regression)(params, {}, first, KEY)[1]
  ahead = tree.sub(sam, tree.scale(tree.dot(sam, clean) / tree.dot(clean, clean), clean))
  _, reused = rule(regression)(params, {}, second, KEY, *aux.memory)
  plain = optim.plain()(regression)(params, {}, second, KEY)[1]
  expected = tree.add(plain, tree.scale(0.7 * tree.norm(plain) / tree.norm(ahead), ahead))
  close(reused, expected)


def test_both_passes_draw_the_same_dropout_mask():
  def loss_fn(params, batch_stats, batch, key):
    kept = jax.random.bernoulli(key, 0.5, (4,))
    return jnp.sum((params["b"] * kept) ** 2), Aux(batch_stats, {"kept": jnp.sum(kept)})

  params = weights()
  grads = optim.sam(rho=0.5)(loss_fn)(params, {}, {}, KEY)[1]
  kept = jax.random.bernoulli(KEY, 0.5, (4,))
  dropped = np.asarray(~kept)
  assert dropped.any()
  assert kept.any()
  np.testing.assert_array_equal(np.asarray(grads["b"])[dropped], 0)


def test_sam_agrees_with_optax_opaque_sam():
  rho, rate = 0.1, 0.05
  adversary = optax.chain(optax.contrib.normalize(), optax.sgd(rho))
  peer = optax.contrib.sam(optax.sgd(rate), adversary, opaque_mode=True)
  params = theirs = weights()
  state = peer.init(theirs)
  for number in range(5):
    batch = linear_batch(seed=number)
    grad_fn = jax.grad(lambda p, _, batch=batch: regression(p, {}, batch, KEY)[0])
    updates, state = peer.update(grad_fn(theirs, 0), state, theirs, grad_fn=grad_fn)
    theirs = optax.apply_updates(theirs, updates)
    grads = optim.sam(rho=rho)(regression)(params, {}, batch, KEY)[1]
    params = tree.sub(params, tree.scale(rate, grads))
  close(params, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("steps", [2, 4])
def test_accumulated_parts_give_the_gradient_of_the_whole(steps):
  params, batch = weights(), linear_batch()
  batch = batch | {"mask": jnp.array([1, 1, 1, 0, 0, 1, 1, 1], bool)}
  whole = optim.plain()(regression)(params, {}, batch, KEY)
  close(jax.jit(optim.accumulate(steps=steps)(regression))(params, {}, batch, KEY), whole)


def test_sam_over_accumulated_parts_is_sam_of_the_whole():
  params, batch = weights(), linear_batch()
  inner = optim.sam(rho=0.1, inner=optim.accumulate(steps=4))
  close(inner(regression)(params, {}, batch, KEY), optim.sam(rho=0.1)(regression)(params, {}, batch, KEY))


def test_accumulation_never_rolls_the_loop():
  jaxpr = jax.make_jaxpr(optim.accumulate(steps=4)(regression))(weights(), {}, linear_batch(), KEY)
  primitives = {equation.primitive.name for equation in jaxpr.jaxpr.eqns}
  assert not primitives & {"scan", "while"}


def test_a_rule_of_ones_own_counts_as_one_pass_until_it_says_more():
  own = lambda loss_fn: optim.plain()(loss_fn)  # noqa: E731
  assert optim.passes(own) == 1.0
  own.passes = 3
  assert optim.passes(optim.sam(rho=0.1, inner=own)) == 6.0


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (partial(optim.sam, rho=-1.0), "radius rho is -1.0"),
    (partial(optim.sam, rho=float("nan")), "radius rho is nan"),
    (partial(optim.sam, rho=0.1, p=1.0), "p is 1.0"),
    (partial(optim.accumulate, steps=0), "at least 1 step"),
    (partial(optim.looksam, rho=0.1, every=0), "every is 0"),
    (partial(optim.gsam, rho_max=0.1, rho_min=0.2), "above its rho_max"),
    (partial(optim.sam, rho=0.1, inner=optim.looksam(rho=0.1)), "stateless inner rule"),
    (partial(optim.accumulate, steps=2, inner=optim.gsam(rho_max=0.1)), "stateless inner rule"),
  ],
)
def test_bad_settings_are_refused_in_one_line(make, message):
  with pytest.raises(ConfigError, match=message):
    make()


def test_a_batch_that_does_not_split_is_refused():
  with pytest.raises(ConfigError, match="batch of 8 does not split into 3"):
    optim.accumulate(steps=3)(regression)(weights(), {}, linear_batch(), KEY)


def test_a_rule_of_one_s_own_may_have_memory():
  def rule(loss_fn):
    return jax.value_and_grad(loss_fn, has_aux=True)

  assert optim.init_memory(rule, {}) == ()
  rule.init_memory = lambda params: (params["w"],)
  assert optim.init_memory(rule, {"w": 3.0}) == (3.0,)
  with pytest.raises(ConfigError, match="stateless inner rule"):
    optim.accumulate(steps=2, inner=rule)
