"""freezeframe's command line: every verb reads its arguments and calls one function of `pipelines`.

Start with `python run_pipeline.py demo`, then `python run_pipeline.py VERB --help`.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# Only the standard library up here, so that `--help` does not wait for torch.

ID_OPTIONS = ("--user", "--item")  # take an id as the user has it
NO_IDS = (*ID_OPTIONS, "--top", "--data", "--columns", "--json", "--help", "-h")  # what else may follow them
EXTRACT = {"torchvision", "transformers", "open_clip", "pytorchvideo", "decord", "lmdb", "av", "PIL", "simplejpeg"}


def main(argv: list[str] | None = None) -> int:
    """Run one command; 0 when it did what was asked, 2 with one line on standard error when the user can mend it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that knows no 'é' gets its code, and no traceback
            stream.reconfigure(errors="backslashreplace")
    arguments = _parse(argv)
    function, shares = arguments.pop("function"), arguments.pop("shares", False)
    from features.errors import FreezeframeError

    try:
        if not shares and "TORCHELASTIC_RUN_ID" in os.environ:
            _refuse_torchrun()
        function(**arguments)
    except FreezeframeError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library not in EXTRACT:
            raise
        sys.stderr.write(f"error: {library} is not installed; media need pip install -e '.[extract]'\n")
        return 2
    except OSError as error:
        if error.filename is None:  # not about a file: our bug, or a library's
            raise
        sys.stderr.write(f"error: cannot use {error.filename} ({error.strerror}); check the path and its permissions\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("stopped; the same command goes on from here\n")
        return 130
    return 0


def _refuse_torchrun() -> None:
    """Stop a verb that several processes would each do whole, in the same folder."""
    from pipelines.runs.processes import refuse_verb, started_by_torchrun

    if started_by_torchrun():
        refuse_verb()


def _parse(argv: list[str] | None) -> dict[str, Any]:
    """Return the arguments by name; key=value may also stand after options, where argparse alone refuses them."""
    parser = _parser()
    known, rest = parser.parse_known_args(_with_ids(sys.argv[1:] if argv is None else argv))
    arguments = vars(known)
    if rest and ("overrides" not in arguments or any(word.startswith("-") or "=" not in word for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        arguments["overrides"] = [*arguments["overrides"], *rest]
    return arguments


def _with_ids(words: Sequence[str]) -> list[str]:
    """Return the words with '--user -17' as '--user=-17': argparse takes an id with a dash in front for an option."""
    joined: list[str] = []
    for word in words:
        if joined and joined[-1] in ID_OPTIONS and word.startswith("-") and word.partition("=")[0] not in NO_IDS:
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _parser() -> argparse.ArgumentParser:
    what = "Micro-video recommendation, the whole way."
    parser = argparse.ArgumentParser(prog="run_pipeline.py", description=what, allow_abbrev=False)
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for add in (
        _demo,
        _data,
        _extract,
        _features,
        _train,
        _search,
        _evaluate,
        _compare,
        _recommend,
        _similar,
        _export,
        _lists,
    ):
        add(verbs)
    return parser


def _calls(parser: argparse.ArgumentParser, function: str) -> None:
    """Make `parser` call `pipelines.<module>:<function>` with its arguments, imported only when it runs."""
    module, name = function.split(":")

    def call(**arguments: object) -> None:
        run: Callable[..., None] = getattr(importlib.import_module(f"pipelines.{module}"), name)
        run(**arguments)

    parser.set_defaults(function=call)


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Tells the default of an option where it has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, "", []) else super()._get_help_string(action)


def _verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], name: str, what: str, function: str
) -> argparse.ArgumentParser:
    # No abbreviations: a script that repeats the command line (--engine slurm) could not tell which option is meant.
    parser = verbs.add_parser(name, help=what, description=what, formatter_class=_Help, allow_abbrev=False)
    if function:
        _calls(parser, function)
    return parser


def _demo(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    what = "the whole job on a generated corpus: extract, train, compare, recommend, export"
    parser = _verb(verbs, "demo", what, "demo:run_demo")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for the corpus and all artefacts")
    parser.add_argument("--seeds", type=int, default=3, help="training runs per row of the table")
    parser.add_argument("--items", type=int, default=320, help="clips in the corpus")
    parser.add_argument("--users", type=int, default=900, help="users in the corpus")


COLUMNS = "which columns mean what, e.g. user=uid,item=vid,time=ts; numbers for tables without a header; time=none"


def _data(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    what = "what a dataset folder holds: users, items, repeats, ties, and what titles and media join"
    parser = _verb(verbs, "data", what, "data.report:run_data")
    parser.add_argument("data", type=Path, help="dataset folder (docs/datasets.md)")
    parser.add_argument("--columns", help=COLUMNS)
    parser.add_argument("--json", action="store_true", help="print as JSON")


def _batch_size(text: str) -> int:
    """Read a number above 0, or 'auto' as 0 (AUTO in extract/jobs/options.py)."""
    if text != "auto" and not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number above 0 nor auto")
    return 0 if text == "auto" else int(text)


def _extract(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    what = "raw videos, covers and titles into feature files, one per encoder"
    parser = _verb(verbs, "extract", what, "extraction:run_extract")
    parser.add_argument("--data", type=Path, required=True, help="dataset folder (docs/datasets.md)")
    parser.add_argument("--columns", help=COLUMNS)
    parser.add_argument("--videos", type=Path, help="folder, LMDB or file of pixels, in place of the dataset's videos")
    parser.add_argument("--covers", type=Path, help="folder, LMDB or file of pixels, in place of the dataset's covers")
    parser.add_argument("--encoders", required=True, help="names that `encoders` lists, comma-separated")
    parser.add_argument("--out", type=Path, required=True, help="folder for the feature files")
    parser.add_argument("--weights", default="pretrained", help="pretrained, random, or a local folder or file")
    parser.add_argument("--seed", type=int, default=0, help="of random weights")
    recipes = (
        "clean: each encoder used as its makers do; microlens: as the benchmark's code does (docs/microlens-recipe.md)"
    )
    parser.add_argument("--recipe", choices=("clean", "microlens"), default="clean", help=recipes)
    parser.add_argument("--faults", help="single faults of the microlens recipe, comma-separated")
    parser.add_argument("--frames", help="middle:5, middle:16x4, uniform:16 and so on; without it the encoder's own")
    cut = "store the activations below the last T blocks, tokens x width per item, instead of vectors"
    parser.add_argument("--top-blocks", type=int, metavar="T", help=cut)
    inner = "store what these blocks give, each pooled, instead of vectors: all, or numbers from 1 such as 3,6,12"
    parser.add_argument("--layers", metavar="NUMBERS", help=inner)
    seen = (
        "store the frames and covers these encoders see, resized and cropped, as uint8, for items.kind e2e; runs none"
    )
    parser.add_argument("--pixels", action="store_true", help=seen)
    parser.add_argument("--items", type=Path, metavar="FILE", help="only the items in FILE, one id per line")
    parser.add_argument("--decoder", default="auto", help="auto, decord, pyav or torchcodec")
    seconds = "processor time one file may take to decode; by the clock, waiting included, ten times as long"
    parser.add_argument("--decode-seconds", type=float, default=60.0, help=seconds)
    parser.add_argument("--decode-mb", type=int, default=4096, help="memory one file may take to decode")
    parser.add_argument("--precision", default="float32", help="of the encoder: float32, bf16 or fp16")
    compiling = "compile the encoder first: takes minutes once, then every batch is faster"
    parser.add_argument("--compile", dest="compiled", action="store_true", help=compiling)
    stored = "on disk: float16, float32 or int8; auto: float16 for vectors, float32 for --top-blocks"
    parser.add_argument("--dtype", default="auto", help=stored)
    size = "clips, covers or titles per forward pass; auto: what the GPU's memory holds (16 without one)"
    parser.add_argument("--batch-size", type=_batch_size, default=16, metavar="N|auto", help=size)
    parser.add_argument("--shard-size", type=int, default=256, help="rows per shard, the most a crash can cost")
    parser.add_argument("--workers", type=int, default=2, help="decoding processes")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 and so on")
    parser.add_argument("--max-failed", type=float, default=0.05, help="share of bad items above which it fails")
    engines = "local: on this machine; ray: on a Ray cluster; worker: one of many on a shared folder; "
    engines += "slurm: write a script of such workers"
    parser.add_argument("--engine", choices=("local", "ray", "worker", "slurm"), default="local", help=engines)
    processes = "of this machine, or of the Ray cluster, each on a GPU of its own if it can"
    parser.add_argument("--processes", type=int, default=1, help=processes)
    address = "of a running Ray cluster, or auto; without it one is started on this machine"
    parser.add_argument("--ray-address", default="", help=address)
    parser.add_argument("--tasks", type=int, default=8, help="workers in the Slurm array")
    parser.add_argument("--retry-failed", action="store_true", help="try rows that failed in earlier runs again")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def _features(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    what = "inspect, verify, merge, import and export feature files"
    actions = _verb(verbs, "features", what, "").add_subparsers(title="actions", metavar="ACTION", required=True)

    inspect = _verb(actions, "inspect", "what a feature file holds and whether it looks sound", "feature_files:inspect")
    inspect.add_argument("file", type=Path, help="feature file")
    inspect.add_argument("--json", action="store_true", help="print as JSON")

    verify = _verb(actions, "verify", "re-read every vector; exit 2 if one changed", "feature_files:verify")
    verify.add_argument("file", type=Path, help="feature file")

    merge = _verb(actions, "merge", "several feature files of one recipe into one", "feature_files:merge_files")
    merge.add_argument("out", type=Path, help="feature file to write")
    merge.add_argument("parts", type=Path, nargs="+", help="feature files; a later one wins")

    bring = _verb(actions, "import", "a published array into a feature file", "feature_files:bring")
    bring.add_argument("source", type=Path, help=".npy, .parquet or .safetensors with a 2-d array, one row per item")
    whose = "row+1 (MicroLens), row (MMRec), a text file of ids, or i_id_mapping.csv; not for a source with ids"
    bring.add_argument("--ids", help=whose)
    bring.add_argument("--data", type=Path, required=True, help="dataset folder the ids belong to")
    bring.add_argument("--columns", help=COLUMNS)
    bring.add_argument("--name", required=True, help="what the features are, e.g. videomae-published")
    bring.add_argument("--out", type=Path, required=True, help="folder for the feature file")
    bring.add_argument("--dtype", default="float16", help="on disk: float16, float32 or int8")
    odd = (
        "ids that the dataset does not know, and with --ids row and row+1 items without a row: error, or keep and warn"
    )
    bring.add_argument("--unmatched", choices=("error", "keep"), default="error", help=odd)

    take = _verb(actions, "export", "the vectors of a feature file in another format", "feature_files:take")
    take.add_argument("file", type=Path, help="feature file")
    take.add_argument("--out", type=Path, required=True, help="folder to make")
    take.add_argument("--format", dest="form", default="npy", help="npy, parquet, safetensors or mmrec")


def _train(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    what = "train and test one recipe; goes on where it was stopped; under torchrun on several GPUs"
    parser = _verb(verbs, "train", what, "experiment:run_train")
    parser.set_defaults(shares=True)
    parser.add_argument("recipe", type=Path, help="YAML file, such as one of pipelines/recipes/")
    words = "e.g. train.lr=1e-4 data.folder=DIR"
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value", help=words)
    parser.add_argument("--out", type=Path, help="run folder (without it: runs/<name of the recipe>)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 and so on")
    parser.add_argument("--json", action="store_true", help="print the metrics as JSON")


def _evaluate(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _verb(verbs, "evaluate", "test a finished run again", "evaluation:run_evaluate")
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--data", type=Path, help="dataset folder, if not the run's; the same interactions")
    parser.add_argument("--mask", help="keep, hide or strict (without it: as in the run's recipe)")
    parser.add_argument("--at", help="list lengths, comma-separated, instead of the recipe's")
    parser.add_argument("--metrics", help="HR,NDCG,MRR,Coverage and so on, instead of the recipe's")
    parser.add_argument("--groups", action="store_true", help="also by popularity of the target and length of history")
    parser.add_argument("--bins", type=int, default=5, help="groups of about equally many users")
    parser.add_argument("--popularity-edges", help="least training count of each group, e.g. 1,5,20, instead of --bins")
    parser.add_argument("--history-edges", help="least number of seen items of each group, instead of --bins")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 and so on")
    parser.add_argument("--json", action="store_true", help="print the metrics as JSON")


def _search(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    what = "try settings of a recipe, judged on the validation part"
    parser = _verb(verbs, "search", what, "search:run_search")
    parser.add_argument("recipe", type=Path, help="recipe file")
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="settings for all trials")
    space = "values to choose from (without it: learning rate, width and batch size as in the MicroLens paper)"
    parser.add_argument("--space", nargs="+", metavar="key=value,value", help=space)
    parser.add_argument("--trials", type=int, default=20, help="how many different settings")
    parser.add_argument("--sampler", default="tpe", help="tpe, random or grid")
    parser.add_argument("--seed", type=int, default=0, help="of the sampler")
    parser.add_argument("--out", type=Path, default=Path("runs/search"), help="folder of the trials' run folders")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 and so on")
    parser.add_argument("--json", dest="json_output", action="store_true", help="print as JSON")


def _compare(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    what = "recipes, groups of them or finished runs, in one table with the papers' numbers and tests"
    parser = _verb(verbs, "compare", what, "compare:run_compare")
    given = (
        "recipe files, groups of recipes (pipelines/recipes/tables), or run folders; without any, the groups are listed"
    )
    parser.add_argument("sources", type=Path, nargs="*", metavar="RECIPE|GROUP|RUN", help=given)
    every = "for all recipes, such as scale=small or features.0.path=FILE (which skips recipes without features)"
    parser.add_argument("--set", dest="overrides", nargs="*", default=[], metavar="key=value", help=every)
    several = "a row for each of several values, such as items.kind=v,dnn,top items.top_blocks=1,2; not for groups"
    parser.add_argument("--axis", dest="axes", nargs="+", default=[], metavar="key=value,value", help=several)
    parser.add_argument("--seeds", type=int, default=1, help="runs per recipe, with seeds 0, 1, 2 ...")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder of the run folders")
    parser.add_argument("--baseline", help="row that the others are tested against (without it: the first)")
    parser.add_argument("--test", choices=("t", "wilcoxon"), default="t", help="paired test over users")
    parser.add_argument("--groups", action="store_true", help="also by popularity of the target, as ratios to it")
    ledger = "also what each row cost: time, memory, disk, items encoded (always, where a row trains an encoder)"
    parser.add_argument("--costs", action="store_true", help=ledger)
    parser.add_argument("--plot", type=Path, help="draw accuracy against training time here, as SVG or PNG")
    for form, what in (("markdown", "Markdown"), ("latex", "LaTeX (booktabs)"), ("csv", "CSV, every number unrounded")):
        parser.add_argument(f"--{form}", type=Path, help=f"write the tables here, too, as {what}")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 and so on")


def _recommend(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _verb(verbs, "recommend", "top items for a user, seen items hidden", "retrieve:run_recommend")
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--user", required=True, help="raw user id")
    parser.add_argument(
        "--data", type=Path, help="dataset folder, where it is not the run's; may hold new interactions"
    )
    parser.add_argument("--top", type=int, default=10, help="how many")
    parser.add_argument("--json", action="store_true", help="print as JSON")


def _similar(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _verb(verbs, "similar", "items with the most similar features (cosine)", "retrieve:run_similar")
    parser.add_argument("file", type=Path, help="feature file")
    parser.add_argument("--item", required=True, help="raw item id")
    parser.add_argument("--top", type=int, default=10, help="how many")
    parser.add_argument("--data", type=Path, help="dataset folder, to print titles")
    parser.add_argument("--columns", help=COLUMNS)
    parser.add_argument("--json", action="store_true", help="print as JSON")


def _export(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    formats = _verb(verbs, "export", "datasets and features for other toolboxes", "").add_subparsers(
        title="formats", metavar="FORMAT", required=True
    )
    mmrec = _verb(formats, "mmrec", "a folder that MMRec trains on", "export:run_export_mmrec")
    mmrec.add_argument("--data", type=Path, required=True, help="dataset folder")
    mmrec.add_argument("--columns", help=COLUMNS)
    mmrec.add_argument("--image", type=Path, help="feature file for MMRec's visual slot (covers or videos)")
    mmrec.add_argument("--text", type=Path, help="feature file for MMRec's text slot")
    mmrec.add_argument("--name", required=True, help="dataset name in MMRec")
    mmrec.add_argument("--out", type=Path, required=True, help="folder to write into")
    mmrec.add_argument("--overwrite", action="store_true", help="replace an earlier export")


def _lists(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    for name, what in (("encoders", "the encoders there are"), ("models", "the recommenders there are")):
        parser = _verb(verbs, name, what, f"listing:run_{name}")
        parser.add_argument("--json", action="store_true", help="print as JSON")


if __name__ == "__main__":
    sys.exit(main())
