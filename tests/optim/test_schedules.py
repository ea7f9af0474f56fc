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


@pytest.mark.parametrize(
  ("keywords", "message"),
  [
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
