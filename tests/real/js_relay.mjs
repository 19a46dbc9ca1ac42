// A node of circuit relay v2 in JavaScript, on js-libp2p. It says its address or what it found, in one JSON line.
//   js_relay.mjs dial ADDRESS       ping whoever is at ADDRESS, through the relay that it names
//   js_relay.mjs reserve RELAY      take a place at RELAY, answer pings until stdin ends
//   js_relay.mjs relay              be a relay until stdin ends
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { circuitRelayServer, circuitRelayTransport } from '@libp2p/circuit-relay-v2'
import { identify } from '@libp2p/identify'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'

const say = value => console.log(JSON.stringify(value))
const services = { identify: identify(), ping: ping({ runOnLimitedConnection: true }) }
const setup = listen => ({
  addresses: { listen },
  transports: [tcp(), circuitRelayTransport()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  connectionGater: { denyDialMultiaddr: () => false },
  services
})

const untilStdinEnds = async node => {
  for await (const _ of process.stdin) { /* nothing is said */ }
  await node.stop()
  process.exit(0)
}

const modes = {
  dial: async where => {
    const node = await createLibp2p(setup([]))
    await node.services.ping.ping(multiaddr(where))
    say({ through: node.getConnections().map(one => one.remoteAddr.toString()).filter(one => one === where) })
    await node.stop()
  },
  reserve: async relay => {
    const node = await createLibp2p(setup([`${relay}/p2p-circuit`]))
    while (!node.getMultiaddrs().length) await new Promise(resolve => setTimeout(resolve, 50))
    say({ address: node.getMultiaddrs().map(String).find(one => one.includes('/p2p-circuit')) })
    await untilStdinEnds(node)
  },
  relay: async () => {
    services.relay = circuitRelayServer()
    const node = await createLibp2p(setup(['/ip4/127.0.0.1/tcp/0']))
    say({ address: node.getMultiaddrs()[0].toString() })
    await untilStdinEnds(node)
  }
}

const [mode, where] = process.argv.slice(2)
await modes[mode](where)
