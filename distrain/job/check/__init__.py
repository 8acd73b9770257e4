"""What is wrong with a job although each of its values is right: combinations that cannot work.

Pure rules over a JobSpec, a file for each topic. `load` runs them and finds the place of each complaint.
"""

from __future__ import annotations

from distrain.job.check import cluster, dataset, faults, step, strategy, training
from distrain.job.check.rule import Rule
from distrain.job.spec import JobSpec


def rules_for(job: JobSpec) -> tuple[Rule, ...]:
    """The rules that concern the job; of a program only its cluster can be judged."""
    of_all = (*cluster.RULES, *faults.RULES)
    if job.program is not None:
        return of_all
    of_training = (
        cluster.TRAINING_RULES,
        strategy.RULES,
        step.RULES,
        dataset.RULES,
        training.RULES,
        faults.TRAINING_RULES,
    )
    return (*(rule for rules in of_training for rule in rules), *of_all)
