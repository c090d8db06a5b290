"""`fusery store ls|verify|rm`: what a store holds, whether it is whole, and what may go."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.text import Text

from fusery.config.file import read_run_file
from fusery.hops.store.store import Store
from fusery.run.inspect.store import QUARANTINE, SINGLE, Holding, Usage, holdings, remove, usage, verify
from fusery.runtime import output
from fusery.runtime.errors import ConfigError, InvalidInput
from fusery.runtime.settings import settings
from fusery.runtime.text.shown import shown

_DAMAGED = 1
_SHOWN = 40
_SWEPT_AFTER_S = 3600.0
_KINDS = {
    "corpora": "corpora: texts, by shards",
    "captures": "captures: what the sources say, the dear part",
    "aligned": "aligned: captures at a target's positions",
    "fused": "fused: what training reads",
    "tokenizers": "tokenizers",
    "maps": "maps between vocabularies",
    "training": "training: indices of fused shards",
    QUARANTINE: "quarantine: shards of a name that another writer made with other bytes",
}


@dataclass(frozen=True, slots=True)
class Removal:
    """What `fusery store rm` is asked: names or patterns, or what no run uses."""

    patterns: tuple[str, ...]
    unused: bool
    force: bool
    confirmed: bool


def open_store(place: str | None) -> Store:
    """The store of a YAML file or of a URL; without either that of FUSERY_STORE.

    Raises:
        ConfigError: there is none.
    """
    if place is not None and place.endswith((".yaml", ".yml")):
        file = read_run_file(Path(place))
        return Store(settings().store or file.store)
    url = place or settings().store
    if url is None:
        raise ConfigError("which store? give its URL, a run's YAML, or set FUSERY_STORE")
    store = Store(url)
    if store.is_local and not Path(url.removeprefix("file://")).is_dir():
        raise ConfigError(f"store {url}: there is no such folder; give the folder or URL of a store, or a run's YAML")
    return store


def show_holdings(place: str | None, as_json: bool) -> None:
    """Prints what the store holds, how much of it, and which runs use it."""
    store = open_store(place)
    used = usage(store)
    found = holdings(store, used)
    if as_json:
        print(output.to_json(_content(store, used, found), indent=1))
        return
    console = output.console()
    console.print(Text(f"store {store.url}: {_size(sum(h.bytes for h in found))}"), soft_wrap=True)
    for kind, heading in _KINDS.items():
        of_kind = [holding for holding in found if holding.kind == kind]
        if of_kind:
            total = sum(holding.bytes for holding in of_kind)
            console.print(Text(f"\n{heading}, {_size(total)}", "bold"), soft_wrap=True)
            console.print(_lines(of_kind), soft_wrap=True)
    unused = [holding for holding in found if _may_go(holding)]
    if unused:
        total = sum(holding.bytes for holding in unused)
        console.print(Text(f"\n{_size(total)} are used by no run: fusery store rm --unused"), soft_wrap=True)
    for run in used.unreadable:
        text = f"\nwarning: the plan of run {run} can't be read; what it uses is not known"
        console.print(Text(text, "yellow"), soft_wrap=True)


def _content(store: Store, used: Usage, found: Sequence[Holding]) -> dict[str, Any]:
    """What programs get; `made_at` in seconds since 1970."""
    rows = []
    for holding in found:
        row = asdict(holding)
        row["shards"] = len(row.pop("artefacts"))
        rows.append({"short_name": holding.short_name, **row})
    return {
        "store": store.url,
        "bytes": sum(holding.bytes for holding in found),
        "holdings": rows,
        "complete_runs": sorted(used.complete),
        "unreadable_plans": used.unreadable,
    }


def show_verified(place: str | None, as_json: bool, removes: bool) -> int:
    """Prints what is damaged; 1 if anything is (and stays), else 0. What was never whole is no damage."""
    store = open_store(place)
    console = output.console()
    with console.status("reading") as status:
        found = verify(store, lambda files, size: status.update(f"reading: {files} artefacts, {_size(size)}"))
    damages = found.damages
    wrong = sum(damage.kind != "leftover" for damage in damages)
    if removes:
        remove(store, damages)
    if as_json:
        content = {"store": store.url, "artefacts": found.artefacts, "notes": found.notes, "bytes": found.bytes}
        shown_damages = [asdict(damage) for damage in damages]
        print(output.to_json({**content, "damages": shown_damages, "removed": removes}, indent=1))
    else:
        read = f"{found.artefacts} artefacts and {found.notes} notes read, {_size(found.bytes)}"
        console.print(Text(f"store {store.url}: {read}"), soft_wrap=True)
        for damage in damages:
            console.print(Text(shown(f"{damage.kind} {damage.name}: {damage.reason}"), "yellow"), soft_wrap=True)
        says = f"{wrong} damaged, {len(damages) - wrong} left by killed writers; take them away with: "
        says += "fusery store verify --remove"
        if removes and damages:
            says = f"{len(damages)} taken away; the next run makes again what it needs"
        console.print(says if damages else "all of them are whole")
    return _DAMAGED if wrong and not removes else 0


def show_removed(place: str | None, removal: Removal) -> None:
    """Removes holdings, after it said which and asked.

    Raises:
        ConfigError: nothing was asked for, or there is no terminal to ask at.
        InvalidInput: no holding is of that name, or a run that is not complete uses one.
    """
    store, console = open_store(place), output.console()
    used = usage(store)
    chosen = choose(holdings(store, used), used, removal)
    if not chosen:
        console.print("nothing to remove: every holding is used by a run")
    else:
        console.print(_lines(chosen[:_SHOWN]), soft_wrap=True)
        more = f" and {len(chosen) - _SHOWN} more" if len(chosen) > _SHOWN else ""
        total = _size(sum(holding.bytes for holding in chosen))
        console.print(f"{len(chosen)} holdings{more}, {total}; a run that needs one makes it again")
        if not removal.confirmed:
            if not sys.stdin.isatty():
                raise ConfigError("there is no terminal to ask at; give --yes")
            if console.input("remove them? [y/N] ").strip().lower() not in ("y", "yes"):
                raise ConfigError("nothing was removed")
        for holding in chosen:
            # Every artefact's entry goes before its data, then the folder.
            for artefact in holding.artefacts:
                store.discard(artefact)
            parts = [] if holding.kind in SINGLE else holding.name.split("/")
            for depth in range(len(parts), 1, -1):
                store.remove_folder("/".join(parts[:depth]))
        console.print(f"{total} freed")
    store.sweep(_SWEPT_AFTER_S)


def choose(found: Sequence[Holding], used: Usage, removal: Removal) -> list[Holding]:
    """The holdings that are asked for.

    Raises:
        ConfigError, InvalidInput: as `show_removed`.
    """
    if removal.unused == bool(removal.patterns):
        raise ConfigError("what is to go? give names or patterns such as 'captures/3fe9*', or --unused")
    if used.unreadable and not removal.force:
        raise InvalidInput(
            f"the plan of run {used.unreadable[0]} can't be read, so it is not known what that run uses; run it again, "
            "or give --force"
        )
    if used.beginning and not removal.force:
        raise InvalidInput(
            f"run {used.beginning[0]} has begun and has no plan yet, so it is not known what it uses; wait until it "
            "captures, or give --force if its process is gone"
        )
    if removal.unused:
        return [holding for holding in found if _may_go(holding)]
    chosen: dict[str, Holding] = {}
    for pattern in removal.patterns:
        matching = {holding.name: holding for holding in found if holding.is_called(pattern.rstrip("/"))}
        if not matching:
            raise InvalidInput(f"{pattern}: the store holds nothing of that name; fusery store ls shows what it holds")
        chosen |= matching
    needed = [holding for holding in chosen.values() if holding.is_needed]
    if needed and not removal.force:
        raise InvalidInput(
            f"{needed[0].name}: run {needed[0].runs[0]} uses it and is not complete; finish the run, or give --force "
            "(it makes again what it needs)"
        )
    return list(chosen.values())


def _may_go(holding: Holding) -> bool:
    # An index of fused shards is named by no plan, and small; what is in quarantine is for people to look at.
    return not holding.runs and holding.kind not in ("training", QUARANTINE)


def _lines(found: Sequence[Holding]) -> Text:
    """Two lines each: name and amounts; what it is and which runs use it. A name is never broken: people copy it."""
    width = max(len(holding.short_name) for holding in found)
    now, text = time.time(), Text()
    for holding in found:
        amounts = f"{len(holding.artefacts):>7} {_size(holding.bytes):>9} {_age(holding.made_at, now):>7}"
        runs = f"used by {', '.join(holding.runs)}" if holding.runs else "used by no run"
        text.append(f"{holding.short_name:<{width}} {amounts}\n")
        text.append(f"  {holding.about}; ", "dim").append(f"{runs}\n", "dim" if holding.runs else "yellow")
    text.right_crop(1)
    heading = Text(f"{'name':<{width}} {'shards':>7} {'size':>9} {'made':>7}\n", "dim")
    return heading.append_text(text)


def _size(count: int) -> str:
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def _age(made_at: float | None, now: float) -> str:
    """How long ago, by two clocks that may differ by a little."""
    if made_at is None:
        return "–"
    seconds = max(0.0, now - made_at)
    for length, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return "now"
