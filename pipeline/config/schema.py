"""The configuration of one experiment: all groups of settings as one record."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from pipeline.config.data import DataConfig
from pipeline.config.federation import FederationConfig
from pipeline.config.resources import ResourcesConfig
from pipeline.config.rules import check_rules
from pipeline.config.tracking import TrackingConfig
from spire_core.config.adapt import AdaptConfig
from spire_core.config.client import ClientConfig, with_engine
from spire_core.config.diffusion import DiffusionConfig
from spire_core.config.eval import EvalConfig
from spire_core.config.method import MethodConfig
from spire_core.config.model import ModelConfig
from spire_core.config.partition import PartitionConfig
from spire_core.config.privacy import PrivacyConfig
from spire_core.config.server import ServerConfig
from spire_core.methods import CLIENT_EMB, DENOISER, LOCAL


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
        check_rules(self)

    def as_dict(self) -> dict[str, Any]:
        """Return the resolved configuration as plain nested dictionaries."""
        return dataclasses.asdict(self)

    @property
    def is_plain(self) -> bool:
        """Whether the U-Net is all that is computed, which several clients can do as one."""
        record = self.method.record
        is_unet = self.model.backbone is None and record.network is None
        return is_unet and record.loss is None and not record.adds_layers

    @property
    def resolved_client(self) -> ClientConfig:
        """The settings `client` with an engine that is never "auto"."""
        if not self.is_plain:
            return dataclasses.replace(self.client, engine="loop")
        return with_engine(self.client, self.model)

    @property
    def mean_part(self) -> str | None:
        """The part that a new client starts as the mean of the pre-training clients', if any."""
        record, adapt = self.method.record, self.adapt
        if record.has_embedding and adapt.init == "mean":
            return CLIENT_EMB
        return LOCAL if record.has_local_layers and adapt.local_init == "mean" else None

    @property
    def num_client_embs(self) -> int:
        """The embeddings of a client; 1 also where it has none."""
        return self.model.num_embs if self.method.record.has_embedding else 1

    @property
    def has_backbone(self) -> bool:
        """Whether new clients start from common weights: of rounds, or of a pre-trained model."""
        return self.method.record.is_federated or self.model.backbone is not None

    @property
    def starts_trained(self) -> bool:
        """Whether the network from which a new client starts is a trained model of the population.

        It is not where each client has a network of its own, nor is the mean of these.
        """
        return self.has_backbone and self.method.record.adapter != DENOISER

    @property
    def draws_alike(self) -> bool:
        """Whether pre-training clients draw the same: with one model, and without captions."""
        return not (self.method.record.is_personal or self.model.text != "none")

    @property
    def is_guided(self) -> bool:
        """Whether anything is drawn with guidance towards a client."""
        return self.eval.guidance != 1.0 or self.adapt.guidance is not None

    @property
    def can_have_controls(self) -> bool:
        """Whether clients' controls can be scored: by KID, and without prompts."""
        return self.eval.extractor != "none" and self.model.text == "none"

    @property
    def has_controls(self) -> bool:
        """Whether clients' controls are scored."""
        return self.eval.controls and self.can_have_controls

    @property
    def sets_aside(self) -> bool:
        """Whether a new client sets training images aside for a choice."""
        return self.adapt.sets_aside and bool(self.method.record.adapt_parts)

    def is_new(self, client_id: int) -> bool:
        """Whether a client arrives after pre-training."""
        return client_id >= self.federation.num_clients

    @property
    def has_null_text(self) -> bool:
        """Whether rounds train the prediction without a caption."""
        return self.method.record.is_federated and self.client.text_dropout > 0

    @property
    def text_guidance(self) -> float:
        """The scale of guidance by captions: 1 where there are no rounds to train the null text."""
        return self.eval.text_guidance if self.method.record.is_federated else 1.0

    @property
    def adapt_lr(self) -> float | None:
        """The rate that new clients train with: that of the settings, or the method's own."""
        return self.adapt.lr or self.method.record.adapt_lr or None

    @property
    def private_lr(self) -> float | None:
        """The rate of private steps: that of the settings, or the method's own."""
        return self.privacy.adapt.lr or self.method.record.private_lr or None

    @property
    def scores_tuned(self) -> bool:
        """Whether pre-training clients are scored after fine-tuning as well."""
        return self.method.record.can_tune and self.adapt.tune_epochs > 0
