"""Rows of a flatness study whose numbers are known."""

import numpy as np
import pytest

from jaxtl.report.results import Results


def rows_of(arm, seed, scale, loss="cross_entropy", differentiated="softmax_cross_entropy"):
  common = {
    "arm": arm,
    "seed": seed,
    "loss": loss,
    "differentiated": differentiated,
    "checkpoint": f"runs/{arm}",
  }
  flat = {
    **{"kind": "flatness", "num_examples": 400, "num_parameters": 1000, "precision": "float32"},
    **{"images": "cifar10/train", "seed_of_images": seed, "matmul_precision": "default"},
    **{"compute_type": "float32", "weights": "0123456789abcdef", "tolerance": 0.01},
    "sharpness_plan": {"rho": 0.05, "adaptive_rho": 0.1, "num_steps": 3, "sigma": 0.005}
    | {"adaptive_sigma": 0.05, "num_samples": 8},
    **{"batch_norm": "stored statistics", "lambda_max": 100.0 * scale, "residual": 0.004, "converged": True},
    **{"num_products": 17, "trace": 500.0 * scale, "trace_error": 31.25, "alpha": 2.0, "mean_loss": 0.5},
    **{"eigenvalues": [100.0 * scale, 40.0], "sam_sharpness": 0.1 * scale},
    **{"effective_dimension": 21.5, "effective_dimension_error": 3.0, "effective_dimension_change": 0.125},
    **{"gauss_newton_trace": 450.0, "gauss_newton_trace_error": 25.0},
    "density_nodes": [[-1.0, 0.0, 100.0 * scale]] * 2,
    "density_weights": [[0.01, 0.989, 0.001]] * 2,
  }
  layers = [
    {
      **{"kind": "layer", "layer": name, "layer_parameters": 10, "layer_lambda_max": value * scale},
      **{"layer_residual": 0.01, "layer_converged": name == "stem", "layer_trace": 2 * value},
      **{"layer_trace_error": 0.5, "layer_effective_dimension": 4.0 * scale, "layer_alpha": 2.0},
      **{"layer_effective_dimension_error": 0.25, "layer_effective_dimension_change": 0.125},
      **{"layer_sam_first_order": 0.01 * scale, "layer_rho": 0.05},
    }
    for name, value in (("stem", 3.0), ("head", 7.0))
  ]
  line = {"kind": "slice", "direction": "random", "coordinates": [-1.0, 0.0, 1.0], "values": [2.0, 0.5, None]}
  grid = (np.arange(9.0).reshape(3, 3) * scale).tolist()
  plane = {"kind": "plane", "coordinates": [-1.0, 0.0, 1.0], "values": grid}
  return [common | row for row in (flat, *layers, line, plane)]


@pytest.fixture
def results():
  hinge = rows_of("hinge", 0, 2.0, "training", "multiclass_smoothed_hinge(margin=7)")[:1]
  rows = [*rows_of("plain", 0, 1.0), *rows_of("plain", 1, 3.0), *rows_of("hinge", 0, 0.5), *hinge]
  config = {
    "arms": {"plain": {}, "hinge": {}},
    "seeds": [0, 1],
    "base": {},
  }
  return Results(config=config, env={}, rows=rows, curves={}, finished=frozenset())
