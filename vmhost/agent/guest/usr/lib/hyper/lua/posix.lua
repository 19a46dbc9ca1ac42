-- The kernel and libc, as far as the agent needs them. Constants are those that amd64 and arm64 share, unless said.

local ffi = require("ffi")

ffi.cdef([[
typedef int pid_t;
typedef long ssize_t;
int open(const char *, int, int) __asm__("open");
int close(int);
ssize_t read(int, void *, size_t);
ssize_t write(int, const void *, size_t);
int pipe2(int[2], int);
int dup2(int, int);
int fcntl(int, int, long);
int ioctl(int, unsigned long, void *);
char *strerror(int);

pid_t fork(void);
pid_t setsid(void);
pid_t waitpid(pid_t, int *, int);
void _exit(int);
int kill(pid_t, int);
int execve(const char *, const char *const *, const char *const *);
int fexecve(int, const char *const *, const char *const *);
int prctl(int, unsigned long, unsigned long, unsigned long, unsigned long);
long syscall(long, ...);
void *signal(int, void *);

int setns(int, int);
int sethostname(const char *, size_t);
int chdir(const char *);
int fchdir(int);
int chroot(const char *);
int fchown(int, unsigned, unsigned);
int setgroups(size_t, const unsigned *);
int setresgid(unsigned, unsigned, unsigned);
int setresuid(unsigned, unsigned, unsigned);
ssize_t readlink(const char *, char *, size_t);
int mkdir(const char *, unsigned);
int mount(const char *, const char *, const char *, unsigned long, const char *);
int umount2(const char *, int);
int sethostname(const char *, size_t);
int reboot(int);
void sync(void);

typedef struct { long sec; long nsec; } agent_time;
int clock_gettime(int, agent_time *);
int clock_settime(int, const agent_time *);
int nanosleep(const agent_time *, agent_time *);

typedef struct { uint16_t rows, columns, x, y; } agent_window;

typedef struct { uint16_t family; char path[108]; } agent_unix_address;
typedef struct { uint16_t family; uint16_t port; uint8_t address[4]; uint8_t zero[8]; } agent_internet_address;
int socket(int, int, int);
int bind(int, const void *, unsigned);
int getsockname(int, void *, unsigned *);
int connect(int, const void *, unsigned);
int getsockopt(int, int, int, void *, unsigned *);
int shutdown(int, int);
ssize_t recv(int, void *, size_t, int);

typedef struct agent_directory agent_directory;
typedef struct { uint64_t number; int64_t offset; uint16_t length; uint8_t kind; char name[256]; } agent_name;
agent_directory *opendir(const char *);
agent_name *readdir(agent_directory *);
int closedir(agent_directory *);

int epoll_create1(int);
int memcmp(const void *, const void *, size_t);
void *memmove(void *, const void *, size_t);
]] .. (ffi.arch == "x64" and [[
typedef struct { uint32_t events; int fd; uint32_t unused; } __attribute__((packed)) agent_event;
]] or [[
typedef struct { uint32_t events; uint32_t gap; int fd; uint32_t unused; } agent_event;
]]) .. [[
int epoll_ctl(int, int, int, agent_event *);
int epoll_wait(int, agent_event *, int, int);
]])

local C = ffi.C
local posix = {
  C = C,
  EPERM = 1, ENOENT = 2, EINTR = 4, EIO = 5, EAGAIN = 11, EACCES = 13, ENOTDIR = 20, EPIPE = 32, EINPROGRESS = 115,
  O_RDONLY = 0, O_WRONLY = 1, O_RDWR = 2, O_NOCTTY = 0x100, O_CREAT = 0x40, O_TRUNC = 0x200, O_NONBLOCK = 0x800, O_CLOEXEC = 0x80000, O_PATH = 0x200000,
  O_DIRECTORY = ffi.arch == "x64" and 0x10000 or 0x4000,
  SIGHUP = 1, SIGKILL = 9, SIGPIPE = 13, SIGTERM = 15, WNOHANG = 1,
  EPOLLIN = 1, EPOLLOUT = 4, EPOLLERR = 8, EPOLLHUP = 16, EPOLLRDHUP = 0x2000, EPOLLET = 0x80000000,
  CLONE_NEWNS = 0x20000, CLONE_NEWCGROUP = 0x2000000, CLONE_NEWUTS = 0x4000000, CLONE_NEWIPC = 0x8000000,
  CLONE_NEWUSER = 0x10000000, CLONE_NEWPID = 0x20000000, CLONE_NEWNET = 0x40000000,
  PR_CAPBSET_DROP = 24,
}

local F_SETFL, F_DUPFD_CLOEXEC, F_SETPIPE_SZ = 4, 1030, 1031
local CHUNK = 32768

function posix.strerror(errno)
  return ffi.string(C.strerror(errno))
end

function posix.open(path, flags)
  local fd = C.open(path, bit.bor(flags, posix.O_CLOEXEC), 0)
  return fd >= 0 and fd or nil, ffi.errno()
end

-- Reading and writing end.
function posix.pipe()
  local ends = ffi.new("int[2]")
  assert(C.pipe2(ends, posix.O_CLOEXEC) == 0, "no more file descriptors")
  return ends[0], ends[1]
end

-- A NULL-terminated array of the strings, which lives as long as the list does.
function posix.strings(list)
  local array = ffi.new("const char *[?]", #list + 1)
  for place, text in ipairs(list) do
    array[place - 1] = text
  end
  return array
end

-- As big as a window of the protocol, so that a program writes it without waiting; not vital.
function posix.widen_pipe(fd, bytes)
  C.fcntl(fd, F_SETPIPE_SZ, bytes)
end

function posix.set_nonblocking(fd)
  C.fcntl(fd, F_SETFL, posix.O_NONBLOCK + posix.O_RDWR)
end

function posix.duplicate(fd)
  local made = C.fcntl(fd, F_DUPFD_CLOEXEC, 3)
  assert(made >= 0, "no more file descriptors")
  return made
end

function posix.close_from(first)
  C.syscall(436, ffi.cast("unsigned", first), ffi.cast("unsigned", 0xffffffff), ffi.cast("unsigned", 0)) -- close_range
end

function posix.open_pidfd(pid)
  local fd = tonumber(C.syscall(434, ffi.cast("int", pid), ffi.cast("unsigned", 0)))
  return fd >= 0 and fd or nil
end

function posix.signal_pidfd(pidfd, number)
  return C.syscall(424, ffi.cast("int", pidfd), ffi.cast("int", number), ffi.cast("void *", nil), ffi.cast("unsigned", 0)) == 0
end

-- Open `path` below the directory `root`, which no symbolic link can leave.
function posix.open_in_root(root, path, flags)
  local how = ffi.new("uint64_t[3]", bit.bor(flags, posix.O_CLOEXEC), 0, 0x10 + 0x02) -- IN_ROOT, NO_MAGICLINKS
  local fd = tonumber(C.syscall(437, ffi.cast("int", root), path, how, ffi.cast("size_t", 24)))
  return fd >= 0 and fd or nil, ffi.errno()
end

local clock = ffi.new("agent_time")
-- Seconds since some point; it does not jump.
function posix.now()
  C.clock_gettime(1, clock)
  return tonumber(clock.sec) + tonumber(clock.nsec) / 1e9
end

function posix.sleep(seconds)
  local whole = math.floor(seconds)
  C.nanosleep(ffi.new("agent_time", whole, (seconds - whole) * 1e9), nil)
end

-- All of a file's first `limit` bytes; nil where it cannot be read.
function posix.read_file(path, limit)
  local fd = posix.open(path, posix.O_RDONLY)
  if not fd then
    return nil
  end
  local parts, got, buffer = {}, 0, ffi.new("uint8_t[?]", CHUNK)
  while got < limit do
    local count = tonumber(C.read(fd, buffer, math.min(CHUNK, limit - got)))
    if count < 0 then
      parts = nil
    end
    if count <= 0 then
      break
    end
    parts[#parts + 1] = ffi.string(buffer, count)
    got = got + count
  end
  C.close(fd)
  return parts and table.concat(parts)
end

-- All of it, waiting as long as it takes. False if nobody reads it.
function posix.write_all(fd, text)
  while #text > 0 do
    local count = tonumber(C.write(fd, text, #text))
    if count < 0 then
      return false
    end
    text = text:sub(count + 1)
  end
  return true
end

-- What was in it before is gone.
function posix.write_file(path, text)
  local fd = C.open(path, posix.O_WRONLY + posix.O_CREAT + posix.O_TRUNC + posix.O_CLOEXEC, 420)
  local errno = ffi.errno()
  fd = fd >= 0 and fd or nil
  local written = fd and posix.write_all(fd, text)
  errno = fd and ffi.errno() or errno
  if fd then
    C.close(fd)
  end
  return written or false, errno
end

-- How many processes this kernel has killed for want of memory.
function posix.oom_kills()
  return tonumber((posix.read_file("/proc/vmstat", 65536) or ""):match("\noom_kill (%d+)")) or 0
end

function posix.readlink(path)
  local buffer = ffi.new("char[256]")
  local count = tonumber(C.readlink(path, buffer, 256))
  return count > 0 and ffi.string(buffer, count) or nil
end

-- The names in a directory, but for . and ..; at most `limit`.
function posix.names(path, limit)
  local found, directory = {}, C.opendir(path)
  if directory == nil then
    return found
  end
  while #found < limit do
    local entry = C.readdir(directory)
    if entry == nil then
      break
    end
    local name = ffi.string(entry.name)
    if name ~= "." and name ~= ".." then
      found[#found + 1] = name
    end
  end
  C.closedir(directory)
  return found
end

-- A new terminal: its controlling end, and the end for the program. `root`: a directory as in open_in_root, whose
-- /dev/pts it shall come from, so that the program finds its own terminal there.
function posix.open_terminal(root, rows, columns)
  local flags = posix.O_RDWR + posix.O_NOCTTY + posix.O_NONBLOCK
  local ours, errno = posix.open_in_root(root, "dev/pts/ptmx", flags)
  if not ours then
    return nil, nil, errno
  end
  local unlocked = ffi.new("int[1]", 0)
  local theirs = -1
  if C.ioctl(ours, 0x40045431, unlocked) == 0 then -- TIOCSPTLCK, which only the right kind of device knows
    theirs = C.ioctl(ours, 0x5441, ffi.cast("void *", posix.O_RDWR + posix.O_NOCTTY + posix.O_CLOEXEC)) -- TIOCGPTPEER
  end
  if theirs < 0 then
    errno = ffi.errno()
    C.close(ours)
    return nil, nil, errno
  end
  posix.resize(ours, rows, columns)
  return ours, theirs
end

function posix.resize(terminal, rows, columns)
  C.ioctl(terminal, 0x5414, ffi.new("agent_window", rows, columns, 0, 0)) -- TIOCSWINSZ
end

return posix
