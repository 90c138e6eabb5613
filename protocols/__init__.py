"""Protocol libraries in pure Python: bytes in, frozen dataclasses out; leaves settings and policy to others."""
