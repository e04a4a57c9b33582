"""Settings of a simulation."""

from collections.abc import Callable
from dataclasses import dataclass

from flexspec_mq.controller.plan import Policy
from lab.simulator.cost import Times
from lab.simulator.recording import Recording
from lab.simulator.worker import WorkerKind
from lab.testbed.link.profiles import LinkPlan

Policies = Callable[[], Policy]
"""Makes the policy of each text."""
LIKE_OURS = WorkerKind()
"""A `flexspec-cloud` as it comes, with a draft."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Settings of a simulation.

    Attributes:
        recording: recording with all texts.
        times: times of worker and devices.
        link: between device and broker; None is loopback.
        drafts: the device has a draft.
        lookup: which looks up as well, as that of a real edge node does.
        worker: how the worker serves.
        others: more sessions at the worker, of devices that write one text after the other and reach the broker
            without the link.
        settle: seconds that these write before the first answer is asked for.
        seed: seed of all chance. Equal seeds meet equal channels, whatever the policy.
    """

    recording: Recording
    times: Times
    link: LinkPlan | None = None
    drafts: bool = True
    lookup: bool = True
    worker: WorkerKind = LIKE_OURS
    others: int = 0
    settle: float = 5.0
    seed: int = 0
