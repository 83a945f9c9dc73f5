"""A queue that serves its callers in turn, and each caller's items in their order."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class RoundRobin(Generic[T]):
    """Items of several callers. Not safe for threads: the owner holds a lock."""

    def __init__(self) -> None:
        #: The first caller is the next one to be served.
        self._items: OrderedDict[str | None, deque[T]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._items.values()))

    def __iter__(self) -> Iterator[T]:
        """Iterate over the items in no particular order."""
        for items in self._items.values():
            yield from items

    def put(self, caller: str | None, item: T) -> None:
        """Add an item behind the others of its caller."""
        self._items.setdefault(caller, deque()).append(item)

    def peek(self) -> T | None:
        """Return the item that :meth:`take` would take, None when there is none."""
        return next((items[0] for items in self._items.values()), None)

    def take(self, fits: Callable[[T], bool] = lambda _: True) -> T | None:
        """Remove and return the next item that fits; None when none does.

        Callers are asked in turn. The one that is served goes behind the others.
        """
        for caller, items in self._items.items():
            found = next((item for item in items if fits(item)), None)
            if found is not None:
                items.remove(found)
                self._items.move_to_end(caller)
                if not items:
                    del self._items[caller]
                return found
        return None

    def remove(self, caller: str | None, item: T) -> bool:
        """Remove an item; return whether it was there."""
        items = self._items.get(caller)
        if items is None or item not in items:
            return False
        items.remove(item)
        if not items:
            del self._items[caller]
        return True
