"""What a stranger's suggestion must not bring under an operator's eyes unmarked.

A link, an e-mail address or a phone number leads customers elsewhere; foul language is not told.
It is a mark for the operator, no verdict: an operator's own words are never looked at.

A stranger chooses the text, so no pattern may walk a run of letters again from each place in it:
what can stand for a whole word is its last letter.
"""

from __future__ import annotations

import re
from typing import Final

_LINK: Final = re.compile(
    r"(?:https?|ftp)\s*:\s*/\s*/|www\s*\.|\bt\.me\b|\bwa\.me\b"
    r"|[\w-]\.(?:ru|su|рф|com|net|org|info|biz|io|me|xyz|top|site|online"
    r"|shop|club|pro|store|link|click|app|dev|co|uk|de|ua|by|kz)\b(?!@)",
    re.IGNORECASE,
)
_MAIL: Final = re.compile(r"[\w.+-]\s*(?:@|\(at\)|\[at\]|собака)\s*[\w-]", re.IGNORECASE)
_HANDLE: Final = re.compile(r"(?<!\w)@\w{3,}")
_DIGITS: Final = re.compile(r"[\d\s().\-–—]+")
_PHONE_DIGITS: Final = range(7, 16)
_DATE: Final = re.compile(r"\b\d{1,2}\.\d{1,2}\.\d{2,4}\b|\b\d{1,2}:\d{2}\b")
_FOUL: Final = re.compile(
    r"\b(?:"
    r"(?:на|по|о|до|а|не|ни)?ху[йяеёию]\w*"
    r"|(?:за|на|вы|у|съ|разъ|долбо|е|до|при|под|от)?[её]б(?:а|л|у|и|ё|н|ы|о|$)\w*"
    r"|(?:рас|о|с|за|вы)?пизд\w*|бля(?:д|т|\b)\w*|муд[аио][кзлш]\w*|г[ао]ндон\w*|пид[оа]р\w*"
    r"|залуп\w*|дерьм\w*|говн\w*|сук[аиоу]\b|сучар\w*|шлюх\w*|fuck\w*|shit\w*|bitch\w*"
    r"|asshole\w*|cunt\w*"
    r")",
    re.IGNORECASE,
)
_INVISIBLE: Final = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]")
_WIDE: Final = str.maketrans("０１２３４５６７８９＠．：／", "0123456789@.:/")  # look-alikes


def is_quarantined(text: str) -> bool:
    """True when ``text`` holds a link, an address, a phone number or foul language."""
    plain = _INVISIBLE.sub("", text).translate(_WIDE)
    return bool(
        _LINK.search(plain)
        or _MAIL.search(plain)
        or _HANDLE.search(plain)
        or _FOUL.search(plain)
        or _holds_phone(plain)
    )


def _holds_phone(text: str) -> bool:
    """Seven digits at least that stand together as in a phone number: no date, time or price."""
    found = _DIGITS.findall(_DATE.sub(" ", text))
    return any(sum(c.isdigit() for c in digits) in _PHONE_DIGITS for digits in found)
