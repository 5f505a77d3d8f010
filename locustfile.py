"""Load as people make it: ``locust --headless -u 200 -r 50 -t 30s -H http://127.0.0.1:8080``

Refusals are normal answers here. What fails the run is an answer that should not be, or counts of the
sale that do not add up at the end.
"""

import os
import random
from typing import Any

from locust import FastHttpUser, between, events, task
from locust.env import Environment

MAX_USER_ID = 1_000_000
EXPECTED = {"item_held", "item_sold", "sold_out", "all_held", "user_limit", "paused", "no_sale"}


class Shopper(FastHttpUser):
    """Looks at the sale, holds an item, thinks, and buys it or walks away."""

    weight = 9
    wait_time = between(0.1, 1)

    def on_start(self) -> None:
        """A new shopper has an id of their own."""
        self.user_id = random.randint(1, MAX_USER_ID)

    @task
    def shop(self) -> None:
        """One visit."""
        with self.client.get("/sale", name="/sale") as response:
            items = response.json()["items"]
        target = f"/checkout?user_id={self.user_id}"
        if random.random() < 0.5:
            target += f"&item_id={random.randrange(items)}"
        with self.client.post(target, name="/checkout", catch_response=True) as response:
            if not _is_fine(response):
                return
            code = response.text
        self.wait()
        if random.random() < 0.1:
            self.client.delete(f"/checkouts/{code}", name="/checkouts/<code>")
        elif random.random() < 0.9:
            self.client.post(f"/purchase?code={code}", name="/purchase")


class Bot(FastHttpUser):
    """Hammers one item after another."""

    weight = 1
    wait_time = between(0, 0.01)

    @task
    def grab(self) -> None:
        """One attempt, never paid for."""
        target = f"/checkout?user_id={random.randint(1, 50)}&item_id={random.randrange(1000)}"
        with self.client.post(target, name="/checkout (bot)", catch_response=True) as response:
            _is_fine(response)


if os.environ.get("FLASHSALE_TRAIN_EXAMPLE", "").lower() in ("1", "true", "yes", "on"):

    class Passenger(FastHttpUser):
        """Books a seat on one of a hundred trains: the example of the batching package."""

        weight = 5
        wait_time = between(0.1, 1)

        @task
        def book(self) -> None:
            """One booking, of a seat that may be taken."""
            train, seat, person = random.randrange(100), random.randint(1, 30), random.randint(1, MAX_USER_ID)
            target = f"/book?train=train{train}&person=p{person}&seat={seat}"
            with self.client.post(target, name="/book", catch_response=True) as response:
                if response.status_code == 400 and response.json()["reason"] in ("seat_taken", "second_seat"):
                    response.success()


def _is_fine(response: Any) -> bool:
    """Whether the checkout was granted; an unexpected answer is marked as a failure."""
    if response.status_code == 200:
        response.success()
        return True
    reason = response.json().get("reason") if response.status_code == 409 else None
    if reason in EXPECTED:
        response.success()
    else:
        response.failure(f"unexpected answer {response.status_code}: {response.text[:200]}")
    return False


@events.test_stop.add_listener
def check_counts(environment: Environment, **kwargs: Any) -> None:
    """The counts of the sale add up; otherwise locust exits with 2."""
    user = Shopper(environment)
    with user.client.get("/sale", name="/sale (end)", catch_response=True) as response:
        sale = response.json()
        if sale["sold"] + sale["held"] + sale["available"] != sale["items"]:
            response.failure(f"the counts do not add up: {sale}")
            environment.process_exit_code = 2
