"""Requests that are no message of their kind are answered as the caller's mistake."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

_UNREADABLE = object()


class ReadableRequests(grpc.ServerInterceptor):
    """Answers INVALID_ARGUMENT where gRPC's own answer, INTERNAL, would blame the server."""

    def intercept_service(
        self, continuation: Callable[[Any], Any], handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        """Wrap the handler of a call, where there is one; every method takes one request."""
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        behave, make = handler.unary_unary, grpc.unary_unary_rpc_method_handler
        if handler.response_streaming:
            behave, make = handler.unary_stream, grpc.unary_stream_rpc_method_handler
        read = _lenient(handler.request_deserializer)
        return make(_refusing(behave), read, handler.response_serializer)


def _lenient(decode: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def read(data: bytes) -> Any:
        try:
            return decode(data)
        except DecodeError:
            return _UNREADABLE

    return read


def _refusing(behave: Callable[[Any, grpc.ServicerContext], Any]) -> Callable[..., Any]:
    def handle(request: Any, context: grpc.ServicerContext) -> Any:
        if request is _UNREADABLE:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the request cannot be decoded")
        return behave(request, context)

    return handle
