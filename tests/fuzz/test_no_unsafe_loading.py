"""Files from elsewhere run no code: unsafe ways of reading are used nowhere in the package."""

from __future__ import annotations

import ast

import pytest

from tests.test_structure import FILES, IDS, tree

ALLOWED = {("torch.load", "weights_only=True")}
UNSAFE = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load", "yaml.full_load",
    "yaml.unsafe_load", "yaml.load_all", "torch.load", "torch.hub.load", "joblib.load", "shelve.open",
}  # fmt: skip


@pytest.mark.parametrize("number", range(len(FILES)), ids=IDS)
def test_no_unsafe_loading(number: int) -> None:
    for node in ast.walk(tree(FILES[number])):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name for alias in node.names} | {getattr(node, "module", "")}
            assert not names & {"pickle", "cPickle", "dill", "marshal", "shelve", "cloudpickle"}
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        given = {f"{word.arg}={ast.unparse(word.value)}" for word in node.keywords}
        given |= {ast.unparse(argument) for argument in node.args}
        assert not given & {"allow_pickle=True", "shell=True"}, ast.unparse(node)
        if called in UNSAFE:
            assert any((called, each) in ALLOWED for each in given), ast.unparse(node)
