"""Load as people make it: ``locust --headless -u 200 -r 50 -t 2m -H http://127.0.0.1:8080``

Every answer is named by its outcome, so that the figures of holds and purchases stand apart from those of
refusals, which are normal answers here. What fails the run is an answer that should not be, or counts of
the sale that do not add up at the end.
"""

import os
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid4

from locust import FastHttpUser, between, events, task
from locust.env import Environment

from sales.codes import place_of

MAX_USER_ID = 2**63 - 1
BOTS = 50
"""User ids that all bots share; with the usual limit they buy five hundred items at most."""

REFUSALS = {
    "/checkout": {"item_held", "item_sold", "sold_out", "all_held", "user_limit", "paused", "no_sale"},
    "/purchase": {"checkout_expired"},
    "/book": {"seat_taken", "second_seat"},
}
DONE = {"/checkout": "held", "/purchase": "bought", "/book": "booked"}

BROWSERS = [
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/142.0.0.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) Version/18.6 Mobile/15E148 Safari/604.1",
    "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0",
]

bought: Counter[int] = Counter()
"""Purchases that were acknowledged to this process, by sale."""


class Visitor(FastHttpUser):
    """Somebody with a browser, behind a proxy that marks each request: no two have the same head."""

    abstract = True

    def on_start(self) -> None:
        """Every browser has its own head."""
        self.head = {
            "User-Agent": random.choice(BROWSERS),
            "Accept": "*/*",
            "Accept-Language": random.choice(["en-GB,en;q=0.9", "de-DE,de;q=0.8,en;q=0.5", "ja"]),
            "Cookie": f"session={uuid4().hex}; consent={'yes' * random.randint(1, 40)}",
            "X-Forwarded-For": f"198.51.100.{random.randint(1, 254)}",
        }

    @contextmanager
    def ask(self, method: str, path: str, query: str = "", name: str = "") -> Iterator[Any]:
        """Send a request; what comes back is counted under its path, or this name."""
        with self.client.request(
            method,
            path + query,
            name=name or path,
            headers=self.head | {"X-Request-ID": str(uuid4())},
            catch_response=True,
        ) as response:
            yield response

    def act(self, path: str, query: str, who: str = "") -> str:
        """POST and return the text of the answer, or nothing where it was refused."""
        with self.ask("POST", path, query) as response:
            if response.status_code == 200:
                response.request_meta["name"] = f"{path} {DONE[path]}{who}"
                return str(response.text)
            reason = _reason(response)
            if reason in REFUSALS[path]:
                response.request_meta["name"] = f"{path} refused {reason}{who}"
                response.success()
            else:
                response.failure(f"unexpected answer {response.status_code}: {response.text!s:.200}")
            return ""

    def look(self) -> int:
        """GET the sale and return the number of its items, or nothing where there is none."""
        with self.ask("GET", "/sale") as response:
            if response.status_code == 200:
                return int(response.json()["items"])
            if _reason(response) == "no_sale":
                response.request_meta["name"] = "/sale refused no_sale"
                response.success()
            else:
                response.failure(f"unexpected answer {response.status_code}: {response.text!s:.200}")
            return 0

    def buy(self, code: str, who: str = "") -> None:
        """Pay for what is held."""
        place = place_of(UUID(code))
        if self.act("/purchase", f"?code={code}", who) and place is not None:
            bought[place[0]] += 1


class Shopper(Visitor):
    """Looks at the sale, holds an item, thinks, and buys it or walks away; then somebody else comes."""

    weight = 19
    wait_time = between(0.1, 0.5)

    @task
    def shop(self) -> None:
        """One visit."""
        items = self.look()
        query = f"?user_id={random.randint(0, MAX_USER_ID)}"
        if random.random() < 0.5 and items:
            query += f"&item_id={random.randrange(items)}"
        if not (code := self.act("/checkout", query)):
            return
        self.wait()
        if random.random() < 0.05:
            with self.ask("DELETE", f"/checkouts/{code}", name="/checkouts/<code> given back"):
                pass
        elif random.random() < 0.98:  # the others leave without a word
            self.buy(code)


class Bot(Visitor):
    """Grabs one item after another, and buys what it gets."""

    weight = 1
    wait_time = between(0.05, 0.15)

    def on_start(self) -> None:
        """A look at the sale tells what there is to grab."""
        super().on_start()
        self.items = self.look() or 1

    @task
    def grab(self) -> None:
        """One attempt."""
        query = f"?user_id={random.randint(1, BOTS)}&item_id={random.randrange(min(self.items, 1000))}"
        if code := self.act("/checkout", query, " (bot)"):
            self.buy(code, " (bot)")


if os.environ.get("FLASHSALE_TRAIN_EXAMPLE", "").lower() in ("1", "true", "yes", "on"):

    class Passenger(Visitor):
        """Books a seat on one of a hundred trains: the example of the batching package."""

        weight = 5
        wait_time = between(0.1, 1)

        @task
        def book(self) -> None:
            """One booking, of a seat that may be taken."""
            train, seat, person = random.randrange(100), random.randint(1, 30), random.randint(1, MAX_USER_ID)
            self.act("/book", f"?train=train{train}&person=p{person}&seat={seat}")


def _reason(response: Any) -> str | None:
    """Why a request was refused; nothing where this is no refusal."""
    if response.status_code in (400, 409):
        document = response.json()
        if isinstance(document, dict):
            return document.get("reason")
    return None


@events.test_stop.add_listener
def check_counts(environment: Environment, **kwargs: Any) -> None:
    """The counts of each sale add up and hold all that was bought here; otherwise locust exits with 2."""
    visitor = Shopper(environment)
    visitor.on_start()
    for path in ["/sale", *(f"/sales/{sale}" for sale in bought)]:
        with visitor.ask("GET", path, name=f"{path} (end)") as response:
            problem = _problem(response, bought)
            if problem:
                response.failure(problem)
                environment.process_exit_code = 2


def _problem(response: Any, bought: Counter[int]) -> str:
    if response.status_code != 200:
        return f"the counts cannot be read: {response.status_code}"
    sale = response.json()
    if sale["sold"] + sale["held"] + sale["available"] != sale["items"]:
        return f"the counts do not add up: {sale}"
    if sale["sold"] < bought[sale["id"]]:
        return f"{bought[sale['id']]} items were bought here, and only {sale['sold']} are sold: {sale}"
    return ""
