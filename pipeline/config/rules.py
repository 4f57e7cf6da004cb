"""The rules between groups of settings, a row each."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipeline.config.data import WITH_CLIENTS, is_outside
from spire_core.config.checks import require
from spire_core.config.client import WIDE
from spire_core.config.eval import TEST_SPLIT
from spire_core.config.partition import NATURAL
from spire_core.methods import CLIENT_EMB

if TYPE_CHECKING:
    from pipeline.config.schema import Config

FEWEST, RARE = 3, 1e-6  # clients of a secure sum, but for a chance in each round
Rule = tuple[bool, str, object, str]  # whether it is met, what it expects, what it got, what to do


def check_rules(config: "Config") -> None:
    """Raise ConfigError, with the rule, for groups of settings that do not go together."""
    for rules in (_plain, _of_private_fits, _of_private_rounds, _of_secure_sums):
        for rule in rules(config):
            require(*rule)


# fmt: off
def _plain(c: "Config") -> Iterator[Rule]:
    record, federation, num_new = c.method.record, c.federation, c.federation.num_new_clients
    is_given, is_natural = c.model.backbone is not None, c.partition.name == NATURAL
    yield not is_natural or c.data.name in WITH_CLIENTS or is_outside(c.data.name), f"data.name as {' or '.join(WITH_CLIENTS)} with partition={NATURAL}", c.data.name, "other data have no clients of their own"
    yield len(c.partition.new_clients) in (0, num_new), f"federation.num_new_clients={len(c.partition.new_clients)} with so many partition.new_clients", num_new, "name all new clients, or none"
    yield record.is_federated or num_new > 0, f"federation.num_new_clients of at least 1 with method={record.name}", num_new, "nobody would train"
    yield c.mean_part is None or federation.num_clients >= 2, "federation.num_clients of at least 2 with adapt.init=mean or adapt.local_init=mean", federation.num_clients, "the mean would be that client's part, which never leaves it"
    yield not c.method.alternates or federation.tau != 1, "federation.tau of at least 2 with method.phases=alternate", federation.tau, "local layers take the first half of a client's steps, and shared ones need one"
    yield federation.tau is None or federation.tau >= fewest_steps(c), f"federation.tau of at least {fewest_steps(c)} with client.prox_mu above 0", federation.tau, "shared weights start where the proximal term has no gradient"
    yield c.model.num_embs == 1 or c.adapt.init != "mean", "adapt.init=zero or random with model.num_embs above 1", "mean", "the embeddings of different clients are in no common order"
    yield c.adapt.guidance is None or c.has_backbone, "a method with pre-training with adapt.guidance", record.name, "guidance leads away from what was drawn before adaptation, so set it to null"
    yield c.adapt.guidance is None or c.eval.extractor != "none", "an eval.extractor with adapt.guidance", "none", "drawings are compared in its features, so set adapt.guidance=null"
    yield is_given or not record.is_frozen, f"model.backbone=FOLDER with method={record.name}" + " and method.freeze=true" * c.method.freeze, "null", "a network of random numbers is not worth freezing"
    yield not is_given or not record.has_local_layers or record.adapts_layers, "a method without local layers with model.backbone", record.name, "choose retrofit, spire, fedavg_ft, lora, bias or diffit"
    yield c.is_plain or c.client.engine != "grouped", "client.engine=auto or loop with model.backbone, an adapter, or a method's own network or loss", "grouped", "such clients are computed one by one"
    yield not is_given or record.network is None, f"model.backbone=null with method={record.name}", c.model.backbone, "it has a network of its own"
    yield record.is_federated or not record.has_embedding or c.adapt.init == "zero", "adapt.init=zero without rounds", c.adapt.init, "no client has an embedding that trained"
    yield not (is_given and record.has_embedding and c.method.projection == "learnt") or c.client.emb_init_std > 0, "client.emb_init_std above 0 with model.backbone", 0, "the map of embeddings into the model is zero at first too, and neither would ever train"
    yield c.model.text == "none" or c.text_guidance == 1 or c.has_null_text, f"client.text_dropout above 0 with eval.text_guidance={c.text_guidance:g}", 0, "images shown without captions train the prediction that guidance starts from: set 0.1, or eval.text_guidance=1"
    if c.eval.reference == TEST_SPLIT:
        named, advice = f"with eval.reference={TEST_SPLIT}", "a test split has no such images, so set eval.reference=heldout"
        yield c.model.text == "none", f"model.text=none {named}", c.model.text, advice
        yield c.data.name != "fonts", f"data whose test split has images of the same kind {named}", "fonts", advice
        yield not is_natural, f"a partition that deals images out {named}", NATURAL, advice
        yield c.partition.style == "none", f"partition.style=none {named}", c.partition.style, advice


def _of_private_fits(c: "Config") -> Iterator[Rule]:
    """Yield the rules of `privacy.adapt.epsilon`, without which a fit would only look private."""
    parts, private = c.method.record.adapt_parts, c.privacy.adapt
    if not private.is_on:
        return
    yield len(parts) == 1, "a method whose new clients train one part with privacy.adapt.epsilon", f"{c.method.name}, which trains {len(parts)}", "choose spire, fedavg_ft, shared_rep or local"
    yield c.method.record.loss is None, "a method without a loss of its own with privacy.adapt.epsilon", c.method.name, "a term that compares images tells of each of them, and no noise covers it"
    yield c.num_client_embs == 1 or private.mechanism == "dp_sgd", "privacy.adapt.mechanism=dp_sgd with model.num_embs above 1", private.mechanism, "one release publishes one embedding"
    yield not c.adapt.early_stopping, "adapt.early_stopping=false with privacy.adapt.epsilon", "true", "an epoch that was chosen on the client's images tells of them, and no noise covers it"
    yield c.adapt.guidance is None, "adapt.guidance=null with privacy.adapt.epsilon", c.adapt.guidance, "a scale that was chosen by the client's images tells of them, and no noise covers it"
    yield private.mechanism == "dp_sgd" or parts == (CLIENT_EMB,), f"a method whose new clients train an embedding with privacy.adapt.mechanism={private.mechanism}", c.method.name, "choose privacy.adapt.mechanism=dp_sgd"
    yield private.clip_norm is not None or c.has_backbone, f"privacy.adapt.clip_norm with method={c.method.name}", "null", "without pre-training there is no backbone on which to choose it"


def _of_private_rounds(c: "Config") -> Iterator[Rule]:
    """Yield the rules of `privacy.rounds.epsilon`: nothing tells of a client beside the noisy sum."""
    record, federation, private, named = c.method.record, c.federation, c.privacy.rounds, "with privacy.rounds.epsilon"
    if not private.is_on:
        return
    noise_cohort, sizes = private.noise_cohort or federation.cohort_size, (federation.cohort_size, c.privacy.noise_key is not None)
    yield record.is_federated, f"a method with rounds {named}", record.name, "choose spire, fedavg_ft, fedavg or shared_rep"
    yield record.weight is None, f"a method without weights of its own {named}", record.name, "each client counts once in a private mean"
    yield not c.privacy.adapt.is_on, f"privacy.adapt.epsilon=null {named}", c.privacy.adapt.epsilon, "epsilon is about one unit in a run, so adapt later with spire adapt --epsilon"
    yield c.mean_part is None, f"adapt.init=zero or random, and adapt.local_init=shared, {named}", "mean", "a mean of clients' own parts has no noise"
    yield c.client.opt_state == "reset", f"client.opt_state=reset {named}", c.client.opt_state, "moments are gradients that nobody clips"
    yield c.client.compression == "none", f"client.compression=none {named}", c.client.compression, "changes are clipped and summed as integers"
    yield private.is_simulated(*sizes) or c.resolved_client.engine == "loop", f"client.engine=loop {named}", f"{c.client.engine}, which groups clients below a width of {WIDE}", "a client moves the rounding of others in its group, and epsilon does not include that"
    yield federation.cohort_size <= noise_cohort <= federation.num_clients, f"privacy.rounds.noise_cohort in {federation.cohort_size}..{federation.num_clients}", noise_cohort, "it stands for federation.cohort_size, out of federation.num_clients"


def _of_secure_sums(c: "Config") -> Iterator[Rule]:
    federation, named = c.federation, "with federation.secure_aggregation=true"
    if not federation.secure_aggregation:
        return
    yield federation.cohort_size >= FEWEST, f"federation.cohort_size of at least {FEWEST} {named}", federation.cohort_size, "each of two clients could subtract its own update from the sum"
    yield c.method.record.weight is None, f"a method without weights of its own {named}", c.method.name, "the server would learn each client's, which tells of its update"
    if c.method.record.is_federated:
        yield c.client.compression == "none", f"client.compression=none {named}", c.client.compression, "a number in a sum of integers takes 8 bytes, whatever it was before"
        few = _chance_of_few(c)
        yield few <= RARE, f"a chance of at most {RARE:g} of fewer than {FEWEST} clients in a round's sum {named}", f"{few:.2g}", "the server could read their updates from it, so raise federation.cohort_size (20 are enough in any population) or lower federation.drop_rate"
# fmt: on


def fewest_steps(c: "Config") -> int:
    """Return the local steps of a round below which a proximal term has no gradient in any."""
    if not (c.method.record.is_federated and c.client.prox_mu > 0):
        return 1
    return 3 if c.method.alternates else 2  # local layers are shared at first


def _chance_of_few(c: "Config") -> float:
    """Return the chance of fewer than `FEWEST` clients in a round's sum.

    Private cohorts are drawn by chance, and clients of any cohort may drop out.
    """
    federation, stay = c.federation, 1 - c.federation.drop_rate
    is_drawn = c.privacy.rounds.is_on
    if not is_drawn and stay == 1:
        return 0.0
    from scipy.stats import binom  # late: half a second, for few runs

    if is_drawn:
        rate = stay * federation.cohort_size / federation.num_clients
        return float(binom.cdf(FEWEST - 1, federation.num_clients, rate))
    return float(binom.cdf(FEWEST - 1, federation.cohort_size, stay))
