"""Where arrays live changes nothing: one step from one seed on any mesh, under every placement and rule."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxtl import optim, train, tree
from jaxtl.checkpoints import checkpoint
from jaxtl.config import Spec, parse
from jaxtl.errors import ConfigError
from jaxtl.train import Experiment, Runtime, sharding
from jaxtl.train.experiment import compile_program
from jaxtl.train.step import init_model, init_state
from jaxtl.types import Aux
from tests.small_training import tiny_config

pytestmark = pytest.mark.slow

RULES = {
  "plain": dict(make=".optim.plain"),
  "sam": dict(make=".optim.sam", rho=0.05),
  "accumulate": dict(make=".optim.accumulate", steps=2),
  "sam of accumulated": dict(make=".optim.sam", rho=0.05, inner=dict(make=".optim.accumulate", steps=2)),
}
PLACEMENTS = {
  "replicate": dict(make=".train.replicate"),
  "fsdp": dict(make=".train.fsdp", min_size=64),
  "by_path": dict(
    make=".train.by_path",
    rules=[[r"conv\d/kernel$", [None, None, None, "model"]]],
    otherwise=dict(make=".train.fsdp", min_size=64),
  ),
}
ONE_STEP = 16 / 96


def mesh_runtime(runtime, devices: int, model: int = 1):
  made = runtime()
  made.mesh = train.make_mesh(devices, model=model)
  return made


@pytest.fixture(scope="module")
def begin():
  """The parameters and statistics before the step."""
  model = parse(tiny_config(), Experiment).model.realize(num_classes=3)
  return jax.device_get(init_model(model, jax.random.key(0), (8, 8, 3)))


@pytest.fixture(scope="module")
def one_step(begin):
  """(devices, model, changes of the experiment) -> the state after one step on that mesh, each made once."""
  found = {}
  data = parse(tiny_config(), Experiment).data
  batch = next(Runtime(train.make_mesh(1)).train_batches(data, seed=0, start_step=0))

  def run(devices, *, model=1, **changes):
    name = json.dumps([devices, model, changes])
    if name not in found:
      mesh = train.make_mesh(devices, model=model)
      experiment = parse(tiny_config(epochs=ONE_STEP, evaluation={}, **changes), Experiment)
      program = compile_program(experiment, num_classes=3, num_examples=96, mesh=mesh)
      state = init_state(*jax.tree.map(jnp.asarray, begin), program.tx, gradient=program.gradient)
      state = sharding.put(state, program.placement, mesh)
      after, _ = program.train_step(state, sharding.put_batch(batch, mesh), jax.random.key(1))
      found[name] = jax.device_get(after)
    return found[name]

  return run


def assert_same_step(found, expected, start):
  """Equal up to the order of sums: to 2e-5 of the largest change that the step makes to any parameter.

  A float32 sum over a batch of 16 maps of 64 places is off by some 1e-6 of its size, and a gradient goes
  through a dozen of them.
  """
  change = max(jax.tree.leaves(jax.tree.map(lambda a, b: np.abs(a - b).max(), expected.params, start)))
  assert change > 1e-3
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * change), found.params, expected.params
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    found.batch_stats,
    expected.batch_stats,
  )


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_one_step_is_the_same_on_any_mesh(one_step, begin, rule, placement):
  expected = one_step(1, gradient=RULES[rule])
  for devices, model in ((2, 1), (4, 2), (8, 1), (8, 2)):
    found = one_step(devices, model=model, gradient=RULES[rule], sharding=PLACEMENTS[placement])
    assert_same_step(found, expected, begin[0])


def test_a_whole_run_is_the_same_on_a_mesh_of_data_and_model(tiny, runtime, begin):
  """With the feed, the loop and the start state around the step."""
  changes = dict(epochs=ONE_STEP, evaluation={})
  expected = train.run(tiny(**changes), seed=0, runtime=runtime())
  parted = tiny(**changes, sharding=PLACEMENTS["by_path"])
  found = train.run(parted, seed=0, runtime=mesh_runtime(runtime, 8, 2))
  assert_same_step(found.weights, expected.weights, begin[0])


def test_fsdp_holds_every_large_array_in_parts(tiny, runtime, tmp_path):
  experiment = tiny(
    epochs=ONE_STEP,
    sharding=dict(make=".train.fsdp", min_size=64),
    optimizer=dict(make=".optim.adam", peak_rate=0.01),
  )
  mesh = train.make_mesh(8)
  program = compile_program(experiment, num_classes=3, num_examples=96, mesh=mesh)
  params, stats = init_model(program.model, jax.random.key(0), (8, 8, 3))
  state = sharding.put(
    init_state(params, stats, program.tx, gradient=program.gradient), program.placement, mesh
  )
  batch = {"image": jnp.ones((16, 8, 8, 3)), "label": jnp.zeros(16, jnp.int32), "mask": jnp.ones(16, bool)}
  after, _ = program.train_step(state, sharding.put_batch(batch, mesh), jax.random.key(1))
  parted = 0
  for path, x in zip(tree.paths(after), jax.tree.leaves(after), strict=True):
    if x.size >= 64 and any(size % 8 == 0 for size in x.shape):
      assert x.sharding.shard_shape(x.shape) != x.shape, path
      parted += 1
  # Every kernel with 8 or more channels, and both moments of Adam with it.
  assert parted % 3 == 0
  assert parted >= 9
  on_one = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(after))
  assert on_one == sharding.bytes_per_device(after, program.placement, mesh)
  assert on_one < sum(x.nbytes for x in jax.tree.leaves(after)) / 2


def test_fsdp_parts_the_largest_dimension_that_divides():
  mesh = train.make_mesh(4)
  place = train.fsdp(min_size=16)
  assert place("w", (3, 3, 6, 8), mesh) == PartitionSpec(None, None, None, "data")
  assert place("w", (12, 8), mesh) == PartitionSpec("data", None)
  assert place("w", (8, 8), mesh) == PartitionSpec(None, "data")
  assert place("w", (9, 7), mesh) == PartitionSpec()
  assert place("w", (8,), mesh) == PartitionSpec()
  assert place("w", (8, 8), train.make_mesh(1)) == PartitionSpec()
  along_model = train.fsdp(min_size=16, axis="model")
  assert along_model("w", (12, 8), train.make_mesh(8, model=2)) == PartitionSpec("model", None)


def test_by_path_takes_the_first_rule_that_finds_the_path():
  mesh = train.make_mesh(4, model=2)
  rules = [("query/kernel$", (None, "model")), ("kernel$", ("data", None))]
  place = train.by_path(rules=rules, otherwise=train.fsdp(min_size=4))
  assert place("model/query/kernel", (6, 4), mesh) == PartitionSpec(None, "model")
  assert place("model/mlp/kernel", (6, 4), mesh) == PartitionSpec("data", None)
  assert place("model/mlp/bias", (4,), mesh) == PartitionSpec("data")
  assert train.by_path(rules=rules)("model/mlp/bias", (4,), mesh) == PartitionSpec()


@pytest.mark.parametrize(
  ("make", "said"),
  [
    (lambda: train.fsdp(axis="rows"), "names the axis 'rows'; the mesh has 'data' and 'model'"),
    (lambda: train.by_path(rules=[("w", ("rows",))]), "rule 'w' names the axis 'rows'"),
    (
      lambda: train.by_path(rules=[("w", ("model",))])("w", (4, 4), train.make_mesh(2)),
      r"has 1 axes; w has the shape \[4, 4\]",
    ),
    (
      lambda: train.by_path(rules=[("w", ("data",))])("w", (5,), train.make_mesh(2)),
      r"splits w \[5\] over 2 devices of the data axis, which do not divide 5",
    ),
    (lambda: train.by_path(rules=[("w(", ())]), r"rule 'w\(' is not a regular expression"),
    (lambda: train.by_path(rules=[("w", ("data", "data"))]), "rule 'w' has an axis twice"),
    (lambda: train.make_mesh(9), "num_devices is 9; this run sees 8 cpu devices"),
    (lambda: train.make_mesh(4, model=3), "model_devices is 3, which does not divide the 4 devices"),
    (lambda: train.per_device(inner=optim.looksam(rho=0.1)), "takes a stateless inner rule"),
  ],
)
def test_what_does_not_fit_is_refused(make, said):
  with pytest.raises(ConfigError, match=said):
    make()


def test_an_unknown_rule_for_a_model_is_refused_before_anything_runs(tiny, runtime):
  experiment = tiny(sharding=dict(make=".train.by_path", rules=[["kernel$", [None, "model"]]]))
  with pytest.raises(ConfigError, match=r"rule 'kernel\$' splits .*head/kernel \[16, 3\] over 2 dev"):
    train.run(experiment, seed=0, runtime=mesh_runtime(runtime, 4, 2))


def smooth_problem(seed: int = 0):
  """A network without batch statistics, so that parts of a batch do not know of each other."""
  rng = np.random.default_rng(seed)
  params = {
    "a_kernel": jnp.asarray(rng.normal(size=(5, 7)), jnp.float32),
    "b_kernel": jnp.asarray(rng.normal(size=7), jnp.float32),
  }
  batch = {
    "image": jnp.asarray(rng.normal(size=(16, 5)), jnp.float32),
    "label": jnp.asarray(rng.normal(size=16), jnp.float32),
  }

  def loss(params, batch_stats, batch, key):
    hidden = jnp.tanh(jnp.matmul(batch["image"], params["a_kernel"], precision="highest"))
    out = jnp.matmul(hidden, params["b_kernel"], precision="highest")
    loss = jnp.mean((out - batch["label"]) ** 2)
    return loss, Aux(batch_stats, {"loss_of_part": loss})

  return loss, params, batch


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
@pytest.mark.parametrize("rule", [optim.sam, optim.asam])
def test_sam_of_every_device_is_m_sharpness(devices, rule):
  loss, params, batch = smooth_problem()
  mesh = train.make_mesh(devices)
  own = jax.jit(train.per_device(inner=rule(rho=0.2), mesh=mesh)(loss))
  (_, _), found = own(params, {}, sharding.put_batch(batch, mesh), jax.random.key(0))
  (_, _), expected = rule(rho=0.2, groups=devices)(loss)(params, {}, batch, jax.random.key(0))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), found, expected)
  (_, _), whole = rule(rho=0.2)(loss)(params, {}, batch, jax.random.key(0))
  if devices > 1:  # with more than one part it is another gradient
    assert max(np.abs(a - b).max() for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(whole))) > 1e-3


def test_per_device_weighs_devices_by_their_images():
  loss, params, batch = smooth_problem()
  mesh = train.make_mesh(4)
  mask = np.arange(16) < 6

  def masked(params, batch_stats, batch, key):
    rows = {name: batch[name] for name in ("image", "label")}
    each = jax.vmap(lambda one: loss(params, {}, jax.tree.map(lambda x: x[None], one), key)[0])(rows)
    value = jnp.sum(each * batch["mask"]) / jnp.maximum(jnp.sum(batch["mask"]), 1)
    return value, Aux(batch_stats, {"loss_of_part": value})

  batch = batch | {"mask": mask}
  rule = train.per_device(mesh=mesh)(masked)
  (value, _), grads = jax.jit(rule)(params, {}, sharding.put_batch(batch, mesh), jax.random.key(0))
  (expected, _), expected_grads = optim.plain()(masked)(params, {}, batch, jax.random.key(0))
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), grads, expected_grads)


def test_batch_statistics_of_every_device_are_its_own(one_step, begin):
  """Per device, a batch is normalised in parts of 2: the same as accumulation over 8 parts, on one device."""
  found = one_step(8, gradient=dict(make=".train.per_device"))
  parts = one_step(1, gradient=dict(make=".optim.accumulate", steps=8))
  assert_same_step(found, parts, begin[0])
  whole = one_step(8)
  assert tree.norm(tree.add(found.params, tree.scale(-1.0, whole.params))) > 1e-3


def test_a_per_device_rule_takes_parameters_that_are_in_parts():
  """XLA gathers what every device needs whole."""
  loss, params, batch = smooth_problem()
  mesh = train.make_mesh(8)
  placed = sharding.put(params, train.fsdp(min_size=4), mesh)
  rule = jax.jit(train.per_device(inner=optim.sam(rho=0.2), mesh=mesh)(loss))
  (_, _), found = rule(placed, {}, sharding.put_batch(batch, mesh), jax.random.key(0))
  (_, _), expected = optim.sam(rho=0.2, groups=8)(loss)(params, {}, batch, jax.random.key(0))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), found, expected)


@pytest.mark.parametrize("sizes", [(1, 4), (4, 1), (2, 8)])
def test_a_run_goes_on_with_other_devices_and_another_placement(tiny, runtime, tmp_path, sizes):
  """On another topology the data are the same and the parameters equal to the order of sums."""
  epochs = dict(epochs=6 * ONE_STEP, evaluation={})
  whole = train.run(tiny(**epochs), seed=0, runtime=runtime(1), workdir=tmp_path / "whole").weights
  folder = tmp_path / "cut"
  cut = tiny(**epochs, checkpoint_every=3)

  def stop(_):
    def observe(state):
      raise KeyboardInterrupt

    return observe

  with pytest.raises(KeyboardInterrupt):
    train.run(cut, seed=0, runtime=runtime(sizes[0]), workdir=folder, observers={"stop": (4, stop)})
  assert checkpoint.find(folder).name == "3"
  moved = tiny(**epochs, checkpoint_every=3, sharding=PLACEMENTS["fsdp"])
  found = train.run(moved, seed=0, runtime=runtime(sizes[1]), workdir=folder).weights
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), found.params, whole.params
  )


def test_the_mesh_is_offered_to_a_rule_that_leaves_it_open():
  rule = Spec(".train.per_device", "make", {}, train.per_device)
  assert rule.realize(mesh=train.make_mesh(2))._mesh.size == 2


@pytest.mark.parametrize(("devices", "model"), [(1, 1), (8, 1), (8, 2)])
def test_own_rows_are_the_rows_that_were_put(devices, model):
  mesh = train.make_mesh(devices, model=model)
  rows = np.arange(48.0).reshape(16, 3)
  np.testing.assert_array_equal(sharding.own_rows(sharding.put_batch({"x": rows}, mesh)["x"]), rows)
  one = sharding.put_replicated(rows, mesh)
  np.testing.assert_array_equal(sharding.own_rows(one), rows)


def test_fewer_rows_than_devices_are_refused_in_one_line():
  with pytest.raises(
    ConfigError, match="rows of a batch is 4, which 8 devices do not divide; write 8"
  ) as error:
    sharding.put_batch({"x": np.zeros((4, 2), np.float32)}, train.make_mesh(8))
  assert "\n" not in str(error.value)
