"""Random compressions of the rows of a matrix: oblivious sketches, leverage scores, row sampling, distortion."""

from expreg.sketch.jacobian import Jacobian, of_residual, of_weights, sample, sketch
from expreg.sketch.oblivious import OBLIVIOUS, countsketch, draw, gaussian, osnap, sampled, srht, uniform
from expreg.sketch.scores import distortion, leverage, leverage_of, oversampling, sample_size, sketched_leverage

__all__ = [
    "OBLIVIOUS",
    "Jacobian",
    "countsketch",
    "distortion",
    "draw",
    "gaussian",
    "leverage",
    "leverage_of",
    "of_residual",
    "of_weights",
    "osnap",
    "oversampling",
    "sample",
    "sample_size",
    "sampled",
    "sketch",
    "sketched_leverage",
    "srht",
    "uniform",
]
