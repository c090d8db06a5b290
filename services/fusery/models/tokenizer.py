"""A model's tokenizer: tokenizer.json, as it stands.

That file is what a model was trained with. The classes of transformers that a tokenizer_config.json or a model type
names rebuild the tokenizer in their own way and keep little of the file but its vocabulary: "2023", split "202 3" by
the file, is "2 0 23" to GPT-2's class. So a class is asked only where there is no file, to convert older formats, and
where the file says nothing of BOS.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from fusery.core import definition as definitions
from fusery.core.definition import model_vocabulary, steady
from fusery.core.tokens import ByteTokenizer
from fusery.runtime.errors import ModelError
from fusery.runtime.text.json import read_json_object

FILE = "tokenizer.json"
_SETTINGS, _NAMES, _ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
_LOADING_ERRORS = (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, ImportError)
_KEPT = ("chat_template", "padding_side", "model_max_length")
_PROBES = (
    "a",
    "2023 1234567 3.14 0x1F",
    "    if x:\n\t\treturn  y\n\n\n",
    "Straße ÉCOLE İ ﬁ ½ 東京 😀 e\u0301 naïve",
    " Hello  HELLO",
    "don't I'LL we've http://x.org/a_b?c=1 <0x41>▁▁a ##b",
)
"""What classes are known to read in their own way: digits, indentation, Unicode, capitals, spaces, signs."""


def read_tokenizer(folder: Path, model: str) -> ByteTokenizer:
    """The tokenizer of a folder that need not have weights, with its BOS habit; `model` is its name.

    Raises:
        ModelError: there is none, it has no fast form, it can't be read, it wants code that comes with the checkpoint,
            or a file beside tokenizer.json adds to it or stands in its place.
    """
    if not (folder / FILE).is_file():
        converted = _of_class(folder, model)
        return ByteTokenizer(_backend(converted, model), _habit(converted, model), name=Path(model).name)
    definition = read_definition(folder / FILE)
    settings = _settings(folder / _SETTINGS)
    _refuse_other_files(folder, settings, definition, model)
    if "auto_map" in settings:
        # Such a class may need code of the checkpoint, which is an error.
        _of_class(folder, model)
    prefix = definitions.prefix_ids(_with_habit(folder, definition, model), f"model {model}")
    return ByteTokenizer(definition, prefix, name=Path(model).name)


def _with_habit(folder: Path, definition: definitions.Definition, model: str) -> definitions.Definition:
    """The definition with the BOS habit of its class, where it says nothing of one itself."""
    if definition.get("post_processor") is not None or not (prefix := _habit_of_class(folder, definition, model)):
        return definition
    backend = definitions.built(definition, f"model {model}")
    tokens = [(backend.id_to_token(index), index) for index in prefix]
    before = [token for token, _ in tokens]
    template = TemplateProcessing([*before, "$A"], [*before, "$A", "$B:1"], special_tokens=tokens)
    return {**definition, "post_processor": json.loads(template.__getstate__())}


def _habit_of_class(folder: Path, definition: definitions.Definition, model: str) -> list[int]:
    """The prefix ids of a class whose file says nothing of them; none of a class that does not fit the file."""
    ids = {*model_vocabulary(definition).values(), *(token["id"] for token in definition.get("added_tokens") or ())}
    try:
        prefix = _habit(_of_class(folder, model), model)
    except ModelError:
        return []
    return prefix if ids.issuperset(prefix) else []


def read_definition(path: Path) -> definitions.Definition:
    """The definition in a tokenizer.json, of a tokenizer that reads the whole of a text in the same way each time.

    Raises:
        ModelError: it is no tokenizer, or has ids that no model has.
    """
    try:
        definition = steady(read_json_object(path))
    except (OSError, ValueError) as error:
        raise ModelError(f"tokenizer {path}: can't be read: {error}; download it again") from error
    definitions.check_ids(definition, f"tokenizer {path}")
    return definition


def transformers_tokenizer(folder: Path, model: str) -> Any:
    """transformers' tokenizer of a folder, for code that needs one: it reads texts as `read_tokenizer` does.

    Raises:
        ModelError: as `read_tokenizer`.
    """
    if not (folder / FILE).is_file():
        return _of_class(folder, model)
    backend = definitions.built(_with_habit(folder, read_definition(folder / FILE), model), f"model {model}")
    difference, given = _class_against(backend, folder, model)
    if difference is None:
        given.backend_tokenizer.no_truncation()
        _set_dropout_off(given.backend_tokenizer)
        return given
    from transformers import PreTrainedTokenizerFast

    names = {key: value for key, value in _special_names(folder, backend).items() if key != "tokenizer_class"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)  # type: ignore[no-untyped-call]


def _class_against(backend: Tokenizer, folder: Path, model: str) -> tuple[str | None, Any]:
    """How the folder's class reads a probe text in another way than its file, None if it doesn't; and its tokenizer."""
    try:
        given = _of_class(folder, model)
        return first_difference(backend, given), given
    except ModelError as error:
        return f"nothing ({error})", None


def first_difference(backend: Tokenizer, given: Any) -> str | None:
    """How transformers' tokenizer `given` reads a probe text, if in another way than the file's `backend`, else None.

    For example "'2023 1…' as ['2', '0', '23', …], tokenizer.json as ['202', '3', …]".

    Raises:
        ModelError: one of them can't read it.
    """
    for text in _PROBES:
        with definitions.calls("tokenizer", f"at the text {text!r}"):
            ours, theirs = backend.encode(text).ids, given(text)["input_ids"]
        if ours != theirs:
            at = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), 0)
            read_as = given.convert_ids_to_tokens(theirs[at : at + 4])
            return f"{text!r} as {read_as}, {FILE} as {[backend.id_to_token(index) for index in ours[at : at + 4]]}"
    return None


def settle(folder: Path, model: str) -> str | None:
    """Makes the tokenizer's files of an exported model say what `read_tokenizer` reads from them, for every loader.

    What the class read differently, if the file tokenizer_config.json had to be written anew for it. A folder of an
    older format gets a tokenizer.json; `dropout` in one is set off, and a BOS habit that only its class has is put in.
    """

    path = folder / FILE
    if not path.is_file():
        _backend(_of_class(folder, model), model).save(str(path))
    given, definition = read_json_object(path), _with_habit(folder, read_definition(path), model)
    if any(given.get(key) != definition.get(key) for key in ("model", "post_processor")):
        path.write_text(json.dumps(definition, indent=2, ensure_ascii=False), encoding="utf-8")
    backend = definitions.built(definition, f"model {model}")
    difference, _ = _class_against(backend, folder, model)
    if difference is not None:
        settings = _special_names(folder, backend)
        (folder / _SETTINGS).write_text(json.dumps(settings, indent=2, ensure_ascii=False), encoding="utf-8")
        for name in (_NAMES, _ADDED):
            (folder / name).unlink(missing_ok=True)
    return difference


def _special_names(folder: Path, backend: Tokenizer) -> dict[str, Any]:
    """A tokenizer_config.json of the class that takes tokenizer.json as it stands, with what else one may keep."""
    settings = {**_settings(folder / _NAMES), **_settings(folder / _SETTINGS)}
    kept: dict[str, Any] = {key: value for key, value in settings.items() if key in _KEPT}
    for key, value in settings.items():
        content = value.get("content") if isinstance(value, dict) else value
        if key.endswith("_token") and isinstance(content, str) and backend.token_to_id(content) is not None:
            kept[key] = content
    return {**kept, "clean_up_tokenization_spaces": False, "tokenizer_class": "PreTrainedTokenizerFast"}


def _refuse_other_files(folder: Path, settings: dict[str, Any], definition: definitions.Definition, model: str) -> None:
    """Returns if no file beside tokenizer.json adds ordinary tokens to it, or is read in its place.

    Raises:
        ModelError: one does; names it, and the token.
    """
    versions = settings.get("fast_tokenizer_files") or ()
    if others := [name for name in versions if name != FILE and (folder / str(name)).is_file()]:
        raise ModelError(
            f"model {model}: {_SETTINGS} names {', '.join(map(str, others))} (fast_tokenizer_files), which some "
            f"versions of transformers read in place of {FILE}; keep the one that is meant as {FILE}, without that key"
        )
    known = {*model_vocabulary(definition), *(token["content"] for token in definition.get("added_tokens") or ())}
    for name, token in _added(folder, settings):
        if token not in known:
            raise ModelError(
                f"model {model}: {name} adds the token {token!r}, which {FILE} does not have, so it is not known which "
                "of them the model was trained with; save the tokenizer again with transformers' save_pretrained, or "
                f"take the token out of {name}"
            )


def _added(folder: Path, settings: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(file, token) of ordinary tokens that files beside tokenizer.json add; texts are never read as special ones."""
    decoder = settings.get("added_tokens_decoder")
    if isinstance(decoder, dict):
        for token in decoder.values():
            if isinstance(token, dict) and not token.get("special") and isinstance(token.get("content"), str):
                yield _SETTINGS, token["content"]
        return
    names = [*_settings(folder / _NAMES).items(), *settings.items()]
    special = {
        str(value.get("content") if isinstance(value, dict) else value) for key, value in names if "_token" in key
    }
    lists = [value for key, value in names if key.endswith("special_tokens") and isinstance(value, list)]
    special |= {str(item.get("content") if isinstance(item, dict) else item) for items in lists for item in items}
    yield from ((_ADDED, token) for token in _settings(folder / _ADDED) if token not in special)


def _settings(path: Path) -> dict[str, Any]:
    """The object in a JSON file, empty if there is no file.

    Raises:
        ModelError: it can't be read as one.
    """
    if not path.is_file():
        return {}
    try:
        return read_json_object(path)
    except (OSError, ValueError) as error:
        raise ModelError(f"tokenizer {path}: can't be read: {error}; download it again") from error


def _of_class(folder: Path, model: str) -> Any:
    """The tokenizer that transformers makes of a folder, by the class that the folder names."""
    from transformers import AutoTokenizer

    named = f"model {model}: its tokenizer"
    try:
        with definitions.calls(named, "to read it"):
            return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except _LOADING_ERRORS as error:
        # Without the advice to trust remote code that transformers adds.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{named} can't be loaded (code that comes with it is never run): {reason}") from error


def _backend(tokenizer: Any, model: str) -> Tokenizer:
    backend: Tokenizer | None = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(
            f"model {model}: {type(tokenizer).__name__} has no fast form (tokenizer.json); convert it with transformers"
        )
    return backend


def _habit(tokenizer: Any, model: str) -> list[int]:
    """What the default call of transformers' tokenizer puts before a text."""
    _backend(tokenizer, model)
    with definitions.calls(f"model {model}", "at the text 'a'"):
        plain, whole = tokenizer("a", add_special_tokens=False)["input_ids"], tokenizer("a")["input_ids"]
    return definitions.prefix_of(plain, whole, f"model {model}")


def _set_dropout_off(backend: Tokenizer) -> None:
    if getattr(backend.model, "dropout", None) is not None:
        model = backend.model
        model.dropout = None
        backend.model = model
