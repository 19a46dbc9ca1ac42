-- The containers that run here: which systemd-nspawn leads which, and what is needed to enter one.

local bit = require("bit")
local ffi = require("ffi")
local posix = require("posix")
local C = posix.C

local LOOK_SECONDS = 0.01 -- between two looks for a container's program

local Container = {}
Container.__index = Container

-- `on_running(pid)` is told once its program runs.
function Container.new(loop, deaths, name, nspawn, on_running)
  local fields = { loop = loop, deaths = deaths, name = name, nspawn = nspawn, on_running = on_running }
  return setmetatable(fields, Container)
end

local function children(pid)
  local text = posix.read_file(("/proc/%d/task/%d/children"):format(pid, pid), 4096)
  return text and text:gmatch("%d+")
end

local function status_of(pid)
  return posix.read_file(("/proc/%s/status"):format(pid), 8192)
end

-- `pid` is said to lead some container; whether it is this one: the child of its nspawn that is process 1 inside.
function Container:adopt(pid)
  local pidfd = not self.leader and posix.open_pidfd(pid)
  if not pidfd then
    return false
  end
  local status = status_of(pid) -- read while the pidfd is held: about this very process
  local parent = status and tonumber(status:match("\nPPid:%s+(%d+)"))
  if parent ~= self.nspawn or not status:match("\nNSpid:[%s%d]*%s1\n") then
    C.close(pidfd)
    return false
  end
  self.leader, self.pidfd = pid, pidfd
  self:look()
  return true
end

-- Whether it is a program already, or still the copy of its parent that fork made.
local function has_executed(pid)
  local stat = posix.read_file(("/proc/%s/stat"):format(pid), 4096) or ""
  local flags = stat:match("%) %a %d+ %d+ %d+ %-?%d+ %-?%d+ (%d+) ")
  return flags ~= nil and bit.band(tonumber(flags), 0x40) == 0 -- PF_FORKNOEXEC
end

-- Wait for the program; then the container can be entered. It is the leader's first child, or the leader itself if that
-- executes something: as process 2's stub it never does, as a whole system's process 1 it becomes its init.
function Container:look()
  local listing = not self.closed and children(self.leader)
  if not listing then
    return
  end
  if has_executed(self.leader) then
    return self:run(self.leader, status_of(self.leader) or "")
  end
  for pid in listing do
    local status = status_of(pid)
    if status and status:match("\nNSpid:[%s%d]*%s2\n") and has_executed(pid) then
      return self:run(tonumber(pid), status)
    end
  end
  self.loop:after(LOOK_SECONDS, function() self:look() end)
end

function Container:run(pid, status)
  self.program_pid = pid
  local place = ("/proc/%d"):format(self.leader)
  self.program = posix.open_pidfd(pid)
  self.root = posix.open(place .. "/root", posix.O_PATH + posix.O_DIRECTORY)
  self.pids = posix.open(place .. "/ns/pid", posix.O_RDONLY)
  local group = self:entrance() -- systemd moves into one of its own below it
  self.cgroup = group and group:gsub("/init%.scope$", "")
  self.capabilities = status:match("\nCapBnd:%s+(%x+)")
  self.own_users = posix.readlink(place .. "/ns/user") ~= posix.readlink("/proc/self/ns/user")
  if self.program and self.root and self.pids and self.cgroup then
    self.ready = true
    self.on_running(pid)
  end
end

-- The control group to join: a system's init gives controllers to those below its own, which then take no process.
function Container:entrance()
  return (posix.read_file(("/proc/%d/cgroup"):format(self.leader), 4096) or ""):match("0::(/[^\n]*)")
end

-- To the program; before there is one, to nspawn, which then gives up.
function Container:signal(number)
  if self.program then
    posix.signal_pidfd(self.program, number)
  else
    C.kill(self.nspawn, posix.SIGTERM)
  end
end

-- All of it, at once; nspawn then tidies up.
function Container:kill()
  if self.pidfd then
    posix.signal_pidfd(self.pidfd, posix.SIGKILL)
  else
    C.kill(self.nspawn, posix.SIGKILL)
  end
end

-- The program's status, where nspawn ended with `status`: 255 is also how it tells of a signal.
function Container:status(status)
  local known = self.program_pid or self.leader
  if status ~= 255 * 256 or not known or not self.deaths then
    return status
  end
  return self.deaths:status_of(self.program_pid, self.leader) or status
end

function Container:close()
  self.closed, self.ready = true, false
  for _, name in ipairs({ "pidfd", "program", "root", "pids" }) do
    if self[name] then
      C.close(self[name])
      self[name] = nil
    end
  end
end

-- A socket where each nspawn says who leads its container: the descriptor, and its name for NOTIFY_SOCKET.
function Container.notify_socket()
  local fd = C.socket(1, 2 + posix.O_CLOEXEC + posix.O_NONBLOCK, 0) -- AF_UNIX, SOCK_DGRAM
  local address = ffi.new("agent_unix_address", 1)
  assert(fd >= 0 and C.bind(fd, address, 2) == 0, "no notification socket")
  local length = ffi.new("unsigned[1]", ffi.sizeof(address))
  C.getsockname(fd, address, length)
  return fd, "@" .. ffi.string(address.path + 1, length[0] - 3)
end

-- The next process id that was said there; nil when there is none.
function Container.said_leader(fd)
  local buffer = ffi.new("char[4096]")
  while true do
    local count = tonumber(C.recv(fd, buffer, 4096, 0))
    if count < 0 then
      return nil
    end
    local pid = ("\n" .. ffi.string(buffer, count)):match("\nX_NSPAWN_LEADER_PID=(%d+)")
    if pid and #pid < 10 then
      return tonumber(pid)
    end
  end
end

return Container
