"""Loggers, where Prefect has them. Not the standard library's `logging`, which `import logging` gives everywhere."""

from shoal.logs import disable_run_logger, get_logger, get_run_logger

__all__ = ["disable_run_logger", "get_logger", "get_run_logger"]
