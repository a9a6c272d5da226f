"""`python -m shoal_bench overhead` is `shoal bench overhead`."""

from shoal_bench.cli import app

if __name__ == "__main__":
    app()
