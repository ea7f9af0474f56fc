"""What is compiled lives as long as arms that follow each other ask for it."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from jaxtl.runner import run as study
from jaxtl.train import compiled
from jaxtl.train.experiment import compile_program

pytestmark = pytest.mark.slow


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


@dataclasses.dataclass(frozen=True)
class Numbered:
  """A study whose arms each have a program of their own, by its number."""

  number: int = 0


@compiled.kept
def program_of(number):
  made_for.append(number)
  return jax.jit(lambda x: [jnp.tanh(x @ x * (number + i)) for i in range(20)])


made_for: list[int] = []


def rows(study: Numbered, *, seed, workdir, runtime):
  jax.block_until_ready(program_of(study.number)(jnp.ones((7, 7))))
  yield {"maps": compiled.num_maps()}


def run(numbers, seeds, runtime, folder):
  arms = {f"a{i}": dict(number=number) for i, number in enumerate(numbers)}
  config = dict(study="tests.train.test_compiled.rows", base={}, arms=arms, seeds=seeds)
  return study.run_study(config, workdir=folder, runtime=runtime())


def test_a_study_of_many_arms_is_flat_in_memory_maps(runtime, tmp_path):
  if not compiled.num_maps():
    pytest.skip("only Linux tells how many memory maps there are")
  maps = [row["maps"] for row in run(range(100, 114), [0], runtime, tmp_path)]
  assert max(maps[2:]) - min(maps[2:]) < 60  # 12 more such programs have more than 200


def test_seeds_and_equal_arms_that_follow_each_other_share_their_programs(runtime, tmp_path):
  made_for.clear()
  found = run([1, 1, 2, 3, 1], [0, 1], runtime, tmp_path)
  assert [(row["arm"], row["seed"]) for row in found] == [
    (f"a{i}", seed) for i in range(5) for seed in (0, 1)
  ]
  assert made_for == [1, 2, 3, 1]  # two arms lie between the last one and those that it is equal to


def test_the_program_of_an_experiment_is_one_for_arms_that_follow_each_other(tiny, runtime):
  def program(rate):
    experiment = tiny(optimizer=dict(make=".optim.sgd", peak_rate=rate))
    return compile_program(experiment, num_classes=3, num_examples=96, mesh=runtime().mesh)

  first = program(0.1)
  compiled.next_arm()
  assert program(0.1) is first
  program(0.2)
  compiled.next_arm()
  program(0.2)
  compiled.next_arm()
  assert program(0.1) is not first
