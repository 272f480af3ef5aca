"""Jobs: one file from texts to report, run again and again, on one machine or many.

`load_job` reads a job file, `plan_job` says what it would do now, `run_job` does it.
"""

from embedsvc.jobs.plan import Plan, plan_job
from embedsvc.jobs.run import JobSummary, run_job
from embedsvc.jobs.spec import Job, Step, load_job

__all__ = ["Job", "JobSummary", "Plan", "Step", "load_job", "plan_job", "run_job"]
