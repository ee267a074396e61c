"""The JSON Schema of a config, by which editors complete and check: pydantic's own, for all experiments at once."""

from collections.abc import Mapping
from typing import Any

from pydantic.json_schema import models_json_schema

from expreg.core.config.grid import GENERATORS
from expreg.core.config.search import Search
from expreg.core.config.space import Space
from expreg.types import Experiment

Schema = dict[str, Any]


def json_schema(experiments: Mapping[str, Experiment]) -> Schema:
    """Return one schema for all experiments: every key, and by experiment what differs between them.

    Draft 7, with definitions under `$defs` as pydantic has them: what yaml-language-server reads.
    """
    by_name = {name: experiment.schema() for name, experiment in experiments.items()}
    models = list(dict.fromkeys(by_name.values()))
    places, made = models_json_schema([(model, "validation") for model in models], by_alias=True)
    definitions = made["$defs"]
    schemas = {model: definitions.pop(places[model, "validation"]["$ref"].rpartition("/")[2]) for model in models}
    forms: dict[str, list[Schema]] = {}
    for schema in schemas.values():
        for key, form in schema["properties"].items():
            forms.setdefault(key, []).append(form)
    shared = {
        key for key, found in forms.items() if len(found) == len(models) and all(form == found[0] for form in found)
    }
    properties = {key: found[0] if key in shared else {"description": "by experiment"} for key, found in forms.items()}
    properties["experiment"] = {**properties["experiment"], "enum": list(by_name)}
    properties["sweep"] = {**properties["sweep"], "$ref": "#/$defs/Sweep"}
    cases = []
    for model, schema in schemas.items():
        names = [name for name, other in by_name.items() if other is model]
        here = schema["properties"]
        own = {key: here.get(key, False) for key in forms if key not in here or key not in shared}
        chosen = {"properties": {"experiment": {"enum": names}}, "required": ["experiment"]}
        cases.append({"if": chosen, "then": {"properties": own}})
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "expreg config",
        "description": "A config of expreg: which quantity is measured, over which grid.",
        "type": "object",
        "anyOf": [{"required": ["experiment", "name"]}, {"required": ["extends"]}],
        "additionalProperties": False,
        "properties": properties,
        "allOf": cases,
        "$defs": {**definitions, **_sweep()},
    }


def _sweep() -> dict[str, Schema]:
    """Return the grammar of the sweep language: axes beside nested combinations."""
    scalar = {"type": ["number", "string", "boolean", "null"]}
    numbers = {"type": "array", "minItems": 3, "maxItems": 3, "items": {"type": "number"}}
    whole = {"type": "integer", "minimum": 1}
    generators = {
        "type": "object",
        "minProperties": 1,
        "maxProperties": 1,
        "additionalProperties": False,
        "properties": {name: whole if name == "count" else numbers for name in GENERATORS},
    }
    axis = {"anyOf": [{"type": "array", "minItems": 1, "items": scalar}, scalar, generators]}
    inside = {"$ref": "#/$defs/Axes"}
    nested: dict[str, Schema] = {
        "product": {**inside, "description": "every combination, the last axis running fastest"},
        "zip": {**inside, "description": "the first values together, then the second, ..."},
        "concat": {"type": "array", "minItems": 1, "items": inside, "description": "blocks, one behind the other"},
        "when": {"type": "string", "description": "keep the cells for which this holds, like m >= n"},
    }
    axes = {"type": "object", "properties": nested, "additionalProperties": axis}
    places, made = models_json_schema([(Search, "validation"), (Space, "validation")])
    forms = [places[model, "validation"] for model in (Search, Space)]
    top = {**nested, "search": {"anyOf": forms, "description": "bisection along an axis, or trials of a sampler"}}
    return {
        **made["$defs"],
        "Sweep": {"title": "Sweep", "type": ["object", "null"], "properties": top, "additionalProperties": False},
        "Axes": {"title": "Axes", "description": "axes by name, and combinations of them", **axes},
    }
