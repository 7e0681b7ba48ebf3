"""The command line: `mekrr --help`."""


def main() -> None:
    """Run the command line; bad input ends in a sentence on stderr and exit code 1, never in a traceback."""
    from mekrr.cli.app import run

    raise SystemExit(run())
