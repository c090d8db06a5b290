"""Show, check and clear what a store holds: captures above all."""

from __future__ import annotations

from fusery.cli import options
from fusery.cli.options import Arguments, Parser

EXAMPLE = "fusery store ls examples/tiny.yaml"


def set_up(parser: Parser) -> None:
    acts = parser.add_subparsers(dest="act", metavar="ls|verify|rm", required=True)
    store = "the store's folder or URL, or a run's YAML (default: FUSERY_STORE)"
    for name, summary in (
        ("ls", "Show what the store holds, how large it is, and which runs use it."),
        ("verify", "Read every artefact and check it; exit 1 if one is damaged."),
    ):
        act = acts.add_parser(name, help=summary, description=summary)
        act.add_argument("store", metavar="STORE|FILE.yaml", nargs="?", help=store)
        options.for_programs(act)
        if name == "verify":
            act.add_argument("--remove", action="store_true", help="take damaged ones away, to be made again")
    summary = "Remove what is named and no unfinished run uses."
    act = acts.add_parser("rm", help=summary, description=summary)
    act.add_argument("names", metavar="NAME", nargs="*", help="as ls shows them; * stands for anything")
    act.add_argument("--store", metavar="STORE|FILE.yaml", help=store)
    act.add_argument("--unused", action="store_true", help="all that no run's plan names")
    act.add_argument("--force", action="store_true", help="also what unfinished runs use")
    act.add_argument("--yes", action="store_true", help="do not ask")


def call(given: Arguments) -> int | None:
    from fusery.run.inspect import store_command

    if given.act == "verify":
        return store_command.show_verified(given.store, as_json=given.json, removes=given.remove)
    if given.act == "ls":
        store_command.show_holdings(given.store, as_json=given.json)
    else:
        removal = store_command.Removal(tuple(given.names), given.unused, given.force, given.yes)
        store_command.show_removed(given.store, removal)
    return None
