"""A trained tree of weights as an object of study."""

from jaxtl.weights.surgery import POSITIONS, match, resize_positions

__all__ = ["POSITIONS", "match", "resize_positions"]
