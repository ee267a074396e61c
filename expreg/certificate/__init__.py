"""The a-posteriori convergence certificate: what one network at its start is proved to do (C.20)-(C.26)."""

from expreg.certificate.conditions import COVERED, Measured, Spectra, lambert_w, measure
from expreg.certificate.statement import Certificate, certify

__all__ = ["COVERED", "Certificate", "Measured", "Spectra", "certify", "lambert_w", "measure"]
