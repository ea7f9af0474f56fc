"""The diagnosis of layers: closed forms, what must not change it, what it costs, and what it refuses."""

import dataclasses
import functools
import io
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl import losses, models, train, tree, weights
from jaxtl.config import parse
from jaxtl.errors import ConfigError, DataError, InputError, NonFiniteError
from jaxtl.host.progress import Progress
from jaxtl.measure.images import draw
from jaxtl.measure.layer_diagnosis import Diagnosis, chosen, diagnose
from jaxtl.measure.losses import summed
from jaxtl.tasks import CROSS_ENTROPY, LogitsLoss
from jaxtl.train import Experiment, Runtime, make_mesh
from jaxtl.types import Model
from tests.small_training import tiny_config

pytestmark = pytest.mark.slow

SOURCE = dict(make="tests.small_training.squares")


def plan(*, batch_size=16, **changes):
  data = dict(source=SOURCE, transforms=[dict(fn=".data.normalize")], batch_size=batch_size)
  return parse(dict(data=data, num_examples=48) | changes, Diagnosis)


def squared(logits, labels):
  del labels
  return jnp.sum(logits**2, axis=-1) / 2


def quadratic(offset, hessian=(1.0, 5.0)):
  """A model whose loss under `squared` is (w - c) H (w - c) / 2 with H diagonal, and its parameters."""

  def apply(params, batch_stats, images, *, start=None, stop=None):
    del start, stop
    logits = jnp.sqrt(jnp.asarray(hessian)) * (params["layer"]["w"] - 1.0)
    return {"logits": jnp.broadcast_to(logits, (len(images), len(hessian)))}, batch_stats

  model = Model("quadratic", init=lambda *_: None, apply=apply, blocks=("layer",))
  return model, {"layer": {"w": 1.0 + jnp.asarray(offset)}}


def perceptron(widths=(192, 12, 10, 3), seed=0, count=None):
  """ReLU layers without biases; `count`, if given, is told each time that a block runs."""
  names = [f"layer{number}" for number in range(1, len(widths))]
  keys = jax.random.split(jax.random.key(seed), len(names))
  params = {
    name: {"kernel": jax.random.normal(key, shape) * np.sqrt(1.5 / shape[0])}
    for name, key, shape in zip(names, keys, itertools.pairwise(widths))
  }

  def apply(params, batch_stats, x, *, start=None, stop=None):
    first = 0 if start is None else names.index(start)
    last = len(names) if stop is None else names.index(stop)
    for name in names[first:last]:
      if count is not None:
        jax.debug.callback(count)
      x = x.reshape(len(x), -1) @ params[name]["kernel"]
      x = x if name == names[-1] else jax.nn.relu(x)
    return ({"logits": x} if stop is None else {"hidden": x}), batch_stats

  return Model("perceptron", init=lambda *_: None, apply=apply, blocks=tuple(names)), params


def rescaled(params, factor):
  """The same function: the first layer times a factor, the second divided by it."""
  return params | {
    "layer1": tree.scale(factor, params["layer1"]),
    "layer2": tree.scale(1 / factor, params["layer2"]),
  }


def measured(network, runtime, loss=losses.softmax_cross_entropy, batch_stats=None, **changes):
  model, params = network
  return diagnose(plan(**changes), model, params, batch_stats or {}, LogitsLoss(loss), runtime)


@pytest.fixture(scope="module")
def trained():
  experiment = parse(tiny_config(epochs=1.0), Experiment)
  quiet = Runtime(make_mesh(1), progress=Progress(stream=io.StringIO()))
  found = train.run(experiment, seed=0, runtime=quiet)
  return found.program.model, found.weights.params, found.weights.batch_stats


def test_a_quadratic_has_the_fall_and_the_curvature_of_the_closed_form(runtime):
  [row] = measured(quadratic((0.8, 1.3)), runtime(), squared, cross_check=True)
  np.testing.assert_allclose(row["kappa"], 2.4701562, rtol=1e-5)
  np.testing.assert_allclose(row["delta_loss"], 4.3408186, rtol=1e-6)
  np.testing.assert_allclose(row["kappa_hvp"], 2.4701562, rtol=1e-6)
  np.testing.assert_allclose(row["kappa_rel"], 2.4701562 * (1.8**2 + 2.3**2), rtol=1e-5)
  np.testing.assert_allclose(row["relative_step"] * row["weight_norm"], row["step"], rtol=1e-12)
  assert (row["layer"], row["layer_parameters"], row["unbounded"]) == ("layer", 2, False)
  assert row["perturb"]
  assert row["update"]


def test_further_steps_reach_the_minimum_of_the_whole_layer(runtime):
  g, offset = np.array([0.8, 6.5]), np.array([0.8, 1.3])
  few, many = (measured(quadratic((0.8, 1.3)), runtime(), squared, refine_steps=n)[0] for n in (1, 20))
  assert 4.3408186 < few["delta_loss"] < many["delta_loss"]
  np.testing.assert_allclose(many["delta_loss"], 4.545, rtol=1e-6)
  np.testing.assert_allclose(many["kappa"], (g @ offset / 2) / (offset @ offset), rtol=1e-3)
  np.testing.assert_allclose(many["kappa"], 1.9506438, rtol=1e-3)
  assert many["num_evaluations"] > few["num_evaluations"]


def test_weights_at_their_minimum_leave_nothing_to_gain(runtime):
  [row] = measured(quadratic((0.0, 0.0)), runtime(), squared)
  assert (row["delta_loss"], row["step"], row["kappa"], row["kappa_rel"]) == (0.0, 0.0, None, None)
  assert chosen([row]) == (None, None)
  assert row["num_evaluations"] == 1


def test_a_minimum_that_is_not_zero_leaves_nothing_but_rounding(runtime):
  """A softmax regression on constant inputs, at the class frequencies: the gradient is rounding."""
  network = quadratic((0.0, 0.0))[0]

  def apply(params, batch_stats, images, *, start=None, stop=None):
    del start, stop
    return {"logits": jnp.broadcast_to(params["layer"]["w"], (len(images), 3))}, batch_stats

  model = dataclasses.replace(network, apply=apply)
  [row] = measured((model, {"layer": {"w": jnp.array([1.3, 1.3, 1.3])}}), runtime())
  assert (row["delta_loss"], row["kappa"]) == (0.0, None)


def test_the_loss_never_rises_and_the_choice_is_that_of_the_rows(runtime):
  model, params = perceptron()
  network = model, rescaled(params, 10.0)
  rows = measured(network, runtime())
  assert [row["layer"] for row in rows] == ["layer1", "layer2", "layer3"]
  assert all(row["delta_loss"] >= 0 for row in rows)
  perturb, update = chosen(rows)
  assert perturb == max(rows, key=lambda row: row["kappa"])["layer"] == "layer2"
  assert update == max(rows, key=lambda row: row["delta_loss"])["layer"]
  relative = measured(network, runtime(), choose_by="kappa_rel")
  assert chosen(relative)[0] == max(rows, key=lambda row: row["kappa_rel"])["layer"] == "layer3"


@pytest.mark.parametrize("factor", [4.0, 0.25])
def test_a_rescaling_that_keeps_the_function_changes_kappa_alone(runtime, factor):
  """Powers of two, which round no weight: else the function is another, if only in its last digits."""
  model, params = perceptron()
  before, after = (measured((model, p), runtime()) for p in (params, rescaled(params, factor)))
  for old, new, power in zip(before, after, (-2, 2, 0)):
    np.testing.assert_allclose(new["delta_loss"], old["delta_loss"], rtol=1e-7)
    np.testing.assert_allclose(new["kappa_rel"], old["kappa_rel"], rtol=1e-7)
    np.testing.assert_allclose(new["kappa"], old["kappa"] * factor**power, rtol=1e-7)


def test_the_loss_at_the_weights_is_that_of_the_stored_statistics_which_stay(runtime, trained):
  model, params, stats = trained
  before = jax.tree.map(np.array, stats)
  rows = measured((model, params), runtime(), batch_stats=stats)
  jax.tree.map(np.testing.assert_array_equal, before, stats)
  drawn, _ = draw(plan().data, runtime(), num_examples=48, seed=0)
  logits = np.concatenate([model.apply(params, stats, batch["image"])[0]["logits"] for batch in drawn])
  labels = np.concatenate([batch["label"] for batch in drawn])
  expected = np.mean(
    np.asarray(losses.softmax_cross_entropy(jnp.asarray(logits), jnp.asarray(labels)), np.float64)
  )
  np.testing.assert_allclose([row["mean_loss"] for row in rows], expected, rtol=1e-6)


def test_the_step_of_a_row_has_the_fall_that_it_says(runtime, trained):
  """With the whole network and one batch, from the first pixel on."""
  model, params, stats = trained
  rows = measured((model, params), runtime(), batch_stats=stats)
  drawn, _ = draw(plan(batch_size=48).data, runtime(), num_examples=48, seed=0)
  batch = {**drawn[0], "batch_stats": stats}
  loss = lambda params: summed(model, CROSS_ENTROPY)(params, batch)[0] / 48  # noqa: E731
  start, gradient = jax.value_and_grad(loss)(params)
  for row in rows:
    own = gradient[row["layer"]]
    np.testing.assert_allclose(row["gradient_norm"], tree.norm(own), rtol=1e-4)
    there = weights.moved(params[row["layer"]], [own], [-row["step"] / float(tree.norm(own))])
    fall = float(start) - float(loss({**params, row["layer"]: there}))
    np.testing.assert_allclose(row["delta_loss"], fall, rtol=1e-3, atol=1e-6)
    assert row["delta_loss"] > 0


def test_cached_inputs_give_what_the_whole_network_gives(runtime, trained):
  model, params, stats = trained
  cached, again = (
    measured((model, params), runtime(), batch_stats=stats, cache=cache, refine_steps=1)
    for cache in (True, False)
  )
  for a, b in zip(cached, again):
    for key in ("mean_loss", "delta_loss", "kappa", "kappa_rel", "step", "weight_norm"):
      np.testing.assert_allclose(a[key], b[key], rtol=1e-4, err_msg=f"{a['layer']} {key}")
    np.testing.assert_allclose(a["mean_loss"], b["mean_loss"], rtol=1e-6)
    assert a["num_evaluations"] == b["num_evaluations"]


def test_each_block_runs_once_below_and_once_per_evaluation_above(runtime):
  """About half of what every evaluation from the images on would cost."""
  ran = {}
  for cache in (True, False):
    calls = []
    network = perceptron((192, 12, 11, 10, 9, 3), count=functools.partial(calls.append, 1))
    rows = measured(network, runtime(), cache=cache, num_examples=96, batch_size=16)
    jax.effects_barrier()
    trials = [row["num_evaluations"] for row in rows]
    depth, batches = len(rows), 6
    above = sum(count * (depth - at) for at, count in enumerate(trials))
    # The gradient runs every block once forwards; the inputs of the last layer need all but the last block.
    expected = depth + depth - 1 + above if cache else depth + depth * sum(trials)
    assert len(calls) == batches * expected
    ran[cache] = len(calls)
    assert max(trials) <= 16
  assert ran[True] < 0.7 * ran[False]


def test_the_same_images_and_the_same_numbers_whatever_the_batches(runtime, trained):
  model, params, stats = trained
  first, again = (measured((model, params), runtime(), batch_stats=stats) for _ in range(2))
  assert first == again
  other = measured(
    (model, params), runtime(), batch_stats=stats, batch_size=20
  )  # 48 = 20 + 20 + 8 and padding
  for a, b in zip(first, other):
    np.testing.assert_allclose(a["delta_loss"], b["delta_loss"], rtol=1e-4)
  assert {row["num_examples"] for row in other} == {48}


def test_eight_devices_find_what_one_finds(runtime, trained):
  model, params, stats = trained
  one, eight = (measured((model, params), runtime(n), batch_stats=stats, refine_steps=1) for n in (1, 8))
  for a, b in zip(one, eight):
    np.testing.assert_allclose(a["delta_loss"], b["delta_loss"], rtol=1e-4)
    np.testing.assert_allclose(a["kappa"], b["kappa"], rtol=1e-3)


def test_seed_and_number_of_images_change_what_is_measured(runtime):
  plain = measured(perceptron(), runtime())
  fewer = measured(perceptron(), runtime(), num_examples=30)
  other = measured(perceptron(), runtime(), seed=1)
  assert len({rows[0]["mean_loss"] for rows in (plain, fewer, other)}) == 3
  assert [rows[0]["num_examples"] for rows in (plain, fewer, other)] == [48, 30, 48]
  assert [rows[0]["seed_of_images"] for rows in (plain, fewer, other)] == [0, 0, 1]


def test_cross_fitting_takes_the_direction_from_one_half_and_the_losses_from_the_other(runtime):
  model, params = perceptron()
  rows = measured((model, params), runtime(), cross_fit=True)
  parts = ((0.0, 0.5), (0.5, 1.0))
  first, second = (draw(plan().data, runtime(), num_examples=48, seed=0, part=part)[0] for part in parts)
  counts = [np.bincount(np.concatenate([b["label"][b["mask"]] for b in part])) for part in (first, second)]
  np.testing.assert_array_equal(counts, 8)
  assert {row["num_examples"] for row in rows} == {48}

  def mean_loss(params, batches):
    parts = [summed(model, CROSS_ENTROPY)(params, {**batch, "batch_stats": {}}) for batch in batches]
    return sum(total for total, _ in parts) / sum(count for _, count in parts)

  gradient = jax.grad(mean_loss)(params, first)
  for row in rows:
    name = row["layer"]
    np.testing.assert_allclose(row["mean_loss"], mean_loss(params, second), rtol=1e-6)
    np.testing.assert_allclose(row["gradient_norm"], tree.norm(gradient[name]), rtol=1e-5)
    there = weights.moved(params[name], [gradient[name]], [-row["step"] / float(tree.norm(gradient[name]))])
    fall = mean_loss(params, second) - mean_loss({**params, name: there}, second)
    np.testing.assert_allclose(row["delta_loss"], fall, rtol=1e-4, atol=1e-6)
  refined = measured((model, params), runtime(), cross_fit=True, refine_steps=2)
  assert all(new["delta_loss"] >= old["delta_loss"] for new, old in zip(refined, rows))


def test_groups_are_the_users(runtime):
  rows = measured(perceptron(), runtime(), groups=["(lower)?layer[12]", "layer3"])
  assert [row["layer"] for row in rows] == ["layer1", "layer2", "layer3"]
  [row] = measured(perceptron(), runtime(), groups=["(layer).*"])
  assert (row["layer"], row["layer_blocks"]) == ("layer", ["layer1", "layer2", "layer3"])
  assert row["layer_parameters"] == 192 * 12 + 120 + 30
  [last] = measured(perceptron(), runtime(), groups=["layer3"])
  assert last["delta_loss"] == rows[2]["delta_loss"]


def test_layers_of_blocks_that_are_apart_move_together(runtime):
  """The cut is below the first of them; what lies between stays."""
  [row] = measured(perceptron(), runtime(), groups=["(layer)[13]"])
  assert row["layer_blocks"] == ["layer1", "layer3"]
  [whole] = measured(perceptron(), runtime(), groups=["(layer)[13]"], cache=False)
  np.testing.assert_allclose(row["delta_loss"], whole["delta_loss"], rtol=1e-5)


def test_a_layer_without_an_end_is_told_and_not_perturbed(runtime):
  """One class alone: the cross-entropy falls for ever along the head's gradient."""
  model, params = perceptron((192, 3))
  data = plan(num_examples=3)
  first = LogitsLoss(lambda logits, labels: logits[:, 0])
  rows = diagnose(data, model, params, {}, first, runtime())
  assert rows[0]["unbounded"]
  np.testing.assert_allclose(rows[0]["relative_step"], 3.0, rtol=1e-6)
  assert chosen(rows) == (None, "layer1")


def test_zero_weights_have_a_step_and_no_relative_one(runtime):
  model, params = perceptron((192, 3))
  [row] = measured((model, tree.zeros_like(params)), runtime())
  assert row["weight_norm"] == 0.0
  assert row["relative_step"] is None
  assert row["delta_loss"] > 0


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (dict(num_examples=0), "num_examples is 0"),
    (dict(groups=[]), "groups is"),
    (dict(refine_steps=-1), "refine_steps is -1"),
    (dict(choose_by="delta"), "choose_by"),
  ],
)
def test_impossible_plans_are_refused(change, message):
  with pytest.raises(ConfigError, match=message):
    plan(**change)


def test_layers_that_are_not_there_and_weights_that_are_not_finite_are_named(runtime):
  model, params = perceptron()
  with pytest.raises(ConfigError, match="'layer4' matches no block of perceptron; did you mean 'layer"):
    measured((model, params), runtime(), groups=["layer4"])
  with pytest.raises(ConfigError, match="empty has no blocks"):
    measured((dataclasses.replace(model, name="empty", blocks=()), params), runtime())
  broken = params | {"layer2": {"kernel": params["layer2"]["kernel"].at[0, 0].set(jnp.nan)}}
  with pytest.raises(InputError, match="'layer2/kernel' is not finite"):
    measured((model, broken), runtime())
  with pytest.raises(NonFiniteError, match="at the weights the loss is inf, although all parameters are"):
    measured((model, params), runtime(), lambda logits, labels: logits[:, 0] * 0 + jnp.inf)


def test_a_gradient_that_is_not_finite_is_named(runtime):
  root = lambda logits, labels: jnp.sqrt(jnp.sum(jnp.maximum(logits, 0) * 0.0, axis=-1))  # noqa: E731
  with pytest.raises(NonFiniteError, match=r"^at the weights the gradient of 'layer1/kernel' is not"):
    measured(perceptron(), runtime(), root)


def test_what_is_not_finite_after_a_step_names_the_layer(runtime):
  """A fall to the minimum at a logit of 0, below which autodiff takes the root's slope for a NaN."""
  root = lambda logits, labels: jnp.sqrt(jnp.maximum(logits[:, 0], 0)) + squared(logits, labels)  # noqa: E731
  with pytest.raises(NonFiniteError, match=r"^after a step of descent in the layer 'layer' the gradient of"):
    measured(quadratic((0.5,), (1.0,)), runtime(), root, refine_steps=1)


def test_one_image_of_each_class_cannot_be_halved(runtime):
  few = parse(
    dict(data=dict(source=SOURCE | dict(num_examples=3), batch_size=16), num_examples=8, cross_fit=True),
    Diagnosis,
  )
  model, params = perceptron()
  with pytest.raises(DataError, match="cross_fit needs two images of a class"):
    diagnose(few, model, params, {}, CROSS_ENTROPY, runtime())


def test_transformers_are_cut_at_their_blocks(runtime):
  model = models.vit_ti16(num_classes=3, image_size=8, patch_size=4, width=16, depth=2, num_heads=2)
  params, stats = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
  params["head"]["kernel"] = 0.1 * jax.random.normal(jax.random.key(1), params["head"]["kernel"].shape)
  cached, whole = (measured((model, params), runtime(), batch_stats=stats, cache=c) for c in (True, False))
  assert [row["layer"] for row in cached] == ["embed", "block1", "block2", "norm", "head"]
  for a, b in zip(cached, whole):
    np.testing.assert_allclose(a["delta_loss"], b["delta_loss"], rtol=1e-3)
  assert {row["excluded"] for row in cached} == {""}
