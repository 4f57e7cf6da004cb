"""The rules between groups of settings for secure sums: what masks hide, and who has to stay."""

import math

from pipeline.config.federation import FederationConfig
from spire_core.config.checks import require
from spire_core.config.client import ClientConfig
from spire_core.config.method import MethodConfig
from spire_core.config.privacy import PrivacyConfig

FEWEST, RARE = 3, 1e-6  # clients of a secure sum, but for a chance in each round
UNLIKELY = 1e-3  # a run that a secure sum ends since too few clients stay


def check_secure_sums(
    federation: FederationConfig, method: MethodConfig, client: ClientConfig
) -> None:
    """Raise ConfigError for a rule between groups that needs single updates."""
    if not federation.secure_aggregation or not method.record.is_federated:
        return
    masked = "with federation.secure_aggregation=true"
    require(
        client.compression == "none",
        f"client.compression=none {masked}",
        client.compression,
        "a masked number takes 8 bytes, whatever it was before",
    )


def check_dropping(
    federation: FederationConfig, method: MethodConfig, privacy: PrivacyConfig
) -> None:
    """Raise ConfigError if clients that drop out would probably end a run that begins."""
    rate, is_drawn = federation.drop_rate, privacy.rounds.is_on
    if not (federation.secure_aggregation and method.record.is_federated and rate > 0):
        return
    sizes = federation.num_clients, federation.cohort_size
    chance = chance_of_drawn_loss(*sizes, rate) if is_drawn else chance_of_loss(sizes[1], rate)
    whole = min(1.0, federation.num_rounds * chance)
    require(
        whole <= UNLIKELY,
        f"a chance of at most {UNLIKELY:g} that too few clients of some round stay until its "
        "secure sum is unmasked",
        f"{whole:.2g}",
        "more than two thirds of a cohort have to stay, so lower federation.drop_rate or raise "
        "federation.cohort_size",
    )


def chance_of_loss(num_members: int, drop_rate: float) -> float:
    """Return the chance that a secure sum of so many clients cannot be unmasked.

    Each client drops out with `drop_rate`. In a sum of more clients than hold a secret it is the
    bound of all clients' chances together.
    """
    from spire_core.secure_sum.protocol import MAX_PARTNERS, threshold_of  # with cryptography

    holders = min(num_members, MAX_PARTNERS + 1)
    few = sum(
        math.comb(holders, k) * (1 - drop_rate) ** k * drop_rate ** (holders - k)
        for k in range(threshold_of(holders))
    )
    return few if holders == num_members else min(1.0, num_members * few)


def chance_of_drawn_loss(num_clients: int, cohort_size: int, drop_rate: float) -> float:
    """Return a bound of that chance where so many clients are drawn on average (Poisson).

    A cohort of more clients than hold a secret counts as one of average size.
    """
    from spire_core.secure_sum.protocol import MAX_PARTNERS  # with cryptography

    if cohort_size == num_clients:
        return chance_of_loss(num_clients, drop_rate)
    odds = cohort_size / (num_clients - cohort_size)
    drawn = math.exp(num_clients * math.log1p(-cohort_size / num_clients))  # no client
    found = max(cohort_size, MAX_PARTNERS + 2)
    chance = chance_of_loss(found, drop_rate)
    for k in range(1, min(num_clients, MAX_PARTNERS + 1) + 1):
        drawn *= odds * (num_clients - k + 1) / k
        chance += drawn * chance_of_loss(k, drop_rate)
    return min(1.0, chance)


def chance_of_few(num_clients: int, cohort_size: int) -> float:
    """Return the chance of fewer than `FEWEST` clients in a cohort that is drawn by chance."""
    q = cohort_size / num_clients
    return sum(
        math.comb(num_clients, k) * q**k * (1 - q) ** (num_clients - k) for k in range(FEWEST)
    )
