"""How a target and its sources read one text, as a table, JSON or a page."""
