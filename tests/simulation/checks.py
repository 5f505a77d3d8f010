"""What must be true: of the rows after every commit, and of what every worker knows."""

from collections import Counter
from typing import NamedTuple
from uuid import UUID

from sales.inventory import AVAILABLE, EXPIRED, HELD, SOLD, Inventory
from sales.models import SaleItem
from tests.simulation.database import Database
from tests.simulation.rows import Item, Tables

STATES = {AVAILABLE: "available", HELD: "held", EXPIRED: "held", SOLD: "sold"}


class Committed(NamedTuple):
    """A version of an item, and when it was committed."""

    item: Item
    at: float


class History:
    """All versions of all items. Every commit is checked against the invariants (section 7 of the design)."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._versions = {id_: [Committed(item, database.clock())] for id_, item in database.items.items()}
        self._before: dict[int, dict[int, list[Committed]]] = {}
        self._ends: dict[UUID, str] = {}  # the states of checkouts in their own rows, where that is no hold

    @property
    def servers(self) -> list[int]:
        """Those that there were, and the one there is."""
        return [*self._before, self.database.server]

    def of(self, sale_id: int, item_id: int, server: int | None = None) -> list[Committed]:
        """The versions of an item, on a server that is gone or on the present one; version 0 comes first.

        Empty where there is no such item.
        """
        return self._before.get(server or 0, self._versions).get(SaleItem.id_of(sale_id, item_id), [])

    def go_on(self, former: int) -> None:
        """The server is another one than the former, and may not have all that it had."""
        self._before[former] = {id_: list(versions) for id_, versions in self._versions.items()}
        for id_, versions in self._versions.items():
            del versions[self.database.items[id_].version + 1 :]
        self._ends = {code: row.state for code, row in self.database.checkouts.items() if row.state != "held"}
        certify(self.database)

    def take_in(self, changed: Tables) -> None:
        """Check what was committed just now."""
        for id_, item in changed.items.items():
            versions = self._versions[id_]
            before = versions[-1].item
            assert item.version == before.version + 1, f"{before} became {item}"
            assert (before.state, item.state) in {
                ("available", "held"),
                ("held", "sold"),
                ("held", "available"),
            }, f"{before} became {item}"
            versions.append(Committed(item, self.database.clock()))
        noted = {
            SaleItem.id_of(sale_id, item_id)
            for (sale_id, _, _), item_ids in changed.changes.items()
            for item_id in item_ids
        }
        assert noted == changed.items.keys(), f"changed were {list(changed.items)}, noted are {noted}"
        for code, checkout in changed.checkouts.items():
            before_it = self._ends.get(code)
            assert before_it in (None, checkout.state), f"{checkout} was {before_it}"
            if checkout.state != "held":
                self._ends[code] = checkout.state
        certify(self.database)


def certify(database: Database) -> None:
    """The invariants, as `sales.statements.certificate` has them: of checkouts as their items tell them."""
    checkouts = {code: told for code in database.checkouts if (told := database.committed.told(code))}
    for sale in database.sales.values():
        ids = [SaleItem.id_of(sale.id, item_id) for item_id in range(sale.items)]
        assert all(id_ in database.items for id_ in ids), f"items of {sale} are missing"
    assert len(database.items) == sum(sale.items for sale in database.sales.values())

    taken = Counter(
        (item.sale_id, item.user_id) for item in database.items.values() if item.state != "available"
    )
    allowed = {user: count for user, count in database.allowances.items() if count}
    assert taken == allowed, f"users have {dict(taken)}, and their allowances are {allowed}"
    for (sale_id, user_id), count in taken.items():
        limit = database.sales[sale_id].user_limit
        assert count <= limit, f"user {user_id} has {count} of {limit}"

    for item in database.items.values():
        checkout = checkouts.get(item.code) if item.code else None
        if item.state == "available":
            assert (item.code, item.user_id, item.held_until) == (None, None, None), f"{item} is free"
            continue
        assert checkout is not None, f"{item} has no checkout"
        assert item[:2] == checkout[1:3], f"{item} and {checkout} are not of the same item"
        assert item.user_id == checkout.user_id, f"{item} and {checkout} are not of the same user"
        assert item.held_until == checkout.expires_at, f"{item} and {checkout} end at different times"
        bought_at = item.purchased_at and max(item.purchased_at, checkout.created_at)
        assert bought_at == checkout.purchased_at, f"{item} and {checkout} differ in the purchase"
        assert (item.state, checkout.state) in {("held", "held"), ("sold", "purchased")}, (
            f"{item} does not fit {checkout}"
        )

    purchased: Counter[tuple[int, int]] = Counter()
    for checkout in checkouts.values():
        item = database.items[SaleItem.id_of(checkout.sale_id, checkout.item_id)]
        if checkout.state in ("held", "purchased"):
            assert item.code == checkout.code, f"{checkout} has not got {item}"
        if checkout.state == "expired":
            assert checkout.expires_at <= database.clock(), f"{checkout} was ended too early"
        if checkout.state == "purchased":
            purchased[checkout.sale_id, checkout.item_id] += 1
            assert checkout.purchased_at is not None
            assert checkout.created_at <= checkout.purchased_at < checkout.expires_at, f"{checkout}: too late"
    assert all(count == 1 for count in purchased.values()), f"purchased more than once: {purchased}"


def check_memory(inventory: Inventory, history: History, server: int) -> None:
    """What a worker knows fits together, and every bit of it was committed."""
    states, free, places, users = inventory._states, inventory._free, inventory._places, inventory._users
    counts = Counter(states)
    assert inventory.sold == counts[SOLD], f"{inventory.sold} are counted as sold of {list(states)}"
    assert inventory.held == counts[HELD], f"{inventory.held} are counted as held of {list(states)}"
    known_free = [item_id for item_id, state in enumerate(states) if state in (AVAILABLE, EXPIRED)]
    assert sorted(free) == known_free, f"{list(free)} are free of {list(states)}"
    assert inventory.available == len(known_free)
    assert all(
        free[place] == item_id if item_id in free else place == -1 for item_id, place in enumerate(places)
    ), f"places {list(places)} in {list(free)}"
    taken, lapsed = (
        Counter(users[item_id] for item_id, state in enumerate(states) if state in which)
        for which in ((HELD, SOLD), (EXPIRED,))
    )
    assert inventory._taken == taken, f"users have {dict(taken)}, counted are {inventory._taken}"
    assert inventory._lapsed == lapsed, f"users had {dict(lapsed)}, counted are {inventory._lapsed}"

    for item_id, version in enumerate(inventory._versions):
        versions = history.of(inventory.sale.id, item_id, server)
        assert version < len(versions), (
            f"item {item_id} is known at version {version}, which is not committed"
        )
        item = versions[version].item
        assert item.state == STATES[states[item_id]], f"{item} is known as {STATES[states[item_id]]}"
        assert item.user_id in (None, users[item_id]), f"{item} is known as of user {users[item_id]}"


def check_fresh(inventory: Inventory, history: History, until: float) -> None:
    """The worker knows all that was committed until then."""
    for item_id, version in enumerate(inventory._versions):
        for item, at in history.of(inventory.sale.id, item_id)[version + 1 :]:
            assert at > until, f"{item} is not known yet, only version {version}"


def check_exact(inventory: Inventory, database: Database) -> None:
    """The worker knows the rows exactly as they are, and all holds that were over are swept."""
    for item_id, version in enumerate(inventory._versions):
        item = database.items[SaleItem.id_of(inventory.sale.id, item_id)]
        known = STATES[inventory._states[item_id]]
        assert item.state != "held", f"{item} was not swept"
        assert (version, known) == (item.version, item.state), f"{item}: known is {known} {version}"


def check_marked(database: Database) -> None:
    """Every checkout says itself what its item says."""
    for code, checkout in database.checkouts.items():
        assert checkout == database.committed.told(code), f"{checkout} was not marked"
