"""Names of the probes that a recipe may ask for. What a kind of probe does is in trex/probing/kinds/.

This table stands beside the settings so that a wrong name is a mistake in the config, with its file and line. Imports
nothing heavy: the classes are named here and imported by trex/probing/kind.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from trex.suggest import did_you_mean

#: The form of each name, and the class behind it. `<shots>` and `<k>` stand for a whole number from 1 to 999999, which
#: the class takes as a field of that name.
PROBE_KINDS = {
    "exact": "trex.probing.kinds.exact:Exact",
    "exact-<shots>shot": "trex.probing.kinds.exact:Exact",
    "published": "trex.probing.kinds.published:Published",
    "published-<shots>shot": "trex.probing.kinds.published:Published",
    "knn<k>": "trex.probing.kinds.knn:Knn",
}

_EXAMPLE = "5"  #: the number in a suggestion for a word without one


@dataclass(frozen=True)
class ProbeName:
    """A name that has been found in `PROBE_KINDS`."""

    text: str  #: such as `exact-5shot`
    form: str  #: such as `exact-<shots>shot`
    numbers: dict[str, int]  #: such as {"shots": 5}


def parse_probe_name(text: str) -> ProbeName:
    """What a probe's name says.

    Raises:
        ValueError: if no form fits; the message names the forms, and the name that was probably meant.
    """
    for form in PROBE_KINDS:
        if found := re.fullmatch(re.sub("<(.*?)>", r"(?P<\1>[1-9][0-9]{0,5})", form), text):
            return ProbeName(text, form, {key: int(number) for key, number in found.groupdict().items()})
    number = re.search(r"[1-9][0-9]{0,5}", text)
    near = [re.sub("<.*?>", number[0] if number else _EXAMPLE, form) for form in PROBE_KINDS]
    raise ValueError(f"{text!r}: expected one of {', '.join(PROBE_KINDS)}{did_you_mean(text, near)}")
