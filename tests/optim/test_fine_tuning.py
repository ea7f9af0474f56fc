"""L2-SP, Auto-RGN, and rules that train a part: closed forms on small problems."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtl import config, optim, tree
from jaxtl.errors import ConfigError
from jaxtl.testing import check_gradient_rule
from jaxtl.train.experiment import with_rate
from jaxtl.types import Aux
from tests.optim.chain_steps import MODEL, PARAMS, STATS, equal, trajectory

START = {
  "stem": {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([0.5])},
  "head": {"kernel": jnp.array([[3.0], [4.0]]), "bias": jnp.array([0.1])},
}
SLOPES = {
  "stem": {"kernel": jnp.array([[0.1, 0.2]]), "bias": jnp.array([0.3])},
  "head": {"kernel": jnp.array([[0.4], [0.5]]), "bias": jnp.array([0.6])},
}


def linear(params, batch_stats, batch, key):
  """A loss whose gradient is SLOPES everywhere."""
  return tree.dot(params, SLOPES), Aux(batch_stats, {})


def gradient(rule, params, memory):
  (loss, aux), grads = rule(linear)(params, {}, {}, jax.random.key(0), *memory)
  return loss, aux, grads


# -- L2-SP


def test_l2_sp_at_the_start_has_the_plain_gradient_of_the_backbone():
  rule = optim.l2_sp(beta=0.0)
  loss, _, grads = gradient(rule, START, optim.init_memory(rule, START))
  jax.tree.map(np.testing.assert_array_equal, grads, SLOPES)
  assert float(loss) == float(tree.dot(START, SLOPES))


def test_l2_sp_pulls_kernels_to_the_start_and_the_head_to_zero():
  rule = optim.l2_sp(alpha=0.5, beta=0.25)
  memory = optim.init_memory(rule, START)
  params = jax.tree.map(lambda x: x + 2, START)
  _, aux, grads = gradient(rule, params, memory)
  np.testing.assert_allclose(grads["stem"]["kernel"], SLOPES["stem"]["kernel"] + 0.5 * 2, rtol=1e-6)
  np.testing.assert_allclose(
    grads["head"]["kernel"], SLOPES["head"]["kernel"] + 0.25 * params["head"]["kernel"], rtol=1e-6
  )
  for block in ("stem", "head"):
    np.testing.assert_array_equal(grads[block]["bias"], SLOPES[block]["bias"])
  jax.tree.map(np.testing.assert_array_equal, aux.memory, memory)


def test_a_strong_pull_keeps_the_backbone_where_it_was():
  rule = optim.l2_sp(alpha=1e4, beta=0.0)
  params, memory = START, optim.init_memory(rule, START)
  for _ in range(200):
    _, aux, grads = gradient(rule, params, memory)
    params, memory = tree.sub(params, tree.scale(5e-5, grads)), aux.memory
  # The minimum of <s, w> + 5e3 |w - w0|^2 is w0 - s / 1e4.
  expected = START["stem"]["kernel"] - SLOPES["stem"]["kernel"] / 1e4
  np.testing.assert_allclose(params["stem"]["kernel"], expected, atol=1e-6)
  assert np.all(np.abs(params["head"]["kernel"] - START["head"]["kernel"]) > 1e-3)


def test_l2_sp_keeps_the_contract_of_a_rule():
  # The penalty on the head has a slope of its own.
  check_gradient_rule(optim.l2_sp(where=".", head="^bias$"), stationary=False, linear=False)


@pytest.mark.parametrize(
  ("options", "sentence"),
  [
    (dict(alpha=-1.0), "l2_sp's alpha is -1.0; expected a finite number of 0 or more"),
    (dict(beta=float("inf")), "l2_sp's beta is inf"),
    (dict(inner=optim.looksam(rho=0.1)), "l2_sp takes a stateless inner rule"),
  ],
)
def test_bad_options_of_l2_sp_are_refused(options, sentence):
  with pytest.raises(ConfigError, match=sentence):
    optim.l2_sp(**options)


def test_where_and_head_choose_what_is_penalised():
  rule = optim.l2_sp(alpha=1.0, beta=1.0, where="bias$", head="^stem/")
  params = jax.tree.map(lambda x: x + 2, START)
  _, _, grads = gradient(rule, params, optim.init_memory(rule, START))
  np.testing.assert_allclose(grads["head"]["bias"], SLOPES["head"]["bias"] + 2, rtol=1e-6)
  np.testing.assert_allclose(grads["stem"]["bias"], SLOPES["stem"]["bias"] + 2.5, rtol=1e-6)
  np.testing.assert_array_equal(grads["stem"]["kernel"], SLOPES["stem"]["kernel"])


# -- Auto-RGN


def rgn(transform=None, *, steps_per_epoch=4, batches=2, **options):
  return optim.auto_rgn(
    transform=transform or optax.sgd(1.0), steps_per_epoch=steps_per_epoch, batches=batches, **options
  )


def updates_of(tx, params, grads):
  """The updates of successive steps at fixed parameters."""
  state, found = tx.init(params), []
  for one in grads:
    update, state = jax.jit(tx.update)(one, state, params)
    found.append(update)
  return found


def test_rates_are_shares_of_the_largest_relative_gradient():
  grads = [SLOPES, tree.scale(3.0, SLOPES), SLOPES, SLOPES]
  first, second, third, fourth = updates_of(rgn(), START, grads)
  for measured in (first, second):
    assert not any(np.any(x) for x in jax.tree.leaves(measured))
  ratios = jax.tree.map(lambda g, w: 2 * np.linalg.norm(g) / np.linalg.norm(w), SLOPES, START)
  largest = max(jax.tree.leaves(ratios))
  for update in (third, fourth):
    jax.tree.map(
      lambda u, r, g: np.testing.assert_allclose(u, -(r / largest) * g, rtol=1e-5), update, ratios, SLOPES
    )


def test_a_tensor_c_times_as_large_with_a_gradient_c_times_smaller_has_a_rate_c_squared_lower():
  c = 4.0
  change = lambda x, by: {**x, "stem": {**x["stem"], "kernel": by * x["stem"]["kernel"]}}  # noqa: E731
  before = updates_of(rgn(), START, [SLOPES] * 3)[-1]
  after = updates_of(rgn(), change(START, c), [change(SLOPES, 1 / c)] * 3)[-1]

  def rate(update, slopes):
    return float(jnp.ravel(-update["stem"]["kernel"] / slopes["stem"]["kernel"])[0])

  assert rate(after, change(SLOPES, 1 / c)) == pytest.approx(rate(before, SLOPES) / c**2, rel=1e-5)


def test_every_epoch_measures_anew():
  other = {**SLOPES, "head": tree.scale(100.0, SLOPES["head"])}
  found = updates_of(rgn(), START, [SLOPES] * 4 + [other] * 3)
  assert [bool(np.any(x["stem"]["kernel"])) for x in found] == [False, False, True, True, False, False, True]
  assert abs(found[6]["stem"]["bias"][0]) < 0.1 * abs(found[2]["stem"]["bias"][0])


def test_a_tensor_of_zeros_keeps_its_rate():
  params = {**START, "head": {**START["head"], "bias": jnp.zeros(1)}}
  update = updates_of(rgn(), params, [SLOPES] * 3)[-1]
  np.testing.assert_allclose(update["head"]["bias"], -SLOPES["head"]["bias"], rtol=1e-6)
  assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(update))


def test_without_gradients_nothing_is_divided_by_zero():
  nothing = tree.zeros_like(SLOPES)
  update = updates_of(rgn(), START, [nothing, nothing, SLOPES])[-1]
  jax.tree.map(lambda u, g: np.testing.assert_allclose(u, -g, rtol=1e-6), update, SLOPES)


@pytest.mark.parametrize("reset", [False, True])
def test_momentum_goes_on_unless_it_is_reset(reset):
  tx = rgn(optax.sgd(1.0, momentum=0.9), steps_per_epoch=3, batches=2, reset=reset)
  found = updates_of(tx, START, [SLOPES] * 6)
  ratio = float(found[5]["stem"]["bias"][0] / found[2]["stem"]["bias"][0])
  assert ratio == pytest.approx(1.0 if reset else 1.9, rel=1e-5)


def test_a_measurement_without_batches_is_refused():
  with pytest.raises(ConfigError, match="auto_rgn's batches is 0; expected at least 1"):
    rgn(batches=0)


def test_an_epoch_that_is_too_short_has_one_update():
  found = updates_of(rgn(steps_per_epoch=1.0, batches=2), START, [SLOPES] * 6)
  assert [bool(np.any(x["stem"]["kernel"])) for x in found] == [False, False, True] * 2


def test_a_moving_average_inside_is_refused():
  inner = optim.sgd(peak_rate=0.1, total_steps=9, ema_decay=0.9)
  with pytest.raises(ConfigError, match="auto_rgn's optimiser keeps a moving average; leave out"):
    rgn(inner).init(START)


def test_a_choice_of_rates_reaches_the_optimiser_inside():
  inner = dict(make=".optim.sgd", peak_rate=0.1)
  spec = config.spec(dict(make=".optim.auto_rgn", transform=inner))
  assert with_rate(spec, 0.3).keywords["transform"].keywords["peak_rate"] == 0.3
  with pytest.raises(ConfigError, match=r"which optax\.sgd does not have"):
    with_rate(
      config.spec(dict(make=".optim.auto_rgn", transform=dict(make="optax.sgd", learning_rate=1.0))), 1.0
    )


# -- Training a part


def test_only_the_named_layers_move():
  first, head = MODEL.blocks[0], MODEL.head
  states, _ = trajectory(optim.only(update=(first, head)), steps=3)
  for path, x in tree.select(states[-1].params, ".").items():
    is_same = np.array_equal(x, tree.select(PARAMS, f"^{path}$")[path])
    assert is_same == (not path.startswith((f"{first}/", f"{head}/"))), path
  equal(states[-1].batch_stats, STATS)


def test_training_every_layer_is_the_plain_rule():
  ours, _ = trajectory(optim.only(update=MODEL.blocks), steps=3)
  plain, _ = trajectory(optim.plain(), steps=3)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), ours[-1].params, plain[-1].params
  )


def test_biases_alone_move_in_bitfit():
  states, _ = trajectory(optim.only(update=(MODEL.head, "/bias$")), steps=3)
  for path, x in tree.select(states[-1].params, ".").items():
    is_same = np.array_equal(x, tree.select(PARAMS, f"^{path}$")[path])
    assert is_same == (not path.startswith(f"{MODEL.head}/") and not path.endswith("/bias")), path


def test_an_unknown_layer_is_refused():
  with pytest.raises(ConfigError, match="has no block 'neck'"):
    trajectory(optim.only(update="neck"), steps=1)
