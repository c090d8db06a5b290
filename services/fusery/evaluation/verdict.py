"""The verdict of the gate as a value: what was asked of the fused model, and whether it held."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that the gate asks, and the figures that decide it."""

    name: str
    passed: bool
    reason: str

    @property
    def line(self) -> str:
        return f"{'held' if self.passed else 'not held'}: {self.name} ({self.reason})"


@dataclass(frozen=True, slots=True)
class Verdict:
    """All checks, and the rule that they come from. Passed if every check holds; without a check there is no proof."""

    checks: tuple[Check, ...]
    rule: Mapping[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return bool(self.checks) and all(check.passed for check in self.checks)

    @property
    def word(self) -> str:
        """'passed' or 'failed', as in tags and files."""
        return "passed" if self.passed else "failed"

    @property
    def reasons(self) -> tuple[str, ...]:
        """A line for each check, those that do not hold first."""
        return tuple(check.line for check in sorted(self.checks, key=lambda check: check.passed))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; the keys are documented in docs/evaluation-json.md."""
        checks = [{"name": check.name, "passed": check.passed, "reason": check.reason} for check in self.checks]
        return {"passed": self.passed, "checks": checks, "rule": dict(self.rule)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Verdict:
        return cls(tuple(Check(**check) for check in content["checks"]), dict(content["rule"]))
