"""The pages of the site, and the code that makes it; `make docs` builds it."""
