"""Training: the only place with meshes, checkpoints and loops."""

from jaxtl.train.checkpoint import Weights, load
from jaxtl.train.experiment import Experiment
from jaxtl.train.heads import ZeroShot, check_width, with_head, zero_shot
from jaxtl.train.loop import fit
from jaxtl.train.post_training import PostTraining, post_train
from jaxtl.train.prefix_cache import PrefixCache
from jaxtl.train.runtime import Data, Runtime
from jaxtl.train.sharding import by_path, fsdp, make_mesh, per_device, replicate
from jaxtl.train.step import TrainState, init_state, make_train_step
from jaxtl.train.training import Trained, run

__all__ = [
  "Data",
  "Experiment",
  "PostTraining",
  "PrefixCache",
  "Runtime",
  "TrainState",
  "Trained",
  "Weights",
  "ZeroShot",
  "by_path",
  "check_width",
  "fit",
  "fsdp",
  "init_state",
  "load",
  "make_mesh",
  "make_train_step",
  "per_device",
  "post_train",
  "replicate",
  "run",
  "with_head",
  "zero_shot",
]
