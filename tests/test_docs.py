"""What the documentation says is so: names are all there, numbers are those of the scripts, and examples run."""

import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import embedsvc
from embedsvc import catalog, clusterers, exporting, formats, metrics, projection
from embedsvc.cli import cli
from embedsvc.jobs import engines
from embedsvc.models import engines as encoders
from embedsvc.models import load, network, wordpiece
from embedsvc.models.base import LoadOptions
from embedsvc.models.fake import FakeEncoder
from embedsvc.models.recurrent import policy
from embedsvc.reporting import renderers
from embedsvc.storage import objects
from embedsvc.texts import base as readers
from embedsvc.types import Mode

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
NAMES = (DOCS / "reference" / "names.md").read_text(encoding="utf-8")

REGISTRIES = {
    "loader": load.LOADERS,
    "model": catalog.MODELS,
    "data": catalog.DATA,
    "reader": readers.READERS,
    "format": formats.FORMATS,
    "exporter": exporting.EXPORTERS,
    "metric": metrics.METRICS,
    "clusterer": clusterers.CLUSTERERS,
    "projector": projection.PROJECTORS,
    "renderer": renderers.RENDERERS,
    "engine": engines.ENGINES,
    "network": network.NETWORKS,
}


def pages() -> list[Path]:
    return [path for path in sorted(DOCS.rglob("*.md")) if "_build" not in path.parts and path.name != "status.md"]


# --- every name ---


def test_every_registry_is_on_the_page_of_names():
    """A registry that is made anywhere in the package has to be listed above, and so on the page."""
    made = {
        found
        for path in Path(embedsvc.__file__).parent.rglob("*.py")
        for found in re.findall(
            r'^[A-Z]+: Registry\[.*= Registry\(\s*"([^"]+)"', path.read_text(encoding="utf-8"), re.M
        )
    }
    assert made == set(REGISTRIES)
    assert set(re.findall(r"`embedsvc\.([a-z]+)`\)", NAMES)) == made


@pytest.mark.parametrize("kind", REGISTRIES)
def test_every_registered_name_is_documented(kind):
    section = NAMES.partition(f"(`embedsvc.{kind}`)")[2].partition("\n## ")[0]
    documented = re.findall(r"`([^`]+)`", "\n".join(re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)))
    assert set(documented) == {name for name in REGISTRIES[kind] if (name, kind) != ("fake", "model")}


# Names that no package can add to, by the heading of their section.
FIXED = {
    "Modes": list(Mode),
    "Storage": [name for name in objects.SCHEMES if name != "memory"],  # that one is for tests
    "Tokenizers": list(wordpiece.FILES),
    "Engines of BERT encoders": [encoders.AUTO, *encoders.ENGINES],
    "Precisions": list(encoders.Precision),
    "Systems of recurrent dropout": list(policy.SYSTEMS),
}


@pytest.mark.parametrize("heading", FIXED)
def test_every_fixed_name_is_documented(heading):
    section = NAMES.partition(f"\n## {heading}")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `([^`]+)`", section, re.MULTILINE) == FIXED[heading]


def test_every_extra_is_documented():
    page = (DOCS / "install.md").read_text(encoding="utf-8")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert set(re.findall(r"^\| `([^`]+)` \| [^\n]*$", page.partition("| extra |")[2], re.MULTILINE)) >= set(extras)


def test_every_loader_has_a_section_that_says_how_to_bring_a_model():
    page = (DOCS / "models.md").read_text(encoding="utf-8")
    told = re.findall(r"^### \d+\. .*`(\w+):`$", page, re.MULTILINE)
    assert sorted([*told, "fake"]) == sorted(load.LOADERS) == sorted(load.SCHEMES)
    assert "`fake:`" in page


@pytest.mark.parametrize("name", embedsvc.__all__)
def test_every_public_name_is_in_the_reference(name):
    page = (DOCS / "reference" / "python.md").read_text(encoding="utf-8")
    assert re.search(rf"^\.\. auto\w+:: (embedsvc\.)?{name}$", page, re.MULTILINE)


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command, those of groups too."""

    def below(group: click.Group, name: str) -> Iterator[tuple[str, click.Command]]:
        context = click.Context(group)
        for each in group.list_commands(context):
            found = group.get_command(context, each)
            assert found is not None
            yield f"{name} {each}", found
            if isinstance(found, click.Group):
                yield from below(found, f"{name} {each}")

    yield from below(cli, "embedsvc")


COMMANDS = dict(commands())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_says_what_it_is_for(name):
    """The reference of commands is made from what is said here; `test_the_site_...` looks at the page."""
    command = COMMANDS[name]
    assert command.help, "a docstring"
    if not isinstance(command, click.Group):
        assert "Example:" in (command.epilog or command.help), "an example that can be pasted"
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{parameter.opts[0]} has no help"


# --- numbers and figures ---

NUMBERS = json.loads((DOCS / "figures" / "numbers.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", NUMBERS)
def test_a_page_quotes_the_numbers_of_its_script(page):
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    missing = {name: value for name, value in NUMBERS[page].items() if value not in text}
    assert not missing


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, str]]]:
    """What the scripts draw and count without a model."""
    folder = tmp_path_factory.mktemp("images")
    sys.path.insert(0, str(DOCS / "figures"))
    try:
        script = runpy.run_path(str(DOCS / "figures" / "__main__.py"))
        return folder, script["main"](folder, None)
    finally:
        sys.path.remove(str(DOCS / "figures"))


def test_the_scripts_still_give_these_numbers(drawn):
    for page, numbers in drawn[1].items():
        for name, value in numbers.items():
            # The last digit may differ with the versions of numpy and scikit-learn.
            unit = 10.0 ** -len(value.rstrip("%").partition(".")[2])
            assert float(NUMBERS[page][name].rstrip("%")) == pytest.approx(float(value.rstrip("%")), abs=1.01 * unit)


def test_every_picture_is_shown_and_every_shown_one_is_there(drawn):
    shown = {name for page in pages() for name in re.findall(r"\]\(images/([\w.-]+)\)", page.read_text("utf-8"))}
    assert shown == {path.name for path in (DOCS / "images").iterdir()}
    assert {path.name for path in drawn[0].iterdir()} <= shown


# --- examples ---


@dataclass(frozen=True)
class Block:
    """A fenced piece of code; `skip` is the reason why it is not run."""

    language: str
    code: str
    skip: str


_FENCE = re.compile(r"(?:<!-- skip: (?P<skip>[^>]+?) -->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.M | re.S)
_RUN = ("sh", "bash", "console", "python")


def blocks(page: Path) -> list[Block]:
    found = [Block(m["language"], m["code"], m["skip"] or "") for m in _FENCE.finditer(page.read_text("utf-8"))]
    return [block for block in found if block.language in _RUN]


PAGES = [ROOT / "README.md", ROOT / "examples" / "README.md", *pages()]
WITH_EXAMPLES = [page for page in PAGES if blocks(page)]


def test_a_reason_is_given_for_every_example_that_is_not_run():
    """And a comment that skips nothing, since it is not right before a fence, would hide an example that fails."""
    for page in PAGES:
        text = page.read_text("utf-8")
        assert text.count("<!-- skip:") == len([block for block in _FENCE.finditer(text) if block["skip"]]), page


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that the pages speak of."""
    folder = tmp_path_factory.mktemp("material")
    for name in ("examples", "pipelines"):
        shutil.copytree(ROOT / name, folder / name)
    rows = [line for line in (ROOT / "examples" / "texts.csv").read_text("utf-8").splitlines() if '"' not in line][1:61]
    table = [row.split(",") for row in rows]
    (folder / "reviews.txt").write_text("".join(f"{text}\n" for _, text, *_ in table), "utf-8")
    (folder / "reviews.csv").write_text("\n".join(["id,text,label,topic", *rows]) + "\n", "utf-8")
    (folder / "data").mkdir()
    lines = [json.dumps({"id": id_, "body": text, "label": label}) for id_, text, label, _ in table]
    (folder / "data" / "a.jsonl").write_text("\n".join(lines), "utf-8")
    return folder


@pytest.fixture
def numpy_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """The numpy encoder in place of named models, which need a download and TensorFlow."""
    real = load.load_model

    def load_model(uri: str, options: LoadOptions | None = None, **changes: object) -> object:
        return FakeEncoder(width=64) if uri in catalog.MODELS else real(uri, options, **changes)

    monkeypatch.setattr(load, "load_model", load_model)
    for module in [each for name, each in sys.modules.items() if name.startswith("embedsvc")]:
        if getattr(module, "load_model", None) is real:
            monkeypatch.setattr(module, "load_model", load_model)


def costly(page: Path) -> pytest.MarkDecorator | tuple[()]:
    """Pages that end in a whole report take longer."""
    return pytest.mark.slow if any("embedsvc report" in block.code for block in blocks(page) if not block.skip) else ()


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=costly(page), id=str(page.relative_to(ROOT))) for page in WITH_EXAMPLES]
)
def test_the_examples_of_a_page_run(page, material, numpy_encoder, tmp_path, monkeypatch):
    """In order and in one folder, as a reader would; Python blocks see what earlier ones defined."""
    folder = tmp_path / "here"
    shutil.copytree(material, folder)
    monkeypatch.chdir(folder)
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(page):
        if block.skip:
            continue
        if block.language == "python":
            exec(compile(block.code, str(page), "exec"), names)
        else:
            for line in block.code.replace("\\\n", " ").splitlines():
                run(line.removeprefix("$ "))


def run(line: str) -> None:
    """A line of shell: embedsvc in this process, what goes before a pipe and other programs in a shell."""
    line = line.replace(".venv/bin/embedsvc", "embedsvc")
    before, pipe, after = line.partition(" | embedsvc ")
    words = shlex.split(f"embedsvc {after}" if pipe else line, comments=True)
    if not words or words[0] == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
        assert set(words[1:]) <= set(targets), line  # it would set up an environment; CI runs it
        return
    given = subprocess.run(["bash", "-c", before], capture_output=True, check=True).stdout if pipe else None
    if words[0] == "embedsvc":
        arguments = [
            each for word in words[1:] for each in (sorted(map(str, Path().glob(word))) if "*" in word else [word])
        ]
        done = CliRunner().invoke(cli, arguments, input=given, catch_exceptions=False, standalone_mode=False)
        assert done.exit_code == 0, f"{line}\n{done.output}"
        assert done.return_value in (None, 0), f"{line}\n{done.output}"
    else:
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"


# --- the site ---


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_needs_no_network(tmp_path):
    pytest.importorskip("sphinx", reason="make docs installs it: pip install --group docs")
    site = tmp_path / "html"
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-d", tmp_path / "trees"]
    done = subprocess.run([*command, DOCS, site], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    for page in site.rglob("*.html"):
        text = page.read_text("utf-8")
        loads = re.findall(r'<(?:script|img|iframe|source)\b[^>]*\bsrc="([^"]+)"', text)
        loads += re.findall(r'<link\b[^>]*\brel="(?:stylesheet|preload|icon)"[^>]*\bhref="([^"]+)"', text)
        assert not [url for url in loads if url.startswith(("http:", "https:", "//"))], page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"@import|url\([\"']?(?:https?:)?//", sheet.read_text("utf-8")), sheet
    page = (site / "reference" / "commands.html").read_text("utf-8")
    for name, found in COMMANDS.items():
        markup = page.partition(f'<section id="{name.replace(" ", "-")}"')[2].partition("<section")[0]
        section = re.sub(r"<[^>]+>", "", markup)
        assert section, f"{name} is on the page"
        for parameter in found.params:
            if isinstance(parameter, click.Option):
                assert parameter.opts[0] in section
                choices = parameter.type.choices if isinstance(parameter.type, click.Choice) else ()
                assert all(str(choice) in section for choice in choices), f"{name} {parameter.opts[0]}"
