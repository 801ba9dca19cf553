"""The data: real purchases, and the answer that others published for them. See cdnow/README.md."""

import csv
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from importlib.resources import files
from typing import NamedTuple

from truecopy_services.demo.shop import Purchased

__all__ = ["Calibration", "published_summary", "read_purchases"]


class Calibration(NamedTuple):
    """A customer at the end of the calibration period; recency and t in weeks, to two decimals."""

    frequency: int
    recency: Decimal
    t: Decimal


def read_purchases() -> list[tuple[str, Purchased]]:
    """(customer, purchase) in the order of days, as a shop would have sold them; of one day in the file's order."""
    purchases = []
    for line in _text("CDNOW_sample.txt").splitlines():
        _, customer, day, cds, dollars = line.split()
        bought_on = date(int(day[:4]), int(day[4:6]), int(day[6:]))
        event = Purchased(bought_on=bought_on, cds=int(cds), dollars=Decimal(dollars))
        purchases.append((str(int(customer)), event))
    return sorted(purchases, key=lambda purchase: purchase[1].bought_on)


def published_summary() -> Mapping[str, Calibration]:
    """By customer."""
    cent = Decimal("0.01")
    return {
        row["ID"]: Calibration(int(row["frequency"]), Decimal(row["recency"]).quantize(cent), Decimal(row["T"]).quantize(cent))
        for row in csv.DictReader(_text("cdnow_customers_summary.csv").splitlines())
    }


def _text(name: str) -> str:
    return (files("truecopy_services.demo") / "cdnow" / name).read_text()
