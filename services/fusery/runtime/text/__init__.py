"""Text from outside: parsed within bounds, shown safe, without secrets."""
