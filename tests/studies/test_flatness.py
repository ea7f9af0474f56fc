"""Transfer and flatness on a checkpoint that exists."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl import losses, train
from jaxtl.config import parse
from jaxtl.errors import CheckpointError
from jaxtl.studies import flatness, study
from jaxtl.train import Experiment
from tests.train.conftest import tiny_config


@pytest.fixture
def checkpointed(runtime, tmp_path):
  experiment = parse(tiny_config(epochs=2.0), Experiment)
  trained = train.run(experiment, seed=0, runtime=runtime(), workdir=tmp_path / "start")
  return str(tmp_path / "start"), trained


def test_transfer_starts_from_a_checkpoint(study_config, runtime, tmp_path, checkpointed):
  base = dict(start=checkpointed[0], transfer=study_config["base"]["transfer"])
  config = dict(study=".studies.transfer.rows", base=base, arms=dict(a=dict()), seeds=[0])
  rows = study.run_study(config, workdir=tmp_path / "run", runtime=runtime())
  assert [(row["target"], row["protocol"]) for row in rows] == [("two", "linear_probe"), ("two", "fine_tune")]
  base["start"] = str(tmp_path / "nowhere")
  with pytest.raises(CheckpointError, match="there is no such folder"):
    study.run_study(config, workdir=tmp_path / "other", runtime=runtime())


def test_flatness_is_the_largest_eigenvalue_that_arpack_finds(runtime, checkpointed, study_config):
  _, trained = checkpointed
  settings = study_config["base"]["flatness"] | dict(num_iters=300, tolerance=1e-3)
  measured = parse(settings, flatness.Flatness)
  model = trained.program.model
  found = flatness.measure(measured, model, trained.weights.params, trained.weights.batch_stats, runtime())
  batches = list(flatness._subset(measured, runtime()))
  flat, unflatten = jax.flatten_util.ravel_pytree(trained.weights.params)

  def loss(vector):
    values = []
    for batch in batches:
      logits = model.apply(unflatten(vector), trained.weights.batch_stats, batch["image"])[0]["logits"]
      values.append(losses.softmax_cross_entropy(logits, batch["label"])[np.asarray(batch["mask"])])
    return jnp.mean(jnp.concatenate(values))

  # The dense Hessian is too large; its extreme eigenvalue by ARPACK is not.
  from scipy.sparse.linalg import LinearOperator, eigsh

  product = jax.jit(lambda v: jax.jvp(jax.grad(loss), (flat,), (v,))[1])
  operator = LinearOperator(
    (flat.size, flat.size), matvec=lambda v: np.asarray(product(jnp.asarray(v, jnp.float32)))
  )
  reference = eigsh(operator, k=1, which="LA", return_eigenvectors=False, tol=1e-5)[0]
  assert found["converged"]
  assert found["lambda_max"] == pytest.approx(float(reference), rel=1e-3)
  assert found["num_examples"] == 48


def test_flatness_as_a_study_draws_another_subset_for_another_seed(
  runtime, tmp_path, checkpointed, study_config
):
  base = dict(start=checkpointed[0], flatness=study_config["base"]["flatness"])
  config = dict(study=".studies.flatness.rows", base=base, arms=dict(a=dict()), seeds=[0, 1])
  rows = study.run_study(config, workdir=tmp_path / "run", runtime=runtime())
  assert rows[0]["lambda_max"] != rows[1]["lambda_max"]
  assert all(row["kind"] == "flatness" for row in rows)
