"""UsageCollector: names, types and labels of the metrics; and what promtool says of them, the rules and the panels."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("prometheus_client")

from attrs import evolve
from prometheus_client import CollectorRegistry, generate_latest
from usages import usage_of

from twusage import InvalidRequestError, RetryPolicy, UsageClient
from twusage.integrations.prometheus import UsageCollector
from twusage.models import EPOCH, ClientAppUsage, DailySeries, Usage
from twusage.testing import FakeApi, FakeTransport, Fault, VirtualClock

GRAFANA = Path(__file__).parents[2] / "docs" / "grafana"
ALL = {
    "twusage_project_cap_posts": "gauge",
    "twusage_project_used_posts": "gauge",
    "twusage_app_used_posts": "gauge",
    "twusage_forecast_posts": "gauge",
    "twusage_forecast_low_posts": "gauge",
    "twusage_forecast_high_posts": "gauge",
    "twusage_cap_reached_timestamp_seconds": "gauge",
    "twusage_cycle_start_timestamp_seconds": "gauge",
    "twusage_cycle_reset_timestamp_seconds": "gauge",
    "twusage_window_limit_calls": "gauge",
    "twusage_window_left_calls": "gauge",
    "twusage_window_reset_timestamp_seconds": "gauge",
    "twusage_up": "gauge",
    "twusage_last_success_timestamp_seconds": "gauge",
    "twusage_requests_total": "counter",
    "twusage_requests_failed_total": "counter",
    "twusage_waits_total": "counter",
    "twusage_wait_seconds_total": "counter",
    "twusage_build_info": "gauge",
}
REASONS = {"auth", "quota", "rate_limited", "network", "server", "decode", "other"}


@pytest.fixture
def client(twusage_api: FakeApi, twusage_transport: FakeTransport, twusage_clock: VirtualClock) -> UsageClient:
    return UsageClient(twusage_api.apps[0].token, transport=twusage_transport, clock=twusage_clock)


@pytest.fixture
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("promtool is missing, and CI demands it: apt-get install prometheus")
        pytest.skip("promtool is not installed")
    return found


def scrape(client: UsageClient, **options: Any) -> str:
    registry = CollectorRegistry()
    registry.register(UsageCollector(client, **options))
    return generate_latest(registry).decode()


def samples(text: str) -> dict[str, float]:
    """Each series of a scrape and its value."""
    return {
        name: float(value)
        for name, _, value in (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    }


def with_usage(client: UsageClient, usage: Usage) -> UsageClient:
    client.activity.record_usage(usage)
    return client


async def test_names_and_types(client: UsageClient) -> None:
    """All metrics and their types, from the start."""
    expected = set(ALL.items())
    for _ in range(2):
        assert set(re.findall(r"# TYPE (\S+) (\S+)", scrape(client))) == expected
        await client.get_usage(days=90)


async def test_before_the_first_response(client: UsageClient) -> None:
    """Nothing is known yet: no gauge of the project, up is 0, every reason of failure is there at 0."""
    found = samples(scrape(client))
    failed = {f'twusage_requests_failed_total{{reason="{reason}"}}' for reason in REASONS}
    assert {name for name, value in found.items() if value == 0} == failed | {
        "twusage_up",
        "twusage_requests_total",
        "twusage_waits_total",
        "twusage_wait_seconds_total",
    }
    assert len(found) == 12


async def test_a_scrape_never_calls(client: UsageClient, twusage_api: FakeApi) -> None:
    """A scrape shows the newest response, and costs no call."""
    usage = await client.get_usage(days=90)
    for _ in range(100):
        found = samples(scrape(client))
    assert len(twusage_api.requests) == 1
    project = f'{{project="{usage.project_id}"}}'
    assert found[f"twusage_project_cap_posts{project}"] == usage.project_cap
    assert found[f"twusage_project_used_posts{project}"] == usage.project_usage
    assert found["twusage_last_success_timestamp_seconds"] == usage.fetched_at.timestamp()
    assert found["twusage_window_left_calls"] == 49
    assert found["twusage_up"] == 1
    apps = sum(value for name, value in found.items() if name.startswith("twusage_app_used_posts"))
    assert apps == usage.project_usage


async def test_an_outage(client: UsageClient, twusage_api: FakeApi) -> None:
    """After a failed call up is 0, the numbers stand, and the failures are counted with their waits."""
    await client.get_usage(days=90)
    twusage_api.fail(Fault.status(503), times=4)
    with pytest.raises(Exception, match="503"):
        await client.get_usage(days=90)
    found = samples(scrape(client))
    assert found["twusage_up"] == 0
    assert found["twusage_requests_total"] == 5
    assert found['twusage_requests_failed_total{reason="server"}'] == 4
    assert found["twusage_waits_total"] == 3
    assert found["twusage_wait_seconds_total"] > 0
    assert any(name.startswith("twusage_project_used_posts") for name in found)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault.status(401), "auth"),
        (Fault.status(403), "auth"),
        (Fault.usage_capped(), "quota"),
        (Fault.rate_limited(), "rate_limited"),
        (Fault.timeout(), "network"),
        (Fault.status(503), "server"),
        (Fault.status(400), "other"),
    ],
)
async def test_reasons(
    twusage_api: FakeApi,
    twusage_transport: FakeTransport,
    twusage_clock: VirtualClock,
    fault: Fault,
    reason: str,
) -> None:
    """Each failure is counted under its reason."""
    token = twusage_api.apps[0].token
    client = UsageClient(token, transport=twusage_transport, clock=twusage_clock, retry=RetryPolicy.none())
    twusage_api.fail(fault)
    with pytest.raises(Exception):  # noqa: B017, PT011 - which one is not the point
        await client.get_usage()
    assert samples(scrape(client))[f'twusage_requests_failed_total{{reason="{reason}"}}'] == 1


@pytest.mark.parametrize(
    ("fields", "absent"),
    [
        ({"cap": None}, "project_cap"),
        ({"used": None}, "project_used"),
        ({"known_days": 2}, "forecast_posts"),
        ({"cap_reset_day": None}, "cycle_start"),
        ({}, "cap_reached"),
        ({"cap": 500_000}, "cap_reached"),
        ({"fetched_at": EPOCH}, "last_success"),
    ],
)
def test_unknown_numbers(client: UsageClient, fields: dict[str, Any], absent: str) -> None:
    """An unknown number is an absent series, never 0."""
    found = samples(scrape(with_usage(client, usage_of(**fields))))
    assert not [name for name in found if name.startswith(f"twusage_{absent}")]


def test_the_cap_is_reached(client: UsageClient) -> None:
    """When the cap will be reached is a timestamp."""
    found = samples(scrape(with_usage(client, usage_of(cap=900_000))))
    assert found['twusage_cap_reached_timestamp_seconds{project="1281043626347900822500"}'] == 1796515200


def test_a_project_without_an_id(client: UsageClient) -> None:
    """A missing id is an empty label."""
    assert 'twusage_project_cap_posts{project=""}' in scrape(with_usage(client, usage_of(project_id=None)))


def test_many_apps(client: UsageClient) -> None:
    """The largest apps have a series each, the rest share one."""
    text = scrape(with_usage(client, usage_of(apps=6)), max_apps=2)
    assert re.findall(r'app="(.*?)"', text) == ["app 0", "app 1", "other"]
    found = samples(text)
    every = samples(scrape(client))
    for each in (found, every):
        used = [value for name, value in each.items() if name.startswith("twusage_app_used")]
        assert sum(used) == pytest.approx(16 * 34_000, rel=0.05)
    assert re.findall(r'app="(.*?)"', scrape(client, max_apps=0)) == ["other"]


def test_an_app_whose_id_is_other(client: UsageClient) -> None:
    """It shares the series of the rest: Prometheus refuses one that comes twice."""
    usage = usage_of(apps=3)
    apps = (evolve(usage.daily_client_app_usage[0], client_app_id="other"), *usage.daily_client_app_usage[1:])
    text = scrape(with_usage(client, evolve(usage, daily_client_app_usage=apps)), max_apps=1)
    assert re.findall(r'app="(.*?)"', text) == ["other"]


@pytest.mark.parametrize("max_apps", [-1, 1.0, None, True])
def test_wrong_bound(client: UsageClient, max_apps: Any) -> None:
    """The bound is a count."""
    with pytest.raises(InvalidRequestError, match="max_apps"):
        UsageCollector(client, max_apps=max_apps)


def test_hostile_ids(client: UsageClient) -> None:
    """An id cannot break out of its label; two apps of one id are one series."""
    usage = usage_of(apps=1)
    series: DailySeries = usage.daily_client_app_usage[0].usage
    app = ClientAppUsage('x"} 1\nevil{a="', series)
    text = scrape(with_usage(client, evolve(usage, daily_client_app_usage=(app, app))))
    assert "\nevil" not in text
    assert text.count("twusage_app_used_posts{") == 1


def test_promtool(client: UsageClient, promtool: str) -> None:
    """Prometheus' own linter finds nothing."""
    text = scrape(with_usage(client, usage_of(cap=900_000)))
    check = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (check.returncode, check.stderr, check.stdout) == (0, "", "")


def test_rules(promtool: str) -> None:
    """The alert rules are valid, and their cases hold."""
    subprocess.run([promtool, "check", "rules", "twusage.rules.yml"], cwd=GRAFANA, check=True, capture_output=True)
    subprocess.run([promtool, "test", "rules", "twusage.rules.test.yml"], cwd=GRAFANA, check=True, capture_output=True)


def test_names_in_rules_and_dashboard() -> None:
    """Rules and dashboard name only metrics that exist."""
    for name in ("twusage.rules.yml", "twusage.json"):
        expressions = re.sub(r"\W(?:name|uid|title)\W.*", "", (GRAFANA / name).read_text("utf-8"))
        found = set(re.findall(r"twusage_\w+", expressions))
        assert found
        assert found <= set(ALL)


def test_dashboard() -> None:
    """Eight panels, each with a unit and a description, for any data source."""
    dashboard = json.loads((GRAFANA / "twusage.json").read_text("utf-8"))
    assert dashboard["id"] is None
    assert dashboard["uid"] == "twusage"
    assert len(dashboard["panels"]) == 8
    for panel in dashboard["panels"]:
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"]["uid"] == "${datasource}"
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])
    places = [(panel["gridPos"]["y"], panel["gridPos"]["x"]) for panel in dashboard["panels"]]
    assert places == sorted(places)


def test_expressions_of_the_dashboard(promtool: str, tmp_path: Path) -> None:
    """Prometheus can read each expression."""
    dashboard = json.loads((GRAFANA / "twusage.json").read_text("utf-8"))
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    plain = [text.replace("$__rate_interval", "5m").replace("$project", ".*") for text in expressions]
    rules = [{"record": f"panel:{place}", "expr": text} for place, text in enumerate(plain)]
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    subprocess.run([promtool, "check", "rules", str(file)], check=True, capture_output=True)
