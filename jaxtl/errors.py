"""Errors that the user sees as one line: what was given, what was expected, what to write instead.

Each class has the exit code of the command that it ends. Code 42 asks for a restart with the same command. A
scheduler (SLURM, Kubernetes) may restart such a run at once, and must not do so for other codes.
"""

import difflib
import errno
import math
import re
from collections.abc import Sequence

# Failures of the disk and not of a given name: no space, over quota, I/O error, read-only.
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)


class InputError(ValueError):
  """An input of the user that cannot be used; the command line prints the message."""

  code = 2


class ConfigError(InputError):
  """A config that names something that does not exist, lacks a keyword, or has a value of the wrong type."""


class DataError(InputError):
  """A data set that is missing, damaged beyond its budget, or does not fit its use."""

  code = 3


class CheckpointError(InputError):
  """A checkpoint that is missing, incomplete, or does not fit the model that should load it."""


class DamagedError(CheckpointError):
  """A checkpoint step that differs from what was saved: a part is missing, truncated or changed.

  A disk that does not answer, or a format that this version does not know, does not count as damage. The
  user's input is correct and the stored data are not, so the exit code is that of storage errors.
  """

  code = 5


class NonFiniteLossError(InputError):
  """A loss, `value`, that is NaN or infinite at the given parameters.

  The exit code is that of `NonFiniteError`, which is for failures during a run.
  """

  code = 4

  def __init__(self, message: str, *, value: float = math.nan):
    super().__init__(message)
    self.value = value


class RunError(RuntimeError):
  """A run that cannot continue although its input is valid."""

  code = 1


class NonFiniteError(RunError):
  """A NaN or infinite loss or gradient, or a loss spike; `step` is the training step, if there is one."""

  code = 4

  def __init__(self, message: str, *, step: int | None = None):
    super().__init__(message)
    self.step = step


class StorageError(RunError):
  """Checkpoints that cannot be written or read, or of which none is intact."""

  code = 5


class Restart(RunError):
  """A preemption, a lost peer or a hang; the run resumes when it is started again."""

  code = 42


def exit_code(error: BaseException) -> int:
  """Returns the exit code of the command that an error ends."""
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
  """Escapes characters that would control a terminal, the way Python writes them, such as `\\x1b`.

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
  """Returns the error to raise for a file or folder that cannot be written.

  Args:
    where: the place, as the message names it.
    error: the cause.
    instead: what to write instead, such as "give another --out".

  Returns:
    A StorageError if the disk is full or fails, otherwise an InputError.
  """
  kind = StorageError if exit_code(error) == StorageError.code else InputError
  return kind(f"cannot write to {where}: {error.strerror or error}{f'; {instead}' if instead else ''}")


def instead(name: str, blocks: Sequence[str]) -> str:
  """Returns the end of a message about an unknown block: the nearest name, and the list of all blocks."""
  near = difflib.get_close_matches(name, blocks, n=1, cutoff=0.5)
  meant = f"; did you mean {near[0]!r}?" if near else "."
  return f"{meant} The blocks are {listed(blocks)}"


def listed(names: Sequence[str], *, most: int = 24) -> str:
  """Joins names with commas; shows only the first and the last ones if there are more than `most`."""
  if len(names) <= most:
    return ", ".join(names)
  return f"{', '.join(names[: most - 4])}, ... ({len(names) - most} more), {', '.join(names[-4:])}"


def essence(error: Exception | None) -> str:
  """Returns the first line of an error, which is usually the informative one."""
  return (str(error).strip().splitlines() or [type(error).__name__])[0]


def few(names: Sequence[str]) -> str:
  """Returns at most three names, and how many more there are."""
  more = f" and {len(names) - 3} more" if len(names) > 3 else ""
  return ", ".join(map(repr, names[:3])) + more
