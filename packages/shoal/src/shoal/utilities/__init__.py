"""Where Prefect keeps the annotations; Shoal's are in `shoal` itself, and in `shoal.annotations`."""
