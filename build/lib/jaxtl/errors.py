"""Errors that end in one line for the user: what was given, what was expected, what to write instead."""


class InputError(ValueError):
  """Something that the user gave cannot be used: the command line prints the message, exit code 2."""


class ConfigError(InputError):
  """A config names something that does not exist, misses a keyword, or has a value of the wrong type."""


class DataError(InputError):
  """A data set is missing, damaged beyond its budget, or does not fit what it is used for."""


class CheckpointError(InputError):
  """A checkpoint is missing, incomplete, or does not fit the model that should take it."""


class RunError(RuntimeError):
  """A run that cannot go on although its input was fine; `code` is the exit code (4: non-finite loss)."""

  def __init__(self, message: str, *, code: int):
    super().__init__(message)
    self.code = code
