"""What is compiled lives as long as arms that follow each other ask for it."""

import jax
import jax.numpy as jnp
import pytest

from jaxtl.studies import study
from jaxtl.train import compiled, experiment
from tests.train.conftest import tiny_config


@pytest.fixture
def made():
  """A function whose results are kept, and the arguments that it was really called with."""
  calls = []

  @compiled.kept
  def make(*arguments):
    calls.append(arguments)
    return object()

  return make, calls


def test_what_the_last_arm_asked_for_is_shared_and_what_it_did_not_is_dropped(made):
  make, calls = made
  first = make("a")
  make("b")
  compiled.next_arm()
  assert make("a") is first
  compiled.next_arm()  # the arm that has ended did not ask for b
  assert make("a") is first
  assert calls == [("a",), ("b",)]
  make("b")
  assert calls == [("a",), ("b",), ("b",)]


def test_an_arm_that_asks_again_and_again_shares(made):
  make, calls = made
  assert len({make("a", 1) for _ in range(5)}) == 1
  assert make("a", 2) is not make("a", 1)
  assert len(calls) == 2


def test_the_maps_of_a_program_are_given_back():
  if not compiled.num_maps():
    pytest.skip("only Linux tells how many memory maps there are")

  @compiled.kept
  def program(number):
    return jax.jit(lambda x: [jnp.tanh(x @ x * (number + i)) for i in range(20)])

  x, maps = jnp.ones((7, 7)), []
  for number in range(12):
    jax.block_until_ready(program(number)(x))
    compiled.next_arm()
    maps.append(compiled.num_maps())
  assert max(maps[2:]) - min(maps[2:]) < 60  # 12 such programs have more than 200


def test_beyond_a_bound_everything_that_is_compiled_is_dropped(monkeypatch):
  if not compiled.num_maps():
    pytest.skip("only Linux tells how many memory maps there are")
  cleared = []
  monkeypatch.setattr(jax, "clear_caches", lambda: cleared.append(1))
  compiled.next_arm()
  assert bool(cleared) == (compiled.num_maps() > compiled.MOST_MAPS)
  cleared.clear()
  monkeypatch.setattr(compiled, "MOST_MAPS", 1)
  compiled.next_arm()
  assert cleared


def config(arms, seeds):
  base = tiny_config(epochs=None, steps=1, evaluation={})
  base["model"] = dict(make=".models.resnet8", width=2)
  return dict(study=".studies.pretrain.rows", seeds=seeds, base=base, arms=arms)


def test_a_study_of_many_arms_is_flat_in_memory_maps(runtime, tmp_path, monkeypatch):
  """Each arm has its own program, of some 390 maps: from the second arm on there are those of two."""
  if not compiled.num_maps():
    pytest.skip("only Linux tells how many memory maps there are")
  arms = {f"a{i}": dict(optimizer=dict(peak_rate=0.1 + i / 100)) for i in range(5)}
  here, maps = runtime(), []
  here.progress.note = lambda text: maps.append(compiled.num_maps())
  study.run_study(config(arms, [0]), workdir=tmp_path, runtime=here)
  assert len(maps) == len(arms)
  one = maps[1] - maps[0]
  assert one > 200
  assert max(maps[2:]) - maps[1] < one / 4


def test_seeds_and_equal_arms_that_follow_each_other_share_their_programs(runtime, tmp_path, monkeypatch):
  original, programs = experiment._compile, []

  def counting(*arguments):
    programs.append(1)
    return original(*arguments)

  monkeypatch.setattr(experiment, "_compile", counting)
  arms = dict(a={}, equal=dict(log_every=7), other=dict(optimizer=dict(peak_rate=0.2)))
  rows = study.run_study(config(arms, [0, 1]), workdir=tmp_path, runtime=runtime())
  assert [(row["arm"], row["seed"]) for row in rows] == [(arm, seed) for arm in arms for seed in (0, 1)]
  assert len(programs) == 4  # two for six cells, and as many before that, for the rehearsal of all arms
