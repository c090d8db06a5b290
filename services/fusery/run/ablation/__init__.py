"""Ablations: one run in many settings, from one set of captures, at the cost of the trainings."""
