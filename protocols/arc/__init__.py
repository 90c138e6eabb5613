"""ARC (RFC 8617): verifying the chain that forwarders have sealed, and sealing; leaves whom to trust to others."""

from __future__ import annotations

from .chain import ArcResult, ArcSet, ArcStatus, auth_method
from .sealing import seal
from .verification import verify, verify_sync

__all__ = ["ArcResult", "ArcSet", "ArcStatus", "auth_method", "seal", "verify", "verify_sync"]
