"""Tasks: what a model predicts and how its predictions are scored."""

from jaxtl.tasks.classify import Task, classification

__all__ = ["Task", "classification"]
