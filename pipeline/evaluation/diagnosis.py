"""Rules that recognise known failures of an experiment, each with advice.

Rules take evidence (losses, scores, a matrix) and return a `Diagnosis` or None;
`docs/diagnoses.md` gives the reasons for signs and thresholds.
r: evaluations of pre-training, m: clients, n: held-out images of one client.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from torch import Tensor

from pipeline.config.schema import Config
from pipeline.evaluation.scores import Evaluation, RealData
from pipeline.federation.messages import AdaptReport
from pipeline.federation.setup import FederationSetup
from spire_core.errors import DivergenceError
from spire_core.evaluation.image_metrics import total_variation
from spire_core.federated.messages import steps_per_epoch
from spire_core.methods import CLIENT_EMB
from spire_core.partition.coverage import coverages

DIAGNOSIS, NONE = "spire.diagnosis", "none"  # a run's tag, and its value without a known failure
NOT_LEARNING, DIVERGING = "backbone_not_learning", "backbone_diverging"
OVERFITTING, UNCOVERED = "adaptation_overfitting", "new_client_uncovered"
INCONSISTENT, IGNORED = "clients_inconsistent", "embedding_ignored"
ADVICE = {
    NOT_LEARNING: "more federation.num_rounds or a higher client.lr; a lower one if the loss is "
    "far above its start",
    DIVERGING: "a lower client.lr, with fedavgm or fedadam a lower server.lr (0.01), a longer "
    "client.warmup_rounds; fewer rounds if only the KID rises; with privacy.rounds more clients",
    OVERFITTING: "adapt.early_stopping=true, which keeps the best epoch on images set aside; if it "
    "is on, fewer adapt.epochs, a lower adapt.lr, more images",
    UNCOVERED: "fine-tuning, such as method=fedavg_ft, or clients like it in the rounds; a longer "
    "fit will not help",
    INCONSISTENT: "more rounds or a larger federation.cohort_size if clients took part a few times "
    "only, else a smaller federation.tau; check that every client gets its own state back",
    IGNORED: "a much higher client.emb_lr than client.lr (0.05 to 0.002), a larger "
    "client.emb_init_std, a higher client.emb_proj_lr_factor; then more rounds",
}

MIN_ROUNDS = 10  # a shorter pre-training is not judged
MIN_FALL = 0.1  # of the held-out loss and of KID, as a share of their start
MAX_RISE = 0.1  # of the training loss above its lowest, and of KID as a share of its fall
PART_ROUNDS, MAX_PARTS = 5, 10  # the training loss is compared between parts of the rounds
NUM_ERRORS = 3  # standard errors that a rise has to exceed as well
MIN_POINTS = 4  # of a new client's curve, below which it is not judged
MAX_UNCOVERED = 0.5  # of a new client's class mixture, up to which it counts as covered
MIN_LOSS_RISE = 0.02  # of a new client's held-out loss, as a share of it
MIN_STEPS = 100  # of a client's own part in pre-training, below which it is not judged
SAME_LOSS = 0.005  # losses that differ by a smaller share count as equal
NO_CHANGE = 0.002  # the same, for a difference beyond noise
MAX_OFF = 0.25  # of clients with a lower loss with another's part than with their own
MIN_TV = 0.2  # mean distance between clients' class mixtures, below which they are alike

Kid = tuple[float, float]  # its mean and spread over subsets of images


@dataclass(frozen=True)
class Diagnosis:
    """A failure by its short name, and a sentence with the evidence."""

    name: str
    evidence: str

    @property
    def advice(self) -> str:
        """Settings to try."""
        return ADVICE[self.name]

    def as_dict(self) -> dict[str, str]:
        return {"name": self.name, "evidence": self.evidence, "advice": self.advice}


def diagnose(
    setting: FederationSetup,
    real: RealData,
    losses: Sequence[float],
    evaluations: Sequence[Evaluation],
    cross_losses: pd.DataFrame | None,
    reports: Sequence[AdaptReport],
) -> tuple[Diagnosis, ...]:
    """Return the known failures of an experiment, root causes only.

    `losses` of rounds and `evaluations`: of pre-training. Personal parts are checked if the
    backbone learned, and the matrix's diagonal if the embedding is used.
    """
    failure = None
    if evaluations:
        heldout = np.array([[loss.own for loss in one.losses] for one in evaluations])
        kids = np.array([[score.mean for score in one.scores] for one in evaluations])
        rounds = [one.round_idx for one in evaluations]
        failure = backbone_diagnosis(losses, rounds, heldout, kids)
        failure = failure or _own_parts_diagnosis(setting, real, evaluations[-1], cross_losses)
    of_fits = adaptation_diagnosis(reports, setting.config, setting.label)
    if of_fits is not None and of_fits.name == UNCOVERED:
        of_fits = adaptation_diagnosis(reports, setting.config, setting.label, covered(setting))
    return tuple(one for one in (failure, of_fits) if one is not None)


# --- pre-training ---------------------------------------------------------------------------------


def backbone_diagnosis(
    losses: Sequence[float], rounds: Sequence[int], heldout: np.ndarray, kids: np.ndarray
) -> Diagnosis | None:
    """Return the failure of the backbone's training, or None.

    `losses`: training loss of every round, empty with private rounds, which tell none; `heldout`
    and `kids`: (r, m) after these `rounds`. The first evaluation precedes training. `kids` that are
    not measured are NaN, which is neither a rise nor a fall.
    """
    if rounds[-1] < MIN_ROUNDS:
        return None
    first, last = heldout.mean(axis=1)[[0, -1]]
    text = f"the held-out loss is {last:.3g} after the last round, {first:.3g} before the first"
    is_worse = last > (1 + MAX_RISE) * first
    if rise := _loss_rise(losses) or (text if is_worse else _kid_rise(rounds, kids)):
        return Diagnosis(DIVERGING, rise)
    for name, values in (("held-out loss", heldout), ("KID", kids)):
        first, last = values.mean(axis=1)[[0, -1]]
        if first > 0 and last > (1 - MIN_FALL) * first:
            text = f"{name} went from {first:.3g} to {last:.3g} in {rounds[-1]} rounds"
            return Diagnosis(NOT_LEARNING, f"the pre-training clients' {text}")
    return None


def _error(values: np.ndarray) -> float:
    """Return the standard error of a mean, 0 of a single value."""
    return float(values.std(ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 0.0


def divergence(error: DivergenceError) -> Diagnosis:
    """Return the diagnosis of a run that ends because its updates are out of bounds."""
    return Diagnosis(DIVERGING, f"updates could not be averaged ({error})")


def _loss_rise(losses: Sequence[float]) -> str | None:
    num_parts = min(MAX_PARTS, len(losses) // PART_ROUNDS)
    if num_parts < 2:
        return None
    parts = np.array_split(np.asarray(losses, np.float64), num_parts)
    means = [float(part.mean()) for part in parts]
    low = int(np.argmin(means))
    noise = float(np.hypot(_error(parts[low]), _error(parts[-1])))
    if means[-1] - means[low] <= max(MAX_RISE * means[low], NUM_ERRORS * noise):
        return None
    return (
        f"the training loss rose from its lowest {means[low]:.3g} to {means[-1]:.3g} at the end "
        f"(means over {len(parts[-1])} rounds)"
    )


def _kid_rise(rounds: Sequence[int], kids: np.ndarray) -> str | None:
    means = kids.mean(axis=1)
    low = int(np.argmin(means))
    rises, fall = kids[-1] - kids[low], means[0] - means[low]
    if low == 0 or rises.mean() <= max(MAX_RISE * fall, NUM_ERRORS * _error(rises)):
        return None
    return (
        f"KID rose from its lowest {means[low]:.3g} after round {rounds[low]} to {means[-1]:.3g} "
        f"after round {rounds[-1]}"
    )


# --- clients' own parts ---------------------------------------------------------------------------


def _own_parts_diagnosis(
    setting: FederationSetup,
    real: RealData,
    last: Evaluation,
    cross_losses: pd.DataFrame | None,
) -> Diagnosis | None:
    """Clients with the same kind of data have nothing of their own to learn: no diagnosis."""
    pairs = combinations([real.mixtures[c] for c in last.client_ids], 2)
    distances = [total_variation(p, q) for p, q in pairs]
    if not distances or float(np.mean(distances)) < MIN_TV:
        return None
    if _num_own_steps(setting, last.client_ids) < MIN_STEPS:
        return None
    ignored = None
    if setting.config.method.record.has_embedding:
        own, zero, swapped = (
            np.array([getattr(loss, name) for loss in last.losses])
            for name in ("own", "zero", "swapped")
        )
        ignored = embedding_diagnosis(own, zero, swapped)
    if ignored is None and cross_losses is not None:
        return consistency_diagnosis(cross_losses.to_numpy(), [*cross_losses.index])
    return ignored


def _num_own_steps(setting: FederationSetup, client_ids: Sequence[int]) -> float:
    """Return how many steps one of these clients has trained its own part for, on average."""
    config, federation = setting.config, setting.config.federation
    sizes = [len(setting.partition.split(c).train) for c in client_ids]
    epoch = float(np.mean([steps_per_epoch(size, config.client.batch_size) for size in sizes]))
    steps = federation.tau or (federation.local_epochs or 0) * epoch
    rounds = federation.num_rounds - config.method.first_own_round(federation.num_rounds)
    return rounds * steps * federation.cohort_size / federation.num_clients


def own_is_best(matrix: np.ndarray) -> np.ndarray:
    """Return for which clients (m,) no other client's part gives a lower loss on their data.

    `matrix` (m, m): loss of client i (row) with the part of client j (column). Losses that differ
    by less than `SAME_LOSS` count as equal.
    """
    return np.diag(matrix) * (1 - SAME_LOSS) <= matrix.min(axis=1)


def consistency_diagnosis(matrix: np.ndarray, client_ids: Sequence[int]) -> Diagnosis | None:
    """Return the failure if the cross-client matrix of `own_is_best` lacks a dominant diagonal."""
    off = ~own_is_best(matrix)
    if len(matrix) < 2 or off.mean() <= MAX_OFF:
        return None
    names = ", ".join(str(c) for c, is_off in zip(client_ids, off, strict=True) if is_off)
    return Diagnosis(
        INCONSISTENT,
        f"{off.sum()} of {len(matrix)} clients have a lower held-out loss with another client's "
        f"part than with their own ({names})",
    )


def embedding_diagnosis(own: np.ndarray, zero: np.ndarray, swapped: np.ndarray) -> Diagnosis | None:
    """Return the failure if the held-out losses (m,) are equal with all three embeddings."""
    gains = (np.stack([zero, swapped]) - own) / own.mean()
    change = np.abs(gains).mean(axis=1).max()
    helps = any(one.mean() > NUM_ERRORS * _error(one) for one in gains)
    if change >= (NO_CHANGE if helps else SAME_LOSS):
        return None
    values = " / ".join(f"{losses.mean():.4g}" for losses in (own, zero, swapped))
    text = "the held-out loss is the same with the own, the zero and another client's embedding"
    return Diagnosis(IGNORED, f"{text} ({values})")


# --- new clients ----------------------------------------------------------------------------------


def jitter(values: Sequence[float]) -> float:
    """Return the standard deviation of the noise on a smooth curve, from its second differences.

    Second differences of independent noise have 6 times its variance. Their median is robust to a
    few jumps.
    """
    second = np.abs(np.diff(np.asarray(values, np.float64), 2))
    return float(np.median(second)) / (0.6745 * 6**0.5) if len(second) else 0.0


def heldout_rise(heldout: Mapping[int, Tensor], kept_epoch: int) -> str | None:
    """Return in words how far the kept epoch's loss is above the lowest; None within noise.

    `heldout`: loss (n,) on each held-out image, by epoch. The noise combines the standard error of
    the differences image by image, which a single image does not have, and the curve's jitter.
    """
    if len(heldout) < MIN_POINTS:
        return None
    means = {epoch: float(losses.mean()) for epoch, losses in sorted(heldout.items())}
    low = min(means, key=means.__getitem__)
    rises = (heldout[kept_epoch] - heldout[low]).double().numpy()
    noise = float(np.hypot(_error(rises), jitter(list(means.values()))))
    if rises.mean() <= max(MIN_LOSS_RISE * means[low], NUM_ERRORS * noise):
        return None
    return f"held-out loss rose from {means[low]:.4g} after epoch {low} to {means[kept_epoch]:.4g}"


def kid_rise(kids: Mapping[int, Kid], kept: Kid) -> str | None:
    """Return in words how far the KID `kept` is above the lowest of `kids`, by epoch.

    Returns None within noise: the spread of both scores, or the curve's jitter if that is larger.
    """
    if len(kids) < MIN_POINTS:
        return None
    means = {epoch: mean for epoch, (mean, _) in sorted(kids.items())}
    low = min(means, key=means.__getitem__)
    noise = max(float(np.hypot(kids[low][1], kept[1])), jitter(list(means.values())))
    fall = means[min(means)] - means[low]
    if kept[0] - means[low] <= max(MAX_RISE * fall, NUM_ERRORS * noise):
        return None
    return f"KID rose from {means[low]:.3g} after epoch {low} to {kept[0]:.3g}"


def covered(setting: FederationSetup) -> set[int]:
    """Return the new clients whose class mixtures old clients span for the most part."""
    shown = setting.partition.shown
    counts = shown.class_counts(setting.data.labels, len(setting.data.class_names))
    found = coverages(counts, len(shown.train_clients))
    pairs = zip(shown.new_clients, found, strict=False)  # of one class there are no coverages
    return {client.client_id for client, one in pairs if one.hull_tv < MAX_UNCOVERED}


def uncovered(report: AdaptReport) -> str | None:
    """Return in words that a fit made drawings worse though the held-out loss fell; else None.

    An embedding cannot draw what no old client shows: it fits the noise better and the image worse.
    """
    first, end = report.curve[0].observed or {}, report.scores_after
    before, after = (float(report.heldout[i].mean()) for i in (0, report.kept_epoch))
    if "own_kid" not in end or after >= before:
        return None
    (start, start_std), (last, last_std) = _kid(first), _kid(end)
    if last - start <= 2 * float(np.hypot(start_std, last_std)):
        return None
    return (
        f"held-out loss fell from {before:.3g} to {after:.3g} in the fit, yet KID rose from "
        f"{start:.3g} to {last:.3g}: it seems that no old client shows such images"
    )


def adaptation_diagnosis(
    reports: Sequence[AdaptReport],
    config: Config,
    label: Callable[[int], str] = "client {}".format,
    known: Collection[int] = (),
) -> Diagnosis | None:
    """Return the failure if new clients are kept in a worse state than an earlier one.

    `label` names a client. Where embeddings alone are fitted, after rounds enough, what is not
    over-fitted may be `uncovered`, except for clients that are `known` to be covered.
    """
    may_lack = config.method.record.adapt_parts == (CLIENT_EMB,)
    may_lack = may_lack and config.federation.num_rounds >= MIN_ROUNDS
    rises, lacks = dict[int, str](), dict[int, str]()
    for report in reports:
        seen = {p.epoch: p.observed for p in report.curve if p.observed is not None}
        kept, rise = report.kept_epoch, None
        if config.model.num_embs == 1:  # of several, the loss with those for other images rises
            rise = heldout_rise(report.heldout, kept)
        # The curve is of images with the run's guidance, whatever a client has chosen for the end.
        end = report.scores_after if report.guidance is None else seen.get(kept)
        is_known = rise or not may_lack or report.client_id in known
        if not is_known and (lack := uncovered(report)):
            lacks[report.client_id] = lack
        elif not rise and end is not None and "own_kid" in end:
            kids = {epoch: _kid(observed) for epoch, observed in seen.items()}
            rise = kid_rise(kids, _kid(end))
        if rise:
            rises[report.client_id] = f"{rise} after epoch {kept}"
    for name, found, what in (
        (UNCOVERED, lacks, "are like no old client"),
        (OVERFITTING, rises, "got worse after their best epoch"),
    ):
        if found:
            first, text = next(iter(found.items()))
            told = f"{len(found)} of {len(reports)} new clients {what}: {label(first)}'s {text}"
            return Diagnosis(name, told)
    return None


def _kid(observed: Mapping[str, float]) -> Kid:
    return observed["own_kid"], observed["own_kid_std"]
