"""A gRPC client that knows nothing of Freehold but an address: finds the services by reflection and calls them.

Reads FREEHOLD_SERVER, FREEHOLD_TOKEN and FREEHOLD_CA. Needs the package grpcio-reflection.
"""

import os
import sys
from urllib.parse import urlsplit

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

SERVICES = ["Access", "Audit", "Billing", "Catalog", "Host", "Lease", "Organization", "Telemetry"]
DEADLINE_SECONDS = 10


def call(channel, pool, path, fields=None, token=None):
    """Calls a unary method by its full path, with messages made from what reflection says."""
    service, method = path.rsplit("/", 1)
    method = pool.FindServiceByName(service).FindMethodByName(method)
    request = GetMessageClass(method.input_type)(**(fields or {}))
    invoke = channel.unary_unary(
        f"/{path}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )
    metadata = [("authorization", f"Bearer {token}")] if token else None
    return invoke(request, timeout=DEADLINE_SECONDS, metadata=metadata)


def check_reflection_v1(channel):
    """The messages of v1 and v1alpha are the same on the wire; the client library speaks only the older one."""
    invoke = channel.stream_stream(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    answers = invoke(iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=DEADLINE_SECONDS)
    names = {service.name for service in next(answers).list_services_response.service}
    assert "freehold.v1.LeaseService" in names, names


def main():
    address = urlsplit(os.environ["FREEHOLD_SERVER"]).netloc
    with open(os.environ["FREEHOLD_CA"], "rb") as file:
        credentials = grpc.ssl_channel_credentials(file.read())
    token = os.environ["FREEHOLD_TOKEN"]
    with grpc.secure_channel(address, credentials) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        pool = DescriptorPool(database)
        found = set(database.get_services())
        missing = {f"freehold.v1.{name}Service" for name in SERVICES} - found
        assert not missing, f"reflection does not list {missing}, only {found}"
        check_reflection_v1(channel)

        health = call(channel, pool, "grpc.health.v1.Health/Check")
        assert health.status == 1, f"health says {health}"
        try:
            call(channel, pool, "freehold.v1.CatalogService/ListInstanceTypes")
            sys.exit("ListInstanceTypes answered without credentials")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.UNAUTHENTICATED, error
        types = call(channel, pool, "freehold.v1.CatalogService/ListInstanceTypes", token=token)
        names = [instance_type.name for instance_type in types.instance_types]
        assert "gpu_8x_h100_sxm5" in names, names

        methods = 0
        for name in SERVICES:
            service = pool.FindServiceByName(f"freehold.v1.{name}Service")
            for method in service.methods:
                methods += 1
                if method.name.startswith("List") and not method.server_streaming:
                    fields = {"instance_type": names[0]} if "instance_type" in method.input_type.fields_by_name else None
                    call(channel, pool, f"{service.full_name}/{method.name}", fields, token)
    print(f"reflection: {len(SERVICES)} services, {methods} methods; every list was called")


if __name__ == "__main__":
    main()
