"""What of LocalStack's EC2 has to be put right before a provider can be tested on it.

Each correction is one that AWS's documentation decides and without which most
cases could not come to their end. Everything else that is wrong stays, and is
listed in docs/aws/localstack.md. Run as a program this says whether each is
still needed.
"""

from localstack.runtime import hooks
from moto.ec2.models.security_groups import SecurityGroupRule


def _rule(description):
    return SecurityGroupRule(None, "tcp", "sg-1", "80", "80", None, {"GroupId": "sg-2", **description})


def revoking_needs_the_description():
    """Whether a rule with a group as its source is only found with its description.

    "If the security group rule has a description, you do not need to specify the description to revoke the rule."
    https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_RevokeSecurityGroupIngress.html
    """
    return _rule({"Description": "a"}) != _rule({})


def _compare_rules_without_description():
    compare = SecurityGroupRule.__eq__

    def bare(group):
        return {key: value for key, value in group.items() if key != "Description"}

    def without_description(self, other):
        mine, theirs = self.source_group, other.source_group
        try:
            self.source_group, other.source_group = bare(mine), bare(theirs)
            return compare(self, other)
        finally:
            self.source_group, other.source_group = mine, theirs

    SecurityGroupRule.__eq__ = without_description


@hooks.on_infra_start()
def correct():
    if revoking_needs_the_description():
        _compare_rules_without_description()


if __name__ == "__main__":
    if not revoking_needs_the_description():
        raise SystemExit("moto revokes rules without their description by itself: take the correction away")
