"""Checks that all groups of settings share."""

from spire_core.errors import ConfigError


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise ConfigError unless a setting is one of the choices."""
    if value not in choices:
        raise ConfigError(
            f"expected {name} to be one of {', '.join(choices)}, got {value!r}: choose one"
        )


def require(is_met: bool, expected: str, got: object, advice: str) -> None:
    """Raise ConfigError unless a condition is met."""
    if not is_met:
        raise ConfigError(f"expected {expected}, got {got}: {advice}")
