"""Activities of the greeting example: they fail half of the time, at random."""

import random


class Unlucky(Exception):
    """Not today; try again."""


async def greet(name: str) -> str:
    if random.random() < 0.5:
        raise Unlucky("greet")
    return f"Hello, {name}!"


async def saludar(name: str) -> str:
    if random.random() < 0.5:
        raise Unlucky("saludar")
    return f"¡Hola, {name}!"
