-- Waiting for descriptors, edge-triggered: who is told that one is ready remembers it until a call says EAGAIN.

local ffi = require("ffi")
local bit = require("bit")
local posix = require("posix")
local C = posix.C

local ADD, DELETE = 1, 2
local EVENTS = 64
local ALWAYS = posix.EPOLLET

local Loop = {}
Loop.__index = Loop

function Loop.new()
  local fd = C.epoll_create1(posix.O_CLOEXEC)
  assert(fd >= 0, "no epoll")
  return setmetatable({ fd = fd, watched = {}, timers = {}, events = ffi.new("agent_event[?]", EVENTS) }, Loop)
end

-- Errors and hang-ups are told too.
function Loop:watch(fd, events, ready)
  local event = ffi.new("agent_event")
  event.events, event.fd = bit.bor(events, ALWAYS), fd
  assert(C.epoll_ctl(self.fd, ADD, fd, event) == 0, "cannot watch a descriptor")
  self.watched[fd] = ready
end

-- Stop watching it, and close it.
function Loop:forget(fd)
  C.epoll_ctl(self.fd, DELETE, fd, ffi.new("agent_event")) -- a child may still hold a copy, which would go on telling
  self.watched[fd] = nil
  C.close(fd)
end

function Loop:after(seconds, act)
  table.insert(self.timers, { at = posix.now() + seconds, act = act })
end

local function run_timers(self)
  local now, waiting, nearest = posix.now(), {}, nil
  local due = {}
  for _, timer in ipairs(self.timers) do
    if timer.at <= now then
      due[#due + 1] = timer
    else
      waiting[#waiting + 1] = timer
      nearest = math.min(nearest or timer.at, timer.at)
    end
  end
  self.timers = waiting
  for _, timer in ipairs(due) do
    timer.act()
  end
  return #due > 0 and now or nearest
end

-- Tell who is ready; with `busy` without waiting.
function Loop:turn(busy)
  local timeout = busy and 0 or -1
  if #self.timers > 0 then
    local nearest = run_timers(self)
    if not busy and nearest then
      timeout = math.max(0, math.ceil((nearest - posix.now()) * 1000))
    end
  end
  local count = C.epoll_wait(self.fd, self.events, EVENTS, timeout)
  for place = 0, count - 1 do
    local ready = self.watched[self.events[place].fd]
    if ready then
      ready()
    end
  end
end

return Loop
