"""Handing jobs to Slurm: what is asked of sbatch, and the submission itself, through submitit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launcher.base import JobSpec, RefusedError
from launcher.cluster_settings import SlurmSettings
from launcher.slurm_queue import SlurmUnreachableError, unreachable


def sbatch(settings: SlurmSettings, specs: Sequence[JobSpec], token: str) -> str:
    """Submit jobs that ask for the same, several of them as an array; returns the number of the job or array.

    Raises: SlurmUnreachableError, after which it may have been submitted all the same; RefusedError with Slurm's words
    when it refuses.
    """
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    from launcher.slurm_job import SlurmAttempt

    logs = Path(settings.logs) if settings.logs else specs[0].folder.absolute().parent / ".slurm"
    executor = submitit.SlurmExecutor(logs.absolute(), max_num_timeout=settings.requeues)
    executor.update_parameters(**parameters(settings, specs[0], token))
    grace = settings.grace_seconds
    try:
        with executor.batch():  # sbatch runs when it ends
            jobs = [
                executor.submit(SlurmAttempt(spec.folder.absolute(), spec.attempt, grace)) for spec in specs
            ]
        return str(jobs[0].job_id).partition("_")[0]
    except (FailedJobError, FailedSubmissionError) as error:
        words = f"sbatch: {str(error).strip()}"
        raise (SlurmUnreachableError if unreachable(words) else RefusedError)(words) from error


def parameters(asked: SlurmSettings, spec: JobSpec, token: str) -> dict[str, Any]:
    """Parameters of submitit for jobs like this one."""
    # One spelling, so that they replace the settings' lines instead of standing beside them.
    options = {name.lstrip("-").replace("-", "_"): value for name, value in asked.options.items()}
    wanted: dict[str, Any] = {
        "job_name": f"jdx-{spec.name or spec.folder.name}",
        "comment": f"jdx:{token}",
        "time": _minutes(asked, spec),
        "partition": asked.partition,
        "account": asked.account,
        "qos": asked.qos,
        "constraint": asked.constraint,
        "mem": None if asked.mem_gb is None else f"{math.ceil(asked.mem_gb * 1024)}M",
        "cpus_per_task": spec.cpus,
        "setup": list(asked.setup) or None,
        "array_parallelism": asked.array_parallelism,
        "signal_delay_s": asked.signal_seconds,
        "nodes": 1,
        "ntasks_per_node": 1,
        # Since 22.05 srun no longer takes the cores over from sbatch; and told fewer than the job has, it starts
        # the job several times.
        "srun_args": ["--ntasks=1", f"--cpus-per-task={options.get('cpus_per_task', spec.cpus)}"],
        "additional_parameters": {"requeue": True} | options,
    }
    return {key: value for key, value in (wanted | _cards(asked, spec)).items() if value is not None}


def _cards(asked: SlurmSettings, spec: JobSpec) -> dict[str, Any]:
    if spec.gpus == 0:
        return {}
    if asked.gres is not None:
        return {"gres": asked.gres.format(gpus=f"{spec.gpus:g}")}
    if spec.gpus != int(spec.gpus):
        raise ValueError(
            f"gpus = {spec.gpus:g}: Slurm gives whole cards; ask for 1, or where the cluster shares cards "
            "set launcher.gres, as in launcher.gres=shard:4"
        )
    return {"gpus_per_node": int(spec.gpus)}


def _minutes(asked: SlurmSettings, spec: JobSpec) -> int:
    if spec.timeout is None:
        return asked.time_min
    needed = math.ceil((spec.timeout + asked.signal_seconds) / 60) + 1
    return min(asked.time_min, needed)
