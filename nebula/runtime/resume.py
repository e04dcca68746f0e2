"""Fills a training with a checkpoint, saved under whatever plan; refuses one of another model or optimizer.

Every rank reads the pieces that its boxes need, each checked against its sha256; what no box needs they check in turns,
so that together they have read the whole checkpoint. Where one of them fails, all do.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import paddle

from nebula.checkpoint.copies import CopyReader
from nebula.checkpoint.manifest import Damaged, Manifest
from nebula.checkpoint.reader import Reader
from nebula.errors import BadInput, NebulaError, shown
from nebula.runtime import random_state
from nebula.runtime.circles import from_all
from nebula.runtime.held import (
    BUFFER,
    MODEL,
    OPTIMIZER,
    ROWS,
    Held,
    global_rows,
    held,
    innermost,
    make_states,
    put,
    remembering,
    row_boxes,
)
from nebula.runtime.parallelize import Step

_Kinds = Mapping[str, tuple[str, tuple[int, ...]]]
"""Key of a tensor -> its dtype and whole shape."""
SHOWN = 3
"""Differences that a refusal names."""


def resume(step: Step, source: Path | CopyReader, split: str, about: Mapping[str, Any]) -> Manifest:
    """Fills weights, optimizer, schedule of the learning rate, loss scaler, memories and random state.

    Args:
        source: the folder of a checkpoint, or copies in memory; a rank sees those of its node alone, so nobody reads
            what it does not need.
        split: identity of this plan's split; under the same one the random state goes on, under another it starts anew.
        about: what the data of this training are.

    Raises:
        Damaged: on all ranks alike: bytes of the checkpoint are not those that were saved, or copies leave something
            out.
        BadInput: on all ranks alike: it is of another model, optimizer or data.
    """
    ranks = step.plan.world_size
    on_disk = isinstance(source, Path)
    reader: Reader = _together(ranks, lambda: Reader(source)) if isinstance(source, Path) else source
    check_about(reader.folder, reader.manifest.facts["about"], about)
    make_states(step)
    mine = held(step)
    kinds = {key: kind for rank in from_all(_kinds(mine), ranks) for key, kind in rank.items()}
    if on_disk:
        check_same(reader, kinds, type(innermost(step.optimizer)).__name__)
    else:
        _together(ranks, lambda: _check_here(reader, _kinds(mine)))
    _together(ranks, lambda: _fill(step, mine, reader))
    others = sorted(reader.manifest.tensors.keys() - kinds.keys()) if on_disk else []
    _together(ranks, lambda: _check(step, reader, others[step.place.rank :: ranks]))
    facts = reader.manifest.facts
    _go_on(step, facts)
    if facts["split"] == split:
        random_state.restore(_together(ranks, lambda: reader.read(f"{random_state.KEY}{step.place.rank}")))
    else:
        random_state.reseed(_seed(step, reader.manifest.step), step.part.member.rank)
    return reader.manifest


def _together(ranks: int, work: Callable[[], Any]) -> Any:
    """Does a rank's work; where one fails, all do, with its sentence."""
    answer, sentence, hurt = None, "", False
    try:
        answer = work()
    except NebulaError as error:
        sentence, hurt = str(error), isinstance(error, Damaged)
    for told, there in from_all((sentence, hurt), ranks):
        if told:
            raise Damaged(told) if there else BadInput(told)
    return answer


def _kinds(mine: Sequence[Held]) -> _Kinds:
    return {one.key: (one.dtype, one.shape) for one in mine if not one.key.startswith(ROWS)}


def check_same(reader: Reader, kinds: _Kinds, optimizer: str) -> None:
    """Refuses a checkpoint of another model or optimizer.

    Args:
        kinds: of all ranks.

    Raises:
        BadInput: with what differs.
    """
    saved = {key: (tensor.dtype, tensor.shape) for key, tensor in reader.manifest.tensors.items()}
    begins = (MODEL, BUFFER)
    odd = _differences(_only(saved, begins), _only(kinds, begins))
    if odd:
        made_from = reader.manifest.facts.get("model") or "one without a name"
        raise BadInput(
            f"{reader.folder} is a checkpoint of another model ({made_from}): {_listing(odd)}; "
            "name another folder, or build the model as it was"
        )
    there, here = _states(saved), _states(kinds)
    if there != here:
        made_with = reader.manifest.facts["optimizer"]
        raise BadInput(
            f"{reader.folder} is a checkpoint of another optimizer: {made_with} with {_listed(there)} there, "
            f"{optimizer} with {_listed(here)} here; train on with {made_with}"
        )


def _check_here(reader: Reader, kinds: _Kinds) -> None:
    """Refuses copies that lack weights of this rank, or hold others; those of other ranks may lie on other nodes.

    A checkpoint on the disk is then taken up: it tells, whether the model is another.
    """
    saved = {key: (tensor.dtype, tensor.shape) for key, tensor in reader.manifest.tensors.items() if key in kinds}
    begins = (MODEL, BUFFER)
    odd = _differences(_only(saved, begins), _only(kinds, begins))
    if odd:
        raise Damaged(f"the copies in {reader.folder} are not those of this rank's model: {_listing(odd)}")


def check_about(path: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Refuses a checkpoint of a training on other data.

    Raises:
        BadInput: with what differs.
    """
    for name in sorted({*there, *here}):
        if there.get(name) != here.get(name):
            raise BadInput(
                f"{path} is of another training: {name} is {shown(there.get(name))} there and {shown(here.get(name))} "
                "here; go on with the same, or name another folder"
            )


def _listing(odd: Sequence[str]) -> str:
    more = f"; {len(odd) - SHOWN} more differ" if len(odd) > SHOWN else ""
    return "; ".join(odd[:SHOWN]) + more


def _only(kinds: _Kinds, begins: tuple[str, ...]) -> _Kinds:
    return {key: kind for key, kind in kinds.items() if key.startswith(begins)}


def _states(kinds: _Kinds) -> list[str]:
    """What an optimizer keeps of a parameter: `moment1`, ..."""
    return sorted({key.split("/")[1] for key in kinds if key.startswith(OPTIMIZER)})


def _listed(states: Sequence[str]) -> str:
    return ", ".join(states) or "no states"


def _differences(there: _Kinds, here: _Kinds) -> list[str]:
    """What differs between two models, a sentence each."""
    odd = []
    for key in sorted({*there, *here}):
        name = key.split("/", 1)[1]
        if key not in here:
            odd.append(f"{name} {list(there[key][1])} is not in this model")
        elif key not in there:
            odd.append(f"{name} {list(here[key][1])} of this model is not in it")
        elif there[key][1] != here[key][1]:
            odd.append(f"{name} is {list(there[key][1])} there and {list(here[key][1])} here")
        elif there[key][0] != here[key][0]:
            odd.append(f"{name} is {there[key][0]} there and {here[key][0]} here")
    return odd


def _fill(step: Step, mine: Sequence[Held], reader: Reader) -> None:
    for one in mine:
        step.progress.touch()
        # a state that is not saved is of a parameter that never had a gradient: it begins as new ones do
        if one.key in reader.manifest.tensors:
            one.fill([reader.read(one.key, box) for box in one.boxes])
    for key, element in remembering(step).items():
        element.row_state = _remembered(step, reader, key)


def _check(step: Step, reader: Reader, keys: Sequence[str]) -> None:
    """Reads what no rank needs, so that damage is found."""
    for key in keys:
        step.progress.touch()
        reader.read(key)


def _remembered(step: Step, reader: Reader, key: str) -> list[paddle.Tensor]:
    """What an element remembers of this rank's rows; nothing where nothing was saved."""
    saved = reader.manifest.tensors.get(key)
    if saved is None:
        return []
    total = global_rows(step, saved.shape[0])
    if saved.shape[0] != total:
        raise BadInput(
            f"{reader.folder} remembers {saved.shape[0]} rows of a global batch, this plan has {total}: "
            "go on with the same job.global_batch"
        )
    arrays = [reader.read(key, box) for box in row_boxes(step, total, saved.shape[1:])]
    return [_tensor(array, saved.dtype) for array in arrays]


def _tensor(array: Any, dtype: str) -> paddle.Tensor:
    tensor = paddle.empty(array.shape, dtype)
    put(tensor, array)
    return tensor


def _go_on(step: Step, facts: Mapping[str, Any]) -> None:
    """The learning rate's schedule and the loss scaler."""
    rate = innermost(step.optimizer)._learning_rate
    if facts["rate"] is not None and isinstance(rate, paddle.optimizer.lr.LRScheduler):
        rate.set_state_dict(dict(facts["rate"]))
    if facts["scaler"] is not None and step.precision.scaler is not None:
        step.precision.scaler.load_state_dict(dict(facts["scaler"]))


def _seed(step: Step, done: int) -> int:
    """Random numbers of its own for every tensor group, others than at the training's begin."""
    place = step.place
    share = place.tensor // step.part.member.degree  # of the sequence
    return zlib.crc32(f"{done} {list(place.rows)} {place.stage} {share}".encode())
