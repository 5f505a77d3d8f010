"""What `runsale` tells once a second."""

from flashsale_project.serving.status_line import StatusLine
from sales import metrics

# Other tests of this process count sales with small numbers.


def test_a_broken_certificate_is_an_alarm_once() -> None:
    metrics.BROKEN.labels(1_000_000).inc()
    status = StatusLine()
    assert status.alarms == []
    status.next(1, 1)
    assert status.alarms == []  # it was broken before
    for sale in (10_000_000, 2_000_000):
        metrics.BROKEN.labels(sale).inc()
    status.next(1, 1)
    assert status.alarms == ["2000000", "10000000"]
    metrics.BROKEN.labels(2_000_000).inc()
    status.next(1, 1)
    assert status.alarms == []
