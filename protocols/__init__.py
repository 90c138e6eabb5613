"""Protocol libraries in pure Python: bytes and values in, frozen dataclasses out; leaves settings and policy to others."""
