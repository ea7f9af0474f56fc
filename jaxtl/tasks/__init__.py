"""Tasks: what a model predicts and how its predictions are scored."""

from jaxtl.tasks.classify import CROSS_ENTROPY, LogitsLoss, Task, classification

__all__ = ["CROSS_ENTROPY", "LogitsLoss", "Task", "classification"]
