"""Long documents cut into pieces once, before any tokenizer, so that all models read the same ones."""

from __future__ import annotations

from collections.abc import Iterator

from fusery.formats.shards import CorpusDocument


def split(document: CorpusDocument, max_bytes: int) -> Iterator[CorpusDocument]:
    """Pieces of at most `max_bytes` UTF-8 bytes, cut after white space where there is any; blank ones are left out."""
    text, start, number = document.text, 0, 0
    end = len(text.rstrip())
    while start < end:
        # A character has a byte at least: more than the window never fits, and the rest need not be looked at.
        piece = text[start : start + max_bytes + 1]
        content = piece.encode()
        if len(content) > max_bytes:
            # Cutting bytes may cut a character; dropping the broken end gives whole ones.
            head = content[:max_bytes].decode(errors="ignore")
            cut = max(head.rfind("\n"), head.rfind(" ")) + 1
            piece = head[:cut] if head[:cut].strip() else head
        if piece.strip():
            name = document.doc_id if len(piece) == len(text) else f"{document.doc_id}#{number}"
            yield CorpusDocument(name, document.domain, piece)
        start, number = start + len(piece), number + 1
