"""What may be kept, where it fits, and which hidden state comes when."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl import data, train
from jaxtl.errors import ConfigError, StorageError
from jaxtl.tasks.classify import image_and_label
from jaxtl.train import PrefixCache, device_memory, feed, prefix_cache
from jaxtl.train.experiment import compile_program
from jaxtl.train.prefix_cache import HiddenStateStore
from jaxtl.train.step import init_model, init_state

pytestmark = pytest.mark.slow

FIXED = (dict(fn=".data.normalize"),)
DRAWN = (dict(fn=".data.flip_left_right"), *FIXED)


@pytest.fixture
def begun(tiny, runtime):
  """changes of the experiment -> (experiment, program, state, runtime)."""

  def make(transforms=FIXED, batch_transforms=(), update="stage3_block1", devices=1, **changes):
    source = dict(make="tests.small_training.squares", num_examples=40)
    shown = dict(source=source, transforms=transforms, batch_transforms=batch_transforms, batch_size=16)
    experiment = tiny(data=shown, gradient=dict(make=".optim.pol", update=update), **changes)
    place = runtime(devices)
    program = compile_program(experiment, num_classes=3, num_examples=40, mesh=place.mesh)
    params, stats = init_model(program.model, jax.random.key(0), (8, 8, 3))
    return experiment, program, init_state(params, stats, program.tx, gradient=program.gradient), place

  return make


def keep(begun, **cache):
  experiment, program, state, place = begun
  planned = prefix_cache.plan(PrefixCache(**cache), program, state, experiment.data, place)
  return prefix_cache.keep(planned, program, state, experiment.data, place, seed=7)


def plan(begun, *, saved=None, **cache):
  experiment, program, state, place = begun
  return prefix_cache.plan(PrefixCache(**cache), program, state, experiment.data, place, begun=saved)


def check_room(begun, **cache):
  experiment, program, state, place = begun
  prefix_cache.check_room(PrefixCache(**cache), program, state, experiment.data, place)


def first(stream, count):
  return [{name: np.asarray(x) for name, x in next(stream).items()} for _ in range(count)]


def hidden_of(begun, images):
  _, program, state, _ = begun
  return np.asarray(program.model.prefix(state.params, state.batch_stats, images, stop="stage3_block1"))


@pytest.mark.parametrize("where", ["device", "host", "memmap"])
def test_the_streams_are_those_of_the_images_in_hidden_states(begun, where):
  made = begun()
  kept = keep(made, where=where)
  streams = {"train_batches": (data.train_batches, 16), "resampled_batches": (data.resampled_batches, 24)}
  source, transforms = made[3].open(made[0].data), [spec.realize() for spec in made[0].data.transforms]
  for name, (images_of, size) in streams.items():
    found = first(getattr(kept, name)(batch_size=size, seed=3, start_step=2), 4)
    expected = first(images_of(source, transforms, batch_size=size, seed=3, start_step=2), 4)
    for ours, theirs in zip(found, expected, strict=True):
      assert ours.keys() == {"hidden", "label", "mask"}
      np.testing.assert_allclose(ours["hidden"], hidden_of(made, theirs["image"]), rtol=1e-5, atol=1e-6)
      np.testing.assert_array_equal(ours["label"], theirs["label"])
      assert ours["mask"].all()


def test_each_epoch_shows_another_of_the_views(begun):
  made = begun(DRAWN)
  kept = keep(made, where="host", views=2)
  # An epoch has 40 images, 5 batches of 8.
  epochs = [first(kept.train_batches(batch_size=8, seed=0, start_step=5 * n), 5) for n in range(4)]
  rows = [
    np.concatenate([batch["hidden"] for batch in epoch]).reshape(40, -1).sum(axis=1) for epoch in epochs
  ]
  labels = [np.concatenate([batch["label"] for batch in epoch]) for epoch in epochs]
  order = [data.train_order(40, batch_size=40, seed=0, step=n)[1] for n in range(4)]
  by_image = [row[np.argsort(one)] for row, one in zip(rows, order)]
  np.testing.assert_array_equal(by_image[0], by_image[2])
  np.testing.assert_array_equal(by_image[1], by_image[3])
  assert (by_image[0] != by_image[1]).sum() > 10  # a flip of both views, or of none, is no difference
  assert all((label == one % 3).all() for label, one in zip(labels, order))
  drawn = first(kept.resampled_batches(batch_size=64, seed=0, start_step=0), 4)
  seen = np.concatenate([batch["hidden"] for batch in drawn]).reshape(256, -1).sum(axis=1)
  assert len(set(seen)) > 50  # of 80 views, some of them alike
  other = prefix_cache.keep(PrefixCache("host", views=2), *made[1:3], made[0].data, made[3], seed=8)
  changed = first(other.train_batches(batch_size=8, seed=0, start_step=0), 1)[0]["hidden"]
  assert not np.array_equal(changed, epochs[0][0]["hidden"])  # views are the seed's


def test_the_type_is_that_of_the_network_and_what_is_kept_is_half_as_large(begun):
  made = begun()
  whole, half = (keep(made, where="host", dtype=dtype) for dtype in ("float32", "bfloat16"))
  assert half.num_bytes * 2 == whole.num_bytes == 48 * 4 * 4 * 8 * 4  # 40 images, in whole batches of 16
  a, b = (
    first(kept.train_batches(batch_size=8, seed=0, start_step=0), 1)[0]["hidden"] for kept in (whole, half)
  )
  assert a.dtype == b.dtype == jnp.float32
  np.testing.assert_array_equal(a.astype(jnp.bfloat16).astype(np.float32), b)
  assert str(whole) == "40 hidden states, 24.6 kB"


def test_an_unreadable_image_counts_for_nothing(begun):
  kept = HiddenStateStore(PrefixCache("host"), 3, 2, (2,), jnp.float32, train.make_mesh(1))
  kept.make_room()
  for number, mask in enumerate(([True, False], [True, False])):
    batch = {"label": jnp.array([number, 2]), "mask": jnp.array(mask)}
    kept.write(0, number, jnp.full((2, 2), number, jnp.float32), batch)
  (batch,) = first(kept.train_batches(batch_size=3, seed=0, start_step=0), 1)
  order = data.train_order(3, batch_size=3, seed=0, step=0)[1]
  np.testing.assert_array_equal(batch["mask"], order != 1)
  np.testing.assert_array_equal(batch["hidden"][:, 0], order // 2)


@pytest.mark.parametrize(
  ("changes", "cache", "message"),
  [
    (dict(transforms=DRAWN), {}, r"\.data\.flip_left_right draws at random; leave it out, or .* views=4"),
    (dict(), dict(views=2), "views is 2, and no transform draws at random"),
    (dict(update="stem"), {}, "nothing lies below 'stem'"),
    (
      dict(batch_transforms=(dict(fn=".data.mixup"),)),
      {},
      r"\.data\.mixup mixes images, which is not mixing hidden states",
    ),
  ],
)
def test_what_is_not_a_fixed_function_of_the_image_is_not_kept(begun, changes, cache, message):
  made = begun(**changes)
  with pytest.raises(ConfigError, match=f"no hidden states can be kept: {message}.*write where='none'"):
    keep(made, where="host", **cache)
  assert plan(made, where="auto", **cache) is None
  assert plan(made, where="none", **cache) is None


def test_auto_keeps_on_the_host_what_is_legal_and_fits_with_room_to_spare(begun, monkeypatch):
  made = begun()
  assert plan(made).where == "host"
  told = []
  monkeypatch.setattr(made[3].progress, "note", told.append)
  for free, where in ((50000.0, "host"), (49000.0, "none"), (None, "host")):  # 24.6 kB are kept
    monkeypatch.setattr(prefix_cache, "free_memory", lambda free=free: free)
    found = plan(made)
    assert (found.where if found else "none") == where
  assert told == [
    "no hidden states are kept: 40 hidden states, 24.6 kB do not fit into the host's memory, of which 49 kB "
    "are free, and 50% of these may be taken"
  ]
  monkeypatch.setattr(prefix_cache, "free_memory", lambda: 30000.0)
  assert plan(made, where="host").where == "host"  # who asks for it gets nine tenths


def test_auto_is_what_it_was_when_the_run_began(begun, monkeypatch):
  made = begun()
  assert plan(made, saved={}) is None
  monkeypatch.setattr(prefix_cache, "free_memory", lambda: 100.0)
  assert plan(made) is None
  assert plan(made, saved={"prefix_cache": {"views": 1}}).where == "host"


def test_a_number_of_views_beyond_all_memory_is_one_line(begun):
  with pytest.raises(ConfigError, match=r"hidden states, .* do not fit into the host's memory"):
    check_room(begun(DRAWN), where="host", views=10**9)


def test_room_is_asked_for_where_there_is_something_to_keep(begun, monkeypatch):
  made = begun()
  monkeypatch.setattr(prefix_cache, "free_memory", lambda: 100.0)
  assert plan(made, where="host").where == "host"
  with pytest.raises(ConfigError, match="do not fit"):
    check_room(made, where="host")
  with pytest.raises(ConfigError, match="do not fit"):
    keep(made, where="host")


def test_a_step_from_hidden_states_has_no_images(begun):
  _, program, state, place = begun()
  hidden = prefix_cache.entering(program, state, (8, 8, 3))
  assert (hidden.shape, hidden.dtype) == ((1, 4, 4, 8), jnp.float32)
  shown = feed.shapes(program.gradient, image_and_label(8), batch_size=4, hidden=hidden)
  assert {name: x.shape for name, x in shown.items() if name != "weak"} == {
    **{"hidden": (4, 4, 4, 8), "label": (4,), "mask": (4,)},
  }
  state = jax.eval_shape(lambda: state)
  images, states = (
    device_memory.predict(
      program, state, batch_size=16, image_size=8, mesh=place.mesh, compiled=True, hidden=entering
    )
    for entering in (None, hidden)
  )
  assert states.batch == 2 * 16 * (4 * 4 * 8 * 4 + 4 + 1)
  assert states.scratch < images.scratch


def test_a_rule_that_moves_everything_has_nothing_to_keep(begun, tiny, runtime):
  experiment = tiny()
  program = compile_program(experiment, num_classes=3, num_examples=96, mesh=runtime().mesh)
  state = begun()[2]
  place = runtime()
  made = experiment, program, state, place
  assert plan(made) is None
  with pytest.raises(ConfigError, match="the gradient rule moves the whole network"):
    plan(made, where="host")


def test_what_does_not_fit_is_refused_with_its_size(begun, monkeypatch, small_disk):
  made = begun()
  monkeypatch.setattr(prefix_cache, "free_memory", lambda: 20000.0)
  for where in ("host", "device"):
    with pytest.raises(
      ConfigError, match=rf"40 hidden states, 24\.6 kB do not fit into the {where}'s memory, .* 20"
    ):
      keep(made, where=where)
  keep(made, where="host", dtype="bfloat16")
  large = dataclasses.replace(PrefixCache("memmap"), folder=small_disk / "cache")
  kept = HiddenStateStore(large, 100_000, 16, (8,), jnp.float32, made[3].mesh)
  with pytest.raises(
    StorageError, match=r"3\.2 MB of hidden states do not fit into .*disk.*, where .* are free"
  ):
    kept.make_room()
  assert not list(small_disk.iterdir())


def test_the_file_has_no_name_and_lies_where_it_should(begun, tmp_path):
  kept = keep(begun(), where="memmap", folder=tmp_path / "new")
  assert list((tmp_path / "new").iterdir()) == []
  assert len(first(kept.train_batches(batch_size=8, seed=0, start_step=0), 2)) == 2


def test_the_machine_tells_its_free_memory():
  free = prefix_cache.free_memory()
  assert free is None or 1e6 < free < 1e15


@pytest.mark.parametrize(
  ("keywords", "message"),
  [
    (dict(where="disk"), "where is 'disk'; expected one of auto, none, device, host, memmap"),
    (dict(views=0), "views is 0"),
    (dict(dtype="float16"), "dtype is 'float16'"),
  ],
)
def test_settings_are_checked(keywords, message):
  with pytest.raises(ConfigError, match=message):
    PrefixCache(**keywords)
