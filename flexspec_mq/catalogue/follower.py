"""A follower of a family: which of the signed messages that come are taken up. Without I/O or clock.

The driver gives it payloads, writes the record of an `Accepted` to disk, tells the follower to `adopt` it, and only
then acts on `catalogue`. So a crash at any moment leaves a record from which another follower goes on, and what was
acted on is never forgotten.
"""

from dataclasses import dataclass
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from flexspec_mq.catalogue.refusals import Reason, RecordError, SignedRefused
from flexspec_mq.catalogue.signing import Opened, open_signed, opened, signed_later
from flexspec_mq.daemon.dated import Dated, lapsed
from flexspec_mq.errors import LocalProtocolError
from schemas.catalogue import MAX_PAYLOAD, Catalogue, KeySet
from schemas.statement import Second

AHEAD: Final = 300
"""Seconds by which a catalogue may have been issued later than our clock says."""

_Payload = Annotated[bytes, Meta(max_length=MAX_PAYLOAD)]


class Record(msgspec.Struct, frozen=True, array_like=True):
    """The memory of a follower.

    Attributes:
        serial: serial of the key set.
        epoch: the highest of all adopted catalogues, but for a reset.
        keys: payload of the key set.
        catalogue: payload of the catalogue; empty before the first.
        catalogue_keys: payload of the key set under which that was adopted.
    """

    serial: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    epoch: Second
    keys: _Payload
    catalogue: _Payload = b""
    catalogue_keys: _Payload = b""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A message to take up: write `record` to disk, then `Follower.adopt` it.

    Attributes:
        refused: refusal of a catalogue that had waited for this key set and is no good.
    """

    record: Record
    refused: SignedRefused | None = None


@dataclass(frozen=True, slots=True)
class _State:
    """A record, read."""

    record: Record
    keys: Opened[KeySet]
    catalogue: Opened[Catalogue] | None


class _Waits(SignedRefused):
    """A catalogue that another key set, or time, may make good."""


class Follower:
    """The state of a family at one program.

    Args:
        family: name of the family.
        root: public key that signs key sets.
        record: memory of an earlier follower; None for the first.
        renews: whether an expired catalogue is taken up, by whoever signs it anew.

    Attributes:
        alarm: the last equivocation; it stays, for people to see.

    Raises:
        RecordError: the record is of another family or root key, or was tampered with.
    """

    def __init__(
        self, family: str, root: bytes, record: Record | None = None, *, renews: bool = False
    ) -> None:
        self.family = family
        self.alarm: SignedRefused | None = None
        self._root = root
        self._renews = renews
        self._state = None if record is None else self._read(record)
        self._offered: _State | None = None
        self._waiting: bytes | None = None

    @property
    def catalogue(self) -> Catalogue | None:
        """The one to act on."""
        signed = None if self._state is None else self._state.catalogue
        return None if signed is None else signed.body

    @property
    def keys(self) -> KeySet | None:
        """The key set that counts."""
        return None if self._state is None else self._state.keys.body

    @property
    def record(self) -> Record | None:
        """The adopted state, as it is on disk."""
        return None if self._state is None else self._state.record

    @property
    def waiting(self) -> bool:
        """Whether a catalogue waits for its key set, or for our clock; see `again`."""
        return self._waiting is not None

    def expired(self, now: float) -> bool:
        """Whether the catalogue should have been signed anew by now. It counts all the same."""
        catalogue = self.catalogue
        return catalogue is not None and _expires(catalogue) <= now

    @property
    def dated(self) -> tuple[Dated, ...]:
        """The key set, if there is one, as a document that expires."""
        return () if self.keys is None else (_dated(self.keys),)

    def lapsed(self, now: float) -> str:
        """Why the catalogue is not to be believed for anything new: its key set has expired; empty while it holds."""
        return lapsed(self.dated, now)

    def rightful_keys(self, standing: bytes) -> bytes:
        """Payload of the adopted key set if it should stand on its topic instead of `standing`, else nothing.

        It should where that is empty, signed by nobody who counts, or older.
        """
        if self._state is None or signed_later(standing, KeySet, [self._root], 1):
            return b""
        try:
            serial = open_signed(standing, KeySet, self.family, [self._root]).body.serial
        except SignedRefused:
            serial = 0
        return self._state.record.keys if serial < self._state.record.serial else b""

    def rightful_catalogue(self, standing: bytes, keys: bytes) -> bytes:
        """The same of the catalogue, where `keys` stand on the key set's topic.

        A catalogue that the root took back, or whose signers count no more, should stand nowhere. A later key set
        that it claims is believed where we may lack that.
        """
        state = self._state
        if state is None or state.catalogue is None:
            return b""
        ours, counts = state.catalogue, state.keys.body
        if ours.body.epoch != state.record.epoch or ours.signers(counts.keys) < counts.threshold:
            return b""
        if signed_later(standing, Catalogue, counts.keys, counts.threshold):
            return b""
        try:
            other = opened(standing, Catalogue, self.family)
        except SignedRefused:
            return ours.payload
        if other.body.key_set > counts.serial and keys != state.record.keys:
            return b""
        valid = other.signers(counts.keys) >= counts.threshold
        return b"" if valid and other.body.epoch >= ours.body.epoch else ours.payload

    def receive_keys(self, payload: bytes, now: float) -> Accepted | SignedRefused | None:
        """Judge a message on ``f1/k/<family>``, and with new keys a catalogue that waited for them.

        None, as of the others that judge: it says what is adopted already.
        """
        try:
            state = self._with_keys(payload, now)
        except SignedRefused as error:
            return self._refused(error)
        if state is None:
            return None
        refused: SignedRefused | None = None
        if self._waiting is not None:
            try:
                state = self._with_catalogue(state, self._waiting, now) or state
            except SignedRefused as error:
                refused = self._refused(error, self._waiting)
        self._offered = state
        return Accepted(state.record, refused)

    def receive_catalogue(self, payload: bytes, now: float) -> Accepted | SignedRefused | None:
        """Judge a message on ``f1/h/<family>``.

        A catalogue whose key set is not here yet, or from later than our clock says, is refused and kept: `again`
        and new keys have it judged anew. Only the last such one is.
        """
        try:
            state = self._with_catalogue(self._state, payload, now)
        except SignedRefused as error:
            return self._refused(error, payload)
        if state is None:
            self._waits_no_more(payload)
            return None
        self._offered = state
        return Accepted(state.record)

    def again(self, now: float) -> Accepted | SignedRefused | None:
        """Judge the catalogue that waits, if one does: for a machine whose clock is set after it has connected."""
        return None if self._waiting is None else self.receive_catalogue(self._waiting, now)

    def adopt(self, record: Record) -> None:
        """Take up what was accepted last, once it is on disk.

        Raises:
            LocalProtocolError: it is another record than that of the last `Accepted`.
        """
        if self._offered is None or record is not self._offered.record:
            raise LocalProtocolError("only the record that was accepted last can be adopted")
        self._waits_no_more(record.catalogue)
        self._state, self._offered = self._offered, None

    def _with_keys(self, payload: bytes, now: float) -> _State | None:
        """The state after a key set; None if it is the one that we have."""
        old = self._state
        message = opened(payload, KeySet, self.family)
        if old is not None and message.signed == old.keys.signed:
            return None
        message = open_signed(payload, KeySet, self.family, [self._root])
        serial = message.body.serial
        if not self._renews and (why := _dated(message.body).over(now)):
            raise SignedRefused(Reason.EXPIRED, why, hint=_RENEW)
        if old is None:
            return _State(Record(serial, 0, payload), message, None)
        if serial == old.record.serial:
            raise SignedRefused(
                Reason.EQUIVOCATION, f"two key sets of {self.family} have the serial {serial}", hint=_CALL
            )
        if serial < old.record.serial:
            raise SignedRefused(
                Reason.ROLLBACK, f"key set {serial} is older than {old.record.serial}, which was adopted"
            )
        epoch = min(old.record.epoch, message.body.reset) if message.body.reset else old.record.epoch
        record = msgspec.structs.replace(old.record, serial=serial, epoch=epoch, keys=payload)
        return _State(record, message, old.catalogue)

    def _with_catalogue(self, state: _State | None, payload: bytes, now: float) -> _State | None:
        """The state after a catalogue; None if it is the one that we have."""
        message = opened(payload, Catalogue, self.family)
        body = message.body
        if state is None:
            raise _Waits(Reason.KEY_SET, f"the catalogue of {self.family} came, and no key set", hint=_TRUST)
        current = state.catalogue
        if current is not None and message.signed == current.signed:
            return None
        self._check_signers(state, message, now)
        epoch, highest = body.epoch, state.record.epoch
        if current is not None and epoch == highest == current.body.epoch:
            raise SignedRefused(
                Reason.EQUIVOCATION, f"two catalogues of {self.family} have the epoch {epoch}", hint=_CALL
            )
        if epoch <= highest:
            raise SignedRefused(
                Reason.ROLLBACK, f"the catalogue has epoch {epoch}; one of {highest} was adopted before"
            )
        if epoch > now + AHEAD:
            raise _Waits(
                Reason.FUTURE,
                f"the catalogue was issued {epoch - now:.0f} s after our clock's time",
                hint="set this machine's clock, or the publisher's",
            )
        if _expires(body) <= now and not self._renews:
            raise SignedRefused(
                Reason.EXPIRED,
                f"the catalogue expired {now - _expires(body):.0f} s ago",
                hint="`flexspec head watch` signs it anew",
            )
        record = Record(state.record.serial, epoch, state.record.keys, payload, state.record.keys)
        return _State(record, state.keys, message)

    def _check_signers(self, state: _State, message: Opened[Catalogue], now: float) -> None:
        """Whether enough keys of the key set that counts have signed a catalogue."""
        keys, serial = state.keys.body, message.body.key_set
        if not self._renews and (why := _dated(keys).over(now)):
            raise _Waits(Reason.EXPIRED, f"no catalogue is taken up: {why}", hint=_RENEW)
        if serial > keys.serial:
            raise _Waits(
                Reason.KEY_SET,
                f"the catalogue is signed under key set {serial}; key set {keys.serial} is the newest here",
                hint=_TRUST,
            )
        signers = message.signers(keys.keys)
        if signers >= keys.threshold:
            return
        if serial < keys.serial:
            raise SignedRefused(
                Reason.KEY_SET,
                f"the catalogue is signed under key set {serial}; key set {keys.serial} counts now",
                hint="`flexspec head watch` or any change signs it anew",
            )
        raise SignedRefused(
            Reason.SIGNATURE,
            f"the catalogue has {signers} valid signatures of keys that count, not {keys.threshold}",
        )

    def _refused(self, error: SignedRefused, catalogue: bytes | None = None) -> SignedRefused:
        """Note what is to be remembered of a refusal."""
        if error.reason is Reason.EQUIVOCATION:
            self.alarm = error
        if isinstance(error, _Waits):
            self._waiting = catalogue
        elif catalogue is not None:
            self._waits_no_more(catalogue)
        return error

    def _waits_no_more(self, catalogue: bytes) -> None:
        if self._waiting == catalogue:
            self._waiting = None

    def _read(self, record: Record) -> _State:
        """Read a record of an earlier follower, all of it verified from the root key on."""
        try:
            keys = open_signed(record.keys, KeySet, self.family, [self._root])
            catalogue: Opened[Catalogue] | None = None
            if record.catalogue:
                signing = open_signed(record.catalogue_keys, KeySet, self.family, [self._root]).body
                catalogue = open_signed(
                    record.catalogue, Catalogue, self.family, signing.keys, signing.threshold
                )
        except SignedRefused as error:
            raise RecordError(
                f"what was kept of the family {self.family} cannot be used: {error.message}",
                hint="give the root key that it was made with; if the family has another one now, remove the file",
            ) from error
        if record.serial != keys.body.serial:
            raise RecordError(
                f"what was kept of the family {self.family} contradicts itself", hint="remove the file"
            )
        return _State(record, keys, catalogue)


_CALL = "somebody else may hold the key: ask who publishes this family, and trust another key"
_TRUST = "`flexspec head trust` publishes it"
_RENEW = "`flexspec head trust` signs a later one; where that was done, somebody on the way withholds it"


def _dated(keys: KeySet) -> Dated:
    return Dated(f"key set {keys.serial} of {keys.family}", keys.expires, _RENEW)


def _expires(catalogue: Catalogue) -> int:
    return catalogue.epoch + catalogue.lifetime
