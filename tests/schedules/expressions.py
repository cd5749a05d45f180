"""Random cron expressions, for hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st

MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
WEEKDAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
FIELDS = {
    "second": (0, 59, []),
    "minute": (0, 59, []),
    "hour": (0, 23, []),
    "day": (1, 31, []),
    "month": (1, 12, MONTHS),
    "weekday": (0, 7, WEEKDAYS),
}


def value(name: str) -> st.SearchStrategy[str]:
    low, high, names = FIELDS[name]
    number = st.integers(low, high).map(str)
    return number | st.sampled_from([*names, *(n.capitalize() for n in names)]) if names else number


@st.composite
def element(draw: st.DrawFn, name: str) -> str:
    high = FIELDS[name][1]
    kind = draw(st.sampled_from("vvvvrrrsSRL"))
    if kind == "v":
        return draw(value(name))
    step = draw(st.integers(1, high + 3))
    if kind == "s":
        return f"*/{step}"
    first = draw(value(name))
    if kind == "S":
        return f"{first}/{step}"
    if kind == "L" and name == "day":
        return draw(st.sampled_from(["L", "l", f"{first}-L", f"{first}-l/{step}"]))
    written = f"{first}-{draw(value(name))}"  # wraps around as often as not
    return f"{written}/{step}" if kind == "R" else written


@st.composite
def field(draw: st.DrawFn, name: str) -> str:
    kind = draw(st.sampled_from("***vvllnn"))
    if kind == "*":
        return draw(st.sampled_from(["*", "?"])) if name in ("day", "weekday") else "*"
    if kind == "v":
        return draw(value(name))
    if kind == "n" and name == "weekday":
        nth = st.builds(lambda day, n: f"{day}#{n}", value(name), st.integers(1, 5))
        last = st.integers(0, 7).map(lambda day: f"L{day}")
        some = st.sampled_from(["mon-fri#1", "sat-mon#2", "Fri-Sun#5"])
        return ",".join(draw(st.lists(nth | last | some, min_size=1, max_size=3)))
    if kind == "n" and name == "day":
        return draw(st.integers(1, 31).flatmap(lambda day: st.sampled_from([f"{day}W", f"w{day}"])))
    return ",".join(draw(st.lists(element(name), min_size=1, max_size=3)))


@st.composite
def expressions(draw: st.DrawFn) -> str:
    names = ["minute", "hour", "day", "month", "weekday"]
    if draw(st.booleans()):
        names.insert(0, "second")
    return draw(st.sampled_from([" ", " ", "  ", "\t"])).join(draw(field(name)) for name in names)
