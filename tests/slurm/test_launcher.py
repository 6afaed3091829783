"""Where the software lives: processes that start in a mount view of their own, options of srun, lines on each node."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.slurm.conftest import Run, Site, process_status
from tests.slurm.test_interruption import assert_same

#: Two nodes with one process each.
STAGE = 'train: {partition: gpu, nodes: 2, gpus_per_node: 1, time: "00:30:00", signal_lead: 20}'
#: Enters a mount view in which the folder $0 is at $1, as a container does.
ENTER = """unshare --map-root-user --mount bash -c 'mount --bind "$0" "$1" && shift && exec "$@"'"""


def train(site: Site, name: str, cluster: str) -> Run:
    (site.home / f"{name}.yaml").write_text(f"kind: slurm\n{STAGE}\n{cluster}")
    site.trex("train", "tiny.yaml", f"name={name}", "train.epochs=1", "--cluster", f"{name}.yaml")
    return site.run_of(name)


def log_of(run: Run, rank: int) -> list[str]:
    return (run.root / "jobs" / "slurm" / f"{run.jobs()['train']}_{rank}_log.out").read_text().splitlines()


def test_training_in_another_mount_view_is_preempted_and_ends_with_the_same_bits(site: Site) -> None:
    inside = site.home / "inside"
    inside.mkdir()
    lines = ["export PLACE=inside", 'echo "line on $SLURMD_NODENAME"']
    cluster = f"""
launcher: {json.dumps(f"{ENTER} {sys.prefix} {site.home}/$PLACE")}
python: {inside}/bin/python
setup_process: {json.dumps(lines)}
process_options: {{label: yes, cpu-bind: none}}
"""
    run = train(site, "entered", cluster)
    plain = train(site, "plain", "")
    job = run.jobs()["train"]
    run.reach(5)
    parent = process_status(run.main_process(), "PPid")
    assert process_status(int(parent), "Name") == "slurmstepd", "which signals no other processes on some clusters"
    nodes = site.nodes_of(job)
    run.interrupt(lambda: site.urgent(nodes[1]))
    site.ended(job, plain.jobs()["train"])
    assert site.accounting(job) == [site.preempted, "COMPLETED"], run.log()
    assert [event["reason"] for event in run.events("checkpoint")].count("stop") == 1
    one, other = run.final_state(), plain.final_state()
    for part in set(one) - {"config", "metrics_position"}:
        assert_same(one[part], other[part], part)
    for rank, node in enumerate(nodes):
        assert f"{rank}: line on {node}" in log_of(run, rank), "srun's option `label` writes the rank before each line"
    assert not any(Path(inside).iterdir()), "on the node itself, there is no such Python"


def test_line_that_fails_on_one_node_ends_the_job_and_is_not_requeued(site: Site) -> None:
    waiting = site.home / "runs" / "broken" / "jobs" / "rendezvous"
    line = f'[ "$SLURM_PROCID" = 0 ] || {{ until ls {waiting}/*.json; do sleep 0.1; done; false; }}'
    run = train(site, "broken", f"setup_process: {json.dumps([line])}\n")
    job = run.jobs()["train"]
    site.ended(job)
    assert site.accounting(job) == ["FAILED"]
    node = run.events("attempt_started")[0]["node"]
    said = [text for text in run.log().splitlines() if "not started: on node " in text]
    assert len(said) == 1, run.log()
    assert f"code 1 from the setup_process line: {line}: not requeued. Fix the cause, then run: trex retry" in said[0]
    assert node not in said[0], "the first node has no part in it"
