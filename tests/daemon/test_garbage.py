"""What a daemon has loaded is not looked through for garbage; what comes later is."""

from __future__ import annotations

import gc
import weakref

from flexspec_mq.daemon.main import spare_what_is_loaded


class Ring:
    """An object that holds itself, as only the collector frees."""

    def __init__(self) -> None:
        self.ring = self


def test_only_what_comes_later_is_looked_through() -> None:
    stays = Ring()
    garbage = weakref.ref(Ring())
    spare_what_is_loaded()
    try:
        assert garbage() is None  # what was garbage by then is no burden for ever
        kept = weakref.ref(stays)
        assert gc.get_freeze_count() > 1000
        assert not any(found is stays for found in gc.get_objects())
        later = weakref.ref(Ring())
        gc.collect()
        assert later() is None
        assert kept() is stays
    finally:
        gc.unfreeze()
