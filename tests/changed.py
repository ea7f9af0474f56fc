"""A config with another value somewhere."""

import copy


def changed(config, path, value):
  """A copy in which the value at a path of keys is `value` itself."""
  whole = copy.deepcopy(config)
  at = whole
  for key in path[:-1]:
    at = at[key]
  at[path[-1]] = value
  return whole
