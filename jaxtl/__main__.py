"""The command line: `python -m jaxtl` is the same as `jaxtl`."""

import contextlib
import os
import sys
import time
import traceback

from jaxtl.cli.main import main
from jaxtl.host import streams, supervision


def leave() -> None:
  """Runs the command and ends the process.

  If one of several processes fails, it does not wait for the others, as JAX would for five minutes, because
  they wait for it. They notice its missing heartbeat. Process 0 exits two seconds later, since its exit ends
  the others at once, and all of them may be about to report the same error.
  """
  supervision.end_with_watcher()
  try:
    code = main()
  except Exception as error:
    with contextlib.suppress(*streams.ANY):
      traceback.print_exc()
    if supervision.may_be_a_peers(error):
      sys.exit(1)  # JAX now waits for the peers and finds out which one is lost
    code = 1
  streams.flush_or_discard()
  if code and supervision.is_child():
    time.sleep(2 if supervision.is_first_child() else 0)
    os._exit(code)
  sys.exit(code)


if __name__ == "__main__":
  leave()
