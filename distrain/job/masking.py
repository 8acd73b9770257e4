"""Secrets, kept out of what is written and shown. They are known by their names: `API_TOKEN`, `db_password`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from distrain.job.spec import JobSpec

MASK = "***"

_SECRET_NAME = re.compile(r"(^|_)(TOKEN|KEY|APIKEY|PASS|PASSPHRASE|AUTH)$|SECRET|PASSWORD|PASSWD|CREDENTIAL", re.ASCII)
_URL_PASSWORD = re.compile(r"(?<=://)([^/\s:@]*):[^/\s@]+(?=@)")


def is_secret(name: str) -> bool:
    """Whether a value of this name is a secret. `apiKey`, `api-key` and `API_KEY` are one name."""
    words = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name).replace("-", "_")
    return _SECRET_NAME.search(words.upper()) is not None


def masked(value: Any) -> Any:
    """`value`, of plain values, with secrets masked at any depth, passwords inside URLs too."""
    if isinstance(value, Mapping):
        return {
            key: MASK if is_secret(str(key)) and not isinstance(item, bool | None) and item != "" else masked(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [masked(item) for item in value]
    return _URL_PASSWORD.sub(rf"\1:{MASK}", value) if isinstance(value, str) else value


def masked_job(job: JobSpec) -> dict[str, Any]:
    """`job.to_json()` with secrets masked."""
    plain = job.to_json()
    shown: dict[str, Any] = masked(plain)
    # A host's `key` names a file, and is no secret.
    shown["cluster"]["hosts"] = plain["cluster"]["hosts"]
    if job.program is not None:
        shown["program"]["argv"] = masked_arguments(job.program.argv)
        return shown
    # Nor are variables or what stands in records, whatever they are called.
    shown["strategy"]["layout"] = plain["strategy"]["layout"]
    if job.dataset.name == "tfrecord":
        shown["dataset"]["args"] |= {key: plain["dataset"]["args"][key] for key in ("features", "label")}
    return shown


def masked_arguments(arguments: Sequence[str]) -> list[str]:
    """A command line with the values of secret options masked: `env.API_TOKEN=abc` becomes `env.API_TOKEN=***`, and so
    does what follows `--api-token`.
    """
    before = ("", *arguments)
    return [
        MASK if _awaits_secret(option) and not argument.startswith("-") else _masked_argument(argument)
        for option, argument in zip(before, arguments, strict=False)
    ]


def _awaits_secret(option: str) -> bool:
    return option.startswith("-") and "=" not in option and is_secret(option)


def _masked_argument(argument: str) -> str:
    path, equals, value = argument.partition("=")
    if equals and is_secret(path.rpartition(".")[2]):
        return f"{path}={MASK}"
    # A mapping given whole, such as env={API_TOKEN: abc}.
    inner = re.sub(r"([\w-]+)(\s*:\s*)([^,}\s]+)", lambda pair: _masked_pair(pair), value)
    return masked(f"{path}={inner}" if equals else argument)  # type: ignore[no-any-return]


def _masked_pair(pair: re.Match[str]) -> str:
    return f"{pair[1]}{pair[2]}{MASK}" if is_secret(pair[1]) else pair[0]
