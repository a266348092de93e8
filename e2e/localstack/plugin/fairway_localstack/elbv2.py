"""Switches on the load balancer backend that LocalStack's moto brings along."""

from localstack.aws.spec import load_service
from localstack.services.moto import _proxy_moto
from localstack.services.plugins import Service, aws_provider


class Elbv2Provider:
    service = "elbv2"


def dispatch_table(_provider):
    return {name: _proxy_moto for name in load_service("elbv2").operation_names}


@aws_provider(api="elbv2")
def elbv2():
    return Service.for_provider(Elbv2Provider(), dispatch_table_factory=dispatch_table)
