"""What installed packages add to the factory, tried out: each part is imported and looked at as its user will."""

import msgspec

from processors.search_driver import strategy
from schemas import plugins
from schemas.plugins import STRATEGIES, BadPlugin, Plugin


def tried() -> list[Plugin]:
    """Every installed part; `problem` says why one cannot be used."""
    return [one if one.problem else msgspec.structs.replace(one, problem=_trouble(one)) for one in plugins.found()]


def _trouble(plugin: Plugin) -> str:
    point = next(point for point in plugins.POINTS if point.group == plugin.point)
    try:
        if point == STRATEGIES:
            strategy(plugin.name)
        else:
            plugins.load_function(point, plugin.name)
    except BadPlugin as error:
        return str(error)
    return ""
