"""The rules between groups of settings for how what is a client's own trains."""

from pipeline.config.federation import FederationConfig
from spire_core.config.checks import require
from spire_core.config.method import MethodConfig


def check_own_training(method: MethodConfig, federation: FederationConfig) -> None:
    """Raise ConfigError if layers that stay with a client would never train."""
    record, num_rounds = method.record, federation.num_rounds
    has_own_layers = record.is_federated and record.has_local_layers
    require(
        not has_own_layers or method.num_shared_rounds(num_rounds) < num_rounds,
        f"method.share_until that leaves a round of {num_rounds} to local layers",
        f"{method.share_until:g}",
        "lower it, or choose method=fedavg: until then these layers are averaged too",
    )
