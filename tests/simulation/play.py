"""The course of a simulation: what is done and what happens, then peace, then the last questions."""

import asyncio

from tests.simulation.asking import Asking
from tests.simulation.clients import Clients
from tests.simulation.ending import Ending
from tests.simulation.troubles import Troubles
from tests.simulation.worker import EPOCH
from tests.simulation.world import LONG, World


async def play(world: World) -> None:
    """All of it."""
    random, scenario = world.random, world.scenario
    asking = Asking(world)
    clients, troubles = Clients(world, asking), Troubles(world)
    world.say("%s", scenario)
    for number in range(scenario.workers):
        world.start_worker(number)
    world.server.weather = scenario.weather
    for _ in range(scenario.actions):
        await _rest(world)
        if random.random() < scenario.stalls:
            troubles.stall()
        actions = troubles.actions if random.random() < scenario.trouble else clients.actions
        (act,) = random.choices(list(actions), list(actions.values()))
        act()
        world.check()
    ending = Ending(world, asking, clients, troubles)
    await ending.find_peace()
    await ending.ask_what_is_known()
    await ending.stop_all()


async def _rest(world: World) -> None:
    """Until the next action: not at all, for a while, or just about until a hold or a sale ends."""
    random, database = world.random, world.database
    number = random.random()
    if number < world.scenario.awaited:
        ends = [item.held_until for item in database.items.values() if item.state == "held"]
        ends += [sale.ends_at for sale in database.sales.values() if sale.ends_at < EPOCH + LONG / 2]
        coming = [end - world.now() for end in ends if end is not None and end > world.now()]
        if coming:
            await asyncio.sleep(max(0.0, random.choice(coming) + random.gauss(0, 0.05)))
    elif number >= world.scenario.burst:
        await asyncio.sleep(random.expovariate(1 / world.scenario.rest))
