"""Every command, every Python example and every link that the README and the pages show works.

Commands of the recipes are built up to the point where weights would be loaded, on stand-ins for
the files that they name. Those that need neither a GPU nor the hub are run too, for two steps.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from forked import run_ranks, run_recipe
from hub_cache import HubCache
from servers import Served, serving
from shown_commands import PAGES, ROOT, Shown, anchors, commands, fences, links
from stand_ins import publish_llm2vec, write_stand_ins
from standard_library_docs import fill_cache

from llm2vec_pl.decoder.short_names import PACKAGED
from llm2vec_pl.encoder import new_projection, save_projection

COMMANDS = commands()
RECIPES = [command for command in COMMANDS if command.recipe]
OTHERS = [command for command in COMMANDS if not command.recipe]

SHORT = {
    "trainer.max_steps": "2",
    "trainer.limit_val_batches": "1",
    "trainer.num_sanity_val_steps": "0",
    "trainer.val_check_interval": "1",
    "trainer.check_val_every_n_epoch": "null",
    "trainer.enable_progress_bar": "false",
    "trainer.enable_model_summary": "false",
    "trainer.accelerator": "cpu",
    "data.batch_size": "4",
    "encoder.compile": "false",
}
TRAINS = (
    "mntp.py", "simcse.py", "supervised.py", "graded.py", "pretrain.py", "word_task.py",
)  # fmt: skip
RUNS = (
    *TRAINS, "show_batch.py", "mine.py", "merge.py", "consolidate.py", "memory.py", "search.py",
    "export.py", "embed.py", "evaluate.py", "analyse.py", "probe.py",
)  # fmt: skip
NAMES = re.compile(r"model(?:_name)?:? ([\w-]+/[\w.-]+)")
ELSEWHERE = re.compile(
    r"recipes/configs/(?!tiny)|smollm2-135m|gemma3-270m|[\w-]+/[A-Z][\w.-]+|--(?:trainer\.)?(?:devices [2-9]|num_nodes)|google-bert/|--pipeline|--engine ray|--format onnx|--tasks"
)
"""A model or data of the hub, or several devices: what a machine without a network and a GPU cannot run.
Tracing a graph takes a minute; `tests/use/export` does it with a decoder of one layer."""


SERVER = "127.0.0.1:8000"
"""Where the pages' examples of clients find a server."""

TEST = re.compile(r"^((?:@.*\n(?:[ )\]].*\n)*)*)def (test_\w+)", re.MULTILINE)
"""A test's decorators and its name."""


def runs_here(command: Shown) -> bool:
    return command.recipe in RUNS and not ELSEWHERE.search(" ".join(command.words))


def runs_of(commands: list[Shown]) -> Iterator[Any]:
    """A parameter for each that runs here: slow if the README shows it, exhaustive otherwise."""
    for command in filter(runs_here, commands):
        shown_first = command.page == "README.md"
        mark = pytest.mark.slow if shown_first else pytest.mark.exhaustive
        yield pytest.param(command, marks=mark, id=str(command))


def shortened(command: Shown) -> list[str]:
    """The command's flags, for two steps on the CPU where it trains, and for few texts."""
    asks = any("help" in flag or flag == "--print_config" for flag in command.flags)
    if command.recipe == "analyse.py":
        return [*command.flags, "--limit", "8"]
    if command.recipe == "probe.py":
        return [*command.flags, "--max_steps", "2", "--seeds", "1"]
    if command.recipe not in TRAINS or asks:
        return command.flags
    return [*command.flags, *(word for k, v in SHORT.items() for word in (f"--{k}", v))]


# Stand-ins ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Path]:
    """A folder in which the commands find what they name, short runs of MNTP and SimCSE among it."""
    folder = tmp_path_factory.mktemp("shown") / "repository"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLM2VEC_PL_CACHE", str(folder.parent / "cache"))
        fill_cache(every=4)
        fill(folder)
        yield folder


def fill(folder: Path) -> None:
    write_stand_ins(folder)
    for recipe in ("mntp.py", "simcse.py"):
        run(folder, Shown("", (f"recipes/{recipe}",)))
    config = folder / "runs" / "mntp" / "version_0" / "config.yaml"
    (folder / "config.yaml").write_text(config.read_text())
    for name in ("simcse-1", "simcse-2"):  # runs to be averaged
        shutil.copytree(folder / "runs" / "simcse", folder / "runs" / name)
    shutil.copytree(folder / "runs" / "simcse", folder / "runs" / "late")
    (encoder,) = (folder / "runs" / "late").rglob("encoder")
    save_projection(new_projection(256, 128).weight, encoder)  # as LateInteraction leaves it


@pytest.fixture(scope="module")
def stand_in_hub(llama_folder, tmp_path_factory) -> Path:
    """A cache of the hub with a small decoder under each name in the commands and configurations."""
    hub = HubCache(tmp_path_factory.mktemp("hub"))
    texts = [str(command) for command in RECIPES]
    texts += [config.read_text() for config in (ROOT / "recipes" / "configs").rglob("*.yaml")]
    names = {name for text in texts for name in NAMES.findall(text)}
    for name in sorted(names | {packaged.hub for packaged in PACKAGED.values()}):
        hub.publish(name, llama_folder)
    publish_llm2vec(hub, llama_folder, tmp_path_factory.mktemp("llm2vec"))
    return hub.root


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Served]:
    """What the pages' examples of clients ask, at another port."""
    with serving(tmp_path_factory.mktemp("server"), "tiny") as running:
        yield running


def run(folder: Path, command: Shown) -> str:
    cache = {"LLM2VEC_PL_CACHE": os.environ["LLM2VEC_PL_CACHE"]}
    done = run_recipe(command.recipe, *shortened(command), cwd=folder, environment=cache)
    assert done.returncode == 0, done.printed
    return done.printed


# Commands ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_recipes_take_the_flags_of_every_command_that_is_shown(place, stand_in_hub):
    """In one process, which builds all of each command but the weights."""
    asked = [[f"recipes/{command.recipe}", *command.flags] for command in RECIPES]
    (place / "commands.json").write_text(json.dumps(asked))
    script = Path(__file__).with_name("dry_runs.py")
    files = ["commands.json", "faults.json", str(stand_in_hub)]
    (done,) = run_ranks(script, files, 1, cwd=place)
    assert done.returncode == 0, done.printed
    faults = json.loads((place / "faults.json").read_text())
    found = [
        f"{command.page}: {command}\n{fault}"
        for command, fault in zip(RECIPES, faults, strict=True)
        if fault is not None
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("command", runs_of(RECIPES))
def test_a_command_that_needs_no_gpu_and_no_hub_runs(command, place):
    assert "Traceback" not in run(place, command)


@pytest.mark.parametrize("command", OTHERS, ids=str)
def test_what_other_commands_name_exists(command):
    program, *rest = command.words
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(rest) <= set(targets)
    elif program == "pytest" or command.words[:3] == ("python", "-m", "pytest"):
        assert_selects_tests(rest)
    elif program == "pip" and rest[0] == "install":
        assert_installable(rest[1:])
    elif program == "curl":  # run below
        assert any(word.startswith(f"http://{SERVER}/") for word in rest)
    else:
        pytest.fail(f"no test knows how to look at: {command}")


def assert_selects_tests(flags: list[str]) -> None:
    paths = [ROOT / flag for flag in flags if flag.startswith(("tests", "llm2vec_pl"))]
    assert all(path.exists() for path in paths)
    files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*.py"))]
    tests = [test for file in files for test in TEST.findall(file.read_text())]
    if "-k" in flags:
        tests = [(marks, name) for marks, name in tests if flags[flags.index("-k") + 1] in name]
    if paths:
        assert tests
        left_out = any("exhaustive" in marks for marks, _ in tests)
        assert "--exhaustive" in flags or not left_out, f"{flags} leave out what is exhaustive"


def assert_installable(what: list[str]) -> None:
    extras = metadata.metadata("llm2vec_pl").get_all("Provides-Extra")
    for name in what:
        if match := re.match(r"(?:\.|llm2vec_pl)\[(.+)\]", name):
            assert set(match[1].split(",")) <= set(extras)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_what_curl_asks_of_the_server_is_answered(server):
    asked = [command for command in OTHERS if command.words[0] == "curl"]
    for command in asked:
        words = [word.replace(SERVER, f"127.0.0.1:{server.port}") for word in command.words[1:]]
        done = subprocess.run(["curl", "--silent", "--fail-with-body", *words], capture_output=True)
        assert done.returncode == 0, f"{command}: {done.stdout.decode()}"
    assert len(asked) >= 3


# Python and links ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_python_on_the_pages_runs(place, server, stand_in_hub):
    """A page's blocks one after the other, as a reader would; training for a few steps."""
    offline = f"import huggingface_hub.constants as c; c.HF_HUB_CACHE = {str(stand_in_hub)!r}"
    for page in PAGES:
        blocks = [re.sub(r"max_steps=\d+", "max_steps=2", block) for block in fences(page, "python")]  # fmt: skip
        blocks = [block.replace(SERVER, f"127.0.0.1:{server.port}") for block in blocks]
        if not blocks:
            continue
        script = place / f"{page.stem}_page.py"
        script.write_text("\n".join([offline, "c.HF_HUB_OFFLINE = True", *blocks]))
        (done,) = run_ranks(script, [], 1, cwd=place)
        assert done.returncode == 0, f"{page.name}: {done.printed}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings_that_are_there(page):
    for target in links(page):
        name, _, anchor = target.partition("#")
        linked = page.parent / name if name else page
        assert linked.exists(), target
        if anchor and linked.suffix == ".md":
            assert anchor in anchors(linked), target


def test_there_are_commands_and_pages_to_look_at():
    assert len(RECIPES) > 20
    assert ROOT / "README.md" in PAGES
