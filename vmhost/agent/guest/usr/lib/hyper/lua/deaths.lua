-- How processes that are not our children ended, from the kernel's process connector: for the program in a container,
-- whose death by a signal its nspawn tells as 255 (vmhost/exit_watch.py has the same for the host).
-- A filter in the kernel drops all but deaths with a status other than 0.

local ffi = require("ffi")
local posix = require("posix")
local C = posix.C

ffi.cdef([[
typedef struct { uint16_t family, pad; uint32_t pid, groups; } agent_netlink_address;
typedef struct { uint16_t code; uint8_t yes, no; uint32_t value; } agent_filter_step;
typedef struct { uint16_t count; agent_filter_step *steps; } agent_filter;
typedef struct {
  uint32_t length; uint16_t kind, flags; uint32_t sequence, sender;
  uint32_t index, value, message_sequence, acknowledged; uint16_t bytes, message_flags; uint32_t listen;
} __attribute__((packed)) agent_listen_request;
int setsockopt(int, int, int, const void *, unsigned);
ssize_t send(int, const void *, size_t, int);
]])

local REMEMBERED = 256
local WHAT, PID, GROUP, STATUS, PARENT = 9, 13, 14, 15, 17 -- in words of the message
local MESSAGE_WORDS = 18
local EXIT = 0x80000000

local Deaths = {}
Deaths.__index = Deaths

local function attach_filter(fd)
  local steps = ffi.new("agent_filter_step[6]", {
    { 0x20, 0, 0, WHAT * 4 }, { 0x15, 0, 2, 0x00000080 }, -- EXIT as filters read words: big-endian
    { 0x20, 0, 0, STATUS * 4 }, { 0x15, 0, 1, 0 },
    { 0x06, 0, 0, 0 }, { 0x06, 0, 0, 0xffffffff },
  })
  return C.setsockopt(fd, 1, 26, ffi.new("agent_filter", 6, steps), ffi.sizeof("agent_filter")) == 0
end

local function listen(fd)
  local length = ffi.sizeof("agent_listen_request")
  local request = ffi.new("agent_listen_request", length, 3, 0, 0, 0, 1, 1, 0, 0, 4, 0, 1)
  return C.bind(fd, ffi.new("agent_netlink_address", 16, 0, 0, 1), ffi.sizeof("agent_netlink_address")) == 0
    and C.send(fd, request, length, 0) == length
end

-- Nil where the kernel does not tell.
function Deaths.open()
  local fd = C.socket(16, 2 + posix.O_CLOEXEC + posix.O_NONBLOCK, 11) -- AF_NETLINK, SOCK_DGRAM, NETLINK_CONNECTOR
  if fd < 0 or not attach_filter(fd) or not listen(fd) then
    if fd >= 0 then
      C.close(fd)
    end
    return nil
  end
  return setmetatable({ fd = fd, known = {}, order = {}, message = ffi.new("uint32_t[1024]") }, Deaths)
end

function Deaths:collect()
  while true do
    local count = tonumber(C.recv(self.fd, self.message, 4096, 0))
    if count < 0 and ffi.errno() == posix.EAGAIN then
      return
    end
    local message = self.message
    if count >= MESSAGE_WORDS * 4 and message[WHAT] == EXIT and message[PID] == message[GROUP] then
      self.known[message[PID]] = { parent = message[PARENT], status = message[STATUS] }
      table.insert(self.order, message[PID])
      if #self.order > REMEMBERED then
        self.known[table.remove(self.order, 1)] = nil
      end
    end
  end
end

-- wait(2)'s status of a process that has died with one other than 0; without `pid` that of a child of `parent`.
function Deaths:status_of(pid, parent)
  self:collect()
  if pid then
    return self.known[pid] and self.known[pid].status
  end
  for _, death in pairs(self.known) do
    if death.parent == parent then
      return death.status
    end
  end
end

return Deaths
