"""Every error has the exit code that whatever starts runs acts on."""

import errno

import pytest

from jaxtl import errors


@pytest.mark.parametrize(
  ("error", "code"),
  [
    (errors.ConfigError("x"), 2),
    (errors.CheckpointError("x"), 2),
    (errors.DamagedError("x"), 5),
    (errors.DataError("x"), 3),
    (errors.NonFiniteError("x", step=3), 4),
    (errors.StorageError("x"), 5),
    (errors.Restart("x"), 42),
    (KeyboardInterrupt(), 130),
    (OSError(errno.ENOSPC, "No space left on device"), 5),
    (OSError(errno.EROFS, "Read-only file system"), 5),
    (FileNotFoundError(errno.ENOENT, "No such file"), 2),
    (ZeroDivisionError(), 1),
  ],
)
def test_exit_codes(error, code):
  assert errors.exit_code(error) == code
