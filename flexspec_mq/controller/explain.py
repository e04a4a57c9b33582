"""Why a plan is as it is: what it was chosen over, and from what. Nothing is computed before somebody asks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from msgspec.structs import replace

from flexspec_mq.controller.observation import Observation
from flexspec_mq.controller.plan import Plan, Policy
from schemas.plan import LimitReport, PlanAlternative, PlanEstimate


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan, and where it comes from.

    Attributes:
        policy: maker of the plan; asked for nothing but its alternatives.
        plan: the plan.
        seen: observation that it was made from.
        estimates: makes all estimates of the session, as they are now.
    """

    policy: Policy
    plan: Plan
    seen: Observation
    estimates: Callable[[], Mapping[str, PlanEstimate]] = dict

    @property
    def alternatives(self) -> tuple[PlanAlternative, ...]:
        """Plans that it was chosen among, the fastest first; none where the policy compares nothing.

        The chosen one is named as the plan is: how it is carried out may differ from how it was compared, by look-ahead
        that is lent to a device that has not drafted yet.
        """
        does = in_words(self.plan)
        told: dict[str, PlanAlternative] = {}
        for plan in sorted(self.policy.alternatives(), key=lambda plan: (not plan.chosen, plan.ms_per_token)):
            named = replace(plan, name=does) if plan.chosen else plan
            told.setdefault(named.name, named)
        return tuple(sorted(told.values(), key=lambda plan: plan.ms_per_token or 0.0))

    @property
    def limits(self) -> tuple[LimitReport, ...]:
        """How the limits that the user gave are kept; none where none were given."""
        return tuple(self.policy.limits())


def device_drafts(length: int, window: int, *, ahead: bool) -> str:
    """Words for a device that drafts, K at a time with W in flight, and for what the worker does meanwhile."""
    return f"device drafts K={length} W={window}, worker {'runs ahead' if ahead else 'waits'}"


def nobody_drafts(*, ahead: bool) -> str:
    """Words for a target that decides each token without a draft."""
    return f"nobody drafts, worker {'runs ahead' if ahead else 'waits'}"


def in_words(plan: Plan) -> str:
    """Words for a plan. Whether a worker drafts that may is its own affair."""
    ahead = plan.ahead > 0
    if ahead and plan.worker_draft and not plan.draft_length:
        return "worker runs ahead, and drafts if it can"
    if not plan.draft_length:
        return nobody_drafts(ahead=ahead)
    more = ", and drafts if it can" if ahead and plan.worker_draft else ""
    return device_drafts(plan.draft_length, plan.in_flight, ahead=ahead) + more


def limit_in_words(report: LimitReport) -> str:
    """How a limit stands, in a sentence without its end."""
    words = f"{report.name.replace('_', ' ')} of {report.limit:.3g} {report.unit}"
    has = "" if report.value is None else f": {report.value:.3g} so far"
    if report.state == "out_of_reach":
        least = "" if report.reach is None else f"; the best plan is expected to take {report.reach:.3g}"
        return f"{words} cannot be kept now{has}{least}"
    if report.state == "exceeded":
        return f"{words} is exceeded{has}"
    if report.state == "below":
        return f"{words}: the battery is below it, the device drafts nothing"
    return f"{words} is kept{has}"
