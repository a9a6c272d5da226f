"""The annotations, where Prefect has them."""

from shoal.annotations import allow_failure, opaque, quote, unmapped

__all__ = ["allow_failure", "opaque", "quote", "unmapped"]
