"""Recipes against their update equations written out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtl import config, optim, tree
from jaxtl.errors import ConfigError

PARAMS = {
  "stem": {"conv": {"kernel": jnp.array([[1.0, -2.0]])}, "norm": {"scale": jnp.array([1.0, 1.0])}},
  "head": {"kernel": jnp.array([[0.5], [3.0]]), "bias": jnp.array([0.1])},
}
GRADS = jax.tree.map(lambda x: 0.1 * x + 0.3, PARAMS)
ONE = optim.constant()


def first_update(tx, grads=GRADS, params=PARAMS):
  return tx.update(grads, tx.init(params), params)[0]


def close(a, b):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7), a, b)


def sgd(**keywords):
  return optim.sgd(**(dict(peak_rate=0.1, total_steps=10, schedule=ONE) | keywords))


def test_sgd_is_minus_rate_times_gradient():
  close(first_update(sgd(momentum=0.0)), tree.scale(-0.1, GRADS))


def test_sgd_decays_kernels_only_and_before_momentum():
  tx = sgd(weight_decay=0.5, momentum=0.9)
  decayed = tree.map_with_path(
    lambda path, g, w: g + 0.5 * w if path.endswith("kernel") else g, GRADS, PARAMS
  )
  updates, state = tx.update(GRADS, tx.init(PARAMS), PARAMS)
  close(updates, tree.scale(-0.1, decayed))
  close(tx.update(GRADS, state, PARAMS)[0], tree.scale(-0.1 * 1.9, decayed))


def test_decay_where_chooses_what_decays():
  updates = first_update(sgd(weight_decay=0.5, decay_where="^head/kernel$", momentum=0.0))
  close(updates["stem"], tree.scale(-0.1, GRADS["stem"]))
  close(updates["head"]["kernel"], -0.1 * (GRADS["head"]["kernel"] + 0.5 * PARAMS["head"]["kernel"]))
  with pytest.raises(ConfigError, match="matches no parameter"):
    first_update(sgd(weight_decay=0.5, decay_where="kernels"))


def test_nesterov_looks_ahead():
  close(first_update(sgd(nesterov=True, momentum=0.9)), tree.scale(-0.19, GRADS))


def test_adamw_decouples_the_decay_and_adam_does_not():
  keywords = dict(peak_rate=0.1, total_steps=10, schedule=ONE, weight_decay=0.5, eps=0.0)
  decoupled = first_update(optim.adamw(**keywords))
  close(
    decoupled["head"]["kernel"], -0.1 * (jnp.sign(GRADS["head"]["kernel"]) + 0.5 * PARAMS["head"]["kernel"])
  )
  coupled = first_update(optim.adam(**keywords))
  penalised = GRADS["stem"]["conv"]["kernel"] + 0.5 * PARAMS["stem"]["conv"]["kernel"]
  close(coupled["stem"]["conv"]["kernel"], -0.1 * jnp.sign(penalised))


def test_adamw_equals_optax():
  ours = optim.adamw(
    peak_rate=0.1, total_steps=10, schedule=ONE, b1=0.8, b2=0.95, weight_decay=0.01, decay_where=""
  )
  theirs = optax.adamw(0.1, b1=0.8, b2=0.95, weight_decay=0.01)
  a, b, p, q = ours.init(PARAMS), theirs.init(PARAMS), PARAMS, PARAMS
  for _ in range(4):
    updates, a = ours.update(p, a, p)
    p = optax.apply_updates(p, updates)
    updates, b = theirs.update(q, b, q)
    q = optax.apply_updates(q, updates)
  close(p, q)


def test_without_a_schedule_the_rate_is_half_a_cosine():
  tx = optim.sgd(peak_rate=0.1, total_steps=4, momentum=0.0)
  state = tx.init(PARAMS)
  for factor in (1.0, 0.5 * (1 + np.cos(np.pi / 4)), 0.5):
    updates, state = tx.update(GRADS, state, PARAMS)
    close(updates, tree.scale(-0.1 * factor, GRADS))


def test_clip_norm_bounds_the_global_norm():
  updates = first_update(sgd(momentum=0.0, clip_norm=0.01))
  assert float(tree.norm(updates)) == pytest.approx(0.001, rel=1e-4)
  close(first_update(sgd(momentum=0.0, clip_norm=1e3)), tree.scale(-0.1, GRADS))


def test_frozen_parameters_stay_and_have_no_state():
  tx = sgd(freeze="^stem/", weight_decay=0.1)
  updates = first_update(tx)
  close(updates["stem"], tree.zeros_like(PARAMS["stem"]))
  assert float(tree.norm(updates["head"])) > 0
  moments = [x for x in jax.tree.leaves(tx.init(PARAMS)) if x.ndim]
  assert sum(x.size for x in moments) == tree.size(PARAMS["head"])


def test_rates_scale_updates_by_path_and_the_first_match_wins():
  updates = first_update(sgd(momentum=0.0, rates=(("^stem/", 0.1), ("", 1.0))))
  close(updates["stem"], tree.scale(-0.01, GRADS["stem"]))
  close(updates["head"], tree.scale(-0.1, GRADS["head"]))
  with pytest.raises(ConfigError, match="no rule matches the parameter"):
    first_update(sgd(rates=(("^stem/", 0.1),)))


def test_layerwise_decay_shrinks_from_the_head_down():
  rules = optim.layerwise_decay(blocks=("stem", "block1", "head"), factor=0.5)
  assert [factor for _, factor in rules] == [0.25, 0.5, 1.0]
  updates = first_update(sgd(momentum=0.0, rates=optim.layerwise_decay(blocks=("stem", "head"), factor=0.5)))
  close(updates["stem"], tree.scale(-0.05, GRADS["stem"]))


def test_frozen_parts_and_layerwise_rates_go_together():
  rates = optim.layerwise_decay(blocks=("stem", "head"), factor=0.5)
  updates = first_update(sgd(momentum=0.0, freeze="^stem/", rates=rates))
  close(updates["stem"], tree.zeros_like(PARAMS["stem"]))
  close(updates["head"], tree.scale(-0.1, GRADS["head"]))


def test_a_config_may_leave_the_blocks_to_the_model():
  spec = config.spec(
    dict(make=".optim.sgd", peak_rate=0.1, rates=dict(make=".optim.layerwise_decay", factor=0.5))
  )
  updates = first_update(spec.realize(total_steps=10, blocks=("stem", "head")))
  close(updates["stem"], tree.scale(-0.05, GRADS["stem"]))


def test_ema_follows_the_parameters_with_a_warm_up():
  tx = sgd(momentum=0.0, ema_decay=0.5)
  state, params, average = tx.init(PARAMS), PARAMS, PARAMS
  for count in range(12):
    updates, state = tx.update(GRADS, state, params)
    params = optax.apply_updates(params, updates)
    average = tree.lerp(params, average, min(0.5, (1 + count) / (10 + count)))
  close(optim.averaged(state, params), average)


def test_without_ema_the_average_is_the_parameters():
  assert optim.averaged(sgd().init(PARAMS), PARAMS) is PARAMS


def test_chain_and_where_compose_any_transform():
  tx = optim.chain(transforms=[optim.where(pattern="bias$", transform=optax.scale(2.0)), optax.scale(-1.0)])
  updates = first_update(tx)
  close(updates["head"]["bias"], -2 * GRADS["head"]["bias"])
  close(updates["head"]["kernel"], -GRADS["head"]["kernel"])


def adams(make, **keywords):
  return make(**(dict(peak_rate=0.1, total_steps=10, schedule=ONE, eps=0.0) | keywords))


both_adams = pytest.mark.parametrize("make", [optim.adam, optim.adamw])


@both_adams
def test_adams_freeze_without_state_or_decay(make):
  tx = adams(make, freeze="^stem/", weight_decay=0.1)
  updates = first_update(tx)
  close(updates["stem"], tree.zeros_like(PARAMS["stem"]))
  assert float(tree.norm(updates["head"])) > 0
  moments = [x for x in jax.tree.leaves(tx.init(PARAMS)) if x.ndim]
  assert sum(x.size for x in moments) == 2 * tree.size(PARAMS["head"])


@both_adams
def test_adams_scale_their_steps_by_path(make):
  plain = first_update(adams(make))
  updates = first_update(adams(make, rates=(("^stem/", 0.1), ("", 1.0))))
  close(updates, plain | {"stem": tree.scale(0.1, plain["stem"])})


@both_adams
def test_adams_clip_before_the_moments(make):
  eps = 1.0  # so that the gradient's length counts: the first step is g / (|g| + eps)
  clipped = tree.scale(0.01 / tree.norm(GRADS), GRADS)
  expected = jax.tree.map(lambda g: -0.1 * g / (jnp.abs(g) + eps), clipped)
  close(first_update(adams(make, eps=eps, weight_decay=0.0, clip_norm=0.01)), expected)


def test_the_recipe_of_patching_is_pytorch_s():
  """Clipped over what is trained, decayed everywhere, warmed up: written out as torch.optim.AdamW has it."""
  recipe = dict(make=".optim.adamw", peak_rate=1e-2, weight_decay=0.1, decay_where=".*", clip_norm=1.0)
  recipe |= dict(freeze="^head/", schedule=dict(make=".optim.cosine", warmup_steps=2))
  tx = config.spec(recipe).realize(total_steps=6)
  params, state = PARAMS, tx.init(PARAMS)
  ours = {path: np.float64(leaf) for path, leaf in zip(tree.paths(PARAMS), jax.tree.leaves(PARAMS))}
  trained = [path for path in ours if path.startswith("stem/")]
  first, second = (dict.fromkeys(trained, 0.0) for _ in range(2))
  for step in range(6):
    grads = tree.scale(3.0 if step < 4 else 0.1, params)
    given = dict(zip(tree.paths(grads), map(np.float64, jax.tree.leaves(grads))))
    norm = np.sqrt(sum(np.sum(given[path] ** 2) for path in trained))
    rate = 1e-2 * ((step + 1) / 2 if step < 2 else 0.5 * (1 + np.cos(np.pi * (step - 2) / 4)))
    assert (norm > 1) == (step < 4)  # clipped, and then not
    for path in trained:
      g = given[path] * min(1.0, 1.0 / norm)
      first[path] = 0.9 * first[path] + 0.1 * g
      second[path] = 0.999 * second[path] + 0.001 * g**2
      mean, square = first[path] / (1 - 0.9 ** (step + 1)), second[path] / (1 - 0.999 ** (step + 1))
      ours[path] = ours[path] * (1 - rate * 0.1) - rate * mean / (np.sqrt(square) + 1e-8)
    updates, state = tx.update(grads, state, params)
    params = optax.apply_updates(params, updates)
  for path, leaf in zip(tree.paths(params), jax.tree.leaves(params)):
    np.testing.assert_allclose(leaf, ours[path], rtol=2e-5)
  jax.tree.map(np.testing.assert_array_equal, params["head"], PARAMS["head"])


@both_adams
def test_adams_keep_the_moving_average(make):
  tx = adams(make, ema_decay=0.05)
  updates, state = tx.update(GRADS, tx.init(PARAMS), PARAMS)
  # 0.05 is below the warm-up's 1 / 10.
  close(optim.averaged(state, PARAMS), tree.lerp(optax.apply_updates(PARAMS, updates), PARAMS, 0.05))
  assert optim.averaged(adams(make).init(PARAMS), PARAMS) is PARAMS


@pytest.mark.parametrize(
  ("make", "option", "values"),
  [
    (optim.sgd, "momentum", (-0.1, 1.0, np.nan)),
    (optim.adam, "b1", (-0.1, 1.0)),
    (optim.adam, "b2", (-0.1, 1.5)),
    (optim.adamw, "b1", (-0.1, 1.0)),
    (optim.adamw, "b2", (-0.1, 1.0, np.nan)),
    *[
      (make, *case)
      for make in (optim.sgd, optim.adam, optim.adamw)
      for case in (
        ("peak_rate", (-0.1, np.nan)),
        ("weight_decay", (-1e-4, np.nan)),
        ("clip_norm", (0.0, -1.0, np.nan)),
        ("ema_decay", (-0.1, 1.0, np.nan)),
      )
    ],
  ],
)
def test_a_number_out_of_its_range_is_refused_in_one_line(make, option, values):
  for value in values:
    with pytest.raises(ConfigError, match=f"^{option} is {value}; write .*[^\n]$"):
      make(**(dict(peak_rate=0.1, total_steps=10) | {option: value}))


def test_the_decay_of_an_average_is_a_share():
  with pytest.raises(ConfigError, match=r"decay of the moving average is 1\.0; write a number in \[0, 1\)"):
    optim.ema(decay=1.0)


def test_a_broken_regex_in_a_recipe_is_a_config_error():
  for keywords in (
    dict(freeze="stem("),
    dict(rates=(("stem(", 1.0),)),
    dict(weight_decay=0.1, decay_where="("),
  ):
    with pytest.raises(ConfigError, match="is not a regex"):
      first_update(sgd(**keywords))


def test_a_recipe_for_a_part_of_the_parameters_does_not_miss_the_rest():
  """Decay, layer-wise rates and frozen paths may all lie outside the part that `where` leaves visible."""
  recipe = sgd(weight_decay=0.5, rates=[("^head/", 0.5), ("", 1.0)], freeze="^head/", momentum=0.0)
  updates = first_update(optim.where(pattern="^stem/norm/", transform=recipe))
  close(updates["stem"]["norm"], tree.scale(-0.1, GRADS["stem"]["norm"]))
  close(updates["head"], GRADS["head"])  # passed through: a rule gives zeros there
  with pytest.raises(ConfigError, match="matches no parameter"):
    first_update(sgd(weight_decay=0.5, decay_where="^nowhere/"))


def test_the_average_of_a_part_is_completed_by_the_parameters():
  tx = optim.where(pattern="^stem/", transform=sgd(ema_decay=0.9, momentum=0.0))
  state = tx.init(PARAMS)
  grads = tree.replace(tree.zeros_like(GRADS), tree.select(GRADS, "^stem/"))
  updates, state = tx.update(grads, state, PARAMS)
  after = optax.apply_updates(PARAMS, updates)
  found = optim.averaged(state, after)
  close(found["head"], PARAMS["head"])
  close(found["stem"], tree.lerp(after["stem"], PARAMS["stem"], 0.1))
  assert len(jax.tree.leaves(state)) < len(jax.tree.leaves(sgd(ema_decay=0.9, momentum=0.0).init(PARAMS)))


@pytest.mark.parametrize("recipe", [optim.sgd, optim.adam, optim.adamw])
def test_the_rate_of_the_newest_step_is_kept(recipe):
  schedule = optim.cosine(total_steps=10, warmup_steps=2)
  tx = recipe(peak_rate=0.5, total_steps=10, schedule=schedule, freeze="^head/", ema_decay=0.9)
  params = {"head": {"kernel": jnp.ones(3)}, "body": {"kernel": jnp.ones(3)}}
  state, found = tx.init(params), []
  for _ in range(10):
    _, state = tx.update(params, state, params)
    found.append(float(optim.current_rate(state)))
  np.testing.assert_allclose(found, [0.5 * float(schedule(step)) for step in range(10)], rtol=1e-6)


def test_the_rate_of_another_package_s_optimiser_is_found_where_it_keeps_one():
  params = {"kernel": jnp.ones(3)}
  injected = optax.inject_hyperparams(optax.sgd)(learning_rate=0.25)
  assert float(optim.current_rate(injected.init(params))) == 0.25
  assert optim.current_rate(optax.sgd(0.25).init(params)) is None


def test_sgd_moves_against_the_gradient_by_the_rate_bit_for_bit_as_optax_does():
  params = {"kernel": jnp.linspace(-1.0, 1.0, 7)}
  schedule = optim.cosine(total_steps=5)
  ours = optim.sgd(peak_rate=0.3, total_steps=5, schedule=schedule)
  theirs = optax.sgd(lambda step: 0.3 * schedule(step), momentum=0.9)
  states = [ours.init(params), theirs.init(params)]
  for _ in range(5):
    mine, states[0] = ours.update(params, states[0], params)
    other, states[1] = theirs.update(params, states[1], params)
    jax.tree.map(np.testing.assert_array_equal, mine, other)
