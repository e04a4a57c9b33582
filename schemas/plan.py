"""How an edge node plans its drafts, and why: types of its HTTP API."""

from typing import Literal

import msgspec


class PlanStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Plan of an edge for the next batch.

    Attributes:
        policy: name of the policy that made it.
        does: the same in words.
        draft_length: K, tokens of a batch; 0 drafts nothing on the device.
        in_flight: W, batches that may be unanswered.
        ahead: tokens that the worker may write beyond what it knows the edge to have.
        worker_draft: tokens of its own that a worker with a draft may put behind the device's in one forward.
        qos: MQTT quality of service.
        confidence_threshold: a batch ends before the token that is of use with a smaller probability; 0 never does.
    """

    policy: str
    does: str
    draft_length: int
    in_flight: int
    ahead: int
    worker_draft: int
    qos: int
    confidence_threshold: float


class LimitReport(msgspec.Struct, frozen=True, kw_only=True):
    """How a limit of the node's settings is kept.

    Attributes:
        name: name of the setting.
        limit: value of the setting, in `unit`.
        unit: unit of limit, value and reach.
        state: ``unknown`` before anything was measured; ``kept``; ``exceeded``, while plans that keep it are carried
            out, or of a day's data, until the next day; ``out_of_reach``, while no plan keeps it and the one that comes
            closest is carried out; ``below``, of a battery below its floor, while the device drafts nothing.
        value: measured value of what is limited; null before.
        reach: the least that any plan is expected to come to; null while unknown, and for a battery.
    """

    name: str
    limit: float
    unit: str
    state: Literal["unknown", "kept", "exceeded", "out_of_reach", "below"]
    value: float | None = None
    reach: float | None = None


class PlanAlternative(msgspec.Struct, frozen=True, kw_only=True):
    """A plan that was chosen, or could have been.

    Attributes:
        name: who drafts, and how.
        ms_per_token: as the policy expects or has measured it; null where it knows nothing of it.
        chosen: true for the plan that is carried out.
        j_per_token: joules, as expected; null where no limit asks for them.
        allowed: no limit excludes it.
    """

    name: str
    ms_per_token: float | None
    chosen: bool
    j_per_token: float | None = None
    allowed: bool = True


class PlanEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """A figure that plans are made from.

    Attributes:
        value: null where nothing was seen.
        unit: unit of value and error.
        error: standard error; null where it is not known.
        tries: number of tries that a share rests on, older ones counting less; null for what is no share.
    """

    value: float | None
    unit: str
    error: float | None = None
    tries: float | None = None


class VersionPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The newest plan of the texts of one target version.

    Attributes:
        version: target version.
        under_way: a text of it is being written.
        age_s: seconds since the newest tokens that the plan knows of came; null before any.
        words: plan, choice and limits in sentences.
        alternatives: plans that it was chosen among, itself included, the fastest first; none where the policy compares
            nothing, or knows too little yet.
        estimates: figures that it was made from, by name, and ``provisional``, the share of what the draft wrote alone
            that the target wrote as well, lately; docs/controller.md says what each is.
        limits: limits that it keeps, or cannot; none where the node's settings have none.
    """

    version: str
    under_way: bool
    age_s: float | None
    plan: PlanStatus
    words: str
    alternatives: list[PlanAlternative]
    estimates: dict[str, PlanEstimate]
    limits: list[LimitReport] = []
