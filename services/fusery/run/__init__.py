"""A run of fusery: opened, checked, carried out, looked at."""
