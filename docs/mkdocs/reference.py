"""Write the reference pages from the code, so that they cannot say anything else.

`make docs` runs this; a test fails when a page in docs/reference/ is not what would be written.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
from collections.abc import Iterator
from enum import Enum
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import msgspec
import typer.main
from prometheus_client import Counter, Histogram
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from offhook.agents import link
from offhook.agents.conversation.settings import AssistantSettings
from offhook.agents.functions.mcp import McpSettings
from offhook.agents.services.base import ServiceSettings
from offhook.agents.services.registry import Role, extra_of, known_services, service_class
from offhook.gateway.cli import app
from offhook.gateway.config import AgentConfig, Config
from offhook.gateway.metrics import Metrics
from offhook.providers import PROVIDERS, provider_class
from offhook.qa.measuring.metrics import METRICS

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "docs" / "reference"

MADE = "<!-- Written by docs/mkdocs/reference.py from the code; run `make docs` instead of editing. -->\n\n"


def pages() -> dict[str, str]:
    """File name below docs/reference → its text."""
    return {
        "assistant.md": assistant(),
        "configuration.md": configuration(),
        "cli.md": commands(),
        "link.md": messages(),
        "limits.md": limits(),
        "metrics.md": metrics(),
        "qa-metrics.md": qa_metrics(),
        "services.md": services(),
    }


# --- configuration ------------------------------------------------------------------


def configuration() -> str:
    """Every section and key of the configuration."""
    out = [
        MADE,
        "# Configuration reference\n\n",
        "How the file is read, and how the environment gets into it: [Configuration](../configuration.md).\n\n",
        "| key | type | default | meaning |\n|---|---|---|---|\n",
    ]
    sections: list[tuple[str, type[BaseModel]]] = []
    for name, field in Config.model_fields.items():
        out.append(_row(Config, name, field))
        sections += ((path, model) for path, model in _models(name, field.annotation) if model is not BaseModel)
    for path, model in sections:
        out += _section(path, model)
    for name in sorted(PROVIDERS):
        out += _section(f"carriers.{name}", provider_class(name).Settings)
    return "".join(out).rstrip() + "\n"


def _section(path: str, model: type[BaseModel]) -> Iterator[str]:
    yield f"\n## `{path}`\n\n{_prose(model.__doc__)}\n\n"
    yield "| key | type | default | meaning |\n|---|---|---|---|\n"
    for name, field in model.model_fields.items():
        yield _row(model, name, field)
    if model is AgentConfig:
        yield "| … | | | Settings of the agent itself: [Agents](../agents.md). |\n"
    for name, field in model.model_fields.items():
        for inner_path, inner in _models(f"{path}.{name}", field.annotation):
            yield from _section(inner_path, inner)


def _row(model: type[BaseModel], name: str, field: FieldInfo) -> str:
    default = "required" if field.is_required() else _default(field.get_default(call_default_factory=True))
    kind = _type(Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation)
    return f"| `{name}` | {kind} | {default} | {_prose(_meaning(model, name, field))} |\n"


def _meaning(model: type[BaseModel], name: str, field: FieldInfo) -> str:
    """What stands below the field in the source, or what its section is about."""
    if field.description:
        return field.description
    for base in model.__mro__:
        if base is BaseModel:
            break
        source = inspect.getsourcefile(base)
        if source is not None and (found := _field_docs(Path(source)).get((base.__qualname__, name))):
            return found
    return next((inner.__doc__ or "" for _, inner in _models(name, field.annotation)), "")


def _default(value: Any) -> str:
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if value is None or value in ("", [], {}, ()):
        return "–"
    if isinstance(value, BaseModel):
        return "see below"
    if isinstance(value, list | tuple):
        return "`[" + ", ".join(map(str, value)) + "]`"
    return f"`{_yaml(value)}`"


def _type(annotation: Any) -> str:
    """An annotation in the words of people who write YAML."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        names = {getattr(getattr(mark, "func", None), "__name__", "") for mark in arguments[1:]}
        if "_pattern" in names:
            return "number pattern"
        return "phone number" if "_number" in names else _type(arguments[0])
    if origin in (Union, UnionType):
        return " or ".join(_type(argument) for argument in arguments if argument is not NoneType)
    if origin is Literal:
        return ", ".join(f"`{_yaml(value)}`" for value in arguments)
    if origin in (list, tuple, set, frozenset):
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return f"name → {_type(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return ", ".join(f"`{choice.value}`" for choice in annotation)
    known = {
        str: "text",
        int: "whole number",
        float: "number",
        bool: "true or false",
        Path: "path",
        SecretStr: "secret",
        Any: "anything",
    }
    return known.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _yaml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _models(path: str, annotation: Any) -> Iterator[tuple[str, type[BaseModel]]]:
    """The models inside an annotation, with the path a reader would write."""
    origin = get_origin(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield path, annotation
    elif origin is dict:
        yield from _models(f"{path}.<name>", get_args(annotation)[1])
    elif origin is list:
        yield from _models(f"{path}[]", get_args(annotation)[0])
    elif origin is not None:
        for argument in get_args(annotation):
            yield from _models(path, argument)


def _prose(text: str | None) -> str:
    parts = re.split(r"(`[^`]*`)", re.sub(r"\s+", " ", text or "").strip().replace("|", "\\|"))
    return "".join(part if part.startswith("`") else part.replace("<", "&lt;") for part in parts)


# --- commands -----------------------------------------------------------------------


def commands() -> str:
    """Every command with its arguments and options."""
    out = [MADE, "# Commands\n"]
    root = typer.main.get_command(app)
    context = typer.Context(root, info_name="offhook")
    out.append(f"\n{_help(root)}\n\n{_prose(root.epilog)}\n")
    out += _commands(context, root)
    return "".join(out).rstrip() + "\n"


def _commands(context: typer.Context, command: Any) -> Iterator[str]:
    for name, inner in sorted(getattr(command, "commands", {}).items()):
        if inner.hidden:
            continue
        below = typer.Context(inner, info_name=name, parent=context)
        if getattr(inner, "commands", None):
            yield from _commands(below, inner)
            continue
        arguments = [part.name.upper() for part in inner.params if part.param_type_name == "argument"]
        usage = " ".join([below.command_path, *arguments, "[OPTIONS]"])
        yield f"\n## `{below.command_path}`\n\n```\n{usage}\n```\n\n{_help(inner)}\n"
        parameters = [parameter for parameter in inner.params if not getattr(parameter, "hidden", False)]
        if parameters:
            yield "\n| | default | meaning |\n|---|---|---|\n"
        for parameter in parameters:
            names = ", ".join(f"`{option}`" for option in [*parameter.opts, *parameter.secondary_opts])
            if parameter.param_type_name == "argument":
                names = f"`{parameter.name.upper()}`"
            annotation = parameter.type_descriptor.annotation
            choices = list(annotation) if isinstance(annotation, type) and issubclass(annotation, Enum) else []
            among = f" One of {', '.join(f'`{choice.value}`' for choice in choices)}." if choices else ""
            yield f"| {names} | {_option_default(parameter)} | {_prose(getattr(parameter, 'help', ''))}{among} |\n"


def _option_default(parameter: Any) -> str:
    value = parameter.default
    if parameter.required:
        return "required"
    if callable(value) or value in (None, False, (), "") or "UNSET" in repr(value).upper():
        return "–"
    return f"`{value}`"


def _help(command: Any) -> str:
    paragraphs = re.split(r"\n\s*\n", (command.help or "").replace("\b", "").strip())
    return "\n\n".join(re.sub(r"\s+", " ", paragraph) for paragraph in paragraphs)


# --- services -----------------------------------------------------------------------

ROLES: Final[dict[Role, str]] = {"stt": "Hearing", "llm": "Thinking", "tts": "Speaking"}


def services() -> str:
    """Every service that comes with offhook, with its settings."""
    out = [
        MADE,
        "# Services\n\n",
        "What `service:` may name where the conversation hears (`stt`), thinks (`llm`) and speaks (`tts`). ",
        "In place of one service there may be a list: the first is preferred, the others stand in for it. ",
        "Audio formats are named best first; what the carrier speaks is used if it is among them, and converted ",
        "otherwise.\n\n",
        "Every service has these settings, times in seconds; where its defaults differ, they stand with it.\n\n",
        "| key | type | default | meaning |\n|---|---|---|---|\n",
        *(_row(ServiceSettings, name, field) for name, field in ServiceSettings.model_fields.items()),
    ]
    for role, title in ROLES.items():
        out.append(f"\n## {title}: `{role}`\n")
        for name in known_services(role):
            out += _service(role, name)
    return "".join(out)


def _service(role: Role, name: str) -> Iterator[str]:
    found = service_class(role, name)
    about = (found.__doc__ or "").split("\n\n")[0]
    yield f"\n### `{name}` ({role})\n\n{_prose(about)}\n\n"
    extra = extra_of(role, name)
    yield f"Install: `pip install 'offhook[{extra}]'`." if extra else "Comes with offhook."
    formats = getattr(found, "formats", ())
    if isinstance(formats, tuple) and formats:
        yield f" {'Takes' if role == 'stt' else 'Gives'} {', '.join(f'`{format}`' for format in formats)}."
    if getattr(found, "ends_turns", False) is True:
        yield " Decides by itself when the caller has finished."
    yield "\n\n| key | type | default | meaning |\n|---|---|---|---|\n"
    for key, field in found.Settings.model_fields.items():
        common = ServiceSettings.model_fields.get(key)
        if common is None or (not common.is_required() and field.default != common.default):
            yield _row(found.Settings, key, field)


# --- the assistant ------------------------------------------------------------------


def assistant() -> str:
    """Every setting of an assistant."""
    out = [
        MADE,
        "# Settings of an assistant\n\n",
        "What stands beside `kind: assistant`; what it is for: [The assistant](../assistant.md).\n\n",
        "| key | type | default | meaning |\n|---|---|---|---|\n",
        *(_row(AssistantSettings, name, field) for name, field in AssistantSettings.model_fields.items()),
    ]
    for name, field in AssistantSettings.model_fields.items():
        for path, model in _models(name, field.annotation):
            out += _section(path, model)
    out += _section("mcp[]", McpSettings)
    return "".join(out)


# --- the agent link -----------------------------------------------------------------


def messages() -> str:
    """Every message of the agent link that a remote agent may see or send."""
    docs = _field_docs(Path(link.__file__))
    out = [
        MADE,
        "# Messages of the agent link\n\n",
        f"Version {link.VERSION}. How they are used: [The agent link](../link.md). ",
        "A field with a default may be left out.\n",
        "\n## From offhook to the agent\n",
    ]
    for message in get_args(link.ToAgent):
        out += _message(message, docs)
    out.append("\n## From the agent to offhook\n")
    for message in get_args(link.FromAgent):
        out += _message(message, docs)
    out.append("\n## `call` of an offer\n")
    out += _fields(link.CallInfo, docs)
    return "".join(out)


def _message(message: type[msgspec.Struct], docs: dict[tuple[str, str], str]) -> Iterator[str]:
    yield f"\n### `{message.__struct_config__.tag}`\n\n{_prose(message.__doc__)}\n"
    yield from _fields(message, docs)


def _fields(message: type[msgspec.Struct], docs: dict[tuple[str, str], str]) -> Iterator[str]:
    fields = msgspec.structs.fields(message)
    if fields:
        yield "\n| field | type | default | meaning |\n|---|---|---|---|\n"
    for field in fields:
        if field.required:
            default = "required"
        elif field.default is msgspec.NODEFAULT:
            default = f"`{json.dumps(field.default_factory())}`"
        else:
            default = f"`{msgspec.json.encode(field.default).decode()}`"
        meaning = _prose(docs.get((message.__name__, field.name), ""))
        yield f"| `{field.name}` | {_json_type(field.type)} | {default} | {meaning} |\n"


def _json_type(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{json.dumps(value)}`" for value in arguments)
    if origin is list:
        return "array"
    known = {str: "string", int: "integer", float: "number", bool: "boolean", bytes: "string of base64"}
    return known.get(annotation, "object")


@cache
def _field_docs(path: Path) -> dict[tuple[str, str], str]:
    """(class, field) → the string that stands below the field."""
    return dict(_class_docs("", ast.parse(path.read_text()).body))


def _class_docs(outer: str, body: list[ast.stmt]) -> Iterator[tuple[tuple[str, str], str]]:
    for node in body:
        if not isinstance(node, ast.ClassDef):
            continue
        name = f"{outer}{node.name}"
        yield from _class_docs(f"{name}.", node.body)
        for field, after in pairwise(node.body):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
            ):
                yield (name, field.target.id), str(after.value.value)


# --- metrics ------------------------------------------------------------------------


def metrics() -> str:
    """Every metric with its type and labels."""
    own = Metrics()
    own.watch(_Anything(), _Anything())
    labels = {
        collector._name: getattr(collector, "_labelnames", ())
        for collector in vars(own).values()
        if isinstance(collector, Counter | Histogram)
    }
    out = [
        MADE,
        "# Metrics\n\n",
        "What `/metrics` gives. What the Python client says about the process itself (`process_…`) comes on top.\n\n",
        "| metric | type | labels | meaning |\n|---|---|---|---|\n",
    ]
    for family in sorted(own.registry.collect(), key=lambda family: family.name):
        if family.name.startswith("offhook_"):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            names = ", ".join(f"`{label}`" for label in labels.get(family.name, ()))
            out.append(f"| `{name}` | {family.type} | {names} | {_prose(family.documentation)} |\n")
    return "".join(out)


class _Anything:
    """Stands for a gateway that is not running: everything in it is zero and empty."""

    def __getattr__(self, name: str) -> Any:
        return _Anything()

    def __call__(self) -> tuple[int, int]:
        return 0, 0

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __float__(self) -> float:
        return 0.0


# --- limits -------------------------------------------------------------------------


def limits() -> str:
    """Every constant that has a number and a reason."""
    out = [
        MADE,
        "# Limits\n\n",
        "Every number that bounds something, and why it is what it is. They are constants of the modules named; ",
        "what is meant to be changed is in the [configuration](configuration.md).\n",
    ]
    for room in ("codecs", "providers", "agents", "gateway"):
        rows = [row for path in sorted((ROOT / room).rglob("*.py")) for row in _limits(path)]
        if rows:
            out += [f"\n## {room}/\n\n| constant | value | reason |\n|---|---|---|\n", *rows]
    return "".join(out)


def _limits(path: Path) -> Iterator[str]:
    source = path.read_text()
    body = ast.parse(source).body
    for node, after in pairwise([*body, None]):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name) or node.value is None:
            continue
        reason = ""
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
            reason = after.value.value
        value = ast.unparse(node.value)
        if node.target.id.isupper() and not node.target.id.startswith("_") and reason and _is_number(node.value):
            where = path.relative_to(ROOT).as_posix()
            yield f"| `{node.target.id}` ({where}) | `{value}` | {_prose(reason)} |\n"


def _is_number(node: ast.expr) -> bool:
    """A number, or arithmetic on numbers."""
    return all(
        isinstance(inner, ast.BinOp | ast.UnaryOp | ast.operator | ast.unaryop)
        or (isinstance(inner, ast.Constant) and isinstance(inner.value, int | float))
        for inner in ast.walk(node)
    )


def qa_metrics() -> str:
    """What a test call is measured by."""
    out = [
        MADE,
        "# Metrics of test calls\n\n",
        "What `assert.wire` of a [scenario](../qa-scenarios.md) may limit. Those that happen several times a call\n",
        "may be limited by percentile, too: over all calls of the scenario together. Good and bad are for colours\n",
        "in reports; they gate nothing.\n\n",
        "| metric | unit | meaning | good | bad | several a call |\n|---|---|---|---|---|---|\n",
    ]
    for name, metric in METRICS.items():
        good, bad = (("" if value is None else f"{value:g}") for value in (metric.good, metric.bad))
        several = "yes" if metric.samples else ""
        out.append(f"| `{name}` | {metric.unit} | {metric.meaning} | {good} | {bad} | {several} |\n")
    return "".join(out)


def main() -> int:
    """Write the pages; with `--check`, only say whether they are what would be written."""
    stale = [name for name, text in pages().items() if not (OUT / name).is_file() or (OUT / name).read_text() != text]
    if "--check" not in sys.argv:
        OUT.mkdir(exist_ok=True)
        for name in stale:
            (OUT / name).write_text(pages()[name])
        return 0
    for name in stale:
        sys.stderr.write(f"docs/reference/{name} is not what the code says; run `make docs`\n")
    return int(bool(stale))


if __name__ == "__main__":
    sys.exit(main())
