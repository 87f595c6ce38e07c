"""The words of a text, as they are compared: without case, punctuation and the dots of ё."""

from __future__ import annotations

import re


def words(text: str) -> list[str]:
    """Letters and digits that stand together, in their order."""
    return re.findall(r"[^\W_]+", text.casefold().replace("ё", "е"))


def plain(text: str) -> str:
    """A question without what does not change it."""
    return " ".join(words(text))
