-- What the agent does besides running programs, each in a child of its own: it may block, and fails alone.
-- An answer is cbord and written to stdout; errors are raised as {kind, error}.

local ffi = require("ffi")
local posix = require("posix")
local cbor = require("cbor")
local C = posix.C

local operations = {}
local FILE_BYTES = 65536 -- of a file that is read
local PROCESSES = 1024 -- that are told
local COMMAND_BYTES = 256 -- of each one's command
local WAIT_STEP = 0.02 -- seconds between two looks for a device
local CGROUPS = "/sys/fs/cgroup"

local function fail(kind, text)
  error({ kind = kind, error = text }, 0)
end

local function answer(value)
  posix.write_all(1, cbor.encode(value))
end

local function make_directories(path)
  for stop in path:gmatch("()/") do
    if stop > 1 then
      C.mkdir(path:sub(1, stop - 1), 493)
    end
  end
  C.mkdir(path, 493)
end

local function mount_one(wanted)
  make_directories(wanted.target)
  if wanted.kind == "directory" then
    return
  end
  local deadline = posix.now() + (wanted.wait or 0) / 1000
  while C.mount(wanted.source, wanted.target, wanted.kind, wanted.flags or 0, wanted.options or "") ~= 0 do
    local errno = ffi.errno()
    if (errno ~= posix.ENOENT and errno ~= 6) or posix.now() > deadline then -- ENXIO: a device that is still being set up
      fail("unavailable", ("cannot mount %s on %s: %s"):format(wanted.source, wanted.target, posix.strerror(errno)))
    end
    posix.sleep(WAIT_STEP)
  end
end

-- {mounts = [{source, target, kind, flags, options, wait (ms)}]}, in that order; kind "directory" only makes one.
function operations.mount(request)
  for _, wanted in ipairs(request.mounts) do
    mount_one(wanted)
  end
end

-- {targets = [path]}, in that order.
function operations.unmount(request)
  for _, target in ipairs(request.targets) do
    if C.umount2(target, 0) ~= 0 then
      fail("unavailable", ("cannot unmount %s: %s"):format(target, posix.strerror(ffi.errno())))
    end
  end
end

local function texts(paths)
  local found = {}
  for name, path in pairs(paths) do
    found[name] = posix.read_file(path, FILE_BYTES)
  end
  return found
end

-- The kernel's own tables: of the container if one is named, otherwise of the guest.
function operations.usage(_, context)
  local container = context.container
  if not container then
    return answer(texts({
      stat = "/proc/stat", meminfo = "/proc/meminfo", diskstats = "/proc/diskstats", net = "/proc/net/dev",
      load = "/proc/loadavg", uptime = "/proc/uptime",
    }))
  end
  local group = CGROUPS .. container.cgroup .. "/"
  local wanted = { net = ("/proc/%d/net/dev"):format(container.leader) }
  for _, name in ipairs({ "cpu.stat", "memory.current", "memory.max", "memory.peak", "memory.events", "io.stat", "pids.current" }) do
    wanted[name] = group .. name
  end
  answer(texts(wanted))
end

local function process(pid, namespace)
  local place = "/proc/" .. pid
  local stat = posix.read_file(place .. "/stat", 4096)
  local status = stat and posix.read_file(place .. "/status", 8192)
  if not status or (namespace and posix.readlink(place .. "/ns/pid") ~= namespace) then
    return nil
  end
  local command = posix.read_file(place .. "/cmdline", COMMAND_BYTES) or ""
  return { stat = stat, uid = status:match("\nUid:%s+(%d+)") or "", command = command }
end

-- [{stat, uid, command}] of all processes, as /proc has them; of a container without nspawn's own process 1.
function operations.processes(_, context)
  local leader = context.container and tostring(context.container.leader)
  local namespace = leader and posix.readlink(("/proc/%s/ns/pid"):format(leader))
  local found = cbor.list({})
  for _, name in ipairs(posix.names("/proc", 65536)) do
    local row = name:match("^%d+$") and name ~= leader and #found < PROCESSES and process(name, namespace)
    if row then
      found[#found + 1] = row
    end
  end
  answer(found)
end

local FREEZE_SECONDS = 10 -- for processes that wait for a disk

-- {on}: all processes of the container stand still, or go on.
function operations.freeze(request, context)
  local group = CGROUPS .. context.container.cgroup
  local written, errno = posix.write_file(group .. "/cgroup.freeze", request.on == 1 and "1" or "0")
  if not written then
    fail("unavailable", "the container cannot be held: " .. posix.strerror(errno))
  end
  local deadline = posix.now() + FREEZE_SECONDS
  while request.on == 1 and not (posix.read_file(group .. "/cgroup.events", 4096) or ""):find("frozen 1", 1, true) do
    if posix.now() > deadline then
      posix.write_file(group .. "/cgroup.freeze", "0")
      fail("unavailable", "the container does not stand still: a process of it waits for a disk")
    end
    posix.sleep(WAIT_STEP)
  end
end

-- {cpu?: thousandths of a processor, memory?: bytes}: the container may use at most that; 0 is all.
function operations.limit(request, context)
  local group = CGROUPS .. context.container.cgroup
  local function set(name, value)
    local written, errno = posix.write_file(group .. "/" .. name, value)
    if not written then
      fail("unavailable", ("%s cannot be set: %s"):format(name, posix.strerror(errno)))
    end
  end
  if request.memory then
    set("memory.max", request.memory == 0 and "max" or ("%d"):format(request.memory))
  end
  if request.cpu then
    set("cpu.max", request.cpu == 0 and "max" or ("%d 100000"):format(math.max(1000, request.cpu * 100)))
  end
end

-- {name}: the container's host name is this.
function operations.rename(request, context)
  local own = posix.open(("/proc/%d/ns/uts"):format(context.container.leader), posix.O_RDONLY)
  if not own or C.setns(own, posix.CLONE_NEWUTS) ~= 0 or C.sethostname(request.name, #request.name) ~= 0 then
    fail("unavailable", "the container cannot be renamed: " .. posix.strerror(ffi.errno()))
  end
end

local function stir(entropy)
  local random = posix.open("/dev/urandom", posix.O_RDWR)
  if not random then
    fail("unavailable", "no /dev/urandom")
  end
  local pool = ffi.new("struct { int bits; int bytes; uint8_t data[512]; }", #entropy * 8, #entropy)
  ffi.copy(pool.data, entropy, #entropy)
  if C.ioctl(random, 0x40085203, pool) ~= 0 or C.ioctl(random, 0x5207, nil) ~= 0 then -- RNDADDENTROPY, RNDRESEEDCRNG
    fail("unavailable", "the kernel takes no randomness: " .. posix.strerror(ffi.errno()))
  end
  C.close(random)
end

local function run(program)
  local argv, env = { program }, { "PATH=/usr/sbin:/usr/bin:/sbin:/bin" }
  C.execve(program, posix.strings(argv), posix.strings(env))
  return ffi.errno()
end

-- {entropy, words, seconds, nanoseconds}: no longer the machine that was saved, but the one that a kernel command line
-- with these words would have made. What is the guest's own way of it (name, keys, drives, network) does its script,
-- whose exit code and stderr become this operation's.
function operations.reseed(request)
  assert(#request.entropy <= 512)
  stir(request.entropy)
  C.clock_settime(0, ffi.new("agent_time", request.seconds, request.nanoseconds))
  make_directories("/run/hyper")
  local written, errno = posix.write_file("/run/hyper/words", request.words .. "\n")
  if not written then
    fail("unavailable", "cannot write down what the guest is: " .. posix.strerror(errno))
  end
  fail("unavailable", "the guest cannot be woken: " .. posix.strerror(run("/usr/lib/hyper/wake")))
end

local STOPS = { poweroff = 0x4321fedc, reboot = 0x01234567 }

-- {how = "poweroff" or "reboot", force}: through PID 1, or, if it must be, past it.
function operations.shutdown(request)
  local magic = STOPS[request.how]
  if not magic then
    fail("refused", "a guest stops by poweroff or reboot")
  end
  C.sync()
  if (request.force or 0) == 0 then
    run("/sbin/" .. request.how)
  end
  C.reboot(magic)
  fail("unavailable", "cannot stop: " .. posix.strerror(ffi.errno()))
end

local O_NOFOLLOW = ffi.arch == "x64" and 0x20000 or 0x8000

local function tar(context, argv)
  C.fexecve(context.tool, posix.strings(argv), posix.strings({}))
  fail("unavailable", "the guest has no tar: " .. posix.strerror(ffi.errno()))
end

-- {path}: a tar of it on stdout; what is on the way to it may be links, it itself is not followed.
function operations.archive(request, context)
  local parent, name = request.path:match("^(/.-)/*([^/]+)/*$")
  if not name then
    parent, name = "/", "."
  end
  if not posix.open(parent .. "/" .. name, posix.O_PATH + O_NOFOLLOW) then
    fail("not_found", ("no %s: %s"):format(request.path, posix.strerror(ffi.errno())))
  end
  tar(context, { "tar", "-c", "-f", "-", "-C", parent, "--", name })
end

-- {directory}: unpacks the tar on stdin there.
function operations.extract(request, context)
  if not posix.open(request.directory, posix.O_PATH + posix.O_DIRECTORY) then
    fail("not_found", ("no directory %s: %s"):format(request.directory, posix.strerror(ffi.errno())))
  end
  tar(context, { "tar", "-x", "-f", "-", "--numeric-owner", "-C", request.directory })
end

return operations
