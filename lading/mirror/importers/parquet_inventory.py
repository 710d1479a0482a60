"""The data files of an S3 Inventory in Parquet: the one module that loads pyarrow.

Input: a file. Output: its rows as texts, the columns that are asked for.
Invariant: a group of rows is in memory at a time.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# As S3 names the columns in Parquet; in CSV they have the names on the left (Amazon S3 User Guide).
NAMES = {
    "Bucket": "bucket",
    "Key": "key",
    "VersionId": "version_id",
    "IsLatest": "is_latest",
    "IsDeleteMarker": "is_delete_marker",
    "Size": "size",
    "LastModifiedDate": "last_modified_date",
    "ETag": "e_tag",
}


def read_rows(file: Path, columns: Sequence[str]) -> Iterator[list[str]]:
    """Yield the rows of a file, each with a text for every one of ``columns``; ``ValueError`` when it is none."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file) as opened:
            wanted = [NAMES[column] for column in columns]
            lacking = [name for name in wanted if name not in opened.schema_arrow.names]
            if lacking:
                raise ValueError(f"it has no column {', '.join(lacking)}")
            for batch in opened.iter_batches(columns=wanted):
                found = [batch.column(name).to_pylist() for name in wanted]
                for row in zip(*found, strict=True):
                    yield [_text(value) for value in row]
    except pyarrow.ArrowException as error:
        raise ValueError(str(error).partition("\n")[0][:200]) from error


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).isoformat()
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    return str(value)
