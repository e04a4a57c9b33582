"""Sampling parameters that a user can give."""

import msgspec

from flexspec_mq.errors import UsageError
from schemas.messages import Sampling


def verified(sampling: Sampling) -> Sampling:
    """The same, if tokens can be chosen with it.

    Raises:
        UsageError: naming the value with which none can.
    """
    for field in msgspec.structs.fields(Sampling):
        value = getattr(sampling, field.name)
        try:
            msgspec.convert(value, field.type)
        except msgspec.ValidationError as error:
            raise UsageError(f"{field.name} {value} is not {str(error).rpartition('` ')[2]}") from error
    if sampling.seed >= 2**64:
        raise UsageError(f"seed {sampling.seed} does not fit in 64 bits")
    return sampling
