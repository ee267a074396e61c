"""What `--json` prints, which is what the Python functions return: one type for each document, and its JSON Schema."""

from collections.abc import Mapping
from inspect import getdoc
from pkgutil import resolve_name
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema
from typing_extensions import TypedDict

from expreg.core.config.fields import did_you_mean
from expreg.errors import InputError, Problem


class Counts(TypedDict):
    """The rows that a summary is based on."""

    cells: Annotated[int, Field(description="cells that have a row")]
    by_status: Annotated[dict[str, int], Field(description="how many of them ended with each status")]
    planned: Annotated[int | None, Field(description="cells of the plan; null if plan.json is damaged")]
    search: Annotated[bool, Field(description="whether a search chooses the cells, `planned` of them at the most")]
    damaged: Annotated[int, Field(description="damaged parts, whose cells are left out")]
    instances: NotRequired[Annotated[int, Field(description="moved problems of `in_context`")]]


class Verdict(TypedDict):
    """What the measured numbers say about one claim."""

    claim: Annotated[str, Field(description="name of the claim")]
    group: Annotated[str | None, Field(description="label of the group of settings; null if it is about all of them")]
    criterion: Annotated[str, Field(description="what a cell had to satisfy")]
    claimed: Annotated[float | None, Field(description="number of the claim")]
    measured: Annotated[float | None, Field(description="number that is compared with it; null if not measured")]
    low: Annotated[float | None, Field(description="lower end of the interval of `measured`")]
    high: Annotated[float | None, Field(description="upper end")]
    replicates: Annotated[int | None, Field(description="replicates that it rests on")]
    censored_share: Annotated[float | None, Field(description="share of their thresholds that lie outside the grid")]
    verdict: Literal["consistent", "contradicts", "cannot decide", "does not apply"]
    reason: Annotated[str, Field(description="the numbers that decide, in a sentence")]
    outside: NotRequired[Annotated[list[str], Field(description="assumptions of the theorem that are not met")]]
    lambda_exponent: NotRequired[Annotated[float | None, Field(description="exponent of n in lambda")]]
    scaled: NotRequired[Annotated[dict[str, Any] | None, Field(description="exponent of n in m lambda^2")]]
    largest: NotRequired[Annotated[float | None, Field(description="largest exponent that the grid can show")]]
    detectable: NotRequired[Annotated[float | None, Field(description="exponent that would contradict the claim")]]


class Summary(TypedDict):
    """What a run found; also its summary.json. An experiment of your own may have further keys."""

    name: Annotated[str, Field(description="name of the config")]
    experiment: Annotated[str, Field(description="experiment of the config")]
    description: Annotated[str, Field(description="description in the config")]
    counts: Counts
    settings: Annotated[dict[str, Any], Field(description="delta, confidence, and what else the statistics use")]
    best: Annotated[dict[str, Any], Field(description="best settings: `rows`, best first, over `axes`, of `count`")]
    verdicts: NotRequired[list[Verdict]]
    groups: NotRequired[Annotated[list[dict[str, Any]], Field(description="numbers of each group of settings")]]
    tables: NotRequired[Annotated[list[dict[str, Any]], Field(description="tables: title, note, columns, rows")]]
    answer: NotRequired[Annotated[dict[str, Any] | None, Field(description="first sentences and table of the page")]]
    note: NotRequired[Annotated[str, Field(description="how to read the numbers")]]
    chain: NotRequired[Annotated[list[dict[str, Any]], Field(description="networks: the proof, a row for each link")]]
    chain_summary: NotRequired[Annotated[list[str], Field(description="networks: where the proof is loosest")]]
    groups_left: NotRequired[Annotated[int, Field(description="networks: groups beyond the first 300")]]
    joint: NotRequired[Annotated[list[dict[str, Any]], Field(description="networks: exponents of n and 1/lambda")]]


class Plan(TypedDict):
    """What a config would run. An experiment of your own may have further keys."""

    name: Annotated[str, Field(description="name of the config")]
    experiment: Annotated[str, Field(description="experiment of the config")]
    hash: Annotated[str, Field(description="identity of the plan")]
    cells: Annotated[int, Field(description="cells, of a search the most that it may run")]
    axes: Annotated[dict[str, list[Any]], Field(description="values of each axis")]
    programs: Annotated[int, Field(description="programs to compile")]
    bytes_per_lane: Annotated[float, Field(description="memory of the largest cell")]
    lanes: Annotated[int, Field(description="lanes at the most")]
    flops: Annotated[float, Field(description="floating-point operations of all cells")]
    compile_seconds: Annotated[float, Field(description="time to compile if nothing is cached")]
    seconds: Annotated[float | None, Field(description="expected time; null if the speed was not measured")]
    devices: Annotated[int, Field(description="devices that would run cells")]
    devices_needed: Annotated[int, Field(description="devices that the largest cell needs")]
    device_kind: Annotated[str, Field(description="kind of these devices")]
    search: NotRequired[Annotated[dict[str, Any], Field(description="bisection: axis, criterion, cells `expected`")]]
    trials: NotRequired[Annotated[dict[str, Any], Field(description="sampler: its keys, `metric` and `space`")]]
    until: NotRequired[Annotated[dict[str, Any], Field(description="half-width until which replicates are added")]]
    theory: NotRequired[Annotated[dict[str, Any], Field(description="networks: widths that the theorem asks for")]]
    power: NotRequired[Annotated[dict[str, Any] | None, Field(description="networks: what the grid can resolve")]]
    counts: NotRequired[Annotated[list[dict[str, Any]], Field(description="`capacity`: counts of parameters by n")]]
    list: NotRequired[Annotated[list[dict[str, Any]], Field(description="with --cells: id and axes of each cell")]]
    lines: NotRequired[Annotated[list[str], Field(description="the same for a terminal, in Python only")]]


class Status(TypedDict):
    """How far a run is."""

    planned: Annotated[int | None, Field(description="cells of the plan, of a search the most that it may run")]
    search: Annotated[dict[str, Any] | None, Field(description="search that chooses the cells, null without one")]
    done: Annotated[int, Field(description="cells that need no further execution")]
    failed: Annotated[int, Field(description="cells that the next run tries again")]
    by_status: Annotated[dict[str, int], Field(description="cells by status")]
    damaged: Annotated[list[str], Field(description="a line for each damaged part")]
    jobs: Annotated[dict[str, dict[str, int]], Field(description="tasks by state, of each job that has not ended")]
    last_event: Annotated[dict[str, Any] | None, Field(description="last line of events.jsonl")]
    running: Annotated[bool, Field(description="whether a process is at work in the directory")]
    progress: Annotated[dict[str, Any] | None, Field(description="progress of that process; null without one")]


def _document(meaning: str, kinds: Mapping[Any, str]) -> Any:
    """Return the type of a document that Python has as a plain dict or a NamedTuple, from the names of each kind."""
    keys = {name: kind for kind, names in kinds.items() for name in names.split()}
    found: Any = TypedDict("Document", keys)  # type: ignore[misc]
    found.__doc__ = meaning
    return found


_CERTIFICATE = {
    bool: "holds refined",
    float | None: "eta rate decrease lambda_0 lambda_max_0 residual radius eps",
    dict[str, float | None]: "margins eta_limits",
    list[str]: "reasons",
    int | None: "steps",
    NotRequired[str]: "cell",
    NotRequired[dict[str, Any]]: "axes",
}
_SOLUTION = {
    list[float | None]: "x",
    str: "status message",
    int: "steps",
    float | None: "loss gradient_norm decrement alpha softmax_residual projective_loss max_logit",
    list[dict[str, float | None]]: "history",
}
_BENCH = {
    NotRequired[float | None]: "accuracy limit_seconds geometric_mean slope slope_per_pass",
    NotRequired[int]: "first_on of mean_over columns entries_per_row nnz",
    NotRequired[list[dict[str, Any]]]: "problems rows lines",
    NotRequired[dict[str, Any]]: "slopes machine",
    NotRequired[bool]: "quick",
    NotRequired[str]: "solver",
}
_DOCTOR = {
    str: "expreg numpy scipy optax flax python platform",
    NotRequired[str]: "optuna jax jaxlib backend device_kind xla_flags prng matmul_precision compiled_steps",
    str | None: "commit working_directory_commit",
    NotRequired[str | None]: "compile_cache",
    int: "cores memory_bytes",
    NotRequired[int]: "devices",
    NotRequired[float | None]: "flops_per_second",
    list[str]: "trouble",
}
_COMPARISON = {list[str]: "runs", dict[str, list[Any]]: "settings findings", list[dict[str, Any]]: "differences"}
_certificate = _document("`steps` are those after which ||F - y|| <= `eps` is sure; null if none are.", _CERTIFICATE)
OUTPUTS: Mapping[str, Any] = {
    "run": Summary,
    "report": Summary,
    "plan": Plan,
    "status": Status,
    "query": Annotated[list[dict[str, Any]], Field(description="Rows, by the names of their columns.")],
    "compare": _document(
        "Settings that differ, findings in the order of `runs`, exponents less those of the first.", _COMPARISON
    ),
    "certify": _certificate | list[_certificate],  # type: ignore[valid-type]
    "solve": _document("", _SOLUTION),
    "bench": _document("Times of a suite; keys and rows differ between suites.", _BENCH),
    "doctor": _document("Versions, devices and settings as far as JAX starts, and `trouble` in lines.", _DOCTOR),
}
"""What each command prints with `--json`, where nan and infinities are null."""


_DESCRIBED = {"certify": "expreg.certificate:Certificate", "solve": "expreg.solver:Solution"}


class _Closed(GenerateJsonSchema):
    def typed_dict_schema(self, schema: Any) -> dict[str, Any]:
        return super().typed_dict_schema(schema) | {"additionalProperties": schema["cls"] in (Summary, Plan)}


def schema(output: str) -> dict[str, Any]:
    """Return the JSON Schema of what a command prints with `--json`; raise InputError where there is no such output."""
    if output not in OUTPUTS:
        message = f"got {output!r}, expected one of {', '.join(OUTPUTS)}{did_you_mean(output, OUTPUTS)}"
        raise InputError(Problem("E-ENUM", message, key="OUTPUT"))
    made = TypeAdapter(OUTPUTS[output]).json_schema(schema_generator=_Closed)
    described = {"description": getdoc(resolve_name(_DESCRIBED[output]))} if output in _DESCRIBED else {}
    return {"$schema": _Closed.schema_dialect, **made, **described, "title": f"expreg {output} --json"}
