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


@pytest.mark.parametrize(
  ("number", "code"),
  [
    (errno.ENOSPC, 5),
    (errno.EDQUOT, 5),
    (errno.EIO, 5),
    (errno.EROFS, 5),
    (errno.EACCES, 2),
    (errno.ENOTDIR, 2),
  ],
)
def test_a_place_that_cannot_be_written_is_the_disk_s_fault_or_the_user_s(number, code):
  error = errors.cannot_write("out", OSError(number, "why"), instead="give another --out")
  assert errors.exit_code(error) == code
  assert str(error) == "cannot write to out: why; give another --out"
  assert str(errors.cannot_write("out", OSError("odd"))) == "cannot write to out: odd"


def test_what_would_act_on_a_terminal_is_escaped():
  text = "a\tb\n\x1b]0;x\x07\x9b1m\r\u202e\u2066\u2028\ud800\udc83\0 \u00e9\u03bb"
  shown = r"a\tb\n\x1b]0;x\x07\x9b1m\r\u202e\u2066\u2028\ud800\x83\x00 " + "\u00e9\u03bb"
  assert errors.printable(text) == shown
  assert errors.printable(text, lines=True) == shown.replace(r"\t", "\t").replace(r"\n", "\n")


def test_what_to_write_instead_is_the_nearest_block_and_all_there_are():
  assert errors.instead("haed", ["stem", "head"]) == "; did you mean 'head'? The blocks are stem, head"
  assert errors.instead("xyz", ["stem", "head"]) == ". The blocks are stem, head"


def test_of_many_names_the_first_and_the_last_are_listed():
  names = [f"block{number}" for number in range(99)]
  assert errors.listed(names[:24]) == ", ".join(names[:24])
  found = errors.listed(names, most=8)
  assert found == "block0, block1, block2, block3, ... (91 more), block95, block96, block97, block98"
