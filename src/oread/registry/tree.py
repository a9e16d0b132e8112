"""Keep what a registry says, and compile it; registries may hang in others.

What a registry says (`Model`) is a value: a change makes the next one. From
it come the `Offer`s of its events and of those mounted under it, and from
these the entries and tables. A change is staged first, for the node itself
and for every node above it: patterns must not clash, compiling must work, and
no endpoint being served may refuse its new entry. Only then all of it is
swapped in at once. An entry is compiled again only when its offer changed.

Not here: registering (`registry`) and calling (`emission`, the listeners).
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator, Mapping

import attrs
import trio

from oread.dispatch import Entry, Gate, Layer, Link, Pattern, Table, compile_entry
from oread.errors import BadRequest, RegistrationError
from oread.registry.hooks import Hooks
from oread.registry.registration import Registration

FEW = 8
"""Changed events up to which a table is made of the one before it."""
NO_LIMIT = sys.maxsize
"""What a gate lets in once its event is not limited any more."""


@attrs.frozen
class EventModel:
    """One event: its handlers in their order, and its session."""

    pattern: Pattern
    handlers: tuple[Registration, ...] = ()
    session: Registration | None = None
    limit: int | None = attrs.field(init=False)
    """The smallest that a handler has."""

    @property
    def registrations(self) -> tuple[Registration, ...]:
        """All that is registered."""
        return self.handlers if self.session is None else (*self.handlers, self.session)

    @limit.default
    def _read_limit(self) -> int | None:
        return min((each.options.limit for each in self.handlers if each.options.limit), default=None)


@attrs.frozen(eq=False)
class Use:
    """One middleware, for all events or for one."""

    layer: Layer
    event: str | None


@attrs.frozen(eq=False)
class Mount:
    """Another registry's events, under a prefix."""

    prefix: str
    node: Node


@attrs.frozen(kw_only=True)
class Model:
    """All that one registry says."""

    events: Mapping[str, EventModel] = attrs.field(factory=dict)
    uses: tuple[Use, ...] = ()
    mounts: tuple[Mount, ...] = ()

    def with_event(self, name: str, event: EventModel) -> Model:
        """Put an event in, or take it out when nothing is left of it."""
        events = {**self.events, name: event}
        if not event.registrations:
            del events[name]
        return attrs.evolve(self, events=events)

    def layers(self, event: str) -> tuple[Layer, ...]:
        """Return the middleware of an event: global outside, its own inside."""
        if not self.uses:
            return ()
        everywhere = [use.layer for use in self.uses if use.event is None]
        return (*everywhere, *(use.layer for use in self.uses if use.event == event))


@attrs.frozen(kw_only=True)
class Offer:
    """One event as a registry offers it: what its entries are compiled from."""

    pattern: Pattern
    registrations: tuple[Registration, ...]
    layers: tuple[Layer, ...]
    gate: Gate | None
    hooks: tuple[Hooks, ...]
    """Of the registry that has it, then of those it is mounted in."""
    inner: Offer | None = attrs.field(default=None, eq=False)
    """What it was made of, when it is mounted."""

    def compile(self, *, exposed: bool) -> Entry | None:
        """Make the entry for endpoints, or the one for `emit`; None when it has nothing."""
        links: list[Link] = []
        session = None
        for each in self.registrations:
            if each.link is None:
                session = each.handler
            elif each.options.exposed or not exposed:
                links.append(each.link)
        if not links and session is None:
            return None
        entry = compile_entry(self.pattern.text, links, session, layers=self.layers, gate=self.gate)
        _unprotect(entry)
        return entry

    @property
    def is_whole(self) -> bool:
        """Whether everything is exposed: one entry serves both."""
        return all(each.options.exposed for each in self.registrations)

    def under(self, prefix: str, model: Model, hooks: Hooks, known: Mapping[str, Offer]) -> Offer:
        """Return it as the registry offers it in which it is mounted; a known one if nothing has changed."""
        name = f"{prefix}/{self.pattern.text}"
        layers = (*model.layers(name), *self.layers)
        old = known.get(name)
        if old is not None and old.inner is self and old.layers == layers:
            return old
        return attrs.evolve(
            self, pattern=Pattern.parse(name), layers=layers, hooks=(*self.hooks, hooks), inner=self
        )


def _unprotect(entry: Entry) -> None:
    """Let Ctrl-C end a handler, not the loop around it.

    Marks the code of our closures, never the user's functions.
    """
    entries = (entry, *(entry.by_method or {}).values())
    for function in (entry.session, *(call for each in entries for call in (each.call, each.start))):
        if function is not None:
            trio.lowlevel.disable_ki_protection(function)


@attrs.frozen(kw_only=True)
class Compiled:
    """The offers of a registry, and what was made of them."""

    offers: Mapping[str, Offer] = attrs.field(factory=dict)
    exposed: Mapping[str, Entry] = attrs.field(factory=dict)
    every: Mapping[str, Entry] = attrs.field(factory=dict)
    exposed_table: Table[Entry] = attrs.field(factory=Table)
    every_table: Table[Entry] = attrs.field(factory=Table)

    def renew(self, offers: Mapping[str, Offer]) -> Compiled:
        """Compile these offers, keeping every entry whose offer is as it was."""
        exposed: dict[str, Entry] = {}
        every: dict[str, Entry] = {}
        for name, offer in offers.items():
            old = self.offers.get(name)
            if old is offer or old == offer:
                shown, whole = self.exposed.get(name), self.every[name]
            else:
                shown = offer.compile(exposed=True)
                whole = shown if shown is not None and offer.is_whole else _whole(offer)
            every[name] = whole
            if shown is not None:
                exposed[name] = shown
        exposed_table = self._renew_table(self.exposed_table, self.exposed, exposed, offers)
        return Compiled(
            offers=offers,
            exposed=exposed,
            every=every,
            exposed_table=exposed_table,
            every_table=exposed_table
            if every == exposed
            else self._renew_table(self.every_table, self.every, every, offers),
        )

    def _renew_table(
        self,
        table: Table[Entry],
        before: Mapping[str, Entry],
        after: Mapping[str, Entry],
        offers: Mapping[str, Offer],
    ) -> Table[Entry]:
        """Make the table of these entries, of the one before where little has changed."""
        gone = [name for name in before if name not in after]
        changed = [name for name, entry in after.items() if before.get(name) is not entry]
        if len(gone) + len(changed) > FEW:
            return Table.build((offers[name].pattern, entry) for name, entry in after.items())
        for name in gone:
            table = table.replace(self.offers[name].pattern, None)
        for name in changed:
            table = table.replace(offers[name].pattern, after[name])
        return table


def _whole(offer: Offer) -> Entry:
    entry = offer.compile(exposed=False)
    assert entry is not None, "an event without anything is taken out of the model"
    return entry


@attrs.define(eq=False)
class Slot:
    """What an endpoint with a fixed event holds: always its present entry."""

    event: str
    entry: Entry
    captures: Mapping[str, str]
    check: Callable[[Entry], None]
    """Raises RegistrationError for an entry that the endpoint can't serve."""


@attrs.frozen(kw_only=True)
class State:
    """What is swapped, whole."""

    model: Model = attrs.field(factory=Model)
    gates: Mapping[str, Gate] = attrs.field(factory=dict)
    """Of the events that are limited, and of those that were while calls of then still run."""
    compiled: Compiled = attrs.field(factory=Compiled)


@attrs.define(eq=False)
class Routes:
    """Always the present table of exposed events, for whoever looks into it at each message."""

    table: Table[Entry] = attrs.field(factory=Table)


@attrs.define(eq=False, weakref_slot=True)
class Node:
    """One registry in the tree of mounts."""

    routes: Routes = attrs.field(factory=Routes)
    state: State = attrs.field(factory=State)
    hooks: Hooks = attrs.field(factory=Hooks)
    slots: set[Slot] = attrs.field(factory=set)
    reserved: list[Mapping[str, str]] = attrs.field(factory=list)
    """Names that no exposed event may have, and why."""
    parents: weakref.WeakSet[Node] = attrs.field(factory=weakref.WeakSet)
    """Weak: a registry that is mounted somewhere does not keep that alive."""

    def change(self, model: Model, check: Callable[[Compiled], None] | None = None) -> None:
        """Swap a new model in, here and in the nodes above, or nowhere.

        Args:
            model: what is to be said from now on.
            check: may refuse what this node would become.

        Raises:
            RegistrationError: nothing has changed then.
        """
        staged: dict[Node, State] = {}
        self._stage(model, staged)
        if check is not None:
            check(staged[self].compiled)
        for node, state in staged.items():
            node._check_reserved(state.compiled)
        slots = [found for node, state in staged.items() for found in node._check_slots(state.compiled)]
        for node, state in staged.items():
            node.state = state
            node.routes.table = state.compiled.exposed_table
            for name, gate in state.gates.items():
                event = state.model.events.get(name)
                gate.resize((event.limit if event is not None else None) or NO_LIMIT)
        for slot, entry, captures in slots:
            slot.entry, slot.captures = entry, captures

    def use(self, use: Use) -> Callable[[], None]:
        """Add one middleware; return what takes it out again.

        Raises:
            RegistrationError: it can't go around some handler.
        """
        self.change(attrs.evolve(self.state.model, uses=(*self.state.model.uses, use)))

        def undo() -> None:
            left = tuple(each for each in self.state.model.uses if each is not use)
            self.change(attrs.evolve(self.state.model, uses=left))

        return undo

    def mount(self, mount: Mount) -> Callable[[], None]:
        """Add what another node offers; return what takes it out again.

        Raises:
            RegistrationError: it clashes with what is here.
        """
        self.change(attrs.evolve(self.state.model, mounts=(*self.state.model.mounts, mount)))
        mount.node.parents.add(self)

        def undo() -> None:
            left = tuple(each for each in self.state.model.mounts if each is not mount)
            self.change(attrs.evolve(self.state.model, mounts=left))
            if all(each.node is not mount.node for each in left):
                mount.node.parents.discard(self)

        return undo

    def reserve(self, names: Mapping[str, str]) -> Callable[[], None]:
        """Refuse exposed events of these names; return what allows them again.

        Raises:
            RegistrationError: there is such an event.
        """
        self.reserved.append(names)
        try:
            self._check_reserved(self.state.compiled)
        except RegistrationError:
            self.reserved.remove(names)
            raise
        return lambda: self.reserved.remove(names)

    def hooks_of(self, event: str) -> tuple[Hooks, ...]:
        """Return the hooks that an event's failures go to, the innermost first."""
        compiled = self.state.compiled
        try:
            found = compiled.every_table.find(event)
        except BadRequest:
            found = None
        return (self.hooks,) if found is None else compiled.offers[found[0].event].hooks

    def reaches(self, other: Node) -> bool:
        """Tell whether another node is this one, or mounted below it."""
        return self is other or any(mount.node.reaches(other) for mount in self.state.model.mounts)

    def _stage(self, model: Model, staged: dict[Node, State]) -> None:
        gates = _renew_gates(self.state.gates, model)
        offers: dict[str, Offer] = {}
        for offer in self._offers(model, gates, staged):
            name = offer.pattern.text
            if name in offers:
                raise RegistrationError(f"event {name!r} is in two of the registries that are put together")
            offers[name] = offer
        if offers.keys() != self.state.compiled.offers.keys():
            _refuse_same_shape(offers)
        staged[self] = State(model=model, gates=gates, compiled=self.state.compiled.renew(offers))
        for parent in self.parents:
            parent._stage(parent.state.model, staged)

    def _offers(
        self, model: Model, gates: Mapping[str, Gate], staged: Mapping[Node, State]
    ) -> Iterator[Offer]:
        known = self.state.compiled.offers
        for name, event in model.events.items():
            old, layers = known.get(name), model.layers(name)
            gate = gates.get(name) if event.limit else None
            registrations = event.registrations
            # Looked at before one is made: that is what a change costs where there are many events.
            if (
                old is not None
                and old.registrations is registrations
                and old.layers == layers
                and old.gate is gate
            ):
                yield old
            else:
                yield Offer(
                    pattern=event.pattern,
                    registrations=registrations,
                    layers=layers,
                    gate=gate,
                    hooks=(self.hooks,),
                )
        for mount in model.mounts:
            state = staged.get(mount.node, mount.node.state)
            for offer in state.compiled.offers.values():
                yield offer.under(mount.prefix, model, self.hooks, known)

    def _check_reserved(self, compiled: Compiled) -> None:
        for names in self.reserved:
            for name in names.keys() & compiled.exposed.keys():
                raise RegistrationError(f"{names[name]} serves what the event {name!r} would")

    def _check_slots(self, compiled: Compiled) -> Iterator[tuple[Slot, Entry, Mapping[str, str]]]:
        for slot in self.slots:
            found = compiled.exposed_table.find(slot.event)
            entry, captures = found if found is not None else (compile_entry(slot.event, ()), {})
            if entry is not slot.entry and entry.links:
                slot.check(entry)
            yield slot, entry, captures


def _renew_gates(old: Mapping[str, Gate], model: Model) -> Mapping[str, Gate]:
    limits = {name: event.limit for name, event in model.events.items() if event.limit}
    kept = {name: gate for name, gate in old.items() if name in limits or gate.running}
    fresh = {name: Gate(limit) for name, limit in limits.items() if name not in kept}
    return {**kept, **fresh}


def _refuse_same_shape(offers: Mapping[str, Offer]) -> None:
    seen: dict[tuple[str, ...], str] = {}
    for name, offer in offers.items():
        other = seen.setdefault(offer.pattern.shape, name)
        if other != name:
            raise RegistrationError(f"event {name!r} matches exactly what {other!r} does")
