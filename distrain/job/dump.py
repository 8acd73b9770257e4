"""A JobSpec as the text of a job file: the job as it was run, with secrets masked."""

from __future__ import annotations

from typing import Any

import yaml

from distrain.job.file.tree import resolve
from distrain.job.masking import masked_job
from distrain.job.spec import JobSpec


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """Quoted whenever it would be read back as something other than text: PyYAML leaves `1e-3` bare."""
    style = None if isinstance(resolve(text), str) and text.isprintable() else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def to_yaml(job: JobSpec) -> str:
    """The job as YAML, every key present that concerns it. `load_job` reads the same job from it, secrets apart."""
    plain = masked_job(job)
    for section in ("checkpoint", "restart", "elastic"):
        if section in plain and plain[section] is None:
            plain[section] = False
    timeout_s = plain["watchdog"]["step_timeout_s"]
    plain["watchdog"]["step_timeout_s"] = "auto" if timeout_s is None else timeout_s or False
    text = yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
    assert isinstance(text, str)
    return text
