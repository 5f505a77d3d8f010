"""The main job, as the README shows it."""

import asyncio
import re

from tests.support.client import Client
from tests.support.service import MakeService, Service
from tests.support.waiting import DEADLINE


async def test_the_session_of_the_readme(make_service: MakeService) -> None:
    service = make_service(embedded=True).start()
    assert "Starting PostgreSQL" in service.output
    async with Client(service.port) as client, asyncio.timeout(DEADLINE):
        held = await client.post("/checkout?user_id=123&item_id=56")
        assert (held.status, held.headers["content-type"]) == (200, "text/plain")
        code = held.text
        assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", code)

        receipt = (await client.get(f"/checkouts/{code}")).json
        assert (receipt["state"], receipt["user_id"], receipt["item_id"]) == ("held", 123, 56)

        bought = await client.post(f"/purchase?code={code}")
        assert (bought.status, bought.headers["content-type"], bought.text) == (
            200,
            "text/plain",
            "purchased",
        )

        again = await client.post(f"/purchase?code={code.upper()}")
        assert (again.status, again.reason) == (409, "already_purchased")
        assert again.json["receipt"]["code"] == code
        assert again.json["receipt"]["state"] == "purchased"

        async with Client(service.port) as other:  # most likely at the other worker
            assert (await other.get("/sale")).json["sold"] == 1
        sale = (await client.get("/sale")).json
        assert sale == {
            "id": sale["id"],
            "starts_at": sale["starts_at"],
            "ends_at": sale["ends_at"],
            "items": 100,
            "sold": 1,
            "held": 0,
            "available": 99,
            "user_limit": 10,
            "checkout_ttl_seconds": 60,
            "paused": False,
            "next_starts_at": sale["ends_at"],
        }
        assert (await client.get(f"/sales/{sale['id']}")).json["sold"] == 1
    assert service.stop() == 0


async def test_any_free_item_is_given_and_given_back(service: Service) -> None:
    async with Client(service.port) as client:
        code = (await client.post("/checkout?user_id=5")).text
        released = await client.request("DELETE", f"/checkouts/{code}")
        assert (released.status, released.body) == (204, b"")
        assert "content-type" not in released.headers
        assert (await client.request("DELETE", f"/checkouts/{code}")).status == 204
        assert (await client.get(f"/checkouts/{code}")).json["state"] == "released"
        refused = await client.post(f"/purchase?code={code}")
        assert (refused.status, refused.reason) == (409, "checkout_expired")


async def test_health_readiness_and_metrics(service: Service) -> None:
    async with Client(service.port) as client:
        assert (await client.get("/healthz")).status == 200
        assert (await client.get("/readyz")).status == 200
        await client.post("/checkout?user_id=77")
        metrics = await client.get("/metrics")
        assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert 'flashsale_answers_total{call="checkout",outcome="granted"}' in metrics.text
        assert re.search(r'^flashsale_items\{state="available"\} \d+', metrics.text, re.MULTILINE)


async def test_metrics_add_up_all_workers(service: Service) -> None:
    async def granted() -> float:
        async with Client(service.port) as client:
            text = (await client.get("/metrics")).text
        found = re.search(r'answers_total\{call="checkout",outcome="invalid_parameter"\} (\S+)', text)
        return float(found[1]) if found else 0.0

    before = await granted()
    for _ in range(20):  # twenty connections, spread over the workers
        async with Client(service.port) as client:
            await client.post(f"/checkout?user_id=1&item_id={10**9}")
    async with asyncio.timeout(DEADLINE):
        # Workers hand on their counts twice a second.
        while await granted() < before + 20:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert await granted() == before + 20


async def test_the_admin_is_there_with_its_style_sheets(service: Service) -> None:
    async with Client(service.port) as client:
        assert (await client.get("/admin/")).headers["location"] == "/admin/login/?next=/admin/"
        page = await client.get("/admin/login/")
        assert page.status == 200
        sheet = re.search(r'href="(/static/admin/css/base[^"]*)"', page.text)
        assert sheet is not None
        assert (await client.get(sheet[1])).headers["content-type"] == "text/css"


async def test_the_certificate_of_the_running_sale(service: Service) -> None:
    result = service.manage("verifysale")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "✗" not in result.stdout
    assert result.stdout.count("✓") == 9


async def test_the_example_is_off_unless_it_is_asked_for(service: Service) -> None:
    async with Client(service.port) as client:
        answer = await client.get("/book?train=batchy&person=elgopher&seat=3")
    assert (answer.status, answer.reason) == (404, "not_found")
    assert service.sql("SELECT to_regclass('trains_train')") == [(None,)]


async def test_an_operator_pauses_and_resumes_and_every_worker_obeys(service: Service) -> None:
    for paused in (True, False):
        service.sql("UPDATE sales_sale SET paused = %s", paused)
        for _ in range(6):  # several connections, so that both workers are asked
            async with Client(service.port) as client, asyncio.timeout(DEADLINE):
                while (await client.get("/sale")).json["paused"] is not paused:
                    pass
                answer = await client.post("/checkout?user_id=900")
                assert (answer.status == 409 and answer.reason == "paused") is paused


async def test_two_services_on_one_database_are_one_sale(make_service: MakeService, service: Service) -> None:
    second = make_service()
    second.environment["DATABASE_URL"] = service.database_url()
    second.start()
    async with Client(service.port) as here, Client(second.port) as there:
        code = (await here.post("/checkout?user_id=4242")).text
        assert (await there.post(f"/purchase?code={code}")).text == "purchased"
        assert (await here.post(f"/purchase?code={code}")).reason == "already_purchased"
        first = (await here.get("/sale")).json
        assert (await there.get("/sale")).json["id"] == first["id"]
    assert second.stop() == 0
