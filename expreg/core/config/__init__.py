"""From the text of a config to the cells that it means; the way in is `load`, then `cells` or `plan`."""

from expreg.core.config.cells import cell_id, cells, first_difference, named, plan
from expreg.core.config.editor import json_schema
from expreg.core.config.load import config_text, load
from expreg.core.config.source import problem

__all__ = ["cell_id", "cells", "config_text", "first_difference", "json_schema", "load", "named", "plan", "problem"]
