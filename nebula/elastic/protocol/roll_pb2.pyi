from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Call(_message.Message):
    __slots__ = ("protocol", "node", "known", "number")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    node: str
    known: bool
    number: int
    def __init__(self, protocol: _Optional[int] = ..., node: _Optional[str] = ..., known: _Optional[bool] = ..., number: _Optional[int] = ...) -> None: ...

class Listening(_message.Message):
    __slots__ = ("address", "fresh", "epoch", "members")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    FRESH_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    address: str
    fresh: bool
    epoch: int
    members: int
    def __init__(self, address: _Optional[str] = ..., fresh: _Optional[bool] = ..., epoch: _Optional[int] = ..., members: _Optional[int] = ...) -> None: ...

class Broken(_message.Message):
    __slots__ = ("epoch", "why")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    why: str
    def __init__(self, epoch: _Optional[int] = ..., why: _Optional[str] = ...) -> None: ...

class Settled(_message.Message):
    __slots__ = ("epoch",)
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    def __init__(self, epoch: _Optional[int] = ...) -> None: ...

class Done(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class MemberSays(_message.Message):
    __slots__ = ("call", "listening", "broken", "settled", "done")
    CALL_FIELD_NUMBER: _ClassVar[int]
    LISTENING_FIELD_NUMBER: _ClassVar[int]
    BROKEN_FIELD_NUMBER: _ClassVar[int]
    SETTLED_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    call: Call
    listening: Listening
    broken: Broken
    settled: Settled
    done: Done
    def __init__(self, call: _Optional[_Union[Call, _Mapping]] = ..., listening: _Optional[_Union[Listening, _Mapping]] = ..., broken: _Optional[_Union[Broken, _Mapping]] = ..., settled: _Optional[_Union[Settled, _Mapping]] = ..., done: _Optional[_Union[Done, _Mapping]] = ...) -> None: ...

class Number(_message.Message):
    __slots__ = ("number", "token", "refusal")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    number: int
    token: bytes
    refusal: str
    def __init__(self, number: _Optional[int] = ..., token: _Optional[bytes] = ..., refusal: _Optional[str] = ...) -> None: ...

class OneMember(_message.Message):
    __slots__ = ("number", "address", "fresh")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    FRESH_FIELD_NUMBER: _ClassVar[int]
    number: int
    address: str
    fresh: bool
    def __init__(self, number: _Optional[int] = ..., address: _Optional[str] = ..., fresh: _Optional[bool] = ...) -> None: ...

class AllMembers(_message.Message):
    __slots__ = ("epoch", "members")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    members: _containers.RepeatedCompositeFieldContainer[OneMember]
    def __init__(self, epoch: _Optional[int] = ..., members: _Optional[_Iterable[_Union[OneMember, _Mapping]]] = ...) -> None: ...

class MemberHears(_message.Message):
    __slots__ = ("number", "members")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    number: Number
    members: AllMembers
    def __init__(self, number: _Optional[_Union[Number, _Mapping]] = ..., members: _Optional[_Union[AllMembers, _Mapping]] = ...) -> None: ...
