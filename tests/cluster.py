"""A cluster of Slurm on loopback with this host as its one node, for as long as a test needs it."""

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
MISSING = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(name, path=PATH)]

CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=1,sched_interval=1
KillWait=10
NodeName={host} NodeAddr=127.0.0.1 CPUs=16 RealMemory=1000
PartitionName=main Nodes={host} Default=YES MaxTime=60
"""


@contextlib.contextmanager
def slurm(folder: Path) -> Iterator[dict[str, str]]:
    """Run munged, slurmctld and slurmd; the value is the environment in which the commands of Slurm find them."""
    host = socket.gethostname().partition(".")[0]
    with contextlib.ExitStack() as free:
        sockets = [free.enter_context(socket.socket()) for _ in range(2)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        ports = [one.getsockname()[1] for one in sockets]
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    key, config = folder / "munge.key", folder / "slurm.conf"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    config.write_text(CONFIG.format(host=host, ports=ports, user=getpass.getuser(), folder=folder))
    munge = {"socket": "munge.sock", "key-file": key.name, "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    environment = {**os.environ, "PATH": PATH, "SLURM_CONF": str(config)}
    with contextlib.ExitStack() as started:
        for words in (
            ["munged", "--foreground", "--force", *(f"--{name}={folder / file}" for name, file in munge.items())],
            ["slurmctld", "-D", "-f", config],
            ["slurmd", "-D", "-f", config, "-N", host],
        ):
            process = subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            started.callback(_end, process)
        deadline = time.monotonic() + 60
        while b"idle" not in subprocess.run(["sinfo"], env=environment, capture_output=True).stdout:
            assert time.monotonic() < deadline, (folder / "slurmctld.log").read_text()
            time.sleep(0.2)
        started.callback(_cancel, environment)
        yield environment


def _cancel(environment: dict[str, str]) -> None:
    """End every job: their processes would outlive the cluster."""
    deadline = time.monotonic() + 30
    while subprocess.run(["squeue", "--noheader"], env=environment, capture_output=True).stdout:
        subprocess.run(
            ["scancel", "--me", *(["--signal=KILL"] if time.monotonic() > deadline else [])], env=environment
        )
        time.sleep(0.5)
        if time.monotonic() > deadline + 30:
            return


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
