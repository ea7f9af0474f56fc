"""Training: the only place with meshes, checkpoints and loops."""

from jaxtl.train.checkpoint import Weights, load
from jaxtl.train.experiment import Experiment, Trained, run
from jaxtl.train.loop import fit
from jaxtl.train.runtime import Data, Runtime
from jaxtl.train.sharding import make_mesh
from jaxtl.train.step import TrainState, init_state, make_train_step

__all__ = [
  "Data",
  "Experiment",
  "Runtime",
  "TrainState",
  "Trained",
  "Weights",
  "fit",
  "init_state",
  "load",
  "make_mesh",
  "make_train_step",
  "run",
]
