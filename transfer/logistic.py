"""The solver of logistic regression: scikit-learn's objective, in coordinates in which it is quickly minimised.

On features of a network a few directions carry most of the variance, and L-BFGS on the features as they come takes
hundreds of iterations, or a thousand without an end. Rotated into the features' principal axes and divided there by
the square root of about the greatest curvature there, the same objective takes a few dozen.
"""

from __future__ import annotations

import warnings

import numpy as np
import scipy.linalg
from scipy.optimize import minimize
from scipy.special import log_expit
from sklearn.exceptions import ConvergenceWarning

from transfer.head import FloatArray, IntArray

__all__ = ["fit_logistic"]


def fit_logistic(
    values: FloatArray, labels: IntArray, n_classes: int, *, strength: float, max_iter: int, tol: float
) -> tuple[FloatArray, FloatArray]:
    """Minimise  C sum_n -log softmax(W x_n + b)[y_n] + ||W||^2 / 2  over W and b, the bias without penalty.

    With X^T X = Q diag(s^2) Q^T the solver works on V, W = V diag(p) Q^T and p_i = (1 + C s_i^2 / 4)^(-1/2): a change
    of variables, so the minimum is the same one. For two classes it is the binary model with one weight vector.

    Args:
        values: (N, R) centred features.
        labels: (N,) classes from 0 to C - 1, all of them.
        n_classes: how many.
        strength: C, the weight of the labels against the penalty.
        max_iter: of L-BFGS.
        tol: greatest entry of the gradient with respect to V at which it stops; it also stops where the objective
            cannot be told from its minimum in float64.

    Returns:
        W (classes, R) and b (classes,); one row and one entry for two classes.

    Warns:
        ConvergenceWarning: `max_iter` iterations were not enough.

    Example:
        >>> values, labels = np.array([[-1.0], [1.0]]), np.array([0, 1])
        >>> weight, bias = fit_logistic(values, labels, 2, strength=1.0, max_iter=99, tol=1e-8)
        >>> (round(float(weight[0, 0]), 4), abs(round(float(bias[0]), 4)))
        (0.6748, 0.0)

    Reference:
        Liu and Nocedal, "On the limited memory BFGS method for large scale optimization", 1989; the bound on the
        curvature, of which this is half, is that of Böhning, "Multinomial logistic regression algorithm", 1992.
    """
    squares, axes = scipy.linalg.eigh(values.T @ values)
    shrink = 1 / np.sqrt(1 + strength * np.maximum(squares, 0) / 4)
    # Any rotation is exact, however accurate its axes are: nothing is divided by a small eigenvalue.
    design = np.ascontiguousarray((values @ axes) * shrink)
    rows = 1 if n_classes == 2 else n_classes
    items = np.arange(len(labels))
    signs = 2.0 * labels - 1  # of the binary model
    step_of_bias = 1 / np.sqrt(1 + strength * len(values) / 4)

    def objective(flat: FloatArray) -> tuple[float, FloatArray]:
        v = flat.reshape(rows, -1)
        scores = design @ v[:, :-1].T + v[:, -1] * step_of_bias  # (N, rows)
        if rows == 1:
            log_right = log_expit(signs * scores[:, 0])
            slope = (-signs * -np.expm1(log_right))[:, None]
        else:
            # By hand: SciPy's logsumexp and softmax take longer than the products of matrices here.
            scores -= scores.max(axis=1, keepdims=True)
            slope = np.exp(scores)
            total = slope.sum(axis=1, keepdims=True)
            log_right = scores[items, labels] - np.log(total[:, 0])
            slope /= total
            slope[items, labels] -= 1
        plain = v[:, :-1] * shrink
        gradient = np.empty_like(v)
        gradient[:, :-1] = strength * (slope.T @ design) + plain * shrink
        gradient[:, -1] = strength * slope.sum(axis=0) * step_of_bias
        return float(-strength * log_right.sum() + (plain**2).sum() / 2), gradient.ravel()

    found = minimize(
        objective,
        np.zeros(rows * (design.shape[1] + 1)),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": max_iter, "maxls": 50, "gtol": tol, "ftol": 8 * np.finfo(np.float64).eps},
    )
    if found.status == 1:  # the limit; 2 says that float64 allows no further step
        warnings.warn(
            f"logistic regression did not converge in {max_iter} iterations: raise max_iter, or lower C.",
            ConvergenceWarning,
            stacklevel=2,
        )
    solution = found.x.reshape(rows, -1)
    return (solution[:, :-1] * shrink) @ axes.T, solution[:, -1] * step_of_bias
