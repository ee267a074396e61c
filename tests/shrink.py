"""The one function that makes a config small enough for a test and keeps its structure."""

import yaml


def shrunk(path):
    """Return overrides for the config at `path`: its first two n, widths up to 256, three replicates, few steps."""
    product = yaml.safe_load(path.read_text())["sweep"]["product"]
    return [
        f"sweep.product.n={','.join(map(str, product['n'][:2]))}",
        f"sweep.product.m.geometric=[{max(8, product['m']['geometric'][0])}, 256, 3]",
        "sweep.product.replicate.count=3",
        "training.max_steps.at_most=300",
        "analysis.resamples=50",
        "analysis.delta=0.5",  # of which three replicates have an upper limit, at this confidence
        "analysis.confidence=0.8",
    ]
