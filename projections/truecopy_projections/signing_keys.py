"""Keys of certificates as files: the one that signs here, and those that are trusted here."""

import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from truecopy_projections.errors import SigningKeyError

__all__ = ["pin", "public_key", "signing_key", "trusted_keys"]

_KEY_BYTES_MAX = 65_536
"""Bytes of a file that may hold keys: some thousand trusted ones, or one in PEM. More is another kind of file."""


def signing_key(path: Path) -> Ed25519PrivateKey:
    """The key in the PEM file at `path`; made there, readable by its owner alone, if there is none. Raises SigningKeyError."""
    if not path.exists():
        made = Ed25519PrivateKey.generate()
        draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)  # whole or not at all; another process may have been first
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    try:
        found = load_pem_private_key(_text_of(path).encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as fault:
        raise SigningKeyError(path=path, seen=f"it can't be read as a private key in PEM ({type(fault).__name__})") from None
    if not isinstance(found, Ed25519PrivateKey):
        raise SigningKeyError(path=path, seen="it holds a key of another kind")
    return found


def public_key(given: str) -> str:
    """A public key as 64 hexadecimal digits, from those themselves, or from a file that holds them or one in PEM.

    Raises SigningKeyError.
    """
    if _is_key(given):
        return given.lower()
    path = Path(given)
    text = _text_of(path).strip()
    if _is_key(text):
        return text.lower()
    try:
        found = load_pem_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise SigningKeyError(path=path, seen="it holds neither 64 hexadecimal digits nor a public key in PEM") from None
    if not isinstance(found, Ed25519PublicKey):
        raise SigningKeyError(path=path, seen="it holds a key of another kind")
    return found.public_bytes_raw().hex()


def trusted_keys(path: Path) -> frozenset[str]:
    """The keys in a file, one a line, `#` before a comment; none where there is no file. Raises SigningKeyError."""
    if not path.exists():
        return frozenset()
    words = [line.partition("#")[0].strip().lower() for line in _text_of(path).splitlines()]
    if wrong := [word for word in words if word and not _is_key(word)]:
        raise SigningKeyError(path=path, seen=f"a line {wrong[0]!r:.40} is no key of 64 hexadecimal digits")
    return frozenset(filter(None, words))


def pin(path: Path, keys: Iterable[str], *, note: str) -> None:
    """Trust these keys from now on: write those into the file that it does not hold. Raises SigningKeyError."""
    if new := sorted(set(keys) - trusted_keys(path)):
        with path.open("a", encoding="utf-8") as file:
            file.writelines(f"{key}  # {note}\n" for key in new)


def _is_key(text: str) -> bool:
    return len(text) == 64 and all(digit in "0123456789abcdefABCDEF" for digit in text)


def _text_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_KEY_BYTES_MAX).decode()
    except (OSError, UnicodeDecodeError) as fault:
        raise SigningKeyError(path=path, seen=f"it can't be read ({type(fault).__name__})") from None
