"""What an audit of a plan against its bucket found: counts, and the first names of each kind.

Input: findings, one by one. Output: counts as attributes.
Invariant: memory is bounded however many there are.
"""

from dataclasses import dataclass, field

SHOWN = 20


@dataclass
class Findings:
    """What the audit found; lists hold the first ``SHOWN`` names."""

    proven: int = 0
    bytes: int = 0
    reread: int = 0
    gone_here: int = 0
    missing: int = 0
    differing: int = 0
    sourceless: int = 0  # of the missing and differing ones: those whose local files are gone
    contradicted: int = 0
    weak: int = 0
    unhashed: int = 0  # sent by an upload that made no SHA-256, and not read since
    unreadable: int = 0
    unjudged: int = 0  # of these: what a listing that contradicts itself leaves out, and nobody asked for
    unsent: int = 0
    vanished: int = 0  # of these, of the first that were looked for: those whose local files are gone
    extra: int = 0
    archived: int = 0  # of those proven: their bytes were to be read, and cannot be
    withdrawn: int = 0  # deleted on purpose, and not there
    unfinished: int = 0  # about to be withdrawn
    returned: int = 0  # withdrawn, and there again
    source_asked: int = 0  # files that were to be read although nothing speaks against them
    source_read: int = 0
    source_gone: int = 0
    names: dict[str, list[str]] = field(default_factory=dict)

    def note(self, kind: str, text: str) -> None:
        """Count one finding and keep its name if it is among the first."""
        setattr(self, kind, getattr(self, kind) + 1)
        kept = self.names.setdefault(kind, [])
        if len(kept) < SHOWN:
            kept.append(text)
