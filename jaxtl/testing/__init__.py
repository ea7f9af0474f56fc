"""The contracts of the library as functions, for tests of your own losses, rules, models and transforms.

Each check returns nothing if the contract holds. Otherwise it raises an AssertionError of one line: the
function under test, the property, the input, the numbers, and the keyword that switches the property off.

They need the extra `testing`: chex runs a loss in its variants and takes numerical gradients, and hypothesis
draws the logits at which a loss is compared with a float64 reference.
"""

from jaxtl.testing.gradient_rules import check_gradient_rule
from jaxtl.testing.losses import check_loss
from jaxtl.testing.models import check_model
from jaxtl.testing.transforms import check_transform

__all__ = ["check_gradient_rule", "check_loss", "check_model", "check_transform"]
