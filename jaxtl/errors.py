"""Errors that end in one line for the user: what was given, what was expected, what to write instead.

Each has the exit code of the command that it ends. 42 asks for a restart with the same command; whatever
starts runs (SLURM, Kubernetes) may do that at once, and must not for the others.
"""

import difflib
import errno
import math
import re
from collections.abc import Sequence

# Of the disk, not of a name that was given: no space, over quota, worn out, read-only.
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)


class InputError(ValueError):
  """Something that the user gave cannot be used: the command line prints the message."""

  code = 2


class ConfigError(InputError):
  """A config names something that does not exist, misses a keyword, or has a value of the wrong type."""


class DataError(InputError):
  """A data set is missing, damaged beyond its budget, or does not fit what it is used for."""

  code = 3


class CheckpointError(InputError):
  """A checkpoint is missing, incomplete, or does not fit the model that should take it."""


class DamagedError(CheckpointError):
  """A step is not what was saved: a part is missing, cut off or changed. A disk that does not answer, or a
  format that this version does not know, is no damage.

  What the user gave was right, and what the storage kept is not: the exit code is that of storage.
  """

  code = 5


class NonFiniteLossError(InputError):
  """The loss, `value`, is NaN or infinite at the parameters that were given.

  The exit code is that of `NonFiniteError`, which is for what happens in a run.
  """

  code = 4

  def __init__(self, message: str, *, value: float = math.nan):
    super().__init__(message)
    self.value = value


class RunError(RuntimeError):
  """A run that cannot go on although its input was fine."""

  code = 1


class NonFiniteError(RunError):
  """The loss or the gradient is NaN or infinite, or the loss has leapt; `step` is where, if in training."""

  code = 4

  def __init__(self, message: str, *, step: int | None = None):
    super().__init__(message)
    self.step = step


class StorageError(RunError):
  """Checkpoints cannot be written or read, or none of those that were is whole."""

  code = 5


class Restart(RunError):
  """Preemption, a lost peer, a hang: the run goes on when it is started again."""

  code = 42


def exit_code(error: BaseException) -> int:
  """The exit code of the command that an error ends."""
  if isinstance(error, (InputError, RunError)):
    return error.code
  if isinstance(error, KeyboardInterrupt):
    return 130
  if isinstance(error, OSError):
    return StorageError.code if error.errno in _OF_THE_DISK else InputError.code
  return 1


# Control characters, line separators, marks that change the direction of text, and surrogates.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str, *, lines: bool = False) -> str:
  """Escapes what would act on a terminal as Python writes it, such as `\\x1b`.

  Args:
    text: may contain names from outside, for example of files or classes. A byte of a file name that is not
      UTF-8 becomes `\\x83`.
    lines: keeps line breaks and tabs, for text of several lines.
  """
  return _UNSAFE.sub(lambda found: _escaped(found.group(), lines), text)


def _escaped(character: str, lines: bool) -> str:
  if "\udc80" <= character <= "\udcff":  # how Python decodes a byte that is not UTF-8
    return f"\\x{ord(character) - 0xDC00:02x}"
  return character if lines and character in "\n\t" else character.encode("unicode_escape").decode("ascii")


def cannot_write(where: object, error: OSError, *, instead: str = "") -> InputError | StorageError:
  """The error to raise for a file or folder that cannot be written.

  Args:
    where: the place, as the message names it.
    error: why.
    instead: what to write instead, such as "give another --out".

  Returns:
    A StorageError if the disk is full or fails, otherwise an InputError.
  """
  kind = StorageError if exit_code(error) == StorageError.code else InputError
  return kind(f"cannot write to {where}: {error.strerror or error}{f'; {instead}' if instead else ''}")


def instead(name: str, blocks: Sequence[str]) -> str:
  """What a message says to write for a block that there is not: the nearest one, and all there are."""
  near = difflib.get_close_matches(name, blocks, n=1, cutoff=0.5)
  meant = f"; did you mean {near[0]!r}?" if near else "."
  return f"{meant} The blocks are {listed(blocks)}"


def listed(names: Sequence[str], *, most: int = 24) -> str:
  """Names between commas; of more than `most`, the first and the last ones."""
  if len(names) <= most:
    return ", ".join(names)
  return f"{', '.join(names[: most - 4])}, ... ({len(names) - most} more), {', '.join(names[-4:])}"


def essence(error: Exception | None) -> str:
  """The first line of an error, which is mostly the one that says something."""
  return (str(error).strip().splitlines() or [type(error).__name__])[0]


def few(names: Sequence[str]) -> str:
  """At most three names, and how many more there are."""
  more = f" and {len(names) - 3} more" if len(names) > 3 else ""
  return ", ".join(map(repr, names[:3])) + more
