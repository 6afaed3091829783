"""`trex export`: writes a run's weights to a file that other programs can read."""

from __future__ import annotations

import argparse
import sys

from jobs.plan.lookup import path_of
from jobs.plan.runs import open_run
from trex.errors import ExitCode, UserError

_ABOUT = """Write the weights of a run's newest checkpoint to FILE, and a model card next to it (same name, .md) with
recipe, data, scores, digests, versions and license. If the run has not finished, the card says so. Existing files are
not replaced.

layouts:
  encoder   only the encoder, with exactly torchvision's keys, without fc.*; for torchvision, timm, torch.hub.
            FILE ends in .pth, .pt or .safetensors. The default.
  full      everything needed to continue the training, in the layout of the released t-ReX checkpoints: a dict with
            model, optimizer, epoch, args, fp16_scaler; only tensors and plain values. FILE ends in .pth or .pt.
            The default if FILE ends in _checkpoint_full.pth, as the released checkpoints do.

examples:
  trex export trex_star --to encoder.pth
  trex export trex_star --to model.safetensors --license CC-BY-4.0
  trex export trex_star --to trex_star_checkpoint_full.pth"""


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `trex export`."""
    parser = commands.add_parser(
        "export",
        help="write a run's weights for torchvision, timm, torch.hub or other scripts",
        description=_ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", help="a run folder, or its name")
    parser.add_argument("--to", required=True, metavar="FILE", help="the file to write")
    parser.add_argument("--layout", choices=("encoder", "full"), help="default: depends on the name of FILE, see above")
    parser.add_argument("--license", metavar="NAME", help="license of the weights, for the card (default: not stated)")
    parser.set_defaults(handler=_export)


def _export(args: argparse.Namespace) -> int:
    from trex.export.write import export, layout_of

    target = path_of(args.to)
    layout = layout_of(target, args.layout)
    run, _ = open_run(args.run)
    try:
        done = export(run, target, layout, args.license)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error}") from error
    state = "" if done.finished else "; its training has not finished"
    sys.stdout.write(f"{done.file}: {layout} of {run.name}, {done.checkpoint}{state}\n{done.card}: model card\n")
    return ExitCode.DONE
