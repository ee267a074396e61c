"""Functions of parts of the settings, computed once for all cells that share them."""

from expreg import api
from expreg.core.config import cells, parts


def test_cells_that_differ_by_replicate_or_seed_only_are_of_one_kind():
    given = {"experiment": "threshold", "name": "x", "data": {"n": 4}}
    config = api.load_config({**given, "sweep": {"product": {"seed": [0, 1], "replicate": {"count": 3}, "m": [4, 8]}}})
    settings = [one for one, _ in cells(config)]
    assert len(settings) == 12
    kinds = {parts.kind_of(one): one["network"]["m"] for one in settings}
    assert sorted(kinds.values()) == [4, 8]


def test_a_function_is_computed_once_for_each_part_and_never_takes_one_for_another():
    seen = []

    @parts.once_for("data", "training")
    def value(settings):
        """Return the value."""
        seen.append(settings["data"]["n"])
        return settings["data"]["n"]

    assert value.__doc__ == "Return the value."
    shared = {"n": 3}
    assert [value({"data": shared, "replicate": r}) for r in range(5)] == [3] * 5
    assert seen == [3]
    # parts that are gone leave their addresses to others
    for n in range(2 * parts.MOST):
        assert value({"data": {"n": n}}) == n
    assert value({"data": shared, "training": {"n": 4}}) == 3
