-- A line over virtio-vsock, where a machine has no virtio-serial: the host calls, on a port.

local ffi = require("ffi")
local posix = require("posix")
local C = posix.C

ffi.cdef([[
typedef struct { uint16_t family; uint16_t zero; uint32_t port; uint32_t cid; uint32_t flags; } agent_vsock_address;
int listen(int, int);
int accept4(int, void *, unsigned *, int);
]])

local AF_VSOCK, SOCK_STREAM, SOCK_CLOEXEC = 40, 1, 0x80000
local CID_ANY, CID_HOST = 0xffffffff, 2

local vsock = {}

-- A connection from the host, which is waited for. Meanwhile and after it nobody else is heard: programs of the guest
-- could call too, by its own number.
function vsock.take_caller(port)
  local listening = C.socket(AF_VSOCK, SOCK_STREAM + SOCK_CLOEXEC, 0)
  assert(listening >= 0, posix.strerror(ffi.errno()))
  local address = ffi.new("agent_vsock_address", AF_VSOCK, 0, port, CID_ANY, 0)
  assert(C.bind(listening, address, ffi.sizeof(address)) == 0, posix.strerror(ffi.errno()))
  assert(C.listen(listening, 1) == 0, posix.strerror(ffi.errno()))
  while true do
    local size = ffi.new("unsigned[1]", ffi.sizeof(address))
    local line = C.accept4(listening, address, size, SOCK_CLOEXEC)
    if line >= 0 and address.cid == CID_HOST then
      C.close(listening)
      return line
    end
    if line >= 0 then
      C.close(line)
    end
  end
end

return vsock
