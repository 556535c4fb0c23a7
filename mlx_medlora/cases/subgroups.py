"""Age and gender as metadata, so that figures can be had by them."""

from __future__ import annotations

import re

# The first year of each group; the limits are this toolkit's choice, and a table's own age_group wins.
_FIRST_YEARS = (0, 18, 40, 65, 80)
_OLDEST = 130
_YEARS = re.compile(r"(\d{1,3})(?:\.\d+)?\s*(?:\+|y|yrs?|years?)?", re.IGNORECASE)


def subgroups(age: str | None, gender: str | None) -> dict[str, str]:
    """`age`, `age_group` and `gender` as far as they are known, age and gender as the table writes them."""
    found = {"age": age, "age_group": age_group(age or ""), "gender": gender}
    return {name: value for name, value in found.items() if value is not None}


def age_group(age: str) -> str | None:
    """`0-17`, `18-39`, `40-64`, `65-79` or `80+`; None for what is no age in years.

    Years are read from `56`, `56.5`, `056Y`, `56 years` and `90+`.
    """
    read = _YEARS.fullmatch(age.strip())
    if read is None or int(read[1]) > _OLDEST:
        return None
    place = sum(first <= int(read[1]) for first in _FIRST_YEARS)
    first = _FIRST_YEARS[place - 1]
    return f"{first}+" if place == len(_FIRST_YEARS) else f"{first}-{_FIRST_YEARS[place] - 1}"
