"""The rules between groups of settings for how what is a client's own trains."""

from pipeline.config.federation import FederationConfig
from spire_core.config.adapt import ENCODER, AdaptConfig
from spire_core.config.checks import require
from spire_core.config.client import ClientConfig
from spire_core.config.method import MethodConfig
from spire_core.config.model import ModelConfig


def check_own_training(
    method: MethodConfig,
    federation: FederationConfig,
    client: ClientConfig,
    model: ModelConfig,
    adapt: AdaptConfig,
) -> None:
    """Raise ConfigError if embeddings, or layers that stay with a client, would never train."""
    record, num_rounds = method.record, federation.num_rounds
    has_episodes = record.has_embedding and method.episodes > 0
    require(
        not has_episodes or client.emb_first_steps > 0,
        "client.emb_first_steps of at least 1 with method.episodes above 0",
        client.emb_first_steps,
        "an episode fits an embedding from zero before the backbone trains on it",
    )
    has_encoder = model.set_encoder and method.episodes > 0
    require(
        has_encoder or adapt.init != ENCODER or not record.has_embedding,
        f"model.set_encoder=true and method.episodes above 0 with adapt.init={ENCODER}",
        f"{str(model.set_encoder).lower()} and {method.episodes:g}",
        "the encoder that an embedding starts from trains in episodes",
    )
    has_own_layers = record.is_federated and record.has_local_layers
    require(
        not has_own_layers or method.num_shared_rounds(num_rounds) < num_rounds,
        f"method.share_until that leaves a round of {num_rounds} to local layers",
        f"{method.share_until:g}",
        "lower it, or choose method=fedavg: until then these layers are averaged too",
    )
