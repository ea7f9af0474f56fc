"""Whether scores of features predict how well weights transfer.

`rows` measures one checkpoint: its scores on every target, controls, and its measured transfer.
"""

from jaxtl.studies.selection.study import rows as rows
