"""When two configurations mean the same, and what their pre-training has in common."""

from dataclasses import replace

import pytest

from pipeline.config.equivalence import fingerprint, pretrain_fingerprint, reads, scores_controls
from pipeline.config.load import load_config, preset_names
from spire_core.methods import METHODS


def fingerprints(*overrides: str) -> tuple[str, str]:
    config = load_config("smoke", overrides)
    return fingerprint(config), pretrain_fingerprint(config)


@pytest.mark.parametrize(
    ("method", "unread"),
    [
        ("fedavg_ft", "model.d_emb=7"),
        ("fedavg_ft", "client.emb_lr=1.0"),
        ("fedavg_ft", "client.emb_noise=1.0"),
        ("fedavg_ft", "method.episodes=0.5"),
        ("fedavg_ft", "model.set_encoder=true"),
        ("spire", "eval.guidance_interval=[0.2,5]"),  # of an eval.guidance
        ("fedavg_ft", "client.emb_prior=1.0"),
        ("fedavg_ft", "client.emb_first_steps=1"),
        ("fedavg_ft", "adapt.emb_prior=1.0"),
        ("fedavg_ft", "adapt.lr=3.0e-4"),  # its own rate, said out loud
        ("shared_rep", "client.emb_dropout=0.5"),
        ("spire", "method.share_until=0.1"),
        ("spire", "adapt.patience=9"),
        ("spire", "client.engine=grouped"),  # what auto takes for a network of this width
        ("spire", "client.top_k_fraction=0.5"),  # of compression=top_k alone
        ("fedavg_ft", "client.private_moments=none"),  # its network has no such layer
        ("spire", "resources.num_actors=1"),
        ("spire", "tracking.checkpoint_every=1"),
        ("spire", "tracking.profile=true"),
        ("spire", "data.root=elsewhere"),
        ("spire", "data.captions=title"),  # of data.metadata, and there are none
        ("spire", "model.words=[a,b]"),  # of model.text=words alone
        ("spire", "client.text_dropout=0.5"),
        ("spire", "eval.text_guidance=2.0"),
        ("fedavg_ft", "adapt.group_size=3"),  # only embeddings are fitted together
        ("fedavg", "adapt.epochs=99"),
        ("spire", "adapt.local_init=mean"),  # it has no local layers
        ("fedavg", "adapt.tune_epochs=2"),
        ("local", "federation.num_rounds=99"),
        ("local", "client.lr=9.0"),
        ("local", "federation.drop_rate=0.5"),
        ("local", "server.lr=0.5"),
        ("local", "federation.secure_aggregation=true"),
        ("local", "client.compression=int8"),
        ("local", "client.prox_mu=0.1"),
        ("spire", "privacy.adapt.steps=9"),  # without a budget there is no privacy
        ("spire", "privacy.noise_key=a"),
        ("spire", "privacy.rounds.clip_norm=9"),
        ("spire", "method.entrance=blocks"),  # our U-Net has one
        ("spire", "method.rank=9"),
        ("bias", "method.rank=9"),
    ],
)
def test_what_a_method_never_reads_makes_no_difference(method: str, unread: str) -> None:
    assert fingerprints(f"method={method}") == fingerprints(f"method={method}", unread)


@pytest.mark.parametrize(
    ("method", "key", "is_read"),
    [
        ("fedavg_ft", "model.d_emb", False),
        ("spire", "model.d_emb", True),
        ("spire", "method.share_until", False),
        ("shared_rep", "method.share_until", True),
        ("fedavg", "adapt.epochs", False),
        ("fedavg", "adapt.num_images", True),
        ("local", "client.lr", False),
        ("local", "federation.tau", False),
        ("local", "client.betas", True),
        ("local", "adapt.epochs", True),
    ],
)
def test_what_a_method_reads_can_be_asked(method: str, key: str, is_read: bool) -> None:
    assert reads(METHODS[method], key) == is_read


def test_controls_of_new_clients_leave_pretraining_the_same() -> None:
    plain, controlled = fingerprints(), fingerprints("eval.controls=true")
    assert plain[0] != controlled[0]
    assert plain[1] == controlled[1]


@pytest.mark.parametrize(
    "word",
    ["eval.extractor=none", "federation.num_new_clients=0", "model={text: words, words: [a]}"],
)
def test_controls_make_no_difference_where_they_cannot_be_scored(word: str) -> None:
    wanted = (word, "eval.controls=true")
    assert fingerprints(*wanted) == fingerprints(word, "eval.controls=false")
    assert not scores_controls(load_config("smoke", wanted))


def test_all_presets_have_controls_but_the_quick_one_and_prompts() -> None:
    without = {name for name in preset_names() if not scores_controls(load_config(name))}
    assert without == {"smoke", "fonts-cpu"}


def test_a_reference_makes_a_difference_to_scores_alone() -> None:
    own, test_split = "eval.reference=heldout", "eval.reference=test_split"
    assert fingerprints(own) == fingerprints()
    assert not set(fingerprints(test_split)) & set(fingerprints())  # pre-training is scored as well
    without = "eval.extractor=none"
    assert fingerprints(without, test_split) == fingerprints(without)


@pytest.mark.parametrize(
    ("method", "read"),
    [
        ("spire", "model.d_emb=7"),
        ("shared_rep", "method.share_until=0.1"),
        ("fedavg", "adapt.num_images=5"),
        ("spire", "adapt.group_size=3"),
        ("local", "client.betas=[0.8,0.9]"),
        ("local", "adapt.epochs=99"),
        ("spire", "seed=1"),
        ("spire", "client.engine=loop"),
        ("spire", "client.group_size=3"),
        ("spire", "federation.drop_rate=0.5"),
        ("spire", "server.optimizer=fedadam"),
        ("spire", "federation.secure_aggregation=true"),
        ("spire", "client.compression=bf16"),
        ("spire", "client.prox_mu=0.1"),
        ("spire", "client.private_moments=none"),
        ("fedavg_ft", "adapt.tune_epochs=2"),
        ("spire", "adapt.tune_epochs=2"),
        ("shared_rep", "adapt.tune_epochs=2"),
        ("shared_rep", "adapt.local_init=mean"),
        ("fedavg_ft", "adapt.draws=2"),
        ("spire", "adapt.draws=null"),
        ("spire", "adapt.emb_prior=1.0"),
        ("spire", "client.emb_noise=1.0"),
        ("spire", "client.emb_prior=1.0"),
        ("spire", "client.emb_first_steps=1"),
        ("spire", "adapt.schedule=cosine"),
        ("local", "adapt.average=0.5"),
        ("lora", "method.rank=9"),
        ("spire", "model.backbone=a"),
    ],
)
def test_what_a_method_reads_makes_another_experiment(method: str, read: str) -> None:
    assert fingerprints(f"method={method}")[0] != fingerprints(f"method={method}", read)[0]


@pytest.mark.parametrize("episodes", ["0", "0.5"])
def test_networks_of_another_size_are_another_pretraining(episodes: str) -> None:
    """A run with the same pre-training takes over its numbers, whether it reads them or not."""
    words = [f"method.episodes={episodes}", "client.emb_first_steps=1"]
    plain, encoder = (fingerprints(*words, *more) for more in ((), ("model.set_encoder=true",)))
    assert plain[1] != encoder[1]


def test_a_pretrained_model_switches_our_network_off() -> None:
    given = ("method=retrofit", "model.backbone=a")
    common = fingerprints(*given)
    for unread in ("model.width=64", "diffusion.prediction=eps", "client.engine=loop"):
        assert fingerprints(*given, unread) == common
    for read in ("model.backbone=b", "model.d_emb=7", "method.entrance=blocks"):
        assert fingerprints(*given, read)[1] != common[1]
    fixed = fingerprints(*given, "method.projection=random")
    assert fixed[0] != common[0]
    assert fixed == fingerprints(*given, "method.projection=random", "client.lr=9.0")


def test_an_adapter_orders_the_weights_so_that_no_other_method_shares_its_rounds() -> None:
    found = {fingerprints(f"method={name}")[1] for name in ("fedavg", "lora", "bias", "diffit")}
    assert len(found) == 4


def test_early_stopping_reads_its_settings() -> None:
    stops = "adapt.early_stopping=true"
    assert fingerprints(stops)[0] != fingerprints(stops, "adapt.patience=9")[0]


def test_a_choice_of_guidance_belongs_to_new_clients_alone() -> None:
    """With the interval, as long as nobody else draws with guidance."""
    chooses, share = "adapt.guidance=[1,2]", "adapt.val_fraction=0.4"
    interval = "eval.guidance_interval=[0.3,5]"
    found = [fingerprints(), fingerprints(chooses), fingerprints(chooses, share)]
    found += [fingerprints(chooses, share, interval)]
    assert len({whole for whole, _ in found}) == len(found)
    assert len({rounds for _, rounds in found}) == 1
    guided = [fingerprints("eval.guidance=2"), fingerprints("eval.guidance=2", interval)]
    assert guided[0][1] != guided[1][1]


def test_compression_reads_its_settings_and_kept_moments_none() -> None:
    thin = "client.compression=top_k"
    assert fingerprints(thin)[1] != fingerprints(thin, "client.top_k_fraction=0.5")[1]
    kept, told = "client.opt_state=keep", "client.private_moments=none"
    assert fingerprints(kept) == fingerprints(kept, told)


BUDGET = "privacy.adapt.epsilon=4"
ROUNDS = ("client.opt_state=reset", "privacy.rounds.epsilon=4")


@pytest.mark.parametrize(
    "read",
    [
        "privacy.rounds.epsilon=5",
        "privacy.rounds.delta=1e-3",
        "privacy.rounds.clip_norm=0.1",
        "privacy.rounds.clip_quantile=0.5",
        "privacy.rounds.noise_cohort=5",
        "privacy.noise_key=a",
    ],
)
def test_private_rounds_are_another_pretraining(read: str) -> None:
    both = zip(fingerprints(*ROUNDS), fingerprints(*ROUNDS, read), strict=True)
    assert all(one != other for one, other in both)
    assert fingerprints(ROUNDS[0])[1] != fingerprints(*ROUNDS)[1]
    assert fingerprints(*ROUNDS) == fingerprints(*ROUNDS, "privacy.adapt.steps=9")


@pytest.mark.parametrize(
    "unread",
    [
        "adapt.epochs=9",
        "adapt.lr=0.5",
        "adapt.batch_size=7",
        "adapt.draws=2",
        "adapt.schedule=cosine",
        "adapt.average=0.5",
        "adapt.emb_prior=1.0",
        "privacy.adapt.lr=0.05",  # the method's own, said out loud
        "resources.num_actors=1",
    ],
)
def test_a_private_fit_ignores_epochs_and_their_rate(unread: str) -> None:
    assert fingerprints(BUDGET) == fingerprints(BUDGET, unread)


@pytest.mark.parametrize(
    "read",
    [
        "privacy.adapt.epsilon=5",
        "privacy.adapt.delta=1e-3",
        "privacy.adapt.clip_norm=0.1",
        "privacy.adapt.steps=9",
        "privacy.adapt.draws=9",
        "privacy.adapt.batch_size=9",
        "privacy.adapt.lr=0.5",
        "privacy.adapt.mechanism=one_release",
        "privacy.noise_key=a",
        "adapt.eval_every=2",
        "adapt.init=mean",
    ],
)
def test_a_private_fit_reads_the_settings_of_privacy(read: str) -> None:
    plain, private, other = fingerprints(), fingerprints(BUDGET), fingerprints(BUDGET, read)
    assert len({plain[0], private[0], other[0]}) == 3
    assert plain[1] == private[1] == other[1]  # the pre-training is the same


def test_a_private_run_reads_the_rate_at_which_its_old_clients_train_on() -> None:
    tuned = (BUDGET, "adapt.tune_epochs=5")
    assert fingerprints(*tuned, "adapt.lr=0.5")[0] != fingerprints(*tuned)[0]
    assert fingerprints(BUDGET, "adapt.lr=0.5")[0] == fingerprints(BUDGET)[0]


def test_two_keys_are_two_experiments_and_a_label_stands_for_its_key() -> None:
    config = load_config("smoke", [BUDGET, "privacy.noise_key=a"])
    stored = replace(config, privacy=config.privacy.labelled())
    assert fingerprint(stored) == fingerprint(config)
    other = ("privacy.noise_key=b",)
    assert fingerprints(BUDGET, *other)[0] != fingerprint(config)


def test_a_method_without_rounds_has_no_proximal_term_to_refuse() -> None:
    unread = ("method=local", "client.prox_mu=0.1", "federation.tau=1")
    assert fingerprints("method=local") == fingerprints(*unread)


def test_the_size_of_groups_belongs_to_a_grouped_experiment() -> None:
    loop, grouped = "client.engine=loop", "client.engine=grouped"
    assert fingerprints(loop) == fingerprints(loop, "client.group_size=3")
    assert fingerprints(grouped)[1] != fingerprints(grouped, "client.group_size=3")[1]
    wide = "model.width=64"  # which auto computes one after the other
    assert fingerprints(wide) == fingerprints(wide, loop) != fingerprints(wide, grouped)
    dropout = "model.dropout=0.1"  # which is computed by the loop in any case
    assert fingerprints(dropout) == fingerprints(dropout, grouped, "client.group_size=3")


def test_pretraining_is_common_to_what_differs_in_adaptation_only() -> None:
    common = fingerprints("method=fedavg")[1]
    assert common == fingerprints("method=fedavg_ft", "adapt.epochs=7", "adapt.lr=0.1")[1]
    assert common == fingerprints("method=fedavg_ft", "adapt.tune_epochs=2")[1]
    assert common != fingerprints("method=spire")[1]
    assert common != fingerprints("method=fedavg", "federation.num_rounds=7")[1]
    assert fingerprints("adapt.lr=0.1")[0] != fingerprints("adapt.lr=0.2")[0]
    assert fingerprints("adapt.lr=0.1")[1] == fingerprints("adapt.lr=0.2")[1]
    shared = ("method=shared_rep", "adapt.local_init=mean", "adapt.tune_epochs=2")
    assert fingerprints(*shared)[1] == fingerprints(shared[0])[1]


def test_added_settings_are_part_of_a_fingerprint_where_they_are_set() -> None:
    natural = ("data=fonts", "partition=natural")
    hidden = fingerprints(*natural, "partition.hidden=[A]")
    assert fingerprints(*natural, "partition.hidden=[]") == fingerprints(*natural)
    more = ("partition.hidden=[B]", "partition.style=stroke")
    others = {fingerprints(*natural, setting) for setting in more}
    assert len({hidden, fingerprints(*natural), *others}) == 4


def test_a_users_own_images_are_known_by_their_folder() -> None:
    own = ("data=folder", "data.image_size=16")
    here = fingerprints(*own, "data.path=here")
    assert here[0] != fingerprints(*own, "data.path=there")[0]
