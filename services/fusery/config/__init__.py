"""The YAML of a run: its sections, their words, and where a mistake stands."""
