from jaxtl.report import appendix


def test_the_same_change_in_many_places_is_told_once():
  lines = ["targets.a.size: 224 -> 128", "start: 'v2' -> 'v1'", "targets.b.size: 224 -> 128"]
  assert appendix.grouped(lines) == ["targets.a.size, 2 places in all: 224 -> 128", "start: 'v2' -> 'v1'"]
