"""Sales by shop, from a file for each month: group-bys, on processes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from shoal import flow, task

MONTHS = [f"2025-{month:02}" for month in range(1, 13)]
SHOPS = ["harbour", "market", "station", "village"]


@task(retries=1, task_run_name="sum up {path.stem}")
def sum_up(path: Path) -> pd.DataFrame:
    """Reads a month. Returns what can be added to other months' figures."""
    month = pd.read_csv(path)
    return month.groupby("shop")["amount"].agg(["sum", "count", "max"])


@task
def combine(months: list[pd.DataFrame]) -> pd.DataFrame:
    """Sums of sums, counts of counts; a mean of means would be wrong."""
    by_shop = pd.concat(months).groupby("shop")
    year = by_shop.agg({"sum": "sum", "count": "sum", "max": "max"})
    year["mean"] = year["sum"] / year["count"]
    return year


@flow(task_runner="processes")
def sales_by_shop(folder: Path) -> pd.DataFrame:
    months = sum_up.map(sorted(folder.glob("*.csv")))
    return combine.submit(months).result()


def make_months(folder: Path, rows: int) -> pd.DataFrame:
    """Writes a file for each month. Returns all of them in one table."""
    numbers = np.random.default_rng(seed=2025)
    months = []
    for name in MONTHS:
        shops = numbers.choice(SHOPS, size=rows)
        amounts = numbers.integers(1, 10_000, size=rows)
        months.append(pd.DataFrame({"shop": shops, "amount": amounts}))
        months[-1].to_csv(folder / f"{name}.csv", index=False)
    return pd.concat(months)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        table = make_months(Path(name), rows=5_000)
        found = sales_by_shop(Path(name))

    print(found.round(1).to_string())
    by_shop = table.groupby("shop")["amount"]
    whole = by_shop.agg(["sum", "count", "max", "mean"])
    pd.testing.assert_frame_equal(found, whole)
    print(found["count"].sum(), "sales")  # prints: 60000 sales
