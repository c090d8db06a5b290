"""Task suites on lm-eval's definitions, and the sandbox for programs that models write."""
