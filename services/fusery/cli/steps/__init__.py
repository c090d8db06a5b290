"""The steps of a run as commands of their own."""
