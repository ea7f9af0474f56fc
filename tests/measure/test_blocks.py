"""The curvature of single blocks."""

import dataclasses

import numpy as np
import pytest

from jaxtl import curvature, tree
from jaxtl.measure import blocks
from jaxtl.measure.settings import BlockCurvature
from tests.curvature.networks import columns
from tests.measure.landscapes import scene_of

pytestmark = pytest.mark.slow


def test_blocks_are_diagonal_blocks_and_no_larger_than_the_whole(runtime, checkpointed, settings):
  _, trained = checkpointed
  scene = scene_of(trained, runtime(), settings)
  whole = scene.extremes(num_iters=300, tolerance=1e-3).algebraic.value
  found = list(blocks.rows(scene, BlockCurvature(max_products=40, tolerance=1e-3, num_probes=2)))
  assert [row["layer"] for row in found] == list(trained.program.model.blocks)
  assert sum(row["layer_parameters"] for row in found) == scene.facts()["num_parameters"]
  assert all(row["layer_lambda_max"] <= whole * 1.001 for row in found)
  kernels = list(blocks.rows(scene, BlockCurvature(max_products=2, num_probes=2, where="kernel$")))
  assert sum(row["layer_parameters"] for row in kernels) < scene.facts()["num_parameters"]


def test_the_numbers_of_a_block_are_those_of_its_dense_matrices(runtime, checkpointed, settings):
  scene = scene_of(checkpointed[1], runtime(), settings)
  where, like = "^head/", tree.select(scene.params, "^head/")
  products = (scene.block(where), scene.gauss_newton_block(where))
  hessian, gauss_newton = (columns(matvec, like) for matvec in products)
  # The head is linear in its parameters: both matrices are the same, and the latter is another program.
  np.testing.assert_allclose(gauss_newton, hessian, atol=1e-5 * np.abs(hessian).max())
  # Twenty steps of Lanczos integrate x / (x + alpha) far closer than the probes know it.
  plan = BlockCurvature(
    max_products=40, tolerance=1e-4, effective_probes=40, effective_steps=20, alpha=0.01, where=where
  )
  [head] = blocks.rows(scene, plan)
  values = np.maximum(np.linalg.eigvalsh(hessian), 0)
  assert head["layer_lambda_max"] == pytest.approx(values[-1], rel=1e-3)
  effective = np.sum(values / (values + 0.01))
  assert abs(head["layer_effective_dimension"] - effective) <= 4 * head["layer_effective_dimension_error"]
  assert head["layer_effective_dimension_error"] < 0.1 * effective


def test_the_sharpness_of_a_block_is_a_step_along_its_own_gradient(runtime, checkpointed, settings):
  scene = scene_of(checkpointed[1], runtime(), settings)
  value, slope = curvature.gradient_over_batches(scene.loss_fn, scene.passes(0.0))(scene.params)
  loss = curvature.loss_over_batches(scene.loss_fn, scene.passes(0.0))
  plan = dataclasses.replace(SMALL, where="^(stem|head)/")
  found = {row["layer"]: row for row in blocks.rows(scene, plan)}
  for block in ("stem", "head"):
    own = {block: tree.scale(0.05 / tree.norm(slope[block]), slope[block])}
    moved = scene.params | {block: tree.add(scene.params[block], own[block])}
    rise = loss(moved) - value
    assert found[block]["layer_sam_first_order"] == pytest.approx(rise, rel=1e-4, abs=1e-6)


SMALL = BlockCurvature(max_products=3, num_probes=2, effective_probes=2, effective_steps=3, tolerance=1e-6)


@pytest.mark.parametrize(
  ("change", "keys"),
  [
    (dict(max_products=2), ("layer_lambda_max", "layer_residual")),
    (dict(tolerance=10.0), ("layer_lambda_max", "layer_residual", "layer_converged")),
    (dict(num_probes=3), ("layer_trace", "layer_trace_error")),
    (dict(effective_probes=3), ("layer_effective_dimension", "layer_effective_dimension_error")),
    (dict(effective_steps=2), ("layer_effective_dimension", "layer_effective_dimension_change")),
    (dict(alpha=0.1), ("layer_effective_dimension", "layer_alpha")),
    (dict(rho=0.1), ("layer_sam_first_order", "layer_rho")),
    (dict(where="kernel$"), ("layer_parameters", "layer_lambda_max", "layer_sam_first_order")),
  ],
)
def test_every_option_of_blocks_changes_its_number(runtime, checkpointed, settings, change, keys):
  scene = scene_of(checkpointed[1], runtime(), settings)
  plain = next(blocks.rows(scene, SMALL))
  found = next(blocks.rows(scene, dataclasses.replace(SMALL, **change)))
  if "where" in change:  # the stem has normalisation beside its kernel
    assert found["layer_parameters"] < plain["layer_parameters"]
  changed = {key for key in plain if plain[key] != found[key]}
  assert set(keys) <= changed
  if "where" not in change:
    others = {"layer_effective_dimension_error", "layer_effective_dimension_change"}
    assert changed <= {*keys, *others}
