"""The settings that an unknown key may mean, by its letters or by other words for them."""

from collections.abc import Sequence

from spire_core.config.checks import nearness

NEAR, NEAR_KEY = 0.75, 0.85  # from which on one word, or whole key, may be meant by another
SETTINGS = "docs/settings.md and --dry-run list them"
SEEDS = "a run has one seed, and a sweep has several: spire sweep NAME seeds=[0,1,2]"
# Words for a whole key, then for its last word, where their letters do not tell. Many are those of
# other libraries; a key without a word has no setting here.
WHOLE = {"dataset": "data.name", "methods": "method", "name": "tracking.run_name"}
WHOLE |= {"client.optimizer": "", "client.momentum": "", "client.weight_decay": ""}
LAST = {"learning_rate": "lr", "eps": "epsilon", "d_embedding": "d_emb", "emb_dim": "d_emb"}
LAST |= {"embedding_dim": "d_emb", "images": "num_images", "num_epochs": "epochs"}
LAST |= {"rounds": "num_rounds", "clients": "num_clients", "strategy": "method.name"}
LAST |= {"num_partitions": "federation.num_clients", "num_supernodes": "federation.num_clients"}
LAST |= {"fraction_fit": "cohort_size", "clients_per_round": "cohort_size", "local_steps": "tau"}
LAST |= {"gpus": "num_gpus", "cpus": "num_cpus", "actors": "num_actors"}
LAST |= {"num_workers": "num_actors"}
LAST |= {"dirichlet_alpha": "alpha", "guidance_scale": "guidance"}
LAST |= {"num_inference_steps": "sample_steps", "num_train_timesteps": "num_timesteps"}
LAST |= {"num_samples": "num_trials", "output_dir": "tracking.root", "log_dir": "tracking.root"}


def key_hint(name: str, known: Sequence[str], listed: str = SETTINGS) -> str:
    """Return the advice for an unknown key: those that may be meant, or where all are `listed`."""
    if name == "seeds":
        return SEEDS
    meant = " or ".join(_meant(name, known))
    return f"did you mean {meant}?" if meant else listed


def _meant(name: str, known: Sequence[str]) -> list[str]:
    """Return the known keys that may be meant by an unknown one, those of its group first."""
    group, _, last = name.rpartition(".")
    word = WHOLE.get(name, LAST.get(last, last))
    if not word or word in (*known, "method"):
        return [word] if word else []
    near = [key for key in known if nearness(group, key.rpartition(".")[0]) >= NEAR]
    groups = ([key for key in known if key.startswith(group)], near, known)
    for keys in groups:
        if same := _with_last(keys, word):
            return same
    nearest = max(known, key=lambda key: nearness(name, key))
    if nearness(name, nearest) >= NEAR_KEY:
        return [nearest]
    keys = next(filter(None, groups), known)  # of another group, a similar word means another thing
    alike, nearest = max((nearness(word, _last(key)), _last(key)) for key in keys)
    return _with_last(keys, nearest) if alike >= NEAR else []


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _with_last(keys: Sequence[str], word: str) -> list[str]:
    return [key for key in keys if _last(key) == word]
