"""One conformance suite for the Store port: `MemoryStore`, `RocksStore` and `GuardedStore` all pass it, or one lies.

A test module inherits from `StoreSuite` and gives the `store` fixture.
"""

from __future__ import annotations

import contextlib
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperlog.store import Namespace, Store

_KEYS = st.binary(min_size=1, max_size=3)
_BATCHES = st.lists(
    st.tuples(st.dictionaries(_KEYS, st.binary(max_size=8), max_size=6), st.sets(_KEYS, max_size=3), st.booleans()),
    max_size=12,
)


class StoreSuite:
    """What every store does."""

    def test_an_absent_key_has_no_value(self, store: Store) -> None:
        assert store.get(b"nothing") is None

    @pytest.mark.parametrize("durable", [True, False])
    def test_a_written_value_is_read_back(self, store: Store, durable: bool) -> None:
        store.write([(b"k", b"v"), (b"empty", b"")], durable=durable)
        assert store.get(b"k") == b"v"
        assert store.get(b"empty") == b""

    def test_a_batch_puts_and_deletes_together(self, store: Store) -> None:
        store.write([(b"ka", b"1"), (b"kb", b"2")], durable=False)
        store.write([(b"kc", b"3")], [b"ka", b"absent"], durable=True)
        assert list(store.items(b"k")) == [(b"kb", b"2"), (b"kc", b"3")]

    def test_a_delete_wins_over_a_put_of_the_same_batch(self, store: Store) -> None:
        store.write([(b"k", b"v")], [b"k"], durable=False)
        assert store.get(b"k") is None

    def test_the_last_put_of_a_key_counts(self, store: Store) -> None:
        store.write([(b"k", b"1"), (b"k", b"2")], durable=False)
        assert store.get(b"k") == b"2"

    def test_a_generator_may_give_the_batch(self, store: Store) -> None:
        store.write(((bytes([107, n]), b"v") for n in range(3)), (bytes([107, n]) for n in range(1)), durable=True)
        assert [key for key, _ in store.items(b"k")] == [b"k\1", b"k\2"]

    def test_items_are_in_byte_order_within_the_prefix(self, store: Store) -> None:
        keys = [b"j\xff", b"k", b"k\0", b"k\0\0", b"k\x7f", b"k\x80", b"k\xff", b"k\xff\xff", b"l"]
        store.write([(key, key) for key in reversed(keys)], durable=False)
        assert [key for key, _ in store.items(b"k")] == keys[1:-1]
        assert [key for key, _ in store.items(b"k", b"\x7f")] == keys[4:-1]
        assert [key for key, _ in store.items(b"k\xff")] == keys[6:8]
        assert list(store.items(b"m")) == []

    def test_items_may_be_changed_while_they_are_walked(self, store: Store) -> None:
        store.write([(bytes([107, n]), b"v") for n in range(20)], durable=False)
        seen = []
        for key, _ in store.items(b"k"):
            seen.append(key)
            store.write((), [key], durable=False)
        assert len(seen) == 20
        assert list(store.items(b"k")) == []

    def test_grouped_writes_are_visible_at_once(self, store: Store) -> None:
        with store.grouped():
            store.write([(b"k1", b"v")], durable=True)
            assert store.get(b"k1") == b"v"
            with store.grouped():
                store.write([(b"k2", b"v")], durable=True)
        assert len(list(store.items(b"k"))) == 2

    def test_an_error_inside_a_group_keeps_what_was_written(self, store: Store) -> None:
        with contextlib.suppress(ZeroDivisionError), store.grouped():
            store.write([(b"k1", b"v")], durable=True)
            raise ZeroDivisionError
        store.write([(b"k2", b"v")], durable=True)
        assert len(list(store.items(b"k"))) == 2

    def test_threads_write_and_read(self, store: Store) -> None:
        def work(number: int) -> None:
            for n in range(30):
                store.write([(bytes([107, number, n]), bytes(40))], durable=n % 5 == 0)
                assert store.get(bytes([107, number, n])) == bytes(40)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(list(store.items(b"k"))) == 120

    def test_a_namespace_sees_only_its_own(self, store: Store) -> None:
        one, other = Namespace(store, b"y1"), Namespace(store, b"y2")
        one.put_many([(b"a", b"1"), (b"b", b"2")], durable=True)
        other.put_many([(b"a", b"3")])
        one.delete(b"b")
        assert one.get(b"a") == b"1"
        assert list(one.items()) == [(b"a", b"1")]
        assert list(other.items()) == [(b"a", b"3")]

    def test_any_batches_leave_what_a_dict_would_hold(self, store: Store) -> None:
        @settings(max_examples=40, deadline=None)
        @given(batches=_BATCHES)
        def run(batches: list[tuple[dict[bytes, bytes], set[bytes], bool]]) -> None:
            store.write((), [key for key, _ in store.items(b"k")], durable=False)
            model: dict[bytes, bytes] = {}
            for puts, deletes, durable in batches:
                named = [(b"k" + key, value) for key, value in puts.items()]
                store.write(named, [b"k" + key for key in deletes], durable=durable)
                model.update(puts)
                for key in deletes:
                    model.pop(key, None)
            assert dict(store.items(b"k")) == {b"k" + key: value for key, value in model.items()}
            for key in model:
                found = [name for name, _ in store.items(b"k", key)]
                assert found == sorted(b"k" + other for other in model if other >= key)

        run()
