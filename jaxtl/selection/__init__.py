"""Chooses among pre-trained weights by numbers: ranks them on a target, and writes the card of one."""
