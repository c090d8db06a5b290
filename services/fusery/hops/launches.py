"""A launch: one start of a coordinator, as its workers see it. One small note answers what a message leaves open.

The note says where the sources are, and workers send their bearer token there. So a coordinator that has the token
seals the note with it, and a worker sends its token only where a sealed note says: write access to the store is no
access to the token. The key is slow to derive, for a reader of the store can try tokens on the seal.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from fusery.hops.names import launch_name, launches_folder
from fusery.hops.plan import Plan
from fusery.hops.store.store import Store
from fusery.runtime.errors import ConfigError, Corrupt, Unavailable
from fusery.runtime.settings import settings
from fusery.source.client import SourceClient, client_from_settings
from fusery.source.token import read_token


@dataclass(frozen=True, slots=True)
class Launch:
    """`addresses`: of every source by name; they are the launch's own, for ports change from start to start.

    `ended`: how the coordinator ended it in order, such as "done"; None: it works, or was killed. `is_sealed`: whether
    the note that it was read from is sealed with this process's token.
    """

    id: str
    plan: Plan
    addresses: Mapping[str, str]
    ended: str | None = None
    is_sealed: bool = False

    def write(self, store: Store) -> None:
        """Writes the note, sealed if FUSERY_SOURCE_TOKEN_FILE names a token."""
        content: dict[str, Any] = {
            "ended": self.ended,
            "addresses": dict(self.addresses),
            "plan": self.plan.model_dump(mode="json"),
        }
        name = launch_name(self.plan.run_id, self.id)
        store.write_note(name, {**content, "proof": _seal(name, content)})

    def end(self, store: Store, how: str) -> Launch:
        """Says in the store that nothing of this launch is wanted any more."""
        ended = replace(self, ended=how)
        ended.write(store)
        return ended

    def client(self, source: str, *, timeout_s: float = 600.0, retry_for_s: float = 120.0) -> SourceClient:
        """A client of a source, with this process's token; for the seconds see `SourceClient`.

        Raises:
            Unavailable: the launch has no address for it, or this process has a token and the launch is not sealed.
            ConfigError, AddressError: see client_from_settings.
        """
        run = self.plan.run_id
        if source not in self.addresses:
            raise Unavailable(f"run {run}: source {source} has no address in launch {self.id}")
        if settings().source_token_file is not None and not self.is_sealed:
            raise Unavailable(
                f"run {run}: launch {self.id} is not sealed with this worker's token, so the token is not sent to the "
                f"address of source {source}; give the run and its workers the same FUSERY_SOURCE_TOKEN_FILE; if "
                "they have it, the launch was changed in the store"
            )
        return client_from_settings(self.addresses[source], timeout_s=timeout_s, retry_for_s=retry_for_s)


class _Note(BaseModel):
    model_config = ConfigDict(strict=True)

    plan: dict[str, Any]
    addresses: dict[str, str]
    ended: str | None
    proof: str | None = None


def read_launch(store: Store, run_id: str, launch: str) -> Launch | None:
    """The launch as its coordinator last wrote it; None: this store has none of that name.

    Raises:
        Corrupt: the note is damaged, or of another run.
    """
    name = launch_name(run_id, launch)
    content = store.read_note(name)
    if content is None:
        return None
    try:
        note = _Note.model_validate(content)
        plan = Plan.model_validate(note.plan)
    except ValidationError as error:
        raise Corrupt(f"{name}: not the note of a launch: {error}; start the run again") from error
    if plan.run_id != run_id:
        raise Corrupt(f"{name}: the note of a launch of another run; start the run again")
    return Launch(launch, plan, note.addresses, note.ended, _is_sealed(name, note))


def launch_ids(store: Store, run_id: str) -> list[str]:
    """The ids of all launches of a run, sorted."""
    return [name.rpartition("/")[2].removesuffix(".json") for name in store.list_notes(launches_folder(run_id))]


def _is_sealed(name: str, note: _Note) -> bool:
    try:
        seal = _seal(name, note.model_dump(exclude={"proof"}))
    except ConfigError:
        # `client` says so.
        return False
    return seal is not None and note.proof is not None and hmac.compare_digest(seal.encode(), note.proof.encode())


def _seal(name: str, content: Mapping[str, Any]) -> str | None:
    """64 hex digits that need the token and stand for this content under this name; None without a token."""
    token = read_token(settings().source_token_file)
    if token is None:
        return None
    return hmac.new(_key(token), json.dumps([name, content], sort_keys=True).encode(), "sha256").hexdigest()


@lru_cache(maxsize=2)
def _key(token: str) -> bytes:
    return hashlib.scrypt(token.encode(), salt=b"fusery launch", n=1 << 14, r=8, p=1, dklen=32)
