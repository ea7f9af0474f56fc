"""`python -m jaxtl` is `jaxtl`."""

import contextlib
import os
import sys
import time
import traceback

from jaxtl.cli.main import main
from jaxtl.host import streams, supervision


def leave() -> None:
  """Runs the command and ends the process.

  One of several that fails does not wait at its end for the others, as JAX would for five minutes: they wait
  for it. They notice by its heartbeat. Process 0 leaves a little later, since its end ends them at once,
  and all may be about to say the same.
  """
  supervision.end_with_watcher()
  try:
    code = main()
  except Exception as error:
    with contextlib.suppress(*streams.ANY):
      traceback.print_exc()
    if supervision.may_be_a_peers(error):
      sys.exit(1)  # JAX, which waits for the peer now, finds out which
    code = 1
  streams.flush_or_discard()
  if code and supervision.is_child():
    time.sleep(2 if supervision.is_first_child() else 0)
    os._exit(code)
  sys.exit(code)


if __name__ == "__main__":
  leave()
