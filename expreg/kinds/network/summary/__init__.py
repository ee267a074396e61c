"""From the rows of networks to thresholds, exponents, rates and verdicts."""
