"""The user's own points and labels: what is wrong with them, before anything is written."""

import json
from collections.abc import Sequence

from expreg import data
from expreg.errors import Problem
from expreg.types import Settings


def check(cells: Sequence[Settings]) -> list[Problem]:
    """Return what is wrong with the files of these cells, read once per way of reading one and activation."""
    asked = {
        (json.dumps(settings["data"], sort_keys=True), settings["network"]["activation"]): settings["data"]
        for settings in cells
        if "path" in settings["data"]
    }
    return [problem for (_, name), options in asked.items() for problem in data.check_file(options, activation=name)]
