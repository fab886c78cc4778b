"""Weights that we trained ourselves, each with its card beside it."""
