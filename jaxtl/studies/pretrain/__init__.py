"""Pre-training with several losses, and what each weight is worth for transfer."""

from jaxtl.studies.pretrain.settings import Pretrain, Tune
from jaxtl.studies.pretrain.study import rows

__all__ = ["Pretrain", "Tune", "rows"]
