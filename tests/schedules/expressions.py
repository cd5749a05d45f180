"""Random cron expressions: of a `Random`, which is quick; and for hypothesis, which can make them smaller."""

from __future__ import annotations

from random import Random

from hypothesis import strategies as st

MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
WEEKDAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
FIELDS: dict[str, tuple[int, int, list[str]]] = {
    "second": (0, 59, []),
    "minute": (0, 59, []),
    "hour": (0, 23, []),
    "day": (1, 31, []),
    "month": (1, 12, MONTHS),
    "weekday": (0, 7, WEEKDAYS),
}


def value(random: Random, name: str) -> str:
    low, high, names = FIELDS[name]
    if names and random.random() < 0.5:
        word = random.choice(names)
        return random.choice([word, word.capitalize()])
    return str(random.randint(low, high))


def element(random: Random, name: str) -> str:
    kind = random.choice("vvvvrrrsSRL")
    step = random.randint(1, FIELDS[name][1] + 3)
    first = value(random, name)
    if kind == "v":
        return first
    if kind == "s":
        return f"*/{step}"
    if kind == "S":
        return f"{first}/{step}"
    if kind == "L" and name == "day":
        return random.choice(["L", "l", f"{first}-L", f"{first}-l/{step}"])
    written = f"{first}-{value(random, name)}"  # wraps around as often as not
    return f"{written}/{step}" if kind == "R" else written


def nth_weekday(random: Random) -> str:
    kind = random.choice("nLs")
    if kind == "n":
        return f"{value(random, 'weekday')}#{random.randint(1, 5)}"
    return f"L{random.randint(0, 7)}" if kind == "L" else random.choice(["mon-fri#1", "sat-mon#2", "Fri-Sun#5"])


def field(random: Random, name: str) -> str:
    kind = random.choice("***vvllnn")
    if kind == "*":
        return random.choice("*?") if name in ("day", "weekday") else "*"
    if kind == "v":
        return value(random, name)
    if kind == "n" and name == "weekday":
        return ",".join(nth_weekday(random) for _ in range(random.randint(1, 3)))
    if kind == "n" and name == "day":
        day = random.randint(1, 31)
        return random.choice([f"{day}W", f"w{day}"])
    return ",".join(element(random, name) for _ in range(random.randint(1, 3)))


def expression(random: Random) -> str:
    """One as a person might write it, or rather not."""
    names = ["minute", "hour", "day", "month", "weekday"]
    if random.random() < 0.5:
        names.insert(0, "second")
    return random.choice([" ", " ", "  ", "\t"]).join(field(random, name) for name in names)


expressions: st.SearchStrategy[str] = st.randoms(use_true_random=False).map(expression)
