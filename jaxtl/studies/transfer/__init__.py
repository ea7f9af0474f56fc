"""Transfer of a checkpoint to several data sets: linear probe and fine-tuning."""

from jaxtl.studies.transfer.settings import FineTune, Protocols, Target, Transfer
from jaxtl.studies.transfer.study import rows

__all__ = ["FineTune", "Protocols", "Target", "Transfer", "rows"]
