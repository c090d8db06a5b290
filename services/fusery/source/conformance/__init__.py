"""Checks of a source by itself, and of two against each other."""
