"""The length of the perturbation of PoF and PoL: closed forms, explicit copies of parameters, rejections."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from jaxtl import optim, tasks, tree
from jaxtl.optim.post_training import GAMMA
from jaxtl.types import Model
from tests.optim.chain_steps import MODEL, PARAMS, STATS, evaluate, moved, trajectory, weak_loss
from tests.optim.small_chain import KEY, batch_of, chain, examples, loss_of

pytestmark = pytest.mark.slow


def quadratic_model():
  """The head's two numbers times those of the image: with squares as the loss, w.H.w/2, H = diag(1, 5)."""

  def apply(params, stats, images, *, start=None, stop=None, **_):
    x = images * params["stem"]["one"] if start in (None, "stem") else images
    if stop:
      return {"hidden": x}, stats
    return {"logits": x @ params["head"]["kernel"][:, None]}, stats

  model = Model("quadratic", lambda *_: None, apply, ("stem", "head"))
  params = {"stem": {"one": jnp.float32(1)}, "head": {"kernel": jnp.array([0.8, 1.3])}}
  rows = {"image": jnp.array([[1.0, 0.0], [0.0, np.sqrt(5.0)]]), "label": jnp.zeros(2, jnp.int32)}
  task = tasks.classification(loss=lambda logits, labels: logits[:, 0] ** 2)
  return task.loss_fn(model), params, {**rows, "weak": rows}


@pytest.mark.parametrize(("gamma", "expected"), [(0.0, 4.545), (1.0, 0.2041814), (2.0, 4.545)])
def test_on_a_quadratic_the_length_and_the_losses_are_the_closed_form(monkeypatch, gamma, expected):
  monkeypatch.setattr(jax.random, "uniform", lambda key, *_, **__: jnp.float32(gamma / 2))
  loss_fn, params, batch = quadratic_model()
  rule = optim.pof()
  (loss, aux), _ = rule(loss_fn)(params, {}, batch, KEY, *optim.init_memory(rule, params))
  g = np.array([0.8, 6.5])
  eta = g @ g / (g @ (np.array([1.0, 5.0]) * g))
  assert eta == pytest.approx(0.2024163, rel=1e-6)
  assert float(aux.metrics["eta"]) == pytest.approx(eta, rel=1e-5)
  assert float(aux.metrics["weak_loss"]) == pytest.approx(4.545, rel=1e-6)
  assert float(loss) == pytest.approx(expected, rel=1e-5)
  assert float(aux.metrics["perturbation"]) == pytest.approx(gamma * eta * np.linalg.norm(g), rel=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_the_affine_search_agrees_with_explicit_copies_of_the_parameters(seed):
  batch = batch_of(weak=10, seed=seed)
  gradient = jax.grad(weak_loss)(PARAMS, batch["weak"])
  along = lambda eta: float(weak_loss(moved(PARAMS, gradient, "^head/", eta), batch["weak"]))  # noqa: E731
  (loss, aux), _ = evaluate(optim.pof(), batch)
  found = float(aux.metrics["eta"])
  assert not aux.metrics["reject"]
  assert along(found) <= optimize.minimize_scalar(along, bounds=(0, 4 * found), method="bounded").fun + 1e-6
  length = found * aux.metrics["gamma"]
  explicit = moved(PARAMS, gradient, "^head/", length)
  expected = loss_of(MODEL, frozen_stats=True)(explicit, STATS, batch, KEY)[0]
  assert float(loss) == pytest.approx(float(expected), rel=1e-6)
  (_, aux), _ = evaluate(optim.pof(search="trials"), batch)
  eta = 1.0
  while along(eta) <= along(0.0):
    eta *= 2
  while along(eta / 2) > along(0.0):
    eta /= 2
  trials = eta * np.arange(17) / 16
  values = [along(trial) for trial in trials]
  assert along(float(aux.metrics["eta"])) == pytest.approx(min(values), rel=1e-6)


@pytest.mark.parametrize("gamma_range", [2.0, 0.5])
def test_gamma_is_uniform_over_its_range_and_a_function_of_the_step(gamma_range):
  rule, batch = optim.pof(gamma_range=gamma_range), batch_of()
  value_and_grad, memory = rule(loss_of(MODEL)), optim.init_memory(rule, PARAMS)

  def gamma(number):
    key = jax.random.fold_in(KEY, number)
    return value_and_grad(PARAMS, STATS, batch, key, *memory)[0][1].metrics["gamma"]

  count = 2000
  gammas = np.asarray(jax.jit(jax.vmap(gamma))(jnp.arange(count)))
  r = gamma_range
  deviation = r / np.sqrt(12 * count)
  assert gammas.mean() == pytest.approx(r / 2, abs=4 * deviation)
  assert (gammas**2).mean() == pytest.approx(r**2 / 3, abs=4 * r**2 * np.sqrt(4 / 45 / count))
  assert gammas.min() >= 0
  assert gammas.max() < r
  again = r * jax.random.uniform(jax.random.fold_in(jax.random.fold_in(KEY, 7), GAMMA))
  assert float(gammas[7]) == pytest.approx(float(again), rel=1e-6)


SEPARABLE = {**examples(), "weak": examples(9, 5, separable=True)}


@pytest.mark.parametrize("search", ["newton", "trials"])
def test_a_separable_weak_batch_is_rejected_and_counted(search):
  model, batch = chain(blocks=("head",)), SEPARABLE
  params = {"head": tree.scale(0.01, PARAMS["head"])}
  step = partial(evaluate, batch=batch, model=model, params=params)
  rule = optim.pol(update="head", search=search)
  (loss, aux), _ = step(rule)
  told = {name: float(value) for name, value in aux.metrics.items()}
  assert (told["reject"], told["rejects"], told["eta"], told["perturbation"]) == (1, 1, 0, 0)
  assert float(loss) == pytest.approx(float(weak_loss(params, batch, model)), rel=1e-6)
  (_, aux), _ = step(rule, memory=aux.memory)
  assert float(aux.metrics["rejects"]) == 2
  clipped = optim.pol(update="head", search=search, on_unbounded="clip", cap=50.0)
  (_, aux), _ = step(clipped)
  assert float(aux.metrics["eta"]) == pytest.approx(50)
  assert (float(aux.metrics["reject"]), float(aux.metrics["rejects"])) == (0, 0)


@pytest.mark.parametrize("rule", [optim.pof(eta_init=1e4), optim.pof(eta_init=1e4, search="trials")])
def test_a_minimum_far_below_the_first_length_is_found(rule):
  batch = batch_of()
  (_, aux), _ = evaluate(rule, batch)
  eta = aux.metrics["eta"]
  assert 0 < float(eta) < 1e4 / 16
  gradient = jax.grad(weak_loss)(PARAMS, batch["weak"])
  there = weak_loss(moved(PARAMS, gradient, "^head/", eta), batch["weak"])
  assert float(there) < float(weak_loss(PARAMS, batch["weak"]))


def test_the_search_begins_where_the_last_one_ended():
  rule, batch = optim.pol(update="third", perturb="second"), batch_of()
  (_, aux), _ = evaluate(rule, batch)
  (memory,) = aux.memory
  assert float(memory.start) == float(aux.metrics["eta"]) > 0
  along = lambda eta, start: evaluate(  # noqa: E731
    rule, batch, memory=(memory._replace(start=jnp.float32(start)),)
  )[0][1].metrics["eta"]
  assert float(along(0, 1e-6)) == pytest.approx(4e-6, rel=1e-3)  # a factor of 4 at most


def test_the_first_search_begins_where_it_says_and_has_as_many_trials():
  batch = batch_of()
  eta = lambda rule: float(evaluate(rule, batch)[0][1].metrics["eta"])  # noqa: E731
  assert eta(optim.pol(update="third", perturb="second", eta_init=1e-5)) == pytest.approx(4e-5, rel=1e-3)
  exact, few = eta(optim.pof()), eta(optim.pof(search="trials", num_trials=3))
  many = eta(optim.pof(search="trials", num_trials=400))
  assert abs(many - exact) < 0.01 * exact < abs(few - exact)


def test_a_length_is_kept_for_as_long_as_it_says():
  _, told = trajectory(optim.pol(update="third", perturb="second", refresh_every=3), steps=7)
  etas = [metrics["eta"] for metrics in told]
  assert len(set(etas[:3])) == len(set(etas[3:6])) == 1
  assert len({etas[0], etas[3], etas[6]}) == 3
  _, told = trajectory(optim.pol(update="third", perturb="second"), steps=3)
  assert len({metrics["eta"] for metrics in told}) == 3


def test_only_a_head_that_is_not_linear_is_searched_with_forward_passes():
  for head, expected in (("linear", False), ("cosine", True)):
    made, starts = chain(head=head), []

    def counted(*arguments, made=made, starts=starts, **keywords):
      starts.append(keywords.get("start"))
      return made.apply(*arguments, **keywords)

    rule = optim.pof()
    counting = loss_of(dataclasses.replace(made, apply=counted))
    rule(counting)(PARAMS, STATS, batch_of(), KEY, *optim.init_memory(rule, PARAMS))
    assert (starts.count("head") > 6) is expected, head


def test_a_perturbed_head_that_is_not_linear_lowers_the_weak_loss():
  model, batch = chain(head="cosine"), batch_of()
  (_, aux), _ = evaluate(optim.pof(), batch, model=model)
  gradient = jax.grad(weak_loss)(PARAMS, batch["weak"], model)
  there = moved(PARAMS, gradient, "^head/", aux.metrics["eta"])
  assert float(weak_loss(there, batch["weak"], model)) < float(aux.metrics["weak_loss"])
