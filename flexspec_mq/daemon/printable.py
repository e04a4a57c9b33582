"""Text that a terminal only shows: what a model writes must not move cursors, set titles or fill clipboards."""

_KEPT = "\n\t"
_SHOWN = {
    # Unicode has a picture for each of the old control characters, and none for the newer ones.
    **{code: 0x2400 + code for code in range(0x20) if chr(code) not in _KEPT},
    0x7F: 0x2421,
    **dict.fromkeys(range(0x80, 0xA0), 0xFFFD),
    # Half of a pair, which JSON can name, is no character and cannot be written anywhere.
    **dict.fromkeys(range(0xD800, 0xE000), 0xFFFD),
}


def printable(text: str) -> str:
    """The text with a visible character in place of each control character but line breaks and tabs."""
    return text.translate(_SHOWN)
