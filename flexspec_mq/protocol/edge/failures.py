"""Words for a user when a session fails: what went wrong, and what helps."""

from flexspec_mq.errors import (
    FlexSpecError,
    GrammarError,
    LinkDown,
    RemoteProtocolError,
    ServerRefused,
    UsageError,
    WorkerError,
)
from schemas.messages import Error, ErrorCode

_OTHER_TOKENS = (
    "a node that cannot read what workers tell of their targets needs the target's own tokenizer; "
    "`flexspec-edge doctor` says what differs. Name another draft, or ask for another version"
)


def hopeless(version: str, *, linked: bool, nobody: bool, queued: bool, failed: str) -> FlexSpecError:
    """The request's patience is over.

    Args:
        version: asked for.
        linked: there is a link to the broker.
        nobody: the broker knows nobody who serves it.
        queued: workers have said that they have too much to do.
        failed: why the last attempt went wrong; empty if none has since the last token.
    """
    if not linked:
        return LinkDown(
            "the broker was away for longer than this text waits",
            hint="is it running? the log has the reason, `flexspec doctor` looks for it; a longer wait waits longer",
        )
    if nobody:
        return WorkerError(f"no worker serves {version}", hint="start one, or ask for another version")
    if failed:
        return repeated(failed)
    if queued:
        return WorkerError(
            f"the workers of {version} have too much to do: this text waited too long for its turn",
            hint="start more workers of this version, or ask again later",
        )
    return WorkerError(
        f"no worker of {version} answered in time",
        hint="look at the workers' status and at the broker's access rules",
    )


def repeated(why: str) -> WorkerError:
    """Attempt after attempt went wrong."""
    return WorkerError(
        why, hint="look at the logs of the version's workers, and check that all of them run the same weights"
    )


def refused(error: Error) -> FlexSpecError:
    """A worker will never take this session."""
    said = f"worker {error.worker} refused the session: {error.detail or error.code.name.lower()}"
    if error.code is ErrorCode.FINGERPRINT:
        return WorkerError(said, hint=_OTHER_TOKENS)
    if error.code is ErrorCode.GRAMMAR:
        return GrammarError(error.detail)
    if error.code is ErrorCode.SAMPLING:
        return UsageError(said, hint="leave out penalties and logit_bias, or ask for a version that has them")
    if error.code is ErrorCode.SERVER:
        return ServerRefused(error.detail or "the server of models will not write this text")
    if error.code is ErrorCode.CONTEXT:
        return WorkerError(said, hint="shorten the prompt or lower the limit")
    return RemoteProtocolError(
        said, hint="edge and worker may be of different releases, or one lacks its --keys"
    )
