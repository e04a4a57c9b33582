"""The dictionary that ships."""

from flexspec_mq.codec.compression import CURRENT, DICTIONARIES, ZSTD, dictionary


def test_every_dictionary_ships_and_is_small() -> None:
    assert DICTIONARIES
    for code in DICTIONARIES:
        data = dictionary(code)
        assert data is not None
        assert 1000 < len(data) <= 64 * 1024
    assert dictionary(ZSTD) is None
    assert CURRENT in DICTIONARIES
