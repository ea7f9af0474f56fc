"""The layouts of weights in other libraries."""
