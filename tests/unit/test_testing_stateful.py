"""The fake beside a model so naive that it is plainly right. A list of calls, and a list of reads."""

from __future__ import annotations

import datetime as dt
import json

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from twusage.protocol import Request, authorize, usage_request
from twusage.testing import FakeApi, FakeApp, VirtualClock

CAP = 5_000


class NaiveService:
    """Counts by looking at everything that ever happened."""

    def __init__(self) -> None:
        self.counted: dict[str, list[float]] = {}
        self.reads: list[tuple[dt.date, str, int]] = []

    def window(self, app: str, now: float) -> list[float]:
        """The calls of the window that is open now, by going through all windows from the first."""
        window: list[float] = []
        for at in self.counted.get(app, ()):
            if window and at >= window[0] + 900:
                window = []
            window.append(at)
        return window if window and now < window[0] + 900 else []

    def call(self, app: str, now: float) -> tuple[bool, int]:
        """Whether a call may go, and how many are left after it."""
        used = len(self.window(app, now))
        if used == 50:
            return False, 0
        self.counted.setdefault(app, []).append(now)
        return True, 50 - used - 1

    def usage(self, today: dt.date) -> int:
        """The reads since the last tenth of a month."""
        start = today
        while start.day != 10:
            start -= dt.timedelta(days=1)
        return sum(count for day, _, count in self.reads if day >= start)


class FakeBesideModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.clock = VirtualClock(dt.datetime(2026, 1, 8, 23, 50, tzinfo=dt.UTC))
        self.api = FakeApi(history_days=0, cap=CAP, reset_day=10, clock=self.clock)
        for app in self.api.apps:
            app.tokens.append(f"{app.token}-second")
        self.model = NaiveService()

    @property
    def today(self) -> dt.date:
        return self.clock.now().date()

    def request(self, app: FakeApp, token: int) -> Request:
        return authorize(usage_request(days=90), app.tokens[token])

    @rule(app=st.integers(0, 2), token=st.integers(0, 1), calls=st.integers(1, 60))
    def call(self, app: int, token: int, calls: int) -> None:
        """Calls with either token succeed or fail as in the model."""
        caller = self.api.apps[app]
        for _ in range(calls):
            goes, left = self.model.call(caller.id, self.clock.time())
            response = self.api.handle(self.request(caller, token))
            assert response.status == (200 if goes else 429)
            assert response.headers["x-rate-limit-remaining"] == str(left)
            start = self.model.window(caller.id, self.clock.time())[0]
            assert response.headers["x-rate-limit-reset"] == str(int(start + 900))

    @rule(seconds=st.one_of(st.floats(0.0, 2_000.0), st.sampled_from([1.0, 899.9, 900.0, 86_400.0])))
    def pass_time(self, seconds: float) -> None:
        """Time passes; there is no sleeper on the clock here, so it can be set."""
        self.clock._monotonic += seconds

    @rule(app=st.integers(0, 2), count=st.integers(1, 400))
    def read(self, app: int, count: int) -> None:
        """Reads count until the cap is reached."""
        reader = self.api.apps[app]
        refused = self.model.usage(self.today) >= CAP
        try:
            self.api.read_posts(reader, count)
        except Exception:  # noqa: BLE001 - its class is another test's matter
            assert refused
        else:
            assert not refused
            self.model.reads.append((self.today, reader.id, count))

    @invariant()
    def usage_agrees(self) -> None:
        """What it reports is what was read. In the cycle, by day and by app."""
        response = self.api._respond(self.request(self.api.apps[0], 0), self._outsider(), self.clock.time())
        data = json.loads(response.body)
        data = data["data"]
        assert data["project_usage"] == str(self.model.usage(self.today))
        since = self.today - dt.timedelta(days=89)
        for app in data["daily_client_app_usage"]:
            days: dict[str, int] = {}
            for day, reader, count in self.model.reads:
                if reader == app["client_app_id"] and day >= since:
                    days[f"{day}T00:00:00.000Z"] = days.get(f"{day}T00:00:00.000Z", 0) + count
            assert {row["date"]: int(row["usage"]) for row in app.get("usage", ())} == days

    def _outsider(self) -> FakeApp:
        """An app of the same project whose window no other program uses."""
        return FakeApp("1", ["1"], self.api.project, "", "")


FakeBesideModel.TestCase.settings = settings(max_examples=10, stateful_step_count=20)
test_the_fake_agrees_with_the_model = FakeBesideModel.TestCase
