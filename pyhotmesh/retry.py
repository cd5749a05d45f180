"""Retry policies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .durations import LONGEST, Duration, parse
from .errors import ApplicationError, InvalidDuration


@dataclass(frozen=True)
class RetryPolicy:
    """When a failed activity is tried again. Durations in seconds, ``timedelta`` or text.

    ``maximum_attempts`` counts all tries; 0 means no limit. The n-th retry waits
    ``initial_interval * backoff_coefficient ** (n - 1)``, at most ``maximum_interval``.
    """

    initial_interval: Duration = 1.0
    backoff_coefficient: float = 2.0
    maximum_interval: Duration = 100.0
    maximum_attempts: int = 0
    non_retryable_error_types: Sequence[str] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "initial_interval", parse(self.initial_interval))
        if self.initial_interval == float("inf"):
            raise InvalidDuration("initial_interval cannot be endless", hint="maximum_attempts=1 means no retry")
        object.__setattr__(self, "maximum_interval", parse(self.maximum_interval))
        if isinstance(self.maximum_attempts, bool) or not isinstance(self.maximum_attempts, int) or self.maximum_attempts < 0:
            raise ValueError(f"maximum_attempts must be 0 (no limit) or more, not {self.maximum_attempts!r}")
        if not self.backoff_coefficient >= 1:
            raise ValueError(f"backoff_coefficient must be at least 1, not {self.backoff_coefficient!r}")
        if isinstance(self.non_retryable_error_types, str):
            raise ValueError("non_retryable_error_types must be a list of names")
        object.__setattr__(self, "non_retryable_error_types", tuple(self.non_retryable_error_types))

    def delay(self, attempt: int, error: BaseException | None) -> float | None:
        """Seconds until the next try after ``attempt`` tries, at most 1000 years, or None if there is none."""
        if self.maximum_attempts and attempt >= self.maximum_attempts:
            return None
        if isinstance(error, ApplicationError):
            if error.non_retryable or error.type in self.non_retryable_error_types:
                return None
            if error.next_retry_delay is not None:
                try:
                    return min(parse(error.next_retry_delay), LONGEST)
                except InvalidDuration:
                    return float(self.initial_interval)  # type: ignore[arg-type]
        if error is not None and {c.__name__ for c in type(error).__mro__} & set(self.non_retryable_error_types):
            return None
        initial = float(self.initial_interval)  # type: ignore[arg-type]
        most = min(float(self.maximum_interval), LONGEST)  # type: ignore[arg-type]
        try:
            return min(most, initial * self.backoff_coefficient ** (max(attempt, 1) - 1))
        except OverflowError:
            return most if initial else 0.0

    def to_dict(self) -> dict[str, Any]:
        """As it is stored with a task."""
        return {
            "initial": self.initial_interval, "coefficient": self.backoff_coefficient,
            "maximum": None if self.maximum_interval == float("inf") else self.maximum_interval,
            "attempts": self.maximum_attempts, "not": list(self.non_retryable_error_types),
        }  # fmt: skip

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> RetryPolicy:
        most = data["maximum"]
        return cls(
            data["initial"],
            data["coefficient"],
            float("inf") if most is None else most,
            data["attempts"],
            data["not"],
        )
