"""What is predicted and how it is scored."""

from jaxtl.tasks.classify import Task, classification

__all__ = ["Task", "classification"]
