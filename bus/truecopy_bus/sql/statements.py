"""SQL text that both adapters share: quoting, the names of indexes, and the statement that makes one."""

from hashlib import blake2b

from truecopy_bus.sql.port import Shape

__all__ = ["create_indexes", "listed", "quoted"]

_NAME_CHARACTERS_MAX = 63
"""PostgreSQL cuts longer names without a word, so that two indexes could meet under one name."""


def quoted(name: str) -> str:
    """The name as an identifier, whatever characters it holds."""
    return '"' + name.replace('"', '""') + '"'


def listed(names: tuple[str, ...]) -> str:
    """Quoted names with commas between them."""
    return ", ".join(quoted(name) for name in names)


def create_indexes(shape: Shape) -> list[str]:
    """The statements that create the shape's indexes where they are missing."""
    return [
        f"CREATE INDEX IF NOT EXISTS {quoted(_index_name(shape.name, columns))} ON {quoted(shape.name)} ({listed(columns)})"
        for columns in shape.indexes
    ]


def _index_name(table: str, columns: tuple[str, ...]) -> str:
    name = f"{table}_by_{'_'.join(columns)}"
    if len(name.encode()) <= _NAME_CHARACTERS_MAX:
        return name
    return f"{table[:20]}_by_{blake2b(name.encode(), digest_size=12).hexdigest()}"
