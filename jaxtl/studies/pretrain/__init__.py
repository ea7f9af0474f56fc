"""Pre-training with several losses, and the transfer of the resulting weights."""

from jaxtl.studies.pretrain.settings import Pretrain, Tune
from jaxtl.studies.pretrain.study import rows

__all__ = ["Pretrain", "Tune", "rows"]
