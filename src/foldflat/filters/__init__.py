"""Prune the filters of convolutional networks: how much each matters, how many stay, which ones."""
