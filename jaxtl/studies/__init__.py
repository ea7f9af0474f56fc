"""Studies: each paper is a package, found by the path of its `rows` in a config."""

# Old paths of components in configs -> their new ones.
MOVED = {
  "diagnosis.rows": ".studies.layers.diagnosis.rows",
  "heads.linear_probe": ".studies.patching.linear_probe",
  "heads.own": ".studies.patching.own",
  "heads.zero_shot": ".studies.patching.zero_shot",
}
