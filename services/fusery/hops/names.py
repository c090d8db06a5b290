"""Names in a store, and the digests that they are made of."""

from __future__ import annotations

import hashlib
import json

from fusery.config.sections import CaptureSpec

CAPTURE_VERSION = 2
"""Raised when the same inputs would give other bytes."""


def corpus_shard(corpus_digest: str, shard: int) -> str:
    return f"corpora/{corpus_digest[:16]}/shard-{shard:05d}.parquet"


def captures_folder(model_fingerprint: str, corpus_digest: str) -> str:
    """The folder with all captures of a corpus by one source."""
    return f"captures/{model_fingerprint[:16]}/{corpus_digest[:16]}"


def capture_name(capture: CaptureSpec, top_k: int) -> str:
    """The last part of a capture's folder: everything else that decides its bytes."""
    return f"k{top_k}-{capture.log_probs}-b{capture.batch_bytes}-v{CAPTURE_VERSION}"


def tokenizer_name(fingerprint: str) -> str:
    return f"tokenizers/{fingerprint[:32]}.json"


def plan_name(run_id: str) -> str:
    return f"runs/{run_id}/plan.json"


def launches_folder(run_id: str) -> str:
    """The notes of all launches of a run; a launch is one start of a coordinator."""
    return f"runs/{run_id}/launches"


def launch_name(run_id: str, launch: str) -> str:
    """The note that a worker reads for every message of the launch: plan, addresses, whether the launch has ended."""
    return f"{launches_folder(run_id)}/{launch}.json"


def attempts_folder(run_id: str, launch: str) -> str:
    """The notes of failed attempts of one launch of a run."""
    return f"{launches_folder(run_id)}/{launch}/attempts"


def started_folder(run_id: str, launch: str) -> str:
    """The notes of attempts under way, which beat; one that stands still is of a process that was killed."""
    return f"{launches_folder(run_id)}/{launch}/started"


def coordinator_name(run_id: str) -> str:
    """The note of the coordinator that carries the run out now; it beats."""
    return f"runs/{run_id}/coordinator.json"


def progress_name(run_id: str) -> str:
    """The note in which the coordinator says how far it is."""
    return f"runs/{run_id}/progress.json"


def digest(content: object) -> str:
    """32 hex digits of the SHA-256 of `content` as canonical JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]
