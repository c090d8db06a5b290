"""The commands, one module each: its docstring is its help, `set_up` adds its options, `call` runs it.

Each imports what it needs when it runs, so that `fusery --help` answers at once.
"""

from fusery.cli.entry import main

__all__ = ["main"]
