"""Live comparison with the libraries that the layouts come from; `make test-oracles` runs it."""
