// The two ends of bench/swarm.py, done by hypercore 11 over noise on TCP.
//   serve DIR BLOCKS BYTES      fetch PORT KEY DIR
import Hypercore from 'hypercore'
import NoiseSecretStream from '@hyperswarm/secret-stream'
import crypto from 'crypto'
import net from 'net'

const [, , role, ...rest] = process.argv
const say = value => console.log(JSON.stringify(value))
const cpu = () => { const used = process.cpuUsage(); return (used.user + used.system) / 1e6 }

if (role === 'serve') {
  const [folder, blocks, bytes] = [rest[0], Number(rest[1]), Number(rest[2])]
  const core = new Hypercore(folder)
  await core.ready()
  const base = crypto.randomBytes(bytes)
  while (core.length < blocks) {
    await core.append(Array.from({ length: Math.min(256, blocks - core.length) }, (_, n) => {
      const block = Buffer.from(base)
      block.writeUInt32BE(core.length + n, 0)
      return block
    }))
  }
  const server = net.createServer(socket => {
    socket.setNoDelay(true)
    const stream = new NoiseSecretStream(false, socket)
    stream.on('error', () => {})
    core.replicate(stream).on('error', () => {})
  })
  server.listen(0, '127.0.0.1', () => say({ port: server.address().port, key: core.key.toString('hex') }))
  process.stdin.on('end', () => process.exit(0)).resume()
} else {
  const core = new Hypercore(rest[2], Buffer.from(rest[1], 'hex'))
  await core.ready()
  const socket = net.connect(Number(rest[0]), '127.0.0.1')
  socket.setNoDelay(true)
  core.replicate(new NoiseSecretStream(true, socket))
  await core.get(0) // connected, and the length is known
  const used = cpu()
  const start = performance.now()
  await core.download({ start: 0, end: core.length }).done()
  say({ seconds: (performance.now() - start) / 1000, blocks: core.contiguousLength, cpu: cpu() - used })
  process.exit(0)
}
