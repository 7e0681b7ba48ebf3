"""mekrr serve."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from mekrr.cli.console import err, out, print_json
from mekrr.cli.declared import with_options
from mekrr.cli.md import describe
from mekrr.cli.options import STOPPED_CODE, DeviceOption, JsonOption, ModelArgument, ThreadsOption, TrustOption
from mekrr.cli.outputs import TRAJECTORY_SUFFIXES, require_new, require_output
from mekrr.dynamics import read_start
from mekrr.engines import Evaluator, Watch, WatchOptions
from mekrr.engines.ipi import Provider
from mekrr.engines.ipi_client import Address, Client, Wire
from mekrr.potential import KernelPotential, Wanted
from mekrr.threads import require_threads

HOST = "localhost"
LONGEST_WAIT = 86400.0  # seconds


@with_options(watching=WatchOptions)
def serve(
    model: ModelArgument,
    template: Annotated[
        Path, typer.Argument(metavar="TEMPLATE", help="The structure that i-PI starts from: elements and periodicity.")
    ],
    watching: WatchOptions,
    unix: Annotated[
        str | None, typer.Option("--unix", help="Name of i-PI's Unix socket (its <address>), or a path.")
    ] = None,
    host: Annotated[str | None, typer.Option("--host", help=f"Of i-PI, with --port; {HOST} if not given.")] = None,
    port: Annotated[int | None, typer.Option("--port", help="That i-PI listens at.")] = None,
    wait: Annotated[float, typer.Option("--wait", help="Seconds to wait for i-PI to listen.")] = 0.0,
    index: Annotated[int, typer.Option("--index", help="Which structure of TEMPLATE; negative from the end.")] = -1,
    force_uncertainty: Annotated[
        bool, typer.Option("--force-uncertainty", help="Send the deviation of each force component too.")
    ] = False,
    threads: ThreadsOption = 1,
    device: DeviceOption = "auto",
    trust_checkpoint: TrustOption = False,
    json: JsonOption = False,
) -> None:
    """Energies, forces, virials and deviations for i-PI, over its socket."""
    address = _address(unix, host, port)
    if not 0 <= wait <= LONGEST_WAIT:
        raise ValueError(f"--wait takes seconds, from 0 to {LONGEST_WAIT:g}; received {wait:g}")
    require_threads(threads)
    if watching.label_to is not None:
        require_output(Path(watching.label_to), TRAJECTORY_SUFFIXES, (model, template))
        require_new(Path(watching.label_to))
    atoms, found = read_start(template, index)
    err.print(f"TEMPLATE: {template}, index {found}: {describe(atoms)}", soft_wrap=True, highlight=False, markup=False)
    # First of all, so that i-PI is told, by a connection that closes, of whatever is wrong with the model.
    with Wire(address.connect(wait)) as wire:
        potential = KernelPotential.load(model, device, trust_checkpoint)
        wanted = Wanted(energy_std=watching.deviations, forces_std=force_uncertainty)
        watch = Watch(watching, potential.fitted_.record)
        provider = Provider(Evaluator(potential, wanted, threads), atoms, watch)
        err.print(f"connected to i-PI at {address}", soft_wrap=True, highlight=False, markup=False)
        err.print(watch.announcement(), soft_wrap=True, highlight=False, markup=False)
        client = Client(wire, provider)
        started = time.perf_counter()
        try:
            client.run()
        except BaseException:  # an interrupt too: what was done is said
            err.print("\n".join(provider.lines()), soft_wrap=True, highlight=False, markup=False)
            raise
    _say(client, provider, time.perf_counter() - started, json)
    if watch.stopped:
        raise typer.Exit(STOPPED_CODE)


def _address(unix: str | None, host: str | None, port: int | None) -> Address:
    """Where to connect.

    Raises:
        ValueError: when the options name two places, or none.
    """
    if (unix is None) == (port is None):
        raise ValueError("say where i-PI listens, as in its <ffsocket>: by --unix NAME, or by --port with --host")
    if unix is None:
        return Address(host=host or HOST, port=port or 0)
    if host is not None:
        raise ValueError("--host belongs to --port; a Unix socket is on this machine")
    return Address(unix)


def _say(client: Client, provider: Provider, seconds: float, json: bool) -> None:
    """What was done, on stdout."""
    if json:
        print_json(_record(client, provider, seconds))
        return
    lines = provider.lines()
    if provider.n_evaluations:
        lines[0] += f", {seconds / provider.n_evaluations:.4f} seconds each, i-PI's own time included"
    if provider.watch.stopped:
        lines.append("ended at the threshold: i-PI stops too if its <ffsocket> has exit_on_disconnect")
    out.print("\n".join(lines), soft_wrap=True, highlight=False, markup=False)


def _record(client: Client, provider: Provider, seconds: float) -> dict[str, Any]:
    """The object of `mekrr serve --json`."""
    return {
        "n_structures": provider.n_evaluations,
        "batch_size": client.batch_size,
        "seconds": seconds,
        **provider.watch.as_dict(),
    }
