"""Makes the pages of the documentation site that no person writes, and checks those that people write."""
