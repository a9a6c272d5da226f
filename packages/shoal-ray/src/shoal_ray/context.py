"""Ray's options around a submit, where Prefect has them."""

from shoal_ray.options import RemoteOptionsContext, remote_options

__all__ = ["RemoteOptionsContext", "remote_options"]
