"""`trex export`: a run's weights as a file that other people's programs read."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from jobs.plan.runs import open_run
from trex.errors import ExitCode, UserError

_ABOUT = """Write the weights of a run's newest checkpoint to FILE, and a model card beside it (same name, .md): recipe,
data, scores, digests, versions, license. The run need not have finished; the card says so then. Nothing is replaced.

layouts:
  encoder   the encoder alone with exactly torchvision's keys, without fc.*; for torchvision, timm, torch.hub.
            FILE ends in .pth, .pt or .safetensors. The default.
  full      everything that training continues with, in the layout of the released t-ReX checkpoints: a dict with model,
            optimizer, epoch, args, fp16_scaler; tensors and plain values only. FILE ends in .pth or .pt.
            The default where FILE ends in _checkpoint_full.pth, the name of the released ones.

examples:
  trex export trex_star --to encoder.pth
  trex export trex_star --to model.safetensors --license CC-BY-4.0
  trex export trex_star --to trex_star_checkpoint_full.pth"""


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `trex export`."""
    parser = commands.add_parser(
        "export",
        help="write a run's weights for torchvision, timm, torch.hub or other people's scripts",
        description=_ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", help="a run folder, or just its name")
    parser.add_argument("--to", type=Path, required=True, metavar="FILE", help="the file to write")
    parser.add_argument("--layout", choices=("encoder", "full"), help="default: as FILE's name says, see above")
    parser.add_argument("--license", metavar="NAME", help="license of the weights, for the card (default: not stated)")
    parser.set_defaults(handler=_export)


def _export(args: argparse.Namespace) -> int:
    from trex.export.write import export, layout_of

    layout = layout_of(args.to, args.layout)
    run, _ = open_run(args.run)
    try:
        done = export(run, args.to, layout, args.license)
    except OSError as error:
        raise UserError(f"cannot write {args.to}: {error}") from error
    state = "" if done.finished else "; its training has not finished"
    sys.stdout.write(f"{done.file}: {layout} of {run.name}, {done.checkpoint}{state}\n{done.card}: its card\n")
    return ExitCode.DONE
