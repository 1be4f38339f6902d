"""The commands of ``ckpt`` as functions."""

import json
import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from . import _native
from .errors import CkptError, CkptWarning, UsageError, of_exit_code, of_kind
from .records import Conversion, Diff, Edit, Gate, Inspection, Record, Scan

Path: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]
#: A file, folder or glob pattern, or several.
Paths: TypeAlias = Path | Iterable[Path]

_FINE, _REFUSED, _UNREADABLE = 0, 1, 3


@dataclass(frozen=True)
class Message:
    """What a command says beside its output."""

    #: ``error``, ``warning`` or ``note``.
    level: str
    #: The text that the program prints.
    text: str
    #: Of an error that comes from a checkpoint, its kind.
    kind: str | None = None
    #: The file at fault, if one is.
    path: str | None = None


@dataclass(frozen=True)
class Completed:
    """A command that has run: its exit code, what it printed, and what it said beside that."""

    args: list[str]
    exit_code: int
    output: str
    messages: list[Message] = field(default_factory=list)

    def json(self) -> Any:
        """The output of a command with ``--format json``."""
        return json.loads(self.output)

    def check(self) -> "Completed":
        """Itself.

        Raises:
            CkptError: unless the exit code is 0.
        """
        if self.exit_code != _FINE:
            raise self.error()
        return self

    def error(self) -> CkptError:
        """Why it failed, as an exception with the program's words."""
        errors = [message for message in self.messages if message.level == "error"]
        text = "\n".join(message.text for message in errors) or self.output.strip() or f"exit code {self.exit_code}"
        if len(errors) == 1 and errors[0].kind is not None:
            return of_kind(errors[0].kind, text, path=errors[0].path)
        return of_exit_code(self.exit_code, text, path=errors[0].path if len(errors) == 1 else None)


def run(*args: Path) -> Completed:
    """Runs any command line of ``ckpt``, with its output captured, on any number of threads at once.

    >>> ckpt_tools.run("verify", "a.pt", "b.gguf").exit_code        # doctest: +SKIP
    0

    Raises:
        KeyboardInterrupt: at Ctrl-C. A command that writes has then stopped in order, and left nothing half-written.
    """
    line = [os.fsdecode(arg) for arg in args]
    code, output, messages = _native.run(line)
    return Completed(line, code, output, [Message(*message) for message in messages])


def _ran(
    command: str, paths: Sequence[str], answers: Sequence[int], options: dict[str, Any], prints: bool = True
) -> Completed:
    """Runs ``command`` on ``paths``. Exit codes other than ``answers`` raise, and so does an answer that ``prints`` nothing.
    Its warnings become Python's."""
    line = [command]
    for name, value in options.items():
        flag = "--" + name.rstrip("_").replace("_", "-")
        if value is True:
            line.append(flag)
        elif isinstance(value, (list, tuple, set, frozenset)):
            line += [f"{flag}={_text(item)}" for item in value]
        elif value is not None and value is not False:
            line.append(f"{flag}={_text(value)}")
    completed = run(*line, "--", *paths)
    for message in completed.messages:
        if message.level == "warning":
            warnings.warn(message.text, CkptWarning, stacklevel=3)
    if completed.exit_code not in answers or (prints and not completed.output):
        raise completed.error()
    return completed


def _text(value: Any) -> str:
    return os.fsdecode(value) if isinstance(value, (str, bytes, os.PathLike)) else str(value)


def _several(values: str | Sequence[str]) -> list[str]:
    """Several texts, or one."""
    return [values] if isinstance(values, str) else list(values)


def _list(paths: Paths) -> list[str]:
    if isinstance(paths, (str, bytes, os.PathLike)):
        return [_place(paths)]
    return [_place(path) for path in paths]


def _place(path: Path) -> str:
    """The path as text."""
    text = os.fsdecode(path)
    if not text:
        raise UsageError("an empty path names no file")
    return text


def inspect(
    path: Path,
    *,
    stats: bool = True,
    stored: bool = False,
    checksum: bool = False,
    sha256: bool = False,
    filter: str | None = None,
    group: Literal["weights", "optimizer", "other"] | None = None,
    policy: Path | None = None,
    i2s_layout: Literal["x86", "arm", "rows"] | None = None,
    cache: bool = True,
) -> Inspection:
    """What the checkpoint at ``path`` contains, and whether it is alive.

    Args:
        path: A file, one shard or the index of a sharded set, or a folder that holds one checkpoint.
        stats: Measure the tensors; without it only headers are read, and nothing is judged.
        stored: List the tensors of quantized weights as they are stored: codes, scales, zero points.
        checksum: Check tensors against the checksums that the file records.
        sha256: Add the SHA-256 of each tensor's elements.
        filter: Only tensors whose name matches: a glob, or a regular expression between slashes. The verdict is that of
            all tensors.
        group: Only tensors of this group.
        policy: A file with the thresholds for verdicts; by default ``ckpt.toml`` in the working directory, if there is one.
        i2s_layout: The layout of I2_S tensors in a GGUF file, which does not record it.
        cache: Take the measurements of files that have not changed from the cache.

    Raises:
        UnreadableError: if it cannot be read at all. Of a damaged one, what is intact is measured, and ``damaged`` is true.
    """
    found = _inspected([_place(path)], stats, stored, checksum, sha256, filter, group, policy, i2s_layout, cache)
    if isinstance(found, list):
        # Beside a model lie those of its training.
        own = [one for one in found if os.path.normpath(one["path"]) == os.path.normpath(os.fsdecode(path))]
        if len(own) != 1:
            count = f"{len(found)} checkpoints" if len(found) > 1 else "a pattern, which may match several"
            raise UsageError(
                f"{os.fsdecode(path)}: this is {count}; name one checkpoint, or use inspect_all",
                path=os.fsdecode(path),
            )
        [found] = own
    if "error" in found:
        raise UsageError(found["error"], path=found["path"])
    return Inspection(found)


def inspect_all(
    paths: Paths,
    *,
    stats: bool = True,
    stored: bool = False,
    checksum: bool = False,
    sha256: bool = False,
    filter: str | None = None,
    group: Literal["weights", "optimizer", "other"] | None = None,
    policy: Path | None = None,
    i2s_layout: Literal["x86", "arm", "rows"] | None = None,
    cache: bool = True,
) -> list[Inspection | Record]:
    """Every checkpoint that ``paths`` match (files, folders, glob patterns), in parallel.

    One that cannot be read is a record with ``path`` and ``error``. The options are those of :func:`inspect`.
    """
    found = _inspected(_list(paths), stats, stored, checksum, sha256, filter, group, policy, i2s_layout, cache, several=True)
    many = found if isinstance(found, list) else [found]
    return [Record(one) if "error" in one else Inspection(one) for one in many]


def _inspected(
    paths: list[str],
    stats: bool,
    stored: bool,
    checksum: bool,
    sha256: bool,
    filter: str | None,
    group: str | None,
    policy: Path | None,
    i2s_layout: str | None,
    cache: bool,
    several: bool = False,
) -> Any:
    completed = _ran(
        "inspect",
        paths,
        [_FINE, _UNREADABLE],
        {
            "format": "json",
            "no_stats": not stats,
            "stored": stored,
            "checksum": checksum,
            "sha256": sha256,
            "filter": filter,
            "group": group,
            "policy": policy,
            "i2s_layout": i2s_layout,
            "no_cache": not cache,
        },
    )
    found = completed.json()
    if not several and isinstance(found, dict) and "error" in found:
        raise completed.error()
    return found


def gate(
    paths: Paths,
    *,
    policy: Path | None = None,
    baseline: Path | None = None,
    allow: Literal["healthy", "weak", "dying", "dead"] | None = None,
    scope: Literal["all", "projections"] | None = None,
    require_trained: bool = False,
    min_healthy: float | None = None,
    max_dead: int | None = None,
    require_step: int | None = None,
    min_step: int | None = None,
    ignore: str | Sequence[str] = (),
    off: str | Sequence[str] = (),
    max_shrink: float | None = None,
    max_new_dead: float | None = None,
    diagnose: bool = False,
    tokenizer: Path | None = None,
    checksum: bool = True,
    accept: Path | None = None,
    write_accepted: Path | None = None,
    also: str | Sequence[str] = (),
    force: bool = False,
    i2s_layout: Literal["x86", "arm", "rows"] | None = None,
    cache: bool = True,
) -> Gate:
    """Whether checkpoints are good enough, by a policy.

    A refusal is an answer and no exception, and so is a file that cannot be read: the result is then false.

    >>> ckpt_tools.gate("model.pt", baseline="yesterday.pt").passed   # doctest: +SKIP
    True

    Args:
        paths: Files, folders or glob patterns.
        policy: The policy; by default ``ckpt.toml`` in the working directory, if there is one.
        baseline: A checkpoint to compare with: none may be worse.
        allow: The worst verdict that a tensor may have.
        scope: Which weights decide: all, or only those of ternary layers and those called ``*_proj``.
        require_trained: Refuse weights that are zero as initialised by design.
        min_healthy: The smallest share of the judged tensors that must be healthy.
        max_dead: How many of the judged tensors may be dead.
        require_step: The training step that every checkpoint must have.
        min_step: The training step that every checkpoint must have reached.
        ignore: Do not judge tensors whose name matches one of these patterns.
        off: Rules of verdicts that are not asked, by their names.
        max_shrink: By what factor the std of a matrix may fall below the baseline's.
        max_new_dead: The share of a ternary matrix's rows or columns that may have died since the baseline.
        diagnose: Run each model too.
        tokenizer: With ``diagnose``, the models' tokenizer.
        checksum: Check storages against the checksums that the file records.
        accept: Known findings, which refuse nothing.
        write_accepted: Write what is found to this file, and accept it.
        also: Write a report in another format as well, such as ``junit=gate.xml``.
        force: Replace output files that exist.
        i2s_layout: The layout of I2_S tensors in a GGUF file.
        cache: With ``checksum=False``, take the measurements of unchanged files from the cache.

    Raises:
        UsageError: for a wrong policy or option.
    """
    completed = _ran(
        "gate",
        _list(paths),
        [_FINE, _REFUSED, _UNREADABLE],
        {
            "format": "json",
            "policy": policy,
            "baseline": baseline,
            "allow": allow,
            "scope": scope,
            "require_trained": require_trained,
            "min_healthy": min_healthy,
            "max_dead": max_dead,
            "require_step": require_step,
            "min_step": min_step,
            "ignore": _several(ignore),
            "off": _several(off),
            "max_shrink": max_shrink,
            "max_new_dead": max_new_dead,
            "diagnose": diagnose,
            "tokenizer": tokenizer,
            "no_checksum": not checksum,
            "accept": accept,
            "write_accepted": write_accepted,
            "also": _several(also),
            "force": force,
            "i2s_layout": i2s_layout,
            "no_cache": not cache,
        },
    )
    return Gate(completed.json())


def diff(
    a: Path,
    b: Path,
    *,
    filter: str | None = None,
    group: Literal["weights", "optimizer", "other"] | None = None,
    all: bool = False,
    tolerance: float = 0,
    values_only: bool = False,
    i2s_layout: Literal["x86", "arm", "rows"] | None = None,
) -> Diff:
    """What differs between two checkpoints, whatever formats they are in.

    >>> [t.name for t in ckpt_tools.diff("a.pt", "b.pt").tensors if t.status == "changed"]   # doctest: +SKIP
    ['head.weight']

    Args:
        a: The first checkpoint.
        b: The second.
        filter: Only tensors whose name matches: a glob, or a regular expression between slashes.
        group: Only tensors of this group.
        all: List unchanged tensors too.
        tolerance: The largest difference of an element that still counts as equal.
        values_only: Compare only values: dtypes, config and other metadata may differ.
        i2s_layout: The layout of I2_S tensors in a GGUF file.
    """
    options = {
        "format": "json",
        "filter": filter,
        "group": group,
        "all": all,
        "tolerance": tolerance,
        "values_only": values_only,
        "i2s_layout": i2s_layout,
    }
    completed = _ran("diff", [_place(a), _place(b)], [_FINE, _REFUSED, _UNREADABLE], options)
    return Diff(completed.json())


def scan(
    paths: Paths,
    *,
    fail_on: Literal["note", "unknown", "dangerous"] = "unknown",
    allow: str | Sequence[str] = (),
    skip: str | Sequence[str] = (),
) -> Scan:
    """What loading files would import, call and write, without doing any of it.

    >>> ckpt_tools.scan("downloaded/").clean                        # doctest: +SKIP
    True

    Args:
        paths: Files, folders or glob patterns.
        fail_on: The lowest severity that makes the result false.
        allow: Imports to treat as harmless: ``package.module.Name``, or a prefix followed by ``*``.
        skip: Files of folders to leave out: glob patterns.
    """
    options = {"format": "json", "fail_on": fail_on, "allow": _several(allow), "skip": _several(skip)}
    return Scan(_ran("scan", _list(paths), [_FINE, _REFUSED, _UNREADABLE], options).json())


def convert(
    paths: Paths,
    output: Path | None = None,
    *,
    to: str,
    out_dir: Path | None = None,
    force: bool = False,
    root: str | None = None,
    keep_optimizer: bool = False,
    dtype: str | Sequence[str] = (),
    names: Literal["bitnet", "hf", "gguf"] | None = None,
    ternary: str | None = None,
    packed: bool = False,
    max_shard_size: str | int | None = None,
    quant: str | None = None,
    embed: str | None = None,
    exact_scales: bool = False,
    latent: bool = False,
    tokenizer: Path | None = None,
    allow_incomplete: bool = False,
    strict: bool = False,
    allow_collapsed: bool = False,
    verify: bool = True,
    policy: Path | None = None,
    i2s_layout: Literal["x86", "arm", "rows"] | None = None,
    cache: bool = True,
) -> Conversion:
    """Converts checkpoints, and verifies what was written by reading it back. An output appears whole or not at all.

    >>> ckpt_tools.convert("model.pt", "model.gguf", to="gguf").output   # doctest: +SKIP
    'model.gguf'

    Args:
        paths: Files, folders or glob patterns.
        output: The output file or folder, for one checkpoint.
        to: What to write, such as ``safetensors``, ``gguf``, ``hf``, ``pt``, ``npz``, ``bf16``.
        out_dir: The output folder, for any number of checkpoints.
        force: Replace existing outputs.
        root: The key of the state dict to convert, such as ``ema_state_dict``.
        keep_optimizer: Keep optimizer state, schedulers and random states (PyTorch to PyTorch).
        dtype: Types of weights by output name, such as ``embed*=f16``; the first match applies.
        names: The naming scheme of the tensors.
        ternary: Matrices to make ternary, by their output names.
        packed: With ``hf``, pack ternary matrices.
        max_shard_size: Write files of at most this size, such as ``5GB``.
        quant: With ``gguf``, the type of the matrices; else ``keep``, which writes quantized weights as they are stored.
        embed: With ``gguf``, the type of the embedding and the output head.
        exact_scales: With ``gguf``, store the scales of ternary matrices as f32.
        latent: With ``gguf``, keep the float weights of ternary layers.
        tokenizer: With ``gguf``, the tokenizer to embed.
        allow_incomplete: Convert a model that lacks tensors all the same.
        strict: Refuse a checkpoint whose verdict is worse than healthy.
        allow_collapsed: With ``strict``, convert a collapsed checkpoint all the same.
        verify: Verify the output by reading it back.
        policy: A file with the thresholds for verdicts.
        i2s_layout: The layout of I2_S tensors in a GGUF file.
        cache: Take the measurements of files that have not changed from the cache.

    Raises:
        RefusedError: if ``strict`` refuses it, or if what was written is not the same as the source.
        WriteError: if the output exists, or cannot be written.
        UsageError, UnreadableError: if the source cannot be converted so, or not be read.
    """
    completed = _ran(
        "convert",
        _list(paths),
        [_FINE],
        {
            "to": to,
            "output": output,
            "out_dir": out_dir,
            "force": force,
            "root": root,
            "keep_optimizer": keep_optimizer,
            "dtype": _several(dtype),
            "names": names,
            "ternary": ternary,
            "packed": packed,
            "max_shard_size": max_shard_size,
            "quant": quant,
            "embed": embed,
            "exact_scales": exact_scales,
            "latent": latent,
            "tokenizer": tokenizer,
            "allow_incomplete": allow_incomplete,
            "strict": strict,
            "allow_collapsed": allow_collapsed,
            "no_verify": not verify,
            "policy": policy,
            "i2s_layout": i2s_layout,
            "no_cache": not cache,
        },
    )
    place = output if output is not None else out_dir
    written = {
        "output": None if place is None else os.fsdecode(place),
        "text": completed.output.strip(),
        "warnings": [message.text for message in completed.messages if message.level == "warning"],
    }
    return Conversion(written)


def edit(
    paths: Paths,
    output: Path,
    *,
    to: str | None = None,
    average: bool = False,
    last: int | None = None,
    weights: Sequence[float] | None = None,
    ema: float | None = None,
    lora: Path | Sequence[Path] = (),
    adapter_of: Path | None = None,
    strip_optimizer: bool = False,
    drop: str | Sequence[str] = (),
    keep: str | Sequence[str] = (),
    rename: str | Sequence[str] = (),
    perplexity: Path | None = None,
    force: bool = False,
    root: str | None = None,
    keep_optimizer: bool = False,
    dtype: str | Sequence[str] = (),
    names: Literal["bitnet", "hf", "gguf"] | None = None,
    ternary: str | None = None,
    packed: bool = False,
    max_shard_size: str | int | None = None,
    quant: str | None = None,
    embed: str | None = None,
    exact_scales: bool = False,
    latent: bool = False,
    tokenizer: Path | None = None,
    allow_incomplete: bool = False,
    verify: bool = True,
    i2s_layout: Literal["x86", "arm", "rows"] | None = None,
) -> Edit:
    """Leaves tensors out of a checkpoint, renames them, averages checkpoints, or merges LoRA adapters; and verifies what was
    written by reading it back. Tensors are computed while they are written, a piece at a time.

    >>> ckpt_tools.edit("runs/a", "mean.safetensors", average=True, last=5)      # doctest: +SKIP
    >>> ckpt_tools.edit("base/", "merged/", lora="adapter/").changes             # doctest: +SKIP

    Args:
        paths: The checkpoint to edit; with ``average`` several, or folders and glob patterns of several.
        output: The output file or folder. Its extension says the format, where ``to`` does not.
        to: What to write, such as ``safetensors``, ``gguf``, ``hf``, ``pt``, ``npz``, ``bf16``; else the format of the source.
        average: Average the weights of all checkpoints; config and step are the last one's.
        last: With ``average``, only the last so many by their steps.
        weights: With ``average``, how much each checkpoint counts.
        ema: With ``average``, the decay of an exponential moving average over the steps of the checkpoints.
        lora: LoRA or DoRA adapters in PEFT's form, merged one after another.
        adapter_of: Write the checkpoint, an adapter, in GGUF's form for llama.cpp; this is the model it was trained for.
        strip_optimizer: Leave out optimizer state, schedulers and random states, and say what that was.
        drop: Leave out the tensors whose names match: a glob, or a regular expression between slashes.
        keep: Keep only the tensors whose names match one of these patterns.
        rename: New names, as ``FROM=TO``.
        perplexity: A text by which the result is compared with the last source, in ``perplexity`` of what is returned.
        force: Replace an existing output.
        root: The key of the state dict to take, such as ``ema_state_dict``.
        keep_optimizer: Keep optimizer state, schedulers and random states (PyTorch to PyTorch).
        dtype: Types of weights by output name, such as ``embed*=f16``; the first match applies.
        names: The naming scheme of the tensors.
        ternary: Matrices to make ternary, by their output names.
        packed: With ``hf``, pack ternary matrices.
        max_shard_size: Write files of at most this size, such as ``5GB``.
        quant: With ``gguf``, the type of the matrices; else ``keep``, which writes quantized weights as they are stored.
        embed: With ``gguf``, the type of the embedding and the output head.
        exact_scales: With ``gguf``, store the scales of ternary matrices as f32.
        latent: With ``gguf``, keep the float weights of ternary layers.
        tokenizer: With ``gguf``, the tokenizer to embed.
        allow_incomplete: Write a model that lacks tensors all the same.
        verify: Verify the output by reading it back.
        i2s_layout: The layout of I2_S tensors in a GGUF file.

    Raises:
        RefusedError: if what was written is not what was computed.
        WriteError: if the output exists, or cannot be written.
        UsageError, UnreadableError: if the edit cannot be done as asked, or a source cannot be read.
    """
    completed = _ran(
        "edit",
        _list(paths),
        [_FINE],
        {
            "to": to,
            "output": output,
            "average": average,
            "last": last,
            "weights": None if weights is None else ",".join(str(float(weight)) for weight in weights),
            "ema": ema,
            "lora": _list(lora),
            "adapter_of": adapter_of,
            "strip_optimizer": strip_optimizer,
            "drop": _several(drop),
            "keep": _several(keep),
            "rename": _several(rename),
            "perplexity": perplexity,
            "force": force,
            "root": root,
            "keep_optimizer": keep_optimizer,
            "dtype": _several(dtype),
            "names": names,
            "ternary": ternary,
            "packed": packed,
            "max_shard_size": max_shard_size,
            "quant": quant,
            "embed": embed,
            "exact_scales": exact_scales,
            "latent": latent,
            "tokenizer": tokenizer,
            "allow_incomplete": allow_incomplete,
            "no_verify": not verify,
            "i2s_layout": i2s_layout,
            "format": "json",
        },
    )
    return Edit(completed.json())


def report(
    paths: Paths,
    output: Path | None = None,
    *,
    format: Literal["html", "md", "json", "csv"] | None = None,
    title: str | None = None,
    force: bool = False,
    lr: float | None = None,
    weight_decay: float | None = None,
    accum: int | None = None,
    policy: Path | None = None,
    i2s_layout: Literal["x86", "arm", "rows"] | None = None,
    cache: bool = True,
) -> str:
    """Writes a page on checkpoints and runs: which layers died, when and why. Returns the path, or without ``output`` the
    page itself.

    >>> ckpt_tools.report("run/", "run.html")                       # doctest: +SKIP
    'run.html'

    Args:
        paths: Files, folders or glob patterns. The checkpoints of one folder form a run.
        output: The file to write.
        format: By default from the extension of ``output``, else ``html``.
        title: The heading.
        force: Replace an existing file.
        lr: The run's learning rate, where the files lack it.
        weight_decay: The run's weight decay, where the files lack it.
        accum: Steps, as the checkpoints count them, per optimizer step.
        policy: A file with the thresholds for verdicts.
        i2s_layout: The layout of I2_S tensors in a GGUF file.
        cache: Take the measurements of files that have not changed from the cache.

    A checkpoint that cannot be read is in the report, and a :class:`CkptWarning`.
    """
    line = {
        "format": format,
        "output": output,
        "title": title,
        "force": force,
        "lr": lr,
        "weight_decay": weight_decay,
        "accum": accum,
        "policy": policy,
        "i2s_layout": i2s_layout,
        "no_cache": not cache,
    }
    completed = _ran("report", _list(paths), [_FINE, _UNREADABLE], line, prints=output is None)
    for message in completed.messages:
        if message.level == "error":
            warnings.warn(message.text, CkptWarning, stacklevel=2)
    return completed.output if output is None else os.fsdecode(output)
