"""A trained tree of weights as an object of study."""

from jaxtl.weights.surgery import match

__all__ = ["match"]
