"""A task without classes is measured like a classification: its measures, its curvature and its layers.

The network of `tests.test_another_task` has 7 parameters, and its loss a Hessian in closed form: numpy forms
it in float64, and no derivative of JAX takes part.
"""

import csv
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl import cli, data, losses, train, tree
from jaxtl.checkpoints import checkpoint
from jaxtl.config import parse
from jaxtl.errors import DataError, InputError
from jaxtl.host import sealed_json
from jaxtl.measure import blocks, lambda_max, layer_diagnosis
from jaxtl.measure import losses as losses_lib
from jaxtl.measure.lambda_max import Flatness
from jaxtl.measure.landscape import Landscape
from jaxtl.measure.layer_diagnosis import Diagnosis
from jaxtl.measure.settings import BlockCurvature, Sharpness, Spectrum
from jaxtl.runner import run as study
from jaxtl.tasks import LogitsLoss, classification
from jaxtl.train import Experiment
from jaxtl.train.inputs import Data
from tests import test_another_task as another
from tests.small_training import quiet_runtime

HERE = "tests.test_another_task"
CONFIG = another.config(epochs=1.0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  folder = tmp_path_factory.mktemp("measured") / "run"
  experiment = parse(CONFIG, Experiment)
  return folder, train.run(experiment, seed=0, runtime=quiet_runtime(), workdir=folder)


@pytest.fixture(scope="module")
def depth_file(tmp_path_factory):
  source = another.brightness(seed=1, num_examples=40)
  file = tmp_path_factory.mktemp("data") / "depth.npz"
  np.savez(file, test_images=source.pixels, test_depth=source.targets["depth"])
  return file


def measured_loss():
  return losses_lib.training_loss(another.regression())


def landscape(trained, runtime, num_examples=40):
  found = trained[1]
  weights = found.weights
  part = parse(another.part(1, num_examples=40), Data)
  return Landscape.of(
    found.program.model,
    weights.params,
    weights.batch_stats,
    measured_loss(),
    part,
    runtime,
    num_examples=num_examples,
    seed=0,
  )


class Dense:
  """The derivatives of the mean squared error in float64, in the order of `tree.paths`.

  The prediction of a pixel x is b + sum_i s_i k_i x_i: the order is body/scale s, head/bias b, head/kernel k.
  """

  def __init__(self, params):
    source = another.brightness(seed=1, num_examples=40)
    images = (source.pixels / 255.0 - np.array(data.IMAGENET_MEAN)) / np.array(data.IMAGENET_STD)
    x, d = images.reshape(-1, 3), source.targets["depth"].astype(np.float64).ravel()
    s, k = (
      np.asarray(value, np.float64).ravel() for value in (params["body"]["scale"], params["head"]["kernel"])
    )
    residual = x @ (s * k) + float(params["head"]["bias"]) - d
    # The Jacobian of the predictions, and the only second derivative: of s_i k_i.
    jacobian = np.concatenate([x * k, np.ones((len(x), 1)), x * s], axis=1)
    self.loss = float(np.mean(residual**2))
    self.gradient = 2 * jacobian.T @ residual / len(x)
    self.gauss_newton = 2 * jacobian.T @ jacobian / len(x)
    mixed = np.zeros((7, 7))
    mixed[:3, 4:] = np.diag(2 * residual @ x / len(x))
    self.hessian = self.gauss_newton + mixed + mixed.T

  def top(self, rows=slice(None)):
    return float(np.linalg.eigvalsh(self.hessian[rows, rows])[-1])


def flat(values):
  assert tree.paths(values) == ["body/scale", "head/bias", "head/kernel"]
  return np.concatenate([np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(values)])


@pytest.fixture(scope="module")
def dense(trained):
  return Dense(trained[1].weights.params)


@pytest.mark.parametrize("num_devices", [1, 8])
def test_the_top_eigenvalue_is_that_of_the_dense_hessian(trained, dense, num_devices):
  at = landscape(trained, quiet_runtime(num_devices))
  assert at.facts()["mean_loss"] == pytest.approx(dense.loss, rel=1e-5)
  found = at.extremes(num_iters=500, tolerance=1e-4).algebraic
  assert found.converged
  assert found.value == pytest.approx(dense.top(), rel=1e-5)


def test_products_are_those_of_the_dense_matrices(trained, dense):
  at = landscape(trained, quiet_runtime())
  vector = tree.random_like(jax.random.key(1), at.params)
  for matvec, matrix in ((at.hessian, dense.hessian), (at.gauss_newton, dense.gauss_newton)):
    np.testing.assert_allclose(flat(matvec(vector)), matrix @ flat(vector), rtol=1e-4, atol=1e-5)
  assert np.abs(dense.hessian - dense.gauss_newton).max() > 0.1  # otherwise one could stand for the other


def test_the_spectrum_and_the_blocks_are_those_of_the_dense_matrices(trained, dense):
  at = landscape(trained, quiet_runtime())
  row = at.spectrum(Spectrum(num_eigenvalues=3, max_products=7, num_probes=16, num_steps=7, alpha=0.5))
  top = np.linalg.eigvalsh(dense.hessian)[::-1][:3]
  np.testing.assert_allclose(row["eigenvalues"], top, rtol=1e-4, atol=1e-4)
  for name, matrix in (("trace", dense.hessian), ("gauss_newton_trace", dense.gauss_newton)):
    assert (
      abs(row[name] - np.trace(matrix)) < 4 * row[f"{name}_error"]
    )  # false alarms: 1 in 1,000, for a fixed key
  values = np.linalg.eigvalsh(dense.gauss_newton)
  expected = np.sum(values / (values + 0.5))
  assert abs(row["effective_dimension"] - expected) < 4 * row["effective_dimension_error"]
  body, head = blocks.rows(
    at, BlockCurvature(max_products=4, tolerance=1e-4, num_probes=2, effective_steps=4)
  )
  assert (body["layer"], head["layer"]) == ("body", "head")
  assert body["layer_lambda_max"] == pytest.approx(dense.top(slice(0, 3)), rel=1e-4)
  assert head["layer_lambda_max"] == pytest.approx(dense.top(slice(3, 7)), rel=1e-4)
  for found, part in ((body, slice(0, 3)), (head, slice(3, 7))):
    slope = np.linalg.norm(dense.gradient[part])
    assert found["layer_sam_first_order"] == pytest.approx(rise(trained, dense, part, 0.05 / slope), rel=1e-3)


def rise(trained, dense, part, length):
  """The rise of the loss after a step of `length` times the gradient, in one part of the parameters."""
  start = trained[1].weights.params
  moved = flat(start)
  moved[part] += length * dense.gradient[part]
  return (
    Dense({"body": {"scale": moved[:3]}, "head": {"bias": moved[3], "kernel": moved[4:]}}).loss - dense.loss
  )


def test_sharpness_leaves_out_what_only_a_softmax_classifier_has(trained, dense):
  row = landscape(trained, quiet_runtime()).sharpness(Sharpness(num_steps=1, num_samples=2))
  assert "fisher_rao_norm" not in row
  length = 0.05 / np.linalg.norm(dense.gradient)
  assert row["sam_first_order"] == pytest.approx(rise(trained, dense, slice(None), length), rel=1e-3)
  assert {"adaptive_sam_sharpness", "average_sharpness", "relative_flatness"} <= set(row)


def test_the_features_of_a_gauss_newton_matrix_are_those_that_the_loss_reads():
  batch = {"label": jnp.zeros(2, jnp.int32)}
  features = {"stage1": jnp.zeros((2, 5)), "logits": jnp.zeros((2, 3)), "pooled": jnp.zeros((2, 4))}
  loss = LogitsLoss(losses.softmax_cross_entropy)
  assert losses_lib.features_read(loss, features, batch) == ("logits",)
  both = lambda features, batch: features["pooled"][:, 0] + features.get("aux", 0) + features["stage1"][:, 0]  # noqa: E731
  assert losses_lib.features_read(both, features, batch) == ("pooled", "stage1")


def test_a_loss_of_whole_numbers_has_no_gauss_newton_matrix(trained):
  model = trained[1].program.model
  rounded = lambda features, batch: jnp.mean(features["depth"], axis=(1, 2))  # noqa: E731
  apply = lambda *a, **k: ({"depth": model.apply(*a, **k)[0]["depth"].astype(jnp.int32)}, {})  # noqa: E731
  whole = type(model)("whole", model.init, apply, model.blocks)
  features = losses_lib.features_of(whole, rounded)
  batch = {"batch_stats": {}, "image": jnp.zeros((1, 8, 8, 3))}
  with pytest.raises(
    InputError, match=r"reads the feature 'depth', which is int32; .* set spectrum and layers"
  ):
    features(trained[1].weights.params, batch)


def test_equal_losses_of_logits_are_one_loss():
  """So arms and checkpoints share what is compiled for one of them."""
  first, second = (classification(loss=losses.softmax_cross_entropy) for _ in range(2))
  assert losses_lib.training_loss(first) == losses_lib.training_loss(second) == losses_lib.common_loss(first)
  model = another.pixelwise(num_classes=0)
  assert losses_lib.summed(model, first.example_loss) is losses_lib.summed(model, second.example_loss)
  hinge = classification(loss=losses.multiclass_smoothed_hinge)
  assert losses_lib.training_loss(hinge) != losses_lib.common_loss(hinge) == losses_lib.common_loss(first)


def test_the_diagnosis_of_layers_is_that_of_the_quadratics(trained, dense):
  """With the other layer fixed the loss is quadratic in each, so the search has a closed form."""
  found = trained[1].weights
  plan = parse(dict(data=another.part(1, num_examples=40), num_examples=40, cross_check=True), Diagnosis)
  rows = layer_diagnosis.diagnose(
    plan, trained[1].program.model, found.params, found.batch_stats, measured_loss(), quiet_runtime()
  )
  assert [row["layer"] for row in rows] == ["body", "head"]
  for row, part in zip(rows, (slice(0, 3), slice(3, 7)), strict=True):
    g, h = dense.gradient[part], dense.hessian[part, part]
    step = (g @ g) / (g @ h @ g)
    assert row["gradient_norm"] == pytest.approx(np.linalg.norm(g), rel=1e-3)
    assert row["mean_loss"] == pytest.approx(dense.loss, rel=1e-5)
    assert row["delta_loss"] == pytest.approx(step * (g @ g) / 2, rel=1e-3)
    assert row["kappa_hvp"] == pytest.approx((g @ h @ g) / (g @ g) / 2, rel=1e-3)


def test_the_observer_of_training_measures_the_training_loss(trained, dense):
  flatness = parse(
    dict(data=another.part(1, num_examples=40), num_examples=40, num_iters=500, tolerance=1e-4), Flatness
  )
  runtime = quiet_runtime()
  again = train.run(
    parse(CONFIG, Experiment),
    seed=0,
    runtime=runtime,
    observers={"flatness": (None, lambda_max.observer(flatness, runtime))},
  )
  assert again.last("flatness/lambda_max") == pytest.approx(dense.top(), rel=1e-4)


def run(*arguments, code=0):
  assert cli.main([str(argument) for argument in arguments]) == code


def test_eval_writes_the_measures_of_the_task(trained, dense, depth_file, tmp_path, capsys):
  out = tmp_path / "out"
  command = ["eval", trained[0], "--data", depth_file, "--trust", "--batch-size", 16, "--num-devices", 1]
  run(*command, "--out", out)
  scores = json.loads((out / "scores.json").read_text())
  assert scores["loss"] == pytest.approx(dense.loss, rel=1e-5)
  assert (scores["num_examples"], scores["task"]) == (40, f"{HERE}.regression")
  rows = list(csv.DictReader((out / "examples.csv").open()))
  values = [float(row["loss"]) for row in rows]
  assert [int(row["row"]) for row in rows] == list(range(40))
  assert np.mean(values) == pytest.approx(dense.loss, rel=1e-5)
  printed = capsys.readouterr().out
  assert "worst" in printed
  assert f"{scores['worst']:.5g}" in printed
  page = (out / "index.html").read_text()
  assert f"row {int(np.argmax(values))}: loss {max(values):.4g}" in page
  assert "cross_entropy" not in page


def test_eval_gives_what_training_logged(trained, tmp_path):
  source = another.brightness(seed=1)
  np.savez(tmp_path / "all.npz", test_images=source.pixels, test_depth=source.targets["depth"])
  command = ["eval", trained[0], "--data", tmp_path / "all.npz", "--trust", "--num-devices", 1]
  run(*command, "--batch-size", 24, "--out", tmp_path / "out")
  scores = json.loads((tmp_path / "out" / "scores.json").read_text())
  for name in ("loss", "worst"):
    assert scores[name] == pytest.approx(trained[1].last(f"eval/test/{name}"), rel=1e-6)


def test_eval_flatness_and_layers_report_the_training_loss(trained, dense, depth_file, tmp_path, capsys):
  command = ["eval", trained[0], "--data", depth_file, "--trust", "--batch-size", 40, "--num-devices", 1]
  run(*command, "--flatness", "--num-examples", 40, "--out", tmp_path / "flat")
  printed = capsys.readouterr().out
  assert "training loss" in printed
  assert "regression" in printed
  assert "cross" not in printed
  rows = sealed_json.read_lines(tmp_path / "flat" / "checkpoint" / "0" / "rows.jsonl")
  assert {row["loss"] for row in rows} == {"training"}
  assert {row["kind"] for row in rows} == {"flatness", "layer", "slice", "plane"}
  assert rows[0]["lambda_max"] == pytest.approx(dense.top(), rel=1e-3)
  page = (tmp_path / "flat" / "report" / "report.md").read_text()
  for text in (
    "Curvature of the training loss",
    "The training loss of every arm, regression",
    "Blocks, training",
  ):
    assert text in page
  assert "cross-entropy" not in page
  assert "evenly over the classes" not in page
  assert (tmp_path / "flat" / "report" / "planes_training.png").is_file()

  run(*command, "--layers", "--num-examples", 40, "--out", tmp_path / "layers")
  printed = capsys.readouterr().out
  assert "differentiated" in printed
  assert "head" in printed
  rows = sealed_json.read_lines(tmp_path / "layers" / "checkpoint" / "0" / "rows.jsonl")
  assert [row["differentiated"] for row in rows] == ["regression"] * 2
  page = (tmp_path / "layers" / "report" / "report.md").read_text()
  assert "The loss is that of regression." in page
  assert "evenly over the classes" not in page


@pytest.mark.parametrize(
  "option",
  [("--subset",), ("--class-map", "m.json"), ("--text", "t", "--vocabulary", "v", "--zero-shot", "p")],
)
def test_options_of_classes_are_refused_in_one_line(trained, depth_file, capsys, option):
  run("eval", trained[0], "--data", depth_file, "--trust", "--num-devices", 1, *option, code=2)
  said = capsys.readouterr().err
  assert "is for classifications" in said
  assert f"was trained on {HERE}.regression" in said
  assert len(said.strip().splitlines()) == 1


@pytest.mark.parametrize("measure", [(), ("--flatness",), ("--layers",)])
@pytest.mark.parametrize(
  ("arrays", "message"),
  [
    (dict(test_height=(40, 8, 8)), "has no 'depth' for its images"),
    (dict(test_depth=(40, 4, 4)), r"gives 'depth' of shape [4, 4] for each image; the task reads [8, 8]"),
  ],
)
def test_data_without_the_target_of_the_task_are_one_line(
  trained, tmp_path, capsys, measure, arrays, message
):
  images = another.brightness(num_examples=40).pixels
  np.savez(tmp_path / "d.npz", test_images=images, **{key: np.zeros(shape) for key, shape in arrays.items()})
  command = ["eval", trained[0], "--data", tmp_path / "d.npz", "--trust", "--num-devices", 1, *measure]
  run(*command, "--batch-size", 8, code=3)
  said = capsys.readouterr().err
  assert message in said
  assert len(said.strip().splitlines()) == 1


def test_a_checkpoint_that_is_not_trusted_is_refused(trained, depth_file, capsys):
  run("eval", trained[0], "--data", depth_file, "--num-devices", 1, code=2)
  assert "--trust" in capsys.readouterr().err


def test_weights_that_are_not_finite_have_no_measures(trained, depth_file, tmp_path, capsys):
  saved = checkpoint.load(trained[0])
  broken = dict(saved.params, head=dict(saved.params["head"], bias=np.array(np.nan, np.float32)))
  checkpoint.save_weights(checkpoint.Weights(broken, {}, saved.config, "memory"), tmp_path / "broken")
  run(
    "eval",
    tmp_path / "broken",
    "--data",
    depth_file,
    "--trust",
    "--num-devices",
    1,
    "--batch-size",
    8,
    code=4,
  )
  assert "has no finite loss for 40 of 40 images" in capsys.readouterr().err


def test_a_study_of_layers_names_what_it_needs(tmp_path):
  held = another.part(2)
  base = dict(
    start=None,
    base=CONFIG | dict(evaluation={}),
    task=CONFIG["task"],
    data=another.part(0),
    validation=held,
    test=another.part(1),
    optimizer=CONFIG["optimizer"],
    methods=dict(plain=dict(gradient=dict(make=".optim.plain"))),
    epochs=1.0,
  )
  config = dict(study=".studies.layers.rows", base=base, arms=dict(a={}), seeds=[0])
  with pytest.raises(InputError, match=r"a layers study reports error and calibration, so write a class"):
    study.run_study(config, workdir=tmp_path / "run", runtime=quiet_runtime())


def test_joined_sources_keep_the_targets_that_they_share():
  first = another.brightness(num_examples=4, seed=0)
  second = another.brightness(num_examples=2, seed=1)
  whole = data.joined(sources={"a": first, "b": second})
  assert whole.classes == ()
  assert set(whole.target_specs) == {"depth"}
  order = [0, 0, 1, 1, 2, 0, 3, 1]
  for row, index in enumerate(order):
    own = (first, second)[row % 2]
    np.testing.assert_array_equal(whole.targets["depth"][row], own.targets["depth"][index])
    np.testing.assert_array_equal(whole.read(row), own.read(index))


def test_a_target_that_joined_sources_do_not_share_is_explained_where_a_task_needs_it():
  first = another.brightness(num_examples=4, seed=0)
  other = data.from_arrays(
    images=first.pixels, labels=[0, 1, 0, 1], targets={"depth": np.zeros((4, 2), np.float64)}, name="b"
  )
  whole = data.joined(sources={"a": first, "b": other})
  assert (whole.classes, dict(whole.targets), list(whole.labels)) == ((), {}, [0] * 8)
  assert whole.dropped["label"] == "it differs between the joined sources: absent in 'a', int32 [] in 'b'"
  said = "float32 [8, 8] in 'a', float64 [2] in 'b'"
  assert whole.dropped["depth"] == f"it differs between the joined sources: {said}"
  with pytest.raises(DataError) as error:
    train.experiment.check_source_targets(whole.take(np.arange(4)), another.regression(), "regression")
  assert str(error.value).startswith("joined has no 'depth' for its images; the task regression reads it")
  assert str(error.value).endswith(f"; it differs between the joined sources: {said}")
