"""A deferred model costs nothing before it is used, and then does what any model does."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from pydantic.plugin import _loader

from heron_mqtt.deferred_model import DeferredModel


def _made() -> type[DeferredModel]:
    class Inner(DeferredModel):
        power_mw: float

    class Outer(DeferredModel):
        inner: Inner

    Outer.model_rebuild(_types_namespace={"Inner": Inner})
    return Outer


def test_a_validator_is_built_when_it_is_used_by_itself_and_not_for_a_model_around_it() -> None:
    outer = _made()
    inner = outer.model_fields["inner"].annotation
    assert isinstance(inner, type)
    assert issubclass(inner, DeferredModel)
    assert outer.model_validate({"inner": {"power_mw": 1.5}}).model_dump() == {"inner": {"power_mw": 1.5}}
    assert not inner.__pydantic_complete__
    with pytest.raises(ValidationError, match="power_mw"):
        inner.model_validate({})
    assert inner.__pydantic_complete__


def test_no_plugin_sees_it_however_late_it_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    class Plugin:
        def new_schema_validator(self, *_: object, **__: object) -> None:
            pytest.fail("a plugin was asked")

    class Late(DeferredModel):
        power_mw: float

    monkeypatch.setattr(_loader, "_plugins", {"a plugin": Plugin()})
    monkeypatch.delenv("PYDANTIC_DISABLE_PLUGINS", raising=False)
    assert Late.model_validate({"power_mw": 2.0}).model_dump() == {"power_mw": 2.0}
