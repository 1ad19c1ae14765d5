"""The database's protos: as the contract says, and the modules are made from them."""

from __future__ import annotations

import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from negd.storage.orlydb.gen import POOL
from negd.storage.orlydb.gen.orlydb.v1 import service_pb2 as proto
from negd.storage.orlydb.gen.orlydb.v1 import service_pb2_grpc
from tests.descriptors import (
    assert_has_typed_stubs,
    called_by,
    described,
    fresh_descriptors,
    lines_of,
    shown,
)

FILE = "orlydb/v1/service.proto"

CONTRACT = """
rpc Ready(Empty) returns (ReadyResponse)
rpc SaveEvent(SaveEventRequest) returns (SaveEventResponse)
rpc QueryForIds(QueryEventsRequest) returns (IdPkTsList)
rpc GetSerialsByIds(GetSerialsByIdsRequest) returns (SerialMap)
rpc FetchEventsBySerials(FetchEventsBySerialRequest) returns (EventMap)
Empty { }
ReadyResponse { bool ready = 1 }
Event { bytes id = 1; bytes pubkey = 2; int64 created_at = 3; uint32 kind = 4; \
repeated Tag tags = 5; bytes content = 6; bytes sig = 7 }
Tag { repeated bytes values = 1 }
Filter { repeated bytes ids = 1; repeated uint32 kinds = 2; repeated bytes authors = 3; \
map<string, TagSet> tags = 4; optional int64 since = 5; optional int64 until = 6; \
optional bytes search = 7; optional uint32 limit = 8 }
TagSet { repeated bytes values = 1 }
SaveEventRequest { Event event = 1 }
SaveEventResponse { bool exists = 1 }
QueryEventsRequest { Filter filter = 1 }
IdPkTsList { repeated IdPkTs items = 1 }
IdPkTs { bytes id = 1; bytes pubkey = 2; int64 timestamp = 3; uint64 serial = 4 }
GetSerialsByIdsRequest { repeated bytes ids = 1 }
SerialMap { map<string, uint64> serials = 1 }
FetchEventsBySerialRequest { repeated uint64 serials = 1 }
EventMap { map<uint64, Event> events = 1 }
"""


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> FileDescriptorProto:
    """The descriptor that the .proto file gives now."""
    return fresh_descriptors([FILE], tmp_path_factory.mktemp("protos"))[FILE]


def test_the_service_is_the_part_of_the_contract_that_is_used() -> None:
    file = described(proto)
    assert file.package == "orlydb.v1"
    assert [service.name for service in file.service] == ["DatabaseService"]
    assert shown(file) == lines_of(CONTRACT)


def test_the_generated_module_is_fresh(fresh: FileDescriptorProto) -> None:
    assert described(proto) == fresh, "stale: run `make protos`"


def test_the_generated_stub_and_servicer_are_fresh(fresh: FileDescriptorProto) -> None:
    methods = {method.name for method in fresh.service[0].method}
    servicer = service_pb2_grpc.DatabaseServiceServicer
    assert {name for name in vars(servicer) if not name.startswith("_")} == methods
    prefix = "/orlydb.v1.DatabaseService/"
    assert called_by(service_pb2_grpc.DatabaseServiceStub) == {prefix + name for name in methods}


def test_the_stubs_for_type_checkers_are_fresh() -> None:
    assert_has_typed_stubs(proto)


def test_another_copy_of_the_protos_can_live_in_the_same_process() -> None:
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindFileByName(FILE)
    POOL.FindFileByName(FILE)
