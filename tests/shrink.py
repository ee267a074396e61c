"""The one function that makes a config small enough for a test and keeps its structure."""

import yaml

from expreg import api


def shrunk(path):
    """Return overrides for the config at `path`: two n, few widths or steps, few replicates, small statistics."""
    experiment = api.load_config(path).experiment
    sweep = yaml.safe_load(path.read_text())["sweep"]
    small = _searched() if "search" in sweep else KINDS[experiment](sweep["product"], path)
    return ["analysis.resamples=50", *small]


def _searched():
    """Two regimes, as the search has them, with n of their own."""
    blocks = "{data.kind: [orthonormal], n: [4, 8]}, {data.kind: [equiangular], data.coherence: [0.5], n: [4]}"
    ends = ["sweep.search.from=8", "sweep.search.to=256", "sweep.search.points=6"]
    return [f"sweep.concat=[{blocks}]", *ends, "sweep.product.replicate.count=3", "analysis.confidence=0.8"]


def _network(product, path):
    budget = yaml.safe_load(path.read_text()).get("training", {}).get("max_steps", {})
    narrowest = product["m"]["geometric"][0]
    widths = f"{max(8, narrowest)}, 256" if narrowest < 256 else f"{4 * narrowest}, {16 * narrowest}"
    # of three replicates the median has an upper limit, at this confidence (D.4)
    return [
        f"sweep.product.n={','.join(map(str, product['n'][:2]))}",
        f"sweep.product.m.geometric=[{widths}, 3]",
        "sweep.product.replicate.count=3",
        "analysis.delta=0.5",
        "analysis.confidence=0.8",
        *(["training.max_steps=300"] if isinstance(budget, int) else ["training.max_steps.at_most=300"]),
    ]


def _start(product, path):
    return [change for change in _network(product, path) if not change.startswith("training")]


def _moved(product, path):
    changes = {"n": "16", "d": "4", "replicate.count": "2", "problem.token": "40,200"}
    return [f"sweep.product.{axis}={value}" for axis, value in changes.items() if axis.split(".count")[0] in product]


def _solved(product, path):
    """Two programs of few cells: what differs between them is what differs in the config."""
    sketched = "{solver.sketch: [leverage], solver.sketch_size: [128]}"
    parts = {
        "attention": "{problem.layer: [0], problem.head: [0]}",
        "regression": "{problem.loss: [softmax, rescaled]}",
        "sketch": f"{{solver.sketch: [none]}}, {sketched}",
    }
    if path.stem in KNOWN_STARTS:
        return ["problem.n=96", "problem.d=3", *KNOWN_STARTS[path.stem]]
    small = [] if path.stem == "attention" else ["problem.n=96", "problem.d=4", "sweep.product.replicate.count=5"]
    tokens = ["sweep.product.problem.token.range=[1, 275, 34]"] if path.stem == "attention" else []
    return [f"sweep.concat=[{parts[path.stem]}]", "problem.start=near", *small, *tokens]


def _fitted(*_):
    """Both solvers, fewer n and replicates, few widths."""
    few = "{product: {solver.name: [gauss_newton, gd], fixed: [4], ratio: [0], n: [8, 12]}}"
    counts = ["sweep.product.replicate.count=5", "sweep.product.m.range=[2, 6, 2]"]
    return [f"sweep.concat=[{few}]", *counts, "analysis.confidence=0.8"]


KNOWN_STARTS = {
    "newton": [
        "sweep.product.problem.radius=1",
        "sweep.product.problem.draw.range=[0, 0, 1]",
        "sweep.product.problem.accuracy=1e-5,1e-9",
        "sweep.product.replicate.count=6",
    ],
    "good_start": [
        "sweep.concat=[{problem.loss: [rescaled], problem.weight: [0.1, closeness], problem.distance: [0.001, 100]}]",
        "sweep.product.replicate.count=3",
    ],
}
KINDS = {
    "regression": _solved,
    "threshold": _network,
    "convergence": _network,
    "in_context": _moved,
    "concentration": _start,
    "capacity": _fitted,
}
