"""Where a store's bytes lie: the few operations that a store needs of a folder or of a bucket, and names inside it.

`folder` and `bucket` carry them out. Both speak in names relative to the root and raise errors of fusery's; that
something is not there is None, or False, and no error.
"""

from __future__ import annotations

from typing import Protocol

from fusery.runtime.errors import InvalidInput

TEMPORARY = "tmp"
"""Where files lie that are being written, beside no data: what a killed writer leaves is found, and swept, there."""


class Place(Protocol):
    """A folder or bucket. Raises everywhere: ConfigError, Unavailable, and on writing StoreFull."""

    def read(self, name: str) -> bytes | None:
        """The bytes under `name`, None if there are none."""
        ...

    def size(self, name: str) -> int | None:
        """The number of bytes under `name`, None if there are none."""
        ...

    def write(self, name: str, content: bytes) -> None:
        """All of `content` under `name`, in place of what is there, or nothing."""
        ...

    def create(self, name: str, content: bytes) -> bool:
        """All of `content` under `name`, and True; False if something is there already. Of several writers one wins."""
        ...

    def remove(self, name: str) -> None:
        """Takes `name` away, if it is there."""
        ...

    def files(self, folder: str, unsized: str = "") -> dict[str, int]:
        """Last part of the name → size, of what lies directly in `folder`, from one listing.

        Files that end in `unsized` may be given size 0: a look at every file is most of a folder's listing time.
        """
        ...

    def folders(self, folder: str) -> list[str]:
        """Last parts of the names of the folders directly in `folder`, sorted."""
        ...

    def remove_folder(self, folder: str) -> None:
        """An empty folder is gone then; one that is not stays."""
        ...

    def changed_at(self, name: str) -> float | None:
        """When `name` was last written, seconds since 1970 by the place's own clock; for people, decides nothing."""
        ...

    def sweep(self, older_than_s: float) -> int:
        """Removes what killed writers left; how many files."""
        ...


def checked(name: str) -> str:
    """`name`, if it is a relative POSIX path of visible parts that stays inside the root.

    Raises:
        InvalidInput: it is not.
    """
    parts = name.split("/")
    if any(not part or part.startswith(".") for part in parts) or "\\" in name or "\0" in name:
        raise InvalidInput(
            f"{name!r} is no name inside the store; expected parts joined by /, none of them empty, and none that "
            "begins with a dot or holds a backslash"
        )
    return name
