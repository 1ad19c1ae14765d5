"""The protos: as the contract says, and the modules that are checked in are made from them."""

from __future__ import annotations

import re
from configparser import ConfigParser
from pathlib import Path

import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from negd.control.gen import POOL
from negd.control.gen.negd.control.v1 import service_pb2 as own
from negd.control.gen.negd.control.v1 import service_pb2_grpc as own_grpc
from negd.control.gen.orlysync.common.v1 import types_pb2 as common
from negd.control.gen.orlysync.negentropy.v1 import service_pb2 as proto
from negd.control.gen.orlysync.negentropy.v1 import service_pb2_grpc
from tests.descriptors import (
    assert_has_typed_stubs,
    called_by,
    described,
    fresh_descriptors,
    lines_of,
    shown,
)

ROOT = Path(__file__).parents[2]
FILES = [
    "orlysync/common/v1/types.proto",
    "orlysync/negentropy/v1/service.proto",
    "negd/control/v1/service.proto",
]

NEGENTROPY = """
rpc Ready(common.Empty) returns (common.ReadyResponse)
rpc Start(common.Empty) returns (common.Empty)
rpc Stop(common.Empty) returns (common.Empty)
rpc HandleNegOpen(NegOpenRequest) returns (NegOpenResponse)
rpc HandleNegMsg(NegMsgRequest) returns (NegMsgResponse)
rpc HandleNegClose(NegCloseRequest) returns (common.Empty)
rpc SyncWithPeer(SyncPeerRequest) returns (stream SyncProgress)
rpc GetSyncStatus(common.Empty) returns (SyncStatusResponse)
rpc GetPeers(common.Empty) returns (PeersResponse)
rpc AddPeer(AddPeerRequest) returns (common.Empty)
rpc RemovePeer(RemovePeerRequest) returns (common.Empty)
rpc TriggerSync(TriggerSyncRequest) returns (common.Empty)
rpc GetPeerSyncState(PeerSyncStateRequest) returns (PeerSyncStateResponse)
rpc ListSessions(common.Empty) returns (ListSessionsResponse)
rpc CloseSession(CloseSessionRequest) returns (common.Empty)
NegOpenRequest { string subscription_id = 1; common.Filter filter = 2; bytes initial_message = 3; \
string connection_id = 4 }
NegOpenResponse { bytes message = 1; repeated bytes have_ids = 2; repeated bytes need_ids = 3; \
bool complete = 4; string error = 5 }
NegMsgRequest { string subscription_id = 1; bytes message = 2; string connection_id = 3 }
NegMsgResponse { bytes message = 1; repeated bytes have_ids = 2; repeated bytes need_ids = 3; \
bool complete = 4; string error = 5 }
NegCloseRequest { string subscription_id = 1; string connection_id = 2 }
SyncPeerRequest { string peer_url = 1; common.Filter filter = 2; int64 since = 3 }
SyncProgress { string peer_url = 1; int32 round = 2; int64 have_count = 3; int64 need_count = 4; \
int64 fetched_count = 5; int64 sent_count = 6; bool complete = 7; string error = 8 }
SyncStatusResponse { bool active = 1; int64 last_sync = 2; int32 peer_count = 3; \
repeated PeerSyncState peer_states = 4 }
PeersResponse { repeated string peers = 1 }
AddPeerRequest { string peer_url = 1 }
RemovePeerRequest { string peer_url = 1 }
TriggerSyncRequest { string peer_url = 1; common.Filter filter = 2 }
PeerSyncStateRequest { string peer_url = 1 }
PeerSyncStateResponse { PeerSyncState state = 1; bool found = 2 }
PeerSyncState { string peer_url = 1; int64 last_sync = 2; int64 events_synced = 3; \
string status = 4; string last_error = 5; int32 consecutive_failures = 6 }
ClientSession { string subscription_id = 1; string connection_id = 2; int64 created_at = 3; \
int64 last_activity = 4; int32 round_count = 5 }
ListSessionsResponse { repeated ClientSession sessions = 1 }
CloseSessionRequest { string subscription_id = 1; string connection_id = 2 }
"""

COMMON = """
Empty { }
ReadyResponse { bool ready = 1 }
Event { bytes id = 1; bytes pubkey = 2; int64 created_at = 3; uint32 kind = 4; \
repeated Tag tags = 5; bytes content = 6; bytes sig = 7 }
Tag { repeated bytes values = 1 }
Filter { repeated bytes ids = 1; repeated uint32 kinds = 2; repeated bytes authors = 3; \
map<string, TagSet> tags = 4; optional int64 since = 5; optional int64 until = 6; \
optional bytes search = 7; optional uint32 limit = 8 }
TagSet { repeated bytes values = 1 }
SyncInfo { string node_id = 1; string relay_url = 2; uint64 current_serial = 3; \
int32 peer_count = 4; string status = 5 }
PeerInfo { string url = 1; uint64 last_serial = 2; string status = 3; int64 last_poll = 4; \
int32 error_count = 5 }
HTTPRequest { string method = 1; string path = 2; map<string, string> headers = 3; \
bytes body = 4; string query_string = 5; string remote_addr = 6 }
HTTPResponse { int32 status_code = 1; map<string, string> headers = 2; bytes body = 3 }
"""


def test_the_service_is_the_one_that_callers_know() -> None:
    file = described(proto)
    assert file.name == FILES[1]
    assert file.package == "orlysync.negentropy.v1"
    assert file.options.go_package == (
        "next.orly.dev/pkg/proto/orlysync/negentropy/v1;negentropyv1"
    )
    assert [service.name for service in file.service] == ["NegentropyService"]
    assert shown(file) == lines_of(NEGENTROPY)


def test_the_common_types_are_the_ones_that_callers_know() -> None:
    file = described(common)
    assert file.name == FILES[0]
    assert file.package == "orlysync.common.v1"
    assert file.options.go_package == "next.orly.dev/pkg/proto/orlysync/common/v1;commonv1"
    assert shown(file) == lines_of(COMMON)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> dict[str, FileDescriptorProto]:
    """The descriptors that the .proto files give now."""
    return fresh_descriptors(FILES, tmp_path_factory.mktemp("protos"))


def test_what_is_negds_own_is_in_a_service_of_its_own() -> None:
    file = described(own)
    assert (file.name, file.package) == (FILES[2], "negd.control.v1")
    assert [service.name for service in file.service] == ["ControlService"]


@pytest.mark.parametrize("module", [common, proto, own], ids=FILES)
def test_the_generated_modules_are_fresh(
    module: object, fresh: dict[str, FileDescriptorProto]
) -> None:
    checked_in = described(module)
    assert checked_in == fresh[checked_in.name], "stale: run `make protos`"


@pytest.mark.parametrize(
    ("name", "servicer", "stub"),
    [
        (
            FILES[1],
            service_pb2_grpc.NegentropyServiceServicer,
            service_pb2_grpc.NegentropyServiceStub,
        ),
        (FILES[2], own_grpc.ControlServiceServicer, own_grpc.ControlServiceStub),
    ],
    ids=FILES[1:],
)
def test_the_generated_stubs_and_servicers_are_fresh(
    name: str, servicer: type, stub: type, fresh: dict[str, FileDescriptorProto]
) -> None:
    (service,) = fresh[name].service
    methods = {method.name for method in service.method}
    assert {method for method in vars(servicer) if not method.startswith("_")} == methods
    prefix = f"/{fresh[name].package}.{service.name}/"
    assert called_by(stub) == {prefix + method for method in methods}


@pytest.mark.parametrize("module", [common, proto, own], ids=FILES)
def test_the_stubs_for_type_checkers_are_fresh(module: object) -> None:
    assert_has_typed_stubs(module)


def test_another_copy_of_the_protos_can_live_in_the_same_process() -> None:
    for name in FILES:
        with pytest.raises(KeyError):
            descriptor_pool.Default().FindFileByName(name)
        POOL.FindFileByName(name)


def test_setup_asks_for_releases_that_the_generated_code_runs_on() -> None:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    asked = dict(
        line.split(">=") for line in setup["options"]["install_requires"].split() if ">=" in line
    )
    assert proto.__file__ is not None
    text = Path(proto.__file__).read_text()
    found = re.search(r"^# Protobuf Python Version: (\S+)$", text, re.MULTILINE)
    assert found is not None
    assert numbers(asked["protobuf"]) >= numbers(found[1])
    assert numbers(asked["grpcio"]) >= numbers(service_pb2_grpc.GRPC_GENERATED_VERSION)


def numbers(version: str) -> tuple[int, ...]:
    return (*map(int, version.split(".")), 0, 0, 0)[:3]
