"""PoF and PoL: the gradient by explicit copies of parameters, what must not move, and what is refused."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxtl import optim, tree
from jaxtl.errors import ConfigError
from jaxtl.train import init_state, make_mesh, make_train_step
from jaxtl.types import Aux, Model
from tests.optim.chain_steps import MODEL, PARAMS, STATS, close, equal, evaluate, moved, trajectory, weak_loss
from tests.optim.small_chain import BLOCKS, KEY, batch_of, chain, examples, loss_of

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
  ("perturb", "update", "where"),
  [
    (None, "second", "^head/"),
    ("second", "third", "^second/"),
    ("third", "first", "^third/"),
    (("first", "third"), ("second", "head"), "^(first|third)/"),
    ("second", "second", "^second/"),
    (r"^head/bias$", "second", "^head/bias$"),
    ("head", ("first", r"third/kernel"), "^head/"),
  ],
)
def test_the_gradient_is_that_of_the_named_layers_at_the_perturbed_point(perturb, update, where):
  """p above u, p below u, sets, p within u, single leaves."""
  rule, batch = optim.pol(perturb=perturb, update=update), batch_of()
  (loss, aux), grads = evaluate(rule, batch)
  gradient = jax.grad(weak_loss)(PARAMS, batch["weak"])
  there = moved(PARAMS, gradient, where, aux.metrics["gamma"] * aux.metrics["eta"])
  clean = partial(loss_of(MODEL, frozen_stats=True), batch_stats=STATS, batch=batch, key=KEY)
  (expected, _), whole = jax.value_and_grad(lambda p: clean(p), has_aux=True)(there)
  assert float(aux.metrics["eta"]) > 0
  assert float(loss) == pytest.approx(float(expected), rel=1e-5)
  updated = tree.select(whole, rule.trained(MODEL))
  assert float(tree.norm(updated)) > 1e-3
  close(grads, tree.replace(tree.zeros_like(whole), updated))
  names = (update,) if isinstance(update, str) else update
  assert {path.split("/")[0] for path in updated} == {name.split("/")[0] for name in names}


def test_a_layer_that_is_perturbed_and_moved_is_moved_from_where_it_was():
  rule = optim.pol(perturb="second", update="second")
  batch, tx = batch_of(), optim.sgd(peak_rate=0.1, total_steps=9, momentum=0.0, schedule=optim.constant())
  state = init_state(PARAMS, STATS, tx, gradient=rule)
  after, _ = jax.jit(make_train_step(loss_of(MODEL), tx, gradient=rule))(state, batch, KEY)
  (_, aux), grads = evaluate(rule, batch, key=jax.random.fold_in(KEY, 0))
  assert float(aux.metrics["perturbation"]) > 0.01
  close(after.params, tree.sub(PARAMS, tree.scale(0.1, grads)))


def test_without_a_range_it_is_training_with_a_frozen_head():
  model = chain(dropout=0.3)
  frozen = optim.sgd(peak_rate=0.1, total_steps=9, weight_decay=0.01, freeze="^head/")
  expected, _ = trajectory(optim.plain(), model=model, tx=frozen)
  found, told = trajectory(optim.pof(gamma_range=0.0), model=model)
  close(found[-1].params, expected[-1].params, rtol=1e-6)
  assert "eta" not in told[0]
  assert found[-1].memory == ()
  # Nearly the same with a range that is nearly 0: the perturbed path is no other path.
  nearly, told = trajectory(optim.pof(gamma_range=1e-7), model=model)
  assert told[-1]["eta"] > 0
  close(nearly[-1].params, expected[-1].params, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
  ("rule", "moving"),
  [
    (optim.pof(), {"first", "second", "third"}),
    (optim.pol(update="second"), {"second"}),
    (optim.pol(update=("first", "third"), perturb="second"), {"first", "third"}),
  ],
)
def test_what_is_not_moved_stays_bit_for_bit(rule, moving):
  states, _ = trajectory(rule)
  for name in BLOCKS:
    if name in moving:
      assert float(tree.norm(tree.sub(states[-1].params[name], PARAMS[name]))) > 1e-3
    else:
      equal(states[-1].params[name], PARAMS[name])
  equal(states[-1].batch_stats, STATS)
  held = sum(x.size for x in jax.tree.leaves(states[-1].opt_state) if x.ndim)
  assert held == sum(tree.size(PARAMS[name]) for name in moving)


def test_pol_of_all_below_the_head_is_pof():
  pof, _ = trajectory(optim.pof())
  pol, _ = trajectory(optim.pol(update=("first", "second", "third"), perturb="head"))
  equal(pol[-1].params, pof[-1].params)


def test_statistics_move_only_where_the_suffix_trains_and_never_by_the_weak_batch():
  batch = batch_of()
  other = {**batch, "weak": {**batch["weak"], "image": 5 + batch["weak"]["image"]}}

  def live(rule, b):
    value_and_grad = jax.jit(rule(loss_of(MODEL)))
    return value_and_grad(PARAMS, STATS, b, KEY, *optim.init_memory(rule, PARAMS))[0][1].batch_stats

  equal(live(optim.pof(), batch), STATS)
  trained = live(optim.pof(suffix_bn="train"), batch)
  expected = loss_of(MODEL)(PARAMS, STATS, batch, KEY)[1].batch_stats
  close(trained, expected)
  equal(live(optim.pof(suffix_bn="train"), other), trained)
  # Below the lowest named layer nothing is trained.
  equal(live(optim.pol(update="third", suffix_bn="train"), batch), STATS)
  close(live(optim.pol(update="second", suffix_bn="train"), batch), trained)


def test_what_lies_below_both_layers_runs_as_at_test_time():
  model, batch = chain(dropout=0.5), batch_of()

  def losses(rule):
    return [float(evaluate(rule, batch, model=model, key=jax.random.key(n))[0][0]) for n in (1, 2)]

  quiet = losses(optim.pol(update="head", gamma_range=0.0))
  assert quiet[0] == quiet[1]
  noisy = losses(optim.pol(update="second", gamma_range=0.0))
  assert noisy[0] != noisy[1]


@pytest.mark.parametrize("rule", [optim.pof(), optim.pol(update="third", perturb="second")])
def test_it_is_one_direction_length_and_gamma_whatever_the_devices(rule):
  batch = batch_of(16, 24)
  alone = evaluate(rule, batch)
  mesh = make_mesh(8)
  place = partial(jax.device_put, device=NamedSharding(mesh, PartitionSpec("data")))
  spread = jax.jit(rule(loss_of(MODEL)))(
    PARAMS, STATS, jax.tree.map(place, batch), KEY, *optim.init_memory(rule, PARAMS)
  )
  close(spread, alone, rtol=2e-5, atol=1e-6)


def test_a_kept_hidden_state_gives_the_gradient_of_the_images():
  batch = batch_of()
  for rule in (optim.pol(update="third"), optim.pol(update="third", perturb="second")):
    block = optim.cut_block(rule, MODEL, PARAMS)

    def kept(rows, dtype, block=block):
      hidden = MODEL.prefix(PARAMS, STATS, rows["image"], stop=block).astype(dtype).astype(jnp.float32)
      return {name: x for name, x in rows.items() if name != "image"} | {"hidden": hidden}

    _, expected = evaluate(rule, batch)
    for dtype, limit in ((jnp.float32, 1e-6), (jnp.bfloat16, 1e-2)):
      _, found = evaluate(rule, {**kept(batch, dtype), "weak": kept(batch["weak"], dtype)})
      distance = tree.norm(tree.sub(found, expected)) / tree.norm(expected)
      assert float(distance) < limit
    assert float(distance) > 0


def test_the_weak_batch_has_the_rows_that_the_rule_says():
  assert optim.weak_rows(optim.pof(), 32) == 32
  assert optim.weak_rows(optim.pof(weak_batch_size=256), 32) == 256
  assert optim.weak_rows(optim.pof(gamma_range=0.0), 32) == 0
  assert optim.weak_rows(optim.sam(rho=0.1), 32) == 0
  with pytest.raises(ConfigError, match="no 'weak' batch"):
    evaluate(optim.pof(), examples())


def test_a_rule_says_what_it_moves_and_where_it_begins():
  assert optim.trained_paths(optim.plain(), MODEL) is None
  assert optim.cut_block(optim.plain(), MODEL, PARAMS) is None
  cuts = {
    "first": optim.pof(),
    "second": optim.pol(update="third", perturb="second"),
    "third": optim.pol(update="third"),
    "head": optim.pol(update="head", perturb="second", gamma_range=0.0),
  }
  for block, rule in cuts.items():
    assert optim.cut_block(rule, MODEL, PARAMS) == block
  assert optim.passes(optim.pof()) == pytest.approx(4 / 3)
  assert optim.passes(optim.pof(gamma_range=0.0)) == 1


@pytest.mark.parametrize(
  ("keywords", "message"),
  [
    (dict(gamma_range=-1.0), "gamma_range is -1.0; expected a finite number of 0 or more"),
    (dict(gamma_range=float("nan")), "gamma_range is nan"),
    (dict(weak_batch_size=0), "weak_batch_size is 0"),
    (dict(search="golden"), "search is 'golden'; expected 'newton' or 'trials'"),
    (dict(num_trials=0), "num_trials is 0"),
    (dict(eta_init=0.0), "eta_init is 0.0; expected a number above 0, up to cap=10000"),
    (dict(eta_init=3.0, cap=2.0), "eta_init is 3.0"),
    (dict(cap=float("inf")), "cap is inf"),
    (dict(on_unbounded="ignore"), "on_unbounded is 'ignore'"),
    (dict(refresh_every=0), "refresh_every is 0"),
    (dict(suffix_bn="both"), "suffix_bn is 'both'"),
  ],
)
def test_settings_out_of_their_range_are_refused_in_one_line(keywords, message):
  with pytest.raises(ConfigError, match=message):
    optim.pof(**keywords)


@pytest.mark.parametrize(
  ("keywords", "message"),
  [
    (dict(update="secnd"), "chain has no block 'secnd'; did you mean 'second'"),
    (dict(update="second", perturb=("head", "frist")), "chain has no block 'frist'; did you mean 'first'"),
    (dict(update=()), "no layer is named"),
  ],
)
def test_names_that_the_model_does_not_have_show_before_anything_runs(keywords, message):
  with pytest.raises(ConfigError, match=message):
    optim.pol(**keywords)(loss_of(MODEL))


def test_a_pattern_that_finds_nothing_is_refused():
  with pytest.raises(ConfigError, match=r"matches no parameter"):
    evaluate(optim.pol(update="^nowhere/"), batch_of())


def test_a_loss_must_say_of_which_model_it_is():
  with pytest.raises(ConfigError, match="does not name its model"):
    optim.pof()(lambda params, stats, batch, key: (jnp.float32(0), Aux(stats, {})))
  with pytest.raises(ConfigError, match="needs a model with blocks; chain has none"):
    optim.pof()(loss_of(Model("chain", MODEL.init, MODEL.apply, ())))


def test_the_memory_can_be_donated():
  rule = optim.pof()
  (memory,) = optim.init_memory(rule, PARAMS)
  after = jax.jit(lambda memory: jax.tree.map(lambda x: x, memory), donate_argnums=0)(memory)
  assert float(after.start) == 1.0
  assert len({x.unsafe_buffer_pointer() for x in optim.init_memory(rule, PARAMS)[0]}) == 5


def test_rules_with_memory_are_not_put_inside_others():
  for outer in (partial(optim.accumulate, steps=2), partial(optim.sam, rho=0.1)):
    with pytest.raises(ConfigError, match="stateless inner rule"):
      outer(inner=optim.pof())
