"""Sign off a release before it is uploaded: checksums that are there, faults of its entries, digests for later.

Input: a directory. Output: ``signoff/``: what was found, and the digests of every file.
Invariant: every byte is read once, by all ranks and threads together, and nothing below the directory is changed but
by ``--write-sums``, which adds files and changes none.
"""
