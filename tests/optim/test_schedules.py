import math

import jax
import numpy as np
import pytest

from jaxtl import optim
from jaxtl.errors import ConfigError


def rates(schedule, steps):
  return np.asarray(jax.vmap(schedule)(np.arange(steps)))


def test_cosine_warms_up_to_its_peak_and_ends_above_zero():
  found = rates(optim.cosine(total_steps=2000, peak_rate=1e-5, warmup_steps=200), 2000)
  assert found[0] == pytest.approx(1e-5 / 200)
  assert found[199] == pytest.approx(1e-5)
  assert found.argmax() in (199, 200)
  assert found[-1] > 0
  assert found[1100] == pytest.approx(0.5e-5, rel=1e-3)


def test_cosine_ends_at_its_final_rate():
  schedule = optim.cosine(total_steps=10, peak_rate=1.0, final_rate=0.25)
  assert float(schedule(10)) == pytest.approx(0.25)
  assert float(schedule(50)) == pytest.approx(0.25)


def test_linear_is_a_line_between_its_ends():
  found = rates(optim.linear(total_steps=11, peak_rate=2.0, final_rate=1.0, warmup_steps=1), 12)
  np.testing.assert_allclose(found[1:], np.linspace(2.0, 1.0, 11), rtol=1e-6)


def test_multi_step_drops_at_its_boundaries():
  schedule = optim.multi_step(total_steps=200, boundaries=(0.5, 0.75, 0.9), factor=0.2, peak_rate=1e-3)
  found = rates(schedule, 200)
  for step, drops in ((99, 0), (100, 1), (149, 1), (150, 2), (179, 2), (180, 3)):
    assert found[step] == pytest.approx(1e-3 * 0.2**drops, rel=1e-5)


def test_warm_up_in_epochs_is_that_many_steps():
  by_epoch = optim.constant(peak_rate=0.3, warmup_epochs=0.5, steps_per_epoch=10)
  np.testing.assert_allclose(rates(by_epoch, 20), rates(optim.constant(peak_rate=0.3, warmup_steps=5), 20))
  assert rates(by_epoch, 20)[4] == pytest.approx(0.3)


@pytest.mark.parametrize(("examples", "batch", "steps"), [(199, 100, 10), (1000, 128, 39), (50, 100, 2)])
def test_epochs_need_not_be_whole_numbers_of_steps(examples, batch, steps):
  """A warm-up of 5 epochs is round(5 N / B) steps; whole steps times 5 would be 5, 35 and 5."""
  for make in (optim.constant, optim.cosine, optim.linear):
    schedule = make(total_steps=100, warmup_epochs=5.0, steps_per_epoch=examples / batch)
    rising = np.diff(rates(schedule, 100)) > 0
    assert np.flatnonzero(rising).tolist() == list(range(steps - 1))


@pytest.mark.parametrize("epochs", [0.001, 1 / 3, 1.0, 2.5, 90.0])
@pytest.mark.parametrize("examples", [1, 199, 1000, 1_281_167])
def test_spans_in_epochs_are_the_nearest_number_of_steps_and_at_least_one(epochs, examples):
  found = optim.steps_of(epochs, steps_per_epoch=examples / 128)
  assert found >= 1
  assert found == 1 or abs(found - epochs * examples / 128) <= 0.5
  assert optim.steps_of(0.0, steps_per_epoch=examples / 128) == 0


def test_a_warm_up_may_be_the_whole_run_and_no_longer():
  for make in (optim.constant, optim.cosine, optim.linear):
    assert rates(make(total_steps=4, warmup_steps=4), 4).tolist() == [0.25, 0.5, 0.75, 1.0]
    with pytest.raises(ConfigError, match="warmup_steps is 5, but the whole run has 4; shorten the warm-up"):
      make(total_steps=4, warmup_steps=5)
    with pytest.raises(ConfigError, match="warmup_epochs=2 is 6 steps, but the whole run has 4"):
      make(total_steps=4, warmup_epochs=2.0, steps_per_epoch=3.0)
  with pytest.raises(ConfigError, match="warmup_steps is 5, but the whole run has 4"):
    optim.multi_step(total_steps=4, boundaries=(0.5,), warmup_steps=5)


@pytest.mark.parametrize(
  ("keywords", "message"),
  [
    (dict(warmup_steps=-1), "expected a warm-up of 0 or more"),
    (dict(warmup_steps=3, warmup_epochs=1.0), "give one of them"),
    (dict(warmup_epochs=1.0), "steps_per_epoch is not known"),
  ],
)
def test_ambiguous_spans_are_refused(keywords, message):
  with pytest.raises(ConfigError, match=message):
    optim.constant(**keywords)


@pytest.mark.parametrize("boundaries", [(0.5, 0.2), (0.0,), (1.5,)])
def test_boundaries_outside_the_run_are_refused(boundaries):
  with pytest.raises(ConfigError, match="ascending shares"):
    optim.multi_step(total_steps=10, boundaries=boundaries)


@pytest.mark.parametrize("epochs", [-1.0, -1e-9, math.nan, math.inf])
def test_a_span_that_is_no_number_of_epochs_is_refused(epochs):
  with pytest.raises(ConfigError, match="expected a span of 0 epochs or more, got "):
    optim.steps_of(epochs, steps_per_epoch=3.5)
  with pytest.raises(ConfigError, match="expected a warm-up of 0 or more, got "):
    optim.schedules.cosine(total_steps=10, warmup_epochs=epochs, steps_per_epoch=3.5)
