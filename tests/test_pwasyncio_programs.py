"""Whole programs written for playhouse.pwasyncio: one import changes, and they print the same."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
IMPORT = "from playhouse.pwasyncio import *"

# Functions that wait for the loop, in a program without a database.
BRIDGE = """
import asyncio
from playhouse.pwasyncio import *

def synchronous():
    return await_(add(1, 2)) + await_(add(3, 4))

async def add(x, y):
    return x + y

async def main():
    print(await greenlet_spawn(synchronous))
    try:
        await_(add(1, 2))
    except MissingGreenletBridge:
        print("only where a function is run for it")

asyncio.run(main())
"""
BRIDGE_PRINTS = """\
10
only where a function is run for it
"""

# Set-up at the start, a request for each task, shutting down at the end: a service without its framework.
SERVICE = """
import asyncio
from playhouse.pwasyncio import *

db = AsyncSqliteDatabase("service.db", pragmas={"journal_mode": "wal"}, pool_size=5, acquire_timeout=10)

class BaseModel(AsyncModel):
    class Meta:
        database = db

class Customer(BaseModel):
    name = CharField(unique=True)

class Order(BaseModel):
    customer = ForeignKeyField(Customer, backref="orders")
    total = IntegerField()

def setup():
    with db:
        db.create_tables([Customer, Order])
        for name in ("Ada", "Bo"):
            Customer.get_or_create(name=name)

async def place(name, total):
    async with db.atomic() as txn:
        customer = await Customer.aget(Customer.name == name)
        order = await Order.acreate(customer=customer, total=total)
        if total > 100:
            await txn.arollback()
            return None
        return order

async def request(handler, *args):
    async with db:
        return await handler(*args)

async def report():
    query = Order.select(Order, Customer).join(Customer).order_by(Order.total)
    for order in await query.aexecute():
        print(order.customer.name, order.total)
    print(await db.count(Order.select()), await db.scalar(Order.select(fn.SUM(Order.total))))

async def main():
    await db.run(setup)
    for name, total in [("Ada", 30), ("Bo", 7), ("Ada", 500)]:
        print(await request(place, name, total) is not None)
    try:
        await request(place, "Cy", 1)
    except Customer.DoesNotExist:
        print("no such customer")
    await request(report)

    order = await Order.aget(Order.total == 7)
    try:
        print(order.customer.name)
    except MissingGreenletBridge:
        print((await order.afetch(Order.customer)).name, order.customer.name)
    query = Customer.select().order_by(Customer.name).with_related(Load(Customer.orders))
    print([[order.total for order in customer.orders] for customer in await db.list(query)])
    async for customer in db.iterate(Customer.select().order_by(Customer.name.desc())):
        print(customer.name)

    try:
        await Customer.acreate(name="Ada")
    except IntegrityError:
        print("taken")
    print(await Order.update(total=Order.total + 1).aexecute(), await order.adelete_instance())
    await db.adrop_tables([Order, Customer])
    print((await db.aexecute_sql("SELECT 40 + 2")).fetchall())
    await db.aclose()
    await db.close_pool()

asyncio.run(main())
"""
SERVICE_PRINTS = """\
True
True
False
no such customer
Bo 7
Ada 30
2 37
Bo Bo
[[30], [7]]
Bo
Ada
taken
2 1
[(42,)]
"""

# The one of the documentation, as it was before its import changed.
PAGE = (ROOT / "docs" / "pwasyncio.md").read_text()
(BLOCK,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
DOCUMENTED = BLOCK.replace(
    "from async_peewee.pwasyncio import *  # was: from playhouse.pwasyncio import *", IMPORT
)
DOCUMENTED_PRINTS = """\
Huey says hello
hello
Huey
1 tweet
"""

PROGRAMS = [(BRIDGE, BRIDGE_PRINTS), (SERVICE, SERVICE_PRINTS), (DOCUMENTED, DOCUMENTED_PRINTS)]
NAMES = ["bridge", "service", "documented"]


def run(program: str, folder: Path) -> str:
    """Run a program to its end and return what it printed; a warning of ours fails it."""
    flags = ["-W", "error::RuntimeWarning", "-W", "error::ResourceWarning"]
    done = subprocess.run(
        [sys.executable, *flags, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
@pytest.mark.parametrize(("program", "prints"), PROGRAMS, ids=NAMES)
def test_a_program_that_changes_one_import(program: str, prints: str, loop: str, tmp_path: Path) -> None:
    """It does on asyncio what it did before, and on trio too."""
    assert program.count(IMPORT) == 1
    changed = program.replace(IMPORT, "from async_peewee.pwasyncio import *")
    if loop == "trio":
        pytest.importorskip("trio")
        changed = changed.replace("asyncio.run(main())", "import trio; trio.run(main)")
    assert run(changed, tmp_path) == prints


if find_spec("greenlet") and find_spec("aiosqlite"):

    @pytest.mark.parametrize(("program", "prints"), PROGRAMS, ids=NAMES)
    def test_the_program_as_it_was(program: str, prints: str, tmp_path: Path) -> None:
        """What it is expected to print is what it prints on playhouse.pwasyncio."""
        assert run(program, tmp_path) == prints
