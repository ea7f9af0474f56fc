"""The flatness of trained networks: curvature, sharpness and loss landscapes."""

from jaxtl.studies.flatness.settings import FlatnessStudy
from jaxtl.studies.flatness.study import rows

__all__ = ["FlatnessStudy", "rows"]
