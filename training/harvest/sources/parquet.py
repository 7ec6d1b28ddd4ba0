"""Rows of .parquet files."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from monitor.errors import FeaturewatchError
from training.harvest.sources.archive import opened

_ROWS = 1024


def read_parquet(path: Path, fields: Collection[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number, from 1, and values of each row, a few rows in memory at a time; only these fields are read.

    Raises:
        FeaturewatchError: it is missing, damaged or not parquet.
    """
    import pyarrow
    from pyarrow import parquet

    with opened(path) as packed, tempfile.TemporaryFile() as file:
        if path.suffix.lower() == ".parquet":
            source: Any = packed
        else:  # its index is at the end
            shutil.copyfileobj(packed, file)
            source = file
        try:
            table = parquet.ParquetFile(source)
            columns = [name for name in table.schema_arrow.names if name in fields]
            number = 0
            for batch in table.iter_batches(_ROWS, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
        except (pyarrow.ArrowException, OSError) as error:
            raise FeaturewatchError(
                f"data file {path} ({_first_line(error)})", "it must be a whole parquet file", "fetch it again"
            ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
