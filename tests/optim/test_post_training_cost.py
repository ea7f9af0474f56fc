"""What the compiler says a step costs: only what is moved is differentiated, and zeros are free."""

import jax
import jax.numpy as jnp
import pytest

from jaxtl import models, optim, tree
from jaxtl.train import init_state, make_train_step
from tests.optim import small_chain

pytestmark = pytest.mark.slow


def compiled(model, params, stats, rule, batch):
  """The training step of a rule with an optimiser for its part."""
  tx = optim.sgd(peak_rate=0.1, total_steps=9, weight_decay=1e-4)
  tx = optim.where(pattern=optim.trained_paths(rule, model), transform=tx)
  state = jax.eval_shape(lambda p: init_state(p, stats, tx, gradient=rule), params)
  step = jax.jit(make_train_step(small_chain.loss_of(model), tx, gradient=rule), donate_argnums=0)
  return step.lower(state, batch, small_chain.KEY).compile()


@pytest.fixture(scope="module")
def steps():
  """name -> the step of a ViT with 12 blocks, whose head is perturbed."""
  model = models.vit_ti16(num_classes=10, image_size=64, patch_size=8, width=48, num_heads=3)
  shape = jax.ShapeDtypeStruct
  rows = {
    "image": shape((8, 64, 64, 3), jnp.float32),
    "label": shape((8,), jnp.int32),
    "mask": shape((8,), bool),
  }
  params, stats = jax.eval_shape(model.init, small_chain.KEY, rows["image"])
  hidden = jax.eval_shape(lambda p, x: model.prefix(p, {}, x, stop="block12"), params, rows["image"])
  kept = {name: x for name, x in rows.items() if name != "image"} | {"hidden": hidden}
  last = optim.pol(update="block12")
  cases = {"pof": (optim.pof(), rows), "pol": (last, rows), "kept": (last, kept)}
  return {
    name: compiled(model, params, stats, rule, {**batch, "weak": batch})
    for name, (rule, batch) in cases.items()
  }


def test_a_step_for_the_last_of_twelve_blocks_costs_what_it_must(steps):
  """2 + 2/12 forward passes instead of 4; of kept hidden states, what lies above the cut."""
  flops = {name: step.cost_analysis()["flops"] for name, step in steps.items()}
  assert flops["pol"] / flops["pof"] == pytest.approx(0.54, abs=0.02)
  assert flops["kept"] / flops["pof"] < 0.12


def test_no_activation_below_the_moved_block_is_kept_for_a_backward_pass(steps):
  scratch = {name: step.memory_analysis().temp_size_in_bytes for name, step in steps.items()}
  assert scratch["pol"] < 0.2 * scratch["pof"]
  assert scratch["kept"] < 0.2 * scratch["pof"]


def test_the_gradient_s_norm_and_the_optimiser_cost_nothing_for_what_does_not_move(monkeypatch):
  monkeypatch.setattr(small_chain, "WIDTH", 128)
  model = small_chain.chain()
  params, stats = model.init(small_chain.KEY, None)
  batch, moved = small_chain.batch_of(2, 2), tree.size(params["head"])
  rule = optim.pol(update="head")
  step = compiled(model, params, stats, rule, batch)
  value_and_grad = jax.jit(rule(small_chain.loss_of(model)))
  alone = value_and_grad.lower(
    params, stats, batch, small_chain.KEY, *optim.init_memory(rule, params)
  ).compile()
  more = step.cost_analysis()["flops"] - alone.cost_analysis()["flops"]
  assert tree.size(params) > 100 * moved
  assert 2 * moved <= more < 20 * moved
