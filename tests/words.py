"""The words that Lading's messages, help and documents no longer use, each with what to write instead.

One table for every check of words. Spellings on disk, flags and code spans are not prose, and stay.
"""

import re

RETIRED = {
    r"adopt(?:s|ed|ing)": "already present",
    r"anew": "again",
    r"bill of lading": "manifest",
    r"canary|canaries": "bucket probe",
    r"carry|carries|carried|carrying|carriers?": "transfer, send, copy or keep",
    r"clerks?": "worker pool",
    r"crews?": "engines",
    r"cuts?|cutting": "plan; truncated",
    r"faults?": "error",
    r"gen": "revision",
    r"lacks?|lacking": "is missing, does not have",
    r"ledgers?": "journal index",
    r"mend(?:s|ed|ing)?": "fix",
    r"preflight": "check of the bucket",
    r"prov(?:e|es|ed|en|ing)|proofs?|unproven": "verify, verification record, verified",
    r"rehears(?:e|es|ed|ing|als?)": "dry run",
    r"ship(?:s|ped|ping|ments?)?": "upload",
    r"slips?": "typo",
    r"sweeps?|swept|sweeping": "clean up",
    r"void(?:s|ed)?": "invalidated",
    # How sentences read.
    r"a (?:row a line|shard a file)": "per row, one shard per file",
    r"(?<!there )(?:is|are) no (?!longer\b|more\b)": "is not a",
    r"(?:lies|lie|lay) (?:in|inside|below|beside|under|there|where)": "is in, is below",
    r"stands? (?:in|under|beside|before|after|there|where)": "is in, comes before",
    r"tells? of": "say, report",
}
_WORDS = re.compile("|".join(rf"(?P<w{number}>\b(?:{words})\b)" for number, words in enumerate(RETIRED)), re.IGNORECASE)


def retired_words(text: str) -> list[str]:
    """Return each retired word of a text with what to write instead."""
    instead = list(RETIRED.values())
    text = text.replace("lading prove", "")  # a command
    return [f"{found[0]!r}: {instead[int((found.lastgroup or 'w0')[1:])]}" for found in _WORDS.finditer(text)]


def prose(markdown: str) -> str:
    """Return a page without its code blocks, code spans, comments and addresses."""
    text = re.sub(r"^(```|~~~).*?^\1", " ", markdown, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"<!--.*?-->", " ", text, flags=re.DOTALL)
    text = re.sub(r"`[^`\n]*(?:\n[^`\n]+)?`", " ", text)
    return re.sub(r"\]\([^)]*\)|<?https?://\S+", " ", text)
