"""The example project is what its README says: its own tests pass on this Truecopy, and they notice what is broken."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

EXAMPLE = Path(__file__).parent.parent / "examples/orders"
RUN_S = 100


class Fault(NamedTuple):
    """A text in a file, what stands in its place, the test that must fail for it, and what that must say."""

    file: str
    text: str
    instead: str
    test: str
    said: str


FAULTS = [
    Fault(  # a total that does not add up
        "services/warehouse.py",
        "total=order.total + event",
        "total=event",
        "tests/test_reducers.py::test_lines_add_up",
        r"E +the row of 'key' differs:\nE +total: seen Decimal\('1.50'\), expected Decimal\('3.00'\)",
    ),
    Fault(  # a reducer that remembers another key
        "services/warehouse.py",
        "return Order(customer=event.customer)",
        "SEEN.append(event.customer)\n    return Order(customer=(SEEN * 2)[-2])",
        "tests/test_delivery.py::test_the_warehouse_converges_whatever_the_delivery[0]",
        r"E +delivered as drawn from seed=0: test\(..., seed=0\) does it again",
    ),
    Fault(  # an order that takes what is not there
        "services/shop.py",
        "raise OutOfStockError(",
        "OutOfStockError(",
        "tests/test_shop.py::test_what_is_out_of_stock_is_neither_taken_nor_published",
        "DID NOT RAISE .*OutOfStockError",
    ),
    Fault(  # an adapter that says another offset; the assert is the shipped suite's, rewritten by pytest
        "services/metered_log.py",
        "return appended",
        "return appended._replace(first=0)",
        "tests/test_metered_log.py::TestMeteredLog::test_an_append_tells_where_its_records_lie",
        r"E +assert 0 >= \(0 \+ 3\)\nE +\+ +where 0 = Appended",
    ),
]


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=RUN_S, check=False)


def test_the_tests_of_the_example_pass() -> None:
    done = run(EXAMPLE)

    assert done.returncode == 0, done.stdout
    assert re.search(r"^\d+ passed in", done.stdout, re.MULTILINE), done.stdout


def test_the_tests_of_the_example_notice(tmp_path: Path) -> None:
    folder = tmp_path / "orders"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    for fault in FAULTS:
        before = (folder / fault.file).read_text()
        assert before.count(fault.text) == 1, fault
        (folder / fault.file).write_text(before.replace(fault.text, fault.instead))
    with (folder / "services/warehouse.py").open("a") as warehouse:
        warehouse.write("\nSEEN: list[str] = []\n")

    done = run(folder, *(fault.test for fault in FAULTS))

    assert re.search(rf"^{len(FAULTS)} failed in", done.stdout, re.MULTILINE), done.stdout
    assert [fault.test for fault in FAULTS if not re.search(fault.said, done.stdout)] == [], done.stdout
