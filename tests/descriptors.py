"""What tests of generated modules share: descriptors in the words of a contract, and fresh ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)
from grpc_tools import protoc  # type: ignore[import-untyped]

ROOT = Path(__file__).parents[1]


def described(module: object) -> FileDescriptorProto:
    found = FileDescriptorProto()
    module.DESCRIPTOR.CopyToProto(found)  # type: ignore[attr-defined]
    return found


def shown(file: FileDescriptorProto) -> list[str]:
    """The file in the words of the contract."""
    lines = [
        f"rpc {method.name}({name_of(method.input_type, file)}) returns "
        f"({'stream ' if method.server_streaming else ''}{name_of(method.output_type, file)})"
        for service in file.service
        for method in service.method
    ]
    for message in file.message_type:
        maps = {nested.name: nested for nested in message.nested_type}
        fields = []
        for field in message.field:
            kind = kind_of(field, file)
            if kind in maps:
                key, value = (kind_of(part, file) for part in maps[kind].field)
                kind = f"map<{key}, {value}>"
            elif field.label == FieldDescriptorProto.LABEL_REPEATED:
                kind = f"repeated {kind}"
            elif field.proto3_optional:
                kind = f"optional {kind}"
            fields.append(f"{kind} {field.name} = {field.number}")
        lines.append(f"{message.name} {{ {'; '.join(fields)}{' ' if fields else ''}}}")
    return lines


def name_of(full: str, file: FileDescriptorProto) -> str:
    own = full.startswith(f".{file.package}.")
    return f"{'' if own else 'common.'}{full.rpartition('.')[2]}"


def kind_of(field: FieldDescriptorProto, file: FileDescriptorProto) -> str:
    if field.type == FieldDescriptorProto.TYPE_MESSAGE:
        return name_of(field.type_name, file)
    return FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()


def lines_of(text: str) -> list[str]:
    return text.strip().splitlines()


def fresh_descriptors(names: Sequence[str], folder: Path) -> dict[str, FileDescriptorProto]:
    """What the .proto files of those names give now, by name.

    :param folder: an empty one, to work in.
    """
    target = folder / "set"
    builtin = files("grpc_tools") / "_proto"
    sources = [f"--proto_path={ROOT / 'protos'}", f"--proto_path={builtin}"]
    assert protoc.main(["protoc", *sources, f"--descriptor_set_out={target}", *names]) == 0
    found = FileDescriptorSet.FromString(target.read_bytes())
    for file in found.file:
        for message in file.message_type:
            _forget_json_names(message)
    return {file.name: file for file in found.file}


def _forget_json_names(message: DescriptorProto) -> None:
    """protoc derives them from the names, and leaves them out of generated code."""
    for field in message.field:
        field.ClearField("json_name")
    for nested in message.nested_type:
        _forget_json_names(nested)


def called_by(stub: Callable[[object], object]) -> set[str]:
    """The paths of the methods that a generated stub calls."""

    class Channel:
        def __init__(self) -> None:
            self.paths: set[str] = set()

        def note(self, path: str, **_: object) -> None:
            self.paths.add(path)

        unary_unary = unary_stream = note

    channel = Channel()
    stub(channel)
    return channel.paths


def assert_has_typed_stubs(module: object) -> None:
    """The module's .pyi names every message and every field."""
    stub = Path(module.__file__).with_suffix(".pyi").read_text()  # type: ignore[attr-defined]
    for message in described(module).message_type:
        _, found, body = stub.partition(f"\nclass {message.name}(")
        assert found, message.name
        body = body.partition("\nclass ")[0]
        for field in message.field:
            assert f"    {field.name}: " in body, f"{message.name}.{field.name}"
