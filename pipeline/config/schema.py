"""The configuration of one experiment: its groups of settings, and the rules between groups."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from pipeline.config.build import build
from pipeline.config.data import WITH_CLIENTS, DataConfig, is_outside
from pipeline.config.eval_rules import check_evaluation
from pipeline.config.federation import FederationConfig
from pipeline.config.privacy_rules import check_private_adaptation, check_private_rounds
from pipeline.config.resources import ResourcesConfig
from pipeline.config.secure_rules import check_secure_sums
from pipeline.config.tracking import TrackingConfig
from spire_core.config.adapt import AdaptConfig
from spire_core.config.checks import require
from spire_core.config.client import ClientConfig, with_engine
from spire_core.config.diffusion import DiffusionConfig
from spire_core.config.eval import EvalConfig
from spire_core.config.method import MethodConfig
from spire_core.config.model import ModelConfig
from spire_core.config.partition import NATURAL, PartitionConfig
from spire_core.config.privacy import PrivacyConfig
from spire_core.config.server import ServerConfig
from spire_core.methods import CLIENT_EMB, LOCAL


@dataclass(frozen=True)
class Config:
    """One experiment, completely."""

    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    partition: PartitionConfig = field(default_factory=PartitionConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    federation: FederationConfig = field(default_factory=lambda: FederationConfig(tau=3))
    client: ClientConfig = field(default_factory=ClientConfig)
    server: ServerConfig = field(default_factory=ServerConfig)
    adapt: AdaptConfig = field(default_factory=AdaptConfig)
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    resources: ResourcesConfig = field(default_factory=ResourcesConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def __post_init__(self) -> None:
        method, server, federation = self.method, self.server, self.federation
        self._check_natural()
        check_private_adaptation(self.privacy.adapt, method, self.adapt, self.has_backbone)
        check_secure_sums(federation, method, server, self.client)
        check_private_rounds(self.privacy, method, federation, server, self.client, self.adapt)
        self._check_backbone()
        self._check_own_parts()
        require(
            not method.alternates or federation.tau != 1,
            "federation.tau of at least 2 with method.phases=alternate",
            federation.tau,
            "the local layers take the first half of a client's steps, the shared ones need one",
        )
        require(
            federation.tau is None or federation.tau >= self.fewest_steps,
            f"federation.tau of at least {self.fewest_steps} with client.prox_mu above 0"
            + " and method.phases=alternate" * method.alternates,
            federation.tau,
            "the first step of shared weights starts where the proximal term has no gradient",
        )
        require(
            server.aggregation == "mean" or federation.cohort_size >= 3,
            f"federation.cohort_size of at least 3 with server.aggregation={server.aggregation}",
            federation.cohort_size,
            "of two updates nobody can tell which one is wrong",
        )
        require(
            server.aggregation == "mean" or self.client.compression != "top_k",
            "server.aggregation=mean with client.compression=top_k",
            server.aggregation,
            "most clients leave a coordinate out, so the middle one never moves it",
        )
        require(
            method.record.is_federated or federation.num_new_clients > 0,
            f"federation.num_new_clients of at least 1 with method={method.name}",
            federation.num_new_clients,
            "nobody would train",
        )
        check_evaluation(self.eval, self.data, self.partition, self.model)

    @property
    def fewest_steps(self) -> int:
        """The local steps of a round below which a proximal term has no gradient in any of them."""
        if not (self.method.record.is_federated and self.client.prox_mu > 0):
            return 1
        return 3 if self.method.alternates else 2

    def _check_own_parts(self) -> None:
        """Check how what is a client's own trains and starts."""
        method, federation = self.method, self.federation
        chooses = self.adapt.guidance is not None
        require(
            not chooses or self.has_backbone,
            "a method with pre-training with adapt.guidance",
            method.name,
            "guidance leads away from what was drawn before adaptation, so set it to null",
        )
        require(
            not chooses or self.eval.extractor != "none",
            "an eval.extractor with adapt.guidance",
            self.eval.extractor,
            "drawings are compared in its features, so set adapt.guidance=null",
        )
        is_emb = self.mean_part == CLIENT_EMB
        setting, of_it = ("init", "embedding") if is_emb else ("local_init", "part")
        require(
            self.mean_part is None or federation.num_clients >= 2,
            f"federation.num_clients of at least 2 with adapt.{setting}=mean",
            federation.num_clients,
            f"the mean would be that client's {of_it}, which never leaves it",
        )

    def _check_backbone(self) -> None:
        """Check what goes with a pre-trained network, or needs one."""
        record, is_given = self.method.record, self.model.backbone is not None
        require(
            is_given or not record.is_frozen,
            f"model.backbone=FOLDER with method={self.method.name}"
            + (" and method.freeze=true" if self.method.freeze else ""),
            "null",
            "a network of random numbers is not worth freezing",
        )
        require(
            not is_given or not record.has_local_layers,
            "a method without method.local_layers with model.backbone",
            self.method.name,
            "choose retrofit, spire, fedavg_ft, lora, bias or diffit",
        )
        require(
            self._is_plain or self.client.engine != "grouped",
            "client.engine at its default with model.backbone or layers of an adapter",
            self.client.engine,
            "such networks are computed one by one",
        )
        require(
            record.is_federated or not record.has_embedding or self.adapt.init == "zero",
            "adapt.init=zero without rounds",
            self.adapt.init,
            "no client has begun with an embedding, or trained one",
        )

    def _check_natural(self) -> None:
        """Check that clients that exist come with data that have them, and as many as are named."""
        partition, num_new = self.partition, self.federation.num_new_clients
        require(
            partition.name != NATURAL
            or self.data.name in WITH_CLIENTS
            or is_outside(self.data.name),
            f"data.name as {' or '.join(WITH_CLIENTS)} with partition={NATURAL}",
            self.data.name,
            "other data have no clients of their own",
        )
        require(
            len(partition.new_clients) in (0, num_new),
            f"federation.num_new_clients={len(partition.new_clients)} with so many "
            "partition.new_clients",
            num_new,
            "name all new clients, or none",
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the resolved configuration as plain nested dictionaries."""
        return dataclasses.asdict(self)

    @property
    def resolved_client(self) -> ClientConfig:
        """The settings `client` with an engine that is never "auto"."""
        if not self._is_plain:
            return dataclasses.replace(self.client, engine="loop")
        return with_engine(self.client, self.model)

    @property
    def masks_sums(self) -> bool:
        """Whether clients mask anything: their updates, or the parts of a mean."""
        is_federated = self.method.record.is_federated
        return self.mean_part is not None or (is_federated and self.federation.secure_aggregation)

    @property
    def mean_part(self) -> str | None:
        """The part that a new client starts as the mean of the pre-training clients', if any."""
        record, adapt = self.method.record, self.adapt
        if record.has_embedding and adapt.init == "mean":
            return CLIENT_EMB
        return LOCAL if record.has_local_layers and adapt.local_init == "mean" else None

    @property
    def _is_plain(self) -> bool:
        """Whether the network is the U-Net alone, which several clients can compute as one."""
        return self.model.backbone is None and not self.method.record.adds_layers

    @property
    def has_backbone(self) -> bool:
        """Whether new clients start from common weights: of rounds, or of a pre-trained model."""
        return self.method.record.is_federated or self.model.backbone is not None

    @property
    def draws_alike(self) -> bool:
        """Whether pre-training clients draw the same: with one model, and without captions."""
        return not (self.method.record.is_personal or self.model.text != "none")

    @property
    def is_guided(self) -> bool:
        """Whether anything is drawn with guidance towards a client."""
        return self.eval.guidance != 1.0 or self.adapt.guidance is not None

    @property
    def sets_aside(self) -> bool:
        """Whether a new client sets training images aside for a choice."""
        return self.adapt.sets_aside and bool(self.method.record.adapt_parts)

    @property
    def has_null_text(self) -> bool:
        """Whether rounds train the prediction without a caption."""
        return self.method.record.is_federated and self.client.text_dropout > 0

    @property
    def text_guidance(self) -> float:
        """The scale of guidance by captions: 1 where there are no rounds to train the null text."""
        return self.eval.text_guidance if self.method.record.is_federated else 1.0

    @property
    def private_lr(self) -> float | None:
        """The rate of private steps: that of the settings, or the method's own."""
        return self.privacy.adapt.lr or self.method.record.private_lr or None

    @property
    def scores_tuned(self) -> bool:
        """Whether pre-training clients are scored after fine-tuning as well."""
        return self.method.record.can_tune and self.adapt.tune_epochs > 0


def config_from_dict(values: dict[str, Any]) -> Config:
    """Return the configuration that `Config.as_dict` came from, every value checked by its type."""
    return build(Config, values)
