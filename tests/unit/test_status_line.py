"""What `runsale` tells once a second."""

from flashsale_project.status_line import StatusLine
from sales import metrics


def test_a_broken_certificate_is_an_alarm_once() -> None:
    metrics.BROKEN.labels(70).inc()
    status = StatusLine()
    assert status.alarms == []
    status.next(1, 1)
    assert status.alarms == []  # it was broken before
    for sale in (712, 71):
        metrics.BROKEN.labels(sale).inc()
    assert "70" not in status.next(1, 1)
    assert status.alarms == ["71", "712"]
    metrics.BROKEN.labels(71).inc()
    status.next(1, 1)
    assert status.alarms == []
