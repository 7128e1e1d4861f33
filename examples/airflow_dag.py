"""DAG for Airflow 3: a corpus and its model, every week.

Each task is a command that resumes: what is done is not done again, whoever asks.

Exit codes say what to try again (docs/cluster.md), and Airflow's own retries do not look at them. So a task
tries again itself, and has no retries: 2 and 4, of a recipe that cannot work, fail it at once; 3, of a run
that was stopped by SIGTERM, `run.deadline_minutes` or `run.max_usd`, skips what follows until the next week.

Progress is one JSON object a line in the task's log; the last one, with the places of results, is its XCom.
"""

from datetime import datetime

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

RECIPE = "/recipes/photos/recipe.yaml"
STOPPED = 3

CHECK = 'rasterloom plan "$RECIPE" --until "$UNTIL" --format json'
# On a cluster `rasterloom submit "$RECIPE" --follow` takes the place of `run`, and ends with the same codes.
RUN = r"""
for try in 1 2 3; do
    code=0
    rasterloom run "$RECIPE" --until "$UNTIL" --log json || code=$?
    case $code in 0 | 2 | 3 | 4) break ;; esac
    [ "$try" = 3 ] || sleep 60
done
exit "$code"
"""
TELL = r"""
python3 - <<'END'
import json, os
for name, path in json.loads(os.environ["RESULT"])["files"].items():
    print(f"{name}: {path}")
END
"""


def task(name: str, command: str, **env: str) -> BashOperator:
    """Task of one command, with the variables that it reads."""
    return BashOperator(
        task_id=name,
        bash_command=command,
        env={"RECIPE": RECIPE, **env},
        append_env=True,
        retries=0,
        skip_on_exit_code=STOPPED,
    )


with DAG("rasterloom", schedule="@weekly", start_date=datetime(2026, 1, 1), catchup=False, max_active_runs=1):
    check = task("check", CHECK, UNTIL="report")
    corpus = task("corpus", RUN, UNTIL="tokens")
    train = task("train", RUN, UNTIL="report")
    tell = task("tell", TELL, RESULT="{{ ti.xcom_pull(task_ids='train') }}")
    check >> corpus >> train >> tell
