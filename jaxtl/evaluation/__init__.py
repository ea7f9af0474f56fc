"""The evaluation of a checkpoint on a data set, and its page."""
