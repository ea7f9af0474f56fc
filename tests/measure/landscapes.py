"""A trained network on its images."""

from jaxtl import losses
from jaxtl.measure.landscape import Landscape
from jaxtl.tasks import LogitsLoss


def scene_of(trained, runtime, settings, loss=losses.softmax_cross_entropy):
  weights = trained.weights
  return Landscape.of(
    trained.program.model,
    weights.params,
    weights.batch_stats,
    LogitsLoss(loss),
    settings.data,
    runtime,
    num_examples=settings.num_examples,
    seed=settings.seed,
  )
