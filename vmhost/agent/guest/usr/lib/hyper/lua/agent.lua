-- The agent: one line to the host, many sessions over it. It waits in one place (Loop.turn) and reads no more than it
-- can pass on, so that a session whose reader is slow holds up only itself.

local ffi = require("ffi")
local posix = require("posix")
local cbor = require("cbor")
local child = require("child")
local Container = require("container")
local Deaths = require("deaths")
local Session = require("session")
local Wire = require("wire")
local C = posix.C

local VERSION = 1
local SESSIONS_MAX = 64
local WINDOW = 262144 -- of a pipe: as much as the kernel lets it have of a window

local Agent = {}
Agent.__index = Agent

-- `line`: a non-blocking descriptor to the host. `tool`: an open busybox, for tar, which images need not have.
function Agent.new(loop, line, tool)
  local self = setmetatable({ loop = loop, wire = Wire.new(line), sessions = {}, count = 0, containers = {} }, Agent)
  self.tool = tool
  loop:watch(line, posix.EPOLLIN + posix.EPOLLOUT, function()
    self.wire.readable, self.wire.writable = true, true
  end)
  self.notify, self.notify_name = Container.notify_socket()
  loop:watch(self.notify, posix.EPOLLIN, function() self:hear_leaders() end)
  self.deaths = Deaths.open()
  if self.deaths then
    loop:watch(self.deaths.fd, posix.EPOLLIN, function() self.deaths:collect() end)
  end
  self.pids = assert(posix.open("/proc/self/ns/pid", posix.O_RDONLY))
  self.root = assert(posix.open("/", posix.O_PATH + posix.O_DIRECTORY))
  self.wire:announce()
  return self
end

function Agent:hear_leaders()
  for pid in Container.said_leader, self.notify do
    for _, container in pairs(self.containers) do
      if container:adopt(pid) then
        break
      end
    end
  end
end

local function refuse(self, number, kind, text)
  self.wire:send("E", 0, number, cbor.encode({ kind = kind, error = text }))
end

-- The descriptors of a new child and of its session.
local function make_streams(request, root)
  if request.rows then
    local ours, theirs, errno = posix.open_terminal(root, request.rows, request.columns)
    if not ours then
      return nil, "no terminal: " .. posix.strerror(errno)
    end
    local streams = { input = posix.duplicate(ours), outputs = { ours } }
    return streams, { [0] = theirs, theirs, theirs }, posix.duplicate(ours)
  end
  local input, output, errors = { posix.pipe() }, { posix.pipe() }, { posix.pipe() }
  for _, fd in ipairs({ input[2], output[1], errors[1] }) do
    posix.set_nonblocking(fd)
    posix.widen_pipe(fd, WINDOW)
  end
  return { input = input[2], outputs = { output[1], errors[1] } }, { [0] = input[1], output[2], errors[2] }
end

local function close_all(fds)
  local closed = {}
  for _, fd in pairs(fds) do
    if not closed[fd] then
      C.close(fd)
      closed[fd] = true
    end
  end
end

-- The container that a request is about or in; false if it cannot be now.
function Agent:container_of(request)
  local name = request.namespace or request.container
  if not name then
    return nil
  end
  local container = self.containers[name]
  return container and container.ready and container or false
end

function Agent:fork(request, theirs, container)
  if container and request.namespace then
    assert(C.setns(container.pids, posix.CLONE_NEWPID) == 0, "cannot enter the container's processes")
  end
  local pid = C.fork()
  if pid == 0 then
    child.run(request, theirs, container)
  end
  if container and request.namespace then
    assert(C.setns(self.pids, posix.CLONE_NEWPID) == 0)
  end
  assert(pid > 0, "no more processes")
  return pid
end

function Agent:start(number, request, container)
  local streams, theirs, terminal = make_streams(request, request.namespace and container.root or self.root)
  if not streams then
    return refuse(self, number, "unavailable", theirs)
  end
  local told, tells = posix.pipe()
  posix.set_nonblocking(told)
  streams.errors = told
  local given = { [0] = theirs[0], theirs[1], theirs[2], tells, [6] = self.tool }
  if container and request.namespace then
    given[4], given[5] = container.pidfd, container.root
  end
  if request.leads then
    table.insert(request.env, "NOTIFY_SOCKET=" .. self.notify_name)
  end
  local session = Session.new(self.loop, number, streams)
  session.terminal, session.tells_start = terminal, request.op == "exec"
  session.oom_kills = (request.leads or request.namespace) and posix.oom_kills()
  local forked, pid = pcall(self.fork, self, request, given, container)
  close_all(theirs)
  C.close(tells)
  if not forked then
    session:release()
    return refuse(self, number, "unavailable", tostring(pid))
  end
  session:started(pid, assert(posix.open_pidfd(pid)))
  self.sessions[number], self.count = session, self.count + 1
  if request.leads then
    session.leads = Container.new(self.loop, self.deaths, request.leads, pid, function(program)
      self.wire:send("R", 0, number, cbor.encode({ pid = program }))
    end)
    self.containers[request.leads] = session.leads
  end
end

function Agent:open(number, request)
  if self.sessions[number] or self.count >= SESSIONS_MAX then
    return refuse(self, number, "unavailable", "too many sessions at once")
  end
  local container = self:container_of(request)
  if container == false then
    return refuse(self, number, "gone", "the container does not run")
  end
  if request.leads and self.containers[request.leads] then
    return refuse(self, number, "refused", "a container of that name runs")
  end
  if request.op == "connect" then
    return self:connect(number, request, container)
  end
  self:start(number, request, container)
end

-- To a TCP port of a container's loopback, or a UDP port if it is for datagrams. A socket belongs to the network in which it was made.
function Agent:connect(number, request, container)
  local ours = posix.open("/proc/self/ns/net", posix.O_RDONLY)
  local theirs = container and posix.open(("/proc/%d/ns/net"):format(container.leader), posix.O_RDONLY)
  if theirs then
    C.setns(theirs, posix.CLONE_NEWNET)
  end
  local kind = request.datagrams and 2 or 1 -- SOCK_DGRAM, SOCK_STREAM
  local fd = C.socket(2, kind + posix.O_CLOEXEC + posix.O_NONBLOCK, 0) -- AF_INET
  if theirs then
    assert(C.setns(ours, posix.CLONE_NEWNET) == 0)
    C.close(theirs)
  end
  C.close(ours)
  local address = ffi.new("agent_internet_address", 2)
  address.port = bit.bor(bit.lshift(request.port % 256, 8), math.floor(request.port / 256) % 256)
  address.address = ffi.new("uint8_t[4]", 127, 0, 0, 1)
  C.connect(fd, address, ffi.sizeof(address))
  local session = Session.new(self.loop, number, { input = posix.duplicate(fd), outputs = { fd } })
  session.connection, session.connecting, session.input.writable = fd, true, false
  session.datagrams = request.datagrams ~= nil
  self.sessions[number], self.count = session, self.count + 1
end

function Agent:drop(number)
  local session = self.sessions[number]
  if not session then
    return
  end
  self.sessions[number], self.count = nil, self.count - 1
  if session.is_large then
    collectgarbage() -- a window each; left alone, they would add up
  end
  if session.leads then
    session.leads:close()
    self.containers[session.leads.name] = nil
  end
end

-- Whoever spoke before is gone: so is what it started.
function Agent:hello(body)
  local nonce = ffi.string(body, 16)
  if nonce == self.nonce then
    return -- said again, because this agent had just announced itself
  end
  self.nonce, self.hushed = nonce, false
  for number, session in pairs(self.sessions) do
    if session.leads then
      session.leads:kill()
    end
    session:abandon()
    self:drop(number)
  end
  self.wire:welcome(nonce, VERSION)
  if body[16] + 256 * body[17] ~= VERSION then
    self.wire.hunting = true
  end
end

local handlers = {}

function handlers.O(self, _, number, body, length)
  local decoded, request = pcall(cbor.decode, ffi.string(body, length))
  local opened, trouble = decoded, request
  if decoded then
    opened, trouble = pcall(self.open, self, number, request)
  end
  if not opened then
    refuse(self, number, "unavailable", "the agent failed: " .. tostring(trouble))
  end
end

function handlers.D(self, _, number, body, length)
  local session = self.sessions[number]
  if session and not session:feed(body, length) then
    self.wire.hunting = true -- the host broke the rules; until it begins anew nothing that it says can be believed
  end
end

local function number_in(body, length)
  return length >= 4 and tonumber(ffi.cast("uint32_t *", body)[0]) or 0
end

function handlers.C(self, channel, number, body, length)
  local session = self.sessions[number]
  if session then
    session:credit(channel, number_in(body, length))
  end
end

function handlers.T(self, _, number, body, length)
  local session = self.sessions[number]
  if session and length >= 4 then
    local size = ffi.cast("uint16_t *", body)
    session:resize(size[0], size[1])
  end
end

-- Channel 0: the program; 1: everything that it is, or leads.
function handlers.K(self, channel, number, body, length)
  local session = self.sessions[number]
  local signal = number_in(body, length)
  if not session or signal < 1 or signal > 64 then
    return
  end
  if session.leads and channel == 1 then
    session.leads:kill()
  elseif session.leads then
    session.leads:signal(signal)
  elseif channel == 1 and session.pidfd then
    C.kill(-session.pid, signal)
  else
    session:signal(signal)
  end
end

function handlers.X(self, _, number)
  local session = self.sessions[number]
  if session then
    if session.leads then
      session.leads:kill()
    end
    session:abandon()
    self:drop(number)
    self.wire:send("E", 0, number, cbor.encode({ signal = posix.SIGKILL }))
  end
end

function handlers.P(self, _, _, body, length)
  self.wire:send("Q", 0, 0, ffi.string(body, math.min(length, 64)))
end

-- The machine is about to be saved: nothing is said after the answer, until a host says go on, this one or another.
function handlers.F(self)
  self.wire:send("F", 0, 0, "")
  self.hushed = true
end

function handlers.G(self)
  self.hushed = false
end

function handlers.H(self, _, _, body)
  self:hello(body)
end

function Agent:take_frames()
  local any = false
  while true do
    local kind, channel, number, body, length = self.wire:next()
    if not kind then
      return any
    end
    any = true
    local handle = handlers[kind]
    if handle then
      handle(self, channel, number, body, length)
    end
  end
end

-- At this agent's end.
function Agent:kill_all()
  for _, session in pairs(self.sessions) do
    if session.pidfd then
      C.kill(-session.pid, posix.SIGKILL)
    end
  end
end

-- One round over everything that can be gone on with; whether anything was.
function Agent:pump()
  local any = false
  if self.wire.readable then
    local filled = self.wire:fill()
    if filled == nil and self.on_gone then
      self.on_gone()
    end
    any = filled or false
  end
  any = self:take_frames() or any
  for number, session in pairs(self.hushed and {} or self.sessions) do
    any = session:pump(self.wire) or any
    if session:finish(self.wire) then
      self:drop(number)
      any = true
    end
  end
  return self.wire:flush() or any
end

return Agent
