from __future__ import annotations

import os

from lab.testbed.deployment import Cores


def test_two_cores_are_used_where_there_are_two() -> None:
    cores, allowed = Cores.of_this_process(), os.sched_getaffinity(0)
    assert {cores.cloud, cores.device} <= allowed
    assert (cores.cloud != cores.device) is (len(allowed) > 1)
