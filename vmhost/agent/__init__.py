"""Running programs in a guest over one virtio-serial line: protocol, client, and the guest's half (guest/, LuaJIT)."""
