"""Names of the probes that a recipe can choose. The kinds of probes are implemented in trex/probing/kinds/.

This table is part of the config package so that a wrong name is a mistake in the config, with file and line. The module
imports nothing heavy: it only names the classes, and trex/probing/kind.py imports them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from trex.wording import did_you_mean

#: The form of each name, and its class. `<shots>` and `<k>` stand for a whole number from 1 to 999999,
#: `<temperature>` for a number such as 0.1. The class has them as fields of these names.
PROBE_KINDS = {
    "exact": "trex.probing.kinds.exact:Exact",
    "exact-<shots>shot": "trex.probing.kinds.exact:Exact",
    "published": "trex.probing.kinds.published:Published",
    "published-<shots>shot": "trex.probing.kinds.published:Published",
    "knn<k>": "trex.probing.kinds.knn:Knn",
    "knn<k>-t<temperature>": "trex.probing.kinds.knn:Knn",
}

_WHOLE = "[1-9][0-9]{0,5}"
_DECIMAL = {"temperature": r"0\.[0-9]{0,5}[1-9]|[1-9][0-9]{0,2}(?:\.[0-9]{1,5})?"}
_EXAMPLE = "5"  #: the number that a suggestion uses if the wrong name has none


@dataclass(frozen=True)
class ProbeName:
    """A name that matches one of `PROBE_KINDS`."""

    text: str  #: such as `exact-5shot`
    form: str  #: such as `exact-<shots>shot`
    numbers: dict[str, int | float]  #: such as {"shots": 5}


def parse_probe_name(text: str) -> ProbeName:
    """Parse the name of a probe.

    Raises:
        ValueError: if the name matches no form. The message lists the forms and suggests the nearest name.
    """
    for form in PROBE_KINDS:
        pattern = re.sub("<(.*?)>", lambda name: f"(?P<{name[1]}>{_DECIMAL.get(name[1], _WHOLE)})", form)
        if found := re.fullmatch(pattern, text):
            numbers = found.groupdict().items()
            return ProbeName(
                text, form, {key: float(number) if key in _DECIMAL else int(number) for key, number in numbers}
            )
    number = re.search(r"[1-9][0-9]{0,5}", text)
    near = [re.sub("<.*?>", number[0] if number else _EXAMPLE, form) for form in PROBE_KINDS]
    raise ValueError(f"{text!r}: expected one of {', '.join(PROBE_KINDS)}{did_you_mean(text, near)}")
