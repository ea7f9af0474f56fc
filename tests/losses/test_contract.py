"""Every public loss keeps the contract. Losses are found by their signature: a new one is tested at once."""

import functools
import inspect

import pytest

from jaxtl import losses
from jaxtl.errors import DataError
from jaxtl.testing import check_loss

REQUIRED = {"margin": 7.0}  # a value for each hyperparameter that has no default
KINKED = {"multiclass_hinge", "squared_hinge"}  # their second derivative does not exist everywhere
SHIFT_INVARIANT = {
  "grouped_cross_entropy",
  "cosine_softmax",
  "multiclass_hinge",
  "multiclass_smoothed_hinge",
  "poly1",
  "softmax_cross_entropy",
}


def _classification_losses():
  for name in losses.__all__:
    parameters = inspect.signature(getattr(losses, name)).parameters.values()
    if [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD] == ["logits", "labels"]:
      required = {
        p.name: REQUIRED[p.name] for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty
      }
      yield pytest.param(functools.partial(getattr(losses, name), **required), name, id=name)


LOSSES = list(_classification_losses())


def test_the_battery_finds_the_public_losses():
  found = {parameter.id for parameter in LOSSES}
  assert SHIFT_INVARIANT | KINKED | {"focal", "logit_norm", "logit_penalty"} <= found <= set(losses.__all__)


@pytest.mark.parametrize(("loss", "name"), LOSSES)
def test_a_loss_keeps_the_contract(loss, name):
  check_loss(
    loss,
    scales=(1e-20, 1e-3, 1.0, 1e3, 1e18),
    gradient_up_to=1e38 if name != "squared_hinge" else 1e37,  # its slope is 2 s for each class
    shift_invariant=name in SHIFT_INVARIANT,
    derivatives=1 if name in KINKED else 2,
    refuses=DataError,
  )
