"""Sample keys: any file name as text that WebDataset takes for one key, and back."""

from __future__ import annotations

import os
import re
from urllib.parse import quote, unquote_to_bytes

_PLAIN = "A-Za-z0-9_/-"
KEY = re.compile(f"(?!/)(?:[{_PLAIN}]|%[0-9A-F]{{2}})+")
"""Pattern of sample keys: WebDataset ends a key at a dot, and a key cannot leave its folder."""
META = re.compile("__[^/]*__(/|$)")
"""Names of members that belong to no sample; WebDataset skips them (tariterators.py)."""


def key_of(name: str) -> str:
    """Return a file name, without its suffix, as a key.

    Letters, digits, "_", "-" and "/" of ASCII stay; every other byte of the name becomes %XX, and so do the
    underscores that begin a name which WebDataset would skip. Two names never become one key.
    """
    key = quote(os.fsencode(name), safe="/-_").replace(".", "%2E").replace("~", "%7E")
    return key.replace("_", "%5F", 1) if META.match(key) else key


def name_of(key: str) -> str:
    """Return the name that `key_of` made a key from."""
    return os.fsdecode(unquote_to_bytes(key))
