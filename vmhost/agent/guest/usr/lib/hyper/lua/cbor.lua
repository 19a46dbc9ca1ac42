-- The canonical CBOR of hyperlog/encoding.py, as far as the agent needs it: integers, strings, lists, maps, booleans.
-- A table with [1], or one made by `list`, is a list; any other a map with text keys. Strings are sent as bytes.

local cbor = {}
local DEPTH_MAX = 8
local UINT, NINT, BYTES, TEXT, ARRAY, MAP, SIMPLE = 0, 1, 2, 3, 4, 5, 7
local LIST = {}

function cbor.list(items)
  return setmetatable(items, LIST)
end

local function big_endian(number, bytes)
  local out = {}
  for place = bytes, 1, -1 do
    out[place] = string.char(number % 256)
    number = math.floor(number / 256)
  end
  return table.concat(out)
end

local function head(major, number)
  if number < 24 then
    return string.char(major * 32 + number)
  end
  for code, bytes in ipairs({ 1, 2, 4, 8 }) do
    if number < 256 ^ bytes then
      return string.char(major * 32 + 23 + code) .. big_endian(number, bytes)
    end
  end
end

local function encode(value, out)
  local kind = type(value)
  if kind == "number" then
    out[#out + 1] = value >= 0 and head(UINT, value) or head(NINT, -1 - value)
  elseif kind == "string" then
    out[#out + 1] = head(BYTES, #value) .. value
  elseif value[1] ~= nil or getmetatable(value) == LIST then
    out[#out + 1] = head(ARRAY, #value)
    for _, item in ipairs(value) do
      encode(item, out)
    end
  else
    local keys = {}
    for key in pairs(value) do
      keys[#keys + 1] = head(TEXT, #key) .. key
    end
    table.sort(keys, function(one, other) return #one < #other or (#one == #other and one < other) end)
    out[#out + 1] = head(MAP, #keys)
    for _, key in ipairs(keys) do
      out[#out + 1] = key
      encode(value[key:sub(#key < 25 and 2 or 3)], out)
    end
  end
end

-- Keys have less than 256 bytes.
function cbor.encode(value)
  local out = {}
  encode(value, out)
  return table.concat(out)
end

local function decode_head(text, at)
  local first = text:byte(at)
  assert(first, "cut short")
  local major, code = math.floor(first / 32), first % 32
  if code < 24 then
    return major, code, at + 1
  end
  local bytes = 2 ^ (code - 24)
  assert(code <= 27 and at + bytes <= #text, "cut short, or of no known length")
  local number = 0
  for place = at + 1, at + bytes do
    number = number * 256 + text:byte(place)
  end
  return major, number, at + bytes + 1
end

local decode

local function decode_items(text, at, count, depth)
  local items = cbor.list({})
  assert(count <= #text, "cut short")
  for place = 1, count do
    items[place], at = decode(text, at, depth + 1)
  end
  return items, at
end

local function decode_map(text, at, count, depth)
  local found = {}
  assert(count <= #text, "cut short")
  for _ = 1, count do
    local key
    key, at = decode(text, at, depth + 1)
    assert(key ~= nil, "no key")
    found[key], at = decode(text, at, depth + 1)
  end
  return found, at
end

local SIMPLES = { [20] = false, [21] = true }

function decode(text, at, depth)
  assert(depth < DEPTH_MAX, "nested too deeply")
  local major, number, after = decode_head(text, at)
  if major == UINT then
    return number, after
  elseif major == NINT then
    return -1 - number, after
  elseif major == BYTES or major == TEXT then
    assert(after + number <= #text + 1, "cut short")
    return text:sub(after, after + number - 1), after + number
  elseif major == ARRAY then
    return decode_items(text, after, number, depth)
  elseif major == MAP then
    return decode_map(text, after, number, depth)
  end
  assert(major == SIMPLE, "of no known kind")
  return SIMPLES[number], after
end

-- The value of `text`; raises an error for anything else.
function cbor.decode(text)
  local value, stop = decode(text, 1, 0)
  assert(stop == #text + 1, "more follows")
  return value
end

return cbor
