"""The adapter finds micro-sam's modules in each layout of packages that the tests write."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from samservice.contract.errors import WrongParameter
from samservice.engines import microsam_api
from samservice.engines.microsam_load import checked_device

Write = Callable[[dict[str, str]], None]

#: The modules of SAM 1.
MODULES = (
    "util",
    "automatic_segmentation",
    "instance_segmentation",
    "multi_dimensional_segmentation",
    "models.build_sam",
)
OF_1_8 = {f"micro_sam/{module.replace('.', '/')}.py": "" for module in MODULES}
OF_V1 = {path.replace("micro_sam/", "micro_sam/v1/"): "" for path in OF_1_8}
V2 = {"micro_sam/v2/automatic_segmentation.py": ""}

#: In both layouts a function of micro_sam.util, in the second one also held by micro_sam.v1.util.
CONVERSION = {"micro_sam/util.py": "def _to_image(x): return 'stretched'\n"}
CALLERS = {
    "micro_sam/v1/util.py": "from ..util import _to_image\ndef embed(x): return _to_image(x)\n",
    "micro_sam/v1/instance_segmentation.py": (
        "from .. import util\ndef crop(x): return util._to_image(x)\n"
    ),
}


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write files of packages, which are then found before an installed micro-sam."""

    def forget() -> None:
        for name in [n for n in sys.modules if n == "micro_sam" or n.startswith("micro_sam.")]:
            monkeypatch.delitem(sys.modules, name)
        microsam_api.package.cache_clear()
        microsam_api._make_to_image_replaceable.cache_clear()

    def write(files: dict[str, str]) -> None:
        for path, text in files.items():
            file = tmp_path / path
            file.parent.mkdir(parents=True, exist_ok=True)
            for folder in file.relative_to(tmp_path).parents[:-1]:
                (tmp_path / folder / "__init__.py").touch()
            file.write_text(text)
        forget()

    monkeypatch.syspath_prepend(tmp_path)
    yield write
    forget()


@pytest.mark.parametrize(
    ("files", "package"),
    [
        (OF_1_8, "micro_sam"),
        (OF_V1 | CONVERSION, "micro_sam.v1"),
        (OF_1_8 | V2, "micro_sam"),
        (OF_V1 | CONVERSION | V2, "micro_sam.v1"),
        # A v1 without the segmentation is not the layout that the adapter knows.
        (OF_1_8 | {"micro_sam/v1/util.py": ""}, "micro_sam"),
    ],
)
def test_each_module_is_found_where_the_layout_has_it(
    write: Write, files: dict[str, str], package: str
) -> None:
    write(files)

    found = [
        microsam_api.util(),
        microsam_api.automatic_segmentation(),
        microsam_api.instance_segmentation(),
        microsam_api.multi_dimensional_segmentation(),
        microsam_api.build_sam(),
    ]
    assert [module.__name__ for module in found] == [f"{package}.{name}" for name in MODULES]


def test_no_other_module_names_a_module_of_micro_sam() -> None:
    folder = Path(microsam_api.__file__).parents[1]
    named = {
        path.name
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        for name in imported(node)
        if name.split(".")[0] in ("micro_sam", "mobile_sam", "torch_em")
    }
    assert named == {"microsam_api.py"}


def imported(node: ast.AST) -> list[str]:
    """Return the modules that a statement or a call of import_module names."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [node.module or ""]
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") in (
        "import_module",
        "find_spec",
    ):
        return [text.value for text in node.args if isinstance(text, ast.Constant)]
    return []


def test_a_missing_package_is_said_in_one_line(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write({})
    monkeypatch.setitem(sys.modules, "micro_sam", None)

    with pytest.raises(WrongParameter, match=r"engine 'microsam' cannot be built: .*micro_sam"):
        checked_device(None)


def test_the_conversion_is_replaced_wherever_sam_1_holds_it(write: Write) -> None:
    write(OF_V1 | CONVERSION | CALLERS)
    embed = microsam_api.util().embed
    crop = microsam_api.instance_segmentation().crop

    with microsam_api.to_image_replaced(lambda x: f"final {x}"):
        assert (embed("x"), crop("x")) == ("final x", "final x")
    assert (embed("x"), crop("x")) == ("stretched", "stretched")


def test_the_conversion_is_restored_after_an_error(write: Write) -> None:
    write(OF_1_8 | CONVERSION)

    with pytest.raises(ZeroDivisionError), microsam_api.to_image_replaced(lambda _: "final"):
        assert microsam_api.util()._to_image("x") == "final"
        raise ZeroDivisionError
    assert microsam_api.util()._to_image("x") == "stretched"


@pytest.mark.parametrize("files", [OF_1_8 | CONVERSION, OF_V1 | CONVERSION | CALLERS])
def test_other_threads_keep_micro_sams_conversion(write: Write, files: dict[str, str]) -> None:
    """One image is prepared while another one with other bytes is in the encoder."""
    write(files)
    with ThreadPoolExecutor(1) as other:
        with microsam_api.to_image_replaced(lambda x: f"final {x}"):
            assert microsam_api.util()._to_image("x") == "final x"
            assert other.submit(lambda: microsam_api.util()._to_image("x")).result() == "stretched"
            with microsam_api.to_image_replaced(lambda _: "inner"):
                assert microsam_api.util()._to_image("x") == "inner"
            assert microsam_api.util()._to_image("x") == "final x"
        assert microsam_api.util()._to_image("x") == "stretched"
