"""From what the user typed to a `Subject`: paths, modules, entry points.

==================================  ==========================================
``path/to/mine.py:candidate``       that file, with its folder on ``sys.path``
``package.module:candidate``        an importable module
``torch_dense``                     an entry point in group ``mxmoe.candidates``
==================================  ==========================================
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
import sys
import zlib
from pathlib import Path
from types import ModuleType

from mxmoe.conformance.candidate import SIGNATURES
from mxmoe.conformance.candidate import read_capabilities
from mxmoe.conformance.subject import Subject
from mxmoe.reference.errors import BadInput

GROUP = "mxmoe.candidates"
DISTRIBUTION = "mxmoe-conformance"
DEFAULT_ATTRIBUTE = "candidate"
# A rule of naming, because asking a candidate what it needs would import it.
OP_SUFFIX = "_op"


def entry_points() -> dict[str, importlib.metadata.EntryPoint]:
    """Every installed candidate by name."""
    return {ep.name: ep for ep in importlib.metadata.entry_points(group=GROUP)}


def bundled_names() -> list[str]:
    """The candidates that come with mxmoe itself and run on common hardware."""
    return [name for name in _ours() if not name.endswith(OP_SUFFIX)]


def op_names() -> list[str]:
    """Those that call another project's op on a B200, known by their names."""
    return [name for name in _ours() if name.endswith(OP_SUFFIX)]


def _ours() -> list[str]:
    return sorted(
        name
        for name, ep in entry_points().items()
        if ep.dist is not None and ep.dist.name == DISTRIBUTION
    )


def load_candidate(spec: str, *, device: str | None = None) -> Subject:
    """Find, import and check the candidate that `spec` names.

    Raises `BadInput` with one sentence when it is unknown, does not import, or
    has a member with another signature than the suite calls.
    """
    found = _find(spec)
    if isinstance(found, type):
        found = _calling(spec, "construct it", found)
    name = _calling(spec, "read its name", lambda: getattr(found, "name", None))
    if isinstance(found, ModuleType) and not isinstance(name, str):
        name = found.__name__
    if not isinstance(name, str) or not 1 <= len(name) <= 80 or not name.isprintable():
        raise BadInput(
            f"{spec}: name: expected 1 to 80 printable characters, found {name!r:.80}"
        )
    if not any(callable(getattr(found, m, None)) for m in ("prepare", "forward")):
        raise BadInput(
            f"{spec}: expected {_call('prepare')} or {_call('forward')}, found neither"
        )
    _check_signatures(spec, found)
    try:
        capabilities = read_capabilities(
            getattr(found, "capabilities", None),
            forward_only=not callable(getattr(found, "prepare", None)),
        )
    except BadInput as error:
        raise BadInput(f"{spec}: {error}") from error
    return Subject(
        spec=spec,
        name=name,
        candidate=found,
        capabilities=capabilities,
        device_request=device,
    )


def load_attribute(spec: str) -> object:
    """What ``path/file.py:attribute`` or ``package.module:attribute`` names."""
    return _find(spec)


def source_file(spec: str) -> Path | None:
    """The file of a loaded candidate's module, if it has one."""
    location, _, attribute = spec.partition(":")
    if location.endswith(".py") or "/" in location:
        return Path(location)
    if not attribute and location in entry_points():
        location = entry_points()[location].module
    file = getattr(sys.modules.get(location), "__file__", None)
    return None if file is None else Path(file)


def _find(spec: str) -> object:
    location, _, attribute = spec.partition(":")
    if location.endswith(".py") or "/" in location:
        module = _import_file(spec, Path(location))
    elif not attribute and location in entry_points():
        return _calling(spec, "import it", entry_points()[location].load)
    elif attribute or "." in location:
        module = _import_module(spec, location)
    else:
        known = ", ".join(sorted(entry_points())) or "none"
        raise BadInput(
            f"{spec}: expected path/file.py:attribute, package.module:attribute "
            f"or one of the installed candidates ({known})"
        )
    wanted = attribute or DEFAULT_ATTRIBUTE
    if not hasattr(module, wanted):
        raise BadInput(f"{spec}: expected an attribute {wanted!r}, found none")
    return getattr(module, wanted)


def _import_file(spec: str, path: Path) -> ModuleType:
    if not path.is_file():
        raise BadInput(f"{spec}: expected a Python file, found none at {path}")
    path = path.resolve()
    # A unique module name: the file may be called like a library.
    name = f"mxmoe_candidate_{path.stem}_{zlib.crc32(str(path).encode()):08x}"
    if name in sys.modules:
        return sys.modules[name]
    loader_spec = importlib.util.spec_from_file_location(name, path)
    if loader_spec is None or loader_spec.loader is None:
        raise BadInput(f"{spec}: expected a Python file, found {path.name}")
    module = importlib.util.module_from_spec(loader_spec)
    folder = str(path.parent)
    if folder not in sys.path and not _holds_our_packages(path.parent):
        sys.path.insert(0, folder)
    sys.modules[name] = module
    try:
        _calling(spec, "import it", lambda: loader_spec.loader.exec_module(module))
    except BadInput:
        del sys.modules[name]
        raise
    return module


def _holds_our_packages(folder: Path) -> bool:
    """Whether `kernels`, `reference`, ... would become importable from `folder`."""
    here = Path(__file__).resolve().parent
    return folder == here.parent and (folder / "pyproject.toml").exists()


def _import_module(spec: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            raise BadInput(
                f"{spec}: expected an importable module, found none called {error.name}"
            ) from error
        raise BadInput(f"{spec}: failed to import it: {error}") from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise BadInput(_raised(spec, "import it", error)) from error


def _calling(spec: str, doing: str, function: object) -> object:
    try:
        return function()  # type: ignore[operator]
    except BadInput:
        raise
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise BadInput(_raised(spec, doing, error)) from error


def _raised(spec: str, doing: str, error: BaseException) -> str:
    frames = inspect.getinnerframes(error.__traceback__) if error.__traceback__ else []
    where = (
        f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    )
    message = " ".join(str(error).split())
    return f"{spec}: failed to {doing}: {type(error).__name__}{where}: {message}"


def _call(member: str) -> str:
    return f"{member}({', '.join(SIGNATURES[member])})"


def _check_signatures(spec: str, candidate: object) -> None:
    for member, arguments in SIGNATURES.items():
        function = getattr(candidate, member, None)
        if function is None:
            continue
        if not callable(function):
            raise BadInput(f"{spec}: expected {_call(member)}, found {function!r}")
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError):
            continue  # a builtin or compiled function does not tell
        try:
            signature.bind(*arguments)
        except TypeError as error:
            raise BadInput(
                f"{spec}: expected {_call(member)}, found {member}{signature}: {error}"
            ) from error
