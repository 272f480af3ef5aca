"""Airflow: the nightly increment as a DAG. Copy it into the dags folder, and put the paths right."""

from datetime import datetime, timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

with DAG(
    "embedsvc_nightly",
    schedule="15 2 * * *",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
):
    BashOperator(
        task_id="run",
        bash_command="embedsvc run pipelines/nightly.toml --log-format json",
        cwd="/srv/embedsvc",
        append_env=True,
        env={"EMBEDSVC_JOB__EXTRACT__SOURCES": "/data/inbox/*.jsonl"},
        # A run goes on where the one before was stopped.
        retries=6,
        retry_delay=timedelta(minutes=10),
    )
