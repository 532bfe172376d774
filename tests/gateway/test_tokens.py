"""One-time tokens."""

from __future__ import annotations

from offhook.gateway.tokens import TOKEN_LIFE, Tokens


def test_a_token_is_redeemed_once() -> None:
    tokens: Tokens[str] = Tokens()
    token = tokens.issue("call", 0.0)
    assert tokens.owner(token, 1.0) == "call"
    assert tokens.redeem(token, 1.0) == "call"
    assert tokens.redeem(token, 1.0) is None


def test_tokens_differ_and_cannot_be_made_up() -> None:
    tokens: Tokens[str] = Tokens()
    issued = {tokens.issue("call", 0.0) for _ in range(1000)}
    assert len(issued) == 1000
    assert all(len(token) == 32 for token in issued)
    assert tokens.owner("", 0.0) is None


def test_an_old_token_is_worth_nothing_and_its_owner_is_told_once() -> None:
    tokens: Tokens[str] = Tokens()
    token = tokens.issue("call", 0.0)
    assert tokens.owner(token, TOKEN_LIFE - 0.1) == "call"
    assert tokens.redeem(token, TOKEN_LIFE) is None
    late = tokens.issue("late", 0.0)
    assert tokens.expire(TOKEN_LIFE - 0.1) == []
    assert tokens.expire(TOKEN_LIFE) == ["late"]
    assert tokens.expire(TOKEN_LIFE) == []
    assert tokens.owner(late, 0.0) is None


def test_revoking_leaves_other_owners_alone() -> None:
    tokens: Tokens[object] = Tokens()
    mine, yours = object(), object()
    first, second, third = tokens.issue(mine, 0.0), tokens.issue(yours, 0.0), tokens.issue(mine, 0.0)
    tokens.revoke(mine)
    assert tokens.owner(first, 0.0) is tokens.owner(third, 0.0) is None
    assert tokens.owner(second, 0.0) is yours
