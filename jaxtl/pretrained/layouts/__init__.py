"""The layouts of weights of other libraries."""
