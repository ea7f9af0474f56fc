import io

import numpy as np
import pytest

from jaxtl.errors import Restart
from jaxtl.host.progress import Progress
from jaxtl.measure.passes import PassCounter

BATCHES = [{"mask": np.zeros(8, bool)}, {"mask": np.ones(8, bool)}]


class Told(Progress):
  """Keeps what it is told."""

  def __init__(self):
    super().__init__(stream=io.StringIO())
    self.lines, self.done, self.skipped = [], [], []

  def advance(self, work, text, *, images_per_second, waiting=None):
    self.done.append(work)
    self.lines.append(text)

  def skip(self, work):
    self.skipped.append(work)


class Stop:
  """Says stop at the n-th question."""

  def __init__(self, number):
    self.left = number

  def due(self, step):
    self.left -= 1
    return self.left <= 0


@pytest.fixture
def place(runtime):
  made = runtime()
  made.progress = Told()
  return made


def test_every_batch_is_told_and_what_was_not_needed_is_taken_off(place):
  meter = PassCounter(place)
  with meter.part("spectrum", work=100.0):
    for _ in range(2):
      assert list(meter.watch(BATCHES, cost=3.0)) == BATCHES
  assert place.progress.done == [24.0] * 4
  assert place.progress.lines == [f"spectrum, pass {number}" for number in (1, 1, 2, 2)]
  assert place.progress.skipped == [100.0 - 96.0]


def test_a_part_begins_anew_and_says_what_it_passes_over(place):
  meter = PassCounter(place)
  for name in ("a", "b"):
    with meter.part(name, work=0.0):
      list(meter.watch(BATCHES[:1], cost=1.0, what="old, test"))
  assert place.progress.lines == ["a, old, test, pass 1", "b, old, test, pass 1"]
  assert place.progress.skipped == [-8.0, -8.0]


def test_the_place_is_told_and_ends_with_the_part(place):
  meter = PassCounter(place)
  with meter.part("a", work=0.0):
    meter.place = "α 0.500"
    list(meter.watch(BATCHES[:1], cost=1.0))
  with meter.part("b", work=0.0):
    list(meter.watch(BATCHES[:1], cost=1.0))
  assert place.progress.lines == ["a, α 0.500, pass 1", "b, pass 1"]


def test_outside_of_a_part_nothing_is_told_and_nothing_stops(place):
  place.interruption = Stop(0)
  assert list(PassCounter(place).watch(BATCHES, cost=1.0)) == BATCHES
  assert place.progress.done == []


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_stop_is_asked_for_after_each_batch(place, number):
  place.interruption = Stop(number)
  meter, seen = PassCounter(place), []

  def sweep():
    with meter.part("sweep", work=50.0):
      for _ in range(2):
        for batch in meter.watch(BATCHES, cost=1.0):
          seen.append(batch)

  with pytest.raises(Restart, match="stopped during sweep"):
    sweep()
  assert len(seen) == number
  assert place.progress.skipped == []
  place.interruption = Stop(1)
  assert list(meter.watch(BATCHES, cost=1.0)) == BATCHES  # the part is over
