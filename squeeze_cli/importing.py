"""Importing torch and what is built on it in less than half the time: without what is never used.

Packages that every training imports and none uses take more than half of the imports' time:

- `torch._dynamo`, the front end of `torch.compile` (with inductor): torchvision and Lightning
  import it for one name each, torch's optimizers to say that they are not to be compiled;
- `einx` (with sympy), which vector-quantize-pytorch uses for masks and layouts that are not ours;
- `triton`, of which Lightning's summary of models wants to know one class;
- torchvision's registration of its operators with `torch.onnx`;
- torchmetrics' plots, for which every metric imports matplotlib;
- `NEVER_LOOKED_INTO`.

Stand-ins take their places. They answer those names, and make way for the real package as soon as
anything else of it is asked for.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from squeeze_cli.memory import keep_freed_memory
from squeeze_cli.threads import share_cores

# Imported by torch or torchvision, and by nothing that is used here.
NEVER_LOOKED_INTO = (
    "torch.distributions",
    "torch.export",
    "torchvision.models.detection",
    "torchvision.models.optical_flow",
    "torchvision.models.quantization",
    "torchvision.models.video",
)
TORCHMETRICS_PLOTS = ("plot_confusion_matrix", "plot_curve", "plot_single_or_multi_val")
# New objects; Python's 700 are reached in every third step of a small head.
COLLECT_AFTER = 20_000


@contextmanager
def quick_imports() -> Iterator[None]:
    """For the imports of a command that works with torch until its process ends.

    Also sets the process's memory and threads for that work. Within the block nothing is collected:
    importing makes millions of objects that stay to the end, and the collector would go over them
    again and again and find nothing, an eighth of the time that the imports take. After it the collector
    leaves them alone, and looks at new objects less often.
    """
    keep_freed_memory()
    share_cores()
    postpone_unused()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.freeze()
            # The interpreter's end must see them: some libraries report what it leaves.
            atexit.register(gc.unfreeze)
            gc.set_threshold(COLLECT_AFTER)
            gc.enable()


def postpone_unused() -> None:
    """Put stand-ins where the packages are not imported yet."""
    compiler = PostponedPackage("torch._dynamo")
    compiler.stand_in(
        "torch._dynamo",
        OptimizedModule=_NeverCompiled,
        disable=_unchanged,
        graph_break=lambda *args, **kwargs: None,
    )
    compiler.stand_in(
        "torch._dynamo.utils",
        is_compile_supported=compiler.function("torch._dynamo.utils", "is_compile_supported"),
    )
    einx = PostponedPackage("einx")
    einx.stand_in("einx", get_at=einx.function("einx", "get_at"))
    if "triton" not in sys.modules and find_spec("triton"):
        triton = PostponedPackage("triton")
        for name in ("triton", "triton.runtime"):
            triton.stand_in(name)
        triton.stand_in("triton.runtime.jit", JITFunction=_NeverCompiled)
    onnx = PostponedPackage("torchvision.ops._register_onnx_ops")
    onnx.stand_in(onnx.package, _register_custom_op=_do_nothing)
    module = "torchmetrics.utilities.plot"
    plots = PostponedPackage(module)
    types = dict.fromkeys(("_AX_TYPE", "_CMAP_TYPE", "_PLOT_OUT_TYPE"), object)
    functions = {name: plots.function(module, name) for name in TORCHMETRICS_PLOTS}
    plots.stand_in(module, **types, **functions)
    for name in NEVER_LOOKED_INTO:
        PostponedPackage(name).stand_in(name)


class _NeverCompiled:
    """For the classes of what was compiled (`OptimizedModule`, `JITFunction`): there is nothing."""


def _do_nothing() -> None:
    pass


def _unchanged(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Callable[..., Any]:
    return function


class PostponedPackage:
    """A package that is imported when something of it is used; does nothing where it is already.

    On `sys.meta_path` it finds the package's modules, the package being imported first.
    """

    def __init__(self, package: str) -> None:
        self.package = package
        self._names: list[str] = []
        self._needed = package not in sys.modules

    def stand_in(self, name: str, **answers: Any) -> None:
        """Put a stand-in that knows `answers` in the place of the package or a module of it."""
        if not self._needed:
            return
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)
        self._names.append(name)
        sys.modules[name] = _StandIn(name, self, answers)

    def function(self, module: str, name: str) -> Callable[..., Any]:
        """A function of the package, which is imported when the function is called."""
        return lambda *args, **kwargs: getattr(self.real(module), name)(*args, **kwargs)

    def real(self, name: str) -> ModuleType:
        """The package or a module of it, imported; the stand-ins are gone then."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
            for stand_in in self._names:
                del sys.modules[stand_in]
            importlib.import_module(self.package)
        return importlib.import_module(name)

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """For the import system: a module of the package."""
        if not name.startswith(f"{self.package}."):
            return None
        return ModuleSpec(name, _Imported(self.real(name)))


class _StandIn(ModuleType):
    def __init__(self, name: str, package: PostponedPackage, answers: Mapping[str, Any]) -> None:
        super().__init__(name)
        vars(self).update(answers, __path__=[], _package=package)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # `inspect` asks every module for its __file__
            raise AttributeError(name)
        package: PostponedPackage = vars(self)["_package"]
        return getattr(package.real(self.__name__), name)


class _Imported(Loader):
    """The loader of a module that is imported already."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module
        self._spec = module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module itself."""
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        """Keep the module's own spec, which the import system has just replaced."""
        module.__spec__ = self._spec
