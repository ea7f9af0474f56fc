"""Layer diagnosis, PoF and PoL: which layer over-fits, and what repairing it is worth."""

from jaxtl.studies.layers.settings import Layers, Method
from jaxtl.studies.layers.study import rows

__all__ = ["Layers", "Method", "rows"]
