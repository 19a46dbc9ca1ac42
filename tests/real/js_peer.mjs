// A peer of hypernode in JavaScript, on js-libp2p, written from docs/WIRE.md. One JSON line out for each thing done.
//   js_peer.mjs dial ADDRESS KEY COUNT    ping the node, then fetch blocks 0 … COUNT-1 of the log from it
//   js_peer.mjs listen KEY                serve the same blocks until stdin ends
// Block n: 65 536 bytes, all n & 255, but the first four, which are n.
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { identify } from '@libp2p/identify'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { multiaddr } from '@multiformats/multiaddr'
import { blake3 } from '@noble/hashes/blake3.js'
import { createLibp2p } from 'libp2p'
import crypto from 'crypto'

const PROTOCOL = '/hypernode/1'
const [HELLO, CHALLENGE, PROOF, BYE, EXCHANGE, REQUEST, BLOCK, ABSENT] = [1, 2, 3, 4, 18, 32, 34, 35]
const SIZE = 65536
const WINDOW = 32

const say = value => console.log(JSON.stringify(value))
const fail = why => { throw new Error(why) }

function block (n) {
  const payload = Buffer.alloc(SIZE, n & 255)
  payload.writeUInt32BE(n, 0)
  return payload
}

// ---- canonical CBOR of what a handshake needs

function head (major, n) {
  if (n < 24) return Buffer.from([major << 5 | n])
  if (n < 256) return Buffer.from([major << 5 | 24, n])
  return Buffer.from([major << 5 | 25, n >> 8, n & 255])
}

function cbor (value) {
  if (Array.isArray(value)) return Buffer.concat([head(4, value.length), ...value.map(cbor)])
  if (typeof value === 'number') return head(0, value)
  if (typeof value === 'string') return Buffer.concat([head(3, Buffer.byteLength(value)), Buffer.from(value)])
  return Buffer.concat([head(2, value.length), value])
}

const bytes32 = (body, at) => {
  if (body[at] !== 0x58 || body[at + 1] !== 32) fail('not 32 bytes')
  return body.subarray(at + 2, at + 34)
}

// ---- frames

function send (stream, type, body) {
  const front = Buffer.alloc(5)
  front.writeUInt32BE(body.length, 0)
  front[4] = type
  if (!stream.send(Buffer.concat([front, body]))) {
    return new Promise(resolve => stream.addEventListener('drain', resolve, { once: true }))
  }
}

async function * frames (stream) {
  let pieces = []
  let have = 0
  for await (const chunk of stream) {
    pieces.push(Buffer.from(chunk.subarray()))
    have += pieces.at(-1).length
    if (have < 5) continue
    let data = Buffer.concat(pieces)
    while (data.length >= 5 && data.length >= 5 + data.readUInt32BE(0)) {
      const end = 5 + data.readUInt32BE(0)
      yield [data[4], data.subarray(5, end)]
      data = data.subarray(end)
    }
    pieces = [data]
    have = data.length
  }
}

async function next (incoming, type) {
  const { value, done } = await incoming.next()
  if (done || value[0] !== type) fail(`expected ${type}, got ${done ? 'the end' : value[0]}`)
  return value[1]
}

// ---- the handshake

const keyed = (key, data) => Buffer.from(blake3(data, { key }))
const discovery = key => keyed(key, Buffer.from('hypernode discovery key v1'))
const tag = (key, role, initiator, responder, ni, nr) => keyed(key, cbor(
  ['hypernode capability v1', role, initiator, responder, discovery(key), ni, nr]))

async function initiate (stream, incoming, key, us, them) {
  const nr = bytes32(await next(incoming, CHALLENGE), 1)
  const ni = crypto.randomBytes(32)
  await send(stream, HELLO, cbor([1, discovery(key), ni]))
  await send(stream, PROOF, cbor([tag(key, 'initiator', us, them, ni, nr)]))
  const proof = bytes32(await next(incoming, PROOF), 1)
  if (!proof.equals(tag(key, 'responder', us, them, ni, nr))) fail('a wrong proof')
}

async function respond (stream, incoming, key, us, them) {
  const nr = crypto.randomBytes(32)
  await send(stream, CHALLENGE, cbor([nr]))
  const hello = await next(incoming, HELLO)
  const ni = bytes32(hello, 2 + 34)
  if (!bytes32(hello, 2).equals(discovery(key))) fail('an unknown log')
  const proof = bytes32(await next(incoming, PROOF), 1)
  if (!proof.equals(tag(key, 'initiator', them, us, ni, nr))) fail('a wrong proof')
  await send(stream, PROOF, cbor([tag(key, 'responder', them, us, ni, nr)]))
}

// ---- the two roles

async function dial (node, address, key, count) {
  const connection = await node.dial(multiaddr(address))
  const them = connection.remotePeer.toString()
  say({ encryption: connection.encryption, multiplexer: connection.multiplexer })
  say({ ping: await node.services.ping.ping(connection.remotePeer) })
  const stream = await connection.newStream(PROTOCOL)
  const incoming = frames(stream)
  await initiate(stream, incoming, key, node.peerId.toString(), them)
  let asked = 0
  const ask = () => {
    const body = Buffer.alloc(41) // byte 0 is the lane: somebody is blocked
    body.writeUInt32BE(asked, 1)
    Buffer.from(blake3(block(asked))).copy(body, 5)
    body.writeUInt32BE(SIZE, 37)
    asked += 1
    return send(stream, REQUEST, body)
  }
  let good = 0
  while (asked < Math.min(WINDOW, count)) await ask()
  while (good < count) {
    const { value: [type, body] } = await incoming.next()
    if (type === ABSENT) fail('a block was refused')
    if (type !== BLOCK) continue // entries, peers, and whatever comes in later versions
    if (!body.subarray(4).equals(block(body.readUInt32BE(0)))) fail('a wrong block')
    good += 1
    if (asked < count) await ask()
  }
  await send(stream, BYE, cbor([0]))
  await stream.close()
  say({ blocks: good })
}

async function listen (node, key) {
  const held = new Map(Array.from({ length: 256 }, (_, n) => [Buffer.from(blake3(block(n))).toString('hex'), n]))
  await node.handle(PROTOCOL, async (stream, connection) => {
    const incoming = frames(stream)
    await respond(stream, incoming, key, node.peerId.toString(), connection.remotePeer.toString())
    await send(stream, EXCHANGE, Buffer.from('018401f5f5f5', 'hex')) // hello: we give, take and go on
    await send(stream, EXCHANGE, Buffer.from('0283f58080', 'hex')) // state: no entries, no forks
    for await (const [type, body] of incoming) {
      if (type !== REQUEST) continue
      for (let at = 1; at < body.length; at += 40) {
        const n = held.get(body.subarray(at + 4, at + 36).toString('hex'))
        await send(stream, BLOCK, Buffer.concat([body.subarray(at, at + 4), block(n)]))
      }
    }
    await stream.close()
  })
  say({ address: node.getMultiaddrs()[0].toString() })
  for await (const _ of process.stdin) { /* until it ends */ }
}

const [, , role, ...rest] = process.argv
const node = await createLibp2p({
  addresses: { listen: role === 'listen' ? ['/ip4/127.0.0.1/tcp/0'] : [] },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: { ping: ping(), identify: identify() }
})
await node.start()
if (role === 'dial') await dial(node, rest[0], Buffer.from(rest[1], 'hex'), Number(rest[2]))
else await listen(node, Buffer.from(rest[0], 'hex'))
await node.stop()
process.exit(0)
