-- Who a program runs as: USER[:GROUP] against passwd and group tables, by the rules of vmhost/users.py. Pure.

local users = {}
local ID_MAX = 4294967294
local ROOT = { [""] = true, ["0"] = true, root = true, ["0:0"] = true, ["root:root"] = true }

local function rows(text, columns)
  local found = {}
  for line in text:gmatch("[^\r\n]+") do
    local row = {}
    for column in (line .. ":"):gmatch("([^:]*):") do
      row[#row + 1] = column
    end
    if #row >= columns and line:sub(1, 1) ~= "#" then
      found[#found + 1] = row
    end
  end
  return found
end

local function number(text, otherwise)
  local value = #text <= 10 and text:match("^%d+$") and tonumber(text)
  if not value or value > ID_MAX then
    error({ kind = "refused", error = otherwise }, 0)
  end
  return value
end

local function first(table, accepts)
  for _, row in ipairs(table) do
    if accepts(row) then
      return row
    end
  end
end

local function member(row, name)
  return ("," .. row[4] .. ","):find("," .. name .. ",", 1, true) ~= nil
end

-- {uid, gid, groups (without gid, ascending), name, home}; name and home are nil without a passwd entry.
function users.resolve(text, passwd, group)
  if ROOT[text] then
    return { uid = 0, gid = 0, groups = {}, name = "root", home = "/root" }
  end
  local user, group_name = text:match("^([^:]*):?(.*)$")
  local entry = first(rows(passwd, 6), function(row) return row[1] == user or row[3] == user end)
  local found = { uid = number(entry and entry[3] or user, ("the image has no user '%s'"):format(user)), groups = {} }
  if entry then
    found.name, found.home = entry[1], entry[6]
  end
  if group_name ~= "" then
    local named = first(rows(group, 3), function(row) return row[1] == group_name or row[3] == group_name end)
    found.gid = number(named and named[3] or group_name, ("the image has no group '%s'"):format(group_name))
    return found
  end
  found.gid = entry and number(entry[4], ("the image's passwd entry of '%s' is broken"):format(user)) or 0
  local seen = { [found.gid] = true }
  for _, row in ipairs(found.name and rows(group, 4) or {}) do
    if member(row, found.name) then
      local id = number(row[3], ("the image's group entry of '%s' is broken"):format(row[1]))
      if not seen[id] then
        seen[id] = true
        table.insert(found.groups, id)
      end
    end
  end
  table.sort(found.groups)
  return found
end

return users
