"""Files of one source that belong together: numbered -of-N files, all of which must be there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from teacher_cache.errors import DatasetError

_PART = re.compile(r"(.*?)(\d+)[-_]of[-_](\d+)", re.IGNORECASE)


def check_complete(files: Sequence[Path]) -> None:
    """Refuse numbered files such as train-00000-of-00003.parquet of which some are missing.

    Raises:
        DatasetError: Files are missing; the message names them.
    """
    found: dict[tuple[str, int], set[int]] = {}
    for file in files:
        match = _PART.match(file.name)
        if match:
            found.setdefault((match[1], int(match[3])), set()).add(int(match[2]))
    for (stem, total), numbers in found.items():
        first = 1 if total in numbers and 0 not in numbers else 0
        missing = sorted(set(range(first, first + total)) - numbers)
        if missing:
            raise DatasetError(
                f"{files[0].parent} has {len(numbers)} of the {total} files {stem}...-of-{total}: "
                f"{', '.join(map(str, missing[:5]))}{' ...' if len(missing) > 5 else ''} missing",
                "Their images would be left out.",
                "fetch them, or name the files to pack one by one",
            )
