"""Measures judged and shown: tables, plots, one HTML file, the gate."""
