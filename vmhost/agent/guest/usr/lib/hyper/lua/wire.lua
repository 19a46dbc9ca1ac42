-- Frames, as vmhost/agent/protocol.py has them, over one non-blocking descriptor; in and out are bounded buffers.

local ffi = require("ffi")
local posix = require("posix")
local C = posix.C

local HEADER, TRAILER, BODY_MAX = 8, 0xA5, 65536
local CHUNK = BODY_MAX - HEADER - 1 -- of program output in one frame, which then is two whole writes of the driver
local IN_BYTES = 4 * (BODY_MAX + HEADER + 1)
local OUT_BYTES = 262144 -- beyond which no output is read from programs
local OUT_ROOM = OUT_BYTES + 4 * (BODY_MAX + HEADER + 1) -- for what must be said all the same
local HELLO = "HN\1\0\24\0\0\0" -- the whole header; a stream that was joined in its middle is searched for it
local WELCOME, START = "WN\1\0\24\0\0\0", "SN\1\0\24\0\0\0"
local HELLO_BYTES = 24 -- nonce 16, version 2, unused 6

local Wire = {}
Wire.__index = Wire
Wire.CHUNK = CHUNK

ffi.cdef([[typedef struct { uint8_t kind, channel; uint16_t session; uint32_t length; } __attribute__((packed)) agent_header;]])

function Wire.new(fd)
  return setmetatable({
    fd = fd,
    readable = true, writable = true,
    input = ffi.new("uint8_t[?]", IN_BYTES), in_start = 0, in_stop = 0,
    output = ffi.new("uint8_t[?]", OUT_ROOM), out_start = 0, out_stop = 0,
    hunting = true, -- for a hello: what comes before it belongs to a stream whose beginning was not seen
  }, Wire)
end

-- Take what has come. False when there is no more for now; nil when the other side is not there.
function Wire:fill()
  if self.in_start > 0 then
    C.memmove(self.input, self.input + self.in_start, self.in_stop - self.in_start)
    self.in_stop, self.in_start = self.in_stop - self.in_start, 0
  end
  local any = false
  while self.in_stop < IN_BYTES do
    local count = tonumber(C.read(self.fd, self.input + self.in_stop, IN_BYTES - self.in_stop))
    if count > 0 then
      self.in_stop = self.in_stop + count
      any = true
    elseif count == 0 then
      self.readable = false
      if any then
        return true
      end
      return nil
    elseif ffi.errno() ~= posix.EINTR then
      self.readable = false
      return any
    end
  end
  return any
end

-- What is said to nobody in particular must not be said to whoever comes next.
function Wire:reset()
  self.out_start, self.out_stop = 0, 0
end

local function hunt(self)
  local text = ffi.string(self.input + self.in_start, self.in_stop - self.in_start)
  local found = text:find(HELLO, 1, true)
  if found then
    self.in_start = self.in_start + found - 1
    self.hunting = false
  else
    self.in_start = math.max(self.in_start, self.in_stop - (HEADER - 1))
  end
  return found
end

-- The next frame: kind (a letter), channel, session, body's address and length, valid until the next `fill`. Nil: not yet.
function Wire:next()
  if self.hunting and not hunt(self) then
    return nil
  end
  while self.in_start < self.in_stop and self.input[self.in_start] == 0 do -- padding
    self.in_start = self.in_start + 1
  end
  local held = self.in_stop - self.in_start
  if held < HEADER then
    return nil
  end
  local header = ffi.cast("agent_header *", self.input + self.in_start)
  local length = header.length
  if length > BODY_MAX then
    self.hunting = true
    return self:next()
  end
  if held < HEADER + length + 1 then
    return nil
  end
  local body = self.input + self.in_start + HEADER
  if body[length] ~= TRAILER then
    self.in_start = self.in_start + 1
    self.hunting = true
    return self:next()
  end
  self.in_start = self.in_start + HEADER + length + 1
  return string.char(header.kind), header.channel, header.session, body, length
end

-- Whether a program's output may be read now.
function Wire:has_room()
  return self.out_stop < OUT_BYTES - CHUNK - HEADER - 1
end

local function put_header(self, kind, channel, session, length)
  local header = ffi.cast("agent_header *", self.output + self.out_stop)
  header.kind, header.channel, header.session, header.length = kind:byte(), channel, session, length
  self.output[self.out_stop + HEADER + length] = TRAILER
  self.out_stop = self.out_stop + HEADER + length + 1
end

-- Say it. Only short things, and few: what is said without having been asked for is bounded by `has_room`.
function Wire:send(kind, channel, session, body)
  if self.out_stop + HEADER + #body + 1 > OUT_ROOM then
    error("more answers than the line takes")
  end
  ffi.copy(self.output + self.out_stop + HEADER, body, #body)
  put_header(self, kind, channel, session, #body)
end

-- Read at most `limit` bytes from `fd` right into a data frame. Returns their number, 0 at the end, nil for not now.
function Wire:send_from(fd, channel, session, limit)
  local count = tonumber(C.read(fd, self.output + self.out_stop + HEADER, math.min(limit, CHUNK)))
  if count > 0 then
    put_header(self, "D", channel, session, count)
    return count
  end
  if count < 0 and (ffi.errno() == posix.EAGAIN or ffi.errno() == posix.EINTR) then
    return nil
  end
  return 0 -- EIO is how a terminal ends
end

-- To whoever is in the middle of an older stream: as much padding as any frame still lacks, then this agent's start.
function Wire:announce()
  ffi.fill(self.output, BODY_MAX + HEADER + 1)
  self.out_stop = BODY_MAX + HEADER + 1
  self:put_opening(START, ("\0"):rep(HELLO_BYTES))
end

function Wire:put_opening(header, body)
  local text = header .. body .. string.char(TRAILER)
  ffi.copy(self.output + self.out_stop, text, #text)
  self.out_stop = self.out_stop + #text
end

function Wire:welcome(nonce, version)
  self:reset()
  self:put_opening(WELCOME, nonce .. string.char(version % 256, math.floor(version / 256)) .. ("\0"):rep(6))
end

-- Write what the line takes; whether anything went.
function Wire:flush()
  local any = false
  while self.writable and self.out_start < self.out_stop do
    local count = tonumber(C.write(self.fd, self.output + self.out_start, self.out_stop - self.out_start))
    if count > 0 then
      self.out_start = self.out_start + count
      any = true
    elseif ffi.errno() ~= posix.EINTR then
      self.writable = false
    end
  end
  if self.out_start == self.out_stop then
    self.out_start, self.out_stop = 0, 0
  elseif self.out_start > OUT_BYTES / 2 then
    C.memmove(self.output, self.output + self.out_start, self.out_stop - self.out_start)
    self.out_stop, self.out_start = self.out_stop - self.out_start, 0
  end
  return any
end

return Wire
