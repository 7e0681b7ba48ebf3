"""The command line: `mekrr --help`."""


def main() -> None:
    """Run the command line; bad input ends in a sentence on stderr and exit code 1, never in a traceback."""
    import os

    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before PyTorch is loaded: see mekrr.cli.threads
    from mekrr.cli.app import run

    raise SystemExit(run())
