"""Which agent answers: the number that was called, the time of day, the routes of the configuration."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from offhook.gateway.config import Closed, Config, Route
from offhook.gateway.numbers import canonical, matches

__all__ = ["RouteMatch", "Router", "matches", "may_transfer"]


@dataclass(frozen=True, slots=True)
class RouteMatch:
    """What the routes say about a call."""

    route: Route | None
    "None: no route fits the number."
    agent_name: str
    "Who answers, a name under `agents:`. Empty: nobody does, see `closed`."
    reason: str
    "For records and people, such as `exact +15550100` or `prefix +1555*, closed`."
    is_open: bool = True

    @property
    def closed(self) -> Closed | None:
        """What to say or where to transfer instead of an agent; None when an agent answers, or the call is refused."""
        return None if self.agent_name or self.route is None else self.route.closed


class Router:
    """Finds routes: exact numbers first, then the longest prefix, then `*`. Pure."""

    def __init__(self, config: Config) -> None:
        self._exact: dict[str, Route] = {}
        self._prefixes: list[tuple[str, Route]] = []
        for route in config.routes:
            if route.number.endswith("*"):
                self._prefixes.append((canonical(route.number[:-1]), route))
            else:
                self._exact[canonical(route.number)] = route
        self._prefixes.sort(key=lambda item: len(item[0]), reverse=True)

    def route(self, to_number: str, from_number: str, at: datetime) -> RouteMatch:
        """Find the route of a call.

        Args:
            to_number: the number that was called.
            from_number: the caller; no route looks at it yet.
            at: an aware moment, for opening hours.
        """
        called = canonical(to_number)
        route = self._exact.get(called)
        how = "exact"
        if route is None:
            route = next((route for prefix, route in self._prefixes if called.startswith(prefix)), None)
            if route is None:
                return RouteMatch(None, "", "no route has this number")
            how = "default" if route.number == "*" else "prefix"
        reason = how if how == "default" else f"{how} {route.number}"
        if route.hours is None or route.hours.is_open(at):
            return RouteMatch(route, route.agent, reason)
        return RouteMatch(route, route.closed.agent if route.closed else "", f"{reason}, closed", is_open=False)


def may_transfer(route: Route, to: str) -> bool:
    """Whether the agent of a route may transfer a caller to a number."""
    return any(matches(pattern, to) for pattern in route.allow_transfer)
