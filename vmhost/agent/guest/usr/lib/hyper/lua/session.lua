-- One program or operation, or one connection into a container: its streams, its credits, its end.

local ffi = require("ffi")
local posix = require("posix")
local cbor = require("cbor")
local C = posix.C

local WINDOW = 524288 -- bytes of input that the host may send before it is granted more: protocol.WINDOW_BYTES
local ERROR_BYTES = 65536
local KILL_SECONDS = 2 -- from hanging up on an abandoned program to killing it
local CREDIT = ffi.new("union { uint32_t number; char bytes[4]; }")

local Session = {}
Session.__index = Session

-- `streams`: {input, outputs = {[1], [2]}, errors}: descriptors, each optional. `loop` watches them.
function Session.new(loop, number, streams)
  local self = setmetatable({ loop = loop, number = number, outputs = {}, granted = 0, trouble = {}, trouble_bytes = 0 }, Session)
  if streams.input then
    self.input = { fd = streams.input, writable = true, held = 0, at = 0 }
    loop:watch(streams.input, posix.EPOLLOUT, function() self.input.writable = true end)
  end
  for channel, fd in pairs(streams.outputs) do
    local output = { fd = fd, readable = true, credit = WINDOW }
    self.outputs[channel] = output
    loop:watch(fd, posix.EPOLLIN, function() output.readable = true end)
  end
  if streams.errors then
    self.errors = streams.errors
    loop:watch(streams.errors, posix.EPOLLIN, function() self.errors_readable = true end)
    self.errors_readable = true
  end
  return self
end

-- It is process `pid`; `pidfd` becomes readable at its end.
function Session:started(pid, pidfd)
  self.pid, self.pidfd = pid, pidfd
  self.loop:watch(pidfd, posix.EPOLLIN, function() self:reap() end)
end

local function ended(status)
  local signal = status % 128
  return signal == 0 and { code = math.floor(status / 256) % 256 } or { signal = signal }
end

function Session:reap()
  local status = ffi.new("int[1]")
  if self.pidfd and C.waitpid(self.pid, status, posix.WNOHANG) == self.pid then
    self.loop:forget(self.pidfd)
    self.pidfd = nil
    self.ended = ended(self.leads and self.leads:status(status[0]) or status[0])
    self.ended.oom = self.oom_kills and posix.oom_kills() > self.oom_kills and 1 or 0
    for _, output in pairs(self.outputs) do
      output.readable = true -- once more, until there is nothing
    end
  end
end

-- Input from the host. False if it sent more than it was granted.
function Session:feed(body, length)
  local input = self.input
  if not input then -- nobody reads it any more: what comes is taken and dropped
    self.granted = self.granted + length
    return true
  end
  if length == 0 then
    input.closing = true
    self:pump_input()
    return true
  end
  if self.datagrams then -- one in each frame: what there is no room for is lost, as is what nobody listens for
    C.write(input.fd, body, length)
    self.granted = self.granted + length
    return true
  end
  local held = input.held - input.at
  if held + length > WINDOW then
    return false
  end
  local written = 0
  if held == 0 then
    written = self:write(body, length)
  end
  if input.fd and written < length then
    input.buffer = input.buffer or ffi.new("uint8_t[?]", WINDOW)
    self.is_large = true
    if input.held + length - written > WINDOW then
      C.memmove(input.buffer, input.buffer + input.at, held)
      input.at, input.held = 0, held
    end
    ffi.copy(input.buffer + input.held, body + written, length - written)
    input.held = input.held + length - written
  end
  return true
end

function Session:write(address, length)
  local input, done = self.input, 0
  while input.writable and done < length do
    local count = tonumber(C.write(input.fd, address + done, length - done))
    if count > 0 then
      done = done + count
    elseif ffi.errno() == posix.EAGAIN then
      input.writable = false
    elseif ffi.errno() ~= posix.EINTR then
      self.granted = self.granted + length
      self:close_input()
      return length
    end
  end
  self.granted = self.granted + done
  return done
end

function Session:close_input()
  local input = self.input
  if input and input.fd then
    if self.connection then
      C.shutdown(input.fd, 1) -- of which only this direction ends
    end
    self.loop:forget(input.fd)
    input.fd, input.buffer = nil, nil
  end
  self.input = nil
end

-- Whether anything could be written on.
function Session:pump_input()
  local input = self.input
  if not input or not input.writable then
    return false
  end
  local done = 0
  if input.held > input.at then
    done = self:write(input.buffer + input.at, input.held - input.at)
    input.at = input.at + done
    if input.at == input.held then
      input.at, input.held = 0, 0
    end
  end
  if self.input and input.closing and input.held == input.at then
    if self.terminal then
      self:signal(posix.SIGHUP) -- a raw terminal has no end of file: it hung up
    end
    self:close_input()
    return true
  end
  return done > 0
end

-- Tell the host what it may send, in not too small portions.
function Session:grant(wire)
  if self.granted >= WINDOW / 4 and wire:has_room() then
    CREDIT.number, self.granted = self.granted, 0
    wire:send("C", 0, self.number, ffi.string(CREDIT.bytes, 4))
  end
end

function Session:credit(channel, bytes)
  local output = self.outputs[channel]
  if output then
    output.credit = output.credit + bytes
  end
end

-- One read of each output that may be read; whether anything was.
function Session:pump_outputs(wire)
  local any = false
  for channel, output in pairs(self.outputs) do
    -- A datagram is read whole or not at all.
    if output.readable and output.credit > (self.datagrams and 65535 or 0) and wire:has_room() then
      local count = wire:send_from(output.fd, channel, self.number, output.credit)
      if not count then
        output.readable = false
        output.drained = self.ended ~= nil
      elseif count == 0 and self.datagrams then
        any = true -- an empty one, or word that nobody listens
      elseif count == 0 then
        self.loop:forget(output.fd)
        self.outputs[channel] = nil
        wire:send("D", channel, self.number, "")
        any = true
      else
        output.credit = output.credit - count
        any = true
      end
    end
  end
  return any
end

function Session:pump_errors(wire)
  if not self.errors or not self.errors_readable then
    return false
  end
  local buffer = ffi.new("uint8_t[4096]")
  local count = tonumber(C.read(self.errors, buffer, 4096))
  if count > 0 and self.trouble_bytes < ERROR_BYTES then
    self.trouble[#self.trouble + 1] = ffi.string(buffer, count)
    self.trouble_bytes = self.trouble_bytes + count
    return true
  elseif count < 0 and ffi.errno() == posix.EAGAIN then
    self.errors_readable = false
    return false
  end
  self.loop:forget(self.errors)
  self.errors = nil
  if #self.trouble == 0 and self.tells_start then
    wire:send("A", 0, self.number, cbor.encode({ pid = self.pid }))
  end
  return true
end

-- A connection that is being made: tell once it stands, or cannot be.
function Session:pump_connection(wire)
  if not self.input.writable then
    return false
  end
  local errno, length = ffi.new("int[1]"), ffi.new("unsigned[1]", 4)
  C.getsockopt(self.connection, 1, 4, errno, length) -- SOL_SOCKET, SO_ERROR
  self.connecting = false
  if errno[0] == 0 then
    wire:send("A", 0, self.number, cbor.encode({ pid = 0 }))
  else
    self.trouble = { cbor.encode({ kind = "unavailable", error = posix.strerror(errno[0]), errno = errno[0] }) }
    self:release()
  end
  return true
end

-- Go on with everything that can be; whether anything was.
function Session:pump(wire)
  if self.connecting then
    return self:pump_connection(wire)
  end
  local any = self:pump_errors(wire)
  any = self:pump_input() or any
  any = self:pump_outputs(wire) or any
  self:grant(wire)
  if self.connection and not self.input and not next(self.outputs) then
    self.ended = { code = 0 }
  end
  return any
end

-- When the program has ended, and all that it wrote is read, the host is told, and the session is over.
-- What others still hold open of its streams is not waited for.
function Session:finish(wire)
  if self.pidfd or self.errors or not self.ended then
    return false
  end
  for _, output in pairs(self.outputs) do
    if not output.drained then
      return false
    end
  end
  wire:send("E", 0, self.number, #self.trouble > 0 and table.concat(self.trouble) or cbor.encode(self.ended))
  self:release()
  return true
end

function Session:release()
  self:close_input()
  for channel, output in pairs(self.outputs) do
    self.loop:forget(output.fd)
    self.outputs[channel] = nil
  end
  if self.terminal then
    self.loop:forget(self.terminal)
    self.terminal = nil
  end
  if self.errors then
    self.loop:forget(self.errors)
    self.errors = nil
  end
end

function Session:resize(rows, columns)
  if self.terminal then
    posix.resize(self.terminal, rows, columns)
  end
end

function Session:signal(number)
  if self.pidfd then
    posix.signal_pidfd(self.pidfd, number)
  end
end

-- Nobody wants it any more: hang up, let go of its streams, and kill what is still there a little later.
function Session:abandon()
  self:release()
  if self.pidfd then
    C.kill(-self.pid, posix.SIGHUP)
    C.kill(-self.pid, posix.SIGTERM)
    self.loop:after(KILL_SECONDS, function()
      if self.pidfd then
        C.kill(-self.pid, posix.SIGKILL)
      end
    end)
  end
end

return Session
