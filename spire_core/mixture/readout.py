"""Mixtures read off a classifier's predictions: an error bound without dimension or Gaussians.

A classifier with the confusion matrix C, C_jk = P(prediction j | component k), predicts j with the
probability p_j, p = C pi. BBSE (Lipton et al. 2018) estimates pi_hat = C^-1 p_hat. If C is exact,
it is unbiased with covariance C^-1 (diag(p) - p p') C^-T / n, whatever the data. Hence
n E || pi_hat - pi ||^2 <= || C^-1 ||^2 (1 - sum_k p_k^2), in the spectral norm.
Letters: K components, n samples, R replicates.
"""

import numpy as np


def confusion_matrix(predictions: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Return C (K, K) of predictions and labels (N,) int64; columns sum to 1."""
    counts = np.zeros((num_classes, num_classes))
    np.add.at(counts, (predictions, labels), 1.0)
    return counts / counts.sum(0)


def inverse_norm(confusion: np.ndarray) -> float:
    """Return || C^-1 ||, infinite if predictions do not tell the weights."""
    least = float(np.linalg.svd(confusion, compute_uv=False)[-1])
    return 1.0 / least if least > 0.0 else float("inf")


def read_weights(predicted_shares: np.ndarray, confusion: np.ndarray) -> np.ndarray:
    """Return pi_hat = C^-1 p_hat for shares (R, K) of predicted classes; entries may be below 0."""
    return np.linalg.solve(confusion, predicted_shares.T).T


def readout_error(confusion: np.ndarray, weights: np.ndarray) -> float:
    """Return n E || pi_hat - pi ||^2 for true weights (K,), exact for every n."""
    p = confusion @ weights
    inverse = np.linalg.inv(confusion)
    return float(np.trace(inverse @ (np.diag(p) - np.outer(p, p)) @ inverse.T))


def readout_bound(confusion: np.ndarray, weights: np.ndarray) -> float:
    """Return || C^-1 ||^2 (1 - sum_k p_k^2), at least `readout_error`."""
    p = confusion @ weights
    return inverse_norm(confusion) ** 2 * float(1.0 - np.square(p).sum())
