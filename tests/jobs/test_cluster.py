"""Cluster files: which values are allowed, and that no value or path becomes a command in the batch script."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from jobs import environment
from jobs.backend import load_cluster
from jobs.cli import main
from jobs.plan.cluster import Cluster
from jobs.plan.spec import TaskSpec
from jobs.slurm.limits import seconds
from jobs.slurm.submit import Submitter
from jobs.slurm.work import Work
from trex.errors import TrexError, UserError
from trex.records.run_dir import RunDir

HOSTILE = ("a\ntouch pwned", "a'; touch pwned; '", '"$(touch pwned)"', "`touch pwned`", "a b", "-n9", "a\u2028b", "")


def script(folder: Path, cluster: Cluster, stage: str = "train") -> str:
    return Submitter(RunDir(folder / "run"), cluster).text(Work((TaskSpec(stage, str(folder / "run")),)))  # type: ignore[arg-type]


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("field", ["partition", "account", "qos", "constraint", "time", "options"])
def test_value_that_is_not_one_plain_word_is_refused_with_file_and_line(tmp_path: Path, field: str, value: str) -> None:
    path = tmp_path / "cluster.yaml"
    quoted = '"' + value.encode("unicode_escape").decode().replace('"', '\\"') + '"'
    path.write_text(f"train:\n  {field}: " + (f"{{exclude: {quoted}}}\n" if field == "options" else f"{quoted}\n"))
    with pytest.raises(TrexError, match=rf"cluster\.yaml:2.*{field}"):
        load_cluster(str(path))


@pytest.mark.parametrize(
    "option", ["wrap", "output", "export", "array", "cpus-per-task", "dependency", "uid", "Wrap", "a b", "x\n"]
)
def test_option_that_the_toolkit_sets_or_that_is_no_option_is_refused(tmp_path: Path, option: str) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(f'train:\n  options: {{"{option.encode("unicode_escape").decode()}": "1"}}\n')
    with pytest.raises(TrexError, match=r"cluster\.yaml:2"):
        load_cluster(str(path))


REFUSED = {
    "which the toolkit sets itself": "array comment dependency error job-name kill-on-invalid-dep open-mode output "
    "requeue no-requeue",
    "use nodes and tasks_per_node": "ntasks ntasks-per-node ntasks-per-gpu",
    "use cpus_per_task": "cpus-per-task tres-per-task",
    "use signal_lead": "signal",
    "use time": "time",
    "use partition": "partition",
    "could not read the job's id": "parsable quiet",
    "would not find in the queue": "cluster-constraint",
    "use clusters at the top of the file": "clusters",
    "submits nothing": "test-only help usage version",
    "would not run as the toolkit wrote it": "wrap chdir export export-file get-user-env uid gid input container",
    "of a failed node": "no-kill",
    "until the job has ended": "wait",
}


@pytest.mark.parametrize(
    ("reason", "option"), [(why, name) for why, names in REFUSED.items() for name in names.split()]
)
def test_option_that_changes_what_a_submission_means_is_refused_with_the_reason(
    tmp_path: Path, reason: str, option: str
) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(f'train:\n  options: {{{option}: "yes"}}\n')
    with pytest.raises(TrexError, match=rf"cluster\.yaml:2:\d+: 'train\.options' has {option}, .*{reason}"):
        load_cluster(str(path))


@pytest.mark.parametrize(
    ("short", "option"),
    [("pars", "parsable"), ("wra", "wrap"), ("clu", "clusters|cluster-constraint"), ("no-r", "no-r")],
)
def test_short_form_of_a_refused_option_is_refused_too(tmp_path: Path, short: str, option: str) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(f'train:\n  options: {{{short}: "yes"}}\n')
    with pytest.raises(TrexError, match=rf"'train\.options' has {short} for ({option})"):
        load_cluster(str(path))


@pytest.mark.parametrize(
    "option",
    ["hold", "begin: now+1hour", "exclusive", "mem: 0", "mail-type: FAIL", "reservation: maintenance", "nodelist: n1",
     "exclude: n2", "licenses: matlab", "deadline: now+1day", "gres: gpu:a100:4", "time-min: 60", "nice: 100"],
)  # fmt: skip
def test_option_that_only_says_where_or_when_a_job_runs_is_accepted(tmp_path: Path, option: str) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(f"train:\n  options: {{{option if ':' in option else f'{option}: yes'}}}\n")
    name, _, value = option.partition(": ")
    line = f"#SBATCH --{name}" + (f"={value}" if value else "")
    assert line in script(tmp_path, load_cluster(str(path))).splitlines()


def test_job_knows_how_long_before_its_limit_it_is_signaled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text('train: {time: "10", signal_lead: 300}\n')
    [line] = [one for one in script(tmp_path, load_cluster(str(path))).splitlines() if "TREX_SIGNAL_LEAD" in one]
    assert line.split("  #")[0] == "export TREX_SIGNAL_LEAD=200"  # a third of the limit
    assert environment.signal_lead() is None
    monkeypatch.setenv("TREX_SIGNAL_LEAD", "200")
    assert environment.signal_lead() == 200.0
    monkeypatch.setenv("TREX_SIGNAL_LEAD", "soon")
    assert environment.signal_lead() is None


def test_staging_folder_reaches_the_node_with_its_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/of/the/login/node")
    path = tmp_path / "cluster.yaml"
    path.write_text("stage: $TMPDIR\n")
    text = script(tmp_path, load_cluster(str(path)))
    assert '"staging": "$TMPDIR"}' in text
    assert "/of/the/login/node" not in text
    path.write_text("kind: slurm\n")
    assert '"staging": ""}' in script(tmp_path, load_cluster(str(path)))


@pytest.mark.parametrize("folder", ["$TMPDIR", "/local/scratch/$USER", "${TMPDIR}/data", "~/x", "/tmp/a b"])
def test_staging_folder_is_any_absolute_path(tmp_path: Path, folder: str) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(f"stage: '{folder}'\n")
    assert load_cluster(str(path)).stage == folder


@pytest.mark.parametrize("folder", ["scratch", "", "/a/$", "$(id)", "/${A", "./x"])
def test_staging_folder_that_is_no_absolute_path_is_refused_with_file_and_line(tmp_path: Path, folder: str) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(f'kind: slurm\nstage: "{folder}"\n')
    with pytest.raises(TrexError, match=r"cluster\.yaml:2:\d+: 'stage' is .*: expected an absolute path"):
        load_cluster(str(path))


@pytest.mark.parametrize("time", ["soon", "1:2:3:4", "0", "0:59", "1-x"])
def test_time_that_slurm_would_reject_is_refused_with_file_and_line(tmp_path: Path, time: str) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(f'probe:\n  partition: cpu\n  time: "{time}"\n')
    with pytest.raises(TrexError, match=r"cluster\.yaml:3:\d+: 'probe\.time' is .*expected"):
        load_cluster(str(path))


def test_kind_without_a_back_end_is_refused_with_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text("data_root: /data\nkind: slrum\n")
    expected = r"cluster\.yaml:2:\d+: 'kind' is 'slrum': expected one of local, slurm; did you mean 'slurm'"
    with pytest.raises(TrexError, match=expected):
        load_cluster(str(path))


@pytest.mark.parametrize("name", ["a\nb", "50%j", "back\\slash"])
def test_path_that_slurm_cannot_write_logs_to_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="choose a path"):
        script(tmp_path / name, Cluster())


def test_quotes_spaces_and_commands_in_a_path_are_not_executed(tmp_path: Path) -> None:
    text = script(tmp_path / "it's $(touch pwned) `x`", Cluster())
    assert all("touch pwned" not in line or "'\"'\"'s $(touch pwned) `x`/run" in line for line in text.splitlines())


def test_sbatch_variables_apply_to_options_that_the_cluster_file_does_not_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBATCH_ACCOUNT", "mine")
    monkeypatch.setenv("SBATCH_PARTITION", "theirs")
    path = tmp_path / "cluster.yaml"
    path.write_text("train: {partition: gpu}\n")
    lines = script(tmp_path, load_cluster(str(path))).splitlines()
    assert "#SBATCH --account=mine" in lines
    assert "#SBATCH --partition=gpu" in lines
    monkeypatch.setenv("SBATCH_ACCOUNT", "mine\ntouch pwned")
    with pytest.raises(UserError, match="SBATCH_ACCOUNT"):
        script(tmp_path, Cluster())


@pytest.mark.parametrize(
    ("option", "asked"),
    [
        ("gpus-per-node: a100:4", ["gpus-per-node=a100:4"]),
        ("gres: gpu:a100:4", ["gres=gpu:a100:4"]),
        ("gpus: 8", ["gpus=8"]),
        ("gpus-per-task: a100:1", ["gpus-per-task=a100:1"]),
        ("gres: disk:1", ["gpus-per-node=4", "gres=disk:1"]),
        ("gpu-bind: closest", ["gpu-bind=closest", "gpus-per-node=4"]),
    ],
)
def test_gpus_are_requested_only_once_if_an_option_requests_them(tmp_path: Path, option: str, asked: list[str]) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(f"train: {{gpus_per_node: 4, options: {{{option}}}}}\n")
    lines = script(tmp_path, load_cluster(str(path))).splitlines()
    found = [line.removeprefix("#SBATCH --") for line in lines if re.match("#SBATCH --(gpu|gres)", line)]
    assert sorted(found) == asked
    assert "#SBATCH --ntasks-per-node=4" in lines


def test_more_processes_than_gpus_of_a_node_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text("train: {gpus_per_node: 1, tasks_per_node: 4}\n")
    with pytest.raises(TrexError, match=r"has 4 processes for 1 GPUs per node: expected one per GPU"):
        load_cluster(str(path))
    path.write_text("train: {gpus_per_node: 0, tasks_per_node: 4}\n")
    assert load_cluster(str(path)).train.tasks == 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90", 5400), ("1:30", 90), ("12:30:00", 45000), ("1-2", 93600), ("1-02:30", 95400), ("1-02:30:05", 95405)],
)
def test_time_in_every_format_of_slurm(text: str, expected: int) -> None:
    assert seconds(text) == expected


def test_every_cluster_file_of_the_toolkit_is_valid_and_works_in_a_dry_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    for name in ("example", "sandbox", "slurm", "local"):
        assert (
            main(["run", str(Path(__file__).parents[2] / "configs" / "trex_star.yaml"), "--cluster", name, "--dry-run"])
            == 0
        )
        assert "train" in capsys.readouterr().out


def test_every_block_of_the_example_is_valid_if_it_is_uncommented(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "configs" / "clusters" / "example.yaml").read_text()
    blocks = re.findall(r"^# -- (.*)\n((?:# .*\n)+)", text, re.MULTILINE)
    names = [name.split()[0].rstrip(",") for name, _ in blocks]
    assert names == ["apptainer", "pyxis", "conda", "uv", "modules", "spack"]
    for number, (_, block) in enumerate(blocks):
        path = tmp_path / f"{number}.yaml"
        path.write_text(re.sub("^# ", "", block, flags=re.MULTILINE))
        assert load_cluster(str(path)).python is not None
