"""The rules between groups of settings for clipping and noise."""

from pipeline.config.federation import FederationConfig
from pipeline.config.secure_rules import FEWEST, RARE, chance_of_few
from spire_core.config.adapt import ENCODER, AdaptConfig
from spire_core.config.checks import require
from spire_core.config.client import ClientConfig
from spire_core.config.method import MethodConfig
from spire_core.config.privacy import PrivacyConfig, PrivateAdaptConfig
from spire_core.methods import CLIENT_EMB


def check_private_adaptation(
    private: PrivateAdaptConfig,
    method: MethodConfig,
    adapt: AdaptConfig,
    has_backbone: bool,
) -> None:
    """Raise ConfigError if a new client's privacy could not be kept, or would protect nothing.

    A method that trains nothing is refused rather than ignored: its run would look private.
    """
    parts = method.record.adapt_parts
    if not private.is_on:
        return
    require(
        len(parts) == 1,
        "a method whose new clients train one part with privacy.adapt.epsilon",
        f"{method.name}, which trains {len(parts)}",
        "choose spire, fedavg_ft, shared_rep or local",
    )
    require(
        not adapt.early_stopping,
        "adapt.early_stopping=false with privacy.adapt.epsilon",
        "true",
        "an epoch that was chosen on the client's images tells of them, and no noise covers it",
    )
    require(
        adapt.guidance is None,
        "adapt.guidance=null with privacy.adapt.epsilon",
        list(adapt.guidance or ()),
        "a scale that was chosen by the client's images tells of them, and no noise covers it",
    )
    require(
        adapt.init != ENCODER or parts != (CLIENT_EMB,),
        "adapt.init=zero, mean or random with privacy.adapt.epsilon",
        adapt.init,
        "what an encoder makes of the client's images has no noise",
    )
    require(
        private.mechanism == "dp_sgd" or parts == (CLIENT_EMB,),
        "a method whose new clients train an embedding with "
        f"privacy.adapt.mechanism={private.mechanism}",
        method.name,
        "choose privacy.adapt.mechanism=dp_sgd",
    )
    require(
        private.clip_norm is not None or has_backbone,
        f"privacy.adapt.clip_norm with method={method.name}",
        "null",
        "without pre-training there is no backbone on which to choose it",
    )


Rule = tuple[bool, str, object, str]  # whether it is met, what it expects, what it got, advice


def check_private_rounds(
    privacy: PrivacyConfig,
    method: MethodConfig,
    federation: FederationConfig,
    client: ClientConfig,
    adapt: AdaptConfig,
) -> None:
    """Raise ConfigError for what would tell of single clients beside the noisy sum."""
    if not privacy.rounds.is_on:
        return
    rules = (*_of_what_is_fitted(privacy, method, adapt), *_of_sums(client))
    for is_met, expected, got, advice in rules:
        require(is_met, f"{expected} with privacy.rounds.epsilon", got, advice)
    noise_cohort = privacy.rounds.noise_cohort or federation.cohort_size
    require(
        federation.cohort_size <= noise_cohort <= federation.num_clients,
        f"privacy.rounds.noise_cohort in {federation.cohort_size}..{federation.num_clients}",
        noise_cohort,
        "it stands for federation.cohort_size, out of federation.num_clients",
    )
    if federation.secure_aggregation:
        few = chance_of_few(federation.num_clients, federation.cohort_size)
        require(
            few <= RARE,
            f"a chance of at most {RARE:g} of fewer than {FEWEST} clients in a private cohort with "
            "federation.secure_aggregation=true",
            f"{few:.2g}",
            "the server could read their updates from the sum, so raise federation.cohort_size "
            "(20 are enough in any population)",
        )


def _of_what_is_fitted(
    privacy: PrivacyConfig, method: MethodConfig, adapt: AdaptConfig
) -> tuple[Rule, ...]:
    record = method.record
    has_mean = record.has_embedding and adapt.init == "mean"
    return (
        (
            record.is_federated,
            "a method with rounds",
            method.name,
            "choose spire, fedavg_ft, fedavg or shared_rep",
        ),
        (
            not privacy.adapt.is_on,
            "privacy.adapt.epsilon=null",
            privacy.adapt.epsilon,
            "epsilon is about one unit in a run, so adapt later with spire adapt --epsilon",
        ),
        (
            not has_mean,
            "adapt.init=zero or random",
            adapt.init,
            "the mean embedding has no noise",
        ),
        (
            not record.has_local_layers or adapt.local_init == "shared",
            "adapt.local_init=shared",
            adapt.local_init,
            "the mean of local layers has no noise",
        ),
    )


def _of_sums(client: ClientConfig) -> tuple[Rule, ...]:
    return (
        (
            client.opt_state != "average",
            "client.opt_state=reset or keep",
            client.opt_state,
            "moments are gradients that nobody clips",
        ),
        (
            client.compression == "none",
            "client.compression=none",
            client.compression,
            "changes are clipped and summed as integers",
        ),
    )
