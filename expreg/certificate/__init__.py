"""The a-posteriori convergence certificate: what one network at its start is proved to do (C.20)-(C.26)."""

from expreg.certificate.conditions import Measured, Spectra, covered, lambert_w, measure
from expreg.certificate.statement import Certificate, certify

__all__ = ["Certificate", "Measured", "Spectra", "certify", "covered", "lambert_w", "measure"]
