import pytest
from hypothesis import given
from hypothesis import strategies as st

from teacher_cache.exact.canonical import canonical_json, seal, sha256_of, unseal

DOCUMENT = {"b": [1, 2.5, "ä"], "a": {"z": None, "y": True}}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def test_canonical_json_is_pinned() -> None:
    assert canonical_json(DOCUMENT) == b'{"a":{"y":true,"z":null},"b":[1,2.5,"\\u00e4"]}'
    assert sha256_of(DOCUMENT) == "b4cf9570d0224771b3eeddce9a755c6f8e8263c971054abeb18e213600d930d8"


def test_order_of_fields_does_not_matter() -> None:
    assert canonical_json({"a": 1, "b": 2}) == canonical_json({"b": 2, "a": 1})


@pytest.mark.slow
@given(st.dictionaries(st.text().filter(lambda name: name != "sha256"), json_values))
def test_a_sealed_document_comes_back(document: dict) -> None:
    assert unseal(seal(document)) == document


def test_every_flipped_bit_of_a_sealed_document_is_found() -> None:
    sealed = seal(DOCUMENT)
    for place in range(len(sealed)):
        for bit in range(8):
            damaged = bytearray(sealed)
            damaged[place] ^= 1 << bit
            with pytest.raises(ValueError, match="JSON|sha256|utf"):
                unseal(bytes(damaged))


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"[" * 100_000, b"\xff", b'{"sha256":"x"}'])
def test_what_is_not_sealed_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="JSON|sha256|utf"):
        unseal(data)


def test_nan_has_no_canonical_form() -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(float("nan"))
