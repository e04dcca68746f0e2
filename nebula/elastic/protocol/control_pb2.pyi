from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Hello(_message.Message):
    __slots__ = ("protocol", "node", "slots", "generation", "epoch", "address", "peer_port", "ports", "wall_s", "version", "instance", "fitness", "copies")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PEER_PORT_FIELD_NUMBER: _ClassVar[int]
    PORTS_FIELD_NUMBER: _ClassVar[int]
    WALL_S_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    FITNESS_FIELD_NUMBER: _ClassVar[int]
    COPIES_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    node: str
    slots: int
    generation: int
    epoch: int
    address: str
    peer_port: int
    ports: _containers.RepeatedScalarFieldContainer[int]
    wall_s: float
    version: str
    instance: int
    fitness: Fitness
    copies: _containers.RepeatedCompositeFieldContainer[Copy]
    def __init__(self, protocol: _Optional[int] = ..., node: _Optional[str] = ..., slots: _Optional[int] = ..., generation: _Optional[int] = ..., epoch: _Optional[int] = ..., address: _Optional[str] = ..., peer_port: _Optional[int] = ..., ports: _Optional[_Iterable[int]] = ..., wall_s: _Optional[float] = ..., version: _Optional[str] = ..., instance: _Optional[int] = ..., fitness: _Optional[_Union[Fitness, _Mapping]] = ..., copies: _Optional[_Iterable[_Union[Copy, _Mapping]]] = ...) -> None: ...

class Fitness(_message.Message):
    __slots__ = ("flops", "copy_bytes_per_s")
    FLOPS_FIELD_NUMBER: _ClassVar[int]
    COPY_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    flops: float
    copy_bytes_per_s: float
    def __init__(self, flops: _Optional[float] = ..., copy_bytes_per_s: _Optional[float] = ...) -> None: ...

class Probe(_message.Message):
    __slots__ = ("epoch", "peers")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    peers: _containers.RepeatedCompositeFieldContainer[Source]
    def __init__(self, epoch: _Optional[int] = ..., peers: _Optional[_Iterable[_Union[Source, _Mapping]]] = ...) -> None: ...

class Rate(_message.Message):
    __slots__ = ("node", "bytes_per_s")
    NODE_FIELD_NUMBER: _ClassVar[int]
    BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    node: str
    bytes_per_s: float
    def __init__(self, node: _Optional[str] = ..., bytes_per_s: _Optional[float] = ...) -> None: ...

class Probed(_message.Message):
    __slots__ = ("rates",)
    RATES_FIELD_NUMBER: _ClassVar[int]
    rates: _containers.RepeatedCompositeFieldContainer[Rate]
    def __init__(self, rates: _Optional[_Iterable[_Union[Rate, _Mapping]]] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("protocol", "epoch", "job", "heartbeat_s", "environment", "memory_every")
    class EnvironmentEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_S_FIELD_NUMBER: _ClassVar[int]
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    MEMORY_EVERY_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    epoch: int
    job: str
    heartbeat_s: float
    environment: _containers.ScalarMap[str, str]
    memory_every: int
    def __init__(self, protocol: _Optional[int] = ..., epoch: _Optional[int] = ..., job: _Optional[str] = ..., heartbeat_s: _Optional[float] = ..., environment: _Optional[_Mapping[str, str]] = ..., memory_every: _Optional[int] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("sentence", "passing")
    SENTENCE_FIELD_NUMBER: _ClassVar[int]
    PASSING_FIELD_NUMBER: _ClassVar[int]
    sentence: str
    passing: bool
    def __init__(self, sentence: _Optional[str] = ..., passing: _Optional[bool] = ...) -> None: ...

class Rank(_message.Message):
    __slots__ = ("rank", "node", "local", "device", "endpoint", "environment")
    class EnvironmentEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    RANK_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    rank: int
    node: str
    local: int
    device: int
    endpoint: str
    environment: _containers.ScalarMap[str, str]
    def __init__(self, rank: _Optional[int] = ..., node: _Optional[str] = ..., local: _Optional[int] = ..., device: _Optional[int] = ..., endpoint: _Optional[str] = ..., environment: _Optional[_Mapping[str, str]] = ...) -> None: ...

class Source(_message.Message):
    __slots__ = ("name", "node", "address", "rank", "alone")
    NAME_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    ALONE_FIELD_NUMBER: _ClassVar[int]
    name: str
    node: str
    address: str
    rank: int
    alone: bool
    def __init__(self, name: _Optional[str] = ..., node: _Optional[str] = ..., address: _Optional[str] = ..., rank: _Optional[int] = ..., alone: _Optional[bool] = ...) -> None: ...

class Start(_message.Message):
    __slots__ = ("epoch", "generation", "plan_json", "ranks", "master", "words", "environment", "resume_step", "sources", "neighbour", "everything", "log_folder", "apart", "shared")
    class EnvironmentEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    PLAN_JSON_FIELD_NUMBER: _ClassVar[int]
    RANKS_FIELD_NUMBER: _ClassVar[int]
    MASTER_FIELD_NUMBER: _ClassVar[int]
    WORDS_FIELD_NUMBER: _ClassVar[int]
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    RESUME_STEP_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    NEIGHBOUR_FIELD_NUMBER: _ClassVar[int]
    EVERYTHING_FIELD_NUMBER: _ClassVar[int]
    LOG_FOLDER_FIELD_NUMBER: _ClassVar[int]
    APART_FIELD_NUMBER: _ClassVar[int]
    SHARED_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    generation: int
    plan_json: str
    ranks: _containers.RepeatedCompositeFieldContainer[Rank]
    master: str
    words: _containers.RepeatedScalarFieldContainer[str]
    environment: _containers.ScalarMap[str, str]
    resume_step: int
    sources: _containers.RepeatedCompositeFieldContainer[Source]
    neighbour: str
    everything: bool
    log_folder: str
    apart: bool
    shared: bytes
    def __init__(self, epoch: _Optional[int] = ..., generation: _Optional[int] = ..., plan_json: _Optional[str] = ..., ranks: _Optional[_Iterable[_Union[Rank, _Mapping]]] = ..., master: _Optional[str] = ..., words: _Optional[_Iterable[str]] = ..., environment: _Optional[_Mapping[str, str]] = ..., resume_step: _Optional[int] = ..., sources: _Optional[_Iterable[_Union[Source, _Mapping]]] = ..., neighbour: _Optional[str] = ..., everything: _Optional[bool] = ..., log_folder: _Optional[str] = ..., apart: _Optional[bool] = ..., shared: _Optional[bytes] = ...) -> None: ...

class Again(_message.Message):
    __slots__ = ("epoch", "generation", "rank")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    generation: int
    rank: int
    def __init__(self, epoch: _Optional[int] = ..., generation: _Optional[int] = ..., rank: _Optional[int] = ...) -> None: ...

class Stop(_message.Message):
    __slots__ = ("epoch", "generation", "at_step", "dump", "on_disk")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    AT_STEP_FIELD_NUMBER: _ClassVar[int]
    DUMP_FIELD_NUMBER: _ClassVar[int]
    ON_DISK_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    generation: int
    at_step: int
    dump: bool
    on_disk: bool
    def __init__(self, epoch: _Optional[int] = ..., generation: _Optional[int] = ..., at_step: _Optional[int] = ..., dump: _Optional[bool] = ..., on_disk: _Optional[bool] = ...) -> None: ...

class Leave(_message.Message):
    __slots__ = ("epoch", "because", "failed")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    BECAUSE_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    because: str
    failed: bool
    def __init__(self, epoch: _Optional[int] = ..., because: _Optional[str] = ..., failed: _Optional[bool] = ...) -> None: ...

class Inject(_message.Message):
    __slots__ = ("epoch", "fault", "local", "seconds", "weather")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    FAULT_FIELD_NUMBER: _ClassVar[int]
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    WEATHER_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    fault: str
    local: int
    seconds: float
    weather: Weather
    def __init__(self, epoch: _Optional[int] = ..., fault: _Optional[str] = ..., local: _Optional[int] = ..., seconds: _Optional[float] = ..., weather: _Optional[_Union[Weather, _Mapping]] = ...) -> None: ...

class Weather(_message.Message):
    __slots__ = ("delay_s", "bytes_per_s", "loss", "no_way_out", "no_way_in")
    DELAY_S_FIELD_NUMBER: _ClassVar[int]
    BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    NO_WAY_OUT_FIELD_NUMBER: _ClassVar[int]
    NO_WAY_IN_FIELD_NUMBER: _ClassVar[int]
    delay_s: float
    bytes_per_s: float
    loss: float
    no_way_out: bool
    no_way_in: bool
    def __init__(self, delay_s: _Optional[float] = ..., bytes_per_s: _Optional[float] = ..., loss: _Optional[float] = ..., no_way_out: _Optional[bool] = ..., no_way_in: _Optional[bool] = ...) -> None: ...

class Beat(_message.Message):
    __slots__ = ("epoch",)
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    def __init__(self, epoch: _Optional[int] = ...) -> None: ...

class Look(_message.Message):
    __slots__ = ("epoch", "generation")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    generation: int
    def __init__(self, epoch: _Optional[int] = ..., generation: _Optional[int] = ...) -> None: ...

class Accuse(_message.Message):
    __slots__ = ("epoch", "generation", "rank")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    generation: int
    rank: int
    def __init__(self, epoch: _Optional[int] = ..., generation: _Optional[int] = ..., rank: _Optional[int] = ...) -> None: ...

class Rescue(_message.Message):
    __slots__ = ("epoch", "generation", "sources")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    generation: int
    sources: _containers.RepeatedCompositeFieldContainer[Source]
    def __init__(self, epoch: _Optional[int] = ..., generation: _Optional[int] = ..., sources: _Optional[_Iterable[_Union[Source, _Mapping]]] = ...) -> None: ...

class ToAgent(_message.Message):
    __slots__ = ("welcome", "refusal", "start", "stop", "leave", "again", "inject", "probe", "beat", "look", "accuse", "rescue")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    LEAVE_FIELD_NUMBER: _ClassVar[int]
    AGAIN_FIELD_NUMBER: _ClassVar[int]
    INJECT_FIELD_NUMBER: _ClassVar[int]
    PROBE_FIELD_NUMBER: _ClassVar[int]
    BEAT_FIELD_NUMBER: _ClassVar[int]
    LOOK_FIELD_NUMBER: _ClassVar[int]
    ACCUSE_FIELD_NUMBER: _ClassVar[int]
    RESCUE_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    refusal: Refusal
    start: Start
    stop: Stop
    leave: Leave
    again: Again
    inject: Inject
    probe: Probe
    beat: Beat
    look: Look
    accuse: Accuse
    rescue: Rescue
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., refusal: _Optional[_Union[Refusal, _Mapping]] = ..., start: _Optional[_Union[Start, _Mapping]] = ..., stop: _Optional[_Union[Stop, _Mapping]] = ..., leave: _Optional[_Union[Leave, _Mapping]] = ..., again: _Optional[_Union[Again, _Mapping]] = ..., inject: _Optional[_Union[Inject, _Mapping]] = ..., probe: _Optional[_Union[Probe, _Mapping]] = ..., beat: _Optional[_Union[Beat, _Mapping]] = ..., look: _Optional[_Union[Look, _Mapping]] = ..., accuse: _Optional[_Union[Accuse, _Mapping]] = ..., rescue: _Optional[_Union[Rescue, _Mapping]] = ...) -> None: ...

class Failed(_message.Message):
    __slots__ = ("generation", "rank", "fault", "cause", "last_lines", "seen_s")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    FAULT_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    LAST_LINES_FIELD_NUMBER: _ClassVar[int]
    SEEN_S_FIELD_NUMBER: _ClassVar[int]
    generation: int
    rank: int
    fault: str
    cause: str
    last_lines: _containers.RepeatedScalarFieldContainer[str]
    seen_s: float
    def __init__(self, generation: _Optional[int] = ..., rank: _Optional[int] = ..., fault: _Optional[str] = ..., cause: _Optional[str] = ..., last_lines: _Optional[_Iterable[str]] = ..., seen_s: _Optional[float] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("generation", "least_step", "most_step", "step_s", "warm", "section", "saving_s", "paces", "written_bytes", "unkept")
    class WrittenBytesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    LEAST_STEP_FIELD_NUMBER: _ClassVar[int]
    MOST_STEP_FIELD_NUMBER: _ClassVar[int]
    STEP_S_FIELD_NUMBER: _ClassVar[int]
    WARM_FIELD_NUMBER: _ClassVar[int]
    SECTION_FIELD_NUMBER: _ClassVar[int]
    SAVING_S_FIELD_NUMBER: _ClassVar[int]
    PACES_FIELD_NUMBER: _ClassVar[int]
    WRITTEN_BYTES_FIELD_NUMBER: _ClassVar[int]
    UNKEPT_FIELD_NUMBER: _ClassVar[int]
    generation: int
    least_step: int
    most_step: int
    step_s: float
    warm: float
    section: int
    saving_s: float
    paces: _containers.RepeatedCompositeFieldContainer[Pace]
    written_bytes: _containers.ScalarMap[str, int]
    unkept: bool
    def __init__(self, generation: _Optional[int] = ..., least_step: _Optional[int] = ..., most_step: _Optional[int] = ..., step_s: _Optional[float] = ..., warm: _Optional[float] = ..., section: _Optional[int] = ..., saving_s: _Optional[float] = ..., paces: _Optional[_Iterable[_Union[Pace, _Mapping]]] = ..., written_bytes: _Optional[_Mapping[str, int]] = ..., unkept: _Optional[bool] = ...) -> None: ...

class Pace(_message.Message):
    __slots__ = ("rank", "steps", "work_s")
    RANK_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    WORK_S_FIELD_NUMBER: _ClassVar[int]
    rank: int
    steps: int
    work_s: float
    def __init__(self, rank: _Optional[int] = ..., steps: _Optional[int] = ..., work_s: _Optional[float] = ...) -> None: ...

class Copy(_message.Message):
    __slots__ = ("name", "generation", "step", "rank", "alone", "ranks")
    NAME_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    ALONE_FIELD_NUMBER: _ClassVar[int]
    RANKS_FIELD_NUMBER: _ClassVar[int]
    name: str
    generation: int
    step: int
    rank: int
    alone: bool
    ranks: int
    def __init__(self, name: _Optional[str] = ..., generation: _Optional[int] = ..., step: _Optional[int] = ..., rank: _Optional[int] = ..., alone: _Optional[bool] = ..., ranks: _Optional[int] = ...) -> None: ...

class Stopped(_message.Message):
    __slots__ = ("generation", "copies", "ports", "most_step")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    COPIES_FIELD_NUMBER: _ClassVar[int]
    PORTS_FIELD_NUMBER: _ClassVar[int]
    MOST_STEP_FIELD_NUMBER: _ClassVar[int]
    generation: int
    copies: _containers.RepeatedCompositeFieldContainer[Copy]
    ports: _containers.RepeatedScalarFieldContainer[int]
    most_step: int
    def __init__(self, generation: _Optional[int] = ..., copies: _Optional[_Iterable[_Union[Copy, _Mapping]]] = ..., ports: _Optional[_Iterable[int]] = ..., most_step: _Optional[int] = ...) -> None: ...

class Finished(_message.Message):
    __slots__ = ("generation",)
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    generation: int
    def __init__(self, generation: _Optional[int] = ...) -> None: ...

class Refused(_message.Message):
    __slots__ = ("generation", "cause")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    generation: int
    cause: str
    def __init__(self, generation: _Optional[int] = ..., cause: _Optional[str] = ...) -> None: ...

class Rescued(_message.Message):
    __slots__ = ("checkpoint", "cause")
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    checkpoint: str
    cause: str
    def __init__(self, checkpoint: _Optional[str] = ..., cause: _Optional[str] = ...) -> None: ...

class Leaving(_message.Message):
    __slots__ = ("because",)
    BECAUSE_FIELD_NUMBER: _ClassVar[int]
    because: str
    def __init__(self, because: _Optional[str] = ...) -> None: ...

class Remark(_message.Message):
    __slots__ = ("generation", "rank", "kind", "sentence")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    SENTENCE_FIELD_NUMBER: _ClassVar[int]
    generation: int
    rank: int
    kind: str
    sentence: str
    def __init__(self, generation: _Optional[int] = ..., rank: _Optional[int] = ..., kind: _Optional[str] = ..., sentence: _Optional[str] = ...) -> None: ...

class Standing(_message.Message):
    __slots__ = ("rank", "step", "section", "silent_s", "frozen", "parked")
    RANK_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    SECTION_FIELD_NUMBER: _ClassVar[int]
    SILENT_S_FIELD_NUMBER: _ClassVar[int]
    FROZEN_FIELD_NUMBER: _ClassVar[int]
    PARKED_FIELD_NUMBER: _ClassVar[int]
    rank: int
    step: int
    section: int
    silent_s: float
    frozen: bool
    parked: bool
    def __init__(self, rank: _Optional[int] = ..., step: _Optional[int] = ..., section: _Optional[int] = ..., silent_s: _Optional[float] = ..., frozen: _Optional[bool] = ..., parked: _Optional[bool] = ...) -> None: ...

class Standings(_message.Message):
    __slots__ = ("generation", "ranks", "hangs")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    RANKS_FIELD_NUMBER: _ClassVar[int]
    HANGS_FIELD_NUMBER: _ClassVar[int]
    generation: int
    ranks: _containers.RepeatedCompositeFieldContainer[Standing]
    hangs: bool
    def __init__(self, generation: _Optional[int] = ..., ranks: _Optional[_Iterable[_Union[Standing, _Mapping]]] = ..., hangs: _Optional[bool] = ...) -> None: ...

class FromAgent(_message.Message):
    __slots__ = ("hello", "failed", "progress", "stopped", "finished", "refused", "leaving", "probed", "remark", "standings", "rescued")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    STOPPED_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    LEAVING_FIELD_NUMBER: _ClassVar[int]
    PROBED_FIELD_NUMBER: _ClassVar[int]
    REMARK_FIELD_NUMBER: _ClassVar[int]
    STANDINGS_FIELD_NUMBER: _ClassVar[int]
    RESCUED_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    failed: Failed
    progress: Progress
    stopped: Stopped
    finished: Finished
    refused: Refused
    leaving: Leaving
    probed: Probed
    remark: Remark
    standings: Standings
    rescued: Rescued
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., failed: _Optional[_Union[Failed, _Mapping]] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., stopped: _Optional[_Union[Stopped, _Mapping]] = ..., finished: _Optional[_Union[Finished, _Mapping]] = ..., refused: _Optional[_Union[Refused, _Mapping]] = ..., leaving: _Optional[_Union[Leaving, _Mapping]] = ..., probed: _Optional[_Union[Probed, _Mapping]] = ..., remark: _Optional[_Union[Remark, _Mapping]] = ..., standings: _Optional[_Union[Standings, _Mapping]] = ..., rescued: _Optional[_Union[Rescued, _Mapping]] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("name", "generation", "step", "node", "rank", "data", "sha256")
    NAME_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    name: str
    generation: int
    step: int
    node: str
    rank: int
    data: bytes
    sha256: bytes
    def __init__(self, name: _Optional[str] = ..., generation: _Optional[int] = ..., step: _Optional[int] = ..., node: _Optional[str] = ..., rank: _Optional[int] = ..., data: _Optional[bytes] = ..., sha256: _Optional[bytes] = ...) -> None: ...

class FetchRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ("protocol",)
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    def __init__(self, protocol: _Optional[int] = ...) -> None: ...

class NodeStatus(_message.Message):
    __slots__ = ("node", "state", "slots", "step", "ranks", "warm", "detail")
    NODE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    RANKS_FIELD_NUMBER: _ClassVar[int]
    WARM_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    node: str
    state: str
    slots: int
    step: int
    ranks: _containers.RepeatedScalarFieldContainer[int]
    warm: float
    detail: str
    def __init__(self, node: _Optional[str] = ..., state: _Optional[str] = ..., slots: _Optional[int] = ..., step: _Optional[int] = ..., ranks: _Optional[_Iterable[int]] = ..., warm: _Optional[float] = ..., detail: _Optional[str] = ...) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("job", "phase", "epoch", "generation", "step", "restarts", "why", "least_nodes", "most_nodes", "split", "step_s", "nodes", "controller", "account_s", "lost_steps")
    class AccountSEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    JOB_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    RESTARTS_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    LEAST_NODES_FIELD_NUMBER: _ClassVar[int]
    MOST_NODES_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    STEP_S_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    CONTROLLER_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_S_FIELD_NUMBER: _ClassVar[int]
    LOST_STEPS_FIELD_NUMBER: _ClassVar[int]
    job: str
    phase: str
    epoch: int
    generation: int
    step: int
    restarts: int
    why: str
    least_nodes: int
    most_nodes: int
    split: str
    step_s: float
    nodes: _containers.RepeatedCompositeFieldContainer[NodeStatus]
    controller: str
    account_s: _containers.ScalarMap[str, float]
    lost_steps: int
    def __init__(self, job: _Optional[str] = ..., phase: _Optional[str] = ..., epoch: _Optional[int] = ..., generation: _Optional[int] = ..., step: _Optional[int] = ..., restarts: _Optional[int] = ..., why: _Optional[str] = ..., least_nodes: _Optional[int] = ..., most_nodes: _Optional[int] = ..., split: _Optional[str] = ..., step_s: _Optional[float] = ..., nodes: _Optional[_Iterable[_Union[NodeStatus, _Mapping]]] = ..., controller: _Optional[str] = ..., account_s: _Optional[_Mapping[str, float]] = ..., lost_steps: _Optional[int] = ...) -> None: ...

class EventsRequest(_message.Message):
    __slots__ = ("protocol", "after", "follow")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    after: int
    follow: bool
    def __init__(self, protocol: _Optional[int] = ..., after: _Optional[int] = ..., follow: _Optional[bool] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("number", "wall_s", "generation", "epoch", "step", "kind", "because", "last_lines", "seconds", "node", "rank", "trace")
    class SecondsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    WALL_S_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    BECAUSE_FIELD_NUMBER: _ClassVar[int]
    LAST_LINES_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    TRACE_FIELD_NUMBER: _ClassVar[int]
    number: int
    wall_s: float
    generation: int
    epoch: int
    step: int
    kind: str
    because: str
    last_lines: _containers.RepeatedScalarFieldContainer[str]
    seconds: _containers.ScalarMap[str, float]
    node: str
    rank: int
    trace: str
    def __init__(self, number: _Optional[int] = ..., wall_s: _Optional[float] = ..., generation: _Optional[int] = ..., epoch: _Optional[int] = ..., step: _Optional[int] = ..., kind: _Optional[str] = ..., because: _Optional[str] = ..., last_lines: _Optional[_Iterable[str]] = ..., seconds: _Optional[_Mapping[str, float]] = ..., node: _Optional[str] = ..., rank: _Optional[int] = ..., trace: _Optional[str] = ...) -> None: ...

class ScaleRequest(_message.Message):
    __slots__ = ("protocol", "least", "most")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    LEAST_FIELD_NUMBER: _ClassVar[int]
    MOST_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    least: int
    most: int
    def __init__(self, protocol: _Optional[int] = ..., least: _Optional[int] = ..., most: _Optional[int] = ...) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ("protocol", "node", "because")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    BECAUSE_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    node: str
    because: str
    def __init__(self, protocol: _Optional[int] = ..., node: _Optional[str] = ..., because: _Optional[str] = ...) -> None: ...

class InjectRequest(_message.Message):
    __slots__ = ("protocol", "node", "fault", "local", "seconds", "weather")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    FAULT_FIELD_NUMBER: _ClassVar[int]
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    WEATHER_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    node: str
    fault: str
    local: int
    seconds: float
    weather: Weather
    def __init__(self, protocol: _Optional[int] = ..., node: _Optional[str] = ..., fault: _Optional[str] = ..., local: _Optional[int] = ..., seconds: _Optional[float] = ..., weather: _Optional[_Union[Weather, _Mapping]] = ...) -> None: ...

class Answer(_message.Message):
    __slots__ = ("done", "sentence")
    DONE_FIELD_NUMBER: _ClassVar[int]
    SENTENCE_FIELD_NUMBER: _ClassVar[int]
    done: bool
    sentence: str
    def __init__(self, done: _Optional[bool] = ..., sentence: _Optional[str] = ...) -> None: ...
