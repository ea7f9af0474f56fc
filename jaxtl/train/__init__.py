"""Training: experiments, the training step, the loop around it, meshes and post-training."""

from jaxtl.checkpoints.checkpoint import Weights, load
from jaxtl.train.experiment import Experiment
from jaxtl.train.inputs import Data
from jaxtl.train.loop import fit
from jaxtl.train.post_training import PostTraining, post_train
from jaxtl.train.prefix_cache import PrefixCache
from jaxtl.train.runtime import Runtime
from jaxtl.train.selection import Select
from jaxtl.train.sharding import by_path, fsdp, make_mesh, per_device, replicate
from jaxtl.train.step import init_state, make_train_step
from jaxtl.train.training import Trained, run
from jaxtl.types import TrainState

# Old paths of components in configs -> their new ones.
MOVED = {"zero_shot": ".zero_shot.zero_shot"}

__all__ = [
  "Data",
  "Experiment",
  "PostTraining",
  "PrefixCache",
  "Runtime",
  "Select",
  "TrainState",
  "Trained",
  "Weights",
  "by_path",
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
]
