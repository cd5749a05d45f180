"""`hotmesh.cron_next` says what croniter says, in UTC; and what a slow search over local times says where clocks shift."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from random import Random
from zoneinfo import ZoneInfo

import psycopg
import pytest
from croniter import CroniterBadDateError, croniter
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.schedules.expressions import expression

# HOTMESH_CRON_EXAMPLES=2000 for a long evening; each example is 50 expressions, with 25 instants for most.
EXAMPLES = int(os.environ.get("HOTMESH_CRON_EXAMPLES", "25"))
BATCH = 50
PAIRS = 25  # of an expression and an instant
PHASES = [Phase.explicit, Phase.reuse, Phase.generate]  # no shrinking: what differs is told expression by expression

Ask = Callable[..., list[datetime | None]]


@pytest.fixture(scope="module")
def conn(server: object, template: str) -> Iterator[psycopg.Connection]:
    """A connection to the template itself: `cron_next` writes nothing."""
    with psycopg.connect(server.dsn_for(template), autocommit=True) as connection:  # type: ignore[attr-defined]
        yield connection


@pytest.fixture(scope="module")
def ask(conn: psycopg.Connection) -> Ask:
    def answer(expressions: list[str], instants: list[datetime], zone: str = "UTC") -> list[datetime | None]:
        query = """select hotmesh.cron_next(e, a, %s) from unnest(%s::text[], %s::timestamptz[]) with ordinality u(e, a, o)
                   order by o"""
        return [at and at.astimezone(UTC) for (at,) in conn.execute(query, (zone, expressions, instants))]

    return answer


UNTIL = (datetime(2090, 1, 1) - datetime(1990, 1, 1)) // timedelta(milliseconds=1)
YEARS = timedelta(days=365) * 30


def by_croniter(cron: croniter, after: datetime) -> datetime | None:
    """What croniter says; None: it never comes. In times without a zone, which spares it half of its work."""
    try:
        found = cron.get_next(datetime, start_time=after.replace(tzinfo=None))
    except CroniterBadDateError:
        return None
    assert isinstance(found, datetime)
    return found.replace(tzinfo=UTC)


def pairs(cron: croniter, random: Random) -> Iterator[tuple[datetime, datetime | None]]:
    """Instants and what croniter says of each: five at random, and from each of these four times on and on, each from
    the one before or from up to a second earlier.

    An expression is read once, which takes croniter as long as two answers. It searches by fields and by months: 0.2 ms
    for most, 100 for an expression that never comes. So of one that is rare fewer are asked: not more than 30 years
    are searched before the last one.
    """
    searched = timedelta(0)
    after = datetime.min
    for number in range(PAIRS):
        if number % 5 == 0:
            after = datetime(1990, 1, 1, tzinfo=UTC) + timedelta(milliseconds=random.randrange(UNTIL))
        found = by_croniter(cron, after)
        yield after, found
        if found is None or (searched := searched + (found - after)) > YEARS:
            return
        after = found - timedelta(milliseconds=random.choice([0, 0, 1, 999, 1000]))


def miscounted(text: str, cron: croniter) -> bool:
    """croniter 7.0 takes 31 entries for every day, and counts L as one: of `2-L,L` the 1st is a day, of `2-L` it is not,
    and beside weekdays `*/2` all days fit of `1-31,L`, of `1-31` those of the weekdays."""
    return "l" in text.split()[-3].lower() and (cron.expanded[2] == ["*"] or len(cron.expanded[2]) > 31)


def test_the_last_day_beside_others_is_no_day_more(ask: Ask) -> None:
    first = datetime(2027, 2, 1, tzinfo=UTC)
    for days in ("2-L,L", "1-31,L"):
        assert miscounted(f"0 0 {days} * *", croniter(f"0 0 {days} * *"))
    for days in ("2-L,L", "2-L", "2-28,L"):
        assert ask([f"0 0 {days} * *"], [first - timedelta(days=1)]) == [first + timedelta(days=1)]
        assert ask([f"0 0 {days} 2 sun"], [datetime(2026, 5, 1, tzinfo=UTC)]) == [first + timedelta(days=1)]
    for days in ("1-31,L", "1-31", "*"):
        assert ask([f"0 0 {days} 2 */7"], [datetime(2026, 5, 1, tzinfo=UTC)]) == [first + timedelta(days=6)]


def compare(ask: Ask, cases: list[tuple[str, datetime, datetime | None]]) -> None:
    found = ask([expression for expression, _, _ in cases], [after for _, after, _ in cases])
    assert [(*case, at) for case, at in zip(cases, found, strict=True) if at != case[2]] == []


def test_it_says_what_croniter_says(ask: Ask) -> None:
    """Some 28,000 pairs, others each time: 7 s of processor time, and 1 or 2 of the database's."""
    written: set[str] = set()
    compared = 0

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), phases=PHASES)
    @given(st.randoms(use_true_random=True))
    def some(random: Random) -> None:
        nonlocal compared
        cases: list[tuple[str, datetime, datetime | None]] = []
        for text in (expression(random) for _ in range(BATCH)):
            cron = croniter(text, second_at_beginning=True)
            if not miscounted(text, cron):
                cases += [(text, *pair) for pair in pairs(cron, random)]
                written.add(text)
        compare(ask, cases)
        compared += len(cases)

    some()
    assert compared >= 800 * EXAMPLES, "the random ones were too rare"
    assert len(written) >= 40 * EXAMPLES, "they repeated each other"


CORNERS = [
    (["0 0 29 2 *", "0 0 30 2 *", "0 0 31 2,4,6,9,11 *", "0 0 L 2 *", "* * * * L7"], datetime(2096, 3, 1)),
    (["0 0 13 * fri", "0 0 */2 * 1-5", "0 0 1-31 * fri", "0 0 1-31 * */2"], datetime(2026, 12, 31, 23, 59)),
    (["0 0 13 * fri#2", "0 0 1 * fri#3", "0 0 15w * sat", "0 0 W31 * *"], datetime(2027, 1, 30)),
    (["0 0 1 nov *", "0 0 1 jan,feb,mar,apr,may,jun,jul,aug,sep,oct,nov,dec *", "0\v0\f* * sun"], datetime(2027, 1, 30)),
    (["0 0 */7 * 0#1,L6,mon-fri#1", "0 0 */7 * L6,mon-fri#1", "0 0 1-31 * sat-fri#2"], datetime(2000, 1, 1)),
    (["0 0 29 2 *", "0 0 L 2 *", "0 0 29W 2 *"], datetime(1999, 3, 1)),  # 2000 had a 29th of February, 2100 has none
    (["0 0 1W 8 *", "0 0 1W * *", "0 0 31W 1 *"], datetime(2026, 7, 31)),  # a Saturday the 1st, a Sunday the 31st
    (["@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually"], datetime(2026, 5, 6, 7)),
    (["59 59 23 31 12 *", "1-1 * * * *", "22-4/3 22-4/3 * * *"], datetime(2026, 12, 31, 23, 59, 59)),
]


@pytest.mark.parametrize(("written", "at"), CORNERS, ids=[f"{written[0]} after {at:%Y}" for written, at in CORNERS])
def test_corners(ask: Ask, written: list[str], at: datetime) -> None:
    after = at.replace(tzinfo=UTC)
    compare(ask, [(text, after, by_croniter(croniter(text, second_at_beginning=True), after)) for text in written])


# ----------------------------------------------------------------------------------- clocks that shift --


STEP = timedelta(minutes=15)  # all minutes below, and all shifts, are multiples of it


class Plain:
    """Expressions of minute and hour alone, by a slow and obvious search: the year quarter by quarter."""

    def __init__(self, expression: str, zone: str, year: int) -> None:
        minute, hour, *_ = expression.split()
        self.minutes, self.hours = self._values(minute, 60), self._values(hour, 24)
        self.elapsed = hour.startswith("*")
        self.zone = ZoneInfo(zone)
        self.start = datetime(year, 1, 1, tzinfo=self.zone).astimezone(UTC)
        self.end = datetime(year + 1, 1, 1, tzinfo=self.zone).astimezone(UTC)

    @staticmethod
    def _values(field: str, count: int) -> set[int]:
        if field.startswith("*"):
            return set(range(0, count, int(field[2:] or 1)))
        return {int(value) for value in field.split(",")}

    def firings(self) -> list[datetime]:
        found: set[datetime] = set()
        if self.elapsed:  # every real quarter whose local time fits
            at = self.start
            while at < self.end:
                local = at.astimezone(self.zone)
                if local.minute in self.minutes and local.hour in self.hours:
                    found.add(at)
                at += STEP
            return sorted(found)
        local = self.start.astimezone(self.zone).replace(tzinfo=None)
        last = self.end.astimezone(self.zone).replace(tzinfo=None)
        while local < last:  # every quarter that a clock on the wall could show
            if local.minute in self.minutes and local.hour in self.hours:
                found.add(self._instant(local))
            local += STEP
        return sorted(found)

    def _instant(self, local: datetime) -> datetime:
        at = local.replace(tzinfo=self.zone, fold=0).astimezone(UTC)
        if at.astimezone(self.zone).replace(tzinfo=None) == local:
            return at  # the first of two, where there are two
        offset = at.astimezone(self.zone).utcoffset()  # left out: back to the shift
        while (at - STEP).astimezone(self.zone).utcoffset() == offset:
            at -= STEP
        return at


YEAR = 2026
ZONES = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe")  # the last one shifts by half an hour
COUNTS = {
    "*/15 * * * *": (35040, 35040, 35040),
    "0 * * * *": (8760, 8760, 8759),  # Lord Howe has no 2:00 on one day
    "30 */2 * * *": (4380, 4379, 4380),  # New York has no 2:30 on one day, and 1:30 comes twice on another
    "30 2 * * *": (365, 365, 365),
    "30 1 * * *": (365, 365, 365),
    "*/15 2 * * *": (1457, 1457, 1458),
    "0,30 1,2,3 * * *": (2188, 2188, 2189),
    "45 0 * * *": (365, 365, 365),
}


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("expression", COUNTS)
def test_a_year_with_two_shifts(conn: psycopg.Connection, ask: Ask, expression: str, zone: str) -> None:
    plain = Plain(expression, zone, YEAR)
    query = """with recursive cron as materialized (select hotmesh_engine.read_cron(%(e)s) as c),
               firing(at) as (
                 select hotmesh.cron_next(%(e)s, %(start)s - interval '1 second', %(zone)s)
                 union all
                 select hotmesh_engine.cron_after(c, at, %(zone)s) from firing, cron where at < %(end)s)
               select at from firing where at < %(end)s order by at"""
    parameters = {"e": expression, "zone": zone, "start": plain.start, "end": plain.end}
    found = [at.astimezone(UTC) for (at,) in conn.execute(query, parameters)]
    expected = plain.firings()
    assert found == expected
    assert len(found) == COUNTS[expression][ZONES.index(zone)]

    # From any instant near a shift, not only from a firing.
    offsets = [at.astimezone(plain.zone).utcoffset() for at in expected]
    shifts = [at for at, one, other in zip(expected[1:], offsets, offsets[1:], strict=False) if one != other]
    assert len(shifts) == 2
    around = [shift + timedelta(minutes=7 * n, seconds=n % 2) for shift in shifts for n in range(-20, 20)]
    after = ask([expression] * len(around), around, zone)
    assert after == [next(at for at in expected if at > one) for one in around]


def test_a_day_that_a_zone_left_out_runs_once_when_it_is_over(ask: Ask) -> None:
    """Samoa went from the evening of the 29th to the morning of the 31st of December 2011."""
    after = datetime(2011, 12, 30, 9, 59, tzinfo=UTC)
    noon, then = ask(["0 12 * * *", "0 12 * * *"], [after, after + timedelta(minutes=1)], "Pacific/Apia")
    assert noon == datetime(2011, 12, 30, 10, 0, tzinfo=UTC)
    assert then == datetime(2011, 12, 30, 22, 0, tzinfo=UTC)


MIDNIGHTS = [  # where the clock shifts at midnight, or back to it
    ("America/Havana", 2026),  # 0:00 becomes 1:00, 1:00 becomes 0:00
    ("Africa/Cairo", 2026),  # on a Friday 0:00 becomes 1:00; on a Friday 0:00 becomes 23:00 of the day before
    ("Asia/Beirut", 2026),
    ("Atlantic/Azores", 2026),
    ("America/Sao_Paulo", 2018),
    ("America/Scoresbysund", 2023),
]


@pytest.mark.parametrize(("zone", "year"), MIDNIGHTS)
@pytest.mark.parametrize("expression", ["0 0 * * *", "30 0,23 * * *", "*/15 0 * * *", "0 1 * * *", "*/15 * * * *"])
def test_shifts_at_midnight(ask: Ask, expression: str, zone: str, year: int) -> None:
    plain = Plain(expression, zone, year)
    expected = plain.firings()
    starts = [plain.start - timedelta(seconds=1), *expected[:-1]]
    assert ask([expression] * len(expected), starts, zone) == expected
    days = (plain.end - plain.start).total_seconds() / 86400
    if expression == "0 0 * * *":
        assert len({at.astimezone(plain.zone).date() for at in expected}) == len(expected) == round(days), "once a day"


def test_seconds_in_the_hour_that_comes_twice(ask: Ask) -> None:
    second_pass = datetime(2026, 10, 25, 1, 30, tzinfo=UTC)  # 2:30 in Berlin for the second time
    fixed, open_hour = ask(["* 30 2 * * *", "*/20 30 * * * *"], [second_pass] * 2, "Europe/Berlin")
    assert fixed == datetime(2026, 10, 26, 1, 30, tzinfo=UTC)
    assert open_hour == second_pass + timedelta(seconds=20)


# -------------------------------------------------------------------------------------- what is refused --

REFUSED = {
    "60 * * * *": ("minute (field 1, position 1)", "0 to 59"),
    "0 24 * * *": ("hour (field 2, position 3)", "0 to 23"),
    "0 0 1-32 * *": ("day of month (field 3, position 7)", "1 to 31"),
    "0 0 * 13 *": ("month (field 4, position 7)", "1 to 12"),
    "0 0 0 * *": ("day of month (field 3, position 5)", "1 to 31"),
    "0  0 * * mno": ("day of week (field 5, position 10)", "sun to sat"),
    "0 0 * 1,2,foo *": ("month (field 4, position 11)", "jan to dec"),
    "61 * * * * *": ("second (field 1, position 1)", "0 to 59"),
    "*/0 * * * *": ("minute (field 1, position 1)", "*/2"),
    "0 0 * * fri#6": ("day of week (field 5, position 9)", "#1 to #5"),
    "0 0 * * 1,fri#2": ("day of week (field 5, position 9)", "two schedules"),
    "0 -1 * * *": ("hour (field 2, position 3)", "*/2"),
    "0 ? * * *": ("hour (field 2, position 3)", "*/2"),
    "0 0 1,, * *": ("day of month (field 3, position 7)", "list"),
    "0 0 99w * *": ("day of month (field 3, position 5)", "1 to 31"),
    "1-2-3 * * * *": ("minute (field 1, position 1)", "list"),
    "r * * * *": ("minute (field 1, position 1)", "0 to 59"),
    "99999999999999999999 * * * *": ("minute (field 1, position 1)", "0 to 59"),
    "* * * *": ("has 4", "minute, hour"),
    "* * * * * * *": ("has 7", "minute, hour"),
    "": ("has 0", "minute, hour"),
    "@dayly": ("'@dayly'", "@daily"),
}


@pytest.mark.parametrize("expression", REFUSED)
def test_a_bad_expression_is_refused_with_its_place(conn: psycopg.Connection, expression: str) -> None:
    where, advice = REFUSED[expression]
    with pytest.raises(psycopg.Error) as caught:
        conn.execute("select hotmesh.cron_next(%s, now())", (expression,))
    diag = caught.value.diag
    assert diag.sqlstate == "HM027"
    assert where in (diag.message_primary or "")
    assert advice in (diag.message_hint or "")


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.text(alphabet="0123456789*/,-?#lLwW jan\tfrmo@", max_size=24), min_size=10, max_size=10))
def test_what_croniter_refuses_is_refused(conn: psycopg.Connection, texts: list[str]) -> None:
    for text in texts:
        refusal = None
        try:
            conn.execute("select hotmesh.cron_next(%s, now())", (text,))
        except psycopg.Error as error:
            refusal = error.sqlstate
        assert refusal == "HM027" or croniter.is_valid(text.strip(), second_at_beginning=True), (text, refusal)


def test_odd_arguments(conn: psycopg.Connection) -> None:
    def one(query: str) -> object:
        row = conn.execute(query.encode()).fetchone()
        assert row is not None
        return row[0]

    assert one("select hotmesh.cron_next('* * * * *', null)") is None
    assert one("select hotmesh.cron_next('* * * * *', 'infinity')") is None
    assert one("select hotmesh.cron_next('@YEARLY', '2026-06-01Z') = '2027-01-01Z'")
    for query, said in [
        ("select hotmesh.cron_next(null, now())", "null"),
        ("select hotmesh.cron_next('* * * * *', now(), null)", "null"),
        ("select hotmesh.cron_next('* * * * *', now(), 'Europe/Berln')", "unknown time zone 'Europe/Berln'"),
    ]:
        with pytest.raises(psycopg.Error, match=said) as caught:
            one(query)
        assert caught.value.sqlstate == "HM027"
        if "Berln" in query:
            assert caught.value.diag.message_hint == "Near: Europe/Berlin."
