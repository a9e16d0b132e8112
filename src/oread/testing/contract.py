"""What a contract check raises: the rule that was broken, and how."""

from __future__ import annotations


class ContractError(AssertionError):
    """A handler or a protocol breaks a rule of its contract.

    Args:
        rule: the name of the rule.
        text: what happened.
    """

    def __init__(self, rule: str, text: str) -> None:
        super().__init__(f"{rule}: {text}")
        self.rule = rule
