"""Owners' and replicas' databases behind one small port, so that what is kept there is written once.

`port` states it; `sqlite` (apsw) and `postgres` (asyncpg) are its two adapters; `connect` picks one by URL;
`borrowed` takes a connection that its owner opened.
"""

from truecopy_bus.sql.address import connect
from truecopy_bus.sql.borrowed import borrowed
from truecopy_bus.sql.port import Column, Connection, Copying, Database, Dialect, Kind, Shape, columns

__all__ = ["Column", "Connection", "Copying", "Database", "Dialect", "Kind", "Shape", "borrowed", "columns", "connect"]
