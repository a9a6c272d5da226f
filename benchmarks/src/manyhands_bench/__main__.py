"""`python -m manyhands_bench overhead` is `manyhands bench overhead`."""

from manyhands_bench.cli import app

if __name__ == "__main__":
    app()
