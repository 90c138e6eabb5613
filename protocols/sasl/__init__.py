"""SASL (RFC 4422) as step machines, server and client side; leaves base64, sockets and stored credentials to others."""

from __future__ import annotations

from .channel_binding import ChannelBinding, channel_binding, plus_announced
from .encoding import decode_response
from .scram import ScramHash, ScramKeys, derive_scram_keys
from .server import (
    SERVER_MECHANISMS,
    Authenticated,
    Challenge,
    CredentialKind,
    CredentialsNeeded,
    ExternalClaimed,
    ExternalServer,
    Failed,
    Failure,
    PasswordGiven,
    ServerMechanism,
    Step,
    UnknownMechanism,
    server_mechanism,
)

__all__ = [
    "SERVER_MECHANISMS",
    "Authenticated",
    "Challenge",
    "ChannelBinding",
    "CredentialKind",
    "CredentialsNeeded",
    "ExternalClaimed",
    "ExternalServer",
    "Failed",
    "Failure",
    "PasswordGiven",
    "ScramHash",
    "ScramKeys",
    "ServerMechanism",
    "Step",
    "UnknownMechanism",
    "channel_binding",
    "decode_response",
    "derive_scram_keys",
    "plus_announced",
    "server_mechanism",
]
