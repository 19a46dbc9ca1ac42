-- What happens between fork and exec: into the container's namespaces, as the user, in the directory, to the program.
-- All of it may block (an image may have a FIFO as /etc/passwd), so nothing of it is done in the agent itself.

local ffi = require("ffi")
local bit = require("bit")
local posix = require("posix")
local cbor = require("cbor")
local operations = require("operations")
local users = require("users")
local C = posix.C

local child = {}
local ERRORS, PIDFD, ROOT, TOOL = 3, 4, 5, 6 -- descriptors of a child, after its streams
local SCRATCH = 200 -- descriptors on their way there
local TABLE_BYTES = 1048576 -- of an image's passwd and group
local PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

local function fail(kind, text)
  error({ kind = kind, error = text }, 0)
end

local function check(done, kind, what)
  if not done or (type(done) == "number" and done < 0) then
    fail(kind, ("%s: %s"):format(what, posix.strerror(ffi.errno())))
  end
end

local function arrange(fds)
  for place, fd in pairs(fds) do
    check(C.dup2(fd, SCRATCH + place), "unavailable", "cannot arrange descriptors")
  end
  for place = 0, TOOL do
    if fds[place] then
      C.dup2(SCRATCH + place, place)
    else
      C.close(place)
    end
  end
  C.fcntl(ERRORS, 2, 1) -- F_SETFD: of the rest only the streams outlive an exec
  C.fcntl(PIDFD, 2, 1)
  C.fcntl(ROOT, 2, 1)
  C.fcntl(TOOL, 2, 1)
  posix.close_from(TOOL + 1)
end

-- No capability beyond those that the container's own processes can have.
local function drop_capabilities(bounding)
  local low, high = tonumber(bounding:sub(-8), 16), tonumber(bounding:sub(1, -9), 16)
  for capability = 0, 63 do
    local half = capability < 32 and low or high
    if bit.band(bit.rshift(half, capability % 32), 1) == 0 then
      C.prctl(posix.PR_CAPBSET_DROP, capability, 0, 0, 0) -- beyond the last one of this kernel: EINVAL
    end
  end
end

local function enter(container)
  local group = "/sys/fs/cgroup" .. (container:entrance() or container.cgroup)
  check(posix.write_file(group .. "/cgroup.procs", "0"), "unavailable", "cannot join the container's control group")
  drop_capabilities(container.capabilities)
  local kinds = bit.bor(posix.CLONE_NEWNS, posix.CLONE_NEWUTS, posix.CLONE_NEWIPC, posix.CLONE_NEWNET, posix.CLONE_NEWCGROUP)
  if container.own_users then
    kinds = bit.bor(kinds, posix.CLONE_NEWUSER)
  end
  check(C.setns(PIDFD, kinds), "unavailable", "cannot enter the container")
  check(C.fchdir(ROOT), "unavailable", "cannot enter the container's root")
  check(C.chroot("."), "unavailable", "cannot enter the container's root")
end

local function become(user)
  local groups = ffi.new("unsigned[?]", #user.groups + 1)
  for place, id in ipairs(user.groups) do
    groups[place - 1] = id
  end
  check(C.setgroups(#user.groups, groups), "unavailable", "cannot set groups")
  check(C.setresgid(user.gid, user.gid, user.gid), "unavailable", "cannot become the group")
  check(C.setresuid(user.uid, user.uid, user.uid), "unavailable", "cannot become the user")
end

local function environment(request, user)
  local merged = { PATH = PATH, HOME = user.home or "/", USER = user.name, LOGNAME = user.name }
  merged.TERM = request.rows and "xterm" or nil
  for _, text in ipairs(request.env or {}) do
    local name, value = text:match("^([^=]+)=(.*)$")
    if name then
      merged[name] = value
    end
  end
  local list = {}
  for name, value in pairs(merged) do
    list[#list + 1] = name .. "=" .. value
  end
  return list, merged.PATH
end

local function candidates(program, path)
  if program:find("/", 1, true) then
    return { program }
  end
  local found = {}
  for directory in path:gmatch("[^:]+") do
    found[#found + 1] = directory .. "/" .. program
  end
  return found
end

local function execute(request, user)
  local env, path = environment(request, user)
  local argv_array, env_array = posix.strings(request.argv), posix.strings(env)
  local reason = posix.ENOENT
  for _, file in ipairs(candidates(request.argv[1], path)) do
    C.execve(file, argv_array, env_array)
    local errno = ffi.errno()
    if errno ~= posix.ENOENT and errno ~= posix.ENOTDIR then
      reason = errno
    end
  end
  if reason == posix.ENOENT then
    fail("program_not_found", ("no program '%s'"):format(request.argv[1]))
  end
  fail("program_not_executable", ("cannot run '%s': %s"):format(request.argv[1], posix.strerror(reason)))
end

local function run_program(request)
  local name = request.user or "root"
  local passwd, group = posix.read_file("/etc/passwd", TABLE_BYTES), posix.read_file("/etc/group", TABLE_BYTES)
  local user = users.resolve(name, passwd or "", group or "")
  if request.rows then
    C.fchown(0, user.uid, user.gid)
  end
  become(user)
  check(C.chdir(request.workdir or "/"), "refused", ("no working directory '%s'"):format(request.workdir or "/"))
  execute(request, user)
end

local function body(request, container)
  C.signal(posix.SIGPIPE, nil)
  check(C.setsid(), "unavailable", "no session")
  if request.rows then
    check(C.ioctl(0, 0x540E, nil), "unavailable", "no terminal") -- TIOCSCTTY
  end
  posix.write_file("/proc/self/oom_score_adj", "0")
  if request.namespace then
    enter(container)
  end
  if request.op == "exec" then
    run_program(request)
  end
  local operation = operations[request.op]
  if not operation then
    fail("refused", ("the guest knows no operation '%s'"):format(tostring(request.op)))
  end
  operation(request, { tool = TOOL, container = container })
end

-- In the child. `fds`: 0 to 2 its streams, 3 for errors, 4 and 5 pidfd and root of `container` if there is one,
-- 6 an open busybox. What it says about errors is {kind, error}; it says nothing when the program runs.
function child.run(request, fds, container)
  local arranged, trouble = pcall(arrange, fds)
  local done = arranged
  if arranged then
    done, trouble = pcall(body, request, container)
  end
  if not done then
    if type(trouble) ~= "table" then
      trouble = { kind = "unavailable", error = "the agent failed: " .. tostring(trouble) }
    end
    posix.write_all(ERRORS, cbor.encode(trouble))
  end
  C._exit(done and 0 or 125)
end

return child
