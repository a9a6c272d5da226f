"""A file for each module of Prefect's that Shoal has not: importing `shoal.artifacts` says so. See `elsewhere`."""
