"""The slots of one model, the oldest session first.

    session 1   has a slot of A, held back until B is ready .......... B's slot ---> starts, writes, ends
    session 2   waits for A     has a slot of B, held back --yields--^              A's, then B's slot again

A request with a slot may be held back: the other members of its session are not ready, perhaps because they wait for a
slot of another model. If each of two sessions had the slot that the other one waits for, neither would ever start: a
deadlock. So a request that is held back gives its slot to an older session. All producers agree which session is older,
by its opening entry.

A member that is steered keeps its slot from one generation to the next in its Seat: a younger session that waits does
not come between. While the member has nothing to generate, the slot is parked: an older session takes it, and so does
another member of the same session, which the steered one would otherwise keep out to the end.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools

# The (ms, number) of a session's opening entry.
Age = tuple[int, int]


class Slot:
    """The slot of one request. `is_wanted` is set when an older session waits for it."""

    def __init__(self, age: Age) -> None:
        self.age = age
        self.is_wanted = asyncio.Event()


class Seat:
    """Where one member keeps its slot between its generations; empty while it has none."""

    def __init__(self, slots: Slots, age: Age) -> None:
        self.age = age
        self._slots = slots
        self._slot: Slot | None = None

    def keep(self, slot: Slot) -> None:
        """The next generation of the member uses this slot."""
        self._slot = slot

    def park(self) -> None:
        """The member has nothing to generate until it is steered."""
        if self._slot is not None:
            self._slots.park(self)

    def take(self) -> Slot | None:
        """The slot, if it is still there; the seat is empty then."""
        self._slots.unpark(self)
        slot, self._slot = self._slot, None
        return slot

    def leave(self) -> None:
        """The member needs no slot any more."""
        if slot := self.take():
            self._slots.give_back(slot)


class Slots:
    """`count` slots. Bounded by the sessions that a producer takes at once."""

    def __init__(self, count: int) -> None:
        self._free, self._is_open = count, True
        self._waiting: list[tuple[Age, int, asyncio.Future[None]]] = []
        self._order = itertools.count()
        # The slots of requests that are held back.
        self._idle: set[Slot] = set()
        self._parked: set[Seat] = set()

    @property
    def has_free(self) -> bool:
        return self._free > 0

    def close(self) -> None:
        """No request that waits gets a slot from now on."""
        self._is_open = False

    async def take(self, age: Age) -> Slot:
        """Returns with a slot: at once if one is free, else when it is this session's turn."""
        if self._free and self._is_open:
            self._free -= 1
            return Slot(age)
        if self._is_open and (seat := max(self._parked, key=lambda one: one.age, default=None)) and seat.age >= age:
            seat.take()
            return Slot(age)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (age, next(self._order), turn))
        self._ask_for_idle()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give_next()
            raise
        return Slot(age)

    def give_back(self, slot: Slot) -> None:
        """Gives the slot to the oldest session that waits."""
        self._idle.discard(slot)
        self._give_next()

    def hold_back(self, slot: Slot) -> None:
        """The request is held back from now on: an older session may take its slot."""
        self._idle.add(slot)
        self._ask_for_idle()

    def park(self, seat: Seat) -> None:
        """Offers the slot in the seat to requests of its session and of older ones."""
        if self._is_open and self._waiting and self._waiting[0][0] <= seat.age:
            seat.leave()
        else:
            self._parked.add(seat)

    def unpark(self, seat: Seat) -> None:
        self._parked.discard(seat)

    def start(self, slot: Slot) -> None:
        """The request is no longer held back, and keeps its slot to its end."""
        self._idle.discard(slot)

    def _give_next(self) -> None:
        while self._waiting and self._is_open:
            _, _, turn = heapq.heappop(self._waiting)
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    def _ask_for_idle(self) -> None:
        """Asks for the slots of the youngest requests that are held back, one for each older request that waits."""
        ages = sorted(age for age, _, turn in self._waiting if not turn.done())
        for age, slot in zip(ages, sorted(self._idle, key=lambda one: one.age, reverse=True), strict=False):
            if age < slot.age:
                slot.is_wanted.set()
