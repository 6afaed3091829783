"""The scores that tables can show. Imports nothing heavy, because the command line names them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """A score that tables can show."""

    name: str  #: as in `trex report --metric` and in `Scores`
    title: str
    unit: str  #: "%" or "nats"
    scale: float  #: factor from the value in `Scores` to this unit
    digits: int  #: after the decimal point
    highest_is_best: bool = True
    multi_label: bool = False  #: whether only multi-label datasets have it; they have no other score

    def text(self, value: float, sign: str = "") -> str:
        """A value of `Scores` as a number in the unit; `sign` is "+" to show the sign of positive numbers too."""
        return f"{self.scale * value:{sign}.{self.digits}f}"


#: All metrics, by name. The first is that of the published tables.
METRICS = {
    metric.name: metric
    for metric in (
        Metric("top1", "top-1 accuracy", "%", 100, 1),
        Metric("top5", "top-5 accuracy", "%", 100, 1),
        Metric("mean_per_class", "mean per-class accuracy", "%", 100, 1),
        Metric("nll", "negative log-likelihood", "nats", 1, 3, highest_is_best=False),
        Metric("ece", "expected calibration error", "%", 100, 1, highest_is_best=False),
        Metric("map11", "mean average precision over 11 points (mAP)", "%", 100, 1, multi_label=True),
        Metric("map_area", "mean average precision as an area (mAP)", "%", 100, 1, multi_label=True),
    )
}
TOP1, MAP11 = METRICS["top1"], METRICS["map11"]
