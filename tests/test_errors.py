"""The error codes, the exception tree and the error handler."""

import pickle

import pytest

import hyperion
from hyperion import errors
from hyperion.errors import ErrorCode, HyperionError

CLASSES = [getattr(errors, name) for name in errors.__all__ if isinstance(getattr(errors, name), type)]
EXCEPTIONS = [c for c in CLASSES if issubclass(c, HyperionError)]

BUILTINS = {
    errors.HyperionMemoryError: (ErrorCode.MEMORY, MemoryError),
    errors.MemoryBudgetError: (ErrorCode.MEMORY, MemoryError),
    errors.HyperionIOError: (ErrorCode.IO, OSError),
    errors.InvalidArgumentError: (ErrorCode.INVALID_ARGUMENT, ValueError),
    errors.FormatError: (ErrorCode.INVALID_ARGUMENT, ValueError),
    errors.UnsupportedError: (ErrorCode.NOT_IMPLEMENTED, NotImplementedError),
    errors.HyperionRuntimeError: (ErrorCode.RUNTIME, RuntimeError),
}


@pytest.fixture(autouse=True)
def no_handler_left():
    yield
    errors.set_error_handler(None)


def test_codes_have_the_documented_values():
    assert {c.name: int(c) for c in ErrorCode} == {
        "SUCCESS": 0, "MEMORY": 1, "IO": 2, "INVALID_ARGUMENT": 3, "NOT_IMPLEMENTED": 4, "RUNTIME": 5,
    }  # fmt: skip


def test_every_code_but_success_has_a_class():
    assert {c.code for c in EXCEPTIONS} == set(ErrorCode) - {ErrorCode.SUCCESS}
    assert set(EXCEPTIONS) == {HyperionError, *BUILTINS}, "a new class belongs in BUILTINS"


@pytest.mark.parametrize("cls", BUILTINS, ids=lambda c: c.__name__)
def test_class_carries_its_code_and_is_the_builtin_that_users_catch(cls):
    code, builtin = BUILTINS[cls]
    with pytest.raises(builtin) as caught:
        raise cls("expected a, got b", path="x.gguf")
    error = caught.value
    assert isinstance(error, HyperionError)
    assert error.code is code
    assert str(error) == error.message == "expected a, got b"
    assert error.context == {"path": "x.gguf"}


@pytest.mark.parametrize("cls", EXCEPTIONS, ids=lambda c: c.__name__)
def test_pickle_round_trip_keeps_everything_and_calls_no_handler(cls):
    data = pickle.dumps(cls("message", offset=12))
    calls = []
    errors.set_error_handler(lambda *args: calls.append(args))
    error = pickle.loads(data)
    assert (type(error), str(error), error.context, error.args) == (cls, "message", {"offset": 12}, ("message",))
    assert calls == []


def test_messages_are_distinct_sentences_for_every_code():
    messages = [errors.get_error_message(code) for code in ErrorCode]
    assert len(set(messages)) == len(ErrorCode)
    assert all(messages)
    assert errors.get_error_message(2) == errors.get_error_message(ErrorCode.IO)


@pytest.mark.parametrize("code", [-1, 6, "IO", None])
def test_message_of_an_unknown_code_is_refused(code):
    with pytest.raises(errors.InvalidArgumentError, match="error code"):
        errors.get_error_message(code)


def test_handler_sees_code_message_and_a_copy_of_the_context():
    seen = []
    assert errors.set_error_handler(lambda *args: seen.append(args)) is None
    error = errors.FormatError("bad magic", offset=0)
    assert seen == [(ErrorCode.INVALID_ARGUMENT, "bad magic", {"offset": 0})]
    seen[0][2]["offset"] = 99
    assert error.context == {"offset": 0}


def test_handler_that_raises_does_not_hide_the_error():
    def handler(code, message, context):
        raise ZeroDivisionError("in the handler")

    errors.set_error_handler(handler)
    with pytest.raises(errors.HyperionIOError, match="truncated"):
        raise errors.HyperionIOError("truncated")


def test_handler_is_not_told_of_errors_that_it_makes_itself():
    seen = []

    def handler(code, message, context):
        seen.append(message)
        raise errors.HyperionRuntimeError("from the handler")

    errors.set_error_handler(handler)
    for message in ("first", "second"):
        with pytest.raises(errors.FormatError, match=message):
            raise errors.FormatError(message)
    assert seen == ["first", "second"]


def test_set_error_handler_returns_the_previous_one_and_refuses_what_cannot_be_called():
    def first(code, message, context):
        pass

    assert errors.set_error_handler(first) is None
    with pytest.raises(errors.InvalidArgumentError, match="callable"):
        errors.set_error_handler(3)
    assert errors.set_error_handler(None) is first


def test_the_package_exports_the_tree():
    for name in errors.__all__:
        assert getattr(hyperion, name) is getattr(errors, name)
