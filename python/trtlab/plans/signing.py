"""Ed25519 signatures over manifests, and the policy that refuses plans without one.

A plan is native code that runs with the rights of the process that loads it. A signature says who built it, and that
neither plan nor manifest was changed since. Keys are what OpenSSL makes:

    openssl genpkey -algorithm ed25519 -out private.pem
    openssl pkey -in private.pem -pubout -out public.pem
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtlab.errors import EngineError, InvalidArgument, NotFound
from trtlab.manager import shown

__all__ = ["POLICY_VARIABLE", "Signer", "Trust", "signatures_required", "trust"]

POLICY_VARIABLE = "TRTLAB_REQUIRE_SIGNED_PLANS"
_MOST_KEY_BYTES = 64 * 1024
_INSTALL = 'pip install "trtlab[sign]"'


def _serialization() -> tuple[Any, Any, Any]:
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise EngineError(f"signatures of plans need the package cryptography ({error}): {_INSTALL}") from None
    return serialization, ed25519, InvalidSignature


class Signer:
    """A private key: a path of a PEM file without passphrase, the PEM itself as bytes, or a key of ``cryptography``.

    Raises NotFound (no such file), InvalidArgument (no Ed25519 private key), EngineError (``cryptography`` is missing).
    """

    def __init__(self, key: Any) -> None:
        serialization, ed25519, _ = _serialization()
        if not isinstance(key, ed25519.Ed25519PrivateKey):
            what, pem = _pem(key, "sign_with")
            try:
                key = serialization.load_pem_private_key(pem, password=None)
            except Exception as error:  # whatever the library says of bytes that are no key
                raise InvalidArgument(
                    f"{what}: not a private key in PEM without passphrase ({error}); "
                    "openssl genpkey -algorithm ed25519 makes one"
                ) from None
            if not isinstance(key, ed25519.Ed25519PrivateKey):
                raise InvalidArgument(f"{what}: expected an Ed25519 key, got {type(key).__name__.lstrip('_')}")
        self._key = key
        self.public: bytes = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)

    def sign(self, message: bytes) -> dict[str, str]:
        """Return the signature as it stands in a manifest."""
        signature: bytes = self._key.sign(message)
        return {
            "algorithm": "ed25519",
            "key": self.public.hex(),
            "value": base64.b64encode(signature).decode(),
        }

    def has_signed(self, message: bytes, signature: dict[str, str] | None) -> bool:
        """Whether this key made that signature of the message."""
        if signature is None or signature.get("key") != self.public.hex():
            return False
        try:
            Trust((self.public,), True, "sign_with").check("plan", signature, message)
        except InvalidArgument:
            return False
        return True


@dataclass(frozen=True)
class Trust:
    """Whose signatures count, and whether there must be one. ``origin`` says in messages where that was decided."""

    keys: tuple[bytes, ...]
    required: bool
    origin: str

    def check(self, what: str, signature: dict[str, str] | None, message: bytes) -> None:
        """Raise InvalidArgument if the policy refuses. Keys that are given are asked even if none is required."""
        if signature is None:
            if self.required:
                raise InvalidArgument(
                    f"{what}: refused: {self.origin} requires a signature and the plan has none; build it with "
                    "trtlab build --sign-with private.pem, or sign it where it was built"
                )
            return
        if not self.keys:
            if self.required:
                raise InvalidArgument(f"{what}: refused: {self.origin} requires a signature and trusts no key")
            return
        key, value = signature_parts(what, signature)
        if key not in self.keys:
            raise InvalidArgument(
                f"{what}: refused: it is signed by the key {key.hex()[:16]}..., which is none of the {len(self.keys)} "
                f"that {self.origin} trusts"
            )
        _, ed25519, invalid = _serialization()
        try:
            ed25519.Ed25519PublicKey.from_public_bytes(key).verify(value, message)
        except (invalid, ValueError):
            raise InvalidArgument(
                f"{what}: refused: the signature is wrong: the manifest was changed after it was signed"
            ) from None


def signature_parts(what: str, signature: dict[str, str]) -> tuple[bytes, bytes]:
    """Return public key and signature as bytes. Raises InvalidArgument."""
    try:
        key = bytes.fromhex(signature["key"])
        value = base64.b64decode(signature["value"], validate=True)
    except (KeyError, ValueError, binascii.Error):
        key = value = b""
    if signature.get("algorithm") != "ed25519" or len(key) != 32 or len(value) != 64:
        raise InvalidArgument(
            f"{what}: its signature is none of Ed25519: expected algorithm, key in hex, value in base64"
        )
    return key, value


def signatures_required() -> bool:
    """Whether the environment requires every plan to be signed (TRTLAB_REQUIRE_SIGNED_PLANS)."""
    return bool(os.environ.get(POLICY_VARIABLE))


def trust(public_keys: Iterable[Any], require_signature: bool) -> Trust:
    """Return the policy: what the caller says, and what the environment variable TRTLAB_REQUIRE_SIGNED_PLANS adds.

    The variable names a public key in PEM, or a folder of such (``*.pem``). Where it is set, a signature is required.
    Raises as ``Signer`` does; a policy that cannot be read refuses everything.
    """
    if isinstance(public_keys, (str, bytes, os.PathLike)):
        public_keys = [public_keys]
    keys = [_public(key, "public_keys") for key in public_keys]
    origins = ["the caller"] if keys or require_signature else []
    place = os.environ.get(POLICY_VARIABLE)
    if place:
        origins.append(POLICY_VARIABLE)
        require_signature = True
        folder = Path(place)
        files = sorted(folder.glob("*.pem")) if folder.is_dir() else [folder]
        keys += [_public(file, POLICY_VARIABLE) for file in files]
    if require_signature and not keys:
        raise InvalidArgument(
            f"{' and '.join(origins)}: a signature is required and no public key is given"
            + (f": no file *.pem in {place}" if place else "; pass public_keys=")
        )
    return Trust(tuple(keys), require_signature, " and ".join(origins) or "nobody")


def _public(key: Any, origin: str) -> bytes:
    serialization, ed25519, _ = _serialization()
    if not isinstance(key, ed25519.Ed25519PublicKey):
        what, pem = _pem(key, origin)
        try:
            key = serialization.load_pem_public_key(pem)
        except Exception as error:  # whatever the library says of bytes that are no key
            raise InvalidArgument(
                f"{what}: not a public key in PEM ({error}); openssl pkey -pubout makes one"
            ) from None
        if not isinstance(key, ed25519.Ed25519PublicKey):
            raise InvalidArgument(f"{what}: expected an Ed25519 key, got {type(key).__name__.lstrip('_')}")
    raw: bytes = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return raw


def _pem(key: Any, origin: str) -> tuple[str, bytes]:
    if isinstance(key, (bytes, bytearray)):
        return origin, bytes(key)
    if not isinstance(key, (str, os.PathLike)):
        raise InvalidArgument(f"{origin}: expected the path of a PEM file or its bytes, got {shown(key)}")
    path = Path(os.fspath(key))
    try:
        with path.open("rb") as stream:
            return f"{origin}: {path}", stream.read(_MOST_KEY_BYTES)
    except FileNotFoundError:
        raise NotFound(f"{origin}: {path}: no such file") from None
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"{origin}: {path} cannot be read: {error}") from None
