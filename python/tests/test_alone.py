"""The package needs nothing but Python: other libraries are imported by what needs them."""

import subprocess
import sys

from conftest import COLLAPSED, HEALTHY

WITHOUT = """
import sys

class Refuses:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"numpy", "torch", "pandas", "polars", "pyarrow", "ml_dtypes"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuses())
import ckpt_tools
"""


def alone(code, *args):
    return subprocess.run([sys.executable, "-c", WITHOUT + code, *args], capture_output=True, text=True, timeout=60)


def test_commands_need_no_library():
    ran = alone("print(ckpt_tools.inspect(sys.argv[1]).verdict, ckpt_tools.gate(sys.argv[2]).passed)", HEALTHY, COLLAPSED)
    assert ran.stdout == "healthy False\n", ran.stderr


def test_what_is_missing_is_named():
    ran = alone("ckpt_tools.load(sys.argv[1])", HEALTHY)
    assert "UnsupportedError: this needs numpy: pip install 'ckpt-tools[numpy]'" in ran.stderr
    ran = alone("ckpt_tools.load(sys.argv[1], 'pt')", HEALTHY)
    assert "this needs torch: pip install 'ckpt-tools[torch]'" in ran.stderr
    for call, module in [
        ("ckpt_tools.inspect(sys.argv[1]).to_arrow()", "pyarrow"),
        ("ckpt_tools.inspect(sys.argv[1]).to_pandas()", "pandas"),
        ("ckpt_tools.inspect(sys.argv[1]).to_polars()", "polars"),
        ("ckpt_tools.schema()", "pyarrow"),
        ("ckpt_tools.table([sys.argv[1]])", "pyarrow"),
        ("ckpt_tools.measure({'a': memoryview(bytes(8)).cast('f')})", "numpy"),
    ]:
        assert f"UnsupportedError: this needs {module}: pip install" in alone(call, HEALTHY).stderr, call


def test_importing_it_imports_no_other():
    code = "import sys, ckpt_tools; print([m for m in sys.modules if m.split('.')[0] in ('numpy', 'torch', 'pandas')])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.stdout == "[]\n"
