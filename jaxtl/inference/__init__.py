"""Inference: load a checkpoint, and classify images or compute their features."""

from jaxtl.inference.inputs import Input, files_of, inputs_of
from jaxtl.inference.loaded import Loaded, load
from jaxtl.inference.prediction import Prediction
from jaxtl.inference.preprocess import Preprocess

__all__ = ["Input", "Loaded", "Prediction", "Preprocess", "files_of", "inputs_of", "load"]
